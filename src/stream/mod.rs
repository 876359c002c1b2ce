//! What does a program write? A job, its streams, and what happens to their records.
//!
//! Here: the builder that turns a program into a job graph. Chains are built like iterators: each call wraps the prototype of
//! the chain so far, and the compiler makes one loop of it. Not here: the graph itself (`graph`), what operators do (`operator`).

mod call_stream;
mod chain;
mod combined_stream;
mod data_stream;
mod job;
mod keyed_stream;
mod windowed_stream;

pub use call_stream::{CallChain, CallStream};
pub use chain::{Chain, EdgeChain, FilterChain, FlatMapChain, MapChain};
pub use combined_stream::CombinedStream;
pub use data_stream::DataStream;
pub use job::{Job, SourceChain, SourceStream, Timestamps};
pub use keyed_stream::{KeyedStream, ProcessChain, ReduceChain};
pub use windowed_stream::{WindowChain, WindowedStream};
