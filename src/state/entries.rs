//! Entries with values of any length: those too long for one cell are cut into chunks.
//!
//! ```text
//! a long value's cell   (key, chunked) -> {total length u32, generation u32}
//! its chunks            key ++ chunk number u32 ++ kind of the cell u8, of kind CHUNK_EVEN or CHUNK_ODD -> up to 2 KiB
//! ```
//! A long value is rewritten under the other generation first and switched by one write of its cell, so a refusal in between
//! leaves the old value. Chunks are entries like all others: they lie in the key's key group, in pages of their own hashes.

use super::layout::Layout;
use super::page::Probe;
use super::page_hash::page_hash;
use super::slotted_page::{self, CellHead, VALUE_LEN_MAX};
use super::table::{Address, EntryAt, Table};
use super::{KeyGroup, StateError};
use crate::record::Key;
use std::ops::Range;

/// The kinds of entries: what keeps several entries of one key apart.
pub(super) const VALUE: u8 = 0;
pub(super) const LIST_LEN: u8 = 1;
pub(super) const LIST_ELEMENT: u8 = 2;
pub(super) const MAP_LEN: u8 = 3;
pub(super) const MAP_ENTRY: u8 = 4;
pub(super) const MAP_KEY: u8 = 5;
pub(super) const CHUNK_EVEN: u8 = 6;
pub(super) const CHUNK_ODD: u8 = 7;
pub(super) const LIST_HEAD: u8 = 8;

/// The longest key, with what lists and maps append to it.
pub(super) const KEY_LEN_MAX: usize = slotted_page::KEY_LEN_MAX - CHUNK_SUFFIX_LEN;

const CHUNK_SUFFIX_LEN: usize = 5;
const ROOT_LEN: usize = 8;

impl<'a> Address<'a> {
    /// The address of a composite key.
    #[inline(always)]
    pub fn of(group: KeyGroup, kind: u8, key: &'a [u8]) -> Self {
        Self { group, hash: page_hash(kind, key), kind, key }
    }
}

/// Whether an entry can be a chunk, for the checks at restore.
pub(super) fn check_chunk(kind: u8, key: &[u8], value: &[u8]) -> bool {
    (kind == CHUNK_EVEN || kind == CHUNK_ODD) && key.len() >= CHUNK_SUFFIX_LEN && !value.is_empty()
}

impl Table {
    /// Calls `read` with the value of an entry, if there is one.
    pub fn read<R>(&mut self, address: Address, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let entry = self.find(self.layout, address)?;
        self.read_at(address, entry, read)
    }

    /// The same of an entry that was found.
    pub fn read_at<R>(&mut self, address: Address, entry: EntryAt, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (value, chunked) = self.value_of_cell(entry);
        if !chunked {
            return Some(read(value));
        }
        self.read_chunks(address, root(value)?).map(|whole| read(&whole))
    }

