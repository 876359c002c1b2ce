//! JSON lines in one pass: strings without escapes, numbers without exponents, values as deep as records are. The line's end is found on the
//! way, and serde gets what lies there.
//!
//! Invariant: a record made here is the one that serde_json makes of the same line. Whatever might be otherwise (an escape, an exponent, an
//! enum, a number that no 64-bit integer holds, anything wrong) is `NotPlain` and goes the other way.

use super::not_plain::NotPlain;
use super::plain_text::{find_either, leading_number};
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// How deep values may lie in one another.
const DEPTH_MAX: u32 = 16;
/// Integers of so many digits fit into 63 bits.
const INTEGER_DIGITS_MAX: usize = 18;

/// The record of the line that `block` begins with, and the line's length with its end.
#[inline]
pub fn read<T: DeserializeOwned>(block: &[u8]) -> Result<(T, usize), NotPlain> {
    let mut text = Text { block, at: 0, depth: 0 };
    let record = T::deserialize(&mut text)?;
    text.skip_blanks();
    match text.block.get(text.at..) {
        Some([b'\n', ..]) => Ok((record, text.at + 1)),
        Some([b'\r', b'\n', ..]) => Ok((record, text.at + 2)),
        _ => Err(NotPlain),
    }
}

struct Text<'de> {
    block: &'de [u8],
    at: usize,
    depth: u32,
}

impl<'de> Text<'de> {
    #[inline]
    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t') = self.block.get(self.at) {
            self.at += 1;
        }
    }

    /// The next byte that is no blank.
    #[inline]
    fn peek(&mut self) -> Result<u8, NotPlain> {
        self.skip_blanks();
        self.block.get(self.at).copied().ok_or(NotPlain)
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), NotPlain> {
        if self.peek()? != byte {
            return Err(NotPlain);
        }
        self.at += 1;
        Ok(())
    }

    fn expect_word(&mut self, word: &[u8]) -> Result<(), NotPlain> {
        if !self.block[self.at..].starts_with(word) {
            return Err(NotPlain);
        }
        self.at += word.len();
        Ok(())
    }

    /// A string without escapes.
    #[inline]
    fn string(&mut self) -> Result<&'de str, NotPlain> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            self.at = find_either(self.block, self.at, [b'"', b'\\']);
            match self.block.get(self.at) {
                Some(b'"') => break,
                // A part of a character that is not ASCII: `from_utf8` judges it.
                Some(0x80..) => self.at += 1,
                _ => return Err(NotPlain),
            }
        }
        let text = &self.block[start..self.at];
        self.at += 1;
        std::str::from_utf8(text).map_err(|_| NotPlain)
    }

    /// A number without an exponent, as serde_json tells it apart: unsigned, negative, or with a point.
    #[inline]
    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, NotPlain> {
        self.skip_blanks();
        let rest = self.block.get(self.at..).ok_or(NotPlain)?;
        let (value, len) = leading_number(rest).ok_or(NotPlain)?;
        let (text, behind) = rest.split_at(len);
        if matches!(behind, [] | [b'e' | b'E' | b'.', ..]) {
            return Err(NotPlain);
        }
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        if matches!(digits, [b'0', b'0'..=b'9', ..]) {
            return Err(NotPlain);
        }
        self.at += len;
        if digits.contains(&b'.') {
            return visitor.visit_f64(value);
        }
        // A minus before nothing is a double to serde_json.
        if digits.len() > INTEGER_DIGITS_MAX || (digits == b"0" && text.len() > 1) {
            return Err(NotPlain);
        }
        let magnitude = digits.iter().fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0'));
        match text.len() > digits.len() {
            true => visitor.visit_i64(-(magnitude as i64)),
            false => visitor.visit_u64(magnitude),
        }
    }

    fn deeper(&mut self) -> Result<(), NotPlain> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(NotPlain) } else { Ok(()) }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(#[inline]
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

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        visitor.visit_borrowed_str(self.string()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        self.deserialize_str(visitor)
    }

    #[inline]
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

    #[inline]
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

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotPlain> {
        self.expect(b'{')?;
        self.deeper()?;
        let value = visitor.visit_map(Items { text: self, is_first: true })?;
        self.depth -= 1;
        self.expect(b'}')?;
        Ok(value)
    }

    #[inline]
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
    #[inline]
    fn goes_on(&mut self, end: u8) -> Result<bool, NotPlain> {
        let next = self.text.peek()?;
        if next == end {
            return Ok(false);
        }
        if !std::mem::take(&mut self.is_first) {
            self.text.expect(b',')?;
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

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NotPlain> {
        match self.goes_on(b'}')? {
            true => seed.deserialize(BorrowedStrDeserializer::new(self.text.string()?)).map(Some),
            false => Ok(None),
        }
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, NotPlain> {
        self.text.expect(b':')?;
        seed.deserialize(&mut *self.text)
    }
}
