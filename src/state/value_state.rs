//! One value per key. Semantics: Flink `ValueState`.

use super::backend::{Registration, SharedTable};
use super::entries::{VALUE, check_chunk, is_key};
use super::layout::{Layout, Shaped};
use super::migrate::{Convert, Migration, converting};
use super::prefetch::{Home, LOOK_AHEAD, Place, next_group};
use super::recent::{Recent, Spots};
use super::slotted_page::VALUE_LEN_MAX;
use super::table::{Address, EntryAt, Table};
use super::ttl::{Lifetime, STAMP_LEN};
use super::value::read_archive;
use super::{ArchivedValue, Grouped, Hashed, KeyGroup, KeyHash, StateBackend, StateError, StateValue};
use crate::record::{Key, Schema};
use rkyv::Archive;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error as ArchiveError;
use std::marker::PhantomData;

/// One value per key; cheap to clone, all clones are the same state.
pub struct ValueState<K: ?Sized, V> {
    pub(super) table: SharedTable,
    of: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V> Clone for ValueState<K, V> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), of: PhantomData }
    }
}

impl StateBackend {
    /// Registers a state with one value per key.
    pub fn value<K: Key + ?Sized, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
    ) -> Result<ValueState<K, V>, StateError> {
        self.value_living(operator, name, None)
    }

    pub(super) fn value_living<K: Key + ?Sized, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
        lifetime: Option<Lifetime>,
    ) -> Result<ValueState<K, V>, StateError> {
        let table = self.register(
            operator,
            name,
            Registration {
                home_kind: Some(VALUE),
                lifetime,
                layout: ValueState::<K, V>::LAYOUT,
                layout_text: ValueState::<K, V>::layout_text(),
                check: ValueState::<K, V>::check,
            },
        )?;
        Ok(ValueState { table, of: PhantomData })
    }
}

/// Whether a cell may be the root of a chunked value (a map puts an index before it), which is only judged when it is read.
pub(super) fn may_be_long<V: StateValue>(value: &[u8]) -> bool {
    value.len() == 8 && V::FIXED_LEN.is_none_or(|len| len + 4 > VALUE_LEN_MAX)
}

impl<K: Key + ?Sized, V: StateValue> Shaped for ValueState<K, V> {
    const LAYOUT: Layout = Layout::for_lens(K::FIXED_LEN, V::FIXED_LEN);
}

impl<K: Key + ?Sized, V: StateValue> ValueState<K, V> {
    fn layout_text() -> String {
        format!("value per key: key {}, value {}", K::NAME, V::layout())
    }

    fn check(kind: u8, key: &[u8], value: &[u8]) -> bool {
        match kind {
            VALUE => is_key::<K>(key) && (V::check(value) || may_be_long::<V>(value)),
            _ => check_chunk(kind, key, value),
        }
    }

    /// Takes values over that a former version of the program stored as `Old`. Several may be given, for several former versions. A function
    /// that panics fails the restore with an error; the checkpoint stays as it is.
    ///
    /// ```
    /// # use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
    /// # use millstream::state::{KeyGroupRange, StateBackend, ValueState};
    /// # let arena = Arena::new(MemoryBudget::new(16 << 20), ArenaOptions::default());
    /// # let mut states = StateBackend::new(KeyGroupRange { start: 0, end: 1 }, 1, arena);
    /// // It was a u32 in version 1, and without a count in version 2.
    /// let total: ValueState<u64, [u64; 2]> = states.value("operator", "total")?;
    /// let total = total.migrate_from(|old: u32| [u64::from(old), 0]).migrate_from(|old: u64| [old, 0]);
    /// # Ok::<(), millstream::state::StateError>(())
    /// ```
    pub fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self {
        self.add_migration::<Old>(0, converting(convert));
        self
    }

    /// As `migrate_from`, for a value behind so many bytes that stay as they are.
    pub(super) fn add_migration<Old: StateValue>(&self, kept: usize, convert: Convert) {
        debug_assert!(kept == 0 || kept == STAMP_LEN);
        self.table.borrow_mut().add_migration(Migration {
            layout_text: ValueState::<K, Old>::layout_text(),
            layout: ValueState::<K, Old>::LAYOUT,
            check: ValueState::<K, Old>::check,
            kept: if kept == 0 {
                |kind| (kind == VALUE).then_some(0)
            } else {
                |kind| (kind == VALUE).then_some(STAMP_LEN)
            },
            convert,
        });
    }

