//! JSON Lines in a directory, exactly once: each record is one line in one committed file.
//!
//! Here: encoding records. Not here: how lines become visible exactly once (`file_transaction`, with the names of the files).

use super::file_transaction::FileTransaction;
use super::writer::{Sink, SinkContext, SinkError, SinkWriter};
use crate::checkpoint::CheckpointId;
use crate::io::Io;
use crate::record::Stamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes records as lines of JSON into `part-<checkpoint>-<subtask>.jsonl` in one directory, visible when their checkpoint is
/// complete. The directory belongs to one job: other output in it is refused, hidden files left by a crash are removed.
#[derive(Clone)]
pub struct JsonLines<E> {
    directory: Arc<Path>,
    encoder: E,
}

/// Turns a record into one line.
pub trait LineEncoder<V>: Clone + Send + Sync + 'static {
    /// Appends the record to `line`, without a line end, or says why it cannot be written.
    fn encode(&self, record: &V, line: &mut Vec<u8>) -> Result<(), String>;
}

/// Encodes with the record's `serde::Serialize`. Numbers read back exactly; a value that is not finite becomes `null`.
#[cfg(feature = "formats")]
#[derive(Clone, Copy, Debug)]
pub struct SerdeJson;

/// Encodes with a function, for what cannot be serialised (archived records are views, for example).
#[derive(Clone, Copy, Debug)]
pub struct EncodeWith<F>(F);

#[cfg(feature = "formats")]
impl JsonLines<SerdeJson> {
    /// Into this directory, which is created when it is not there.
    pub fn exactly_once(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into().into(), encoder: SerdeJson }
    }
}

impl<F> JsonLines<EncodeWith<F>> {
    /// As `exactly_once`, each record written by `encode`: it appends one line without its end.
    pub fn exactly_once_with<V>(directory: impl Into<PathBuf>, encode: F) -> Self
    where
        F: Fn(&V, &mut Vec<u8>) + Clone + Send + Sync + 'static,
    {
        Self { directory: directory.into().into(), encoder: EncodeWith(encode) }
    }
}

#[cfg(feature = "formats")]
impl<V: serde::Serialize> LineEncoder<V> for SerdeJson {
    fn encode(&self, record: &V, line: &mut Vec<u8>) -> Result<(), String> {
        serde_json::to_writer(line, record).map_err(|e| e.to_string())
    }
}

impl<V, F: Fn(&V, &mut Vec<u8>) + Clone + Send + Sync + 'static> LineEncoder<V> for EncodeWith<F> {
    fn encode(&self, record: &V, line: &mut Vec<u8>) -> Result<(), String> {
        (self.0)(record, line);
        Ok(())
    }
}

impl<V: 'static, E: LineEncoder<V>> Sink<V> for JsonLines<E> {
    type Writer = JsonLinesWriter<E>;

    fn open(&self, subtask: u32, parallelism: u32) -> Result<Self::Writer, SinkError> {
        Ok(JsonLinesWriter {
            encoder: self.encoder.clone(),
            line: Vec::new(),
            transaction: FileTransaction::new(self.directory.clone(), subtask, parallelism),
        })
    }
}

/// Writes the lines of one subtask.
pub struct JsonLinesWriter<E> {
    encoder: E,
    /// The line being encoded; kept for its memory.
    line: Vec<u8>,
    transaction: FileTransaction,
}

impl<V: 'static, E: LineEncoder<V>> SinkWriter<V> for JsonLinesWriter<E> {
    fn write(&mut self, cx: &mut SinkContext<'_>, _: &Stamp, record: &V) -> Result<(), SinkError> {
        self.line.clear();
        self.encoder.encode(record, &mut self.line).map_err(|reason| SinkError::BadRecord { reason })?;
        self.line.push(b'\n');
        self.transaction.append(cx, &self.line)
    }

    fn is_full(&self) -> bool {
        self.transaction.is_full()
    }

    fn poll(&mut self, cx: &mut SinkContext<'_>) -> Result<bool, SinkError> {
        self.transaction.poll(cx.io)
    }

    fn snapshot(&mut self, _: &mut SinkContext<'_>, id: CheckpointId) -> Result<Vec<u8>, SinkError> {
        self.transaction.snapshot(id)
    }

    fn is_prepared(&self) -> bool {
        self.transaction.is_prepared()
    }

    fn commit(&mut self, _: &mut SinkContext<'_>, id: CheckpointId) -> Result<(), SinkError> {
        self.transaction.commit(id)
    }

    fn is_committed(&self) -> bool {
        self.transaction.is_committed()
    }

    fn restore(&mut self, _: &mut SinkContext<'_>, committables: &[(u32, Vec<u8>)]) -> Result<(), SinkError> {
        self.transaction.restore(committables)
    }

    fn is_ready(&self) -> bool {
        self.transaction.is_ready()
    }

    fn close(&mut self, io: &mut dyn Io) {
        self.transaction.close(io);
    }
}

