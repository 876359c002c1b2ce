//! Calls as a program writes them: who is called by which key, what answers, and what goes on from there.

use super::chain::Chain;
use super::data_stream::DataStream;
use super::job::{GraphCell, Timestamps};
use crate::call::{
    AnswerFromValue, CallHandle, CallHead, CallHeadParts, CallLimits, CallProcess, KeyedCall, Service, ServingEnd,
};
use crate::graph::{BuildContext, BuildError, BuiltChain, VertexId};
use crate::operator::{Process, SideGate, SinkStage, Stage};
use crate::record::KeySelector;
use crate::sink::Discard;
use crate::state::StateValue;
use crate::time::{EventTimeMs, Watermarks};
use std::marker::PhantomData;
use std::sync::Arc;

/// How many calls may wait for one subtask, unless the program says otherwise.
const QUEUE_MAX_DEFAULT: usize = 1024;
/// How many calls of one handle may be under way, unless the program says otherwise.
const UNDER_WAY_MAX_DEFAULT: usize = 1024;

/// Calls of a job, keyed: all calls of one key are answered by one subtask, in the order in which they were handed over.
#[must_use = "calls do nothing until something answers them"]
pub struct CallStream<E, S, F> {
    graph: GraphCell,
    vertex: VertexId,
    name: Arc<str>,
    selector: S,
    at: Timestamps<F>,
    watermarks: Watermarks,
    limits: CallLimits,
    _events: PhantomData<fn(E)>,
}

impl<E, S> CallStream<E, S, fn(&E) -> EventTimeMs> {
    pub(super) fn new(graph: GraphCell, vertex: VertexId, name: &str, selector: S) -> Self {
        let limits = CallLimits { queue_max: QUEUE_MAX_DEFAULT, under_way_max: UNDER_WAY_MAX_DEFAULT };
        let (at, watermarks) = (Timestamps::WhenRead, Watermarks::monotonous());
        Self { graph, vertex, name: name.into(), selector, at, watermarks, limits, _events: PhantomData }
    }

    /// Says where an event's time is, and how far behind the latest one the clock runs. Without this it is the wall clock's when the
    /// call is taken, and the clock goes on although nobody calls. No call is late: it is answered whatever its time is.
    pub fn event_time<F>(self, at: F, watermarks: Watermarks) -> CallStream<E, S, F>
    where
        F: Fn(&E) -> EventTimeMs + Clone + Send + Sync + 'static,
    {
        let Self { graph, vertex, name, selector, limits, .. } = self;
        let at = Timestamps::OfRecord(at);
        CallStream { graph, vertex, name, selector, at, watermarks, limits, _events: PhantomData }
    }
}

impl<E, S, F> CallStream<E, S, F>
where
    E: Send + 'static,
    S: KeySelector<E>,
    F: Fn(&E) -> EventTimeMs + Clone + Send + Sync + 'static,
{
    /// How many calls may wait for each subtask (1024). A call that finds the queue full waits, or is given back.
    pub fn queue(mut self, calls_max: usize) -> Self {
        self.limits.queue_max = calls_max;
        self
    }

    /// How many calls each handle may have under way or unread (1024).
    pub fn under_way(mut self, calls_max: usize) -> Self {
        self.limits.under_way_max = calls_max;
        self
    }

    /// Lets `function` answer, over one value per key that begins as its default: it changes the value and returns the reply.
    ///
    /// ```
    /// use millstream::engine::{Engine, JobOptions};
    /// use millstream::stream::Job;
    ///
    /// let job = Job::new("limits");
    /// let spend = job
    ///     .calls("payments", |payment: &(u64, u64)| payment.0)
    ///     .answer_from_value("spent", |spent: &mut u64, &(_card, cents)| {
    ///         let is_allowed = *spent + cents <= 1_000;
    ///         *spent += if is_allowed { cents } else { 0 };
    ///         is_allowed
    ///     });
    /// let engine = Engine::builder().slots(1).memory(64 << 20).start()?;
    /// engine.submit(job, JobOptions::default())?;
    /// assert!(spend.call((7, 900))?);
    /// assert!(!spend.call((7, 200))?);
    /// assert!(spend.call((8, 200))?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn answer_from_value<V, R, G>(self, name: &str, function: G) -> CallHandle<E, R>
    where
        V: StateValue + Default,
        R: Send + 'static,
        G: Fn(&mut V, &E) -> R + Clone + Send + Sync + 'static,
    {
        self.answer(name, AnswerFromValue::<G, V>::new(function))
    }

    /// Lets `function` answer; what it emits goes nowhere.
    pub fn answer<C: KeyedCall<S::Key, E>>(self, name: &str, function: C) -> CallHandle<E, C::Reply> {
        let (handle, stream) = self.answer_and_emit(name, function);
        let DataStream { graph, vertex, chain } = stream;
        let operator: Arc<str> = name.into();
        graph.add_chain(vertex, move |cx| {
            let stage = SinkStage::open(&operator, &Discard, cx)?;
            chain.build(cx, stage)
        });
        handle
    }

    /// Lets `function` answer; what it emits is a stream.
    pub fn answer_and_emit<C: KeyedCall<S::Key, E>>(
        self,
        name: &str,
        function: C,
    ) -> (CallHandle<E, C::Reply>, DataStream<CallChain<E, S, F, C>>) {
        let Self { graph, vertex, name: source, selector, at, watermarks, limits, .. } = self;
        graph.keyed_operator(name, vertex);
        let service = Arc::new(Service::new(selector.clone(), limits));
        let handle = CallHandle::new(service.clone(), limits.under_way_max);
        let serving = Arc::new(ServingEnd(service));
        let operator = name.into();
        let chain = CallChain { source, operator, function, selector, at, watermarks, serving };
        (handle, DataStream { graph, vertex, chain })
    }
}

/// A chain that begins with calls.
pub struct CallChain<E, S: KeySelector<E>, F, C: KeyedCall<S::Key, E>> {
    source: Arc<str>,
    operator: Arc<str>,
    function: C,
    selector: S,
    at: Timestamps<F>,
    watermarks: Watermarks,
    serving: Arc<ServingEnd<E, C::Reply>>,
}

impl<E, S: KeySelector<E>, F: Clone, C: KeyedCall<S::Key, E>> Clone for CallChain<E, S, F, C> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            operator: self.operator.clone(),
            function: self.function.clone(),
            selector: self.selector.clone(),
            at: self.at.clone(),
            watermarks: self.watermarks.clone(),
            serving: self.serving.clone(),
        }
    }
}

impl<E, S, F, C> Chain for CallChain<E, S, F, C>
where
    E: Send + 'static,
    S: KeySelector<E>,
    F: Fn(&E) -> EventTimeMs + Clone + Send + Sync + 'static,
    C: KeyedCall<S::Key, E>,
{
    type Out = C::Out;

    fn build<N: Stage<C::Out>>(&self, cx: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError> {
        let process = Process::open(&self.operator, CallProcess(self.function.clone()), SideGate::new(None), cx, next)?;
        let parts = CallHeadParts {
            operator: self.source.clone(),
            selector: self.selector.clone(),
            at: self.at.clone(),
            watermarks: self.watermarks.clone(),
            serving: self.serving.clone(),
        };
        Ok(BuiltChain::Source(Box::new(CallHead::new(parts, process, cx))))
    }
}
