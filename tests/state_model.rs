//! Every type of state against the obvious model in memory (`state_support` says what happens to both).
//!
//! Not covered: the store between harvest and restore.

mod state_support;

use millstream::checkpoint::{CheckpointId, PageKey, PieceKind};
use millstream::operator::{Aggregate, And, Count, Sum};
use millstream::record::Key;
use millstream::state::{
    AggregatingState, ArchivedValue, Both, EventQueue, ExpiringList, ExpiringMap, ExpiringValue, KeyGroup,
    KeyGroupRange, ListState, MapState, NamespacedState, ReducingState, StateBackend, StateClock, StateTtl, Timers,
    ValueState,
};
use millstream::time::EventTimeMs;
use proptest::prelude::*;
use state_support::{Dump, GROUPS, Now, Run, Step, Subject, backend, check, context, steps};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn group_of<K: Key + ?Sized>(key: &K) -> KeyGroup {
    context().hash(key).group
}

fn le(number: impl Into<u64>) -> Vec<u8> {
    number.into().to_le_bytes().to_vec()
}

/// What was seen of a number that may be there.
fn seen(number: Option<u64>) -> Vec<u8> {
    number.map_or_else(Vec::new, le)
}

fn add(dump: &mut Dump, key: Vec<u8>, value: Vec<u8>) {
    assert!(dump.insert(key, value).is_none(), "an entry is there twice");
}

/// Fixed pages with many slots.
struct Narrow(ValueState<u64, u64>);

impl Subject for Narrow {
    type Model = BTreeMap<u64, u64>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.value("operator", "narrow").unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&u64::from(key))
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let key = u64::from(key);
        let mut before = None;
        let change = |old: Option<u64>| {
            before = old;
            Some(old.unwrap_or(0) + u64::from(seed))
        };
        self.0.update(&context().hash(&key), change).unwrap();
        seen(before)
    }

    fn remove(&mut self, key: u16) {
        self.0.remove(&context().hash(&u64::from(key)));
    }

    fn dump(&mut self, dump: &mut Dump) {
        self.0.for_each(|key, value| {
            let found = self.0.get(&context().hash(&u64::from_le_bytes(key.try_into().unwrap())));
            assert_eq!(found, Some(value));
            add(dump, key.to_vec(), le(value));
        });
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        let before = model.get(&u64::from(key)).copied();
        *model.entry(u64::from(key)).or_default() += u64::from(seed);
        seen(before)
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&u64::from(key));
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        model.iter().map(|(&key, &value)| (le(key), le(value))).collect()
    }
}

/// Fixed pages with few slots, which split and fill with deleted slots early.
struct Wide(ValueState<u32, [u64; 31]>);

impl Subject for Wide {
    type Model = BTreeMap<u32, u64>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.value("operator", "wide").unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&u32::from(key))
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let key = u32::from(key);
        let before = self.0.get(&context().hash(&key)).map(|value| value[30]);
        self.0.put(&context().hash(&key), &[u64::from(seed); 31]).unwrap();
        seen(before)
    }

    fn remove(&mut self, key: u16) {
        self.0.update(&context().hash(&u32::from(key)), |_| None).unwrap();
    }

    fn dump(&mut self, dump: &mut Dump) {
        self.0.for_each(|key, value| {
            assert!(value.iter().all(|word| *word == value[0]));
            add(dump, key.to_vec(), le(value[0]));
        });
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        seen(model.insert(u32::from(key), u64::from(seed)))
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&u32::from(key));
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        model.iter().map(|(key, &value)| (key.to_le_bytes().to_vec(), le(value))).collect()
    }
}

/// Slotted pages with values from nothing to several pages.
struct Texts(ValueState<str, ArchivedValue<String>>);

fn text(seed: u16) -> String {
    let len = match seed % 100 {
        0 => usize::from(seed) / 2,
        1..6 => usize::from(seed) % 4000,
        _ => usize::from(seed) % 100,
    };
    format!("{seed}").repeat(len / 4)
}

fn archived(text: &str) -> ArchivedValue<String> {
    ArchivedValue::new(&text.to_owned()).unwrap()
}

fn bytes_of(text: &ArchivedValue<String>) -> Vec<u8> {
    text.get().unwrap().as_bytes().to_vec()
}

fn text_key(key: u16) -> String {
    format!("key {key}")
}

impl Subject for Texts {
    type Model = BTreeMap<String, String>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.value("operator", "texts").unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(text_key(key).as_str())
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let key = text_key(key);
        let before = self.0.read(&context().hash(key.as_str()), |text| text.as_bytes().to_vec()).unwrap();
        self.0.put(&context().hash(key.as_str()), &archived(&text(seed))).unwrap();
        before.unwrap_or_default()
    }

    fn remove(&mut self, key: u16) {
        self.0.remove(&context().hash(text_key(key).as_str()));
    }

    fn dump(&mut self, dump: &mut Dump) {
        self.0.for_each(|key, value| add(dump, key.to_vec(), bytes_of(&value)));
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        model.insert(text_key(key), text(seed)).map_or_else(Vec::new, String::into_bytes)
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&text_key(key));
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        model.iter().map(|(key, text)| (key.clone().into_bytes(), text.clone().into_bytes())).collect()
    }
}

/// A list per key: put appends (every seventh seed replaces), remove cuts in half.
struct Lists(ListState<str, u32>);

fn list_key(key: u16) -> String {
    format!("list {}", key % 25)
}

