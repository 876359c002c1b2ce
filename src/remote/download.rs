//! Making a directory of a copy: the extents part by part, flushed, then a superblock that names the checkpoint.
//!
//! A fetch that is cut off leaves extents without a superblock, which no job takes for an empty directory or a whole one.

use super::error::RemoteError;
use super::index::{Index, Part, part_name};
use super::local::{NewFile, empty_directory};
use super::upload::Place;
use crate::checkpoint::extent_file_name;
use std::collections::BTreeMap;
use std::path::Path;

/// Fetches the extents of a checkpoint, the newest by default, and returns its index.
pub(super) async fn fetch(place: &Place, asked: Option<u64>, dir: &Path) -> Result<Index, RemoteError> {
    let none = || RemoteError::NoCheckpoint { prefix: place.prefix.to_string() };
    let newest = place.checkpoints().await?.last().copied();
    let index = place.read_index(asked.or(newest).ok_or_else(none)?).await?;
    empty_directory(dir)?;
    let mut extents: BTreeMap<u32, Vec<&Part>> = BTreeMap::new();
    index.parts.iter().for_each(|part| extents.entry(part.extent).or_default().push(part));
    for (extent, parts) in extents {
        let name = extent_file_name(extent);
        let path = dir.join(&name);
        let file = NewFile::create(&path)?;
        for part in parts {
            let object = place.part(&part.name);
            let bytes = place.get(&object).await?;
            if part_name(&name, part.offset, &bytes) != part.name || bytes.len() as u64 != part.len_bytes {
                let what = format!("its {} bytes are not those it was named after", bytes.len());
                return Err(RemoteError::Damaged { object: object.to_string(), what });
            }
            file.write(part.offset, &bytes)?;
        }
        file.finish()?;
    }
    Ok(index)
}
