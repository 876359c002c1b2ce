//! Entry points of the decoders for the fuzz targets; no part of the API.
//!
//! Each takes what lies behind a checksum, because a fuzzer does not find checksums.

use super::format::{self, BlockKind, BlockRef, HEADER_BYTES, SECTOR_BYTES};
use super::manifest::Manifest;
use super::page_map::{self, PageMap};
use crc_fast::{CrcAlgorithm, Digest};

/// Decodes a manifest's archive; whether it is one.
pub fn manifest(bytes: &[u8]) -> bool {
    Manifest::decode(&format::aligned(bytes)).is_ok()
}

/// Decodes a page map's archive; whether it is one.
pub fn page_map(bytes: &[u8]) -> bool {
    let mut map = PageMap::default();
    let decoded = page_map::decode(&format::aligned(bytes), &mut map).is_ok();
    assert!(map.pieces() >= map.pages() && map.live_bytes().len() <= map.pieces());
    decoded
}

/// Checks a block as if a parent expected it; whether it passed.
pub fn block(bytes: &[u8], job: u64, checkpoint: u64, file: u32, offset: u64, kind: u16) -> bool {
    let crc = bytes.get(12..16).map_or(0, |crc| u32::from_le_bytes(crc.try_into().expect("four bytes")));
    let expected = BlockRef { checkpoint, offset, file, len_bytes: bytes.len() as u32, crc, kind };
    match format::check(bytes, job, &expected) {
        Ok(payload) => payload.start >= HEADER_BYTES && bytes.get(payload).is_some(),
        Err(_) => false,
    }
}

/// Makes the checksum of every block in a file fit again after its bytes were changed, as far as the headers allow.
pub fn repair_checksums(file: &mut [u8]) {
    let mut start = 0;
    while let Some(header) = file.get(start..start + HEADER_BYTES) {
        let is_block = header.starts_with(b"MILLSTRM");
        let offset = u32::from_le_bytes(header[36..40].try_into().expect("four bytes")) as usize;
        let len = u64::from_le_bytes(header[48..56].try_into().expect("eight bytes")) as usize;
        let end = offset.saturating_add(len).checked_next_multiple_of(SECTOR_BYTES);
        let end = end.and_then(|end| end.checked_add(start)).filter(|end| *end <= file.len() && *end > start);
        let Some(end) = end.filter(|_| is_block) else {
            start += SECTOR_BYTES;
            continue;
        };
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        file[start + 12..start + 16].fill(0);
        digest.update(&file[start..end]);
        let crc = digest.finalize() as u32;
        file[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
        start = end;
    }
}

/// The kind of a manifest's block, for `block`.
pub const MANIFEST_KIND: u16 = BlockKind::Manifest as u16;
