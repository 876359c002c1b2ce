//! A disk in memory and a job that writes checkpoints onto it, for the tests and the fuzz targets of the store.
//!
//! The disk runs submitted operations when it is driven, in order; it can fail the operations a test picks. It knows
//! nothing of lost writes: that is the business of the simulated disk.
#![allow(dead_code, reason = "every test file uses its own part")]

use millstream::checkpoint::*;
use millstream::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken, OpenMode};
use millstream::memory::{Arena, ArenaOptions, HugePages, MemoryBudget};
use millstream::state::KeyGroupRange;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub type Files = BTreeMap<PathBuf, Vec<u8>>;
pub type Fault = Box<dyn FnMut(&str, &Path) -> Option<ErrorKind>>;

#[derive(Default)]
pub struct MemoryDisk {
    pub files: Files,
    /// Asked before every operation with its verb and its path.
    pub fault: Option<Fault>,
    /// What changed the disk, in order, for `checkpoint_crash`; kept when asked for.
    pub trace: Option<Vec<Change>>,
    /// The verbs and paths of all operations.
    pub log: Vec<(&'static str, PathBuf)>,
    open: HashMap<FileId, PathBuf>,
    submitted: Vec<(IoToken, IoOp)>,
    done: BTreeMap<IoToken, Result<IoOutput, IoError>>,
    next: u64,
}

/// One operation that changed the disk, or made changes durable.
#[derive(Clone, Debug)]
pub enum Change {
    Create(PathBuf),
    Write(PathBuf, usize, Vec<u8>),
    Grow(PathBuf, usize),
    SyncData(PathBuf),
    SyncDir,
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl MemoryDisk {
    fn traced(&mut self, op: &IoOp) {
        let Some(trace) = &mut self.trace else { return };
        trace.push(match op {
            IoOp::Open { path, .. } if !self.files.contains_key(path) => Change::Create(path.clone()),
            IoOp::Write { file, offset, from } => {
                Change::Write(self.open[file].clone(), *offset as usize, from.filled().to_vec())
            }
            IoOp::Allocate { file, len_bytes } => Change::Grow(self.open[file].clone(), *len_bytes as usize),
            IoOp::SyncData { file } => Change::SyncData(self.open[file].clone()),
            IoOp::SyncDir { .. } => Change::SyncDir,
            IoOp::Rename { from, to } => Change::Rename(from.clone(), to.clone()),
            IoOp::Remove { path } => Change::Remove(path.clone()),
            _ => return,
        });
    }

    pub fn with(files: Files) -> Self {
        Self { files, ..Self::default() }
    }

    fn run(&mut self, op: IoOp) -> Result<IoOutput, IoError> {
        let (action, path) = match &op {
            IoOp::Open { path, .. } => ("open", path.clone()),
            IoOp::Read { file, .. } => ("read", self.open[file].clone()),
            IoOp::Write { file, .. } => ("write", self.open[file].clone()),
            IoOp::Allocate { file, .. } => ("allocate", self.open[file].clone()),
            IoOp::Truncate { file, .. } => ("truncate", self.open[file].clone()),
            IoOp::SyncData { file } => ("sync", self.open[file].clone()),
            IoOp::FileLen { file } => ("measure", self.open[file].clone()),
            IoOp::Close { file } => ("close", self.open[file].clone()),
            IoOp::SyncDir { path } => ("sync directory", path.clone()),
            IoOp::Rename { from, .. } => ("rename", from.clone()),
            IoOp::Remove { path } => ("remove", path.clone()),
            IoOp::CreateDirAll { path } => ("create directory", path.clone()),
            IoOp::List { path } => ("list", path.clone()),
        };
        self.log.push((action, path.clone()));
        let error = |kind: ErrorKind| IoError { action, path: path.clone(), kind, reason: kind.to_string() };
        if let Some(kind) = self.fault.as_mut().and_then(|fault| fault(action, &path)) {
            return Err(error(kind));
        }
        self.traced(&op);
        Ok(match op {
            IoOp::Open { path, mode, .. } => {
                match (mode, self.files.contains_key(&path)) {
                    (OpenMode::Read | OpenMode::ReadWrite, false) => return Err(error(ErrorKind::NotFound)),
                    (OpenMode::CreateNew, true) => return Err(error(ErrorKind::AlreadyExists)),
                    _ => {}
                }
                self.files.entry(path.clone()).or_default();
                self.next += 1;
                let file = FileId(self.next as u32);
                self.open.insert(file, path);
                IoOutput::File(file)
            }
            IoOp::Read { file, offset, len, mut into } => {
                let contents = self.contents(file);
                let start = contents.len().min(offset as usize);
                let found = &contents[start..contents.len().min(start + len)];
                into.whole_mut()[..found.len()].copy_from_slice(found);
                into.set_len(found.len());
                IoOutput::Buffer(into)
            }
            IoOp::Write { file, offset, from } => {
                assert!(offset % 4096 == 0 && from.len() % 4096 == 0, "a direct file takes whole sectors");
                let path = &self.open[&file];
                let contents = self.files.entry(path.clone()).or_default();
                let end = offset as usize + from.len();
                contents.resize(contents.len().max(end), 0);
                contents[offset as usize..end].copy_from_slice(from.filled());
                IoOutput::Buffer(from)
            }
            IoOp::Allocate { file, len_bytes } => {
                let contents = self.files.entry(self.open[&file].clone()).or_default();
                contents.resize(contents.len().max(len_bytes as usize), 0);
                IoOutput::Done
            }
            IoOp::Truncate { file, len_bytes } => {
                self.files.entry(self.open[&file].clone()).or_default().truncate(len_bytes as usize);
                IoOutput::Done
            }
            IoOp::FileLen { file } => IoOutput::Len(self.contents(file).len() as u64),
            IoOp::Close { file } => {
                self.open.remove(&file);
                IoOutput::Done
            }
            IoOp::Rename { from, to } => {
                let contents = self.files.remove(&from).ok_or_else(|| error(ErrorKind::NotFound))?;
                self.open.values_mut().filter(|path| **path == from).for_each(|path| path.clone_from(&to));
                self.files.insert(to, contents);
                IoOutput::Done
            }
            IoOp::Remove { path } => {
                self.files.remove(&path).ok_or_else(|| error(ErrorKind::NotFound))?;
                IoOutput::Done
            }
            IoOp::List { path } => {
                let names = self.files.keys().filter(|file| file.parent() == Some(&path));
                IoOutput::Names(names.map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect())
            }
            IoOp::SyncData { .. } | IoOp::SyncDir { .. } | IoOp::CreateDirAll { .. } => IoOutput::Done,
        })
    }

    fn contents(&self, file: FileId) -> &[u8] {
        self.files.get(&self.open[&file]).map_or(&[], Vec::as_slice)
    }
}

impl Io for MemoryDisk {
    fn submit(&mut self, op: IoOp) -> IoToken {
        self.next += 1;
        let token = IoToken(self.next);
        self.submitted.push((token, op));
        token
    }

    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        self.done.remove(&token)
    }

