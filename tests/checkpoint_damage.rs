//! Files cut, swapped, zeroed, and blocks that belong elsewhere: detected, and what is restored is right or nothing.

mod checkpoint_support;

use checkpoint_support::*;
use millstream::checkpoint::*;
use std::path::{Path, PathBuf};

fn sectors(files: &Files) -> Vec<(PathBuf, usize)> {
    let all = written(files).into_iter();
    all.flat_map(|(path, end)| (0..end).step_by(4096).map(move |offset| (path.clone(), offset))).collect()
}

#[test]
fn a_file_cut_at_any_512_bytes_is_detected_and_a_checkpoint_before_the_cut_is_found() {
    let (files, history) = small_directory();
    let arena = arena();
    for (path, end) in written(&files) {
        for len in (0..files[&path].len()).step_by(512) {
            let mut cut = files.clone();
            cut.get_mut(&path).unwrap().truncate(len);
            assert!(len >= end || is_detected(&mut cut, &arena), "{path:?} cut to {len} bytes unnoticed");
            let restored = restore_damaged(&cut, &arena, &history);
            assert!(len < end || restored.is_some());
        }
    }
}

#[test]
fn a_removed_file_is_damage_and_no_empty_directory() {
    let (files, history) = small_directory();
    let arena = arena();
    for path in files.keys() {
        let mut less = files.clone();
        less.remove(path);
        assert_eq!(restore_damaged(&less, &arena, &history), None, "without {path:?}");
    }
}

#[test]
fn a_zeroed_sector_is_detected() {
    let (files, history) = small_directory();
    let arena = arena();
    for (path, offset) in sectors(&files) {
        let mut zeroed = files.clone();
        zeroed.get_mut(&path).unwrap()[offset..offset + 4096].fill(0);
        assert!(is_detected(&mut zeroed, &arena), "{path:?} at {offset}");
        restore_damaged(&zeroed, &arena, &history);
    }
}

#[test]
fn a_sector_written_over_another_one_is_detected() {
    let (files, history) = small_directory();
    let arena = arena();
    let sectors = sectors(&files);
    for (from, from_offset) in &sectors {
        for (to, to_offset) in sectors.iter().filter(|to| **to != (from.clone(), *from_offset)) {
            let mut changed = files.clone();
            let sector = files[from][*from_offset..from_offset + 4096].to_vec();
            changed.get_mut(to).unwrap()[*to_offset..to_offset + 4096].copy_from_slice(&sector);
            assert!(is_detected(&mut changed, &arena), "{from:?} {from_offset} over {to:?} {to_offset}");
            restore_damaged(&changed, &arena, &history);
        }
    }
}

#[test]
fn swapped_files_are_detected() {
    let mut job = Job::start(MemoryDisk::default(), StoreOptions { retained_count: 12, ..small_options() }).unwrap();
    let mut history = History::new();
    for round in 0..12 {
        let all: Vec<PageKey> = (0..60).map(|i| page(i as u16, i)).collect();
        let id = job.checkpoint(&all, round);
        history.insert(id, job.committed.clone());
    }
    let (files, arena) = (job.crash().files, arena());
    assert!(files.len() >= 3, "more than one extent");
    for a in files.keys() {
        for b in files.keys().filter(|b| *b > a) {
            let mut swapped = files.clone();
            swapped.insert(a.clone(), files[b].clone());
            swapped.insert(b.clone(), files[a].clone());
            assert!(is_detected(&mut swapped, &arena), "{a:?} and {b:?}");
            restore_damaged(&swapped, &arena, &history);
        }
    }
}

#[test]
fn damage_in_the_newest_checkpoint_brings_the_one_before_and_is_reported() {
    let (files, history) = small_directory();
    let report = verify_disk(&files).unwrap();
    let (path, range) = report.checked.iter().max_by_key(|(_, range)| range.end).unwrap();
    let mut damaged = files.clone();
    damaged.get_mut(path).unwrap()[range.start as usize + 100] ^= 1;
    let job = Job::start(MemoryDisk::with(damaged), small_options()).unwrap();
    let restored = job.restored.as_ref().unwrap().id();
    assert_eq!(Some(restored), history.keys().rev().nth(1).copied());
    assert_eq!(job.damages.len(), 1);
    let words = job.damages[0].to_string();
    assert!(words.starts_with("checkpoint 3: manifest at byte") && words.contains("checksum"), "{words}");
    assert_eq!(job.store.next_id(), CheckpointId(4), "a number is never used twice");
}

#[test]
fn one_damaged_copy_of_the_superblock_costs_no_checkpoint() {
    let (files, history) = small_directory();
    let newest = history.keys().next_back().copied();
    let arena = arena();
    for (path, offset) in sectors(&files).into_iter().filter(|(path, _)| path.to_string_lossy().contains("superblock"))
    {
        let mut damaged = files.clone();
        damaged.get_mut(&path).unwrap()[offset + 70] ^= 1;
        assert_eq!(restore_damaged(&damaged, &arena, &history), newest);
    }
}

#[test]
fn a_job_that_fell_back_goes_on_and_repairs_its_superblocks() {
    let (mut files, _) = small_directory();
    let path = files.keys().find(|path| path.to_string_lossy().contains("superblock")).unwrap().clone();
    files.get_mut(&path).unwrap()[2 * 4096..4 * 4096].fill(0xaa);
    let mut job = Job::start(MemoryDisk::with(files), small_options()).unwrap();
    assert_eq!(job.damages.len(), 2);
    job.checkpoint(&[page(0, 0)], 9);
    job.store.step(&mut job.disk, 0);
    assert!(verify_disk(&job.disk.files).unwrap().damages.is_empty());
}

#[test]
fn a_newer_format_is_refused_and_not_taken_for_damage() {
    let (mut files, _) = small_directory();
    let bytes = files.iter_mut().find(|(path, _)| path.to_string_lossy().contains("superblock")).unwrap().1;
    bytes[8..10].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    assert!(matches!(Job::start(MemoryDisk::with(files.clone()), small_options()), Ok(job) if job.damages.len() == 1));
    let bytes = files.iter_mut().find(|(path, _)| path.to_string_lossy().contains("superblock")).unwrap().1;
    fuzzing::repair_checksums(bytes);
    let refusal = Job::start(MemoryDisk::with(files), small_options()).map(|_| ()).unwrap_err();
    assert!(matches!(refusal, RestoreError::NewerFormat { found, .. } if found == FORMAT_VERSION + 1), "{refusal}");
    assert!(refusal.to_string().ends_with("use the newer program"), "{refusal}");
}

#[test]
fn tools_need_no_lock_and_no_job_name() {
    let (files, _) = small_directory();
    let mut disk = MemoryDisk::with(files);
    assert_eq!(verify(&mut disk, &arena(), Path::new(DIR)).unwrap().intact.len(), 3);
    let verbs: Vec<&str> = disk.log.iter().map(|(verb, _)| *verb).collect();
    assert!(
        verbs.iter().all(|verb| ["list", "open", "measure", "read", "close"].contains(verb)),
        "read-only: {verbs:?}"
    );
}
