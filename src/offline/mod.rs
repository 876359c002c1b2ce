//! What is in a checkpoint, looked at and made without a job? Reading, comparing and writing state offline.
//!
//! Here: [`OfflineCheckpoint`] reads a checkpoint or savepoint, entry by entry as bytes or into typed states, over damaged directories
//! as far as possible; [`SavepointWriter`] makes a savepoint of typed states that a job can start from; [`decode`] turns bytes into
//! values by the layout in the manifest; [`compare`] tells two checkpoints apart. Not here: the bytes on disk (`checkpoint`), what a
//! state is (`state`). Semantics: Flink's State Processor API.
//!
//! The states of the built-in operators are called `OPERATOR/reduced` (reduce), `OPERATOR/slices` and `OPERATOR/window-ends` (windows: the
//! latter holds one timer for each end and key group, of any of the keys that have slices in such a window),
//! `OPERATOR/timers` and `OPERATOR/waiting` (process functions, beside the states they register themselves).
//!
//! Everything here blocks: it is for tools, never for a run loop.

mod compare;
mod decode;
mod read;
mod write;

pub use compare::{Difference, StateDifference, compare};
pub use decode::{Decoded, DecodedEntry, decode};
pub use read::{KeyGroupEntries, OfflineCheckpoint, OfflineError, extend_damages};
pub use write::SavepointWriter;