#[cfg(all(test, feature = "formats"))]
mod tests {
    use super::super::test_support::{Rig, stamp};
    use super::*;
    use crate::io::IoError;
    use std::io::ErrorKind;

    type Writer = JsonLinesWriter<SerdeJson>;
    type Committables = Vec<(u32, Vec<u8>)>;

    fn sink() -> JsonLines<SerdeJson> {
        JsonLines::exactly_once("out")
    }

    fn open(subtask: u32, parallelism: u32) -> Writer {
        Sink::<u64>::open(&sink(), subtask, parallelism).unwrap()
    }

    /// The writer's calls, for records that are numbers.
    impl Rig {
        fn poll_until(&mut self, writer: &mut Writer, is_done: fn(&Writer) -> bool) -> Result<(), SinkError> {
            for _ in 0..1000 {
                self.io.drive();
                self.with(|cx| SinkWriter::<u64>::poll(writer, cx))?;
                if is_done(writer) {
                    return Ok(());
                }
            }
            panic!("it is never done");
        }

        fn start(&mut self, subtask: u32, parallelism: u32, from: Option<&Committables>) -> Result<Writer, SinkError> {
            let mut writer = open(subtask, parallelism);
            if let Some(committables) = from {
                self.with(|cx| SinkWriter::<u64>::restore(&mut writer, cx, committables))?;
            }
            self.poll_until(&mut writer, SinkWriter::<u64>::is_ready)?;
            Ok(writer)
        }

        fn write(&mut self, writer: &mut Writer, records: std::ops::Range<u64>) -> Result<(), SinkError> {
            records.into_iter().try_for_each(|record| self.with(|cx| writer.write(cx, &stamp(), &record)))
        }

        fn snapshot(&mut self, writer: &mut Writer, id: u64) -> Result<Vec<u8>, SinkError> {
            let bytes = self.with(|cx| SinkWriter::<u64>::snapshot(writer, cx, CheckpointId(id)))?;
            self.poll_until(writer, SinkWriter::<u64>::is_prepared)?;
            Ok(bytes)
        }

        fn commit(&mut self, writer: &mut Writer, id: u64) -> Result<(), SinkError> {
            self.with(|cx| SinkWriter::<u64>::commit(writer, cx, CheckpointId(id)))?;
            self.poll_until(writer, SinkWriter::<u64>::is_committed)
        }

        /// All lines of all visible files, in the order of the files.
        fn visible(&self) -> Vec<u64> {
            let names = self.io.names();
            let visible = names.iter().filter(|name| name.ends_with(".jsonl"));
            let text: String = visible.map(|name| self.io.get(name).unwrap()).collect();
            text.lines().map(|line| line.parse().unwrap()).collect()
        }
    }

    #[test]
    fn records_are_visible_exactly_from_the_commit_of_their_checkpoint() {
        let mut rig = Rig::new();
        let mut writer = rig.start(0, 1, None).unwrap();
        rig.write(&mut writer, 0..3).unwrap();
        rig.snapshot(&mut writer, 1).unwrap();
        rig.write(&mut writer, 3..5).unwrap();
        assert_eq!((rig.visible(), rig.io.names()), (vec![], vec!["out/.part-0-0.tmp".to_owned()]));
        rig.commit(&mut writer, 1).unwrap();
        let names = ["out/.part-0-1.tmp", "out/part-0000000001-0.jsonl"].map(str::to_owned);
        assert_eq!((rig.visible(), rig.io.names()), (vec![0, 1, 2], names.to_vec()));
        rig.snapshot(&mut writer, 2).unwrap();
        rig.commit(&mut writer, 2).unwrap();
        assert_eq!(rig.visible(), [0, 1, 2, 3, 4]);
        assert_eq!((rig.io.open_files(), rig.io.in_flight()), (0, 0));
    }

