//! Taking over entries that a former version of the program wrote with other types.
//!
//! Here: what the program says of a former type, the table in its layout into which a restore reads the pages, and turning it into the present
//! one page by page. Not here: reading pieces (`restore`), which layout is which (`layout_text`).
//!
//! Entries go into the present table by normal writes, so every invariant of it holds and the next snapshot takes all of it. The former pages
//! are declared gone in that snapshot: none of them may ever be read as one of the present layout.
//! A state that migrates is read as a whole before the first record.

use super::backend::SharedTable;
use super::entries::{CHUNK_EVEN, CHUNK_ODD, LIST_HEAD};
use super::layout::Layout;
use super::layout_text::layout_hash;
use super::list_head::ListHead;
use super::page::SlotAt;
use super::restore::Restoring;
use super::table::{Address, EntryAt, Identity, Table, live_slots};
use super::{KeyGroup, StateBackend, StateError, StateValue};
use crate::checkpoint::{PageKey, PieceKind, StateDescriptor};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// A former layout of a state, and how its values become values of the present one.
#[derive(Clone)]
pub(super) struct Migration {
    /// The former layout in words; its hash is what the manifest is searched for.
    pub layout_text: String,
    pub layout: Layout,
    pub check: fn(u8, &[u8], &[u8]) -> bool,
    /// How many bytes before the value itself stay as they are, by the kind of entry; `None`: the whole entry does.
    pub kept: fn(u8) -> Option<usize>,
    pub convert: Convert,
}

/// Turns the bytes of a former value into those of a present one; `None`: they are no former value.
pub(super) type Convert = Rc<dyn Fn(&[u8]) -> Option<Vec<u8>>>;

/// The conversion of one value's bytes by a user's function.
pub(super) fn converting<Old: StateValue, New: StateValue>(convert: impl Fn(Old) -> New + 'static) -> Convert {
    Rc::new(move |bytes| {
        let new = convert(Old::load(bytes)?);
        let mut out = vec![0; new.len_bytes()];
        new.store(&mut out);
        Some(out)
    })
}

/// A state that is being taken over.
pub(super) struct Migrating {
    target: SharedTable,
    source: Table,
    convert: Migration,
    restoring: Restoring,
    next_page: usize,
}

impl StateBackend {
    /// Compares the registered states with those of a checkpoint, before the first piece: each must be stored as it is registered, or as a
    /// layout it can be migrated from, or not at all.
    pub fn prepare_restore(&mut self, stored: &[StateDescriptor]) -> Result<(), StateError> {
        for table in &self.tables {
            let asked = table.borrow().descriptor();
            let Some(stored) = stored.iter().find(|stored| stored.id == asked.id) else { continue };
            if stored.layout_hash == asked.layout_hash {
                continue;
            }
            let of = |migration: &&Migration| layout_hash(&migration.layout_text) == stored.layout_hash;
            let migration = table.borrow().migrations.iter().find(of).cloned();
            let Some(convert) = migration else { return super::check_compatible(stored, &asked) };
            let source = table.borrow().in_layout_of(&convert);
            let restoring = Restoring::default();
            self.migrating.push(Migrating { target: table.clone(), source, convert, restoring, next_page: 0 });
        }
        Ok(())
    }

    /// Whether pages were read that still have to be taken over. To be asked after `finish_restore`.
    pub fn is_migrating(&self) -> bool {
        !self.migrating.is_empty()
    }

    /// The states that are migrated.
    pub fn migrating_ids(&self) -> Vec<u64> {
        self.migrating.iter().map(|migrating| migrating.source.identity.id).collect()
    }

    /// Takes over about so many pages. After an error the restore cannot go on.
    pub fn migrate(&mut self, pages_max: usize) -> Result<(), StateError> {
        for _ in 0..pages_max {
            let Some(migrating) = self.migrating.last_mut() else { return Ok(()) };
            if !migrating.take_over_page()? {
                self.migrating.pop();
            }
        }
        Ok(())
    }

    /// Applies a piece of a state that is being migrated; `None` when the state is none.
    pub(super) fn migrating_piece(
        &mut self,
        key: PageKey,
        kind: PieceKind,
        bytes: &[u8],
    ) -> Option<Result<(), StateError>> {
        let migrating = self.migrating.iter_mut().find(|migrating| migrating.source.identity.id == key.state)?;
        self.gone.push(key);
        Some(migrating.restoring.apply(&mut migrating.source, key, kind, bytes))
    }

