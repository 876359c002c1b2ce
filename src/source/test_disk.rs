//! A disk in memory for tests: knows which bytes and names are durable, can lose the rest, and can fail.
//!
//! Operations take effect when submitted and complete with the next `drive`, so that callers see "not yet" once for each. What a
//! sync makes durable is durable only then, too.

use crate::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken, OpenMode};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// One view of a disk; clones share the disk but have their own files and tokens, as the `Io`s of two slots do.
pub struct MemDisk {
    disk: Rc<RefCell<Disk>>,
    open: HashMap<FileId, Opened>,
    completions: BTreeMap<IoToken, (bool, Result<IoOutput, IoError>)>,
    syncs: Vec<Sync>,
    next: u64,
}

/// What becomes durable with the next `drive`.
enum Sync {
    Data { inode: usize, data: Vec<u8> },
    Names { directory: PathBuf, names: Vec<(PathBuf, usize)> },
}

#[derive(Clone)]
struct Opened {
    path: PathBuf,
    inode: Option<usize>,
}

#[derive(Default)]
struct Disk {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    inodes: Vec<Inode>,
    directories: BTreeSet<PathBuf>,
    ops: u64,
    dead_after: Option<u64>,
    failing: Option<(&'static str, ErrorKind)>,
}

#[derive(Default)]
struct Inode {
    data: Vec<u8>,
    durable: Vec<u8>,
}

impl Clone for MemDisk {
    fn clone(&self) -> Self {
        Self { disk: self.disk.clone(), open: HashMap::new(), completions: BTreeMap::new(), syncs: Vec::new(), next: 0 }
    }
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self { disk: Rc::default(), open: HashMap::new(), completions: BTreeMap::new(), syncs: Vec::new(), next: 0 }
    }

    /// Puts a durable file there.
    pub fn put(&self, path: &str, data: impl AsRef<[u8]>) {
        let mut disk = self.disk.borrow_mut();
        let inode = disk.inodes.len();
        disk.inodes.push(Inode { data: data.as_ref().to_vec(), durable: data.as_ref().to_vec() });
        disk.names.insert(path.into(), inode);
        disk.durable_names.insert(path.into(), inode);
        let parent = Path::new(path).parent().map(Path::to_path_buf).unwrap_or_default();
        disk.directories.extend(parent.ancestors().map(Path::to_path_buf));
    }

    /// Appends to a file behind the program's back.
    pub fn append(&self, path: &str, data: &str) {
        let mut disk = self.disk.borrow_mut();
        let inode = disk.names[Path::new(path)];
        disk.inodes[inode].data.extend_from_slice(data.as_bytes());
    }

    /// What a file holds, if it is there.
    pub fn get(&self, path: &str) -> Option<String> {
        let disk = self.disk.borrow();
        disk.names.get(Path::new(path)).map(|&inode| String::from_utf8(disk.inodes[inode].data.clone()).unwrap())
    }

    /// Removes a file behind the program's back.
    pub fn remove(&self, path: &str) {
        self.disk.borrow_mut().names.remove(Path::new(path));
    }