    #[test]
    fn a_checkpoint_without_records_makes_no_file() {
        let mut rig = Rig::new();
        let mut writer = rig.start(0, 1, None).unwrap();
        rig.snapshot(&mut writer, 1).unwrap();
        rig.commit(&mut writer, 1).unwrap();
        assert!(rig.io.names().is_empty());
    }

    #[test]
    fn what_a_failed_checkpoint_prepared_becomes_visible_with_the_next() {
        let mut rig = Rig::new();
        let mut writer = rig.start(0, 1, None).unwrap();
        rig.write(&mut writer, 0..2).unwrap();
        rig.snapshot(&mut writer, 1).unwrap();
        rig.write(&mut writer, 2..4).unwrap();
        let second = rig.snapshot(&mut writer, 2).unwrap();
        let mut again = Rig::on(rig.io.clone());
        again.start(0, 1, Some(&vec![(0, second)])).unwrap();
        assert_eq!(again.visible(), [0, 1, 2, 3]);
    }

    #[test]
    fn lines_longer_than_a_buffer_are_written_whole_and_a_full_writer_says_so() {
        let mut rig = Rig::new();
        let sink = JsonLines::exactly_once_with("out", |record: &String, line: &mut Vec<u8>| {
            line.extend_from_slice(record.as_bytes());
        });
        let mut writer = sink.open(0, 1).unwrap();
        let long = "x".repeat(150_000);
        let mut written = 0;
        while !SinkWriter::<String>::is_full(&writer) {
            rig.with(|cx| writer.write(cx, &stamp(), &long)).unwrap();
            written += 1;
        }
        assert_eq!(written, 3);
        rig.with(|cx| SinkWriter::<String>::snapshot(&mut writer, cx, CheckpointId(1))).unwrap();
        for _ in 0..100 {
            rig.io.drive();
            rig.with(|cx| SinkWriter::<String>::poll(&mut writer, cx)).unwrap();
        }
        assert!(SinkWriter::<String>::is_prepared(&writer) && !SinkWriter::<String>::is_full(&writer));
        assert_eq!(rig.io.get("out/.part-0-0.tmp").unwrap(), format!("{long}\n").repeat(3));
    }

    /// Runs a job of 40 records in 8 checkpoints on a disk that dies after `ops` operations; restarts it (with another parallelism each
    /// time) from its last complete checkpoint until it gets through. Returns what is visible in the end, and the number of deaths.
    fn run_with_deaths(ops: u64, has_power_cut: bool) -> (Vec<u64>, usize) {
        let mut disk = Rig::new().io;
        let mut complete: Option<(u64, Committables)> = None;
        let mut deaths = 0;
        loop {
            if deaths < 3 {
                disk.die_after(ops + 7 * deaths as u64);
            }
            let parallelism = [2, 1, 3, 2][deaths];
            let result = run(&disk, parallelism, &mut complete);
            if result.is_ok() {
                let mut visible = Rig::on(disk).visible();
                visible.sort_unstable();
                return (visible, deaths);
            }
            deaths += 1;
            match has_power_cut {
                true => disk.revive_after_power_cut(),
                false => disk.revive(),
            }
            disk = disk.clone();
        }
    }

