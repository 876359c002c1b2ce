//! What a call is answered by: a function over the state of the event's key that returns the reply.

use crate::operator::{Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry};
use crate::record::Key;
use crate::state::{StateError, StateValue, ValueState};
use std::cell::Cell;
use std::marker::PhantomData;

/// A function over the calls of each key, in the order in which they were handed over.
///
/// One value is cloned per subtask. What must survive a restart lives in `State`, never in the function itself.
pub trait KeyedCall<K: Key + ?Sized, E>: Clone + Send + Sync + 'static {
    /// What the caller gets.
    type Reply: Send + 'static;
    /// What it emits into the stream behind it, if anything does.
    type Out: 'static;
    /// Its states, opened once per subtask.
    type State: 'static;

    /// Opens the states by name.
    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError>;

    /// Answers one call of one key. Runs on the slot: it must be short and must not block. An error fails the job.
    fn on_call(
        &self,
        state: &mut Self::State,
        cx: &mut KeyedContext<'_, K>,
        event: &E,
        out: &mut impl Emit<Self::Out, NoSide>,
    ) -> Result<Self::Reply, StateError>;

    /// An event-time timer of one key fires; `cx.at()` is its time.
    fn on_timer(
        &self,
        _state: &mut Self::State,
        _cx: &mut KeyedContext<'_, K>,
        _out: &mut impl Emit<Self::Out, NoSide>,
    ) -> Result<(), StateError> {
        Ok(())
    }
}

/// One call on its way through the function.
pub struct CallRecord<E, R> {
    event: E,
    reply: Cell<Option<R>>,
}

/// The function as a process function over calls.
pub struct CallProcess<C>(pub(crate) C);

/// A function that keeps one value per key.
pub struct AnswerFromValue<F, V> {
    function: F,
    _value: PhantomData<fn() -> V>,
}

impl<E, R> CallRecord<E, R> {
    pub(super) fn new(event: E) -> Self {
        Self { event, reply: Cell::new(None) }
    }

    pub(super) fn event(&self) -> &E {
        &self.event
    }

    /// The reply, unless the function failed.
    pub(super) fn into_reply(self) -> Option<R> {
        self.reply.into_inner()
    }
}

impl<C: Clone> Clone for CallProcess<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, E, C> KeyedProcess<K, CallRecord<E, C::Reply>> for CallProcess<C>
where
    K: Key + ?Sized,
    C: KeyedCall<K, E>,
{
    type Out = C::Out;
    type Side = NoSide;
    type State = C::State;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<C::State, StateError> {
        self.0.open(states)
    }

    #[inline]
    fn on_record(
        &self,
        state: &mut C::State,
        cx: &mut KeyedContext<'_, K>,
        call: &CallRecord<E, C::Reply>,
        out: &mut impl Emit<C::Out, NoSide>,
    ) -> Result<(), StateError> {
        let reply = self.0.on_call(state, cx, &call.event, out)?;
        call.reply.set(Some(reply));
        Ok(())
    }

    fn on_timer(
        &self,
        state: &mut C::State,
        cx: &mut KeyedContext<'_, K>,
        out: &mut impl Emit<C::Out, NoSide>,
    ) -> Result<(), StateError> {
        self.0.on_timer(state, cx, out)
    }
}

impl<F, V> AnswerFromValue<F, V> {
    pub(crate) fn new(function: F) -> Self {
        Self { function, _value: PhantomData }
    }
}

impl<F: Clone, V> Clone for AnswerFromValue<F, V> {
    fn clone(&self) -> Self {
        Self::new(self.function.clone())
    }
}

impl<K, E, V, R, F> KeyedCall<K, E> for AnswerFromValue<F, V>
where
    K: Key + ?Sized,
    V: StateValue + Default,
    R: Send + 'static,
    F: Fn(&mut V, &E) -> R + Clone + Send + Sync + 'static,
{
    type Reply = R;
    type Out = ();
    type State = ValueState<K, V>;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<ValueState<K, V>, StateError> {
        states.value("value")
    }

    #[inline]
    fn on_call(
        &self,
        state: &mut ValueState<K, V>,
        cx: &mut KeyedContext<'_, K>,
        event: &E,
        _: &mut impl Emit<(), NoSide>,
    ) -> Result<R, StateError> {
        let mut reply = None;
        state.update(&cx.hashed(), |value| {
            let mut value = value.unwrap_or_default();
            reply = Some((self.function)(&mut value, event));
            Some(value)
        })?;
        Ok(reply.expect("an update asks for the new value exactly once"))
    }
}
