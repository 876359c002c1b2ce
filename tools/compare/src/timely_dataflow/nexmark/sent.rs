//! Lets plain records cross between workers.
//!
//! Timely asks for serde of them, and uses it between processes only.

use bytemuck::Pod;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// A record as its bytes.
#[derive(Clone, Copy)]
pub struct Sent<T>(pub T);

impl<T: Pod> Serialize for Sent<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytemuck::bytes_of(&self.0))
    }
}

impl<'de, T: Pod> Deserialize<'de> for Sent<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bytes(PhantomData))
    }
}

struct Bytes<T>(PhantomData<T>);

impl<T: Pod> Visitor<'_> for Bytes<T> {
    type Value = Sent<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", size_of::<T>())
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Sent<T>, E> {
        let record = bytemuck::try_pod_read_unaligned(bytes);
        record.map(Sent).map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}
