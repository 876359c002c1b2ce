//! The end of a chain that hands its records to a sink, and carries the sink through its two phases.

use super::{ChainContext, Flow, Signal, Stage};
use crate::graph::{BuildContext, BuildError};
use crate::memory::Arena;
use crate::metrics::{LatencyRecorder, LossReason, OperatorCounters};
use crate::record::Stamp;
use crate::sink::{Sink, SinkContext, SinkError, SinkWriter};
use std::marker::PhantomData;
use std::sync::Arc;

/// The name under which a sink's committables stand in a checkpoint.
const COMMITTABLE: &str = "committable";

/// Drives one subtask's writer of a sink, and measures the latency of every record that reaches it.
pub struct SinkStage<V, W> {
    operator: Arc<str>,
    writer: W,
    arena: Arena,
    counters: Arc<OperatorCounters>,
    latency: LatencyRecorder,
    _records: PhantomData<fn(&V)>,
}

impl<V: 'static, W: SinkWriter<V>> SinkStage<V, W> {
    /// Opens the writer of this subtask.
    pub fn open<S: Sink<V, Writer = W>>(
        operator: &Arc<str>,
        sink: &S,
        cx: &mut BuildContext,
    ) -> Result<Self, BuildError> {
        let mut writer = sink
            .open(cx.subtask, cx.parallelism)
            .map_err(|error| BuildError::Sink { sink: operator.to_string(), error })?;
        writer.set_doorbell(&cx.doorbell);
        Ok(Self {
            operator: operator.clone(),
            writer,
            arena: cx.arena.clone(),
            counters: cx.metrics.counters(operator),
            latency: cx.metrics.latency(operator),
            _records: PhantomData,
        })
    }

    fn with_writer<T>(
        &mut self,
        cx: &mut ChainContext<'_>,
        act: impl FnOnce(&mut W, &mut SinkContext<'_>) -> Result<T, SinkError>,
    ) -> Option<T> {
        let mut sink_cx = SinkContext { now_ns: cx.now_ns, io: cx.io, arena: &self.arena };
        match act(&mut self.writer, &mut sink_cx) {
            Ok(value) => Some(value),
            Err(error) => {
                cx.fail(&self.operator, error);
                None
            }
        }
    }
}

impl<V: 'static, W: SinkWriter<V>> Stage<V> for SinkStage<V, W> {
    #[inline]
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &V) {
        self.counters.records_in.add(1);
        self.latency.record(cx.now_ns.saturating_sub(stamp.origin_ns));
        self.with_writer(cx, |writer, cx| writer.write(cx, stamp, record));
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        match signal {
            Signal::Restore(restored) => {
                let blobs = restored.blobs.of(&self.operator, COMMITTABLE);
                let committables: Vec<_> = blobs.map(|blob| (blob.subtask, blob.bytes.clone())).collect();
                self.with_writer(cx, |writer, cx| writer.restore(cx, &committables));
            }
            Signal::Snapshot(snapshot) => {
                let id = snapshot.id;
                if let Some(bytes) = self.with_writer(cx, |writer, cx| writer.snapshot(cx, id))
                    && !bytes.is_empty()
                {
                    snapshot.blob(&self.operator, COMMITTABLE, bytes);
                }
            }
            Signal::Prepared(prepared) => **prepared &= self.writer.is_prepared(),
            Signal::Complete(id) => {
                let id = *id;
                self.with_writer(cx, |writer, cx| writer.commit(cx, id));
            }
            Signal::Committed(committed) => **committed &= self.writer.is_committed(),
            Signal::Poll(worked) => {
                **worked |= self.with_writer(cx, |writer, cx| writer.poll(cx)).unwrap_or(false);
                match self.writer.take_dropped() {
                    0 => {}
                    dropped => self.counters.lost(LossReason::NotTaken).add(dropped),
                }
                self.latency.hand_over_if_asked();
            }
            Signal::Close => self.writer.close(cx.io),
            Signal::Watermark(_) | Signal::Idle(_) => {}
        }
        Flow::Done
    }

    fn is_blocked(&self) -> bool {
        self.writer.is_full() || !self.writer.is_ready()
    }
}
