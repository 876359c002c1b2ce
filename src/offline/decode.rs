//! Bytes as values, by the layout that the manifest has of a state.
//!
//! Here: numbers, strings, tuples of them; everything else stays bytes. Not here: how values are printed (`cli`).
//! The layouts in words are made by the states themselves (`state/*_state.rs`, `state/value.rs`); one that is not understood makes an
//! entry bytes, never an error.

use crate::state::{EntryKind, RawEntry};

/// A value as far as its layout tells what it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// An unsigned number.
    Unsigned(u128),
    /// A signed one.
    Signed(i128),
    /// A floating-point one.
    Float(f64),
    /// A string.
    Text(String),
    /// Several values, with their names where the layout has names.
    Many(Vec<(Option<String>, Decoded)>),
    /// Anything else.
    Bytes(Vec<u8>),
}

/// An entry taken apart: named parts in a fixed order.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedEntry {
    /// `key`, `value`, `index`, `map_key`, `namespace`, `at`, ...
    pub parts: Vec<(&'static str, Decoded)>,
}

/// Takes an entry of a state with this layout apart. `None` for entries that only help others: the lengths of lists and maps, the
/// order of a map's keys.
pub fn decode(layout: &str, entry: &RawEntry) -> Option<DecodedEntry> {
    let layout = layout.rsplit_once(", cells of").map_or(layout, |(layout, _)| layout);
    let parts = match entry.kind {
        EntryKind::ListLen | EntryKind::MapLen | EntryKind::MapKey => return None,
        EntryKind::Value => value_parts(layout, entry),
        EntryKind::ListElement => list_parts(layout, entry),
        EntryKind::MapEntry => map_parts(layout, entry),
        EntryKind::Other(_) => None,
    };
    let bytes = || vec![("key", Decoded::Bytes(entry.key.clone())), ("value", Decoded::Bytes(entry.value.clone()))];
    Some(DecodedEntry { parts: parts.unwrap_or_else(bytes) })
}

