//! Putting one checkpoint into the store: the parts that are not there yet, then its index; then removing what no index names.

use super::error::RemoteError;
use super::index::{Index, Part, part_name};
use super::local::read_range;
use crate::checkpoint::{CommittedFiles, extent_file_name};
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Extents are cut at multiples of this. A part that is not full yet is put again when it has grown; its former self goes.
const PART_BYTES: u64 = 1 << 20;

/// What is known of one prefix of a store.
#[derive(Debug)]
pub(super) struct Place {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: Path,
}

/// The part of a place that an uploader remembers.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Names of all parts in the store; `None` before it was asked.
    parts: Option<BTreeSet<String>>,
    /// Full parts by extent and offset: they do not change and need not be read again.
    full: BTreeMap<(u32, u64), String>,
    /// The checkpoints in the store, with the names of their parts.
    indexes: BTreeMap<u64, BTreeSet<String>>,
}

impl Place {
    /// Where a savepoint of the job that is copied here goes.
    pub(super) fn of_savepoint(&self, name: &str) -> Self {
        Self { store: self.store.clone(), prefix: self.prefix.clone().join("savepoints").join(name) }
    }

    pub(super) fn part(&self, name: &str) -> Path {
        self.prefix.clone().join("parts").join(name)
    }

    pub(super) fn index(&self, checkpoint: u64) -> Path {
        self.prefix.clone().join(format!("checkpoint-{checkpoint:020}"))
    }

    /// The checkpoints in the store, oldest first.
    pub(super) async fn checkpoints(&self) -> Result<Vec<u64>, RemoteError> {
        let listed = self.store.list_with_delimiter(Some(&self.prefix)).await;
        let listed = listed.map_err(|error| failed("list", &self.prefix, &error))?;
        let number = |path: &Path| path.filename()?.strip_prefix("checkpoint-")?.parse().ok();
        let mut numbers: Vec<u64> = listed.objects.iter().filter_map(|object| number(&object.location)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(super) async fn read_index(&self, checkpoint: u64) -> Result<Index, RemoteError> {
        let path = self.index(checkpoint);
        let bytes = self.get(&path).await?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string());
        text.and_then(|text| Index::parse(&text))
            .map_err(|what| RemoteError::Damaged { object: path.to_string(), what })
    }

    pub(super) async fn get(&self, path: &Path) -> Result<Vec<u8>, RemoteError> {
        let got = self.store.get(path).await.map_err(|error| failed("get", path, &error))?;
        Ok(got.bytes().await.map_err(|error| failed("get", path, &error))?.to_vec())
    }

    /// Puts a checkpoint. Returns how many bytes went over.
    pub(super) async fn put(
        &self,
        files: &CommittedFiles,
        retained: usize,
        known: &mut Known,
    ) -> Result<u64, RemoteError> {
        if known.parts.is_none() {
            self.learn(known).await?;
        }
        let (mut parts, mut put_bytes) = (Vec::new(), 0);
        for &(extent, len_bytes) in &files.extents {
            let mut offset = 0;
            while offset < len_bytes {
                let part_bytes = PART_BYTES.min(len_bytes - offset);
                let name = match known.full.get(&(extent, offset)) {
                    Some(name) => name.clone(),
                    None => {
                        let (name, bytes) = self.put_part(files, extent, offset, part_bytes as usize, known).await?;
                        put_bytes += bytes;
                        name
                    }
                };
                if part_bytes == PART_BYTES {
                    known.full.insert((extent, offset), name.clone());
                }
                parts.push(Part { extent, offset, len_bytes: part_bytes, name });
                offset += part_bytes;
            }
        }
        let index = Index { named: files.named.clone(), parts };
        let (index, index_bytes) = self.put_index(index).await?;
        let names = index.parts.into_iter().map(|part| part.name).collect();
        known.indexes.insert(index.named.checkpoint.0, names);
        self.forget(retained, known).await?;
        Ok(put_bytes + index_bytes)
    }

    /// What an earlier process has put here.
    async fn learn(&self, known: &mut Known) -> Result<(), RemoteError> {
        let prefix = self.prefix.clone().join("parts");
        let listed: Vec<_> =
            self.store.list(Some(&prefix)).try_collect().await.map_err(|error| failed("list", &prefix, &error))?;
        let names = listed.iter().filter_map(|object| object.location.filename().map(str::to_owned));
        known.parts = Some(names.collect());
        for checkpoint in self.checkpoints().await? {
            let parts = match self.read_index(checkpoint).await {
                Ok(index) => index.parts,
                // It keeps no part: nobody can fetch by it.
                Err(RemoteError::Damaged { .. }) => Vec::new(),
                // What it names is not known now, and must not go.
                Err(error) => return Err(error),
            };
            known.indexes.insert(checkpoint, parts.into_iter().map(|part| part.name).collect());
        }
        Ok(())
    }

    async fn put_part(
        &self,
        files: &CommittedFiles,
        extent: u32,
        offset: u64,
        len: usize,
        known: &mut Known,
    ) -> Result<(String, u64), RemoteError> {
        let extent_name = extent_file_name(extent);
        let bytes = read_range(&files.dir.join(&extent_name), offset, len)?;
        let name = part_name(&extent_name, offset, &bytes);
        let names = known.parts.get_or_insert_default();
        if names.contains(&name) {
            return Ok((name, 0));
        }
        let path = self.part(&name);
        self.store.put(&path, bytes.into()).await.map_err(|error| failed("put", &path, &error))?;
        names.insert(name.clone());
        Ok((name, len as u64))
    }

    /// Puts an index. Returns the one that is there then, and how many bytes went over.
    async fn put_index(&self, index: Index) -> Result<(Index, u64), RemoteError> {
        let (path, text) = (self.index(index.named.checkpoint.0), index.text());
        let len = text.len() as u64;
        let only_new = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&path, text.into_bytes().into(), only_new).await {
            Ok(_) => Ok((index, len)),
            Err(object_store::Error::AlreadyExists { .. }) => match self.read_index(index.named.checkpoint.0).await? {
                // Put by an attempt whose answer got lost, or from a copy of the directory: the same manifest names the same blocks.
                there if there.named == index.named => Ok((there, 0)),
                _ => Err(RemoteError::AnotherWriter { object: path.to_string() }),
            },
            Err(error) => Err(failed("put", &path, &error)),
        }
    }

    /// Removes old indexes, then the parts that none names any more.
    async fn forget(&self, retained: usize, known: &mut Known) -> Result<(), RemoteError> {
        while known.indexes.len() > retained {
            let Some((&oldest, _)) = known.indexes.first_key_value() else { break };
            self.remove(&self.index(oldest)).await?;
            known.indexes.remove(&oldest);
        }
        let named: BTreeSet<&String> = known.indexes.values().flatten().collect();
        let names = known.parts.get_or_insert_default();
        let unnamed: Vec<String> = names.iter().filter(|name| !named.contains(name)).cloned().collect();
        for name in unnamed {
            self.remove(&self.part(&name)).await?;
            names.remove(&name);
            known.full.retain(|_, full| *full != name);
        }
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<(), RemoteError> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("remove", path, &error)),
        }
    }
}

fn failed(action: &'static str, path: &Path, error: &object_store::Error) -> RemoteError {
    RemoteError::Store { action, object: path.to_string(), reason: error.to_string() }
}