    fn in_flight(&self) -> usize {
        self.submitted.len() + self.done.len()
    }

    fn drive(&mut self) {
        for (token, op) in std::mem::take(&mut self.submitted) {
            let result = self.run(op);
            self.done.insert(token, result);
        }
    }

    fn wait(&mut self, _: Duration) {
        self.drive();
    }
}

pub const DIR: &str = "/state";

pub fn arena() -> Arena {
    Arena::new(MemoryBudget::new(256 << 20), ArenaOptions { huge_pages: HugePages::Off })
}

pub fn small_options() -> StoreOptions {
    StoreOptions {
        extent_bytes_min: 64 << 10,
        extent_bytes_max: 256 << 10,
        lock_patience_ms: None,
        ..StoreOptions::default()
    }
}

pub fn identity() -> JobIdentity {
    JobIdentity { name: "card-velocity".to_owned() }
}

/// The pieces of every page, in the order of application.
pub type Model = BTreeMap<PageKey, Vec<Vec<u8>>>;

/// A job's state side: it hands over pieces and remembers what it must get back.
pub struct Job {
    pub disk: MemoryDisk,
    pub arena: Arena,
    pub store: CheckpointStore,
    pub restored: Option<Arc<RestoredCheckpoint>>,
    pub damages: Vec<Damage>,
    /// As of the last handed-over piece.
    pub model: Model,
    /// As of the last committed checkpoint.
    pub committed: Model,
    pub blobs: Vec<OperatorBlob>,
}

pub const STATE: u64 = 0xfeed;

pub fn page(key_group: u16, page: u32) -> PageKey {
    PageKey { state: STATE, key_group, page }
}

impl Job {
    pub fn start(disk: MemoryDisk, options: StoreOptions) -> Result<Self, RestoreError> {
        Self::start_in(disk, arena(), options)
    }

