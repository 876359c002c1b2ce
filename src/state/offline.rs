//! Pages looked at without the program that wrote them: entries as bytes, one page at a time.
//!
//! Here: what a page's pieces amount to, and how to tell the form of its cells from the state's layout in words. Not here: which pages
//! there are and where their pieces lie (`offline`), what the bytes mean.
//!
//! Every byte is checked as at a restore, but for what only the types know: whether key and value are such a key and value.

use super::entries::{CHUNK_EVEN, CHUNK_ODD, LIST_ELEMENT, LIST_HEAD, LIST_LEN, MAP_ENTRY, MAP_KEY, MAP_LEN, VALUE};
use super::fixed_page::FixedShape;
use super::layout::Layout;
use super::list_head::ListHead;
use super::page::PAGE_LEN;
use super::restore::Check;
use super::slotted_page;
use super::table::{Identity, Table, live_slots};
use super::{KeyGroupRange, StateError};
use crate::checkpoint::{PageKey, PieceKind, StateDescriptor};
use crate::memory::Arena;
use std::collections::BTreeMap;

/// An entry as a page holds it: several make up the list or the map of one key. The elements that lie in a list's head are each an entry as
/// well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Its key; with what lists, maps and namespaces append to it.
    pub key: Vec<u8>,
    /// Its value, put together again where it was too long for one cell.
    pub value: Vec<u8>,
}

/// What an entry is; the state's file draws key and value of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A value, a timer, a waiting record.
    Value,
    /// The length of a key's list.
    ListLen,
    /// An element of it.
    ListElement,
    /// The length of a key's map.
    MapLen,
    /// A value of it.
    MapEntry,
    /// Which key has which place in it.
    MapKey,
    /// Of a kind this program does not know by name.
    Other(u8),
}

impl EntryKind {
    fn of(stored: u8) -> Self {
        match stored {
            VALUE => Self::Value,
            LIST_LEN => Self::ListLen,
            LIST_ELEMENT => Self::ListElement,
            MAP_LEN => Self::MapLen,
            MAP_ENTRY => Self::MapEntry,
            MAP_KEY => Self::MapKey,
            other => Self::Other(other),
        }
    }

    fn stored(self) -> u8 {
        match self {
            Self::Value => VALUE,
            Self::ListLen => LIST_LEN,
            Self::ListElement => LIST_ELEMENT,
            Self::MapLen => MAP_LEN,
            Self::MapEntry => MAP_ENTRY,
            Self::MapKey => MAP_KEY,
            Self::Other(other) => other,
        }
    }

    /// Whether there is one such entry for each key that has a value, a list or a map.
    pub fn stands_for_a_key(self) -> bool {
        matches!(self, Self::Value | Self::ListLen | Self::MapLen)
    }
}

/// The entries of one key group of one state, gathered page by page.
pub struct RawKeyGroup {
    table: Table,
    /// Entries whose values are whole, and the roots of those cut into chunks.
    entries: Vec<(RawEntry, bool)>,
    /// By kind and key.
    chunks: BTreeMap<(u8, Vec<u8>), Vec<u8>>,
}

impl RawKeyGroup {
    /// Of the state described so, whose key group this is. An error when its layout in words says nothing of its cells.
    pub fn new(state: &StateDescriptor, key_group: u16, arena: &Arena) -> Result<Self, StateError> {
        let layout = layout_in(&state.layout).ok_or_else(|| StateError::UnknownLayout {
            operator: state.operator.clone(),
            state: state.name.clone(),
            layout: state.layout.clone(),
        })?;
        let identity = Identity {
            id: state.id,
            operator: state.operator.clone(),
            name: state.name.clone(),
            layout_text: state.layout.clone(),
            check: |_, _, _| true,
            home_kind: None,
        };
        let range = KeyGroupRange { start: key_group, end: key_group + 1 };
        let table = Table::new(identity, layout, range, arena.clone());
        Ok(Self { table, entries: Vec::new(), chunks: BTreeMap::new() })
    }