impl Subject for Lists {
    type Model = BTreeMap<String, Vec<u32>>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.list("operator", "lists").unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(list_key(key).as_str())
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let text = list_key(key);
        let key = context().hash(text.as_str());
        let before = self.0.get(&key, 0);
        if !seed.is_multiple_of(7) || !self.0.set(&key, 0, &u32::from(seed)).unwrap() {
            self.0.push(&key, &u32::from(seed)).unwrap();
        }
        seen(before.map(u64::from))
    }

    fn remove(&mut self, key: u16) {
        let text = list_key(key);
        let key = context().hash(text.as_str());
        self.0.truncate(&key, self.0.len(&key) / 2);
    }

    fn dump(&mut self, dump: &mut Dump) {
        for key in (0..25).map(list_key) {
            let mut list = Vec::new();
            self.0.for_each(&context().hash(key.as_str()), |element| list.extend(element.to_le_bytes()));
            if !list.is_empty() {
                add(dump, key.into_bytes(), list);
            }
        }
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        let list = model.entry(list_key(key)).or_default();
        let before = list.first().map(|&first| u64::from(first));
        match list.first_mut() {
            Some(first) if seed.is_multiple_of(7) => *first = u32::from(seed),
            _ => list.push(u32::from(seed)),
        }
        seen(before)
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        if let Some(list) = model.get_mut(&list_key(key)) {
            list.truncate(list.len() / 2);
        }
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        let lists = model.iter().filter(|(_, list)| !list.is_empty());
        lists
            .map(|(key, list)| (key.clone().into_bytes(), list.iter().flat_map(|e| e.to_le_bytes()).collect()))
            .collect()
    }
}

/// A list of texts of any length per key: put appends or replaces one in the midst, remove cuts off a third.
struct TextLists(ListState<str, ArchivedValue<String>>);

impl TextLists {
    /// Which element is replaced, if one is.
    fn replaced(seed: u16, len: usize) -> Option<usize> {
        (seed.is_multiple_of(3) && len > 0).then(|| usize::from(seed) % len)
    }

    fn kept(len: usize) -> usize {
        len - len.div_ceil(3)
    }
}

impl Subject for TextLists {
    type Model = BTreeMap<String, Vec<String>>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.list("operator", "text lists").unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(list_key(key).as_str())
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let name = list_key(key);
        let key = context().hash(name.as_str());
        let Some(index) = Self::replaced(seed, self.0.len(&key) as usize) else {
            self.0.push(&key, &archived(&text(seed))).unwrap();
            return Vec::new();
        };
        let before = self.0.get(&key, index as u32).unwrap();
        assert!(self.0.set(&key, index as u32, &archived(&text(seed / 3))).unwrap());
        bytes_of(&before)
    }

    fn remove(&mut self, key: u16) {
        let name = list_key(key);
        let key = context().hash(name.as_str());
        self.0.truncate(&key, Self::kept(self.0.len(&key) as usize) as u32);
    }

    fn dump(&mut self, dump: &mut Dump) {
        for key in (0..25).map(list_key) {
            let mut list = Vec::new();
            self.0.for_each(&context().hash(key.as_str()), |text| list.extend([&bytes_of(&text)[..], &[0]].concat()));
            if !list.is_empty() {
                add(dump, key.into_bytes(), list);
            }
        }
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        let list = model.entry(list_key(key)).or_default();
        let Some(index) = Self::replaced(seed, list.len()) else {
            list.push(text(seed));
            return Vec::new();
        };
        std::mem::replace(&mut list[index], text(seed / 3)).into_bytes()
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        if let Some(list) = model.get_mut(&list_key(key)) {
            list.truncate(Self::kept(list.len()));
        }
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        let lists = model.iter().filter(|(_, list)| !list.is_empty());
        lists
            .map(|(key, list)| {
                (key.clone().into_bytes(), list.iter().flat_map(|e| [e.as_bytes(), &[0]].concat()).collect())
            })
            .collect()
    }
}

/// A map per key.
struct Maps(MapState<u64, str, u64>);

fn map_place(key: u16) -> (u64, String) {
    (u64::from(key % 10), format!("{}", key / 10))
}

impl Subject for Maps {
    type Model = BTreeMap<(u64, String), u64>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.map("operator", "maps").unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&map_place(key).0)
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let (key, map_key) = map_place(key);
        let before = self.0.get(&context().hash(&key), &map_key);
        self.0.put(&context().hash(&key), &map_key, &u64::from(seed)).unwrap();
        seen(before)
    }

    fn remove(&mut self, key: u16) {
        let (key, map_key) = map_place(key);
        self.0.remove(&context().hash(&key), &map_key).unwrap();
    }

    fn dump(&mut self, dump: &mut Dump) {
        for key in 0..10u64 {
            let hashed = context().hash(&key);
            let mut count = 0;
            self.0.for_each(&hashed, |map_key, value| {
                count += 1;
                assert_eq!(self.0.get(&hashed, std::str::from_utf8(map_key).unwrap()), Some(value));
                add(dump, [&key.to_le_bytes()[..], map_key].concat(), le(value));
            });
            assert_eq!(count, self.0.len(&hashed));
        }
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        seen(model.insert(map_place(key), u64::from(seed)))
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&map_place(key));
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        let entry =
            |((key, map_key), &value): (&(u64, String), &u64)| ([&le(*key), map_key.as_bytes()].concat(), le(value));
        model.iter().map(entry).collect()
    }
}

