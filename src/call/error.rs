//! Why a call got no reply, and whether it may have taken effect all the same: what a caller must know before it calls again.

use std::time::Duration;

/// Whether the job's state may hold what a call without a reply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does not and never will: calling again is safe.
    None,
    /// It may: call again only what may happen twice, or with a key of your own by which the function knows the call.
    Possible,
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "it has no effect: call again if you like",
            Self::Possible => {
                "it may have taken effect: call again only what may happen twice, or with an id of your own"
            }
        })
    }
}

/// Why a call that was handed over has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The caller's patience ended first. The reply, should it still come, is dropped.
    #[error("a call was not answered within {waited:?}; {effect}")]
    TimedOut {
        /// How long it waited.
        waited: Duration,
        /// Whether it was already taken.
        effect: Effect,
    },
    /// The job failed while it held the call, and its state went back to a checkpoint without it.
    #[error("the job failed with a call under way and its state went back to before it; {}", Effect::None)]
    JobFailed,
    /// The job ended, or its engine was stopped.
    #[error("the job ended with a call under way; {effect}")]
    JobEnded {
        /// Whether its last checkpoint may hold the call.
        effect: Effect,
    },
    /// A reply after commit was asked of a job without checkpoints.
    #[error(
        "a job without checkpoints commits nothing: submit it with `JobOptions::checkpoints`, or call with `Durability::None`"
    )]
    NotDurable,
}

impl CallError {
    /// Whether the call may have taken effect.
    pub fn effect(&self) -> Effect {
        match self {
            Self::TimedOut { effect, .. } | Self::JobEnded { effect } => *effect,
            Self::JobFailed | Self::NotDurable => Effect::None,
        }
    }
}

/// Why a call was not handed over; its event is given back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryCallError<E> {
    /// The job does not keep up.
    #[error("the queue of {capacity} calls is full: call again later, or use `call`, which waits")]
    QueueFull {
        /// The event.
        event: E,
        /// How many calls the queue holds.
        capacity: usize,
    },
    /// This handle has as many calls under way as it may, unread replies included.
    #[error(
        "{under_way_max} calls of this handle are under way or unread: read their replies first, or clone the handle"
    )]
    TooManyUnderWay {
        /// The event.
        event: E,
        /// How many there may be.
        under_way_max: usize,
    },
    /// The job was not yet started, or waits for memory.
    #[error("the job does not take calls yet: submit it, and wait with `CallHandle::wait_ready`")]
    NotRunning {
        /// The event.
        event: E,
    },
    /// The job has ended.
    #[error("the job has ended and takes no more calls")]
    JobEnded {
        /// The event.
        event: E,
    },
    /// A reply after commit was asked of a job without checkpoints.
    #[error("{}", CallError::NotDurable)]
    NotDurable {
        /// The event.
        event: E,
    },
}

impl<E> TryCallError<E> {
    /// The event that was not taken.
    pub fn into_event(self) -> E {
        match self {
            Self::QueueFull { event, .. }
            | Self::TooManyUnderWay { event, .. }
            | Self::NotRunning { event }
            | Self::JobEnded { event }
            | Self::NotDurable { event } => event,
        }
    }

    /// Whether the same call may be taken later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::QueueFull { .. } | Self::TooManyUnderWay { .. } | Self::NotRunning { .. })
    }
}
