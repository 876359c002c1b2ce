//! What is remembered? Keyed state in pages, its snapshots and how they come back.
//!
//! Here: the backend of a subtask, its states (`ValueState`, `ListState`, `MapState`, `ReducingState`, `AggregatingState`, those that expire,
//! `Timers`), pages and pieces. Not here: when a snapshot is taken and where its pieces go (`checkpoint`), what is remembered beside keys
//! (`operator::OperatorStates`).
//!
//! The path of an access: a state builds an `Address` -> `table` finds the page in a `directory` -> `page` probes its tags ->
//! `layout` says where the cell lies. Before a change, `seal` keeps what a snapshot in progress still needs. An addition to a value that merges
//! may go into `runs` instead, when its page is not in memory.
//!
//! # Which changes of a program are safe
//!
//! A checkpoint holds, for every state, the names of its operator and of itself, its kind, and the types of its keys and values down to
//! every field. A restore compares them; nothing is ever read as what it is not.
//!
//! | change | what happens at the next start |
//! |---|---|
//! | another parallelism, up to the number of key groups | goes on; key groups move whole |
//! | a new state, a new operator | goes on; it begins empty |
//! | another order of operators in the program | goes on: state is found by name |
//! | a type gets another name or moves to another module | goes on |
//! | another duration of a time to live, what refreshes it, how it is swept | goes on |
//! | a field added, removed, renamed, moved, or of another type | refused with the fields that differ; `migrate_from` takes it over |
//! | value to list, another type of keys, a time to live switched on or off or in another time | refused: give the state a new name |
//! | an operator or a state renamed or removed | refused with its name; allowed dropped state goes on without it, for good |
//! | another number of key groups (`max_parallelism`) | refused |
//! | a field that means something else under the same name and type | goes on: nobody can see that |

mod aggregating_state;
mod backend;
mod directory;
mod entries;
mod error;
mod event_queue;
mod eviction;
mod expiring_list;
mod expiring_map;
mod expiring_value;
mod fixed_page;
mod key_context;
mod key_group;
mod layout;
mod layout_text;
mod list_head;
mod list_state;
mod map_state;
mod migrate;
mod namespaced_state;
mod offline;
mod oracle;
mod page;
mod page_hash;
mod pager;
mod piece;
mod prefetch;
mod recent;
mod reducing_state;
mod residency;
mod restore;
mod runs;
mod seal;
mod slotted_page;
mod snapshot;
mod stage;
mod sweep;
mod table;
mod timers;
mod ttl;
mod value;
mod value_state;
mod warm_up;

pub use aggregating_state::AggregatingState;
pub use backend::{StateBackend, check_compatible, state_id};
pub use error::StateError;
pub use event_queue::{EventQueue, QueuedEvent};
pub use expiring_list::ExpiringList;
pub use expiring_map::ExpiringMap;
pub use expiring_value::ExpiringValue;
pub(crate) use key_context::KeyHash;
pub use key_context::{Grouped, Hashed, KeyContext};
pub use key_group::{KeyGroup, KeyGroupRange, MAX_PARALLELISM_MAX, default_max_parallelism, murmur_hash};
pub(crate) use layout_text::layout_hash;
pub use list_state::ListState;
pub use map_state::MapState;
pub use namespaced_state::{NamespacedState, Seen};
pub use offline::{EntryKind, RawEntry, RawKeyGroup};
pub use prefetch::Prefetch;
pub(crate) use prefetch::{LOOK_AHEAD, Place, next_group};
pub use reducing_state::ReducingState;
pub use snapshot::{HarvestProgress, PieceSink};
pub(crate) use table::Spot;
pub use timers::{DueTimer, Timers};
pub use ttl::{StateClock, StateTtl, TtlRefresh, TtlTime};
pub use value::{ArchivedValue, Both, FixedValue, StateValue};
pub use value_state::{ValuePerKey, ValueState};