    pub fn start_in(disk: MemoryDisk, arena: Arena, options: StoreOptions) -> Result<Self, RestoreError> {
        let mut job = Self::open(disk, arena, options)?;
        if let Some(restored) = job.restored.clone() {
            job.model = load(&mut job.disk, &job.arena, &restored)?;
            job.committed = job.model.clone();
            job.blobs = restored.all_blobs().to_vec();
        }
        Ok(job)
    }

    /// Opens the store without reading the pages.
    pub fn open(mut disk: MemoryDisk, arena: Arena, options: StoreOptions) -> Result<Self, RestoreError> {
        let opened = CheckpointStore::open(&mut disk, &arena, Path::new(DIR), &identity(), options)?;
        let OpenedStore { mut store, restored, damages } = opened;
        store.finish_loading(&mut disk);
        let (model, committed, blobs) = Default::default();
        Ok(Self { disk, arena, store, restored, damages, model, committed, blobs })
    }

    /// Everything as a full checkpoint, or `changed` as deltas and what the store asks for as images.
    pub fn pieces(&mut self, changed: &[PageKey], round: u8) -> (SnapshotKind, Vec<(PageKey, PieceKind, Vec<u8>)>) {
        let content = |kind: u8, page: &PageKey| {
            let len = if kind == 0 { 300 + page.page as usize % 7 } else { 40 };
            (0..len).map(|i| (i as u8) ^ round.wrapping_mul(31) ^ page.page as u8 ^ kind).collect::<Vec<u8>>()
        };
        let needed = self.store.pages_needing_images();
        let images: BTreeSet<PageKey> = match &needed {
            ImagesNeeded::Everything => self.model.keys().chain(changed).copied().collect(),
            ImagesNeeded::Pages(pages) => {
                let new = changed.iter().filter(|page| !self.model.contains_key(page));
                pages.iter().chain(new).copied().collect()
            }
        };
        let deltas = changed.iter().filter(|page| !images.contains(page));
        let mut pieces: Vec<_> = images.iter().map(|page| (*page, PieceKind::Image, content(0, page))).collect();
        pieces.extend(deltas.map(|page| (*page, PieceKind::Delta, content(1, page))));
        let kind = if needed == ImagesNeeded::Everything { SnapshotKind::Full } else { SnapshotKind::Incremental };
        (kind, pieces)
    }

    pub fn hand_over(
        &mut self,
        id: CheckpointId,
        pieces: &[(PageKey, PieceKind, Vec<u8>)],
        buffer_bytes: usize,
    ) -> u32 {
        let mut blocks = 0;
        let mut rest = pieces;
        while !rest.is_empty() {
            let mut buffer = PieceBlock::take_buffer(&self.arena, "test", buffer_bytes).unwrap();
            let mut listed = Vec::new();
            while let Some((page, kind, bytes)) = rest.first() {
                buffer.pad_to(8);
                let offset = buffer.len() as u32;
                if !buffer.append(bytes) {
                    break;
                }
                let span = HashSpan::default();
                listed.push(Piece { page: *page, kind: *kind, offset, len: bytes.len() as u32, span });
                if *kind == PieceKind::Image {
                    self.model.insert(*page, Vec::new());
                }
                self.model.entry(*page).or_default().push(bytes.clone());
                rest = &rest[1..];
            }
            assert!(!listed.is_empty(), "a piece larger than the buffer");
            let mut block = PieceBlock { checkpoint: id, buffer, pieces: listed };
            while let Err(refused) = self.store.add_block(block) {
                block = refused;
                assert!(self.store.step(&mut self.disk, 0).is_none());
            }
            blocks += 1;
        }
        blocks
    }

