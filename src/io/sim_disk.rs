//! A simulated disk: one machine's files in memory, with everything a real disk may do to them.
//!
//! Here: what an operation does to the files, faults, and crashes. Not here: when it completes (`sim_io`), the bytes of a file
//! (`sim_file`), directories (`sim_names`).
//!
//! Fault model: RELIABILITY P2 to P4 as far as a disk can cause them. Everything follows from the seed: the same operations give
//! the same outcomes and the same `trace_hash`.

use super::open_files::{OpenFiles, check_fits};
use super::sim_fault::{DiskFault, InjectedFault, Repeat};
use super::sim_file::SECTOR_BYTES;
use super::sim_io::IoState;
use super::sim_names::{FileRef, Names};
use super::{FileId, IoError, IoOp, IoOutput, OpenMode};
use crate::memory::Buffer;
use crate::sim::Rng;
use rustix::io::Errno;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

/// What a simulated disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimDiskOptions {
    /// Bytes that fit in all its files; more is ENOSPC.
    pub capacity_bytes: u64,
    /// Operations complete after 1 to this many further calls of `drive`, in any order.
    pub latency_drives_max: u64,
    /// How many of 1000 operations that touch the medium fail with EIO.
    pub error_permille: u32,
}

impl Default for SimDiskOptions {
    fn default() -> Self {
        Self { capacity_bytes: u64::MAX, latency_drives_max: 4, error_permille: 0 }
    }
}

/// What of the changes not flushed a crash leaves on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// None of them.
    Nothing,
    /// All of them, those under way included.
    Everything,
    /// All of them, and they are as little flushed as before: no power failed, a process was killed on a machine that goes on. Of the
    /// operations under way any may have been carried out.
    PageCache,
    /// Any of them: torn at 512 bytes, in any order, lengths and names apart from bytes.
    Random,
}

/// A disk shared by the `SimIo`s of one simulated machine. Cloning gives another handle to the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Rc<RefCell<DiskState>>,
}

#[derive(Debug)]
struct DiskState {
    names: Names,
    options: SimDiskOptions,
    rng: Rng,
    faults: Vec<InjectedFault>,
    ios: Vec<Weak<RefCell<IoState>>>,
    operations: u64,
    halt_at: u64,
    trace: u64,
}

/// A file that a `SimIo` has open.
#[derive(Debug)]
pub(super) struct SimHandle {
    file: FileRef,
    path: PathBuf,
    writable: bool,
    direct: bool,
}

