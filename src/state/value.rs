//! What a state can hold: fixed-size values, pairs of them, and values archived by rkyv.
//!
//! Here: how a value becomes bytes of a page and comes back. Not here: where in the page they lie (`layout`).

use super::StateError;
use crate::record::{Schema, schema_of};
use bytemuck::Pod;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error as ArchiveError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Serialize};
use std::marker::PhantomData;

/// A value that every time takes the same number of bytes. Every `Pod` type that says what it consists of is one (derive `Record`, or `Pod`
/// and `Schema`); [`Both`] makes one of two.
pub trait FixedValue: Sized + 'static {
    /// How many bytes.
    const LEN: usize;

    /// Writes the value into `out`, which is `LEN` bytes long.
    fn store(&self, out: &mut [u8]);

    /// Reads the value from `bytes`, which are `LEN` bytes long and need not be aligned.
    fn load(bytes: &[u8]) -> Self;

    /// The value in words, for the manifest and for errors: its fields and its size.
    fn layout() -> String;
}

impl<T: Pod + Schema> FixedValue for T {
    const LEN: usize = size_of::<T>();

    #[inline(always)]
    fn store(&self, out: &mut [u8]) {
        out.copy_from_slice(bytemuck::bytes_of(self));
    }

    #[inline(always)]
    fn load(bytes: &[u8]) -> Self {
        bytemuck::pod_read_unaligned(bytes)
    }

    fn layout() -> String {
        format!("{} ({} bytes)", schema_of::<T>(), Self::LEN)
    }
}

/// Two fixed-size values as one, the second right behind the first, so that aggregates compose without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Both<A, B>(pub A, pub B);

impl<A: FixedValue, B: FixedValue> FixedValue for Both<A, B> {
    const LEN: usize = A::LEN + B::LEN;

    #[inline(always)]
    fn store(&self, out: &mut [u8]) {
        let (first, second) = out.split_at_mut(A::LEN);
        self.0.store(first);
        self.1.store(second);
    }

    #[inline(always)]
    fn load(bytes: &[u8]) -> Self {
        let (first, second) = bytes.split_at(A::LEN);
        Self(A::load(first), B::load(second))
    }

    fn layout() -> String {
        format!("{} and {}", A::layout(), B::layout())
    }
}

/// Anything a state can hold: a [`FixedValue`] or an [`ArchivedValue`].
pub trait StateValue: Sized + 'static {
    /// The length of every value, or `None` when they vary.
    const FIXED_LEN: Option<usize>;

    /// How many bytes this value takes.
    fn len_bytes(&self) -> usize;

    /// Writes the value into `out`, which is `len_bytes()` long.
    fn store(&self, out: &mut [u8]);

    /// Reads a value back; `None` when `bytes` cannot be one (only possible with damaged input).
    fn load(bytes: &[u8]) -> Option<Self>;

    /// Whether bytes from a checkpoint are a value. Unlike `load` it also looks inside archives.
    fn check(bytes: &[u8]) -> bool;

    /// The value in words, for the manifest and for errors.
    fn layout() -> String;
}

impl<T: FixedValue> StateValue for T {
    const FIXED_LEN: Option<usize> = Some(T::LEN);

    #[inline(always)]
    fn len_bytes(&self) -> usize {
        T::LEN
    }

    #[inline(always)]
    fn store(&self, out: &mut [u8]) {
        FixedValue::store(self, out);
    }

    #[inline(always)]
    fn load(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == T::LEN).then(|| <T as FixedValue>::load(bytes))
    }

    fn check(bytes: &[u8]) -> bool {
        bytes.len() == T::LEN
    }

    fn layout() -> String {
        <T as FixedValue>::layout()
    }
}

/// A value of any size, archived by rkyv; every read is checked.
pub struct ArchivedValue<T> {
    bytes: AlignedVec,
    of: PhantomData<fn() -> T>,
}

impl<T> ArchivedValue<T>
where
    T: Archive + 'static,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>,
{
    /// Archives `value`.
    pub fn new(value: &T) -> Result<Self, StateError>
    where
        T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>,
    {
        let bytes = rkyv::to_bytes::<ArchiveError>(value).map_err(archive_error::<T>)?;
        Ok(Self { bytes, of: PhantomData })
    }

    /// The archived value, to be read in place.
    pub fn get(&self) -> Result<&T::Archived, StateError> {
        rkyv::access::<T::Archived, ArchiveError>(&self.bytes).map_err(archive_error::<T>)
    }
}

/// Archives up to this length are read without an allocation wherever they lie.
const SHORT_LEN_MAX: usize = 256;

#[repr(align(16))]
struct ShortArchive([u8; SHORT_LEN_MAX]);

/// Calls `read` with the value archived in `bytes`: in place when they happen to be aligned, otherwise from a copy that is.
pub(super) fn read_archive<T, R>(bytes: &[u8], read: impl FnOnce(&T::Archived) -> R) -> Result<R, StateError>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>,
{
    let read_aligned =
        |bytes: &[u8]| rkyv::access::<T::Archived, ArchiveError>(bytes).map(read).map_err(archive_error::<T>);
    if bytes.as_ptr().addr().is_multiple_of(align_of::<T::Archived>().max(8)) {
        return read_aligned(bytes);
    }
    if bytes.len() <= SHORT_LEN_MAX {
        let mut short = ShortArchive([0; SHORT_LEN_MAX]);
        short.0[..bytes.len()].copy_from_slice(bytes);
        return read_aligned(&short.0[..bytes.len()]);
    }
    let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    read_aligned(&aligned)
}

impl<T> Clone for ArchivedValue<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), of: PhantomData }
    }
}

impl<T> std::fmt::Debug for ArchivedValue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} archived in {} bytes", std::any::type_name::<T>(), self.bytes.len())
    }
}

impl<T> StateValue for ArchivedValue<T>
where
    T: Archive + Schema + 'static,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>,
{
    const FIXED_LEN: Option<usize> = None;

    fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn store(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes);
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        let mut aligned = AlignedVec::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        Some(Self { bytes: aligned, of: PhantomData })
    }

    fn check(bytes: &[u8]) -> bool {
        Self::load(bytes).is_some_and(|value| value.get().is_ok())
    }

    fn layout() -> String {
        format!("archived {}", schema_of::<T>())
    }
}

fn archive_error<T>(error: ArchiveError) -> StateError {
    StateError::Archive { type_name: std::any::type_name::<T>(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_stored_without_padding_and_read_back() {
        type Pair = Both<u8, Both<u64, u16>>;
        let mut bytes = [0; 11];
        let pair: Pair = Both(1, Both(2, 3));
        FixedValue::store(&pair, &mut bytes);
        assert_eq!(<Pair as FixedValue>::load(&bytes), pair);
        assert_eq!(<Pair as FixedValue>::layout(), "u8 (1 bytes) and u64 (8 bytes) and u16 (2 bytes)");
    }

    #[test]
    fn archived_bytes_that_are_no_such_value_are_refused() {
        let value = ArchivedValue::new(&vec![String::from("a longer text than fits inline")]).unwrap();
        let mut bytes = value.bytes.to_vec();
        assert!(ArchivedValue::<Vec<String>>::check(&bytes));
        let last = bytes.len() - 4;
        bytes[last] = 0xee;
        assert!(!ArchivedValue::<Vec<String>>::check(&bytes));
    }
}