/// Values folded into one, of a type that is not fixed-size.
struct Reducing(
    ReducingState<
        u64,
        ArchivedValue<String>,
        fn(ArchivedValue<String>, ArchivedValue<String>) -> ArchivedValue<String>,
    >,
);

fn join(old: &str, new: &str) -> String {
    let joined = format!("{old}{new}");
    if joined.len() > 3000 { new.to_owned() } else { joined }
}

impl Subject for Reducing {
    type Model = BTreeMap<u64, String>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        let join: fn(_, _) -> _ = |old: ArchivedValue<String>, new: ArchivedValue<String>| {
            archived(&join(old.get().unwrap(), new.get().unwrap()))
        };
        Self(backend.reducing("operator", "reducing", join).unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&u64::from(key % 100))
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let key = u64::from(key % 100);
        self.0.add(&context().hash(&key), archived(&text(seed))).unwrap();
        bytes_of(&self.0.get(&context().hash(&key)).unwrap())
    }

    fn remove(&mut self, key: u16) {
        self.0.clear(&context().hash(&u64::from(key % 100)));
    }

    fn dump(&mut self, dump: &mut Dump) {
        self.0.values().for_each(|key, value| add(dump, key.to_vec(), bytes_of(&value)));
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        let new = text(seed);
        let reduced = model.get(&u64::from(key % 100)).map_or_else(|| new.clone(), |old| join(old, &new));
        model.insert(u64::from(key % 100), reduced.clone());
        reduced.into_bytes()
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&u64::from(key % 100));
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        model.iter().map(|(&key, text)| (le(key), text.clone().into_bytes())).collect()
    }
}

/// An accumulator made of two.
struct Aggregating(AggregatingState<str, u16, CountAndSum>);

type CountAndSum = And<Count, Sum<fn(&u16) -> u64, u64>>;

fn count_and_sum() -> CountAndSum {
    let number: fn(&u16) -> u64 = |seed| u64::from(*seed);
    Aggregate::<u16>::and(Count, Sum::of(number))
}

impl Subject for Aggregating {
    type Model = BTreeMap<String, (u64, u64)>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.aggregating("operator", "aggregating", count_and_sum()).unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(text_key(key).as_str())
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let key = text_key(key);
        self.0.add(&context().hash(key.as_str()), &seed).unwrap();
        let (count, sum) = self.0.get(&context().hash(key.as_str())).unwrap();
        [le(count), le(sum)].concat()
    }

    fn remove(&mut self, key: u16) {
        self.0.clear(&context().hash(text_key(key).as_str()));
    }

    fn dump(&mut self, dump: &mut Dump) {
        self.0.accumulators().for_each(|key, Both(count, sum)| add(dump, key.to_vec(), [le(count), le(sum)].concat()));
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        let (count, sum) = model.entry(text_key(key)).or_default();
        (*count, *sum) = (*count + 1, *sum + u64::from(seed));
        [le(*count), le(*sum)].concat()
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&text_key(key));
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        model.iter().map(|(key, &(count, sum))| (key.clone().into_bytes(), [le(count), le(sum)].concat())).collect()
    }
}

/// One value per key and namespace.
struct Namespaces(NamespacedState<u32, [u8; 3], u32>);

fn namespace_of(key: u16) -> (u32, [u8; 3]) {
    (u32::from(key % 40), [(key / 40) as u8, 1, 2])
}

impl Subject for Namespaces {
    type Model = BTreeMap<(u32, [u8; 3]), u32>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.namespaced("operator", "namespaces").unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&namespace_of(key).0)
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let (key, namespace) = namespace_of(key);
        let mut before = None;
        let change = |old: Option<u32>| {
            before = old;
            Some(u32::from(seed))
        };
        self.0.update(&context().hash(&key), &namespace, change).unwrap();
        seen(before.map(u64::from))
    }

    fn remove(&mut self, key: u16) {
        let (key, namespace) = namespace_of(key);
        self.0.take(&context().hash(&key), &namespace);
    }

    fn dump(&mut self, dump: &mut Dump) {
        for (key, namespace) in (0..800).map(namespace_of) {
            if let Some(value) = self.0.get(&context().hash(&key), &namespace) {
                add(dump, [&key.to_le_bytes()[..], &namespace].concat(), le(value));
            }
        }
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        seen(model.insert(namespace_of(key), u32::from(seed)).map(u64::from))
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&namespace_of(key));
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        model.iter().map(|((key, n), &value)| ([&key.to_le_bytes()[..], n].concat(), le(value))).collect()
    }
}

/// Sums per key and namespace that are added to without being known, in fixed pages with few slots; every eighth put reads.
struct Sums(NamespacedState<u32, [u8; 3], [u64; 30]>);

fn sum_of(seed: u16) -> u64 {
    u64::from(seed) * 0x0001_0001_0001
}

fn add_all<const N: usize>(sum: &mut [u64; N], more: &[u64; N]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
}