    /// All file names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.disk.borrow().names.keys().map(|path| path.display().to_string()).collect()
    }

    /// How many operations were submitted so far.
    pub fn ops(&self) -> u64 {
        self.disk.borrow().ops
    }

    /// How many files this view holds open.
    pub fn open_files(&self) -> usize {
        self.open.len()
    }

    /// From the `ops`-th operation from now on, nothing works.
    pub fn die_after(&self, ops: u64) {
        let mut disk = self.disk.borrow_mut();
        disk.dead_after = Some(disk.ops + ops);
    }

    /// Works again, with everything the program wrote (the process died, the machine did not).
    pub fn revive(&self) {
        self.disk.borrow_mut().dead_after = None;
    }

    /// Works again, without anything that was not synced (the machine died).
    pub fn revive_after_power_cut(&self) {
        let mut disk = self.disk.borrow_mut();
        disk.dead_after = None;
        disk.names = disk.durable_names.clone();
        for inode in &mut disk.inodes {
            inode.data = inode.durable.clone();
        }
    }

    /// Lets every operation called `action` fail from now on, or none.
    pub fn fail(&self, failing: Option<(&'static str, ErrorKind)>) {
        self.disk.borrow_mut().failing = failing;
    }

    fn run(&mut self, op: IoOp) -> Result<IoOutput, IoError> {
        let (action, path) = self.describe(&op);
        let error = |kind: ErrorKind| IoError { action, path: path.clone(), kind, reason: kind.to_string() };
        let mut disk = self.disk.borrow_mut();
        disk.ops += 1;
        if disk.dead_after.is_some_and(|after| disk.ops > after) {
            return Err(error(ErrorKind::Other));
        }
        if let Some((failing, kind)) = disk.failing
            && failing == action
        {
            return Err(error(kind));
        }
        let inode_of = |open: &HashMap<FileId, Opened>, file: &FileId| {
            open.get(file).expect("the file is open").inode.ok_or_else(|| error(ErrorKind::IsADirectory))
        };
        match op {
            IoOp::Open { mode, .. } => {
                let there = disk.names.get(&path).copied();
                let inode = match (there, mode) {
                    (Some(_), OpenMode::CreateNew) => return Err(error(ErrorKind::AlreadyExists)),
                    (Some(inode), _) => Some(inode),
                    (None, OpenMode::Read) if disk.directories.contains(&path) => None,
                    (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(error(ErrorKind::NotFound)),
                    (None, _) => {
                        if !disk.directories.contains(path.parent().unwrap_or(Path::new(""))) {
                            return Err(error(ErrorKind::NotFound));
                        }
                        disk.inodes.push(Inode::default());
                        let inode = disk.inodes.len() - 1;
                        disk.names.insert(path.clone(), inode);
                        Some(inode)
                    }
                };
                self.next += 1;
                let file = FileId(self.next as u32);
                self.open.insert(file, Opened { path: path.clone(), inode });
                Ok(IoOutput::File(file))
            }
            IoOp::Read { file, offset, len, mut into } => {
                let data = &disk.inodes[inode_of(&self.open, &file)?].data;
                let from = data.len().min(offset as usize);
                let to = data.len().min(offset as usize + len);
                into.whole_mut()[..to - from].copy_from_slice(&data[from..to]);
                into.set_len(to - from);
                Ok(IoOutput::Buffer(into))
            }
            IoOp::Write { file, offset, from } => {
                let inode = inode_of(&self.open, &file)?;
                let data = &mut disk.inodes[inode].data;
                let end = offset as usize + from.len();
                data.resize(data.len().max(end), 0);
                data[offset as usize..end].copy_from_slice(from.filled());
                Ok(IoOutput::Buffer(from))
            }
            IoOp::Allocate { .. } => Ok(IoOutput::Done),
            IoOp::Truncate { file, len_bytes } => {
                let inode = inode_of(&self.open, &file)?;
                disk.inodes[inode].data.resize(len_bytes as usize, 0);
                Ok(IoOutput::Done)
            }
            IoOp::SyncData { file } => {
                let inode = inode_of(&self.open, &file)?;
                self.syncs.push(Sync::Data { inode, data: disk.inodes[inode].data.clone() });
                Ok(IoOutput::Done)
            }
            IoOp::FileLen { file } => {
                let len = inode_of(&self.open, &file).map_or(4096, |inode| disk.inodes[inode].data.len());
                Ok(IoOutput::Len(len as u64))
            }
            IoOp::Close { file } => {
                self.open.remove(&file).expect("the file is open");
                Ok(IoOutput::Done)
            }
            IoOp::SyncDir { .. } => {
                let inside = disk.names.iter().filter(|(name, _)| name.parent() == Some(&path));
                let names = inside.map(|(name, &inode)| (name.clone(), inode)).collect();
                self.syncs.push(Sync::Names { directory: path, names });
                Ok(IoOutput::Done)
            }
            IoOp::Rename { to, .. } => {
                let inode = disk.names.remove(&path).ok_or_else(|| error(ErrorKind::NotFound))?;
                disk.names.insert(to, inode);
                Ok(IoOutput::Done)
            }
            IoOp::Remove { .. } => {
                disk.names.remove(&path).ok_or_else(|| error(ErrorKind::NotFound))?;
                Ok(IoOutput::Done)
            }
            IoOp::CreateDirAll { .. } => {
                disk.directories.extend(path.ancestors().map(Path::to_path_buf));
                Ok(IoOutput::Done)
            }
            IoOp::List { .. } => {
                if disk.names.contains_key(&path) {
                    return Err(error(ErrorKind::NotADirectory));
                }
                if !disk.directories.contains(&path) {
                    return Err(error(ErrorKind::NotFound));
                }
                let inside = disk.names.keys().filter(|name| name.parent() == Some(&path));
                let names = inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect();
                Ok(IoOutput::Names(names))
            }
        }
    }

    fn describe(&self, op: &IoOp) -> (&'static str, PathBuf) {
        let opened = |file: &FileId| self.open.get(file).expect("the file is open").path.clone();
        match op {
            IoOp::Open { path, .. } => ("open", path.clone()),
            IoOp::Read { file, .. } => ("read", opened(file)),
            IoOp::Write { file, .. } => ("write", opened(file)),
            IoOp::Allocate { file, .. } => ("allocate", opened(file)),
            IoOp::Truncate { file, .. } => ("truncate", opened(file)),
            IoOp::SyncData { file } => ("sync", opened(file)),
            IoOp::FileLen { file } => ("measure", opened(file)),
            IoOp::Close { file } => ("close", opened(file)),
            IoOp::SyncDir { path } => ("sync", path.clone()),
            IoOp::Rename { from, .. } => ("rename", from.clone()),
            IoOp::Remove { path } => ("remove", path.clone()),
            IoOp::CreateDirAll { path } => ("create", path.clone()),
            IoOp::List { path } => ("list", path.clone()),
        }
    }
}

impl Io for MemDisk {
    fn submit(&mut self, op: IoOp) -> IoToken {
        let result = self.run(op);
        self.next += 1;
        let token = IoToken(self.next);
        self.completions.insert(token, (false, result));
        token
    }

    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        let (ready, _) = self.completions.get(&token).expect("submitted and not yet taken");
        if !*ready {
            return None;
        }
        self.completions.remove(&token).map(|(_, result)| result)
    }

    fn forget(&mut self, token: IoToken) {
        self.completions.remove(&token);
    }

    fn in_flight(&self) -> usize {
        self.completions.len()
    }

    fn drive(&mut self) {
        let mut disk = self.disk.borrow_mut();
        for sync in self.syncs.drain(..) {
            match sync {
                Sync::Data { inode, data } => disk.inodes[inode].durable = data,
                Sync::Names { directory, names } => {
                    disk.durable_names.retain(|name, _| name.parent() != Some(&directory));
                    disk.durable_names.extend(names);
                }
            }
        }
        for (ready, _) in self.completions.values_mut() {
            *ready = true;
        }
    }

    fn wait(&mut self, _: Duration) {
        self.drive();
    }
}
