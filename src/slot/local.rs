//! What the tasks of a slot offer to other code on the slot's own thread: calls without a queue.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

/// Services by number; a few at most. Clones share it.
#[derive(Clone, Default)]
pub struct LocalServices(Rc<RefCell<Vec<(usize, Box<dyn Any>)>>>);

impl LocalServices {
    /// Offers a service under a number of its own, in the place of the one that had it.
    pub(crate) fn offer(&self, id: usize, service: Box<dyn Any>) {
        self.withdraw(id);
        self.0.borrow_mut().push((id, service));
    }

    /// Takes an offer back.
    pub(crate) fn withdraw(&self, id: usize) {
        self.0.borrow_mut().retain(|(offered, _)| *offered != id);
    }

    /// What is offered under a number, if it is a `T`.
    #[inline]
    pub(crate) fn find<T: Clone + 'static>(&self, id: usize) -> Option<T> {
        let services = self.0.borrow();
        services.iter().find(|(offered, _)| *offered == id)?.1.downcast_ref::<T>().cloned()
    }
}