    fn run(
        disk: &super::super::test_support::MemDisk,
        parallelism: u32,
        complete: &mut Option<(u64, Committables)>,
    ) -> Result<(), SinkError> {
        let mut rigs: Vec<_> = (0..parallelism).map(|_| Rig::on(disk.clone())).collect();
        let from = complete.as_ref().map(|(_, committables)| committables.clone());
        let mut writers = Vec::new();
        for (subtask, rig) in (0..).zip(&mut rigs) {
            writers.push(rig.start(subtask, parallelism, from.as_ref())?);
        }
        let first = complete.as_ref().map_or(1, |(id, _)| id + 1);
        for id in first..=8 {
            let mut committables = Vec::new();
            for (subtask, (rig, writer)) in (0..).zip(rigs.iter_mut().zip(&mut writers)) {
                for record in (id - 1) * 5..id * 5 {
                    if record % u64::from(parallelism) == u64::from(subtask) {
                        rig.write(writer, record..record + 1)?;
                    }
                }
                committables.push((subtask, rig.snapshot(writer, id)?));
            }
            *complete = Some((id, committables));
            // The notice of completion may come much later than the next records.
            for (rig, writer) in rigs.iter_mut().zip(&mut writers) {
                rig.commit(writer, id)?;
            }
        }
        Ok(())
    }

    #[test]
    fn wherever_the_process_or_the_machine_dies_every_record_is_visible_exactly_once() {
        for has_power_cut in [false, true] {
            let mut deaths_max = 0;
            for ops in 0..400 {
                let (visible, deaths) = run_with_deaths(ops, has_power_cut);
                assert!(visible.iter().copied().eq(0..40), "{ops} operations, power cut {has_power_cut}: {visible:?}");
                deaths_max = deaths_max.max(deaths);
            }
            assert_eq!((deaths_max, run_with_deaths(400, has_power_cut).1), (3, 0));
        }
    }

    #[test]
    fn a_checkpoint_taken_while_a_rename_is_not_yet_durable_still_names_the_part() {
        let mut rig = Rig::new();
        let mut writer = syncing_after_a_rename(&mut rig, false);
        let second = rig.with(|cx| SinkWriter::<u64>::snapshot(&mut writer, cx, CheckpointId(2))).unwrap();
        rig.io.revive_after_power_cut();
        assert!(rig.visible().is_empty());
        let mut again = Rig::on(rig.io.clone());
        again.start(0, 1, Some(&vec![(0, second)])).unwrap();
        assert_eq!(again.visible(), [0, 1]);
    }

    #[test]
    fn what_was_committed_stays_visible_after_a_power_cut() {
        let mut rig = Rig::new();
        let mut writer = rig.start(0, 1, None).unwrap();
        rig.write(&mut writer, 0..2).unwrap();
        rig.snapshot(&mut writer, 1).unwrap();
        rig.commit(&mut writer, 1).unwrap();
        rig.io.revive_after_power_cut();
        assert_eq!(rig.visible(), [0, 1]);
    }

    #[test]
    fn restoring_twice_changes_nothing() {
        let mut rig = Rig::new();
        let mut writer = rig.start(0, 1, None).unwrap();
        rig.write(&mut writer, 0..3).unwrap();
        let committables = vec![(0, rig.snapshot(&mut writer, 1).unwrap())];
        for _ in 0..2 {
            let mut again = Rig::on(rig.io.clone());
            again.start(0, 1, Some(&committables)).unwrap();
            assert_eq!(again.visible(), [0, 1, 2]);
            assert_eq!(again.io.open_files(), 0);
        }
    }

    #[test]
    fn with_another_parallelism_every_part_is_renamed_by_exactly_one_subtask() {
        for parallelism in 1..6 {
            let disk = Rig::new().io;
            let mut committables = Vec::new();
            for subtask in 0..4 {
                let mut rig = Rig::on(disk.clone());
                let mut writer = rig.start(subtask, 4, None).unwrap();
                rig.write(&mut writer, u64::from(subtask) * 10..u64::from(subtask) * 10 + 2).unwrap();
                committables.push((subtask, rig.snapshot(&mut writer, 1).unwrap()));
                rig.write(&mut writer, 99..100).unwrap();
                rig.snapshot(&mut writer, 2).unwrap();
            }
            for subtask in 0..parallelism {
                Rig::on(disk.clone()).start(subtask, parallelism, Some(&committables)).unwrap();
            }
            let rig = Rig::on(disk);
            assert_eq!(rig.visible(), [0, 1, 10, 11, 20, 21, 30, 31], "{parallelism} subtasks");
            assert_eq!(rig.io.names().len(), 4, "{:?}", rig.io.names());
        }
    }