impl Subject for Sums {
    type Model = BTreeMap<(u32, [u8; 3]), u64>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.namespaced_merging("operator", "sums", add_all).unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&namespace_of(key).0)
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let (key, namespace) = namespace_of(key);
        let key = context().hash(&key);
        if seed.is_multiple_of(8) {
            return seen(self.0.get(&key, &namespace).map(|sum| sum[29]));
        }
        let add = |sum: Option<[u64; 30]>| {
            let mut sum = sum.unwrap_or([0; 30]);
            add_all(&mut sum, &[sum_of(seed); 30]);
            sum
        };
        self.0.add(&key, &namespace, add).unwrap();
        Vec::new()
    }

    fn remove(&mut self, key: u16) {
        let (key, namespace) = namespace_of(key);
        self.0.take(&context().hash(&key), &namespace);
        self.0.release_empty(group_of(&key));
    }

    fn dump(&mut self, dump: &mut Dump) {
        for group in (0..GROUPS).map(KeyGroup) {
            let mut keys = Vec::new();
            self.0
                .for_each_key(group, |key, namespace| {
                    keys.push((u32::from_le_bytes(key.try_into().unwrap()), namespace));
                })
                .unwrap();
            for (key, namespace) in keys {
                assert_eq!(group_of(&key), group);
                let sum = self.0.get(&context().hash(&key), &namespace).unwrap();
                assert!(sum.iter().all(|word| *word == sum[0]));
                add(dump, [&key.to_le_bytes()[..], &namespace].concat(), le(sum[0]));
            }
        }
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        if seed.is_multiple_of(8) {
            return seen(model.get(&namespace_of(key)).copied());
        }
        let sum = model.entry(namespace_of(key)).or_default();
        *sum = sum.wrapping_add(sum_of(seed));
        Vec::new()
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&namespace_of(key));
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        model.iter().map(|((key, n), &sum)| ([&key.to_le_bytes()[..], n].concat(), le(sum))).collect()
    }
}

/// The same in slotted pages.
struct TextSums(NamespacedState<str, u16, [u64; 60]>);

impl Subject for TextSums {
    type Model = BTreeMap<(String, u16), u64>;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.namespaced_merging("operator", "text sums", add_all).unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(list_key(key).as_str())
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let (text, namespace) = (list_key(key), key / 25);
        let key = context().hash(text.as_str());
        if seed.is_multiple_of(8) {
            return seen(self.0.get(&key, &namespace).map(|sum| sum[59]));
        }
        let add = |sum: Option<[u64; 60]>| {
            let mut sum = sum.unwrap_or([0; 60]);
            add_all(&mut sum, &[sum_of(seed); 60]);
            sum
        };
        self.0.add(&key, &namespace, add).unwrap();
        Vec::new()
    }

    fn remove(&mut self, key: u16) {
        self.0.take(&context().hash(list_key(key).as_str()), &(key / 25));
    }

    fn dump(&mut self, dump: &mut Dump) {
        for group in (0..GROUPS).map(KeyGroup) {
            let mut keys = Vec::new();
            let each = |key: &[u8], namespace| keys.push((String::from_utf8(key.to_vec()).unwrap(), namespace));
            self.0.for_each_key(group, each).unwrap();
            for (key, namespace) in keys {
                let sum = self.0.get(&context().hash(key.as_str()), &namespace).unwrap();
                assert!(sum.iter().all(|word| *word == sum[0]));
                add(dump, [key.as_bytes(), &namespace.to_le_bytes()].concat(), le(sum[0]));
            }
        }
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        let place = (list_key(key), key / 25);
        if seed.is_multiple_of(8) {
            return seen(model.get(&place).copied());
        }
        let sum = model.entry(place).or_default();
        *sum = sum.wrapping_add(sum_of(seed));
        Vec::new()
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&(list_key(key), key / 25));
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        model.iter().map(|((key, n), &sum)| ([key.as_bytes(), &n.to_le_bytes()].concat(), le(sum))).collect()
    }
}

/// Timers: put sets one or deletes it, remove lets what is due fire.
struct Clocks(Timers<str>);

fn timer_of(key: u16, seed: u16) -> (String, EventTimeMs) {
    (format!("{}", key % 50), EventTimeMs(i64::from(seed % 40) - 10))
}

fn due_of(key: u16) -> EventTimeMs {
    EventTimeMs(i64::from(key % 20) - 10)
}

impl Subject for Clocks {
    type Model = BTreeSet<(i64, String)>;
    const REMOVES_EVERYWHERE: bool = true;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.timers("operator", "timers").unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(timer_of(key, 0).0.as_str())
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let (key, at) = timer_of(key, seed);
        let key = context().hash(key.as_str());
        let was_changed = match seed.is_multiple_of(3) {
            true => self.0.delete(&key, at),
            false => self.0.set(&key, at).unwrap(),
        };
        le(u64::from(was_changed))
    }

    fn remove(&mut self, key: u16) {
        while self.0.pop_due(due_of(key)).is_some() {}
    }

    fn dump(&mut self, dump: &mut Dump) {
        let mut fired = Vec::new();
        while let Some(timer) = self.0.pop_due(EventTimeMs::MAX) {
            fired.push((timer.at, timer.key::<str>().to_owned()));
        }
        assert!(fired.is_sorted());
        for (at, key) in fired {
            add(dump, [&at.0.to_le_bytes()[..], key.as_bytes()].concat(), Vec::new());
            self.0.set(&context().hash(key.as_str()), at).unwrap();
        }
    }

    fn restored(&mut self) {
        self.0.rebuild();
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        let (key, at) = timer_of(key, seed);
        let was_changed = match seed.is_multiple_of(3) {
            true => model.remove(&(at.0, key)),
            false => model.insert((at.0, key)),
        };
        le(u64::from(was_changed))
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.retain(|(at, _)| *at > due_of(key).0);
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        model.iter().map(|(at, key)| ([&at.to_le_bytes()[..], key.as_bytes()].concat(), Vec::new())).collect()
    }
}

/// Records that wait for their time: put adds one, remove lets those go whose time has come.
struct Waiting(EventQueue<u64>);

