//! What is remembered? Keyed state in pages, its snapshots and how they come back.
//!
//! Here: the backend of a subtask, its states (`ValueState`, `ListState`, `MapState`, `Timers`), pages and pieces.
//! Not here: when a snapshot is taken and where its pieces go (`checkpoint`).
//!
//! The path of an access: a state builds an `Address` -> `table` finds the page in a `directory` -> `page` probes its tags ->
//! `layout` says where the cell lies. Before a change, `seal` keeps what a snapshot in progress still needs.

mod backend;
mod directory;
mod entries;
mod error;
mod event_queue;
mod fixed_page;
mod key_context;
mod key_group;
mod layout;
mod list_state;
mod map_state;
mod namespaced_state;
mod offline;
mod page;
mod page_hash;
mod piece;
mod restore;
mod seal;
mod slotted_page;
mod snapshot;
mod stage;
mod table;
mod timers;
mod value;
mod value_state;

pub use backend::{StateBackend, check_compatible, state_id};
pub use error::StateError;
pub use event_queue::{EventQueue, QueuedEvent};
pub use key_context::{Hashed, KeyContext};
pub use key_group::{KeyGroup, KeyGroupRange, MAX_PARALLELISM_MAX, default_max_parallelism, murmur_hash};
pub use list_state::ListState;
pub use map_state::MapState;
pub use namespaced_state::NamespacedState;
pub use offline::{EntryKind, RawEntry, RawKeyGroup};
pub use snapshot::{HarvestProgress, PieceSink};
pub use timers::{DueTimer, Timers};
pub use value::{ArchivedValue, Both, FixedValue, StateValue};
pub use value_state::ValueState;
