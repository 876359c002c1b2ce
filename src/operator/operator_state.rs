//! Operator state: what a subtask remembers beside its keys, and how it is given out anew when there are more or fewer subtasks.
//!
//! ```text
//! a blob    magic u32, layout length u16, layout (UTF-8), elements u32, then each element: length u32, bytes
//! ```
//! All little-endian; the kind of the blob is `state ` and the state's name. Here: lists that are split or joined, maps that every subtask
//! has a copy of, their bytes. Not here: keyed state (`state`), the blobs of sources and sinks.
//!
//! For what is small: it lies on the heap and in the manifest of every checkpoint, so each state has a limit.
//! Semantics: Flink `OperatorStateStore`: even split, union, broadcast (`RoundRobinOperatorStateRepartitioner`). Unlike Flink only the first
//! subtask writes a broadcast state, since all have the same.

use super::{Restored, SnapshotBuilder};
use crate::record::Key;
use crate::state::{StateError, StateValue, layout_hash};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;

/// How many bytes an operator state of one subtask may take in a checkpoint.
pub const OPERATOR_STATE_BYTES_MAX: usize = 64 << 10;

/// "MOS" and the version of the format.
const MAGIC: [u8; 4] = *b"MOS\x01";

/// Who gets which elements of a list when a checkpoint is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListSharing {
    /// The same number of subtasks: each its own. Otherwise all elements, subtask after subtask, are cut into even parts.
    Split,
    /// Every subtask gets all elements of all subtasks.
    Union,
}

/// A list of one subtask; clones are the same list.
pub struct OperatorList<V>(Rc<Named<ListContent<V>>>);

/// A map that is the same in every subtask, as long as every subtask changes it alike: by the records of a broadcast stream. Clones are
/// the same map.
pub struct BroadcastState<K: ?Sized, V>(Rc<Named<MapContent<K, V>>>);

/// All operator states of one operator in one subtask.
#[derive(Default)]
pub struct OperatorStates {
    states: Vec<Rc<dyn Persistent>>,
}

struct Named<C> {
    operator: String,
    name: String,
    content: RefCell<C>,
}

struct ListContent<V> {
    sharing: ListSharing,
    elements: Vec<V>,
    len_bytes: usize,
}

struct MapContent<K: ?Sized, V> {
    entries: BTreeMap<Vec<u8>, V>,
    len_bytes: usize,
    of: PhantomData<fn(&K)>,
}

/// An operator state towards checkpoints.
trait Persistent {
    fn operator(&self) -> &str;
    fn kind(&self) -> String;
    /// The bytes this subtask contributes, if any.
    fn encode(&self, subtask: u32) -> Option<Vec<u8>>;
    fn restore(&self, restored: &Restored<'_>) -> Result<(), StateError>;
}

impl OperatorStates {
    /// Adds a list.
    pub fn list<V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
        sharing: ListSharing,
    ) -> Result<OperatorList<V>, StateError> {
        let content = ListContent { sharing, elements: Vec::new(), len_bytes: 0 };
        self.add(operator, name, content).map(OperatorList)
    }

    /// Adds a map that every subtask has a copy of.
    pub fn broadcast<K: Key + ?Sized, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
    ) -> Result<BroadcastState<K, V>, StateError> {
        let content = MapContent { entries: BTreeMap::new(), len_bytes: 0, of: PhantomData };
        self.add(operator, name, content).map(BroadcastState)
    }

    /// Records all of them at a barrier.
    pub fn snapshot(&self, builder: &mut SnapshotBuilder) {
        for state in &self.states {
            if let Some(bytes) = state.encode(builder.subtask) {
                builder.blob(state.operator(), &state.kind(), bytes);
            }
        }
    }

    /// Takes back what a checkpoint holds for this subtask.
    pub fn restore(&self, restored: &Restored<'_>) -> Result<(), StateError> {
        self.states.iter().try_for_each(|state| state.restore(restored))
    }

    fn add<C>(&mut self, operator: &str, name: &str, content: C) -> Result<Rc<Named<C>>, StateError>
    where
        Named<C>: Persistent + 'static,
    {
        let (operator, name) = (operator.to_owned(), name.to_owned());
        let state = Rc::new(Named { operator, name, content: RefCell::new(content) });
        if self.states.iter().any(|other| other.kind() == state.kind()) {
            return Err(StateError::NameTaken { operator: state.operator.clone(), state: state.name.clone() });
        }
        self.states.push(state.clone());
        Ok(state)
    }
}