impl Subject for Waiting {
    /// How many wait, by time, split, key and payload.
    type Model = BTreeMap<(i64, u32, u64, u16), u64>;
    const REMOVES_EVERYWHERE: bool = true;

    fn register(backend: &mut StateBackend, _: &StateClock) -> Self {
        Self(backend.event_queue::<u64, u16>("operator", "waiting").unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&u64::from(key % 50))
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let at = timer_of(key, seed).1;
        let key = u64::from(key % 50);
        self.0.push(&context().hash(&key), at, u32::from(seed % 3), &seed.to_le_bytes()).unwrap();
        Vec::new()
    }

    fn remove(&mut self, key: u16) {
        while self.0.pop_due(due_of(key)).is_some() {}
    }

    fn dump(&mut self, dump: &mut Dump) {
        let mut popped = Vec::new();
        while let Some(event) = self.0.pop_due(EventTimeMs::MAX) {
            popped.push((event.at, event.split, *event.key::<u64>(), event.payload().to_vec()));
        }
        assert!(popped.is_sorted_by_key(|event| (event.0, event.1)));
        for (at, split, key, payload) in popped {
            self.0.push(&context().hash(&key), at, split, &payload).unwrap();
            let place = [&at.0.to_le_bytes()[..], &split.to_le_bytes(), &key.to_le_bytes(), &payload].concat();
            let count = dump.entry(place).or_insert_with(|| le(0u64));
            *count = le(u64::from_le_bytes(count[..].try_into().unwrap()) + 1);
        }
    }

    fn restored(&mut self) {
        self.0.rebuild();
    }

    fn model_put(model: &mut Self::Model, _: Now, key: u16, seed: u16) -> Vec<u8> {
        let at = timer_of(key, seed).1.0;
        *model.entry((at, u32::from(seed % 3), u64::from(key % 50), seed)).or_default() += 1;
        Vec::new()
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.retain(|place, _| place.0 > due_of(key).0);
    }

    fn model_dump(model: &Self::Model, _: Now) -> Dump {
        let entry = |(&(at, split, key, seed), &count): (&(i64, u32, u64, u16), &u64)| {
            ([&at.to_le_bytes()[..], &split.to_le_bytes(), &key.to_le_bytes(), &seed.to_le_bytes()].concat(), le(count))
        };
        model.iter().map(entry).collect()
    }
}

/// The rules of a time to live, once more.
#[derive(Clone, Copy)]
struct Rules {
    ttl_ms: i64,
    in_event_time: bool,
    refreshed_on_read: bool,
}

impl Rules {
    fn ttl(self) -> StateTtl {
        let mut ttl = StateTtl::after(Duration::from_millis(self.ttl_ms as u64));
        if self.in_event_time {
            ttl = ttl.in_event_time();
        }
        if self.refreshed_on_read { ttl.refreshed_on_read() } else { ttl.sweeping(3) }
    }

    fn is_alive(self, stamp: i64, now: Now) -> bool {
        let clock = if self.in_event_time { now.watermark } else { now.processing_ms };
        stamp + self.ttl_ms > clock
    }

    fn stamp(self, now: Now) -> i64 {
        if self.in_event_time { now.at.max(now.watermark) } else { now.processing_ms }
    }

    fn write<T>(self, now: Now, old: Option<(i64, T)>) -> i64 {
        match old {
            Some((stamp, _)) if self.in_event_time => self.stamp(now).max(stamp),
            _ => self.stamp(now),
        }
    }

    fn read(self, now: Now, stamp: &mut i64) {
        if self.refreshed_on_read {
            *stamp = self.write(now, Some((*stamp, ())));
        }
    }
}

const IN_PROCESSING_TIME: Rules = Rules { ttl_ms: 60, in_event_time: false, refreshed_on_read: false };
const IN_EVENT_TIME: Rules = Rules { ttl_ms: 90, in_event_time: true, refreshed_on_read: true };

/// A fixed value that expires.
struct Fading(ExpiringValue<u64, u64>);

impl Fading {
    const RULES: Rules = IN_PROCESSING_TIME;
}

impl Subject for Fading {
    type Model = BTreeMap<u64, (i64, u64)>;

    fn register(backend: &mut StateBackend, clock: &StateClock) -> Self {
        Self(backend.expiring_value("operator", "fading", Self::RULES.ttl(), clock).unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&u64::from(key))
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let key = u64::from(key);
        let hashed = context().hash(&key);
        if seed.is_multiple_of(4) {
            return seen(self.0.get(&hashed));
        }
        let mut before = None;
        let change = |old: Option<u64>| {
            before = old;
            Some(old.unwrap_or(0) + u64::from(seed))
        };
        self.0.update(&hashed, change).unwrap();
        seen(before)
    }

    fn remove(&mut self, key: u16) {
        self.0.remove(&context().hash(&u64::from(key)));
    }

    fn dump(&mut self, dump: &mut Dump) {
        self.0.for_each(|key, value| add(dump, key.to_vec(), le(value)));
    }

    fn model_put(model: &mut Self::Model, now: Now, key: u16, seed: u16) -> Vec<u8> {
        let key = u64::from(key);
        let alive = model.get(&key).copied().filter(|&(stamp, _)| Self::RULES.is_alive(stamp, now));
        if !seed.is_multiple_of(4) {
            let value = alive.map_or(0, |(_, value)| value) + u64::from(seed);
            model.insert(key, (Self::RULES.write(now, alive), value));
        }
        seen(alive.map(|(_, value)| value))
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&u64::from(key));
    }

    fn model_dump(model: &Self::Model, now: Now) -> Dump {
        let alive = model.iter().filter(|(_, (stamp, _))| Self::RULES.is_alive(*stamp, now));
        alive.map(|(&key, &(_, value))| (le(key), le(value))).collect()
    }
}

