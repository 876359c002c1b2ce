//! Where do records go? Sinks, some of them in two phases so that output appears exactly once.
//!
//! Here: the traits every sink implements, and the sinks. Not here: when a checkpoint happens (`checkpoint`).
//! Semantics: Flink Sink V2 (`SinkWriter`, `Committer`).

mod callback;
mod checksum;
mod collect;
mod committable;
mod discard;
mod file_transaction;
mod json_lines;
mod part;
mod print;
mod subscription;
#[cfg(test)]
mod test_support;
mod writer;

pub use callback::{Callback, CallbackWriter};
pub use checksum::{Checksum, ChecksumWriter, RowSum};
pub use collect::{Collect, CollectWriter};
pub use discard::{Discard, DiscardWriter};
#[cfg(feature = "formats")]
pub use json_lines::SerdeJson;
pub use json_lines::{EncodeWith, JsonLines, JsonLinesWriter, LineEncoder};
pub use print::{Print, PrintWriter};
pub use subscription::{Subscribe, Subscription, SubscriptionWriter, WhenFull};
pub use writer::{Sink, SinkContext, SinkError, SinkWriter};
