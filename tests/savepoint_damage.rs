//! Savepoints and checkpoint directories with bad bytes in them, restored and read offline: what comes back is right, or there is a
//! typed error; nothing panics, and nothing is allocated because a damaged length says so.

mod checkpoint_support;

use checkpoint_support::*;
use millstream::checkpoint::*;
use millstream::io::{SimDisk, SimDiskOptions, SimIo};
use millstream::offline::{OfflineCheckpoint, SavepointWriter};
use std::path::{Path, PathBuf};

/// More than the tests hold by themselves, far less than any length that is planted.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// The files of a savepoint with `keys` numbers, each times `factor`.
fn savepoint(keys: u64, factor: u64) -> Files {
    let disk = SimDisk::new(1, SimDiskOptions::default());
    let mut writer = SavepointWriter::new("card-velocity", 128, &arena());
    let numbers = writer.states().value::<u64, u64>("count", "counts").unwrap();
    let context = writer.states().key_context();
    (0..keys).for_each(|key| numbers.put(&context.hash(&key), &(key * factor)).unwrap());
    writer.blobs().push(OperatorBlob {
        operator: "payments".to_owned(),
        subtask: 0,
        kind: "position".to_owned(),
        bytes: vec![1, 2, 3],
    });
    let mut io = SimIo::new(&disk);
    writer.write_with(&mut io, Path::new(DIR), small_options()).unwrap();
    let names = disk.names(Path::new(DIR)).unwrap();
    let files: Files = names
        .iter()
        .map(|name| Path::new(DIR).join(name))
        .map(|path| (path.clone(), disk.bytes(&path).unwrap()))
        .collect();
    assert_eq!(files.len(), 2, "a superblock file and an extent: {names:?}");
    files
}

/// What a job would start from.
fn restored(files: &Files) -> Result<Model, RestoreError> {
    let (mut disk, arena) = (MemoryDisk::with(files.clone()), arena());
    let opened = RestoredCheckpoint::of_savepoint(&mut disk, &arena, Path::new(DIR), Some("card-velocity"));
    let model = opened.and_then(|restored| load(&mut disk, &arena, &restored));
    let wrote = disk.log.iter().find(|(verb, _)| !["list", "open", "measure", "read", "close"].contains(verb));
    assert_eq!(wrote, None, "a savepoint is only read");
    model
}

/// Restoring gives this, or a typed error about damage.
fn is_right_or_refused(files: &Files, right: &Model, what: &str) -> bool {
    match restored(files) {
        Ok(model) => {
            assert!(model == *right, "{what}: restored wrong");
            true
        }
        Err(RestoreError::AllDamaged { damages, .. }) => {
            assert!(!damages.is_empty());
            false
        }
        Err(RestoreError::PieceDamaged { .. } | RestoreError::MapDamaged { .. }) => false,
        Err(refusal) => panic!("{what}: {refusal}"),
    }
}

/// Everything that reads directories, over these files; the results may be anything but a panic.
fn read_by_all(files: &Files) {
    let (mut disk, arena) = (MemoryDisk::with(files.clone()), arena());
    let _ = verify(&mut disk, &arena, Path::new(DIR));
    let _ = list(&mut disk, &arena, Path::new(DIR));
    let _ = restored(files);
    if let Ok(opened) = OfflineCheckpoint::open(&mut disk, &arena, Path::new(DIR), None) {
        for state in opened.states() {
            let groups = opened.checkpoint().max_parallelism().min(256);
            (0..groups).for_each(|group| drop(opened.key_group(&mut disk, state, group)));
        }
    }
}

/// The most memory this process ever held.
#[allow(clippy::disallowed_methods, reason = "the kernel's figure about this process")]
fn memory_bytes_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn sectors(files: &Files) -> Vec<(PathBuf, usize)> {
    let all = files.iter().flat_map(|(path, bytes)| (0..bytes.len()).step_by(4096).map(move |at| (path.clone(), at)));
    all.collect()
}

#[test]
fn a_savepoint_cut_at_any_length_is_refused() {
    let files = savepoint(300, 3);
    let right = restored(&files).unwrap();
    assert!(!right.is_empty());
    for (path, bytes) in &files {
        let is_extent = path.to_string_lossy().contains("extent");
        for len in (0..bytes.len()).step_by(if is_extent { 512 } else { 37 }) {
            let mut cut = files.clone();
            cut.get_mut(path).unwrap().truncate(len);
            let whole = is_right_or_refused(&cut, &right, &format!("{} cut to {len}", path.display()));
            assert!(!whole || !is_extent, "the last block of an extent ends with it");
            assert!(is_detected(&mut cut, &arena()), "{} cut to {len} unnoticed", path.display());
        }
    }
}