impl SimDisk {
    /// An empty disk; everything random about it follows from `seed`.
    pub fn new(seed: u64, options: SimDiskOptions) -> Self {
        let state = DiskState {
            names: Names::default(),
            options,
            rng: Rng::new(seed),
            faults: Vec::new(),
            ios: Vec::new(),
            operations: 0,
            halt_at: u64::MAX,
            trace: 0,
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// Operations that took effect or failed so far: the number of the next one.
    pub fn operations(&self) -> u64 {
        self.state.borrow().operations
    }

    /// A hash of every operation so far and of how it ended: equal for equal runs.
    pub fn trace_hash(&self) -> u64 {
        self.state.borrow().trace
    }

    /// Plants a fault.
    pub fn inject(&self, fault: InjectedFault) {
        self.state.borrow_mut().faults.push(fault);
    }

    /// Removes every planted fault, and random errors too.
    pub fn heal(&self) {
        let mut state = self.state.borrow_mut();
        state.faults.clear();
        state.options.error_permille = 0;
    }

    /// Removes every planted fault; random errors stay.
    pub fn clear_faults(&self) {
        self.state.borrow_mut().faults.clear();
    }

    /// Changes how many bytes fit.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.state.borrow_mut().options.capacity_bytes = capacity_bytes;
    }

    /// The bytes of all files that have a name.
    pub fn used_bytes(&self) -> u64 {
        self.state.borrow().names.used_bytes()
    }

    /// Stops the machine before operation number `operation`: whatever is under way then or asked later fails, and waits for a
    /// crash to decide what became of it. So a crash can be placed between any two operations.
    pub fn halt_at(&self, operation: u64) {
        self.state.borrow_mut().halt_at = operation;
    }

    /// Whether the machine has stopped at the operation it was told to.
    pub fn is_halted(&self) -> bool {
        let state = self.state.borrow();
        state.operations >= state.halt_at
    }

    /// The power fails: of everything not flushed, and of the operations under way, any part survives. Every `SimIo` of before is dead
    /// (all it is asked fails), open files are gone, and so is a halt.
    pub fn crash(&self, rng: &mut Rng) {
        self.crash_keeping(Survivors::Random, rng);
    }

    /// The power fails, and what survives is chosen.
    pub fn crash_keeping(&self, survivors: Survivors, rng: &mut Rng) {
        let ios = std::mem::take(&mut self.state.borrow_mut().ios);
        for io in ios.iter().filter_map(Weak::upgrade) {
            let mut io = io.borrow_mut();
            for op in io.die(rng) {
                let reaches = match survivors {
                    Survivors::Nothing => false,
                    Survivors::Everything => true,
                    Survivors::Random | Survivors::PageCache => rng.chance(500),
                };
                if reaches {
                    // Nobody is left to hear how it ended.
                    let _ = self.state.borrow_mut().perform(op, &mut io.files);
                }
            }
            io.files.clear();
        }
        let mut state = self.state.borrow_mut();
        if survivors != Survivors::PageCache {
            state.names.crash(survivors, rng);
        }
        state.halt_at = u64::MAX;
    }

    /// The bytes of a file as programs see them now.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.state.borrow().names.file(path).ok()?;
        let bytes = file.borrow().bytes().to_vec();
        Some(bytes)
    }

    /// The names in a directory as programs see them now, sorted; `None` when there is no such directory.
    pub fn names(&self, dir: &Path) -> Option<Vec<String>> {
        self.state.borrow().names.list(dir).ok()
    }

    /// The paths under which its files were opened that are open now, sorted.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let ios: Vec<_> = self.state.borrow().ios.iter().filter_map(Weak::upgrade).collect();
        let paths =
            |io: &Rc<RefCell<IoState>>| io.borrow().files.all().map(|file| file.path.clone()).collect::<Vec<_>>();
        let mut open: Vec<PathBuf> = ios.iter().flat_map(paths).collect();
        open.sort();
        open
    }

    /// Changes a stored byte by `mask` (exclusive or) behind everybody's back. Says whether there is such a file.
    pub fn corrupt(&self, path: &Path, offset: usize, mask: u8) -> bool {
        let file = self.state.borrow().names.file(path);
        file.map(|file| file.borrow_mut().flip(offset, mask)).is_ok()
    }

    pub(super) fn register(&self, io: &Rc<RefCell<IoState>>) -> Rng {
        let mut state = self.state.borrow_mut();
        state.ios.retain(|io| io.strong_count() > 0);
        state.ios.push(Rc::downgrade(io));
        state.rng.split()
    }

    pub(super) fn latency_drives_max(&self) -> u64 {
        self.state.borrow().options.latency_drives_max
    }

    /// Lets an operation take effect, or says that it has to wait longer.
    pub(super) fn run(&self, op: IoOp, files: &mut OpenFiles<SimHandle>) -> Ran {
        self.state.borrow_mut().run(op, files)
    }
}

/// What became of an operation.
#[derive(Debug)]
pub(super) enum Ran {
    Ended(Result<IoOutput, IoError>),
    /// Interrupted: try again later.
    Later(IoOp),
}

