//! CSV lines in one pass: no quotes, nothing to judge. The fields are found eight bytes at a time and handed to serde as they lie there.
//!
//! Invariant: a record made here is the one that the csv crate makes of the same line. Whatever might be otherwise (a quote, a value that does not fit its type, a type whose reading depends on the text) is `NotPlain` and goes the other way.

use super::not_plain::NotPlain;
use super::plain_text::{find_either, leading_number};
use serde::de::value::BorrowedBytesDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use std::ops::Range;

/// Where the fields of a line lie. Reused from line to line.
#[derive(Default)]
pub struct PlainLine {
    fields: Vec<Range<usize>>,
    len_bytes: usize,
}

impl PlainLine {
    /// Finds the fields of the line that `block` begins with; `false` when it is not plain, is blank or does not end here.
    #[inline]
    pub fn find(&mut self, block: &[u8], delimiter: u8) -> bool {
        self.fields.clear();
        // At the beginning of a text the csv crate takes this for a byte order mark.
        if matches!(delimiter, b'"' | b'\n' | b'\r') || block.starts_with(b"\xef\xbb\xbf") {
            return false;
        }
        let (mut start, mut at) = (0, 0);
        loop {
            at = find_either(block, at, [delimiter, b'\n', b'"']);
            match block.get(at..) {
                Some([byte, ..]) if *byte == delimiter => {
                    self.fields.push(start..at);
                    start = at + 1;
                    at = start;
                }
                Some([b'\n', ..]) => return self.end(block, start..at, 1),
                Some([b'\r', b'\n', ..]) => return self.end(block, start..at, 2),
                None | Some([] | [b'"', ..]) => return false,
                // Not ASCII, or a control character: a part of its field.
                Some(_) => at += 1,
            }
        }
    }

    /// How long the line is with its end.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// How many fields it has.
    pub fn field_count(&self) -> usize {
        self.fields.len()
    }

    /// The record, its fields matched by name or in their order.
    #[inline]
    pub fn read<T: DeserializeOwned>(&self, block: &[u8], names: Option<&[Vec<u8>]>) -> Result<T, NotPlain> {
        T::deserialize(&mut Fields { block, rest: &self.fields, names })
    }

    fn end(&mut self, block: &[u8], last: Range<usize>, end_len_bytes: usize) -> bool {
        self.len_bytes = last.end + end_len_bytes;
        let is_blank = self.fields.is_empty() && block[last.clone()].trim_ascii().is_empty();
        self.fields.push(last);
        !is_blank
    }
}

/// The fields that are still to be read, and the names of the columns that are.
struct Fields<'de> {
    block: &'de [u8],
    rest: &'de [Range<usize>],
    names: Option<&'de [Vec<u8>]>,
}

impl<'de> Fields<'de> {
    #[inline]
    fn range(&mut self) -> Result<Range<usize>, NotPlain> {
        let (first, rest) = self.rest.split_first().ok_or(NotPlain)?;
        self.rest = rest;
        Ok(first.clone())
    }

    #[inline]
    fn text(&mut self) -> Result<&'de str, NotPlain> {
        let range = self.range()?;
        std::str::from_utf8(&self.block[range]).map_err(|_| NotPlain)
    }

    #[inline]
    fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, NotPlain> {
        self.text()?.parse().map_err(|_| NotPlain)
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
            visitor.$visit(self.parsed()?)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Fields<'de> {
    type Error = NotPlain;

    // A hexadecimal integer, which csv knows, does not parse and goes the other way.
    parsed! {
        deserialize_bool visit_bool
        deserialize_u8 visit_u8 deserialize_u16 visit_u16 deserialize_u32 visit_u32 deserialize_u64 visit_u64
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32 deserialize_i64 visit_i64
        deserialize_f32 visit_f32
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        let range = self.range()?;
        let value = match leading_number(&self.block[range.start..]) {
            Some((value, len)) if len == range.len() => value,
            _ => std::str::from_utf8(&self.block[range]).ok().and_then(|text| text.parse().ok()).ok_or(NotPlain)?,
        };
        visitor.visit_f64(value)
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_borrowed_str(self.text()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_str(self.text()?)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        match self.rest.first() {
            None => visitor.visit_none(),
            Some(field) if field.is_empty() => {
                self.range()?;
                visitor.visit_none()
            }
            Some(_) => visitor.visit_some(self),
        }
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_seq(self)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_seq(self)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, NotPlain> {
        visitor.visit_seq(self)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        match self.names {
            Some(_) => visitor.visit_map(self),
            None => visitor.visit_seq(self),
        }
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NotPlain> {
        self.deserialize_map(visitor)
    }

    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        self.range()?;
        visitor.visit_unit()
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NotPlain> {
        Err(NotPlain)
    }

    forward_to_deserialize_any! { char bytes byte_buf unit unit_struct enum identifier }
}

impl<'de> SeqAccess<'de> for &mut Fields<'de> {
    type Error = NotPlain;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NotPlain> {
        match self.rest {
            [] => Ok(None),
            _ => seed.deserialize(&mut **self).map(Some),
        }
    }
}

impl<'de> MapAccess<'de> for &mut Fields<'de> {
    type Error = NotPlain;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NotPlain> {
        let Some((name, rest)) = self.names.and_then(<[_]>::split_first) else { return Ok(None) };
        self.names = Some(rest);
        seed.deserialize(BorrowedBytesDeserializer::new(name)).map(Some)
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, NotPlain> {
        seed.deserialize(&mut **self)
    }
}