    /// Adds the entries of a page, given all its pieces in order. After an error the page adds nothing.
    pub fn add_page<'a>(
        &mut self,
        page: PageKey,
        pieces: impl IntoIterator<Item = (PieceKind, &'a [u8])>,
    ) -> Result<(), StateError> {
        let pieces: Vec<(PieceKind, &[u8])> = pieces.into_iter().collect();
        let restored = self.table.page_of_pieces(page, usize::MAX, &pieces, Check::Content)?;
        let (bytes, layout) = (restored.bytes(), self.table.layout);
        for at in live_slots(bytes, layout) {
            let (kind, key) = layout.key(bytes, at);
            let (key, value) = (bytes[key].to_vec(), bytes[layout.value(bytes, at)].to_vec());
            match kind {
                CHUNK_EVEN | CHUNK_ODD if layout == Layout::Slotted => {
                    self.chunks.insert((kind, key), value);
                }
                LIST_HEAD if layout == Layout::Slotted => self.entries.extend(entries_of_list(&key, &value)),
                _ => {
                    let chunked = layout == Layout::Slotted && slotted_page::head(bytes, at).chunked;
                    self.entries.push((RawEntry { kind: EntryKind::of(kind), key, value }, chunked));
                }
            }
        }
        Ok(())
    }

    /// All entries, and the keys of those whose long values are not complete.
    pub fn into_entries(self) -> (Vec<RawEntry>, Vec<Vec<u8>>) {
        let Self { entries, chunks, .. } = self;
        let mut incomplete = Vec::new();
        let whole = |(mut entry, chunked): (RawEntry, bool)| {
            if chunked {
                let chunk = |kind: u8, key: &[u8]| chunks.get(&(kind, key.to_vec())).map(Vec::as_slice);
                let Some(value) = super::entries::joined(entry.kind.stored(), &entry.key, &entry.value, chunk) else {
                    incomplete.push(entry.key);
                    return None;
                };
                entry.value = value;
            }
            Some(entry)
        };
        let entries = entries.into_iter().filter_map(whole).collect();
        (entries, incomplete)
    }
}

/// What a list's head stands for: its length, and the elements in place.
fn entries_of_list(key: &[u8], head: &[u8]) -> Vec<(RawEntry, bool)> {
    let of = |kind, key: Vec<u8>, value: &[u8]| (RawEntry { kind, key, value: value.to_vec() }, false);
    let Some(list) = ListHead::read(head) else { return vec![of(EntryKind::Other(LIST_HEAD), key.to_vec(), head)] };
    let mut entries = vec![of(EntryKind::ListLen, key.to_vec(), &list.len.to_le_bytes())];
    let elements = (0u32..).zip(list.elements(head));
    entries.extend(
        elements.map(|(index, element)| of(EntryKind::ListElement, [key, &index.to_le_bytes()].concat(), element)),
    );
    entries
}

/// The form of cells as `Layout::in_words` writes it at the end of a state's layout.
fn layout_in(text: &str) -> Option<Layout> {
    let (_, lens) = text.rsplit_once(", cells of ")?;
    if lens == "any length" {
        return Some(Layout::Slotted);
    }
    let (key, value) = lens.strip_suffix(" bytes")?.split_once(" + ")?;
    let (key, value): (usize, usize) = (key.parse().ok()?, value.parse().ok()?);
    FixedShape::of(key.min(PAGE_LEN), value.min(PAGE_LEN)).map(Layout::Fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_cells_is_read_back_from_a_layout_in_words() {
        for layout in [Layout::for_lens(Some(8), Some(16)), Layout::for_lens(Some(4), Some(0)), Layout::Slotted] {
            assert_eq!(layout_in(&format!("value per key: key a, b, {}", layout.in_words())), Some(layout));
        }
        for text in ["", "value per key", "x, cells of", "x, cells of 99999 + 99999 bytes", "x, cells of -1 + 2 bytes"]
        {
            assert_eq!(layout_in(text), None, "{text}");
        }
    }
}
