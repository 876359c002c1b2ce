//! Checkpoints written, lost, failed and read back on a disk in memory.

mod checkpoint_support;

use checkpoint_support::*;
use millstream::checkpoint::*;
use millstream::io::Io;
use std::io::ErrorKind;
use std::path::Path;

fn pages(count: u32) -> Vec<PageKey> {
    (0..count).map(|i| page((i % 128) as u16, i)).collect()
}

fn restart(job: Job) -> Job {
    Job::start(job.crash(), small_options()).unwrap()
}

#[test]
fn an_empty_directory_starts_without_a_checkpoint() {
    let job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    assert!(job.restored.is_none());
    assert_eq!(job.store.next_id(), CheckpointId(1));
    assert!(restart(job).restored.is_none());
}

#[test]
fn what_several_incremental_checkpoints_wrote_is_read_back() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    for round in 0..40 {
        let changed: Vec<PageKey> =
            pages(50).into_iter().filter(|page| page.page % 7 == u32::from(round) % 7).collect();
        job.checkpoint(&changed, round);
        let committed = job.committed.clone();
        let blobs = job.blobs.clone();
        let id = job.store.last_committed();
        job = restart(job);
        assert_eq!(job.restored.as_ref().map(|restored| restored.id()), id);
        assert_eq!(job.model, committed);
        assert_eq!(job.blobs, blobs);
        assert!(job.damages.is_empty());
    }
    let restored = job.restored.unwrap();
    assert_eq!(restored.parallelism()["count"], 1);
    assert_eq!(restored.states()[0].layout, "key u64, value u64");
    assert_eq!(restored.blobs("payments").count(), 1);
}

#[test]
fn a_crash_before_the_commit_leaves_the_checkpoint_before() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    let first = job.checkpoint(&pages(20), 1);
    let (kind, pieces) = job.pieces(&pages(5), 2);
    let id = job.begin(kind);
    let blocks = job.hand_over(id, &pieces, 4096);
    job.acknowledge(id, blocks);
    for _ in 0..3 {
        job.store.step(&mut job.disk, 0);
    }
    let committed = job.committed.clone();
    let job = restart(job);
    assert_eq!(job.restored.as_ref().map(|restored| restored.id()), Some(first));
    assert_eq!(job.model, committed);
}

#[test]
fn disk_use_stays_bounded_over_a_thousand_small_checkpoints() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    job.checkpoint(&pages(100), 0);
    let mut bytes_max = 0;
    for round in 1..1000u32 {
        job.checkpoint(&[page((round % 128) as u16, round % 100), page(0, 0)], round as u8);
        bytes_max = bytes_max.max(disk_bytes(&job.disk));
    }
    // State of 30 KiB and extents of up to 256 KiB, of which a few must be alive.
    assert!(bytes_max <= 2 << 20, "{bytes_max} bytes");
    let committed = job.committed.clone();
    assert_eq!(restart(job).model, committed);
}

/// The longest chain of any of ten pages that change in every one of fifty checkpoints.
fn longest_chain(options: StoreOptions) -> usize {
    let mut job = Job::start(MemoryDisk::default(), options).unwrap();
    let mut longest = 0;
    for round in 0..50 {
        job.checkpoint(&pages(10), round);
        longest = longest.max(job.model.values().map(Vec::len).max().unwrap());
    }
    longest
}

#[test]
fn a_page_whose_deltas_are_as_long_as_its_image_becomes_an_image_again() {
    let longest = longest_chain(StoreOptions { deltas_max: 1000, ..small_options() });
    assert_eq!(longest, 1 + 11, "an image of 303 bytes and deltas of 40 until they are one and three eighths as long");
}

#[test]
fn chains_of_short_deltas_stay_within_their_limit() {
    let longest = longest_chain(StoreOptions { deltas_max: 4, ..small_options() });
    assert_eq!(longest, 5, "an image and at most four deltas");
}

#[test]
fn only_the_retained_checkpoints_are_listed() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    for round in 0..10 {
        job.checkpoint(&pages(10), round);
    }
    let arena = arena();
    let (listed, damages) = list(&mut job.disk, &arena, Path::new(DIR)).unwrap();
    assert_eq!(listed.iter().map(|c| c.id.0).collect::<Vec<_>>(), [10, 9, 8]);
    assert_eq!(listed[0].states, ["count/counts"]);
    assert_eq!(listed[0].pages, 10);
    assert!(damages.is_empty());
    let report = verify(&mut job.disk, &arena, Path::new(DIR)).unwrap();
    assert_eq!(report.intact, [CheckpointId(10), CheckpointId(9), CheckpointId(8)]);
}