impl<V> Clone for OperatorList<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V: StateValue> OperatorList<V> {
    /// Appends an element.
    pub fn push(&self, value: V) -> Result<(), StateError> {
        let content = &mut *self.0.content.borrow_mut();
        content.len_bytes = self.0.grown(content.len_bytes, 0, 4 + value.len_bytes())?;
        content.elements.push(value);
        Ok(())
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.0.content.borrow().elements.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` with every element in order.
    pub fn for_each(&self, each: impl FnMut(&V)) {
        self.0.content.borrow().elements.iter().for_each(each);
    }

    /// Takes all elements out.
    pub fn take(&self) -> Vec<V> {
        let content = &mut *self.0.content.borrow_mut();
        content.len_bytes = 0;
        std::mem::take(&mut content.elements)
    }
}

impl<K: ?Sized, V> Clone for BroadcastState<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Key + ?Sized, V: StateValue> BroadcastState<K, V> {
    /// Sets the value of a key; answers the former one.
    pub fn put(&self, key: &K, value: V) -> Result<Option<V>, StateError> {
        let content = &mut *self.0.content.borrow_mut();
        let old_len = content.entries.get(key.bytes()).map_or(0, |old| entry_len(key, old));
        content.len_bytes = self.0.grown(content.len_bytes, old_len, entry_len(key, &value))?;
        Ok(content.entries.insert(key.bytes().to_vec(), value))
    }

    /// Calls `read` with the value of a key.
    pub fn with<R>(&self, key: &K, read: impl FnOnce(&V) -> R) -> Option<R> {
        self.0.content.borrow().entries.get(key.bytes()).map(read)
    }

    /// Removes a key; answers its value.
    pub fn remove(&self, key: &K) -> Option<V> {
        let content = &mut *self.0.content.borrow_mut();
        let old = content.entries.remove(key.bytes())?;
        content.len_bytes -= entry_len(key, &old);
        Some(old)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.content.borrow().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` with every key's bytes and value, in the order of the bytes.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], &V)) {
        self.0.content.borrow().entries.iter().for_each(|(key, value)| each(key, value));
    }
}

fn entry_len<K: Key + ?Sized, V: StateValue>(key: &K, value: &V) -> usize {
    8 + key.bytes().len() + value.len_bytes()
}

impl<C> Named<C> {
    /// The length after `removed` bytes have gone and `added` have come, if that is allowed.
    fn grown(&self, len: usize, removed: usize, added: usize) -> Result<usize, StateError> {
        let len_bytes = len - removed + added;
        if len_bytes > OPERATOR_STATE_BYTES_MAX {
            return Err(StateError::OperatorStateFull {
                operator: self.operator.clone(),
                state: self.name.clone(),
                len_bytes,
                len_bytes_max: OPERATOR_STATE_BYTES_MAX,
            });
        }
        Ok(len_bytes)
    }

    fn damaged(&self, subtask: u32, what: &'static str) -> StateError {
        let (operator, state) = (self.operator.clone(), self.name.clone());
        StateError::OperatorStateDamaged { operator, state, subtask, what }
    }

    /// Calls `each` with every element of a blob; `false` says that it is none.
    fn read(
        &self,
        subtask: u32,
        blob: &[u8],
        asked: &str,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), StateError> {
        let damaged = |what| self.damaged(subtask, what);
        let rest = blob.strip_prefix(&MAGIC).ok_or_else(|| damaged("the blob does not begin like one"))?;
        let (len, rest) = rest.split_first_chunk().ok_or_else(|| damaged("the blob ends within its head"))?;
        let layout = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)));
        let (layout, rest) = layout.ok_or_else(|| damaged("the blob ends within its layout"))?;
        if layout_hash(&String::from_utf8_lossy(layout)) != layout_hash(asked) {
            let stored = String::from_utf8_lossy(layout);
            return Err(StateError::layout_differs(&self.operator, &self.name, &stored, asked));
        }
        let (count, mut rest) = rest.split_first_chunk().ok_or_else(|| damaged("the blob ends within its head"))?;
        for _ in 0..u32::from_le_bytes(*count) {
            let (element, behind) = cut(rest).ok_or_else(|| damaged("the blob ends within an element"))?;
            if !each(element) {
                return Err(damaged("an element is none that this state writes"));
            }
            rest = behind;
        }
        if rest.is_empty() { Ok(()) } else { Err(damaged("the blob goes on after its last element")) }
    }
}

impl<V: StateValue> Persistent for Named<ListContent<V>> {
    fn operator(&self) -> &str {
        &self.operator
    }

    fn kind(&self) -> String {
        kind_of(&self.name)
    }

    fn encode(&self, _: u32) -> Option<Vec<u8>> {
        let content = self.content.borrow();
        let mut blob = begin(&list_layout::<V>(), content.elements.len());
        content.elements.iter().for_each(|value| append(&mut blob, value));
        Some(blob)
    }

