//! The doorbells of all slots that ever looked at a queue: the host's threads ring them all.

use super::Doorbell;
use std::sync::{Arc, OnceLock};

/// A list that only grows, so it is rung without a lock. Ringing the bell of an ended slot does no harm.
#[derive(Default)]
pub(crate) struct Doorbells {
    first: OnceLock<Box<Node>>,
}

struct Node {
    bell: Arc<Doorbell>,
    next: OnceLock<Box<Node>>,
}

impl Doorbells {
    /// Adds a bell that is not there yet.
    pub(crate) fn add(&self, bell: &Arc<Doorbell>) {
        let mut place = &self.first;
        loop {
            let node = place.get_or_init(|| Box::new(Node { bell: bell.clone(), next: OnceLock::new() }));
            if Arc::ptr_eq(&node.bell, bell) {
                return;
            }
            place = &node.next;
        }
    }

    /// Rings all.
    #[inline]
    pub(crate) fn ring(&self) {
        let mut node = self.first.get();
        while let Some(Node { bell, next }) = node.map(|node| &**node) {
            bell.ring();
            node = next.get();
        }
    }
}