#[test]
fn full_buffers_and_large_checkpoints_are_read_back() {
    let options = StoreOptions { one_flush_bytes_max: 1 << 20, ..small_options() };
    let mut job = Job::start(MemoryDisk::default(), options).unwrap();
    job.checkpoint(&pages(1), 0);
    // A divisor of what a buffer of 1 MiB holds behind the block's header.
    let image = vec![7; 8256];
    let pieces: Vec<_> = pages(400).into_iter().map(|page| (page, PieceKind::Image, image.clone())).collect();
    let id = job.begin(SnapshotKind::Full);
    job.model.clear();
    let blocks = job.hand_over(id, &pieces, 1 << 20);
    assert_eq!(blocks, 4, "127 images fill a buffer to the last byte");
    job.acknowledge(id, blocks);
    job.store.seal(id).unwrap();
    assert!(matches!(job.finish(), StoreEvent::Committed { .. }));
    let committed = job.committed.clone();
    assert!(verify_disk(&job.disk.files).unwrap().damages.is_empty());
    assert_eq!(restart(job).model, committed);
}

#[test]
fn every_flush_comes_before_the_commit_and_the_directory_is_flushed_for_a_new_file() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    job.checkpoint(&pages(3), 0);
    job.disk.log.clear();
    job.checkpoint(&pages(3), 1);
    let verbs: Vec<&str> = job.disk.log.iter().map(|(verb, _)| *verb).filter(|verb| *verb != "close").collect();
    assert_eq!(
        verbs,
        ["write", "write", "write", "write", "sync", "sync"],
        "pieces, map, manifest, superblock, two flushes"
    );
    job.disk.log.clear();
    let many = pages(120);
    job.checkpoint(&many, 2);
    let at = |wanted: &str| job.disk.log.iter().position(|(verb, _)| *verb == wanted);
    let last_write = job.disk.log.iter().rposition(|(verb, _)| *verb == "write").unwrap();
    assert!(at("open").is_some() && at("sync directory").unwrap() < last_write);
}

#[test]
fn any_failed_write_or_flush_fails_the_checkpoint_and_its_file_is_never_written_again() {
    for (verb, nth) in
        (0..8).flat_map(|nth| ["write", "sync", "allocate", "open", "sync directory"].map(|verb| (verb, nth)))
    {
        let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
        job.checkpoint(&pages(30), 0);
        let before = job.store.last_committed();
        let mut count = 0;
        job.disk.fault = Some(Box::new(move |action, _| {
            count += usize::from(action == verb);
            (action == verb && count == nth + 1).then_some(ErrorKind::Other)
        }));
        job.disk.log.clear();
        let event = job.try_checkpoint(&pages(110), 1);
        let StoreEvent::Failed { error, .. } = event else { continue };
        assert!(matches!(error, CheckpointError::Disk { .. }), "{verb} {nth}: {error}");
        assert_eq!(job.store.last_committed(), before);
        assert_eq!(job.store.pages_needing_images(), ImagesNeeded::Everything);
        let CheckpointError::Disk { error, .. } = error else { unreachable!() };
        job.disk.fault = None;
        job.disk.log.clear();
        let committed = job.committed.clone();
        let disk = MemoryDisk::with(job.disk.files.clone());
        assert_eq!(Job::start(disk, small_options()).unwrap().model, committed, "{verb} {nth}");
        job.checkpoint(&pages(110), 2);
        if verb == "write" || verb == "sync" {
            assert!(
                !job.disk.log.iter().any(|(action, path)| *action == "write" && *path == error.path),
                "{verb} {nth}"
            );
        }
        let committed = job.committed.clone();
        assert!(verify_disk(&job.disk.files).unwrap().damages.is_empty());
        assert_eq!(restart(job).model, committed, "{verb} {nth}");
    }
}

#[test]
fn a_failed_flush_of_the_superblock_leaves_no_superblock_that_names_the_failed_checkpoint() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    let first = job.checkpoint(&pages(3), 0);
    let fails_once = {
        let mut failed = false;
        move |verb: &str, path: &Path| {
            let hit = verb == "sync" && path.to_string_lossy().contains("superblock") && !failed;
            failed |= hit;
            hit.then_some(ErrorKind::Other)
        }
    };
    job.disk.fault = Some(Box::new(fails_once));
    assert!(matches!(job.try_checkpoint(&pages(3), 1), StoreEvent::Failed { .. }));
    let job = restart(job);
    assert_eq!(job.restored.map(|restored| restored.id()), Some(first));
}

