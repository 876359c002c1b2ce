//! The machine dies after every single operation of a job's checkpoints; any subset of what was not flushed is lost, writes
//! torn at 512 bytes. What was reported as committed is there, and whatever comes back is a state that the job had.
//!
//! The disk's rules: contents are durable after SyncData of the file; creations, renames and removals happen in order, and
//! are durable after SyncDir. Before that, any sector of any write may or may not have reached the disk.

mod checkpoint_support;

use checkpoint_support::*;
use millstream::checkpoint::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

struct Trace {
    changes: Vec<Change>,
    /// Which checkpoint was reported as committed when so many changes had happened.
    committed: Vec<(usize, CheckpointId)>,
    history: History,
}

fn traced_job(options: StoreOptions, checkpoints: u8) -> Trace {
    let mut disk = MemoryDisk::default();
    disk.trace = Some(Vec::new());
    let mut job = Job::start(disk, options).unwrap();
    let (mut committed, mut history) = (Vec::new(), History::new());
    for round in 0..checkpoints {
        let changed: Vec<PageKey> =
            (0..40).filter(|i| i % 3 == u32::from(round) % 3).map(|i| page(i as u16, i)).collect();
        let (kind, pieces) = job.pieces(&changed, round);
        let id = job.begin(kind);
        let blocks = job.hand_over(id, &pieces, 4096);
        history.insert(id, job.model.clone());
        job.acknowledge(id, blocks);
        job.store.seal(id).unwrap();
        assert!(matches!(job.finish(), StoreEvent::Committed { .. }));
        let changes = job.disk.trace.as_ref().map_or(0, Vec::len);
        committed.push((changes, id));
    }
    Trace { changes: job.disk.trace.take().unwrap(), committed, history }
}

#[derive(Clone, Copy, Debug)]
enum Lost {
    Everything,
    Nothing,
    Random(u64),
}

impl Lost {
    /// Whether the next thing is lost (splitmix64).
    fn next(&mut self) -> bool {
        match self {
            Self::Everything => true,
            Self::Nothing => false,
            Self::Random(seed) => {
                *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 63 == 1
            }
        }
    }
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    /// Not flushed: where, and what.
    pending: Vec<(usize, Vec<u8>)>,
}

/// What is on the disk after the machine died.
fn crash_image(changes: &[Change], mut lost: Lost) -> Files {
    let mut inodes: Vec<Inode> = Vec::new();
    let mut seen: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut durable = seen.clone();
    let mut names_pending: Vec<BTreeMap<PathBuf, usize>> = Vec::new();
    for change in changes {
        match change {
            Change::Create(path) => {
                seen.insert(path.clone(), inodes.len());
                inodes.push(Inode::default());
            }
            Change::Write(path, offset, bytes) => inodes[seen[path]].pending.push((*offset, bytes.clone())),
            Change::Grow(path, len) => inodes[seen[path]].pending.push((*len, Vec::new())),
            Change::SyncData(path) => {
                let inode = &mut inodes[seen[path]];
                for (offset, bytes) in std::mem::take(&mut inode.pending) {
                    write(&mut inode.durable, offset, &bytes);
                }
            }
            Change::SyncDir => {
                durable.clone_from(&seen);
                names_pending.clear();
            }
            Change::Rename(from, to) => {
                let inode = seen.remove(from).unwrap();
                seen.insert(to.clone(), inode);
            }
            Change::Remove(path) => {
                seen.remove(path);
            }
        }
        if matches!(change, Change::Create(_) | Change::Rename(..) | Change::Remove(_)) {
            names_pending.push(seen.clone());
        }
    }
    for names in names_pending {
        if lost.next() {
            break;
        }
        durable = names;
    }
    for inode in &mut inodes {
        for (offset, bytes) in std::mem::take(&mut inode.pending) {
            if bytes.is_empty() && !lost.next() {
                write(&mut inode.durable, offset, &[]);
            }
            for (i, sector) in bytes.chunks(512).enumerate() {
                if !lost.next() {
                    write(&mut inode.durable, offset + i * 512, sector);
                }
            }
        }
    }
    durable.into_iter().map(|(path, inode)| (path, inodes[inode].durable.clone())).collect()
}

fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    contents.resize(contents.len().max(offset + bytes.len()), 0);
    contents[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn survives_every_crash(trace: &Trace, options: StoreOptions) -> usize {
    let arena = arena();
    let mut states = 0;
    for died_after in 0..=trace.changes.len() {
        let seeds = (0..3).map(|seed| Lost::Random(seed * 1_000_003 + died_after as u64));
        for lost in [Lost::Everything, Lost::Nothing].into_iter().chain(seeds) {
            let image = crash_image(&trace.changes[..died_after], lost);
            let words = || format!("died after {died_after} of {} changes, lost {lost:?}", trace.changes.len());
            let promised = trace.committed.iter().rev().find(|(changes, _)| *changes <= died_after).map(|(_, id)| *id);
            let mut job = Job::start_in(MemoryDisk::with(image), arena.clone(), options)
                .unwrap_or_else(|refusal| panic!("{}: {refusal}", words()));
            let restored = job.restored.as_ref().map(|restored| restored.id());
            assert!(restored >= promised, "{}: {promised:?} was committed, {restored:?} came back", words());
            match restored {
                Some(id) => assert_eq!(job.model, trace.history[&id], "{}", words()),
                None => assert!(job.model.is_empty()),
            }
            let next = job.checkpoint(&[page(1, 1)], 99);
            let committed = job.committed.clone();
            let again = Job::start_in(job.crash(), arena.clone(), options).unwrap();
            assert_eq!(again.restored.as_ref().map(|restored| restored.id()), Some(next), "{}", words());
            assert_eq!(again.model, committed, "{}", words());
            states += 1;
        }
    }
    states
}

/// A process is killed after every operation, so that nothing it wrote is lost; the next one starts, and then the power fails.
fn what_a_start_found_survives_a_power_cut(trace: &Trace, options: StoreOptions) -> usize {
    let (arena, mut starts) = (arena(), 0);
    for killed_after in 0..=trace.changes.len() {
        let before = &trace.changes[..killed_after];
        let mut disk = MemoryDisk::with(crash_image(before, Lost::Nothing));
        disk.trace = Some(Vec::new());
        let started = Job::open(disk, arena.clone(), options).unwrap();
        let changes = [before, &started.disk.trace.unwrap()].concat();
        for lost in [Lost::Everything, Lost::Random(killed_after as u64), Lost::Random(!killed_after as u64)] {
            let again = Job::open(MemoryDisk::with(crash_image(&changes, lost)), arena.clone(), options).unwrap();
            let [found, left] = [&started.restored, &again.restored].map(|of| of.as_ref().map(|of| of.id()));
            assert!(left >= found, "killed after {killed_after}, lost {lost:?}: {found:?} was found, {left:?} is left");
            starts += 1;
        }
    }
    starts
}

#[test]
fn what_a_killed_process_left_is_not_undone_by_a_power_cut_once_it_was_started_from() {
    let starts = what_a_start_found_survives_a_power_cut(&traced_job(small_options(), 20), small_options());
    let options = StoreOptions { one_flush_bytes_max: 0, ..small_options() };
    let large = what_a_start_found_survives_a_power_cut(&traced_job(options, 8), options);
    assert!(starts > 300 && large > 100, "{starts} and {large} starts");
}

#[test]
fn small_checkpoints_survive_a_power_cut_after_every_operation() {
    let states = survives_every_crash(&traced_job(small_options(), 40), small_options());
    assert!(states > 1_200, "{states} states");
}

#[test]
fn large_checkpoints_survive_a_power_cut_after_every_operation() {
    let options = StoreOptions { one_flush_bytes_max: 0, ..small_options() };
    let states = survives_every_crash(&traced_job(options, 8), options);
    assert!(states > 300, "{states} states");
}