/// A text that expires in event time, unless it is read.
struct FadingTexts(ExpiringValue<str, ArchivedValue<String>>);

impl FadingTexts {
    const RULES: Rules = IN_EVENT_TIME;
}

impl Subject for FadingTexts {
    type Model = BTreeMap<String, (i64, String)>;

    fn register(backend: &mut StateBackend, clock: &StateClock) -> Self {
        Self(backend.expiring_value("operator", "fading texts", Self::RULES.ttl(), clock).unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(text_key(key).as_str())
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let key = text_key(key);
        let hashed = context().hash(key.as_str());
        if seed.is_multiple_of(4) {
            return self.0.get(&hashed).map_or_else(Vec::new, |text| bytes_of(&text));
        }
        self.0.put(&hashed, archived(&text(seed))).unwrap();
        Vec::new()
    }

    fn remove(&mut self, key: u16) {
        self.0.remove(&context().hash(text_key(key).as_str()));
    }

    fn dump(&mut self, dump: &mut Dump) {
        self.0.for_each(|key, value| add(dump, key.to_vec(), bytes_of(&value)));
    }

    fn model_put(model: &mut Self::Model, now: Now, key: u16, seed: u16) -> Vec<u8> {
        let alive = model.get_mut(&text_key(key)).filter(|(stamp, _)| Self::RULES.is_alive(*stamp, now));
        if seed.is_multiple_of(4) {
            let Some((stamp, text)) = alive else { return Vec::new() };
            Self::RULES.read(now, stamp);
            return text.clone().into_bytes();
        }
        let stamp = Self::RULES.write(now, alive.cloned());
        model.insert(text_key(key), (stamp, text(seed)));
        Vec::new()
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&text_key(key));
    }

    fn model_dump(model: &Self::Model, now: Now) -> Dump {
        let alive = model.iter().filter(|(_, (stamp, _))| Self::RULES.is_alive(*stamp, now));
        alive.map(|(key, (_, text))| (key.clone().into_bytes(), text.clone().into_bytes())).collect()
    }
}

/// Few lists, so that they become long.
fn long_list_key(key: u16) -> String {
    format!("list {}", key % 5)
}

fn large_map_place(key: u16) -> (u64, String) {
    (u64::from(key % 3), format!("{}", key / 3))
}

/// A list whose elements expire one by one: put appends or reads, every hundredth remove clears.
struct FadingLists<const EVENT_TIME: bool>(ExpiringList<str, ArchivedValue<String>>);

impl<const EVENT_TIME: bool> FadingLists<EVENT_TIME> {
    const RULES: Rules = if EVENT_TIME { IN_EVENT_TIME } else { IN_PROCESSING_TIME };

    /// Reading is a use, so only what a step reads is read.
    fn read(&self, key: &str) -> Vec<u8> {
        let mut list = Vec::new();
        self.0.for_each(&context().hash(key), |text| {
            list.extend(bytes_of(&text));
            list.push(0);
        });
        list
    }
}

impl<const EVENT_TIME: bool> Subject for FadingLists<EVENT_TIME> {
    type Model = BTreeMap<String, Vec<(i64, String)>>;

    fn register(backend: &mut StateBackend, clock: &StateClock) -> Self {
        Self(backend.expiring_list("operator", "fading lists", Self::RULES.ttl(), clock).unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(long_list_key(key).as_str())
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let key = long_list_key(key);
        let hashed = context().hash(key.as_str());
        match seed % 8 {
            0 => self.read(&key),
            1 => le(u64::from(self.0.is_empty(&hashed))),
            _ => {
                self.0.push(&hashed, archived(&text(seed))).unwrap();
                Vec::new()
            }
        }
    }

    fn remove(&mut self, key: u16) {
        if key.is_multiple_of(100) {
            self.0.clear(&context().hash(long_list_key(key).as_str()));
        }
    }

    fn dump(&mut self, dump: &mut Dump) {
        for key in (0..5).map(long_list_key) {
            let list = self.read(&key);
            if !list.is_empty() {
                add(dump, key.into_bytes(), list);
            }
        }
    }

    fn model_put(model: &mut Self::Model, now: Now, key: u16, seed: u16) -> Vec<u8> {
        let list = model.entry(long_list_key(key)).or_default();
        list.retain(|&(stamp, _)| Self::RULES.is_alive(stamp, now));
        match seed % 8 {
            0 => {
                list.iter_mut().for_each(|(stamp, _)| Self::RULES.read(now, stamp));
                list.iter().flat_map(|(_, text)| [text.as_bytes(), &[0]].concat()).collect()
            }
            1 => {
                // Looking whether there is an element uses the first one.
                list.iter_mut().take(1).for_each(|(stamp, _)| Self::RULES.read(now, stamp));
                le(u64::from(list.is_empty()))
            }
            _ => {
                list.push((Self::RULES.stamp(now), text(seed)));
                Vec::new()
            }
        }
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        if key.is_multiple_of(100) {
            model.remove(&long_list_key(key));
        }
    }

    fn model_dump(model: &Self::Model, now: Now) -> Dump {
        let mut dump = Dump::new();
        for (key, list) in model {
            let alive = list.iter().filter(|(stamp, _)| Self::RULES.is_alive(*stamp, now));
            let bytes: Vec<u8> = alive.flat_map(|(_, text)| [text.as_bytes(), &[0]].concat()).collect();
            if !bytes.is_empty() {
                dump.insert(key.clone().into_bytes(), bytes);
            }
        }
        dump
    }
}

/// A map whose entries expire one by one, in the order of insertion.
struct FadingMaps<const EVENT_TIME: bool>(ExpiringMap<u64, str, ArchivedValue<String>>);

impl<const EVENT_TIME: bool> FadingMaps<EVENT_TIME> {
    const RULES: Rules = if EVENT_TIME { IN_EVENT_TIME } else { IN_PROCESSING_TIME };
}

impl<const EVENT_TIME: bool> Subject for FadingMaps<EVENT_TIME> {
    /// By key: what was inserted, in that order.
    type Model = BTreeMap<u64, Vec<(String, i64, String)>>;