    fn read_chunks(&mut self, address: Address, (len, generation): (usize, u32)) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        for number in 0..len.div_ceil(VALUE_LEN_MAX) {
            let key = chunk_key(address, number);
            let chunk = self.find(self.layout, Address::of(address.group, chunk_kind(generation), &key))?;
            whole.extend_from_slice(self.value(self.layout, chunk));
        }
        (whole.len() == len).then_some(whole)
    }

    /// The value of an entry's cell, and whether it is only the root of a chunked one.
    #[inline(always)]
    fn value_of_cell(&self, entry: EntryAt) -> (&[u8], bool) {
        let bytes = self.pages[entry.page].bytes();
        match self.layout {
            Layout::Slotted => {
                let (value, chunked) = slotted_page::value_of_cell(bytes, entry.at);
                (&bytes[value], chunked)
            }
            Layout::Fixed(shape) => (&bytes[shape.value(entry.at)], false),
        }
    }

    /// The start of the value of an entry that was found: all of it, or its first chunk.
    #[inline]
    pub fn start(&mut self, address: Address, entry: EntryAt) -> Option<&[u8]> {
        let entry = self.start_at(address, entry)?;
        Some(self.value(self.layout, entry))
    }

    /// The same, to be overwritten in place.
    #[inline]
    pub fn start_mut(&mut self, address: Address, entry: EntryAt) -> Option<&mut [u8]> {
        let entry = self.start_at(address, entry)?;
        Some(self.value_mut(self.layout, entry))
    }

    #[inline]
    fn start_at(&mut self, address: Address, entry: EntryAt) -> Option<EntryAt> {
        if !self.is_chunked(entry) {
            return Some(entry);
        }
        let (_, generation) = self.root_of(entry)?;
        let key = chunk_key(address, 0);
        self.find(self.layout, Address::of(address.group, chunk_kind(generation), &key))
    }

    /// The value of a slotted entry that was found, to be overwritten where it lies by one of this length.
    #[inline(always)]
    pub fn same_len_mut(&mut self, entry: EntryAt, len: usize) -> Option<&mut [u8]> {
        let (value, chunked) = slotted_page::value_of_cell(self.pages[entry.page].bytes(), entry.at);
        if chunked || value.len() != len {
            return None;
        }
        self.touch(Layout::Slotted, entry);
        Some(&mut self.pages[entry.page].bytes_mut()[value])
    }

    /// Writes the value of an entry, new or not: `store` fills in `len` bytes. An error leaves the old value.
    #[inline(always)]
    pub fn write(&mut self, address: Address, len: usize, store: impl FnOnce(&mut [u8])) -> Result<(), StateError> {
        if self.layout != Layout::Slotted {
            store(self.value_for(address, len, false)?);
            return Ok(());
        }
        let page = self.page_for(address)?;
        let probe = self.probe_page(Layout::Slotted, page, address);
        self.write_at(page, probe, address, len, store)
    }

    /// The same of a slotted entry where a probe of its page ended, if nothing has happened since.
    #[inline(always)]
    pub fn write_at(
        &mut self,
        page: usize,
        probe: Probe,
        address: Address,
        len: usize,
        store: impl FnOnce(&mut [u8]),
    ) -> Result<(), StateError> {
        if address.key.len() > KEY_LEN_MAX {
            return Err(self.key_too_long(address.key.len()));
        }
        let mut old = None;
        if let Probe::Found(at) = probe {
            let entry = EntryAt { page, at };
            if let Some(value) = self.same_len_mut(entry, len) {
                store(value);
                return Ok(());
            }
            old = self.root_of(entry);
        }
        if len > VALUE_LEN_MAX {
            let mut whole = vec![0; len];
            store(&mut whole);
            self.write_long(address, old, &whole)?;
        } else {
            let head = CellHead { kind: address.kind, key_len: address.key.len(), value_len: len, chunked: false };
            match self.place_slotted(page, probe, address, head) {
                Some(value) => store(&mut self.pages[page].bytes_mut()[value]),
                None => {
                    self.make_room(page, head)?;
                    store(self.value_for(address, len, false)?);
                }
            }
        }
        if let Some(old) = old {
            self.remove_chunks(address, old);
        }
        Ok(())
    }

    /// Writes a value in chunks, of the other generation than those there are.
    fn write_long(&mut self, address: Address, old: Option<(usize, u32)>, whole: &[u8]) -> Result<(), StateError> {
        let generation = old.map_or(0, |(_, generation)| generation ^ 1);
        let written = self.write_chunks(address, generation, whole).and_then(|()| {
            let root = self.value_for(address, ROOT_LEN, true)?;
            root[..4].copy_from_slice(&(whole.len() as u32).to_le_bytes());
            root[4..].copy_from_slice(&generation.to_le_bytes());
            Ok(())
        });
        if written.is_err() {
            self.remove_chunks(address, (whole.len(), generation));
        }
        written
    }

    /// The indices of a list or map of this length: not more than there are entries, whatever damaged bytes say, as far as all of them are in
    /// memory to be counted.
    pub fn indices_below(&self, len: u32) -> Range<u32> {
        const BELIEVED_MAX: u32 = 1 << 16;
        0..if len <= BELIEVED_MAX || self.has_absent() {
            len
        } else {
            len.min(u32::try_from(self.live()).unwrap_or(u32::MAX))
        }
    }

    /// Removes an entry with its chunks; answers whether there was one.
    pub fn delete(&mut self, address: Address) -> bool {
        let Some(entry) = self.find(self.layout, address) else { return false };
        let root = self.root_of(entry);
        self.remove(self.layout, entry);
        if let Some(root) = root {
            self.remove_chunks(address, root);
        }
        true
    }

    fn write_chunks(&mut self, address: Address, generation: u32, whole: &[u8]) -> Result<(), StateError> {
        for (number, chunk) in whole.chunks(VALUE_LEN_MAX).enumerate() {
            let key = chunk_key(address, number);
            let address = Address::of(address.group, chunk_kind(generation), &key);
            self.value_for(address, chunk.len(), false)?.copy_from_slice(chunk);
        }
        Ok(())
    }

    fn remove_chunks(&mut self, address: Address, (len, generation): (usize, u32)) {
        for number in 0..len.div_ceil(VALUE_LEN_MAX) {
            let key = chunk_key(address, number);
            let chunk = self.find(self.layout, Address::of(address.group, chunk_kind(generation), &key));
            // A chunk is missing only where writing stopped.
            let Some(chunk) = chunk else { return };
            self.remove(self.layout, chunk);
        }
    }

    fn is_chunked(&self, entry: EntryAt) -> bool {
        self.layout == Layout::Slotted && slotted_page::head(self.pages[entry.page].bytes(), entry.at).chunked
    }

    fn root_of(&self, entry: EntryAt) -> Option<(usize, u32)> {
        self.is_chunked(entry).then(|| root(self.value(self.layout, entry))).flatten()
    }
}

