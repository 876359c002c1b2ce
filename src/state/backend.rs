//! The state backend of one subtask: all its keyed states, their snapshots and how they come back.
//!
//! Here: registration by name, restore, sizes. Not here: barrier and harvest (`snapshot`), typed access (`value_state` and its
//! neighbours). Semantics: Flink `AbstractKeyedStateBackend`.
//!
//! One thread owns it; the states it hands out stay on that thread too.

use super::directory::Directories;
use super::layout::Layout;
use super::layout_text::layout_hash;
use super::migrate::Migrating;
use super::page::PAGE_LEN;
use super::page_hash::name_hash;
use super::pager::Pager;
use super::residency::{Residency, give_up_task};
use super::restore::Restoring;
use super::snapshot::Harvest;
use super::sweep::Sweep;
use super::table::{Identity, Table};
use super::ttl::Lifetime;
use super::warm_up::WarmUp;
use super::{Hashed, KeyContext, KeyGroup, KeyGroupRange, StateError};
use crate::checkpoint::{PageKey, PieceKind, RestoredCheckpoint, StateDescriptor};
use crate::io::SharedIo;
use crate::memory::{Arena, MemoryError};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

pub(super) type SharedTable = Rc<RefCell<Table>>;

/// Keyed state of one subtask.
pub struct StateBackend {
    pub(super) key_groups: KeyGroupRange,
    context: KeyContext,
    pub(super) arena: Arena,
    pub(super) tables: Vec<SharedTable>,
    pub(super) harvest: Option<Harvest>,
    restoring: Vec<Restoring>,
    pub(super) pager: Option<Rc<RefCell<Pager>>>,
    pub(super) warm_up: Option<WarmUp>,
    pub(super) migrating: Vec<Migrating>,
    /// Pages of the checkpoint restored from that the next snapshot declares gone.
    pub(super) gone: Vec<PageKey>,
}

/// What a state registers itself as.
pub(super) struct Registration {
    pub layout: Layout,
    /// In words, for the manifest.
    pub layout_text: String,
    pub check: fn(u8, &[u8], &[u8]) -> bool,
    /// How long its entries live, if not for ever.
    pub lifetime: Option<Lifetime>,
    /// The kind of entry that is found by the key alone, if there is one.
    pub home_kind: Option<u8>,
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
    Err(StateError::layout_differs(&asked.operator, &asked.name, &stored.layout, &asked.layout))
}