    pub fn begin(&mut self, kind: SnapshotKind) -> CheckpointId {
        let id = self.store.next_id();
        let vertices = vec![("source".to_owned(), 1), ("count".to_owned(), 1)];
        let plan = CheckpointPlan { id, kind, max_parallelism: 128, vertices, created_wall_ms: 1_700_000_000_000 };
        self.store.begin(plan, 0).unwrap();
        id
    }

    pub fn acknowledge(&mut self, id: CheckpointId, blocks: u32) {
        let blob = OperatorBlob {
            operator: "payments".to_owned(),
            subtask: 0,
            kind: "position".to_owned(),
            bytes: id.0.to_le_bytes().to_vec(),
        };
        self.blobs = vec![blob.clone()];
        let source = SubtaskSnapshot { vertex: "source".to_owned(), blobs: vec![blob], ..SubtaskSnapshot::default() };
        let state = StateDescriptor {
            id: STATE,
            operator: "count".to_owned(),
            name: "counts".to_owned(),
            layout_hash: 7,
            layout: "key u64, value u64".to_owned(),
        };
        let count = SubtaskSnapshot {
            vertex: "count".to_owned(),
            key_groups: KeyGroupRange { start: 0, end: 128 },
            states: vec![state],
            blocks,
            ..SubtaskSnapshot::default()
        };
        assert!(!self.store.acknowledge(id, source));
        assert!(self.store.acknowledge(id, count));
    }

    pub fn finish(&mut self) -> StoreEvent {
        for _ in 0..10_000 {
            if let Some(event) = self.store.step(&mut self.disk, 1_000) {
                if matches!(event, StoreEvent::Committed { .. }) {
                    self.committed = self.model.clone();
                }
                return event;
            }
        }
        panic!("the checkpoint never ended");
    }

    pub fn try_checkpoint(&mut self, changed: &[PageKey], round: u8) -> StoreEvent {
        let (kind, pieces) = self.pieces(changed, round);
        let id = self.begin(kind);
        let blocks = self.hand_over(id, &pieces, 16 << 10);
        self.acknowledge(id, blocks);
        self.store.seal(id).unwrap();
        self.finish()
    }

    pub fn checkpoint(&mut self, changed: &[PageKey], round: u8) -> CheckpointId {
        match self.try_checkpoint(changed, round) {
            StoreEvent::Committed { id, .. } => id,
            StoreEvent::Failed { error, .. } => panic!("{error}"),
        }
    }

