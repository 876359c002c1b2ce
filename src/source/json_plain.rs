//! JSON lines in one pass: strings without escapes, numbers without exponents, values as deep as records are. The line's end is found on the
//! way, and serde gets what lies there.
//!
//! Invariant: a record made here is the one that serde_json makes of the same line. Whatever might be otherwise (an escape, an exponent, an
//! enum, a number that no 64-bit integer holds, anything wrong) is `NotPlain` and goes the other way.

use super::not_plain::NotPlain;
use super::plain_text::{Number, find_any, leading_number};
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// How deep values may lie in one another.
const DEPTH_MAX: u32 = 16;
/// Integers of so many digits fit into 63 bits.
const INTEGER_DIGITS_MAX: usize = 18;

/// The record of the line that `text` begins with, and the line's length with its end.
#[inline]
pub fn read<T: DeserializeOwned>(text: &str) -> Result<(T, usize), NotPlain> {
    let mut text = Text { text, at: 0, depth: 0 };
    let record = T::deserialize(&mut text)?;
    if text.byte() == Some(b'\n') {
        return Ok((record, text.at + 1));
    }
    text.skip_blanks();
    match text.text.as_bytes().get(text.at..) {
        Some([b'\n', ..]) => Ok((record, text.at + 1)),
        Some([b'\r', b'\n', ..]) => Ok((record, text.at + 2)),
        _ => Err(NotPlain),
    }
}

struct Text<'de> {
    text: &'de str,
    at: usize,
    depth: u32,
}

impl<'de> Text<'de> {
    #[inline(always)]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t') = self.byte() {
            self.at += 1;
        }
    }

    /// The next byte that is no blank. Mostly it is the next one.
    #[inline(always)]
    fn peek(&mut self) -> Result<u8, NotPlain> {
        if let Some(byte @ b'!'..) = self.byte() {
            return Ok(byte);
        }
        self.skip_blanks();
        self.byte().ok_or(NotPlain)
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), NotPlain> {
        if self.peek()? != byte {
            return Err(NotPlain);
        }
        self.at += 1;
        Ok(())
    }

    fn expect_word(&mut self, word: &[u8]) -> Result<(), NotPlain> {
        if !self.text.as_bytes()[self.at..].starts_with(word) {
            return Err(NotPlain);
        }
        self.at += word.len();
        Ok(())
    }

    /// A string without escapes.
    #[inline(always)]
    fn string(&mut self) -> Result<&'de str, NotPlain> {
        self.expect(b'"')?;
        let start = self.at;
        let end = find_any(self.text.as_bytes(), start, [b'"', b'\\'], b' ');
        if self.text.as_bytes().get(end) != Some(&b'"') {
            return Err(NotPlain);
        }
        self.at = end + 1;
        self.text.get(start..end).ok_or(NotPlain)
    }

    /// A number without an exponent, as serde_json tells it apart: unsigned, negative, or with a point.
    #[inline(always)]
    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, NotPlain> {
        self.peek()?;
        let rest = self.text.as_bytes().get(self.at..).ok_or(NotPlain)?;
        let number = leading_number(rest).ok_or(NotPlain)?;
        if matches!(rest.get(number.len_bytes), None | Some(b'e' | b'E' | b'.')) {
            return Err(NotPlain);
        }
        if matches!(rest[usize::from(number.is_negative)..], [b'0', b'0'..=b'9', ..]) {
            return Err(NotPlain);
        }
        let Number { value, digits, digit_count, is_negative, has_point, len_bytes } = number;
        // A minus before nothing is a double to serde_json.
        if !has_point && (digit_count > INTEGER_DIGITS_MAX || (is_negative && digits == 0)) {
            // It stays where it is: should the visitor take an error for a missing value, what follows is not what must.
            return Err(NotPlain);
        }
        self.at += len_bytes;
        if has_point {
            return visitor.visit_f64(value);
        }
        match is_negative {
            true => visitor.visit_i64(-digits.cast_signed()),
            false => visitor.visit_u64(digits),
        }
    }

    fn deeper(&mut self) -> Result<(), NotPlain> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(NotPlain) } else { Ok(()) }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(#[inline(always)]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
            self.number(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Text<'de> {
    type Error = NotPlain;

    // Not of 32 bits: serde_json rounds those from the text.
    numbers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_f64
    }

    fn deserialize_f32<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NotPlain> {
        Err(NotPlain)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        match self.peek()? {
            b'"' => self.deserialize_str(visitor),
            b'{' => self.deserialize_map(visitor),
            b'[' => self.deserialize_seq(visitor),
            b't' | b'f' => self.deserialize_bool(visitor),
            b'n' => self.deserialize_unit(visitor),
            _ => self.number(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        match self.peek()? {
            b't' => self.expect_word(b"true").and_then(|()| visitor.visit_bool(true)),
            _ => self.expect_word(b"false").and_then(|()| visitor.visit_bool(false)),
        }
    }

    #[inline(always)]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_borrowed_str(self.string()?)
    }

    #[inline(always)]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        self.deserialize_str(visitor)
    }

    #[inline(always)]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        match self.peek()? {
            b'n' => self.expect_word(b"null").and_then(|()| visitor.visit_none()),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        self.peek()?;
        self.expect_word(b"null").and_then(|()| visitor.visit_unit())
    }

    #[inline(always)]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        self.expect(b'[')?;
        self.deeper()?;
        let value = visitor.visit_seq(Items { text: self, is_first: true })?;
        self.depth -= 1;
        self.expect(b']')?;
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, NotPlain> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, NotPlain> {
        self.deserialize_seq(visitor)
    }

    #[inline(always)]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        self.expect(b'{')?;
        self.deeper()?;
        let value = visitor.visit_map(Items { text: self, is_first: true })?;
        self.depth -= 1;
        self.expect(b'}')?;
        Ok(value)
    }

    #[inline(always)]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NotPlain> {
        match self.peek()? {
            b'{' => self.deserialize_map(visitor),
            _ => self.deserialize_seq(visitor),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NotPlain> {
        Err(NotPlain)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NotPlain> {
        Err(NotPlain)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, NotPlain> {
        Err(NotPlain)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, NotPlain> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! { identifier ignored_any }
}

/// What lies between two brackets.
struct Items<'t, 'de> {
    text: &'t mut Text<'de>,
    is_first: bool,
}

impl<'de> Items<'_, 'de> {
    /// Whether another item follows; its comma is taken.
    #[inline(always)]
    fn goes_on(&mut self, end: u8) -> Result<bool, NotPlain> {
        let next = self.text.peek()?;
        if next == end {
            return Ok(false);
        }
        if !std::mem::take(&mut self.is_first) {
            if next != b',' {
                return Err(NotPlain);
            }
            self.text.at += 1;
        }
        Ok(true)
    }
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = NotPlain;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NotPlain> {
        match self.goes_on(b']')? {
            true => seed.deserialize(&mut *self.text).map(Some),
            false => Ok(None),
        }
    }
}

impl<'de> MapAccess<'de> for Items<'_, 'de> {
    type Error = NotPlain;

    #[inline(always)]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NotPlain> {
        match self.goes_on(b'}')? {
            true => seed.deserialize(BorrowedStrDeserializer::new(self.text.string()?)).map(Some),
            false => Ok(None),
        }
    }

    #[inline(always)]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, NotPlain> {
        self.text.expect(b':')?;
        seed.deserialize(&mut *self.text)
    }
}
