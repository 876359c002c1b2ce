//! A call is answered once or given up, and both sides agree which.
//!
//! Planted and found: a waker left behind WAITING, an answer that `wait_with` does not look at (deadlocks); an ABANDONED that `take` does not
//! look at (an effect of a call whose caller was told that it has none). Planted and harmless: ANSWERED set or read without its ordering:
//! the reply lies in a mutex, which orders it as well.

use loom::sync::Arc;
use millstream_models::call::{Caller, Effect};
use millstream_models::{Traced, in_every_order};

#[test]
fn a_caller_that_sleeps_is_woken_and_sees_the_whole_reply_call_after_call() {
    in_every_order("two calls through one slot", None, || {
        let caller = Caller::default();
        for _ in 0..2 {
            let job = caller.issue();
            let answering = loom::thread::spawn(move || {
                assert!(job.take());
                let reply = Arc::new(Traced::default());
                reply.write();
                job.answer(reply);
            });
            caller.wait().unwrap().read();
            answering.join().unwrap();
        }
    });
}

#[test]
fn a_call_given_up_has_an_effect_only_if_its_caller_was_told_that_it_may() {
    in_every_order("a call is given up", None, || {
        let caller = Caller::default();
        let job = caller.issue();
        let answering = loom::thread::spawn(move || {
            let has_effect = job.take();
            if has_effect {
                job.answer(7);
            }
            has_effect
        });
        let told = caller.abandon();
        let has_effect = answering.join().unwrap();
        match told {
            Ok(Effect::None) => assert!(!has_effect),
            Ok(Effect::Possible) => assert!(has_effect),
            Err(result) => assert!(has_effect && result == Ok(7)),
        }
        assert!(caller.take_result().is_none_or(|_| !has_effect), "a reply nobody reads is kept for ever");
    });
}

#[test]
fn a_ticket_that_is_dropped_wakes_its_caller() {
    in_every_order("a ticket is dropped", None, || {
        let caller: Caller<u64> = Caller::default();
        let job = caller.issue();
        let dropping = loom::thread::spawn(move || drop(job));
        assert!(caller.wait().is_err());
        dropping.join().unwrap();
    });
}