impl DiskState {
    fn run(&mut self, op: IoOp, files: &mut OpenFiles<SimHandle>) -> Ran {
        let action = op.action();
        let path = path_of(&op, files);
        let number = self.operations;
        self.operations += 1;
        let fault = self.fault_for(number, &op, &path);
        if fault.is_some_and(DiskFault::is_passing) {
            return Ran::Later(op);
        }
        let result = match fault {
            Some(fault) => self.fail(fault, op, files, action, &path),
            None => self.perform(op, files),
        };
        self.trace = fold(self.trace, action.as_bytes());
        self.trace = fold(self.trace, path.as_os_str().as_encoded_bytes());
        self.trace = fold(self.trace, result.as_ref().map_or("failed", |_| "done").as_bytes());
        Ran::Ended(result)
    }

    fn fault_for(&mut self, number: u64, op: &IoOp, path: &Path) -> Option<DiskFault> {
        if let Some(index) = self.faults.iter().position(|fault| fault.hits(number, op, path)) {
            let fault = self.faults[index].fault;
            // A passing fault that repeats would never let the operation end.
            if self.faults[index].repeat == Repeat::Once || fault.is_passing() {
                self.faults.remove(index);
            }
            return Some(fault);
        }
        let permille = self.options.error_permille;
        (permille > 0 && DiskFault::Eio.can_hit(op) && self.rng.chance(permille)).then_some(DiskFault::Eio)
    }

    fn fail(
        &mut self,
        fault: DiskFault,
        op: IoOp,
        files: &mut OpenFiles<SimHandle>,
        action: &'static str,
        path: &Path,
    ) -> Result<IoOutput, IoError> {
        match (fault, op) {
            (DiskFault::LostWrite, IoOp::Write { from, .. }) => return Ok(IoOutput::Buffer(from)),
            (DiskFault::MisdirectedWrite, IoOp::Write { file, offset, from }) => {
                return self.perform(IoOp::Write { file, offset: offset + 4096, from }, files);
            }
            (_, IoOp::Write { file, offset, from }) => {
                let handle = files.get(file, action)?;
                let sectors = self.rng.index(from.len() / SECTOR_BYTES + 1);
                if handle.writable {
                    handle.file.borrow_mut().write(offset as usize, &from.filled()[..sectors * SECTOR_BYTES]);
                }
            }
            (_, IoOp::SyncData { file }) => files.get(file, action)?.file.borrow_mut().fail_sync(&mut self.rng),
            _ => {}
        }
        Err(refuse(action, path, fault.errno().unwrap_or(Errno::IO)))
    }

    /// What the operation does when nothing is wrong with the medium.
    fn perform(&mut self, op: IoOp, files: &mut OpenFiles<SimHandle>) -> Result<IoOutput, IoError> {
        check_fits(&op)?;
        let action = op.action();
        match op {
            IoOp::Open { path, mode, direct } => self.open(path, mode, direct, files),
            IoOp::Read { file, offset, len, into } => {
                let handle = files.get(file, action)?;
                handle.check_aligned(action, offset, len)?;
                Ok(IoOutput::Buffer(handle.read(offset, len, into)))
            }
            IoOp::Write { file, offset, from } => {
                let handle = files.get(file, action)?;
                handle.check_writable(action)?;
                handle.check_aligned(action, offset, from.len())?;
                self.write(handle, offset, from)
            }
            IoOp::Allocate { file, len_bytes } => {
                let handle = files.get(file, action)?;
                handle.check_writable(action)?;
                let len = handle.file.borrow().len() as u64;
                if len_bytes > len {
                    if len_bytes - len > self.free_bytes() {
                        return Err(refuse(action, &handle.path, Errno::NOSPC));
                    }
                    handle.file.borrow_mut().resize(len_bytes as usize);
                }
                Ok(IoOutput::Done)
            }
            IoOp::Truncate { file, len_bytes } => {
                let handle = files.get(file, action)?;
                handle.check_writable(action)?;
                handle.file.borrow_mut().resize(len_bytes as usize);
                Ok(IoOutput::Done)
            }
            IoOp::SyncData { file } => {
                files.get(file, action)?.file.borrow_mut().sync();
                Ok(IoOutput::Done)
            }
            IoOp::FileLen { file } => Ok(IoOutput::Len(files.get(file, action)?.file.borrow().len() as u64)),
            IoOp::Close { file } => files.remove(file, action).map(|_| IoOutput::Done),
            IoOp::SyncDir { path } => done(action, &path, self.names.sync_dir(&path)),
            IoOp::Rename { from, to } => done(action, &from, self.names.rename(&from, &to)),
            IoOp::Remove { path } => done(action, &path, self.names.remove(&path)),
            IoOp::CreateDirAll { path } => done(action, &path, self.names.create_dir_all(&path)),
            IoOp::List { path } => {
                self.names.list(&path).map(IoOutput::Names).map_err(|errno| refuse(action, &path, errno))
            }
        }
    }