    fn restore(&self, restored: &Restored<'_>) -> Result<(), StateError> {
        let content = &mut *self.content.borrow_mut();
        let (kind, layout) = (kind_of(&self.name), list_layout::<V>());
        let blobs: Vec<_> = restored.blobs.of(&self.operator, &kind).collect();
        let keeps_its_own = blobs.len() == restored.parallelism as usize && content.sharing == ListSharing::Split;
        let mut elements = Vec::new();
        for blob in &blobs {
            self.read(blob.subtask, &blob.bytes, &layout, |bytes| {
                let value = V::check(bytes).then(|| V::load(bytes)).flatten();
                let is_ours = !keeps_its_own || blob.subtask == restored.subtask;
                let is_value = value.is_some();
                elements.extend(value.filter(|_| is_ours));
                is_value
            })?;
        }
        if content.sharing == ListSharing::Split && !keeps_its_own {
            let share = |subtask: u32| elements.len() * subtask as usize / restored.parallelism.max(1) as usize;
            let (from, to) = (share(restored.subtask), share(restored.subtask + 1));
            elements.truncate(to);
            elements.drain(..from);
        }
        content.len_bytes = elements.iter().map(|value| 4 + value.len_bytes()).sum();
        content.elements = elements;
        Ok(())
    }
}

impl<K: Key + ?Sized, V: StateValue> Persistent for Named<MapContent<K, V>> {
    fn operator(&self) -> &str {
        &self.operator
    }

    fn kind(&self) -> String {
        kind_of(&self.name)
    }

    fn encode(&self, subtask: u32) -> Option<Vec<u8>> {
        if subtask != 0 {
            return None;
        }
        let content = self.content.borrow();
        let mut blob = begin(&map_layout::<K, V>(), 2 * content.entries.len());
        for (key, value) in &content.entries {
            blob.extend_from_slice(&(key.len() as u32).to_le_bytes());
            blob.extend_from_slice(key);
            append(&mut blob, value);
        }
        Some(blob)
    }

    fn restore(&self, restored: &Restored<'_>) -> Result<(), StateError> {
        let content = &mut *self.content.borrow_mut();
        (content.entries, content.len_bytes) = (BTreeMap::new(), 0);
        let (kind, layout) = (kind_of(&self.name), map_layout::<K, V>());
        let Some(blob) = restored.blobs.of(&self.operator, &kind).next() else { return Ok(()) };
        let mut key: Option<Vec<u8>> = None;
        self.read(blob.subtask, &blob.bytes, &layout, |bytes| {
            let Some(key) = key.take() else {
                key = Some(bytes.to_vec());
                return K::FIXED_LEN.map_or_else(|| K::from_bytes(bytes).is_some(), |len| len == bytes.len());
            };
            let Some(value) = V::check(bytes).then(|| V::load(bytes)).flatten() else { return false };
            content.len_bytes += 8 + key.len() + bytes.len();
            content.entries.insert(key, value).is_none()
        })?;
        if key.is_some() { Err(self.damaged(blob.subtask, "the last key has no value")) } else { Ok(()) }
    }
}

fn kind_of(name: &str) -> String {
    format!("state {name}")
}

fn list_layout<V: StateValue>() -> String {
    format!("operator list: element {}", V::layout())
}

fn map_layout<K: Key + ?Sized, V: StateValue>() -> String {
    format!("broadcast map: key {}, value {}", K::NAME, V::layout())
}

fn begin(layout: &str, elements: usize) -> Vec<u8> {
    let mut blob = MAGIC.to_vec();
    blob.extend_from_slice(&(layout.len() as u16).to_le_bytes());
    blob.extend_from_slice(layout.as_bytes());
    blob.extend_from_slice(&(elements as u32).to_le_bytes());
    blob
}

fn append<V: StateValue>(blob: &mut Vec<u8>, value: &V) {
    let len = value.len_bytes();
    blob.extend_from_slice(&(len as u32).to_le_bytes());
    let start = blob.len();
    blob.resize(start + len, 0);
    value.store(&mut blob[start..]);
}

fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{CheckpointId, OperatorBlob, RestoredBlobs};
    use crate::state::ArchivedValue;

    /// What `fill` puts into the states of each subtask, as a checkpoint holds it.
    fn blobs(subtasks: u32, fill: impl Fn(u32, &mut OperatorStates)) -> Vec<OperatorBlob> {
        let mut builder = SnapshotBuilder { id: CheckpointId(1), subtask: 0, blobs: Vec::new() };
        for subtask in 0..subtasks {
            let mut states = OperatorStates::default();
            fill(subtask, &mut states);
            builder.subtask = subtask;
            states.snapshot(&mut builder);
        }
        builder.blobs
    }

    fn restore(
        blobs: &[OperatorBlob],
        subtask: u32,
        parallelism: u32,
        states: &OperatorStates,
    ) -> Result<(), StateError> {
        let blobs = RestoredBlobs::new(blobs.to_vec());
        states.restore(&Restored { subtask, parallelism, blobs: &blobs, id: CheckpointId(1) })
    }

    /// What each subtask has of a list that three subtasks filled with [0, 1, 2], [10, 11, 12] and [20, 21, 22].
    fn shared(sharing: ListSharing, parallelism: u32) -> Vec<Vec<u64>> {
        let written = blobs(3, |subtask, states| {
            let list = states.list("source", "pending", sharing).unwrap();
            (0..3).for_each(|i| list.push(u64::from(subtask * 10 + i)).unwrap());
        });
        let subtasks = (0..parallelism).map(|subtask| {
            let mut states = OperatorStates::default();
            let list = states.list("source", "pending", sharing).unwrap();
            restore(&written, subtask, parallelism, &states).unwrap();
            list.take()
        });
        subtasks.collect()
    }

    #[test]
    fn a_split_list_goes_back_to_its_own_subtask_when_their_number_is_the_same() {
        assert_eq!(shared(ListSharing::Split, 3)[1], [10, 11, 12]);
    }

    #[test]
    fn a_split_list_is_cut_into_even_parts_for_more_or_fewer_subtasks() {
        assert_eq!(shared(ListSharing::Split, 2), [vec![0, 1, 2, 10], vec![11, 12, 20, 21, 22]]);
        let sizes: Vec<usize> = shared(ListSharing::Split, 8).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 1, 1, 1, 1, 1, 2]);
    }

    #[test]
    fn every_subtask_gets_all_of_a_union_list() {
        for list in shared(ListSharing::Union, 2).into_iter().chain(shared(ListSharing::Union, 3)) {
            assert_eq!(list, [0, 1, 2, 10, 11, 12, 20, 21, 22]);
        }
    }

    #[test]
    fn every_subtask_gets_the_whole_broadcast_map() {
        let written = blobs(2, |_, states| {
            let rules = states.broadcast::<str, ArchivedValue<String>>("rules", "active").unwrap();
            rules.put("cpu", ArchivedValue::new(&String::from("above 90")).unwrap()).unwrap();
            rules.put("gone", ArchivedValue::new(&String::new()).unwrap()).unwrap();
            rules.remove("gone");
        });
        for subtask in 0..5 {
            let mut states = OperatorStates::default();
            let rules = states.broadcast::<str, ArchivedValue<String>>("rules", "active").unwrap();
            restore(&written, subtask, 5, &states).unwrap();
            assert_eq!(rules.len(), 1);
            assert_eq!(rules.with("cpu", |rule| rule.get().unwrap().to_string()).as_deref(), Some("above 90"));
        }
    }

    #[test]
    fn a_changed_element_type_is_refused_with_both_layouts() {
        let written = blobs(1, |_, states| drop(states.list::<u64>("op", "list", ListSharing::Split).unwrap()));
        let mut states = OperatorStates::default();
        states.list::<u32>("op", "list", ListSharing::Split).unwrap();
        let refusal = restore(&written, 0, 1, &states).unwrap_err().to_string();
        assert!(refusal.contains("element u64") && refusal.contains("element u32"), "{refusal}");
    }

    #[test]
    fn damaged_blobs_are_refused_and_never_panic() {
        let written = blobs(1, |_, states| {
            states.broadcast::<u64, u64>("op", "map").unwrap().put(&7, 8).unwrap();
            states.list::<u64>("op", "list", ListSharing::Union).unwrap().push(1).unwrap();
        });
        for index in 0..written.len() {
            for len in 0..written[index].bytes.len() {
                let mut damaged = written.clone();
                damaged[index].bytes.truncate(len);
                let mut states = OperatorStates::default();
                states.broadcast::<u64, u64>("op", "map").unwrap();
                states.list::<u64>("op", "list", ListSharing::Union).unwrap();
                assert!(restore(&damaged, 0, 1, &states).is_err());
            }
        }
    }

    #[test]
    fn a_list_that_would_not_fit_in_a_manifest_is_refused() {
        let mut states = OperatorStates::default();
        let list = states.list::<[u64; 512]>("op", "list", ListSharing::Split).unwrap();
        let refusal = (0..).find_map(|_| list.push([0; 512]).err()).unwrap();
        assert!(matches!(refusal, StateError::OperatorStateFull { .. }) && list.len() == 15);
    }
}