    fn register(backend: &mut StateBackend, clock: &StateClock) -> Self {
        Self(backend.expiring_map("operator", "fading maps", Self::RULES.ttl(), clock).unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&large_map_place(key).0)
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let (key, map_key) = large_map_place(key);
        let hashed = context().hash(&key);
        match seed % 8 {
            0 | 1 => self.0.get(&hashed, &map_key).map_or_else(Vec::new, |text| bytes_of(&text)),
            2 => le(u64::from(self.0.contains(&hashed, &map_key))),
            3 => le(self.0.len(&hashed) as u64),
            4 if seed > 60_000 => {
                self.0.clear(&hashed);
                Vec::new()
            }
            _ => {
                self.0.put(&hashed, &map_key, &archived(&text(seed))).unwrap();
                Vec::new()
            }
        }
    }

    fn remove(&mut self, key: u16) {
        let (key, map_key) = large_map_place(key);
        self.0.remove(&context().hash(&key), &map_key);
    }

    fn dump(&mut self, dump: &mut Dump) {
        for key in 0..3u64 {
            let mut nth = 0u32;
            self.0.for_each(&context().hash(&key), |map_key, value| {
                let place = [&key.to_le_bytes()[..], &nth.to_be_bytes(), map_key].concat();
                add(dump, place, bytes_of(&value));
                nth += 1;
            });
        }
    }

    fn model_put(model: &mut Self::Model, now: Now, key: u16, seed: u16) -> Vec<u8> {
        let (key, map_key) = large_map_place(key);
        let map = model.entry(key).or_default();
        map.retain(|&(_, stamp, _)| Self::RULES.is_alive(stamp, now));
        let found = map.iter_mut().find(|entry| entry.0 == map_key);
        match (seed % 8, found) {
            (0 | 1, None) => Vec::new(),
            (0 | 1, Some((_, stamp, text))) => {
                Self::RULES.read(now, stamp);
                text.clone().into_bytes()
            }
            (2, found) => le(u64::from(found.is_some())),
            (3, _) => le(map.len() as u64),
            (4, _) if seed > 60_000 => {
                map.clear();
                Vec::new()
            }
            (_, Some((_, stamp, old))) => {
                (*stamp, *old) = (Self::RULES.write(now, Some((*stamp, ()))), text(seed));
                Vec::new()
            }
            (_, None) => {
                map.push((map_key, Self::RULES.stamp(now), text(seed)));
                Vec::new()
            }
        }
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        let (key, map_key) = large_map_place(key);
        model.entry(key).or_default().retain(|entry| entry.0 != map_key);
    }

    fn model_dump(model: &Self::Model, now: Now) -> Dump {
        let mut dump = Dump::new();
        for (key, map) in model {
            let alive = map.iter().filter(|(_, stamp, _)| Self::RULES.is_alive(*stamp, now));
            for (nth, (map_key, _, text)) in alive.enumerate() {
                let place = [&key.to_le_bytes()[..], &(nth as u32).to_be_bytes(), map_key.as_bytes()].concat();
                dump.insert(place, text.clone().into_bytes());
            }
        }
        dump
    }
}

/// An aggregate that expires.
struct FadingSums(AggregatingState<u64, u16, CountAndSum, ExpiringValue<u64, Both<u64, u64>>>);

impl FadingSums {
    const RULES: Rules = IN_EVENT_TIME;
}

impl Subject for FadingSums {
    type Model = BTreeMap<u64, (i64, (u64, u64))>;

    fn register(backend: &mut StateBackend, clock: &StateClock) -> Self {
        let ttl = Self::RULES.ttl();
        Self(backend.expiring_aggregating("operator", "fading sums", count_and_sum(), ttl, clock).unwrap())
    }

    fn group(key: u16) -> KeyGroup {
        group_of(&u64::from(key))
    }

    fn put(&mut self, key: u16, seed: u16) -> Vec<u8> {
        let key = u64::from(key);
        self.0.add(&context().hash(&key), &seed).unwrap();
        let (count, sum) = self.0.get(&context().hash(&key)).unwrap();
        [le(count), le(sum)].concat()
    }

    fn remove(&mut self, key: u16) {
        self.0.clear(&context().hash(&u64::from(key)));
    }

    fn dump(&mut self, dump: &mut Dump) {
        self.0.accumulators().for_each(|key, Both(count, sum)| add(dump, key.to_vec(), [le(count), le(sum)].concat()));
    }

