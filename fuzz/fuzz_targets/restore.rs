//! Any bytes as a checkpoint directory: a right state or a typed error, from opening, reading, verifying and listing it.
//!
//! The input edits a small directory that was written by the store (overwrites, cuts, copied sectors), or is the directory.
//! Half of the inputs get checksums that fit again, up to the superblock, so that what lies behind them is reached.
#![no_main]

#[path = "../../tests/checkpoint_support/mod.rs"]
mod checkpoint_support;

use checkpoint_support::{DIR, Files, Job, MemoryDisk, arena, small_directory, small_options};
use libfuzzer_sys::fuzz_target;
use millstream::checkpoint::{PieceLoader, fuzzing, list, verify};
use millstream::memory::Arena;
use millstream::state::KeyGroupRange;
use std::path::Path;
use std::sync::OnceLock;

const PIECES_MAX: usize = 500;

fn base() -> &'static (Files, Arena) {
    static BASE: OnceLock<(Files, Arena)> = OnceLock::new();
    BASE.get_or_init(|| (small_directory().0, arena()))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let (files, arena) = base();
    let mut files = if mode & 2 == 0 { edited(files.clone(), rest) } else { raw(files, rest) };
    if mode & 1 == 1 {
        fuzzing::repair_directory(&mut files.values_mut().collect::<Vec<_>>());
    }
    let mut disk = MemoryDisk::with(files);
    let _ = verify(&mut disk, arena, Path::new(DIR));
    let _ = list(&mut disk, arena, Path::new(DIR));
    let Ok(mut job) = Job::open(disk, arena.clone(), small_options()) else { return };
    if let Some(restored) = job.restored.take() {
        let mut loader = PieceLoader::new(restored.clone(), arena.clone());
        let mut wanted = 0;
        let all = KeyGroupRange { start: 0, end: restored.max_parallelism() };
        for state in restored.states() {
            let Ok(index) = restored.index(&mut job.disk, arena, state.id, all) else { continue };
            for (page, pieces) in index.pages(state.id, all) {
                wanted += pieces.len();
                if wanted < PIECES_MAX {
                    loader.request(page, pieces);
                }
            }
        }
        while !loader.is_idle() {
            loader.step(&mut job.disk);
            millstream::io::Io::drive(&mut job.disk);
            while loader.next_piece().is_some() {}
        }
        loader.close(&mut job.disk);
    }
    if job.store.page_map_fault().is_none() {
        let _ = job.try_checkpoint(&[checkpoint_support::page(1, 1)], 9);
    }
});

/// Applies edits: `file and verb, offset (2 bytes), length, bytes`.
fn edited(mut files: Files, mut edits: &[u8]) -> Files {
    while let [what, low, high, len, rest @ ..] = edits {
        let offset = usize::from(u16::from_le_bytes([*low, *high]));
        let index = usize::from(what & 3) % files.len();
        let Some(file) = files.values_mut().nth(index) else { break };
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        edits = rest;
        match what >> 6 {
            0 | 1 => file.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from),
            2 => file.truncate(offset),
            _ => {
                let from = usize::from(*len) * 4096;
                let to = offset / 4096 * 4096;
                if from + 4096 <= file.len() && to + 4096 <= file.len() {
                    file.copy_within(from..from + 4096, to);
                }
            }
        }
    }
    files
}

/// The bytes themselves, cut in two: a superblock file and an extent.
fn raw(names: &Files, bytes: &[u8]) -> Files {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    names.keys().cloned().zip([first.to_vec(), second.to_vec()]).collect()
}