    #[test]
    fn a_promised_part_that_is_nowhere_is_a_clear_error_and_an_empty_file_is_the_way_on() {
        let mut rig = Rig::new();
        let mut writer = rig.start(0, 1, None).unwrap();
        rig.write(&mut writer, 0..3).unwrap();
        let committables = vec![(0, rig.snapshot(&mut writer, 1).unwrap())];
        rig.io.remove("out/.part-0-0.tmp");
        let refusal = Rig::on(rig.io.clone()).start(0, 1, Some(&committables)).err().unwrap();
        let expected = "output was removed: checkpoint 1 promises \"part-0000000001-0.jsonl\" in \"out\"";
        assert!(refusal.to_string().starts_with(expected), "{refusal}");
        rig.io.put("out/part-0000000001-0.jsonl", "");
        Rig::on(rig.io.clone()).start(0, 1, Some(&committables)).unwrap();
    }

    #[test]
    fn output_of_an_earlier_run_or_of_a_newer_checkpoint_is_refused() {
        let mut rig = Rig::new();
        let mut writer = rig.start(0, 1, None).unwrap();
        rig.write(&mut writer, 0..3).unwrap();
        let first = vec![(0, rig.snapshot(&mut writer, 1).unwrap())];
        rig.commit(&mut writer, 1).unwrap();
        let refusal = Rig::on(rig.io.clone()).start(0, 1, None).err().unwrap().to_string();
        assert_eq!(
            refusal,
            "output directory \"out\" already holds \"part-0000000001-0.jsonl\" of an earlier run: choose another or remove it"
        );
        rig.io.put("out/part-0000000002-0.jsonl", "7\n");
        let refusal = Rig::on(rig.io.clone()).start(0, 1, Some(&first)).err().unwrap();
        assert!(refusal.to_string().contains("newer than checkpoint 1 which"), "{refusal}");
    }

    #[test]
    fn a_file_of_somebody_else_under_a_final_name_is_not_replaced() {
        let mut rig = Rig::new();
        let mut writer = rig.start(0, 1, None).unwrap();
        rig.write(&mut writer, 0..3).unwrap();
        rig.snapshot(&mut writer, 1).unwrap();
        rig.io.put("out/part-0000000001-0.jsonl", "7\n");
        let refusal = rig.commit(&mut writer, 1).unwrap_err();
        assert!(matches!(refusal, SinkError::OutputOccupied { .. }), "{refusal}");
        assert_eq!((rig.visible(), rig.io.open_files()), (vec![7], 0));
    }

    #[test]
    fn after_a_failed_operation_the_sink_repeats_the_error_and_touches_nothing() {
        for action in ["create", "list", "open", "write", "sync", "close", "rename"] {
            for kind in [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem, ErrorKind::Other] {
                let mut rig = Rig::new();
                rig.io.fail(Some((action, kind)));
                let mut writer = open(0, 1);
                let first = rig
                    .poll_until(&mut writer, SinkWriter::<u64>::is_ready)
                    .and_then(|()| rig.write(&mut writer, 0..3))
                    .and_then(|()| rig.snapshot(&mut writer, 1).map(drop))
                    .and_then(|()| rig.commit(&mut writer, 1))
                    .unwrap_err();
                assert!(
                    matches!(&first, SinkError::Io(IoError { action: a, kind: k, .. }) if (*a, *k) == (action, kind))
                );
                rig.io.fail(None);
                let ops = rig.io.ops();
                assert_eq!(rig.poll_until(&mut writer, |_| false), Err(first.clone()));
                assert_eq!(rig.with(|cx| SinkWriter::<u64>::snapshot(&mut writer, cx, CheckpointId(2))), Err(first));
                assert_eq!(rig.io.ops(), ops);
                assert!(rig.visible().is_empty());
                SinkWriter::<u64>::close(&mut writer, &mut rig.io);
                let leaked = usize::from(action == "close");
                assert!(rig.io.open_files() <= leaked && rig.io.in_flight() == 0, "{action}: {}", rig.io.open_files());
            }
        }
    }