#[test]
fn a_full_disk_fails_the_checkpoint_with_a_clear_reason_and_the_next_one_succeeds() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    job.checkpoint(&pages(3), 0);
    job.disk.fault = Some(Box::new(|verb, _| (verb == "write").then_some(ErrorKind::StorageFull)));
    let StoreEvent::Failed { error, .. } = job.try_checkpoint(&pages(3), 1) else { panic!("there was no space") };
    assert!(error.to_string().contains("found no space"), "{error}");
    job.disk.fault = None;
    job.checkpoint(&pages(3), 2);
    let committed = job.committed.clone();
    assert_eq!(restart(job).model, committed);
}

#[test]
fn aborted_checkpoints_leave_nothing_behind() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    job.checkpoint(&pages(100), 0);
    job.checkpoint(&pages(100), 0);
    let before = disk_bytes(&job.disk);
    for round in 0..20 {
        let (kind, pieces) = job.pieces(&pages(100), round);
        let id = job.begin(kind);
        job.hand_over(id, &pieces, 4096);
        job.store.abort(id, "it took too long");
        let StoreEvent::Failed { error, .. } = job.finish() else { panic!("it was aborted") };
        assert_eq!(error.to_string(), format!("checkpoint {id} was aborted: it took too long"));
    }
    for _ in 0..3 {
        job.store.step(&mut job.disk, 0);
        job.disk.drive();
    }
    assert!(disk_bytes(&job.disk) <= before + (256 << 10), "{} bytes, {before} before", disk_bytes(&job.disk));
    job.model = job.committed.clone();
    job.checkpoint(&pages(3), 1);
}

#[test]
fn a_failing_removal_never_fails_the_job() {
    let after_60_rounds = |fault: Option<Fault>| {
        let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
        job.disk.fault = fault;
        for round in 0..60 {
            job.checkpoint(&pages(40), round);
        }
        job.disk.fault = None;
        job.checkpoint(&pages(40), 60);
        job.store.step(&mut job.disk, 0);
        job.disk.drive();
        disk_bytes(&job.disk)
    };
    let undisturbed = after_60_rounds(None);
    let disturbed =
        after_60_rounds(Some(Box::new(|verb, _| (verb == "remove").then_some(ErrorKind::PermissionDenied))));
    assert!(
        disturbed <= undisturbed,
        "{disturbed} bytes, {undisturbed} undisturbed: what could not be removed then is removed later"
    );
}

/// The story: a base of the page map names pieces that later entries replace; when the extents of those went, `verify` and the next start
/// took the old entries for damage.
#[test]
fn entries_of_the_page_map_that_later_ones_replace_may_name_extents_that_are_gone() {
    let options = StoreOptions { page_map_deltas_max: 1000, deltas_max: 2, ..small_options() };
    let mut job = Job::start(MemoryDisk::default(), options).unwrap();
    job.checkpoint(&pages(400), 0);
    // All pages get other images, few at a time, so that the base of the map stays when the extents it names are gone.
    for round in 1..60 {
        let changed: Vec<PageKey> = pages(400).into_iter().skip(usize::from(round) * 20 % 400).take(40).collect();
        job.checkpoint(&changed, round);
        let report = verify_disk(&job.disk.files).unwrap();
        assert!(report.damages.is_empty(), "round {round}: {:?}", report.damages.first());
    }
    let committed = job.committed.clone();
    assert_eq!(restart(job).model, committed);
}

#[test]
fn extents_that_nothing_reaches_any_more_are_written_again_instead_of_new_ones() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    for round in 0..60 {
        job.checkpoint(&pages(40), round);
    }
    let extents =
        |disk: &MemoryDisk| disk.files.keys().filter(|path| path.to_string_lossy().contains("extent")).count();
    let (before, from) = (extents(&job.disk), job.disk.log.len());
    for round in 60..120 {
        job.checkpoint(&pages(40), round);
    }
    let count = |verb: &str| job.disk.log[from..].iter().filter(|(logged, _)| *logged == verb).count();
    assert!(count("rename") > 0 && count("remove") == 0, "{} renamed, {} removed", count("rename"), count("remove"));
    assert_eq!(extents(&job.disk), before);
    let committed = job.committed.clone();
    assert_eq!(restart(job).model, committed);
}

