//! A bounded queue for any number of threads, as weak as one can be that says full and empty truly: an element's writer is ordered before
//! its reader by the element's turn alone. No fence helps the protocols that stand on it, unlike in crossbeam's.

use crate::Traced;
use loom::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// As `crossbeam_queue::ArrayQueue`.
pub struct ArrayQueue<T> {
    head: AtomicUsize,
    tail: AtomicUsize,
    places: Box<[Place<T>]>,
}

struct Place<T> {
    /// Twice the lap, and one more while the place is taken.
    turn: AtomicUsize,
    /// Never contended: the turn says whose it is, and loom runs one thread at a time.
    value: Mutex<Option<T>>,
    traced: Traced,
}

impl<T> ArrayQueue<T> {
    /// With room for `capacity`.
    pub fn new(capacity: usize) -> Self {
        let place = |_| Place { turn: AtomicUsize::new(0), value: Mutex::new(None), traced: Traced::default() };
        Self { head: AtomicUsize::new(0), tail: AtomicUsize::new(0), places: (0..capacity).map(place).collect() }
    }

    /// Puts a value behind the others, or gives it back.
    pub fn push(&self, value: T) -> Result<(), T> {
        let mut tail = self.tail.load(Ordering::Relaxed);
        loop {
            let (place, free) = self.place(tail);
            let turn = place.turn.load(Ordering::Acquire);
            if turn < free {
                if now(&self.head) + self.capacity() == tail {
                    return Err(value);
                }
                // Somebody is taking what lies here.
                loom::thread::yield_now();
                continue;
            }
            tail = match turn == free {
                true => match self.tail.compare_exchange(tail, tail + 1, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => {
                        place.traced.write();
                        *place.value.lock().expect("no holder panics") = Some(value);
                        place.turn.store(free + 1, Ordering::Release);
                        return Ok(());
                    }
                    Err(other) => other,
                },
                false => now(&self.tail),
            };
        }
    }

    /// Takes the first value.
    pub fn pop(&self) -> Option<T> {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let (place, free) = self.place(head);
            let turn = place.turn.load(Ordering::Acquire);
            if turn <= free {
                if now(&self.tail) == head {
                    return None;
                }
                // Somebody is putting something here.
                loom::thread::yield_now();
                continue;
            }
            head = match turn == free + 1 {
                true => match self.head.compare_exchange(head, head + 1, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => {
                        place.traced.write();
                        let value = place.value.lock().expect("no holder panics").take();
                        place.turn.store(free + 2, Ordering::Release);
                        return value;
                    }
                    Err(other) => other,
                },
                false => now(&self.head),
            };
        }
    }

    /// How many there are, at some moment.
    pub fn len(&self) -> usize {
        let (head, tail) = (self.head.load(Ordering::Acquire), self.tail.load(Ordering::Acquire));
        tail.saturating_sub(head).min(self.capacity())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there may be.
    pub fn capacity(&self) -> usize {
        self.places.len()
    }

    fn place(&self, index: usize) -> (&Place<T>, usize) {
        (&self.places[index % self.places.len()], index / self.places.len() * 2)
    }
}

/// Where an end is: a read-modify-write is not shown anything old, and orders nothing.
fn now(end: &AtomicUsize) -> usize {
    end.fetch_add(0, Ordering::Relaxed)
}

impl<T> std::fmt::Debug for ArrayQueue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ArrayQueue")
    }
}
