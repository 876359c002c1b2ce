//! The `Io` of a simulated slot: operations complete after a random number of `drive` calls, in random order.
//!
//! Here: when an operation takes effect. Not here: what it does (`sim_disk`).
//!
//! An operation takes effect in the `drive` call in which it completes. Waiting is virtual: it drives once and returns.

use super::completions::Completions;
use super::open_files::OpenFiles;
use super::sim_disk::{Ran, SimDisk, SimHandle};
use super::{FileId, Io, IoError, IoOp, IoOutput, IoToken};
use crate::sim::Rng;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// An `Io` over a simulated disk, for one simulated slot.
#[derive(Debug)]
pub struct SimIo {
    disk: SimDisk,
    state: Rc<RefCell<IoState>>,
    completions: Completions,
    rng: Rng,
    drives: u64,
}

/// What a crash of the disk reaches.
#[derive(Debug, Default)]
pub(super) struct IoState {
    pub(super) files: OpenFiles<SimHandle>,
    under_way: Vec<UnderWay>,
    interrupted: Vec<IoOp>,
    lost: Vec<(IoToken, IoError)>,
    dead: bool,
}

#[derive(Debug)]
struct UnderWay {
    token: IoToken,
    op: IoOp,
    due_at_drive: u64,
}

impl SimIo {
    /// An `Io` of the machine that has `disk`.
    pub fn new(disk: &SimDisk) -> Self {
        let state = Rc::default();
        let rng = disk.register(&state);
        Self { disk: disk.clone(), state, completions: Completions::default(), rng, drives: 0 }
    }

    fn due(&mut self) -> u64 {
        self.drives + 1 + self.rng.below(self.disk.latency_drives_max().max(1))
    }

    /// One of the operations that are due, any of them.
    fn next_due(&mut self) -> Option<UnderWay> {
        if self.disk.is_halted() {
            self.collect_lost();
            return None;
        }
        let drives = self.drives;
        let mut state = self.state.borrow_mut();
        let due = |under_way: &&mut UnderWay| under_way.due_at_drive <= drives;
        let count = state.under_way.iter_mut().filter(due).count();
        if count == 0 {
            return None;
        }
        let chosen = self.rng.index(count);
        let position =
            (0..state.under_way.len()).filter(|at| state.under_way[*at].due_at_drive <= drives).nth(chosen)?;
        Some(state.under_way.remove(position))
    }

    fn finish(&mut self, token: IoToken, result: Result<IoOutput, IoError>) {
        if let Some(orphan) = self.completions.finish(token, result) {
            self.close_forgotten(orphan);
        }
    }

    fn close_forgotten(&self, file: FileId) {
        // Gone already after a crash.
        let _ = self.state.borrow_mut().files.remove(file, "close");
    }

    fn collect_lost(&mut self) {
        if self.disk.is_halted() {
            self.state.borrow_mut().stop();
        }
        let lost = std::mem::take(&mut self.state.borrow_mut().lost);
        for (token, error) in lost {
            self.finish(token, Err(error));
        }
    }
}

impl IoState {
    /// The machine stops: what is under way fails, and is kept for the crash to decide about.
    fn stop(&mut self) {
        self.dead = true;
        for under_way in self.under_way.drain(..) {
            self.lost.push((under_way.token, power_failed(under_way.op.action())));
            self.interrupted.push(under_way.op);
        }
    }

    /// The machine has stopped. Gives the operations that were under way then, in any order.
    pub(super) fn die(&mut self, rng: &mut Rng) -> Vec<IoOp> {
        self.stop();
        let mut ops = std::mem::take(&mut self.interrupted);
        for unplaced in (2..=ops.len()).rev() {
            ops.swap(unplaced - 1, rng.index(unplaced));
        }
        ops
    }
}

fn power_failed(action: &'static str) -> IoError {
    let error = std::io::Error::new(std::io::ErrorKind::NotConnected, "the power of the simulated machine failed");
    IoError::new(action, "", &error)
}

impl Io for SimIo {
    fn submit(&mut self, op: IoOp) -> IoToken {
        let token = self.completions.begin();
        if self.state.borrow().dead || self.disk.is_halted() {
            self.finish(token, Err(power_failed(op.action())));
        } else {
            let due_at_drive = self.due();
            self.state.borrow_mut().under_way.push(UnderWay { token, op, due_at_drive });
        }
        token
    }

    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        self.completions.take(token)
    }

    fn forget(&mut self, token: IoToken) {
        if let Some(file) = self.completions.forget(token) {
            self.close_forgotten(file);
        }
    }

    fn in_flight(&self) -> usize {
        self.completions.under_way()
    }

    fn drive(&mut self) {
        self.drives += 1;
        self.collect_lost();
        while let Some(UnderWay { token, op, .. }) = self.next_due() {
            let ran = self.disk.run(op, &mut self.state.borrow_mut().files);
            match ran {
                Ran::Ended(result) => self.finish(token, result),
                Ran::Later(op) => {
                    let due_at_drive = self.due();
                    self.state.borrow_mut().under_way.push(UnderWay { token, op, due_at_drive });
                }
            }
        }
    }

    fn wait(&mut self, _at_most: Duration) {
        if !self.completions.has_unreported() {
            self.drive();
        }
        self.completions.mark_reported();
    }
}
