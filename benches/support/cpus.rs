//! Two pinned threads, the stage of every probe between cores.

use millstream::slot::{AllowedCpus, pin_current_thread};
use std::sync::Barrier;

/// Runs `a` on this thread's first allowed CPU and `b` on the second; both begin together. With one CPU they share it, unpinned, and
/// the figures mean little: a warning says so.
pub fn on_two_cores<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    let cpus = AllowedCpus::of_process().for_slots(2);
    if cpus.contains(&None) {
        eprintln!("warning: two threads share one CPU here, figures between cores are meaningless");
    }
    let start = Barrier::new(2);
    let pinned = |cpu: Option<usize>| {
        cpu.map(|cpu| pin_current_thread("bench", cpu));
        start.wait();
    };
    std::thread::scope(|scope| {
        let a = scope.spawn(|| {
            pinned(cpus[0]);
            a()
        });
        let b = scope.spawn(|| {
            pinned(cpus[1]);
            b()
        });
        (a.join().expect("a bench thread does not panic"), b.join().expect("a bench thread does not panic"))
    })
}