    fn model_put(model: &mut Self::Model, now: Now, key: u16, seed: u16) -> Vec<u8> {
        let alive = model.get(&u64::from(key)).copied().filter(|&(stamp, _)| Self::RULES.is_alive(stamp, now));
        let (count, sum) = alive.map_or((0, 0), |(_, sums)| sums);
        let sums = (count + 1, sum + u64::from(seed));
        model.insert(u64::from(key), (Self::RULES.write(now, alive), sums));
        [le(sums.0), le(sums.1)].concat()
    }

    fn model_remove(model: &mut Self::Model, _: Now, key: u16) {
        model.remove(&u64::from(key));
    }

    fn model_dump(model: &Self::Model, now: Now) -> Dump {
        let alive = model.iter().filter(|(_, (stamp, _))| Self::RULES.is_alive(*stamp, now));
        alive.map(|(&key, &(_, (count, sum)))| (le(key), [le(count), le(sum)].concat())).collect()
    }
}

/// Eighteen states: 10,000 histories in all.
const CASES_PER_STATE: u32 = 560;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES_PER_STATE, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn narrow_values_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Narrow>(&steps);
    }

    #[test]
    fn wide_values_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Wide>(&steps);
    }

    #[test]
    fn texts_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Texts>(&steps);
    }

    #[test]
    fn lists_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Lists>(&steps);
    }

    #[test]
    fn lists_of_texts_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<TextLists>(&steps);
    }

    #[test]
    fn maps_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Maps>(&steps);
    }

    #[test]
    fn reduced_values_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Reducing>(&steps);
    }

    #[test]
    fn aggregates_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Aggregating>(&steps);
    }

    #[test]
    fn values_of_namespaces_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Namespaces>(&steps);
    }

    #[test]
    fn sums_added_to_unread_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Sums>(&steps);
    }

    #[test]
    fn text_sums_added_to_unread_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<TextSums>(&steps);
    }

    #[test]
    fn timers_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Clocks>(&steps);
    }

    #[test]
    fn waiting_records_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Waiting>(&steps);
    }

    #[test]
    fn expiring_values_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<Fading>(&steps);
    }

    #[test]
    fn expiring_texts_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<FadingTexts>(&steps);
    }

    #[test]
    fn expiring_lists_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<FadingLists<false>>(&steps);
    }

    #[test]
    fn lists_expiring_in_event_time_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<FadingLists<true>>(&steps);
    }

    #[test]
    fn expiring_maps_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<FadingMaps<false>>(&steps);
    }

    #[test]
    fn maps_expiring_in_event_time_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<FadingMaps<true>>(&steps);
    }

    #[test]
    fn expiring_aggregates_are_what_the_model_says_through_snapshots_and_crashes(steps in steps()) {
        check::<FadingSums>(&steps);
    }
}

fn states_of_one_table() -> (StateBackend, ValueState<u64, u64>) {
    let mut backend = backend(KeyGroupRange { start: 0, end: GROUPS });
    let state = backend.value("operator", "narrow").unwrap();
    (backend, state)
}

fn changed(old: Option<u64>, seed: u8) -> Option<u64> {
    (!seed.is_multiple_of(8)).then(|| old.unwrap_or(1).wrapping_mul(31).wrapping_add(u64::from(seed)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Keys repeat, come and go within a batch, and the first pages of the key groups grow and split under it.
    #[test]
    fn a_batch_changes_what_single_updates_in_its_order_change(
        key_count in prop_oneof![1..20u64, 300..1200u64, 3000..6000u64],
        updates in prop::collection::vec((any::<u64>(), any::<u8>()), 1..5000),
        batch_len in 1..70usize,
    ) {
        let updates: Vec<(u64, u8)> = updates.into_iter().map(|(key, seed)| (key % key_count, seed)).collect();
        let ((_alone, single), (mut backend, batched)) = (states_of_one_table(), states_of_one_table());
        for (index, batch) in updates.chunks(batch_len).enumerate() {
            for (key, seed) in batch {
                single.update(&context().hash(key), |old| changed(old, *seed)).unwrap();
            }
            let keys = batch.iter().map(|(key, _)| context().hash(key));
            batched.update_batch(keys, |index, old| changed(old, batch[index].1)).unwrap();
            if index % 20 == 0 {
                if backend.is_harvesting() {
                    backend.harvest(usize::MAX, &mut |_| Ok(())).unwrap();
                }
                backend.barrier(CheckpointId(index as u64 + 1));
            }
        }
        let dump = |state: &ValueState<u64, u64>| {
            let mut dump = BTreeMap::new();
            state.for_each(|key, value| assert!(dump.insert(key.to_vec(), value).is_none()));
            dump
        };
        prop_assert_eq!(dump(&single), dump(&batched));
    }
}

#[test]
fn a_change_after_the_first_snapshot_is_written_as_a_delta_of_its_page_alone() {
    let mut run = Run::<Narrow>::new();
    run.step(&Step::PutMany { from: 0, count: 6000, seed: 1 });
    run.barrier(true);
    run.step(&Step::Put { key: 3, seed: 1 });
    run.harvest(usize::MAX, false);
    let pages: BTreeSet<PageKey> = run.pieces.iter().map(|piece| piece.0).collect();
    assert!(pages.len() >= 8);
    let before = run.pieces.len();
    run.barrier(true);
    run.step(&Step::PutMany { from: 6000, count: 6000, seed: 1 });
    run.harvest(usize::MAX, false);
    let since: Vec<PieceKind> = run.pieces[before..].iter().map(|piece| piece.1).collect();
    assert_eq!(since, [PieceKind::Delta]);
}