/// The value of a chunked cell, its chunks looked up by kind and key; `None` when one is missing.
pub(super) fn joined<'a>(
    kind: u8,
    key: &[u8],
    root_value: &[u8],
    chunk: impl Fn(u8, &[u8]) -> Option<&'a [u8]>,
) -> Option<Vec<u8>> {
    let (len, generation) = root(root_value)?;
    let mut whole = Vec::new();
    for number in 0..len.div_ceil(VALUE_LEN_MAX) {
        whole.extend_from_slice(chunk(chunk_kind(generation), &chunk_key_of(kind, key, number))?);
    }
    (whole.len() == len).then_some(whole)
}

fn root(value: &[u8]) -> Option<(usize, u32)> {
    let value: &[u8; ROOT_LEN] = value.try_into().ok()?;
    let [a, b, c, d, e, f, g, h] = *value;
    Some((u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h])))
}

fn chunk_kind(generation: u32) -> u8 {
    if generation & 1 == 0 { CHUNK_EVEN } else { CHUNK_ODD }
}

fn chunk_key(address: Address, number: usize) -> Vec<u8> {
    chunk_key_of(address.kind, address.key, number)
}

fn chunk_key_of(kind: u8, of: &[u8], number: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(of.len() + CHUNK_SUFFIX_LEN);
    key.extend_from_slice(of);
    key.extend_from_slice(&(number as u32).to_le_bytes());
    key.push(kind);
    key
}

/// Whether bytes can be a key of type `K`; unlike `Key::from_bytes` it does not ask for alignment.
pub(super) fn is_key<K: Key + ?Sized>(bytes: &[u8]) -> bool {
    match K::FIXED_LEN {
        Some(len) => bytes.len() == len,
        None => K::from_bytes(bytes).is_some(),
    }
}
