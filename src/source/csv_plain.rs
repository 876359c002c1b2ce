//! CSV lines in one pass: no quotes, nothing to judge. Each field is read where it begins, and its end is where its value ends.
//!
//! Invariant: a record made here is the one that the csv crate makes of the same line. Whatever might be otherwise (a quote, a value that does
//! not fit its type, a type whose reading depends on the text) is `NotPlain` and goes the other way.

use super::not_plain::NotPlain;
use super::plain_text::{Number, leading_number};
use serde::de::value::BorrowedBytesDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Whether lines with this between their fields are read here: not where it may be a part of a number, of a character or of a line's end.
pub fn knows(delimiter: u8) -> bool {
    delimiter.is_ascii() && !delimiter.is_ascii_digit() && !b"\"\n\r-.".contains(&delimiter)
}

/// The record of the line that `text` begins with, its fields matched by name or in their order, and the line's length with its end.
#[inline]
pub fn read<T: DeserializeOwned>(text: &str, delimiter: u8, names: Option<&[Vec<u8>]>) -> Result<(T, usize), NotPlain> {
    // At the beginning of a text the csv crate takes this for a byte order mark.
    if text.starts_with('\u{feff}') {
        return Err(NotPlain);
    }
    let mut fields = Fields { text, at: 0, taken: 0, is_at_end: false, is_refused: false, delimiter, names };
    let record = T::deserialize(&mut fields)?;
    while !fields.is_at_end {
        fields.field()?;
    }
    let is_blank = text[..fields.at].trim_ascii_start().is_empty();
    if fields.is_refused || is_blank || names.is_some_and(|names| names.len() != fields.taken) {
        return Err(NotPlain);
    }
    Ok((record, fields.at))
}

/// The fields that are still to be read, and the names of the columns that are.
struct Fields<'de> {
    text: &'de str,
    /// Where the next field begins; behind the last one, where the next line does.
    at: usize,
    /// How many were taken.
    taken: usize,
    is_at_end: bool,
    /// A field was not plain. A deserializer that takes errors for missing values does not pass that on.
    is_refused: bool,
    delimiter: u8,
    names: Option<&'de [Vec<u8>]>,
}

impl<'de> Fields<'de> {
    /// Takes the field that ends at `end`, if it does.
    #[inline(always)]
    fn end_at(&mut self, end: usize) -> Result<(), NotPlain> {
        self.at = match self.text.as_bytes().get(end..) {
            Some([byte, ..]) if *byte == self.delimiter => end + 1,
            Some([b'\n', ..]) => {
                self.is_at_end = true;
                end + 1
            }
            Some([b'\r', b'\n', ..]) => {
                self.is_at_end = true;
                end + 2
            }
            _ => return Err(NotPlain),
        };
        self.taken += 1;
        Ok(())
    }

    /// Takes a field as it is.
    #[inline(always)]
    fn field(&mut self) -> Result<&'de str, NotPlain> {
        if self.is_at_end {
            return Err(self.refused());
        }
        let rest = &self.text[self.at..];
        let Some(len) = memchr::memchr3(self.delimiter, b'\n', b'"', rest.as_bytes()) else {
            return Err(self.refused());
        };
        let (field, behind) = rest.split_at(len);
        self.taken += 1;
        self.at += len + 1;
        match behind.as_bytes()[0] {
            b'"' => Err(self.refused()),
            b'\n' => {
                self.is_at_end = true;
                // A carriage return anywhere else is a part of its field.
                Ok(field.strip_suffix('\r').unwrap_or(field))
            }
            _ => Ok(field),
        }
    }

    #[inline]
    fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, NotPlain> {
        self.field()?.parse().map_err(|_| self.refused())
    }

    #[cold]
    fn refused(&mut self) -> NotPlain {
        self.is_refused = true;
        NotPlain
    }

    /// Takes a field that is a plain number; `None` leaves it where it is.
    #[inline(always)]
    fn number(&mut self) -> Option<Number> {
        if self.is_at_end {
            return None;
        }
        let number = leading_number(&self.text.as_bytes()[self.at..])?;
        self.end_at(self.at + number.len_bytes).ok()?;
        Some(number)
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident)*) => {
        $(#[inline(always)]
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

    #[inline(always)]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        match self.number() {
            Some(number) => visitor.visit_f64(number.value),
            None => visitor.visit_f64(self.parsed()?),
        }
    }

    #[inline(always)]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_borrowed_str(self.field()?)
    }

    #[inline(always)]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_str(self.field()?)
    }

    #[inline(always)]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        if self.is_at_end || self.end_at(self.at).is_ok() {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    #[inline(always)]
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

    #[inline(always)]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        match self.names {
            Some(_) => visitor.visit_map(self),
            None => visitor.visit_seq(self),
        }
    }

    #[inline(always)]
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
        self.field()?;
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
        match self.is_at_end {
            true => Ok(None),
            false => seed.deserialize(&mut **self).map(Some),
        }
    }
}

impl<'de> MapAccess<'de> for &mut Fields<'de> {
    type Error = NotPlain;

    #[inline(always)]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NotPlain> {
        let Some((name, rest)) = self.names.and_then(<[_]>::split_first) else { return Ok(None) };
        self.names = Some(rest);
        seed.deserialize(BorrowedBytesDeserializer::new(name)).map(Some)
    }

    #[inline(always)]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, NotPlain> {
        seed.deserialize(&mut **self)
    }
}