    /// Checks what was read of the states that are migrated.
    pub(super) fn finish_migrating(&mut self) -> Result<(), StateError> {
        self.gone.dedup();
        self.migrating.iter_mut().try_for_each(|migrating| {
            let restoring = std::mem::take(&mut migrating.restoring);
            restoring.finish(&mut migrating.source)
        })
    }

    /// Pages of a checkpoint that belong to no state any more: the next snapshot says so. For states that the program dropped.
    pub fn forget_pages(&mut self, pages: impl IntoIterator<Item = PageKey>) {
        self.gone.extend(pages);
    }
}

impl Table {
    /// An empty table for the pages of a former layout of this state.
    fn in_layout_of(&self, former: &Migration) -> Table {
        let identity = Identity {
            operator: self.identity.operator.clone(),
            name: self.identity.name.clone(),
            layout_text: former.layout_text.clone(),
            check: former.check,
            ..self.identity
        };
        Table::new(identity, former.layout, self.range, self.arena.clone())
    }

    /// Adds a former layout, which differs from this one in the value: `of` is the layout text with the former value. Whether and how entries
    /// expire is the same.
    pub(super) fn add_migration(&mut self, mut migration: Migration) {
        if let Some(ttl) = self.ttl_layout() {
            migration.layout_text = format!("{}, {ttl}", migration.layout_text);
        }
        migration.layout_text = format!("{}, {}", migration.layout_text, migration.layout.in_words());
        self.migrations.push(migration);
    }
}

impl Migrating {
    /// Takes over the next page; `false` when there is none.
    fn take_over_page(&mut self) -> Result<bool, StateError> {
        let Some(page) = self.source.pages.get(self.next_page) else { return Ok(false) };
        let slots: Vec<SlotAt> = live_slots(page.bytes(), self.source.layout).collect();
        for at in slots {
            self.take_over(EntryAt { page: self.next_page, at })?;
        }
        self.next_page += 1;
        Ok(true)
    }

    fn take_over(&mut self, entry: EntryAt) -> Result<(), StateError> {
        let page = &self.source.pages[entry.page];
        let (group, bytes) = (page.group, page.bytes());
        let (kind, key) = self.source.layout.key(bytes, entry.at);
        if kind == CHUNK_EVEN || kind == CHUNK_ODD {
            return Ok(());
        }
        let key = bytes[key].to_vec();
        let address = Address::of(KeyGroup(group), kind, &key);
        // Behind a long value a chunk may be missing only where a write was refused; such an entry was never whole.
        let Some(value) = self.source.read(address, <[u8]>::to_vec) else { return Ok(()) };
        if kind == LIST_HEAD {
            return self.take_over_list(address, &value);
        }
        let value = match (self.convert.kept)(kind) {
            Some(kept) => self.convert(&value, kept, group)?,
            None => value,
        };
        self.target.borrow_mut().write(address, value.len(), |out| out.copy_from_slice(&value))
    }

    /// Takes over the head of a list, whose elements in place may become too long for it.
    fn take_over_list(&self, address: Address, bytes: &[u8]) -> Result<(), StateError> {
        let Some(head) = ListHead::read(bytes) else { return Ok(()) };
        let elements = head.elements(bytes).map(|element| self.convert(element, 0, address.group.0));
        let elements: Vec<Vec<u8>> = elements.collect::<Result<_, _>>()?;
        self.target.borrow_mut().write_list_start(address.group, address.key, head.len, &elements)
    }

    fn convert(&self, value: &[u8], kept: usize, key_group: u16) -> Result<Vec<u8>, StateError> {
        let failed = |reason: String| StateError::MigrationFailed {
            operator: self.source.identity.operator.clone(),
            state: self.source.identity.name.clone(),
            key_group,
            stored: self.source.identity.layout_text.clone(),
            reason,
        };
        let (head, old) = value.split_at_checked(kept).ok_or_else(|| failed("a value is too short".into()))?;
        // The function is the user's: what it breaks by a panic is its own, and no state has been handed out yet.
        let converted = catch_unwind(AssertUnwindSafe(|| (self.convert.convert)(old)));
        let new = converted.map_err(|panic| {
            let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            failed(format!("the migration function panicked: {}", text.unwrap_or_else(|| "without a message".into())))
        })?;
        let new = new.ok_or_else(|| failed("a value is none of the former type".into()))?;
        Ok([head, &new].concat())
    }
}