    #[inline(always)]
    pub(super) fn address<'a>(key: &Hashed<'a, K>) -> Address<'a> {
        Address { group: key.group, hash: key.hash, kind: VALUE, key: key.key.bytes() }
    }

    /// The key's value.
    #[inline]
    pub fn get(&self, key: &Hashed<K>) -> Option<V> {
        let mut table = self.table.borrow_mut();
        match const { Self::LAYOUT } {
            layout @ Layout::Fixed(_) => {
                let entry = table.find(layout, Self::address(key))?;
                V::load(table.value(layout, entry))
            }
            Layout::Slotted => table.read(Self::address(key), V::load).flatten(),
        }
    }

    /// Sets the key's value.
    #[inline]
    pub fn put(&self, key: &Hashed<K>, value: &V) -> Result<(), StateError> {
        let mut table = self.table.borrow_mut();
        if let layout @ Layout::Fixed(_) = const { Self::LAYOUT }
            && let Some(entry) = table.find(layout, Self::address(key))
        {
            value.store(table.value_mut(layout, entry));
            return Ok(());
        }
        table.write(Self::address(key), value.len_bytes(), |out| value.store(out))
    }

    /// Removes the key's value; answers whether there was one.
    pub fn remove(&self, key: &Hashed<K>) -> bool {
        self.table.borrow_mut().delete(Self::address(key))
    }

    /// Replaces the key's value by what `change` makes of it; `None` is no value. With fixed lengths the key is looked up once.
    /// `change` must not use this state.
    #[inline]
    pub fn update(&self, key: &Hashed<K>, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<(), StateError> {
        let table = &mut *self.table.borrow_mut();
        let home = table.home(const { Self::LAYOUT }, key.group, key.hash);
        update::<Self, V>(table, home, Self::address(key), change).map(drop)
    }

    /// Updates many keys, one after the other in their order; `change` gets the index of each among `keys`. With fixed lengths the
    /// cache misses of many keys overlap. After an error the keys before the refused one are updated, those behind it are not.
    #[inline]
    pub fn update_batch<'a>(
        &self,
        keys: impl IntoIterator<Item = Hashed<'a, K>>,
        mut change: impl FnMut(usize, Option<V>) -> Option<V>,
    ) -> Result<(), StateError> {
        let table = &mut *self.table.borrow_mut();
        let mut keys = keys.into_iter().enumerate();
        let mut group = [None; LOOK_AHEAD];
        loop {
            let mut placed = keys.by_ref().map(|(index, key)| {
                let Hashed { key, hash, group } = key;
                (Self::place(table, KeyHash { hash, group }), Grouped { key, group }, index)
            });
            let group = next_group(&mut placed, &mut group);
            fetch_cells(table, const { Self::LAYOUT }, group.iter().flatten().map(|(place, ..)| place));
            update_group(table, group.iter().flatten().copied(), &mut change, &mut |_, _| {})?;
            if group.len() < LOOK_AHEAD {
                return Ok(());
            }
        }
    }

    /// Updates the keys of many records, one after the other in their order, and calls `updated` with each value as soon as it is stored. With
    /// an error it ends at the refused one. `ahead` says of the same records where their keys lie: to read a record once more costs less
    /// than to keep it meanwhile.
    #[inline(always)]
    pub(crate) fn update_each<'a, R: Copy>(
        &self,
        mut ahead: impl Iterator<Item = KeyHash>,
        mut records: impl Iterator<Item = R>,
        key_of: impl Fn(&R) -> Grouped<'a, K>,
        mut change: impl FnMut(R, Option<V>) -> Option<V>,
        mut updated: impl FnMut(R, &V),
    ) -> Result<(), StateError> {
        let table = &mut *self.table.borrow_mut();
        if const { Self::REMEMBERS }
            && !table.is_worth_fetching()
            && let Some(mut spots) = table.recent.take(table.arena.budget())
        {
            let ended = update_recent(table, &mut spots, records, key_of, &mut change, &mut updated);
            let (sought, missed) = *ended.as_ref().unwrap_or(&(0, 0));
            table.recent.give_back(spots, sought, missed);
            return ended.map(drop);
        }
        let mut places = [Place { hash: 0, home: Home::NOWHERE }; LOOK_AHEAD];
        loop {
            let mut len = 0;
            while len < LOOK_AHEAD
                && let Some(key) = ahead.next()
            {
                places[len] = Self::place(table, key);
                len += 1;
            }
            let places = &places[..len];
            fetch_cells(table, const { Self::LAYOUT }, places.iter());
            let mut have_ended = len == 0;
            let placed = places.iter().map_while(|&place| {
                let Some(record) = records.next() else {
                    have_ended = true;
                    return None;
                };
                Some((place, key_of(&record), record))
            });
            update_group(table, placed, &mut change, &mut updated)?;
            // Those behind a record that cannot be read are not: their places are others'.
            if have_ended {
                return Ok(());
            }
        }
    }

    /// Whether it may be remembered where keys were found.
    const REMEMBERS: bool = match Self::LAYOUT {
        Layout::Fixed(shape) => Recent::is_for(shape.key_len),
        Layout::Slotted => false,
    };

    /// Where the key's value is to be looked for.
    #[inline(always)]
    fn place(table: &Table, key: KeyHash) -> Place {
        Place { hash: key.hash, home: table.home(const { Self::LAYOUT }, key.group, key.hash) }
    }

    /// Calls `each` with every value and its key's bytes, in no particular order.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], V)) {
        let pages = self.table.borrow_mut().page_count();
        for index in 0..pages {
            let keys = self.table.borrow_mut().keys_of(index, VALUE);
            for (group, key) in keys {
                let value = self.table.borrow_mut().read(Address::of(group, VALUE, &key), V::load).flatten();
                value.into_iter().for_each(|value| each(&key, value));
            }
        }
    }
}

