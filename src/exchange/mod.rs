//! How do records cross cores? Channels of segments from one producer to one consumer, and the gates made of them.
//!
//! Path of a record: `OutputGate` -> `Partitioner` picks the subtask -> `Sender` writes it once into a segment -> one release store
//! publishes it -> `Receiver` shows it in place -> `InputGate`. Not here: aligning barriers (`checkpoint`), merging
//! watermarks (`time`), what a key hashes to (`record`).
//!
//! Architecture invariant: only `segment` is unsafe; no lock and no allocation per record, nor per segment in steady state.

mod channel;
mod frame;
mod input_gate;
mod output_gate;
mod partitioner;
mod receiver;
mod record_shape;
mod segment;
mod sender;

pub use channel::{ChannelCounters, ChannelOptions, ExchangeError, SEGMENTS_IN_FLIGHT_DEFAULT, channel};
pub use frame::{Delivery, FRAME_HEADER_LEN_BYTES, InBand, RecordFrame};
pub use input_gate::{ChannelIndex, InputGate};
pub use output_gate::OutputGate;
pub use partitioner::{KeyGroupOwners, Partitioner, Targets};
pub use receiver::Receiver;
pub use record_shape::{RecordRef, RecordRefs, RecordShape, Shaped};
pub use segment::{Refreshed, SEGMENT_LEN_BYTES, SegmentReader, SegmentWriter, pair};
pub use sender::Sender;