#[test]
fn zeroed_sectors_of_a_savepoint_are_found() {
    let files = savepoint(300, 3);
    let right = restored(&files).unwrap();
    for (path, at) in sectors(&files) {
        let mut zeroed = files.clone();
        zeroed.get_mut(&path).unwrap()[at..at + 4096].fill(0);
        is_right_or_refused(&zeroed, &right, &format!("{} zeroed at {at}", path.display()));
        assert!(is_detected(&mut zeroed, &arena()), "{} zeroed at {at} unnoticed", path.display());
    }
}

#[test]
fn a_file_of_another_savepoint_of_the_job_is_no_part_of_this_one() {
    let (files, others) = (savepoint(300, 3), savepoint(300, 5));
    let (right, right_of_others) = (restored(&files).unwrap(), restored(&others).unwrap());
    assert_ne!(right, right_of_others);
    for path in files.keys() {
        let mut mixed = files.clone();
        mixed.insert(path.clone(), others[path].clone());
        assert!(!is_right_or_refused(&mixed, &right, "mixed"), "{} of another savepoint went in", path.display());
        assert!(is_detected(&mut mixed, &arena()));
    }
    let mut swapped = files.clone();
    let paths: Vec<&PathBuf> = files.keys().collect();
    swapped.insert(paths[0].clone(), files[paths[1]].clone());
    swapped.insert(paths[1].clone(), files[paths[0]].clone());
    assert!(!is_right_or_refused(&swapped, &right, "swapped"));
}

#[test]
fn a_savepoint_without_one_of_its_files_is_refused() {
    let files = savepoint(300, 3);
    for path in files.keys() {
        let mut less = files.clone();
        less.remove(path);
        assert!(restored(&less).is_err(), "without {}", path.display());
    }
    let empty = restored(&Files::new()).unwrap_err();
    assert!(matches!(empty, RestoreError::NoCheckpoint { .. }), "{empty}");
}

#[test]
fn a_savepoint_of_a_newer_version_is_refused_as_such() {
    let mut files = savepoint(300, 3);
    for bytes in files.values_mut() {
        for start in (0..bytes.len()).step_by(4096) {
            if bytes[start..].starts_with(b"MILLSTRM") {
                bytes[start + 8..start + 10].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
            }
        }
    }
    fuzzing::repair_directory(&mut files.values_mut().collect::<Vec<_>>());
    let refused = restored(&files).unwrap_err();
    assert!(matches!(refused, RestoreError::NewerFormat { found, .. } if found == FORMAT_VERSION + 1), "{refused}");
}

/// Writes `word` over every word of the headers, superblocks, manifests and page maps, with checksums that fit again.
fn plant_everywhere(files: &Files, word: &[u8]) -> usize {
    let mut planted = 0;
    for (path, bytes) in files {
        for start in (0..bytes.len()).step_by(4096).filter(|start| bytes[*start..].starts_with(b"MILLSTRM")) {
            let kind = u16::from_le_bytes([bytes[start + 10], bytes[start + 11]]);
            // Pieces have their own test (`state_damage`): here only their headers.
            let payload = if fuzzing::PAGE_MAP_AND_MANIFEST.contains(&kind) { 1536 } else { 512 };
            let end = if kind == 1 { start + 64 } else { (start + payload).min(bytes.len()) };
            for at in (start..end).step_by(word.len()) {
                let is_empty_slot = bytes[start + 24..start + 32] == [0; 8] && start > 0;
                if is_empty_slot || bytes[at..at + word.len()] == *word {
                    continue;
                }
                let mut changed = files.clone();
                changed.get_mut(path).unwrap()[at..at + word.len()].copy_from_slice(word);
                fuzzing::repair_directory(&mut changed.values_mut().collect::<Vec<_>>());
                read_by_all(&changed);
                planted += 1;
            }
        }
    }
    planted
}

#[test]
fn lengths_of_2_to_the_60_allocate_nothing() {
    let small = savepoint(20, 3);
    let mut planted = plant_everywhere(&small, &(1u64 << 60).to_le_bytes());
    planted += plant_everywhere(&small, &0x7fff_fff0u32.to_le_bytes());
    planted += plant_everywhere(&small_directory().0, &(1u64 << 60).to_le_bytes());
    let peak = memory_bytes_peak();
    println!("{planted} words planted, at most {} MiB held", peak >> 20);
    assert!(planted > 500 && peak < MEMORY_BYTES_MAX, "{planted} planted, {peak} bytes held");
}

#[test]
fn a_directory_that_may_not_be_read_is_refused_and_not_taken_for_damage() {
    let files = savepoint(20, 3);
    for verb in ["list", "open"] {
        let mut disk = MemoryDisk::with(files.clone());
        disk.fault = Some(Box::new(move |of, _| (of == verb).then_some(std::io::ErrorKind::PermissionDenied)));
        let refused =
            RestoredCheckpoint::of_savepoint(&mut disk, &arena(), Path::new(DIR), None).map(|_| ()).unwrap_err();
        assert!(matches!(refused, RestoreError::NoPermission { .. }), "{verb}: {refused}");
    }
}