impl<K: Key + ?Sized, T> ValueState<K, ArchivedValue<T>>
where
    T: Archive + Schema + 'static,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>,
{
    /// Calls `read` with the key's archived value without making a copy of it where it can be read in place.
    pub fn read<R>(&self, key: &Hashed<K>, read: impl FnOnce(&T::Archived) -> R) -> Result<Option<R>, StateError> {
        let mut table = self.table.borrow_mut();
        table.read(Self::address(key), |bytes| read_archive::<T, R>(bytes, read)).transpose()
    }
}

/// A state with one value per key, whether it expires or not: what reducing and aggregating states are built on.
pub trait ValuePerKey<K: ?Sized, V> {
    /// The key's value.
    fn get(&self, key: &Hashed<K>) -> Option<V>;

    /// Replaces the key's value by what `change` makes of it; `None` is no value. `change` must not use this state.
    fn update(&self, key: &Hashed<K>, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<(), StateError>;

    /// Removes the key's value; answers whether there was one.
    fn remove(&self, key: &Hashed<K>) -> bool;

    /// Takes values over that a former version of the program stored as `Old`.
    fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self;
}

impl<K: Key + ?Sized, V: StateValue> ValuePerKey<K, V> for ValueState<K, V> {
    #[inline]
    fn get(&self, key: &Hashed<K>) -> Option<V> {
        self.get(key)
    }