    fn open(
        &mut self,
        path: PathBuf,
        mode: OpenMode,
        direct: bool,
        files: &mut OpenFiles<SimHandle>,
    ) -> Result<IoOutput, IoError> {
        let there = self.names.file(&path);
        let file = match (mode, there) {
            (OpenMode::CreateNew, Ok(_) | Err(Errno::ISDIR)) => Err(Errno::EXIST),
            (OpenMode::CreateNew | OpenMode::Create, Err(Errno::NOENT)) => self.names.create(&path),
            (_, there) => there,
        };
        let file = file.map_err(|errno| refuse("open", &path, errno))?;
        let handle = SimHandle { file, path, writable: mode != OpenMode::Read, direct };
        Ok(IoOutput::File(files.insert(handle)))
    }

    fn write(&self, handle: &SimHandle, offset: u64, from: Buffer) -> Result<IoOutput, IoError> {
        let len = from.len() as u64;
        let growth = (offset + len).saturating_sub(handle.file.borrow().len() as u64);
        let free = if growth > 0 { self.free_bytes() } else { 0 };
        let fits = len.saturating_sub(growth.saturating_sub(free));
        handle.file.borrow_mut().write(offset as usize, &from.filled()[..fits as usize]);
        if fits == len { Ok(IoOutput::Buffer(from)) } else { Err(refuse("write", &handle.path, Errno::NOSPC)) }
    }

    fn free_bytes(&self) -> u64 {
        match self.options.capacity_bytes {
            u64::MAX => u64::MAX,
            capacity => capacity.saturating_sub(self.names.used_bytes()),
        }
    }
}

impl SimHandle {
    fn read(&self, offset: u64, len: usize, mut into: Buffer) -> Buffer {
        let file = self.file.borrow();
        let bytes = file.read(usize::try_from(offset).unwrap_or(usize::MAX), len);
        into.set_len(bytes.len());
        into.filled_mut().copy_from_slice(bytes);
        into
    }

    fn check_writable(&self, action: &'static str) -> Result<(), IoError> {
        if self.writable { Ok(()) } else { Err(refuse(action, &self.path, Errno::BADF)) }
    }

    fn check_aligned(&self, action: &'static str, offset: u64, len: usize) -> Result<(), IoError> {
        let aligned = offset.is_multiple_of(4096) && len.is_multiple_of(4096);
        if aligned || !self.direct { Ok(()) } else { Err(refuse(action, &self.path, Errno::INVAL)) }
    }
}

fn path_of(op: &IoOp, files: &OpenFiles<SimHandle>) -> PathBuf {
    let open = |file: FileId| files.get(file, "find").map(|handle| handle.path.clone()).ok();
    op.path().map(Path::to_path_buf).or_else(|| op.file().and_then(open)).unwrap_or_default()
}

fn done(action: &'static str, path: &Path, result: Result<(), Errno>) -> Result<IoOutput, IoError> {
    result.map(|()| IoOutput::Done).map_err(|errno| refuse(action, path, errno))
}

fn refuse(action: &'static str, path: &Path, errno: Errno) -> IoError {
    IoError::new(action, path, &errno.into())
}

/// FNV-1a, over what was folded before.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .chain(&[0xFF])
        .fold(hash ^ 0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3))
}
