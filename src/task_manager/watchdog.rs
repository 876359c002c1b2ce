//! Notices slots that stand still: an endless loop, a blocked call or a deadlock in user code shows as missing progress.
//!
//! The slot only counts its steps and says what it works on; a thread of its own samples that every 50 ms or so and feeds it here. A slot
//! that waits for input is not busy and never stalls. One stall is reported once, with its end.

/// The eye on all slots of a TaskManager.
#[derive(Debug)]
pub struct Watchdog {
    stall_after_ns: u64,
    slots: Vec<Seen>,
}

/// What one look at a slot shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSample<'a> {
    /// Which slot.
    pub slot: u32,
    /// How many steps it has completed; any change is progress.
    pub progress: u64,
    /// What it is in the middle of; `None` when it waits for something to do.
    pub working_on: Option<SlotWork<&'a str>>,
}

/// Whose code a slot is executing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotWork<Name = String> {
    /// The job.
    pub job: Name,
    /// The vertex (operator chain).
    pub vertex: Name,
    /// The operator.
    pub operator: Name,
}

/// What the watchdog has to say; made to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotReport {
    /// No progress for too long.
    Stalled {
        /// Which slot.
        slot: u32,
        /// In whose code.
        work: SlotWork,
        /// For how long it has been seen without progress.
        stalled_ns: u64,
    },
    /// The slot reported before goes on.
    Recovered {
        /// Which slot.
        slot: u32,
        /// In whose code it stood.
        work: SlotWork,
        /// For how long in all.
        stalled_ns: u64,
    },
}

#[derive(Clone, Debug)]
struct Seen {
    progress: u64,
    since_ns: u64,
    stall: Option<SlotWork>,
}

impl Watchdog {
    /// Watches `slot_count` slots; reports those without progress for `stall_after_ns` (1 s unless somebody knows better).
    pub fn new(slot_count: usize, stall_after_ns: u64, now_ns: u64) -> Self {
        let seen = Seen { progress: 0, since_ns: now_ns, stall: None };
        Self { stall_after_ns, slots: vec![seen; slot_count] }
    }

    /// Looks at one slot.
    pub fn observe(&mut self, sample: SlotSample<'_>, now_ns: u64) -> Option<SlotReport> {
        let seen = &mut self.slots[sample.slot as usize];
        let stalled_ns = now_ns.saturating_sub(seen.since_ns);
        let stuck_in = sample.working_on.filter(|_| sample.progress == seen.progress);
        let Some(work) = stuck_in else {
            (seen.progress, seen.since_ns) = (sample.progress, now_ns);
            return seen.stall.take().map(|work| SlotReport::Recovered { slot: sample.slot, work, stalled_ns });
        };
        if stalled_ns < self.stall_after_ns || seen.stall.is_some() {
            return None;
        }
        let work = SlotWork { job: work.job.into(), vertex: work.vertex.into(), operator: work.operator.into() };
        seen.stall = Some(work.clone());
        Some(SlotReport::Stalled { slot: sample.slot, work, stalled_ns })
    }
}

impl std::fmt::Display for SlotReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Stalled { slot, work, stalled_ns } | Self::Recovered { slot, work, stalled_ns }) = self;
        let SlotWork { job, vertex, operator } = work;
        let ms = stalled_ns / 1_000_000;
        match self {
            Self::Stalled { .. } => write!(
                f,
                "slot {slot} has made no progress for {ms} ms in operator \"{operator}\" ({vertex}) of job \"{job}\": it loops or blocks"
            ),
            Self::Recovered { .. } => write!(
                f,
                "slot {slot} goes on after {ms} ms without progress in operator \"{operator}\" ({vertex}) of job \"{job}\""
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn watchdog() -> Watchdog {
        Watchdog::new(2, 1_000 * MS, 0)
    }

    fn busy(slot: u32, progress: u64) -> SlotSample<'static> {
        let work = SlotWork { job: "monitor", vertex: "windows", operator: "aggregate" };
        SlotSample { slot, progress, working_on: Some(work) }
    }

    fn waiting(slot: u32, progress: u64) -> SlotSample<'static> {
        SlotSample { slot, progress, working_on: None }
    }

    #[test]
    fn a_busy_slot_without_progress_is_reported_once_by_job_slot_and_operator() {
        let mut watchdog = watchdog();
        assert_eq!(watchdog.observe(busy(1, 7), 50 * MS), None);
        assert_eq!(watchdog.observe(busy(1, 7), 1_049 * MS), None);
        let report = watchdog.observe(busy(1, 7), 1_050 * MS).unwrap();
        assert_eq!(
            report.to_string(),
            "slot 1 has made no progress for 1000 ms in operator \"aggregate\" (windows) of job \"monitor\": it loops or blocks"
        );
        assert_eq!(watchdog.observe(busy(1, 7), 9_000 * MS), None);
    }

    #[test]
    fn a_slot_that_goes_on_is_reported_with_the_whole_length_of_its_stall() {
        let mut watchdog = watchdog();
        watchdog.observe(busy(0, 7), 0);
        watchdog.observe(busy(0, 7), 1_000 * MS);
        let report = watchdog.observe(busy(0, 8), 3_000 * MS).unwrap();
        assert!(matches!(report, SlotReport::Recovered { slot: 0, stalled_ns, .. } if stalled_ns == 3_000 * MS));
        assert!(report.to_string().starts_with("slot 0 goes on after 3000 ms"));
        assert_eq!(watchdog.observe(busy(0, 9), 3_050 * MS), None);
    }

    #[test]
    fn a_second_stall_is_reported_again() {
        let mut watchdog = watchdog();
        watchdog.observe(busy(0, 7), 0);
        assert!(watchdog.observe(busy(0, 7), 1_000 * MS).is_some());
        assert!(watchdog.observe(busy(0, 8), 1_100 * MS).is_some());
        assert!(watchdog.observe(busy(0, 8), 2_100 * MS).is_some());
    }

    #[test]
    fn a_slot_that_makes_progress_is_never_reported() {
        let mut watchdog = watchdog();
        assert!((0..100).all(|step| watchdog.observe(busy(0, step), step * 900 * MS).is_none()));
    }

    #[test]
    fn a_slot_that_waits_for_input_never_stalls_and_its_waiting_does_not_count() {
        let mut watchdog = watchdog();
        assert_eq!(watchdog.observe(waiting(0, 7), 50_000 * MS), None);
        assert_eq!(watchdog.observe(waiting(0, 7), 90_000 * MS), None);
        assert_eq!(watchdog.observe(busy(0, 7), 90_500 * MS), None, "busy for half a second at most");
    }

    #[test]
    fn slots_are_watched_one_by_one() {
        let mut watchdog = watchdog();
        watchdog.observe(busy(0, 7), 0);
        watchdog.observe(busy(1, 7), 0);
        assert_eq!(watchdog.observe(busy(1, 8), 1_000 * MS), None);
        assert!(watchdog.observe(busy(0, 7), 1_000 * MS).is_some());
    }
}
