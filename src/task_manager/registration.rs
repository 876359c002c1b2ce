//! When to (try to) register with the JobManager, and when to give it up.
//!
//! Semantics: Flink RetryingRegistration and the heartbeat manager: the first answer is awaited for 100 ms, then twice as long each
//! time up to 30 s; 10 s pause after an error, 30 s after a refusal; after 5 min without a JobManager the TaskManager gives up.
//! Registered, it sends a heartbeat every 10 s and takes the JobManager for lost when none was answered for 50 s.

const NS_PER_MS: u64 = 1_000_000;
const FIRST_TIMEOUT_NS: u64 = 100 * NS_PER_MS;
const TIMEOUT_NS_MAX: u64 = 30_000 * NS_PER_MS;
const PAUSE_AFTER_ERROR_NS: u64 = 10_000 * NS_PER_MS;
const PAUSE_AFTER_REFUSAL_NS: u64 = 30_000 * NS_PER_MS;
const GIVE_UP_AFTER_NS: u64 = 300_000 * NS_PER_MS;
const HEARTBEAT_NS: u64 = 10_000 * NS_PER_MS;
const HEARTBEAT_TIMEOUT_NS: u64 = 50_000 * NS_PER_MS;

/// The TaskManager's relation to the JobManager.
#[derive(Clone, Debug)]
pub struct Registration {
    state: State,
    /// Since when there is no JobManager.
    alone_since_ns: u64,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationStep {
    /// Nothing.
    Wait,
    /// Send a registration.
    Register,
    /// Send a heartbeat.
    Heartbeat,
    /// The JobManager is lost: stop all tasks. Registration begins anew.
    Lost,
    /// There has been no JobManager for too long: end. Told once.
    GiveUp,
}

#[derive(Clone, Debug)]
enum State {
    /// Asks at this time, and then waits so long for the answer.
    Pausing { until_ns: u64, timeout_ns: u64 },
    /// Asked, and waits for the answer until then.
    Asking { until_ns: u64, timeout_ns: u64 },
    /// Belongs to a JobManager.
    Registered { heard_ns: u64, next_heartbeat_ns: u64 },
    /// Tries no more.
    GivenUp,
}

impl Registration {
    /// Not registered; the first step registers.
    pub fn new(now_ns: u64) -> Self {
        Self { state: State::Pausing { until_ns: now_ns, timeout_ns: FIRST_TIMEOUT_NS }, alone_since_ns: now_ns }
    }

    /// Does what is due, at most one thing: call it until it says `Wait`.
    pub fn step(&mut self, now_ns: u64) -> RegistrationStep {
        match &mut self.state {
            State::Pausing { .. } | State::Asking { .. }
                if now_ns >= self.alone_since_ns.saturating_add(GIVE_UP_AFTER_NS) =>
            {
                self.state = State::GivenUp;
                RegistrationStep::GiveUp
            }
            State::Pausing { until_ns, timeout_ns } if now_ns >= *until_ns => {
                let timeout_ns = *timeout_ns;
                self.state = State::Asking { until_ns: now_ns.saturating_add(timeout_ns), timeout_ns };
                RegistrationStep::Register
            }
            State::Asking { until_ns, timeout_ns } if now_ns >= *until_ns => {
                let timeout_ns = (*timeout_ns * 2).min(TIMEOUT_NS_MAX);
                self.state = State::Asking { until_ns: now_ns.saturating_add(timeout_ns), timeout_ns };
                RegistrationStep::Register
            }
            State::Registered { heard_ns, .. } if now_ns.saturating_sub(*heard_ns) > HEARTBEAT_TIMEOUT_NS => {
                *self = Self::new(now_ns);
                RegistrationStep::Lost
            }
            State::Registered { next_heartbeat_ns, .. } if now_ns >= *next_heartbeat_ns => {
                *next_heartbeat_ns = now_ns.saturating_add(HEARTBEAT_NS);
                RegistrationStep::Heartbeat
            }
            _ => RegistrationStep::Wait,
        }
    }

    /// The JobManager accepted.
    pub fn on_accepted(&mut self, now_ns: u64) {
        if let State::Asking { .. } = self.state {
            let next_heartbeat_ns = now_ns.saturating_add(HEARTBEAT_NS);
            self.state = State::Registered { heard_ns: now_ns, next_heartbeat_ns };
        }
    }

    /// The JobManager refused. A registered TaskManager is lost to it (it was given up there) and registers again at once: true then.
    pub fn on_refused(&mut self, now_ns: u64) -> bool {
        let was_registered = self.is_registered();
        match self.state {
            State::Registered { .. } => *self = Self::new(now_ns),
            State::GivenUp => {}
            _ => self.pause(now_ns, PAUSE_AFTER_REFUSAL_NS),
        }
        was_registered
    }

