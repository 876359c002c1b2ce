//! The index of a copied checkpoint: which parts make up which extents, and what its superblock says.
//!
//! ```text
//! millstream remote copy 1
//! job NAME                                        the rest of the line, as it is
//! checkpoint N
//! manifest EXTENT OFFSET LENGTH CHECKSUM          numbers in decimal, checksums in hexadecimal
//! part EXTENT OFFSET LENGTH NAME                  one line for each, PREFIX/parts/NAME
//! end CHECKSUM                                    CRC32C of all lines before
//! ```

use crate::checkpoint::{CheckpointId, NamedCheckpoint};
use std::fmt::Write;

const FIRST_LINE: &str = "millstream remote copy 1";

/// An index, as it lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub named: NamedCheckpoint,
    pub parts: Vec<Part>,
}

/// One part of an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub extent: u32,
    pub offset: u64,
    pub len_bytes: u64,
    pub name: String,
}

/// The longest part that is believed in.
const PART_BYTES_MAX: u64 = 64 << 20;

impl Index {
    pub(super) fn text(&self) -> String {
        let NamedCheckpoint {
            checkpoint,
            job_name,
            manifest_extent,
            manifest_offset,
            manifest_len_bytes,
            manifest_crc,
        } = &self.named;
        let mut text = format!(
            "{FIRST_LINE}\njob {job_name}\ncheckpoint {checkpoint}\nmanifest {manifest_extent} {manifest_offset} {manifest_len_bytes} {manifest_crc:08x}\n"
        );
        for Part { extent, offset, len_bytes, name } in &self.parts {
            // Writing to a string does not fail.
            let _ = writeln!(text, "part {extent} {offset} {len_bytes} {name}");
        }
        let crc = checksum(text.as_bytes());
        let _ = writeln!(text, "end {crc:08x}");
        text
    }

    /// Reads an index; what is wrong with it otherwise.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (body, end) = text.trim_end().rsplit_once('\n').ok_or("it is too short")?;
        let stored = end.strip_prefix("end ").and_then(|crc| u32::from_str_radix(crc, 16).ok());
        let stored = stored.ok_or("it does not end like one")?;
        let computed = checksum(format!("{body}\n").as_bytes());
        if stored != computed {
            return Err(format!("its checksum is {computed:08x}, {stored:08x} was stored"));
        }
        let mut lines = body.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err("it is of another version".to_owned());
        }
        let mut field = |name: &str| {
            lines.next().and_then(|line| line.strip_prefix(name)).ok_or_else(|| format!("it has no line \"{name}\""))
        };
        let job_name = field("job ")?.to_owned();
        let checkpoint = CheckpointId(number(field("checkpoint ")?)?);
        let manifest: Vec<&str> = field("manifest ")?.split(' ').collect();
        let [extent, offset, len, crc] = manifest[..] else { return Err("its manifest line is malformed".to_owned()) };
        let named = NamedCheckpoint {
            checkpoint,
            job_name,
            manifest_extent: number(extent)?,
            manifest_offset: number(offset)?,
            manifest_len_bytes: number(len)?,
            manifest_crc: u32::from_str_radix(crc, 16).map_err(|error| error.to_string())?,
        };
        let parts = lines.map(|line| {
            let words: Vec<&str> = line.strip_prefix("part ").unwrap_or_default().split(' ').collect();
            let [extent, offset, len, name] = words[..] else { return Err("a part line is malformed".to_owned()) };
            let (offset, len_bytes): (u64, u64) = (number(offset)?, number(len)?);
            if len_bytes > PART_BYTES_MAX || name.contains('/') || offset.checked_add(len_bytes).is_none() {
                return Err(format!("a part of {len_bytes} bytes at {offset} is called \"{name}\""));
            }
            Ok(Part { extent: number(extent)?, offset, len_bytes, name: name.to_owned() })
        });
        Ok(Self { named, parts: parts.collect::<Result<_, _>>()? })
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no number that fits"))
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// What a part of these bytes is called. Checksum and hash together: two contents with one name would be a wrong restore.
pub(super) fn part_name(extent_name: &str, offset: u64, bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{extent_name}-{offset:012x}-{:08x}-{:08x}{hash:016x}", bytes.len(), checksum(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let named = NamedCheckpoint {
            checkpoint: CheckpointId(7),
            job_name: "a job: with words".to_owned(),
            manifest_extent: 3,
            manifest_offset: 8192,
            manifest_len_bytes: 4096,
            manifest_crc: 0xfeed,
        };
        let part = Part { extent: 3, offset: 0, len_bytes: 12288, name: part_name("extent-000003.ms", 0, b"x") };
        Index { named, parts: vec![part] }
    }

    #[test]
    fn an_index_read_back_is_the_index() {
        assert_eq!(Index::parse(&index().text()).unwrap(), index());
    }

    #[test]
    fn every_changed_byte_and_every_cut_of_an_index_is_noticed() {
        let text = index().text();
        for at in 0..text.len() - 1 {
            assert!(Index::parse(&text[..at]).is_err(), "cut to {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(Index::parse(&changed).is_err(), "changed at {at}: {changed}");
        }
    }
}
