//! Why keyed state refuses: each refusal names the operator and the state, and what to do.

use super::layout_text::differences;
use crate::memory::MemoryError;

/// What can go wrong with keyed state. After any of these the state is as it was before the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A table needed one more page and the budget had none.
    #[error("state \"{state}\" of operator \"{operator}\" cannot grow: {source}")]
    Memory {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// Who refused.
        source: MemoryError,
    },
    /// The memory for a snapshot's copies was refused; the snapshot was given up, the state itself goes on.
    #[error("the snapshot of state \"{state}\" of operator \"{operator}\" was given up: {source}")]
    SnapshotGivenUp {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// Who refused.
        source: MemoryError,
    },
    /// The memory to say which pages of a former checkpoint are gone was refused; the snapshot was given up, the state itself goes on.
    #[error("the snapshot of a state that was migrated or dropped was given up: {source}")]
    SnapshotWithoutMemory {
        /// Who refused.
        source: MemoryError,
    },
    /// Two states of one operator have the same name.
    #[error("operator \"{operator}\" registers state \"{state}\" twice: give each state of an operator its own name")]
    NameTaken {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
    },
    /// The checkpoint holds the state in another layout than the program asks for.
    #[error(
        "state \"{state}\" of operator \"{operator}\" is stored as `{stored}`, the program asks for `{asked}` ({differences}): \
         restore with the former type, say how to migrate it, or give the changed state a new name"
    )]
    LayoutDiffers {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// The layout in the checkpoint.
        stored: String,
        /// The layout the program registered.
        asked: String,
        /// What is not the same.
        differences: String,
    },
    /// The manifest does not say how the state's cells lie.
    #[error(
        "the entries of state \"{state}\" of operator \"{operator}\" cannot be told apart: its layout is `{layout}`"
    )]
    UnknownLayout {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// The layout in the checkpoint.
        layout: String,
    },
    /// A user's migration function panicked, or could not be given a value.
    #[error(
        "state \"{state}\" of operator \"{operator}\", stored as `{stored}`, cannot be migrated in key group {key_group}: {reason}; \
         nothing was changed in the checkpoint"
    )]
    MigrationFailed {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// The key group of the value.
        key_group: u16,
        /// The former layout.
        stored: String,
        /// What happened.
        reason: String,
    },
    /// The checkpoint holds states that the program does not register any more.
    #[error(
        "checkpoint {checkpoint} holds state that this program does not use: {states}; give the states their former names, \
         or allow dropped state (`--allow-dropped-state`) to go on without it"
    )]
    StateDropped {
        /// The checkpoint.
        checkpoint: u64,
        /// Which: `"state" of operator "name", ...`.
        states: String,
    },
    /// A piece belongs to no registered state.
    #[error("a piece of state {id:#018x} was offered, but no operator registers such a state")]
    UnknownState {
        /// The `StateId` in the piece.
        id: u64,
    },
    /// A piece or record belongs to a key group that this subtask does not own.
    #[error(
        "state \"{state}\" of operator \"{operator}\" was given key group {key_group}, this subtask owns {start}..{end}"
    )]
    ForeignKeyGroup {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// The key group given.
        key_group: u16,
        /// The first key group owned.
        start: u16,
        /// One past the last key group owned.
        end: u16,
    },
    /// A key is longer than a page can hold.
    #[error(
        "state \"{state}\" of operator \"{operator}\": a key of {len_bytes} bytes is longer than the {len_bytes_max} bytes allowed"
    )]
    KeyTooLong {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// The key's length.
        len_bytes: usize,
        /// The longest key allowed.
        len_bytes_max: usize,
    },
    /// Splitting a page did not separate its keys: their hashes are the same, which only happens to chosen keys.
    #[error(
        "state \"{state}\" of operator \"{operator}\": key group {key_group} holds too many keys of one hash \
         ({pages} pages did not separate them): were these keys chosen by somebody?"
    )]
    KeysCollide {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// The key group.
        key_group: u16,
        /// How many pages the key group has.
        pages: usize,
    },
    /// Bytes of a checkpoint are not what this state wrote.
    #[error("state \"{state}\" of operator \"{operator}\", key group {key_group}, page {page}: {what}")]
    Damaged {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// The key group.
        key_group: u16,
        /// The page.
        page: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A page that was not in memory cannot be brought back.
    #[error(
        "state \"{state}\" of operator \"{operator}\", key group {key_group}, page {page} cannot be read back: {reason}"
    )]
    PageUnreadable {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// The key group.
        key_group: u16,
        /// The page.
        page: u32,
        /// The operating system's words, or what is wrong with the bytes.
        reason: String,
    },
    /// What was added to a state while its pages were not in memory cannot be brought back.
    #[error(
        "what was added to state \"{state}\" of operator \"{operator}\" cannot be read back from the spill file: {reason}"
    )]
    RunUnreadable {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// The operating system's words, or what is wrong with the bytes.
        reason: String,
    },
    /// The restored checkpoint does not say where pages are.
    #[error("state \"{state}\" of operator \"{operator}\" cannot be found in the restored checkpoint: {reason}")]
    PageMapUnreadable {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// What is wrong.
        reason: String,
    },
    /// An operator state outgrew its place in the manifest.
    #[error(
        "operator state \"{state}\" of operator \"{operator}\" would take {len_bytes} bytes, {len_bytes_max} are allowed: keep what grows in keyed state"
    )]
    OperatorStateFull {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// What it would take.
        len_bytes: usize,
        /// What it may take.
        len_bytes_max: usize,
    },
    /// The bytes of an operator state are not what it wrote.
    #[error("operator state \"{state}\" of operator \"{operator}\", written by subtask {subtask}: {what}")]
    OperatorStateDamaged {
        /// The operator.
        operator: String,
        /// The state.
        state: String,
        /// Who wrote it.
        subtask: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A value cannot be archived or read back.
    #[error("a value of type {type_name} cannot be archived: {reason}")]
    Archive {
        /// The value's type.
        type_name: &'static str,
        /// What rkyv says.
        reason: String,
    },
}

impl StateError {
    /// The refusal of a changed layout, with what is not the same.
    pub(crate) fn layout_differs(operator: &str, state: &str, stored: &str, asked: &str) -> Self {
        Self::LayoutDiffers {
            operator: operator.to_owned(),
            state: state.to_owned(),
            stored: stored.to_owned(),
            asked: asked.to_owned(),
            differences: differences(stored, asked),
        }
    }
}