type Parts = Vec<(&'static str, Decoded)>;

fn value_parts(layout: &str, entry: &RawEntry) -> Option<Parts> {
    let RawEntry { key, value, .. } = entry;
    if let Some(rest) = layout.strip_prefix("value per key: key ") {
        let (key_type, value_type) = rest.split_once(", value ")?;
        return Some(vec![("key", typed(key_type, key)), ("value", typed(value_type, value))]);
    }
    if let Some(rest) = layout.strip_prefix("value per key and namespace: key ") {
        let (key_type, rest) = rest.split_once(", namespace of ")?;
        let (len, value_type) = rest.split_once(" bytes, value ")?;
        let (key, namespace) = key.split_at_checked(key.len().checked_sub(len.parse().ok()?)?)?;
        let words = namespace.chunks_exact(8).map(|word| i64::from_le_bytes(*word.first_chunk().expect("eight bytes")));
        let mut words = words.map(|word| Decoded::Signed(word.into()));
        // Windows and slices are named by times.
        let namespace = match namespace.len() {
            8 => words.next().unwrap_or_else(|| Decoded::Bytes(Vec::new())),
            len if len % 8 == 0 => Decoded::Many(words.map(|word| (None, word)).collect()),
            _ => Decoded::Bytes(namespace.to_vec()),
        };
        return Some(vec![
            ("key", typed(key_type, key)),
            ("namespace", namespace),
            ("value", typed(value_type, value)),
        ]);
    }
    if let Some(key_type) = layout.strip_prefix("event-time timers: key ") {
        let (at, key) = key.split_first_chunk()?;
        return Some(vec![("at", at_of(*at)), ("key", typed(key_type, key))]);
    }
    if let Some(rest) = layout.strip_prefix("records in event-time order: key ") {
        let key_type = rest.split_once(", ").map_or(rest, |(key_type, _)| key_type);
        let (at, rest) = key.split_first_chunk()?;
        let (split, number) = rest.split_first_chunk()?;
        let (len, rest) = value.split_first_chunk()?;
        let (key, payload) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        return Some(vec![
            ("at", at_of(*at)),
            ("split", Decoded::Unsigned(u32::from_le_bytes(*split).into())),
            ("number", Decoded::Unsigned(u64::from_le_bytes(number.try_into().ok()?).into())),
            ("key", typed(key_type, key)),
            ("record", Decoded::Bytes(payload.to_vec())),
        ]);
    }
    None
}

fn list_parts(layout: &str, entry: &RawEntry) -> Option<Parts> {
    let (_, of) = layout.split_once("per key: key ").filter(|(what, _)| what.starts_with("list "))?;
    let (key_type, element_type) = of.split_once(", element ")?;
    let (key, index) = entry.key.split_last_chunk()?;
    Some(vec![
        ("key", typed(key_type, key)),
        ("index", Decoded::Unsigned(u32::from_le_bytes(*index).into())),
        ("value", typed(element_type, &entry.value)),
    ])
}

fn map_parts(layout: &str, entry: &RawEntry) -> Option<Parts> {
    let (key_type, rest) = layout.strip_prefix("map per key: key ")?.split_once(", map key ")?;
    let (map_key_type, value_type) = rest.split_once(", value ")?;
    let (len, keys) = entry.key.split_first_chunk()?;
    let (key, map_key) = keys.split_at_checked(u16::from_le_bytes(*len).into())?;
    let (index, value) = entry.value.split_first_chunk()?;
    Some(vec![
        ("key", typed(key_type, key)),
        ("index", Decoded::Unsigned(u32::from_le_bytes(*index).into())),
        ("map_key", typed(map_key_type, map_key)),
        ("value", typed(value_type, value)),
    ])
}

fn at_of(bytes: [u8; 8]) -> Decoded {
    Decoded::Signed(i64::from_le_bytes(bytes).into())
}

/// A value of a type as `state/value.rs` and `record/key.rs` call it: `u64`, `f64 (8 bytes)`, `string`, `A and B`.
fn typed(layout: &str, bytes: &[u8]) -> Decoded {
    let parts: Vec<(&str, Option<usize>)> = layout.split(" and ").map(with_len).collect();
    if let [(name, _)] = parts[..] {
        return plain(name, bytes).unwrap_or_else(|| Decoded::Bytes(bytes.to_vec()));
    }
    let mut rest = bytes;
    let mut many = Vec::with_capacity(parts.len());
    for (name, len) in parts {
        let Some((part, behind)) = len.and_then(|len| rest.split_at_checked(len)) else {
            return Decoded::Bytes(bytes.to_vec());
        };
        many.push((None, plain(name, part).unwrap_or_else(|| Decoded::Bytes(part.to_vec()))));
        rest = behind;
    }
    if rest.is_empty() { Decoded::Many(many) } else { Decoded::Bytes(bytes.to_vec()) }
}

/// `f64 (8 bytes)` is an f64 of 8 bytes.
fn with_len(text: &str) -> (&str, Option<usize>) {
    match text.rsplit_once(" (") {
        Some((name, len)) => (name, len.strip_suffix(" bytes)").and_then(|len| len.parse().ok())),
        None => (text, None),
    }
}

fn plain(name: &str, bytes: &[u8]) -> Option<Decoded> {
    if let Some((of, count)) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')?.split_once("; ")) {
        let count: usize = count.parse().ok()?;
        let len = bytes.len().checked_div(count).filter(|len| *len > 0 && len * count == bytes.len())?;
        return bytes.chunks(len).map(|part| Some((None, plain(of, part)?))).collect::<Option<_>>().map(Decoded::Many);
    }
    macro_rules! number {
        ($type:ty, $as:ident) => {
            Some(Decoded::$as(<$type>::from_le_bytes(bytes.try_into().ok()?).into()))
        };
    }
    match name {
        "u8" => number!(u8, Unsigned),
        "u16" => number!(u16, Unsigned),
        "u32" => number!(u32, Unsigned),
        "u64" => number!(u64, Unsigned),
        "u128" => number!(u128, Unsigned),
        "i8" => number!(i8, Signed),
        "i16" => number!(i16, Signed),
        "i32" => number!(i32, Signed),
        "i64" => number!(i64, Signed),
        "i128" => number!(i128, Signed),
        "f32" => number!(f32, Float),
        "f64" => number!(f64, Float),
        "string" => String::from_utf8(bytes.to_vec()).ok().map(Decoded::Text),
        _ => None,
    }
}