    /// The process dies: what is on the disk stays.
    pub fn crash(self) -> MemoryDisk {
        MemoryDisk::with(self.disk.files)
    }
}

/// Reads everything back through a loader.
pub fn load(disk: &mut MemoryDisk, arena: &Arena, restored: &Arc<RestoredCheckpoint>) -> Result<Model, RestoreError> {
    let mut loader = PieceLoader::new(restored.clone(), arena.clone());
    let mut model = Model::new();
    for state in restored.states() {
        let all = KeyGroupRange { start: 0, end: restored.max_parallelism() };
        let index = restored.index(disk, arena, state.id, all)?;
        index.pages(state.id, all).for_each(|(page, chain)| loader.request(page, chain));
    }
    while !loader.is_idle() {
        loader.step(disk);
        disk.drive();
        while let Some(piece) = loader.next_piece() {
            let piece = piece?;
            let chain = model.entry(piece.page).or_default();
            assert_eq!(chain.is_empty(), piece.kind == PieceKind::Image, "the image comes first");
            chain.push(piece.bytes().to_vec());
        }
    }
    loader.close(disk);
    Ok(model)
}

pub fn disk_bytes(disk: &MemoryDisk) -> usize {
    disk.files.values().map(Vec::len).sum()
}

pub fn verify_disk(files: &Files) -> Result<VerifyReport, RestoreError> {
    verify(&mut MemoryDisk::with(files.clone()), &arena(), Path::new(DIR))
}

/// What a job had committed, by checkpoint.
pub type History = BTreeMap<CheckpointId, Model>;

/// A directory with three retained checkpoints, all of which lie in it from the first to the last byte.
pub fn small_directory() -> (Files, History) {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    let mut history = History::new();
    for round in 0..3 {
        let changed: Vec<PageKey> = (0..4).map(|i| page(i, u32::from(i) + u32::from(round))).collect();
        let id = job.checkpoint(&changed, round);
        history.insert(id, job.committed.clone());
    }
    (job.crash().files, history)
}

/// Where every written byte of a directory lies: all of a superblock file, the blocks of an extent.
pub fn written(files: &Files) -> BTreeMap<PathBuf, usize> {
    let report = verify_disk(files).unwrap();
    assert!(report.damages.is_empty());
    let mut ends: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut covered: BTreeSet<(PathBuf, u64)> = BTreeSet::new();
    for (path, range) in report.checked {
        let end = ends.entry(path.clone()).or_default();
        *end = (*end).max(range.end as usize);
        covered.extend((range.start / 4096..range.end.div_ceil(4096)).map(|sector| (path.clone(), sector)));
    }
    let sectors =
        |(path, end): (&PathBuf, &usize)| (0..*end as u64 / 4096).all(|s| covered.contains(&(path.clone(), s)));
    assert!(ends.iter().all(sectors), "no sector between the blocks is left unread");
    let whole = files.iter().filter(|(path, _)| path.to_string_lossy().contains("superblock"));
    ends.extend(whole.map(|(path, bytes)| (path.clone(), bytes.len())));
    ends
}

/// What a damaged directory may still give: its newest checkpoint, an older one, or a refusal; never anything else.
/// Returns the restored one.
pub fn restore_damaged(files: &Files, arena: &Arena, history: &History) -> Option<CheckpointId> {
    match Job::start_in(MemoryDisk::with(files.clone()), arena.clone(), small_options()) {
        Ok(job) => {
            let id =
                job.restored.as_ref().map(|restored| restored.id()).expect("a damaged directory is not an empty one");
            assert_eq!(job.model, history[&id], "checkpoint {id} came back wrong");
            Some(id)
        }
        Err(RestoreError::AllDamaged { damages, .. }) => {
            assert!(!damages.is_empty());
            None
        }
        // Found when it was read: the next start verifies everything and uses an older checkpoint.
        Err(RestoreError::PieceDamaged { .. } | RestoreError::MapDamaged { .. }) => {
            let options = StoreOptions { verify_everything: true, ..small_options() };
            match Job::start_in(MemoryDisk::with(files.clone()), arena.clone(), options) {
                Ok(job) => {
                    let id = job.restored.as_ref().map(|restored| restored.id());
                    let id = id.expect("a damaged directory is not an empty one");
                    assert_eq!(job.model, history[&id], "checkpoint {id} came back wrong");
                    assert!(!job.damages.is_empty());
                    Some(id)
                }
                Err(RestoreError::AllDamaged { .. }) => None,
                Err(refusal) => panic!("{refusal}"),
            }
        }
        Err(refusal) => panic!("{refusal}"),
    }
}

/// Whether `verify` sees that something is wrong.
pub fn is_detected(files: &mut Files, arena: &Arena) -> bool {
    let mut disk = MemoryDisk::with(std::mem::take(files));
    let report = verify(&mut disk, arena, Path::new(DIR)).expect("damage is not a refusal");
    *files = disk.files;
    !report.damages.is_empty()
}
