//! Entry points of the decoders for the fuzz targets; no part of the API.
//!
//! Each takes what lies behind a checksum, because a fuzzer does not find checksums.

use super::format::{self, BlockKind, BlockRef, HEADER_BYTES, SECTOR_BYTES};
use super::manifest::Manifest;
use super::page_map::{self, PageMap};

/// Decodes a manifest's archive; whether it is one.
pub fn manifest(bytes: &[u8]) -> bool {
    Manifest::decode(&format::aligned(bytes)).is_ok()
}

/// Decodes a block of a page map; whether it is one.
pub fn page_map(bytes: &[u8]) -> bool {
    let mut map = PageMap::default();
    let entries = page_map::entries(bytes);
    let decoded = entries.is_ok_and(|entries| entries.iter().all(|entry| map.apply_entry(entry).is_ok()));
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
/// Returns the old and the new checksum of each block it changed.
pub fn repair_checksums(file: &mut [u8]) -> Vec<([u8; 4], [u8; 4])> {
    let mut changed = Vec::new();
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
        let old: [u8; 4] = file[start + 12..start + 16].try_into().expect("four bytes");
        file[start + 12..start + 16].fill(0);
        let new = format::crc32c(&file[start..end]).to_le_bytes();
        file[start + 12..start + 16].copy_from_slice(&new);
        if old != new {
            changed.push((old, new));
        }
        start = end;
    }
    changed
}

/// Repairs the checksums of a directory's files, and those that parents keep of their blocks: page map, manifest, superblock.
pub fn repair_directory(files: &mut [&mut Vec<u8>]) {
    for _ in 0..4 {
        let changed: Vec<_> = files.iter_mut().flat_map(|file| repair_checksums(file)).collect();
        for file in files.iter_mut() {
            for word in file.chunks_exact_mut(4) {
                if let Some((_, new)) = changed.iter().find(|(old, _)| *old == *word) {
                    word.copy_from_slice(new);
                }
            }
        }
    }
    files.iter_mut().for_each(|file| {
        repair_checksums(file);
    });
}

/// The payloads of all blocks in a file, with their kinds: seeds for the targets.
pub fn payloads(file: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let starts = (0..file.len()).step_by(SECTOR_BYTES);
    let found = starts.filter_map(|start| {
        let header = file.get(start..start + HEADER_BYTES).filter(|header| header.starts_with(b"MILLSTRM"))?;
        let offset = u32::from_le_bytes(header[36..40].try_into().expect("four bytes")) as usize;
        let len = u64::from_le_bytes(header[48..56].try_into().expect("eight bytes")) as usize;
        let kind = u16::from_le_bytes(header[10..12].try_into().expect("two bytes"));
        let first = start.checked_add(offset)?;
        Some((kind, file.get(first..first.checked_add(len)?)?.to_vec()))
    });
    found.collect()
}

/// The kinds of a page map's and a manifest's block.
pub const PAGE_MAP_AND_MANIFEST: [u16; 2] = [BlockKind::PageMap as u16, BlockKind::Manifest as u16];
