//! What a checkpoint remembers of a file sink: which parts were prepared, and thereby what they are called.
//!
//! Here: the names of parts and the bytes of a committable. Not here: doing anything with them (`file_transaction`).
//!
//! ```text
//! committable   version u32 = 1 | checkpoint u64 | count u32 | count x part     (little-endian)
//! part          checkpoint u64 | subtask u32 | number u64
//! hidden name   .part-<subtask>-<number>.tmp
//! final name    part-<checkpoint, 10 digits>-<subtask>.jsonl
//! ```

use super::writer::SinkError;
use crate::checkpoint::CheckpointId;

const VERSION: u32 = 1;
const HEAD_LEN_BYTES: usize = 16;
const PART_LEN_BYTES: usize = 20;

/// A prepared part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PreparedPart {
    /// The checkpoint it was prepared for.
    pub checkpoint: CheckpointId,
    /// The subtask that wrote it.
    pub subtask: u32,
    /// Its number among the parts of that subtask.
    pub number: u64,
}

/// A subtask's prepared parts as of one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Committable {
    /// The checkpoint it is part of.
    pub checkpoint: CheckpointId,
    /// Oldest first.
    pub parts: Vec<PreparedPart>,
}

impl PreparedPart {
    /// The name while it is hidden.
    pub fn hidden_name(&self) -> String {
        hidden_name(self.subtask, self.number)
    }

    /// The name once it is committed.
    pub fn final_name(&self) -> String {
        format!("part-{:010}-{}.jsonl", self.checkpoint.0, self.subtask)
    }
}

/// The name of a part in progress.
pub(super) fn hidden_name(subtask: u32, number: u64) -> String {
    format!(".part-{subtask}-{number}.tmp")
}

/// Subtask and number, if this is the name of a part in progress.
pub(super) fn parse_hidden_name(name: &str) -> Option<(u32, u64)> {
    let (subtask, number) = name.strip_prefix(".part-")?.strip_suffix(".tmp")?.split_once('-')?;
    Some((subtask.parse().ok()?, number.parse().ok()?))
}

/// Checkpoint and subtask, if this is the name of a committed part.
pub(super) fn parse_final_name(name: &str) -> Option<(CheckpointId, u32)> {
    let (checkpoint, subtask) = name.strip_prefix("part-")?.strip_suffix(".jsonl")?.split_once('-')?;
    Some((CheckpointId(checkpoint.parse().ok()?), subtask.parse().ok()?))
}

impl Committable {
    /// As bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_LEN_BYTES + self.parts.len() * PART_LEN_BYTES);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.checkpoint.0.to_le_bytes());
        bytes.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        for part in &self.parts {
            bytes.extend_from_slice(&part.checkpoint.0.to_le_bytes());
            bytes.extend_from_slice(&part.subtask.to_le_bytes());
            bytes.extend_from_slice(&part.number.to_le_bytes());
        }
        bytes
    }

    /// What `write` wrote for `subtask`, or why these bytes are no such thing.
    pub fn read(subtask: u32, bytes: &[u8]) -> Result<Self, SinkError> {
        let bad = |reason: String| SinkError::BadCommittable { subtask, reason };
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN_BYTES>() else {
            return Err(bad(format!("{} bytes are too few for a file sink's committable", bytes.len())));
        };
        let version = u32_at(head, 0);
        if version != VERSION {
            return Err(bad(format!("it has format version {version}, this program reads {VERSION}")));
        }
        let count = u32_at(head, 12) as usize;
        if rest.len() != count.saturating_mul(PART_LEN_BYTES) {
            return Err(bad(format!("{} bytes cannot hold its {count} parts", rest.len())));
        }
        let parts = rest.chunks_exact(PART_LEN_BYTES).map(|part| PreparedPart {
            checkpoint: CheckpointId(u64_at(part, 0)),
            subtask: u32_at(part, 8),
            number: u64_at(part, 12),
        });
        Ok(Self { checkpoint: CheckpointId(u64_at(head, 4)), parts: parts.collect() })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the length was checked"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("the length was checked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committable() -> Committable {
        let part = |checkpoint, number| PreparedPart { checkpoint: CheckpointId(checkpoint), subtask: 3, number };
        Committable { checkpoint: CheckpointId(9), parts: vec![part(8, 1), part(9, u64::MAX)] }
    }

    #[test]
    fn a_committable_survives_being_written() {
        assert_eq!(Committable::read(3, &committable().write()), Ok(committable()));
    }

    #[test]
    fn bytes_of_another_length_or_version_are_refused_with_the_subtask() {
        let bytes = committable().write();
        for len in 0..bytes.len() {
            let refusal = Committable::read(3, &bytes[..len]).unwrap_err();
            assert!(matches!(refusal, SinkError::BadCommittable { subtask: 3, .. }), "{refusal}");
        }
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert!(Committable::read(3, &newer).unwrap_err().to_string().contains("format version 2"));
        let mut more = bytes;
        more[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Committable::read(3, &more).is_err());
    }

    #[test]
    fn names_say_what_they_were_made_of() {
        let part = committable().parts[0];
        assert_eq!((part.hidden_name(), part.final_name()), (".part-3-1.tmp".into(), "part-0000000008-3.jsonl".into()));
        assert_eq!(parse_hidden_name(&part.hidden_name()), Some((3, 1)));
        assert_eq!(parse_final_name(&part.final_name()), Some((CheckpointId(8), 3)));
        for other in ["part-1-2.jsonl.gz", "x", ".part-1.tmp", "part-a-b.jsonl", ".part--1-2.tmp"] {
            assert_eq!((parse_hidden_name(other), parse_final_name(other)), (None, None), "{other}");
        }
    }
}