    /// The registration could not be sent.
    pub fn on_error(&mut self, now_ns: u64) {
        if let State::Asking { .. } = self.state {
            self.pause(now_ns, PAUSE_AFTER_ERROR_NS);
        }
    }

    /// A heartbeat was answered.
    pub fn on_heartbeat_ack(&mut self, now_ns: u64) {
        if let State::Registered { heard_ns, .. } = &mut self.state {
            *heard_ns = now_ns;
        }
    }

    /// Whether there is a JobManager.
    pub fn is_registered(&self) -> bool {
        matches!(self.state, State::Registered { .. })
    }

    /// When `step` has something to do next; `None` when it has given up.
    pub fn next_wake_ns(&self) -> Option<u64> {
        let give_up_ns = self.alone_since_ns.saturating_add(GIVE_UP_AFTER_NS);
        match self.state {
            State::Pausing { until_ns, .. } | State::Asking { until_ns, .. } => Some(until_ns.min(give_up_ns)),
            State::Registered { heard_ns, next_heartbeat_ns } => {
                Some(next_heartbeat_ns.min(heard_ns.saturating_add(HEARTBEAT_TIMEOUT_NS).saturating_add(1)))
            }
            State::GivenUp => None,
        }
    }

    fn pause(&mut self, now_ns: u64, pause_ns: u64) {
        self.state = State::Pausing { until_ns: now_ns.saturating_add(pause_ns), timeout_ns: FIRST_TIMEOUT_NS };
    }
}

#[cfg(test)]
mod tests {
    use super::RegistrationStep::*;
    use super::*;

    const S: u64 = 1_000 * NS_PER_MS;

    fn registered() -> Registration {
        let mut registration = Registration::new(0);
        assert_eq!(registration.step(0), Register);
        registration.on_accepted(0);
        registration
    }

    #[test]
    fn unanswered_registrations_are_repeated_after_twice_as_long_each_time() {
        let mut registration = Registration::new(0);
        let mut asked_ms = Vec::new();
        while let Some(now_ns) = registration.next_wake_ns().filter(|_| asked_ms.len() < 12) {
            if registration.step(now_ns) == Register {
                asked_ms.push(now_ns / NS_PER_MS);
            }
        }
        assert_eq!(asked_ms, [0, 100, 300, 700, 1_500, 3_100, 6_300, 12_700, 25_500, 51_100, 81_100, 111_100]);
    }

    #[test]
    fn after_five_minutes_alone_it_gives_up_once() {
        let mut registration = Registration::new(0);
        assert_eq!(registration.step(300 * S), GiveUp);
        assert_eq!(registration.step(301 * S), Wait);
        assert_eq!(registration.next_wake_ns(), None);
        assert!(!registration.on_refused(301 * S));
        assert_eq!(registration.next_wake_ns(), None);
    }

    #[test]
    fn a_refusal_pauses_thirty_seconds_and_an_error_ten() {
        let mut refused = Registration::new(0);
        refused.step(0);
        assert!(!refused.on_refused(0));
        assert_eq!(refused.step(30 * S - 1), Wait);
        assert_eq!(refused.step(30 * S), Register);
        refused.on_error(30 * S);
        assert_eq!(refused.step(40 * S - 1), Wait);
        assert_eq!(refused.step(40 * S), Register);
    }

    #[test]
    fn a_registered_one_sends_a_heartbeat_every_ten_seconds() {
        let mut registration = registered();
        assert!(registration.is_registered());
        assert_eq!(registration.step(10 * S - 1), Wait);
        assert_eq!(registration.step(10 * S), Heartbeat);
        assert_eq!(registration.step(10 * S), Wait);
        assert_eq!(registration.next_wake_ns(), Some(20 * S));
    }

    #[test]
    fn unanswered_heartbeats_lose_the_job_manager_after_more_than_fifty_seconds() {
        let mut registration = registered();
        registration.on_heartbeat_ack(5 * S);
        for beat in 1..=5 {
            assert_eq!(registration.step(beat * 10 * S), Heartbeat);
        }
        assert_eq!(registration.step(55 * S), Wait);
        assert_eq!(registration.step(55 * S + 1), Lost);
        assert_eq!(registration.step(55 * S + 1), Register);
    }

    #[test]
    fn a_registered_one_that_is_refused_registers_again_at_once() {
        let mut registration = registered();
        assert!(registration.on_refused(7 * S));
        assert_eq!(registration.step(7 * S), Register);
    }

    #[test]
    fn an_answer_nobody_waits_for_changes_nothing() {
        let mut registration = Registration::new(0);
        registration.on_accepted(0);
        registration.on_error(0);
        registration.on_heartbeat_ack(0);
        assert!(!registration.is_registered());
        assert_eq!(registration.step(0), Register);
    }
}
