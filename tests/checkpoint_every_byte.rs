//! Every byte of a checkpoint directory, changed: it is detected, and what is restored is right or nothing.

mod checkpoint_support;

use checkpoint_support::*;
use millstream::memory::Arena;

struct Damaged {
    files: Files,
    history: History,
    arena: Arena,
}

impl Damaged {
    /// Sets one byte, looks, and sets it back. Byte `position` of `path` was written by a checkpoint.
    fn set(&mut self, path: &std::path::Path, position: usize, value: u8) {
        let bytes = self.files.get_mut(path).unwrap();
        let was = std::mem::replace(&mut bytes[position], value);
        if was == value {
            return;
        }
        assert!(is_detected(&mut self.files, &self.arena), "{path:?} byte {position}: {was} became {value} unnoticed");
        restore_damaged(&self.files, &self.arena, &self.history);
        self.files.get_mut(path).unwrap()[position] = was;
    }
}

#[test]
fn every_changed_byte_is_detected_and_what_is_restored_is_right() {
    let (files, history) = small_directory();
    let written = written(&files);
    let mut damaged = Damaged { files, history, arena: arena() };
    let mut positions = 0;
    for (path, end) in written {
        for position in 0..end {
            let was = damaged.files[&path][position];
            damaged.set(&path, position, was ^ (1 << (position % 8)));
            positions += 1;
            if position % 61 == 0 {
                (0..8).for_each(|bit| damaged.set(&path, position, was ^ (1 << bit)));
                [0x00, 0xff].iter().for_each(|value| damaged.set(&path, position, *value));
            }
        }
    }
    assert!(positions > 60_000, "{positions} positions");
}

#[test]
fn bytes_that_were_never_written_do_not_matter() {
    let (files, history) = small_directory();
    let newest = *history.keys().next_back().unwrap();
    let arena = arena();
    for (path, end) in written(&files) {
        for position in (end..files[&path].len()).step_by(509) {
            let mut changed = files.clone();
            changed.get_mut(&path).unwrap()[position] ^= 0x55;
            assert_eq!(restore_damaged(&changed, &arena, &history), Some(newest), "{path:?} byte {position}");
        }
    }
}
