//! The state backend of one subtask: all its keyed states, their snapshots and how they come back.
//!
//! Here: registration by name, restore, sizes. Not here: barrier and harvest (`snapshot`), typed access (`value_state` and its
//! neighbours). Semantics: Flink `AbstractKeyedStateBackend`.
//!
//! One thread owns it; the states it hands out stay on that thread too.

use super::directory::Directories;
use super::layout::Layout;
use super::page_hash::name_hash;
use super::restore::Restoring;
use super::snapshot::Harvest;
use super::table::{Identity, Table};
use super::{KeyContext, KeyGroup, KeyGroupRange, StateError};
use crate::checkpoint::{PageKey, PieceKind, StateDescriptor};
use crate::memory::{Arena, MemoryError};
use std::cell::RefCell;
use std::rc::Rc;

pub(super) type SharedTable = Rc<RefCell<Table>>;

/// Keyed state of one subtask.
pub struct StateBackend {
    pub(super) key_groups: KeyGroupRange,
    context: KeyContext,
    pub(super) arena: Arena,
    pub(super) tables: Vec<SharedTable>,
    pub(super) harvest: Option<Harvest>,
    restoring: Vec<Restoring>,
}

/// What a state registers itself as.
pub(super) struct Registration {
    pub layout: Layout,
    /// In words, for the manifest.
    pub layout_text: String,
    pub check: fn(u8, &[u8], &[u8]) -> bool,
}

/// The `StateId` of a state: stable over runs and versions as long as both names are.
pub fn state_id(operator: &str, name: &str) -> u64 {
    name_hash(&[operator, name])
}

/// Whether pages of the stored state can be read by the registered one.
pub fn check_compatible(stored: &StateDescriptor, asked: &StateDescriptor) -> Result<(), StateError> {
    if stored.layout_hash == asked.layout_hash {
        return Ok(());
    }
    Err(StateError::LayoutDiffers {
        operator: asked.operator.clone(),
        state: asked.name.clone(),
        stored: stored.layout.clone(),
        asked: asked.layout.clone(),
    })
}

impl StateBackend {
    /// A backend without states for the subtask that owns `key_groups` of `max_parallelism`; pages come from `arena`.
    pub fn new(key_groups: KeyGroupRange, max_parallelism: u16, arena: Arena) -> Self {
        let context = KeyContext::new(max_parallelism);
        Self { key_groups, context, arena, tables: Vec::new(), harvest: None, restoring: Vec::new() }
    }

    /// Hashes keys for this backend's states.
    pub fn key_context(&self) -> KeyContext {
        self.context
    }

    /// Its key groups.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.key_groups
    }

    /// What the manifest records of each state, in the order of their registration.
    pub fn descriptors(&self) -> Vec<StateDescriptor> {
        self.tables.iter().map(|table| table.borrow().descriptor()).collect()
    }

    /// Applies a piece of a checkpoint. Pieces of one page come in the order in which they were written, after all states are
    /// registered and before the first record. Every byte is checked; after an error the restore cannot go on.
    ///
    /// # Panics
    /// Asserts that the state was not used before.
    pub fn restore_piece(&mut self, key: PageKey, kind: PieceKind, bytes: &[u8]) -> Result<(), StateError> {
        let index = self.tables.iter().position(|table| table.borrow().identity.id == key.state);
        let index = index.ok_or(StateError::UnknownState { id: key.state })?;
        self.restoring.resize_with(self.tables.len(), Restoring::default);
        self.restoring[index].apply(&mut self.tables[index].borrow_mut(), key, kind, bytes)
    }

    /// Checks what was restored and makes it usable. On an error the states are empty. Timers are filled by
    /// [`super::Timers::rebuild`] afterwards.
    pub fn finish_restore(&mut self) -> Result<(), StateError> {
        let restoring = std::mem::take(&mut self.restoring);
        let mut first_error = Ok(());
        for (restoring, table) in restoring.into_iter().zip(&self.tables) {
            first_error = first_error.and(restoring.finish(&mut table.borrow_mut()));
        }
        if first_error.is_err() {
            self.tables.iter().for_each(|table| table.borrow_mut().clear());
        }
        first_error
    }

    /// Entries over all states; a list or map counts several per key.
    pub fn live_entries(&self) -> usize {
        self.tables.iter().map(|table| table.borrow().live()).sum()
    }

    /// Bytes of pages over all states.
    pub fn page_bytes(&self) -> usize {
        self.tables.iter().map(|table| table.borrow().pages.iter().map(|page| page.bytes().len()).sum::<usize>()).sum()
    }

    pub(super) fn table(&self, id: u64) -> Option<&SharedTable> {
        self.tables.iter().find(|table| table.borrow().identity.id == id)
    }

    pub(super) fn register(
        &mut self,
        operator: &str,
        name: &str,
        registration: Registration,
    ) -> Result<SharedTable, StateError> {
        assert!(self.harvest.is_none() && self.restoring.is_empty(), "states are registered when a task starts");
        let id = state_id(operator, name);
        let (operator, name) = (operator.to_owned(), name.to_owned());
        if self.table(id).is_some() {
            return Err(StateError::NameTaken { operator, state: name });
        }
        let Registration { layout, layout_text, check } = registration;
        let layout_text = format!("{layout_text}; {}", layout.in_words());
        let identity = Identity { id, operator, name, layout_text, check };
        let table = Rc::new(RefCell::new(Table::new(identity, layout, self.key_groups, self.arena.clone())));
        self.tables.push(table.clone());
        Ok(table)
    }
}

impl Table {
    fn descriptor(&self) -> StateDescriptor {
        StateDescriptor {
            id: self.identity.id,
            operator: self.identity.operator.clone(),
            name: self.identity.name.clone(),
            layout_hash: name_hash(&[&self.identity.layout_text]),
            layout: self.identity.layout_text.clone(),
        }
    }

    /// Forgets everything.
    fn clear(&mut self) {
        self.pages.clear();
        self.directories = Directories::default();
    }

    pub(super) fn request_image(&mut self, key: PageKey) {
        let directory = self.directory_of(KeyGroup(key.key_group));
        if let Some(index) = self.directories.numbered(directory, key.page) {
            self.mark_image(index);
        }
    }

    pub(super) fn given_up_by(&self, source: MemoryError) -> StateError {
        StateError::SnapshotGivenUp {
            operator: self.identity.operator.clone(),
            state: self.identity.name.clone(),
            source,
        }
    }
}