    #[inline]
    fn update(&self, key: &Hashed<K>, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<(), StateError> {
        self.update(key, change)
    }

    fn remove(&self, key: &Hashed<K>) -> bool {
        self.remove(key)
    }

    fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self {
        self.migrate_from(convert)
    }
}

/// Asks for what lies at these places, where that is worth looking at each key twice.
#[inline(always)]
fn fetch_cells<'a>(table: &Table, layout: Layout, places: impl Iterator<Item = &'a Place>) {
    if table.is_worth_fetching() {
        places.for_each(|place| table.fetch_cell(layout, place.home, place.hash));
    }
}

/// Updates keys whose places are known, one after the other.
#[inline(always)]
fn update_group<'a, K: Key + ?Sized, V: StateValue, R: Copy>(
    table: &mut Table,
    placed: impl Iterator<Item = (Place, Grouped<'a, K>, R)>,
    change: &mut impl FnMut(R, Option<V>) -> Option<V>,
    updated: &mut impl FnMut(R, &V),
) -> Result<(), StateError> {
    for (Place { hash, home }, Grouped { key, group }, record) in placed {
        debug_assert_eq!(hash, Hashed::in_group(key, group).hash, "the look ahead is at the same records");
        let address = Address { group, hash, kind: VALUE, key: key.bytes() };
        let Updating { mut new, is_settled, vacancy } =
            update_at::<ValueState<K, V>, V>(table, home, address, |old| change(record, old));
        if !is_settled {
            (new, _) = settle::<ValueState<K, V>, V>(table, group, hash, key.bytes(), vacancy, new)?;
        }
        if let Some(new) = &new {
            updated(record, new);
        }
    }
    Ok(())
}

/// Updates keys one after the other, and goes first where each was found last. Answers how many there were, and how many were not there.
#[inline(always)]
fn update_recent<'a, K: Key + ?Sized, V: StateValue, R: Copy>(
    table: &mut Table,
    spots: &mut Spots,
    records: impl Iterator<Item = R>,
    key_of: impl Fn(&R) -> Grouped<'a, K>,
    change: &mut impl FnMut(R, Option<V>) -> Option<V>,
    updated: &mut impl FnMut(R, &V),
) -> Result<(usize, usize), StateError> {
    let (mut sought, mut missed) = (0, 0);
    for record in records {
        sought += 1;
        let Grouped { key, group } = key_of(&record);
        let bytes = key.bytes();
        let place = Spots::place_of(bytes);
        let mut spot = spots.get(place);
        let new = loop {
            if let Some(value) = table.changing_at::<ValueState<K, V>>(spot, bytes) {
                let new = change(record, V::load(value));
                match &new {
                    Some(new) => new.store(value),
                    None => delete(table, group, Hashed::in_group(key, group).hash, bytes),
                }
                break new;
            }
            missed += 1;
            // Now it is there, unless there is no such key.
            let Some(found) = table.touch_key::<ValueState<K, V>>(group, bytes) else {
                let hash = Hashed::in_group(key, group).hash;
                break settle::<ValueState<K, V>, V>(table, group, hash, bytes, None, change(record, None))?.0;
            };
            spot = found;
            spots.set(place, found);
        };
        if let Some(new) = &new {
            updated(record, new);
        }
    }
    Ok((sought, missed))
}

/// Replaces the value of an entry by what `change` makes of it; `None` is no value. The table is one of `L`, and `home` that of the entry.
/// Answers where a new fixed entry went if that is known.
#[inline(always)]
pub(super) fn update<L: Shaped, V: StateValue>(
    table: &mut Table,
    home: Home,
    address: Address,
    change: impl FnOnce(Option<V>) -> Option<V>,
) -> Result<Option<EntryAt>, StateError> {
    let Updating { new, is_settled, vacancy } = update_at::<L, V>(table, home, address, change);
    if is_settled {
        return Ok(None);
    }
    settle::<L, V>(table, address.group, address.hash, address.key, vacancy, new).map(|(_, entry)| entry)
}

/// An update as far as it needs no room. What is left is `settle`'s.
struct Updating<V> {
    new: Option<V>,
    /// Whether the new value is stored.
    is_settled: bool,
    /// Where a new entry goes.
    vacancy: Option<EntryAt>,
}

#[inline(always)]
fn update_at<L: Shaped, V: StateValue>(
    table: &mut Table,
    home: Home,
    address: Address,
    change: impl FnOnce(Option<V>) -> Option<V>,
) -> Updating<V> {
    match const { L::LAYOUT } {
        Layout::Fixed(shape) => {
            let ((new, is_settled), vacancy) = table.change::<L, _>(shape, home, address, |stored| match stored {
                Some(bytes) => {
                    let new = change(V::load(bytes));
                    if let Some(new) = &new {
                        new.store(bytes);
                    }
                    let is_stored = new.is_some();
                    (new, is_stored)
                }
                None => {
                    let new = change(None);
                    let is_nothing = new.is_none();
                    (new, is_nothing)
                }
            });
            Updating { new, is_settled, vacancy }
        }
        layout @ Layout::Slotted => {
            let found = table.find(layout, address);
            let old = found.and_then(|entry| table.read_at(address, entry, V::load)).flatten();
            let was_there = old.is_some();
            let new = change(old);
            let is_settled = match &new {
                None => !was_there,
                Some(value) => {
                    let in_place = found.and_then(|entry| table.same_len_mut(entry, value.len_bytes()));
                    in_place.map(|bytes| value.store(bytes)).is_some()
                }
            };
            Updating { new, is_settled, vacancy: None }
        }
    }
}