    /// A writer with one part that was renamed while the sync of its directory is under way, and whose next part already exists or does not.
    fn syncing_after_a_rename(rig: &mut Rig, next_exists: bool) -> Writer {
        let mut writer = rig.start(0, 1, None).unwrap();
        rig.write(&mut writer, 0..2).unwrap();
        rig.snapshot(&mut writer, 1).unwrap();
        if next_exists {
            rig.write(&mut writer, 2..4).unwrap();
            rig.poll_until(&mut writer, |_| true).unwrap();
        }
        rig.with(|cx| SinkWriter::<u64>::commit(&mut writer, cx, CheckpointId(1))).unwrap();
        let mut is_visible = false;
        while !is_visible {
            // Once more after the rename: it is taken, and the directory's sync begins.
            is_visible = !rig.visible().is_empty();
            rig.io.drive();
            rig.with(|cx| SinkWriter::<u64>::poll(&mut writer, cx)).unwrap();
        }
        writer
    }

    #[test]
    fn a_part_that_existed_when_the_directory_was_synced_after_a_rename_needs_no_sync_of_its_own() {
        let ops = [true, false].map(|next_exists| {
            let mut rig = Rig::new();
            let mut writer = syncing_after_a_rename(&mut rig, next_exists);
            rig.poll_until(&mut writer, SinkWriter::<u64>::is_committed).unwrap();
            rig.write(&mut writer, 4..6).unwrap();
            rig.poll_until(&mut writer, |_| true).unwrap();
            let before = rig.io.ops();
            rig.snapshot(&mut writer, 2).unwrap();
            rig.io.ops() - before
        });
        // Write, sync, close; the other syncs the directory, too.
        assert_eq!(ops, [3, 4]);
    }

    #[test]
    fn a_part_created_after_the_sync_of_the_directory_began_survives_a_power_cut_all_the_same() {
        let mut rig = Rig::new();
        let mut writer = syncing_after_a_rename(&mut rig, false);
        rig.write(&mut writer, 2..4).unwrap();
        let committables = vec![(0, rig.snapshot(&mut writer, 2).unwrap())];
        rig.io.revive_after_power_cut();
        let mut again = Rig::on(rig.io.clone());
        again.start(0, 1, Some(&committables)).unwrap();
        assert_eq!(again.visible(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_sink_can_be_closed_between_any_two_operations() {
        for steps in 0..80 {
            let mut rig = Rig::new();
            let mut writer = open(0, 1);
            for step in 0..steps {
                match step {
                    20 => rig.write(&mut writer, 0..30_000).unwrap(),
                    40 => drop(rig.with(|cx| SinkWriter::<u64>::snapshot(&mut writer, cx, CheckpointId(1))).unwrap()),
                    60 => rig.with(|cx| SinkWriter::<u64>::commit(&mut writer, cx, CheckpointId(1))).unwrap(),
                    _ if step % 2 == 0 => rig.io.drive(),
                    _ => drop(rig.with(|cx| SinkWriter::<u64>::poll(&mut writer, cx)).unwrap()),
                }
            }
            SinkWriter::<u64>::close(&mut writer, &mut rig.io);
            assert_eq!((rig.io.open_files(), rig.io.in_flight()), (0, 0), "after {steps} steps");
        }
    }

    #[test]
    fn floats_read_back_exactly() {
        let values = [0.1 + 0.2, 1e-320, f64::MAX, -0.0, 1.0 / 3.0, 123_456_789.123_456_79];
        for value in values {
            let mut line = Vec::new();
            SerdeJson.encode(&value, &mut line).unwrap();
            let back: f64 = std::str::from_utf8(&line).unwrap().parse().unwrap();
            assert_eq!(back.to_bits(), value.to_bits());
        }
    }

    #[test]
    fn a_record_that_serde_refuses_is_an_error() {
        let mut rig = Rig::new();
        let sink = sink();
        let mut writer = Sink::<std::collections::BTreeMap<Vec<u8>, u8>>::open(&sink, 0, 1).unwrap();
        let record = std::collections::BTreeMap::from([(vec![1], 2)]);
        let refusal = rig.with(|cx| writer.write(cx, &stamp(), &record)).unwrap_err();
        assert_eq!(refusal.to_string(), "a record cannot be written: key must be a string");
    }
}
