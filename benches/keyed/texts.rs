//! The same with strings of 16 to 32 bytes as keys and values of 64 archived bytes, against a table of owned strings.

use super::{BATCH, median, rate};
use crate::support::{Bench, Figure};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::rkyv::{Archive, Deserialize, Serialize};
use millstream::state::{ArchivedValue, KeyGroupRange, StateBackend};

/// 64 bytes as an archive: two numbers, the head of a string, and its text.
#[derive(Archive, Serialize, Deserialize, Clone, millstream::Schema)]
struct Customer {
    orders: u64,
    cents: u64,
    address: String,
}

/// Updates of `keys` keys, uniform.
pub fn measure(bench: &mut Bench, keys: usize, updates: usize, runs: usize) {
    let names: Vec<String> = (0..keys).map(name).collect();
    let first = Customer { orders: 0, cents: 0, address: "4 Long Street, 12345 Some Town, Country!".to_owned() };
    let arena = Arena::new(MemoryBudget::new(8 << 30), ArenaOptions::default());
    let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 128 }, 128, arena);
    let state = backend.value::<str, ArchivedValue<Customer>>("bench", "customers").expect("the first state");
    let context = backend.key_context();
    let mut peer: HashMap<String, Customer, FixedState> = HashMap::default();
    let archived = ArchivedValue::new(&first).expect("a customer can be archived");
    for name in &names {
        peer.insert(name.clone(), first.clone());
        state.put(&context.hash(name.as_str()), &archived).expect("the budget is large");
    }
    let mut random = 1u64;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        let stream: Vec<u64> = (0..updates)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((u128::from(random) * keys as u128) >> 64) as u64
            })
            .collect();
        rates[0].push(rate(&stream, |batch| {
            for &key in batch {
                let customer = peer.get_mut(names[key as usize].as_str()).expect("all names are known");
                customer.orders += 1;
                customer.cents += key;
            }
        }));
        rates[1].push(rate(&stream, |batch| {
            let names = batch.iter().map(|&key| context.hash(names[key as usize].as_str()));
            let updated = state.update_batch(names, |index, old| {
                let old = old?;
                let old = old.get().ok()?;
                let (orders, cents) = (old.orders.to_native() + 1, old.cents.to_native() + batch[index]);
                ArchivedValue::new(&Customer { orders, cents, address: old.address.as_str().to_owned() }).ok()
            });
            updated.expect("no new key");
        }));
    }
    let [peer_rate, rate] = rates.map(median);
    assert_eq!(backend.live_entries(), keys, "no value was lost");
    bench.figure(Figure {
        kernel: Some(peer_rate),
        goal: Some(1.0),
        ..Figure::new(format!("texts, {keys} keys, in batches of {BATCH}"), "rate", rate, "M/s")
    });
    bench.figure(Figure::new(
        "texts: key, value and all else",
        "pages",
        backend.page_bytes() as f64 / keys as f64,
        "B/key",
    ));
}

/// 16 to 32 bytes.
fn name(index: usize) -> String {
    let number = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{number:016x}{:.*}", index % 17, "customer-of-shop")
}
