//! How the records of one channel lie in their segments; fixed when the channel is made.

/// The layout of every record of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordShape {
    /// Time, key and payload of constant length, each padded to 8 bytes.
    Fixed {
        /// The length of the key in bytes; 0 where the edge is not keyed.
        key_len: usize,
        /// The length of the payload in bytes.
        payload_len: usize,
    },
    /// Each record says how long its key and payload are; both are padded to 16 bytes.
    Sized,
}