impl StateBackend {
    /// A backend without states for the subtask that owns `key_groups` of `max_parallelism`; pages come from `arena`.
    pub fn new(key_groups: KeyGroupRange, max_parallelism: u16, arena: Arena) -> Self {
        let context = KeyContext::new(max_parallelism);
        Self {
            key_groups,
            context,
            arena,
            tables: Vec::new(),
            harvest: None,
            restoring: Vec::new(),
            pager: None,
            warm_up: None,
            migrating: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Lets pages live outside memory: those of `restored` until they are touched, and, if there is a path for a spill file, those that
    /// the memory budget does not hold. Called after all states are registered and before the first record.
    ///
    /// # Panics
    /// Asserts that the states were not used before.
    pub fn attach(&mut self, io: SharedIo, restored: Option<Arc<RestoredCheckpoint>>, spill_path: Option<PathBuf>) {
        if restored.is_some() {
            self.warm_up = Some(WarmUp::Index);
        }
        let pager = Rc::new(RefCell::new(Pager::new(io, self.arena.clone(), restored, spill_path)));
        let migrating = self.migrating_ids();
        for table in &self.tables {
            let mut table = table.borrow_mut();
            let is_stored_as_it_is = !migrating.contains(&table.identity.id);
            table.attach(&pager, is_stored_as_it_is);
        }
        self.pager = Some(pager);
    }

    /// Reads the states that must be known as a whole before the first record (timers, waiting records). Answers whether all are there;
    /// call again until then. Never waits for a page.
    pub fn read_ahead(&mut self) -> Result<bool, StateError> {
        for table in &self.tables {
            if !table.borrow_mut().read_all_ahead()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the pages of a key's values are in memory or do not exist; starts to read those that are not.
    pub fn look_ahead<K: ?Sized>(&mut self, key: &Hashed<'_, K>) -> Result<bool, StateError> {
        let mut all_are_in = true;
        for table in &self.tables {
            let mut table = table.borrow_mut();
            if table.has_absent() {
                all_are_in &= table.look_ahead(key.group, key.hash)?;
            }
        }
        Ok(all_are_in)
    }

    /// Takes in the pages that have been read, and the memory of those that have been written. Never waits. Whether there were any.
    pub fn collect_pages(&mut self) -> Result<bool, StateError> {
        self.tables.iter().try_fold(false, |any, table| Ok(table.borrow_mut().collect_pages()? | any))
    }

    /// Whether any page is not in memory.
    pub fn has_absent(&self) -> bool {
        self.pager.is_some() && self.tables.iter().any(|table| table.borrow().has_absent())
    }

    /// How many pages are on their way into memory.
    pub fn reads_under_way(&self) -> usize {
        self.tables.iter().map(|table| table.borrow().reads_under_way()).sum()
    }

    /// How many pages are in memory.
    pub fn pages_in_memory(&self) -> usize {
        self.tables.iter().map(|table| table.borrow().pages_in_memory()).sum()
    }

    /// Whether pages are on their way into memory, or out of it.
    pub fn is_moving_pages(&self) -> bool {
        self.tables.iter().any(|table| table.borrow().is_moving_pages())
    }

    /// Keeps some memory free, so that a page that comes in need not wait for another one to leave. Never waits.
    pub fn keep_room(&mut self) -> Result<(), StateError> {
        /// So many leave at once.
        const PAGES: usize = 16;
        let Some(pager) = &self.pager else { return Ok(()) };
        if !pager.borrow().can_spill() || pager.borrow().has_room() {
            return Ok(());
        }
        for table in &self.tables {
            let mut table = table.borrow_mut();
            table.collect_pages()?;
            table.evict_some(PAGES, Some(PAGE_LEN));
        }
        Ok(())
    }

    /// Lets up to so many pages of each state leave memory, if there is a file to put them in. Never waits.
    pub fn evict_pages(&mut self, pages_max: usize) -> Result<(), StateError> {
        for table in &self.tables {
            let mut table = table.borrow_mut();
            table.collect_pages()?;
            table.evict_some(pages_max, None);
        }
        Ok(())
    }

    /// Gives files and operations under way up: the slot's I/O outlives the task.
    pub fn close(&mut self) {
        self.close_warm_up();
        self.tables.iter().for_each(|table| table.borrow_mut().forget_reads());
        if let Some(pager) = &self.pager {
            pager.borrow_mut().close();
        }
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
        if let Some(applied) = self.migrating_piece(key, kind, bytes) {
            return applied;
        }
        let index = self.tables.iter().position(|table| table.borrow().identity.id == key.state);
        let index = index.ok_or(StateError::UnknownState { id: key.state })?;
        self.restoring.resize_with(self.tables.len(), Restoring::default);
        self.restoring[index].apply(&mut self.tables[index].borrow_mut(), key, kind, bytes)
    }

    /// Checks what was restored and makes it usable. On an error the states are empty. Timers are filled by
    /// [`super::Timers::rebuild`] afterwards.
    pub fn finish_restore(&mut self) -> Result<(), StateError> {
        let restoring = std::mem::take(&mut self.restoring);
        let mut first_error = self.finish_migrating();
        for (restoring, table) in restoring.into_iter().zip(&self.tables) {
            first_error = first_error.and(restoring.finish(&mut table.borrow_mut()));
        }
        if first_error.is_err() {
            self.tables.iter().for_each(|table| table.borrow_mut().clear());
            self.migrating.clear();
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
        let Registration { layout, mut layout_text, check, lifetime, home_kind } = registration;
        if let Some(lifetime) = &lifetime {
            layout_text = format!("{layout_text}, {}", lifetime.ttl.layout());
        }
        layout_text = format!("{layout_text}, {}", layout.in_words());
        let identity = Identity { id, operator, name, layout_text, check, home_kind };
        let mut table = Table::new(identity, layout, self.key_groups, self.arena.clone());
        table.sweep = lifetime.map(Sweep::new);
        let table = Rc::new(RefCell::new(table));
        self.tables.push(table.clone());
        Ok(table)
    }
}

impl Table {
    pub(super) fn descriptor(&self) -> StateDescriptor {
        StateDescriptor {
            id: self.identity.id,
            operator: self.identity.operator.clone(),
            name: self.identity.name.clone(),
            layout_hash: layout_hash(&self.identity.layout_text),
            layout: self.identity.layout_text.clone(),
        }
    }

    /// Forgets everything.
    fn clear(&mut self) {
        self.pages.clear();
        self.residency = Residency::default();
        self.directories = Directories::default();
    }

    pub(super) fn request_image(&mut self, key: PageKey) {
        let group = KeyGroup(key.key_group);
        if !self.range.contains(group) {
            return;
        }
        let loaded = self.load_groups(KeyGroupRange { start: group.0, end: group.0 + 1 });
        loaded.unwrap_or_else(|error| give_up_task(&error));
        let directory = self.directory_of(group);
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