#[test]
fn a_large_checkpoint_is_written_over_the_extents_of_a_forgotten_one_and_small_ones_let_them_go() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    let extents =
        |disk: &MemoryDisk| disk.files.keys().filter(|path| path.to_string_lossy().contains("extent")).count();
    let full = |job: &mut Job| {
        let pieces: Vec<_> = pages(400).into_iter().map(|page| (page, PieceKind::Image, vec![7; 8256])).collect();
        let id = job.begin(SnapshotKind::Full);
        job.model.clear();
        let blocks = job.hand_over(id, &pieces, 256 << 10);
        job.acknowledge(id, blocks);
        job.store.seal(id).unwrap();
        assert!(matches!(job.finish(), StoreEvent::Committed { .. }));
    };
    (0..5).for_each(|_| full(&mut job));
    let (before, from) = (extents(&job.disk), job.disk.log.len());
    full(&mut job);
    let created = job.disk.log[from..].iter().filter(|(verb, _)| *verb == "allocate").count();
    let renamed = job.disk.log[from..].iter().filter(|(verb, _)| *verb == "rename").count();
    assert!(renamed >= 12 && created - renamed <= 1, "{renamed} of {created} extents were written again");
    assert_eq!(extents(&job.disk), before);
    for round in 0..5 {
        job.checkpoint(&pages(40), round);
    }
    assert!(extents(&job.disk) <= before / 3, "{} of {before} extents are left", extents(&job.disk));
}

#[test]
fn another_jobs_directory_is_refused_by_name() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    job.checkpoint(&pages(3), 0);
    let mut disk = job.crash();
    let other = JobIdentity { name: "alerts".to_owned() };
    let refusal = CheckpointStore::open(&mut disk, &arena(), Path::new(DIR), &other, small_options()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "\"/state\" holds the checkpoints of job \"card-velocity\", not of \"alerts\": give each job its own directory"
    );
}

#[test]
fn missing_permissions_are_refused_and_not_taken_for_damage() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    job.checkpoint(&pages(3), 0);
    let mut disk = job.crash();
    disk.fault = Some(Box::new(|verb, _| (verb == "open").then_some(ErrorKind::PermissionDenied)));
    let refusal = CheckpointStore::open(&mut disk, &arena(), Path::new(DIR), &identity(), small_options()).unwrap_err();
    assert!(matches!(refusal, RestoreError::NoPermission { .. }), "{refusal}");
}

#[test]
fn files_of_the_restored_checkpoint_stay_while_it_is_held() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    job.checkpoint(&pages(100), 0);
    let committed = job.committed.clone();
    let mut job = restart(job);
    let restored = job.restored.take().unwrap();
    for round in 0..100 {
        job.checkpoint(&pages(100), round);
    }
    assert_eq!(load(&mut job.disk, &job.arena, &restored).unwrap(), committed);
    let held = disk_bytes(&job.disk);
    drop(restored);
    job.checkpoint(&pages(100), 100);
    job.store.step(&mut job.disk, 0);
    job.disk.drive();
    assert!(disk_bytes(&job.disk) < held);
}

#[test]
fn a_page_given_up_with_an_empty_image_does_not_come_back() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    job.checkpoint(&pages(3), 0);
    let id = job.begin(SnapshotKind::Incremental);
    let blocks = job.hand_over(id, &[(page(1, 1), PieceKind::Image, Vec::new())], 4096);
    job.acknowledge(id, blocks);
    job.store.seal(id).unwrap();
    assert!(matches!(job.finish(), StoreEvent::Committed { pages: 2, .. }));
    assert_eq!(restart(job).model.keys().copied().collect::<Vec<_>>(), [page(0, 0), page(2, 2)]);
}

#[test]
fn a_seal_without_all_acknowledgements_names_the_missing_subtasks() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    let id = job.begin(SnapshotKind::Full);
    let error = job.store.seal(id).unwrap_err();
    assert_eq!(error.to_string(), "checkpoint 1 lacks the acknowledgement of source/0, count/0");
}

#[test]
fn a_block_that_got_lost_on_its_way_fails_the_checkpoint() {
    let mut job = Job::start(MemoryDisk::default(), small_options()).unwrap();
    let id = job.begin(SnapshotKind::Full);
    job.acknowledge(id, 1);
    job.store.seal(id).unwrap();
    let StoreEvent::Failed { error, .. } = job.finish() else { panic!("a block is missing") };
    assert_eq!(error, CheckpointError::BlocksDiffer { id, announced: 1, received: 0 });
}