/// Writes the value of an entry that is new or changes its length, or takes away the entry that lost its value; answers the value, and where a new
/// fixed one went if that is known. Takes the parts of an address, because a whole one would be put together in memory before every
/// update that does not come here.
// Always: a value whose address went elsewhere would lie in memory, for every update.
#[inline(always)]
fn settle<L: Shaped, V: StateValue>(
    table: &mut Table,
    group: KeyGroup,
    hash: u64,
    key: &[u8],
    vacancy: Option<EntryAt>,
    new: Option<V>,
) -> Result<(Option<V>, Option<EntryAt>), StateError> {
    let Some(value) = new else {
        delete(table, group, hash, key);
        return Ok((None, None));
    };
    if let Layout::Slotted = const { L::LAYOUT } {
        let written = write_slotted(table, group, hash, key, value);
        return written.map(|value| (Some(value), None));
    }
    let (bytes, entry) = room_for::<L>(table, group, hash, key, vacancy)?;
    value.store(bytes);
    Ok((Some(value), entry))
}

#[cold]
#[inline(never)]
fn delete(table: &mut Table, group: KeyGroup, hash: u64, key: &[u8]) {
    table.delete(Address { group, hash, kind: VALUE, key });
}

#[inline(never)]
fn write_slotted<V: StateValue>(
    table: &mut Table,
    group: KeyGroup,
    hash: u64,
    key: &[u8],
    value: V,
) -> Result<V, StateError> {
    table.write(Address { group, hash, kind: VALUE, key }, value.len_bytes(), |out| value.store(out))?;
    Ok(value)
}

/// The bytes of the value of a new fixed entry, to be filled in, and where it went if that is known.
#[cold]
#[inline(never)]
fn room_for<'a, L: Shaped>(
    table: &'a mut Table,
    group: KeyGroup,
    hash: u64,
    key: &[u8],
    vacancy: Option<EntryAt>,
) -> Result<(&'a mut [u8], Option<EntryAt>), StateError> {
    let Layout::Fixed(shape) = (const { L::LAYOUT }) else {
        unreachable!("values of any length are written by others")
    };
    if let Some(vacancy) = vacancy.filter(|&vacancy| table.fill::<L>(vacancy, hash, key)) {
        return Ok((&mut table.pages[vacancy.page].bytes_mut()[shape.value(vacancy.at)], Some(vacancy)));
    }
    let bytes = table.value_for(Address { group, hash, kind: VALUE, key }, shape.value_len, false)?;
    Ok((bytes, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, ArenaOptions, MemoryBudget};
    use crate::state::KeyGroupRange;

    #[test]
    fn records_behind_one_that_cannot_be_read_are_not_updated() {
        let arena = Arena::new(MemoryBudget::new(16 << 20), ArenaOptions::default());
        let mut states = StateBackend::new(KeyGroupRange { start: 0, end: 8 }, 8, arena);
        let (state, keys): (ValueState<u64, u64>, _) =
            (states.value("operator", "state").unwrap(), states.key_context());
        let numbers: Vec<u64> = (0..3 * LOOK_AHEAD as u64).collect();
        for refused in [0, 5, LOOK_AHEAD - 1, LOOK_AHEAD, 2 * LOOK_AHEAD + 3, numbers.len() - 1, numbers.len()] {
            let of = |key: &u64| KeyHash::of(key.bytes(), keys.hash(key).group);
            let mut nth = 0;
            // As a damaged record ends them: the ones behind it could be asked for.
            let records = std::iter::from_fn(|| {
                let key = numbers.get(nth)?;
                nth += 1;
                (nth - 1 != refused).then_some(key)
            });
            state
                .update_each(
                    numbers.iter().map(of),
                    records,
                    |key| Grouped { key: *key, group: keys.hash(*key).group },
                    |_, _| Some(refused as u64),
                    |_, _| {},
                )
                .unwrap();
            let updated = numbers.iter().filter(|key| state.get(&keys.hash(*key)) == Some(refused as u64)).count();
            assert_eq!(updated, refused);
            numbers.iter().for_each(|key| {
                state.remove(&keys.hash(key));
            });
        }
    }
}
