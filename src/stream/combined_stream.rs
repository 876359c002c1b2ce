//! Windows whose records are combined where they come from, before they cross to the subtask of their key.

use super::chain::Chain;
use super::data_stream::DataStream;
use super::keyed_stream::KeyedStream;
use super::windowed_stream::WindowChain;
use crate::graph::{BuildError, Partitioning};
use crate::operator::{Aggregate, Combine, MergePartials, Partial};
use crate::record::{FixedKey, Record};
use crate::window::SlicedWindows;

/// The accumulators of each key in event-time windows, combined at the senders; what `aggregate` is called on.
#[must_use = "a stream does nothing until it ends in a sink"]
pub struct CombinedStream<K, A, V> {
    stream: KeyedStream<K, Partial>,
    windows: SlicedWindows,
    merge: MergePartials<A, V>,
}

impl<C: Chain> DataStream<C> {
    /// As `key_by(name, key).window(windows)` with an aggregate that is computed in two steps: the records of one key and slice become one
    /// accumulator at each sender, and those are merged by the subtask of the key (Flink SQL's local-global aggregation). Results and state are
    /// those of the one step; a hot key costs its receiver one record per sender and slice, and a key that comes
    /// again soon costs an addition instead of a crossing. Worth it for up to some ten thousand keys at a time; with more,
    /// a record that finds no other of its key crosses in 64 bytes.
    ///
    /// Only for aggregates that merge in any order (counts, integer sums, extremes), with accumulators of at most 48 bytes: others do not
    /// compile. Late records are counted, and have no output of their own.
    ///
    /// ```
    /// # use millstream::operator::{Count, Sum};
    /// # use millstream::sink::Collect;
    /// # use millstream::source::VecSource;
    /// # use millstream::stream::Job;
    /// # use millstream::time::{EventTimeMs, Watermarks};
    /// # use millstream::window::Tumbling;
    /// let (job, totals) = (Job::new("views"), Collect::immediate());
    /// job.source("views", VecSource::new(vec![vec![(7u64, 1u64), (7, 2), (8, 3)]]))
    ///     .event_time(|&(_page, at)| EventTimeMs(at as i64), Watermarks::monotonous())
    ///     .map(|&(page, _at)| page)
    ///     .combine_by_key("by-page", |page| *page, Tumbling::of(1_000), Count)
    ///     .aggregate("per-second")
    ///     .map(|total| (total.key, total.value))
    ///     .sink("totals", totals.clone());
    /// ```
    pub fn combine_by_key<K, F, A>(
        self,
        name: &str,
        key: F,
        windows: SlicedWindows,
        aggregate: A,
    ) -> CombinedStream<K, A, C::Out>
    where
        K: FixedKey,
        F: Fn(&C::Out) -> K + Clone + Send + Sync + 'static,
        A: Aggregate<C::Out>,
    {
        let merge = MergePartials::new(aggregate.clone());
        let vertex = self.graph.add_vertex(name);
        let edge = self.graph.connect(self.vertex, vertex, Partitioning::Hash, Partial::shape(K::FIXED_LEN));
        let stream = KeyedStream::new(self.graph.clone(), vertex);
        let exchange = name.to_owned();
        self.end(move |chain, cx| {
            let gate = cx.take_output(edge);
            let combine = Combine::open(gate, key.clone(), windows, aggregate.clone(), cx.arena.budget());
            let combine = combine.map_err(|error| BuildError::Combine { exchange: exchange.clone(), error })?;
            chain.build(cx, combine)
        });
        CombinedStream { stream, windows, merge }
    }
}

impl<K, A, V> CombinedStream<K, A, V>
where
    K: FixedKey,
    V: 'static,
    A: Aggregate<V>,
{
    /// One result per key and window that holds a record, as `WindowedStream::aggregate`, whose state it can take over.
    pub fn aggregate(self, name: &str) -> DataStream<WindowChain<K, Partial, MergePartials<A, V>>> {
        self.stream.window(self.windows).aggregate(name, self.merge)
    }
}
