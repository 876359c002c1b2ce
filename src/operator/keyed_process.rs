//! What a keyed process function is: state, timers and side output in one place. Semantics: Flink `KeyedProcessFunction`.

use super::aggregate::Aggregate;
use super::operator_state::{BroadcastState, ListSharing, OperatorList, OperatorStates};
use crate::record::{Key, Record, Stamp};
use crate::state::{
    AggregatingState, ExpiringList, ExpiringMap, ExpiringValue, Hashed, ListState, MapState, ReducingState,
    StateBackend, StateClock, StateError, StateTtl, StateValue, Timers, ValueState,
};
use crate::time::{EventTimeMs, Watermark};

/// A function over the records of each key, in arrival order or (asked for at the stream) in event-time order.
///
/// One value is cloned per subtask. What must survive a restart lives in `State`, never in the function itself.
pub trait KeyedProcess<K: Key + ?Sized, V>: Clone + Send + Sync + 'static {
    /// What it emits.
    type Out: 'static;
    /// What it emits aside; `NoSide` for nothing.
    type Side: Record;
    /// Its states, opened once per subtask.
    type State: 'static;

    /// Opens the states by name.
    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError>;

    /// Takes one record of one key.
    fn on_record(
        &self,
        state: &mut Self::State,
        cx: &mut KeyedContext<'_, K>,
        record: &V,
        out: &mut impl Emit<Self::Out, Self::Side>,
    ) -> Result<(), StateError>;

    /// An event-time timer of one key fires; `cx.at()` is its time.
    fn on_timer(
        &self,
        _state: &mut Self::State,
        _cx: &mut KeyedContext<'_, K>,
        _out: &mut impl Emit<Self::Out, Self::Side>,
    ) -> Result<(), StateError> {
        Ok(())
    }
}

/// Where a function's results go. Their event time is that of the record or timer at hand.
pub trait Emit<T, S> {
    /// Emits a result.
    fn emit(&mut self, result: &T);
    /// Emits aside.
    fn emit_side(&mut self, result: &S);
}

/// The side output of a function that has none: there is no value of this type to emit.
#[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod, millstream::Schema)]
#[repr(C)]
pub struct NoSide([u8; 0]);

/// Opens the states of one operator in one subtask.
pub struct StateRegistry<'a> {
    backend: &'a mut StateBackend,
    operator: &'a str,
    clock: StateClock,
    operator_states: OperatorStates,
}

/// What belongs to the states that a function opened.
pub(super) struct OpenedStates {
    /// What its expiring states expire by.
    pub clock: StateClock,
    /// What it remembers beside its keys.
    pub operator_states: OperatorStates,
}

impl<'a> StateRegistry<'a> {
    /// For the operator of this name.
    pub(crate) fn new(backend: &'a mut StateBackend, operator: &'a str) -> Self {
        Self { backend, operator, clock: StateClock::default(), operator_states: OperatorStates::default() }
    }

    pub(super) fn opened(self) -> OpenedStates {
        OpenedStates { clock: self.clock, operator_states: self.operator_states }
    }

    /// One value per key.
    pub fn value<K: Key + ?Sized, V: StateValue>(&mut self, name: &str) -> Result<ValueState<K, V>, StateError> {
        self.backend.value(self.operator, name)
    }

    /// A map per key.
    pub fn map<K, MK, MV>(&mut self, name: &str) -> Result<MapState<K, MK, MV>, StateError>
    where
        K: Key + ?Sized,
        MK: Key + ?Sized,
        MV: StateValue,
    {
        self.backend.map(self.operator, name)
    }

    /// A list per key.
    pub fn list<K: Key + ?Sized, V: StateValue>(&mut self, name: &str) -> Result<ListState<K, V>, StateError> {
        self.backend.list(self.operator, name)
    }

    /// One value per key, into which `function` folds others: given the value so far and the one to add.
    pub fn reducing<K, V, F>(&mut self, name: &str, function: F) -> Result<ReducingState<K, V, F>, StateError>
    where
        K: Key + ?Sized,
        V: StateValue,
        F: Fn(V, V) -> V,
    {
        self.backend.reducing(self.operator, name, function)
    }

    /// One accumulator per key, to which records are added.
    pub fn aggregating<K, V, A>(&mut self, name: &str, aggregate: A) -> Result<AggregatingState<K, V, A>, StateError>
    where
        K: Key + ?Sized,
        A: Aggregate<V>,
    {
        self.backend.aggregating(self.operator, name, aggregate)
    }

