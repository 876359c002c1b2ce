//! The two kinds of record and how each is written into and read out of a segment.
//!
//! Fixed-size records (`#[derive(Record)]` on a `#[repr(C)]` struct of plain numbers) travel as their own bytes. Archived records
//! (`#[record(archived)]` beside rkyv's derives: strings, vectors) travel as rkyv archives. Both are read in place.

use crate::record::{RecordShape, Schema};
use bytemuck::Pod;
use rkyv::util::AlignedVec;

/// A type that can cross from one task to another.
///
/// A struct with padding, or with a field that is no plain number, does not compile:
///
/// ```compile_fail,E0080
/// #[derive(millstream::Record, Clone, Copy)]
/// #[repr(C)]
/// struct Padded { small: u8, large: u64 }
/// ```
///
/// ```compile_fail,E0277
/// #[derive(millstream::Record, Clone, Copy)]
/// #[repr(C)]
/// struct Flagged { flag: bool }
/// ```
///
/// Implemented by `#[derive(Record)]`, and for every `bytemuck::Pod` type that says what it consists of (numbers, arrays of numbers).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel between tasks: it is not a record",
    note = "derive it: `#[derive(Record)]` with `#[repr(C)]` for plain numbers, or `#[record(archived)]` with rkyv's derives for strings and vectors"
)]
pub trait Record: Schema + 'static {
    /// What the receiving side reads in place: the type itself when it is fixed-size, its archived form otherwise.
    type View: 'static;

    /// How records of this type lie in a segment, keyed by `key_len` bytes (`None`: keys vary in length).
    fn shape(key_len: Option<usize>) -> RecordShape;

    /// Hands the record's bytes to `write`; archived records are serialised into `scratch` first.
    fn with_bytes<R>(&self, scratch: &mut Scratch, write: impl FnOnce(&[u8]) -> R) -> Result<R, RecordError>;

    /// The record that `bytes` hold, read in place.
    fn view(bytes: &[u8]) -> Result<&Self::View, RecordError>;
}

/// Why bytes are no record, or a record became no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The archive does not validate.
    #[error("{len} bytes are no {type_name}: {reason}")]
    Invalid {
        /// The record type.
        type_name: &'static str,
        /// How many bytes were looked at.
        len: usize,
        /// What is wrong with them.
        reason: String,
    },
    /// rkyv could not serialise the value.
    #[error("a {type_name} cannot be archived: {reason}")]
    Unarchivable {
        /// The record type.
        type_name: &'static str,
        /// rkyv's words.
        reason: String,
    },
}

/// Memory for serialising one record at a time, reused for the next.
#[derive(Default)]
pub struct Scratch {
    bytes: AlignedVec<16>,
}

impl<T: Pod + Schema> Record for T {
    type View = T;

    #[inline(always)]
    fn shape(key_len: Option<usize>) -> RecordShape {
        match key_len {
            Some(key_len) if align_of::<T>() <= 8 => {
                RecordShape::Fixed { key_len: key_len as u32, payload_len: size_of::<T>() as u32 }
            }
            _ => RecordShape::Sized,
        }
    }

    #[inline]
    fn with_bytes<R>(&self, _: &mut Scratch, write: impl FnOnce(&[u8]) -> R) -> Result<R, RecordError> {
        Ok(write(bytemuck::bytes_of(self)))
    }

    #[inline]
    fn view(bytes: &[u8]) -> Result<&T, RecordError> {
        bytemuck::try_from_bytes(bytes).map_err(|e| RecordError::Invalid {
            type_name: std::any::type_name::<T>(),
            len: bytes.len(),
            reason: e.to_string(),
        })
    }
}

/// The archived kind, for `#[record(archived)]` to call; not meant to be called by hand.
#[doc(hidden)]
pub mod archived {
    use super::*;
    use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
    use rkyv::bytecheck::CheckBytes;
    use rkyv::rancor::Error;
    use rkyv::ser::allocator::ArenaHandle;
    use rkyv::{Archive, Deserialize, Portable, Serialize};

    /// Serialises into the scratch memory and hands the archive on.
    pub fn with_bytes<T, R>(value: &T, scratch: &mut Scratch, write: impl FnOnce(&[u8]) -> R) -> Result<R, RecordError>
    where
        T: for<'a> Serialize<HighSerializer<AlignedVec<16>, ArenaHandle<'a>, Error>>,
    {
        let mut reused = std::mem::take(&mut scratch.bytes);
        reused.clear();
        let archive = rkyv::api::high::to_bytes_in::<_, Error>(value, reused)
            .map_err(|e| RecordError::Unarchivable { type_name: std::any::type_name::<T>(), reason: e.to_string() })?;
        let result = write(&archive);
        scratch.bytes = archive;
        Ok(result)
    }

    /// Validates and reads an archive in place.
    pub fn view<A>(bytes: &[u8]) -> Result<&A, RecordError>
    where
        A: Portable + for<'a> CheckBytes<HighValidator<'a, Error>>,
    {
        rkyv::access::<A, Error>(bytes).map_err(|e| RecordError::Invalid {
            type_name: std::any::type_name::<A>(),
            len: bytes.len(),
            reason: e.to_string(),
        })
    }

    /// Takes an archived value apart again, to write it once more.
    pub fn deserialize<T: Archive>(view: &T::Archived) -> Result<T, RecordError>
    where
        T::Archived: Deserialize<T, HighDeserializer<Error>>,
    {
        rkyv::deserialize::<T, Error>(view)
            .map_err(|e| RecordError::Unarchivable { type_name: std::any::type_name::<T>(), reason: e.to_string() })
    }
}

/// A type that may stand in a fixed-size record; checked by `#[derive(Record)]`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of a fixed-size record",
    label = "not plain numbers",
    note = "fixed-size records hold integers, floats and arrays of them (no bool, char, String, Vec, references)",
    note = "for strings and vectors add `#[record(archived)]` and derive rkyv's Archive, Serialize and Deserialize"
)]
pub trait FixedField {}

impl<T: Pod> FixedField for T {}

/// Asserted at compile time by `#[derive(Record)]` for each field.
#[doc(hidden)]
pub const fn assert_fixed_field<T: FixedField>() {}