    /// One value per key, as long as it is used often enough.
    pub fn expiring_value<K, V>(&mut self, name: &str, ttl: StateTtl) -> Result<ExpiringValue<K, V>, StateError>
    where
        K: Key + ?Sized,
        V: StateValue,
    {
        self.backend.expiring_value(self.operator, name, ttl, &self.clock)
    }

    /// A map per key, each entry as long as it is used often enough.
    pub fn expiring_map<K, MK, MV>(&mut self, name: &str, ttl: StateTtl) -> Result<ExpiringMap<K, MK, MV>, StateError>
    where
        K: Key + ?Sized,
        MK: Key + ?Sized,
        MV: StateValue,
    {
        self.backend.expiring_map(self.operator, name, ttl, &self.clock)
    }

    /// A list per key, each element as long as it is used often enough.
    pub fn expiring_list<K, V>(&mut self, name: &str, ttl: StateTtl) -> Result<ExpiringList<K, V>, StateError>
    where
        K: Key + ?Sized,
        V: StateValue,
    {
        self.backend.expiring_list(self.operator, name, ttl, &self.clock)
    }

    /// As `reducing`, as long as the key's value is used often enough.
    pub fn expiring_reducing<K, V, F>(
        &mut self,
        name: &str,
        function: F,
        ttl: StateTtl,
    ) -> Result<ReducingState<K, V, F, ExpiringValue<K, V>>, StateError>
    where
        K: Key + ?Sized,
        V: StateValue,
        F: Fn(V, V) -> V,
    {
        self.backend.expiring_reducing(self.operator, name, function, ttl, &self.clock)
    }

    /// As `aggregating`, as long as the key's accumulator is used often enough.
    pub fn expiring_aggregating<K, V, A>(
        &mut self,
        name: &str,
        aggregate: A,
        ttl: StateTtl,
    ) -> Result<AggregatingState<K, V, A, ExpiringValue<K, A::Accumulator>>, StateError>
    where
        K: Key + ?Sized,
        A: Aggregate<V>,
    {
        self.backend.expiring_aggregating(self.operator, name, aggregate, ttl, &self.clock)
    }

    /// A list of this subtask, beside all keys.
    pub fn operator_list<V: StateValue>(
        &mut self,
        name: &str,
        sharing: ListSharing,
    ) -> Result<OperatorList<V>, StateError> {
        self.operator_states.list(self.operator, name, sharing)
    }

    /// A map that every subtask has a copy of, beside all keys.
    pub fn broadcast<K, V>(&mut self, name: &str) -> Result<BroadcastState<K, V>, StateError>
    where
        K: Key + ?Sized,
        V: StateValue,
    {
        self.operator_states.broadcast(self.operator, name)
    }
}

/// The key at hand, its time, and its timers.
pub struct KeyedContext<'a, K: ?Sized> {
    key: Hashed<'a, K>,
    stamp: Stamp,
    watermark: Watermark,
    timers: &'a mut Timers<K>,
}

impl<'a, K: Key + ?Sized> KeyedContext<'a, K> {
    pub(super) fn new(key: Hashed<'a, K>, stamp: Stamp, watermark: Watermark, timers: &'a mut Timers<K>) -> Self {
        Self { key, stamp, watermark, timers }
    }

    /// The key with its hash, as states want it.
    pub fn hashed(&self) -> Hashed<'a, K> {
        self.key
    }

    /// The key.
    pub fn key(&self) -> &'a K {
        self.key.key
    }

    /// The event time of the record or timer at hand.
    pub fn at(&self) -> EventTimeMs {
        self.stamp.at
    }

    /// The operator's watermark: no record at or before it is in time any more. A timer sees the one that has reached it. In event-time order it
    /// is the time of the timer at hand, or the millisecond before the record at hand, whatever the speed.
    pub fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Fires `on_timer` for this key once the watermark reaches `at`. Setting the same time twice fires once.
    pub fn set_timer(&mut self, at: EventTimeMs) -> Result<(), StateError> {
        self.timers.set(&self.key, at).map(drop)
    }

    /// Takes a timer of this key back.
    pub fn delete_timer(&mut self, at: EventTimeMs) {
        self.timers.delete(&self.key, at);
    }
}
