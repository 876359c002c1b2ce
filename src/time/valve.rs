//! Joins the watermarks of a task's input channels into the one watermark of the task.
//!
//! Here: which channels count, when the joined watermark advances, when the task as a whole is idle, and who holds it back.
//! Not here: how a split makes its watermark (`strategy`), firing timers (`operator`), moving watermarks (`exchange`).
//!
//! Invariant: the output never goes back, and while a live channel is aligned the output is at most that channel's watermark.
//! Semantics: Flink StatusWatermarkValve. Unlike Flink, an ended channel leaves the minimum instead of counting as a live channel
//! at MAX: there, one ended and one idle channel together advance the clock to the end of time, and the idle one returns to find
//! all its records late. Unlike Flink, the last output is part of the checkpoint, so a restored task never sees its clock go back.

use super::{EventTimeMs, Watermark};

/// The joined watermark of `n` channels.
#[derive(Clone, Debug)]
pub struct WatermarkValve {
    channels: Vec<Channel>,
    last_output: Watermark,
    status: StreamStatus,
}

/// Whether a stream promises anything at the moment: an idle one is left out of the minimum (Flink `WatermarkStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStatus {
    /// Records may come at any time and the clock waits for them.
    Active,
    /// Nothing came for a while; the clock does not wait.
    Idle,
}

/// What must be sent on. `Active` goes before the watermark (receivers ignore the watermark of an idle channel), `Idle` after it
/// (the watermark is the flush before falling silent).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ClockChange {
    /// The new watermark.
    pub watermark: Option<Watermark>,
    /// The new status.
    pub status: Option<StreamStatus>,
}

/// The channel that holds the watermark back, and for how long it has not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The channel's index.
    pub channel: usize,
    /// Its watermark, the minimum.
    pub watermark: Watermark,
    /// Nanoseconds since that watermark arrived (or since the channel became active, or since the start).
    pub held_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    watermark: Watermark,
    since_ns: u64,
    part: Part,
}

/// What part a channel plays in the minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// It counts.
    Aligned,
    /// It came back from idleness behind the output, and counts again once it has caught up.
    CatchingUp,
    /// It does not count until it becomes active.
    Idle,
    /// It never counts again.
    Ended,
}

impl WatermarkValve {
    /// A valve over `channel_count` channels from which nothing was heard yet. All of them count.
    pub fn new(channel_count: usize, now_ns: u64) -> Self {
        Self::restored(channel_count, Watermark::MIN, now_ns)
    }

    /// A valve that continues from the output a checkpoint recorded. Every channel holds the output there until it passes it,
    /// so the number of channels may differ from before. Channels that were idle say so again after a restore.
    pub fn restored(channel_count: usize, last_output: Watermark, now_ns: u64) -> Self {
        let channel = Channel { watermark: last_output, since_ns: now_ns, part: Part::Aligned };
        Self { channels: vec![channel; channel_count], last_output, status: StreamStatus::Active }
    }

    /// A watermark arrived. One that does not advance its channel, or comes from an idle channel, changes nothing.
    /// `MAX` promises that no record follows and is the end of the channel.
    pub fn on_watermark(&mut self, channel: usize, watermark: Watermark, now_ns: u64) -> ClockChange {
        if watermark == Watermark::MAX {
            return self.on_end(channel);
        }
        let last_output = self.last_output;
        let input = &mut self.channels[channel];
        if matches!(input.part, Part::Idle | Part::Ended) || watermark <= input.watermark {
            return ClockChange::default();
        }
        input.watermark = watermark;
        input.since_ns = now_ns;
        if input.part == Part::CatchingUp && watermark >= last_output {
            input.part = Part::Aligned;
        }
        self.advance_to(self.aligned_minimum())
    }

    /// A channel fell idle or became active again. Saying twice the same changes nothing.
    pub fn on_status(&mut self, channel: usize, status: StreamStatus, now_ns: u64) -> ClockChange {
        match (self.channels[channel].part, status) {
            (Part::Aligned | Part::CatchingUp, StreamStatus::Idle) => self.leave(channel, Part::Idle),
            (Part::Idle, StreamStatus::Active) => self.come_back(channel, now_ns),
            _ => ClockChange::default(),
        }
    }

    /// A channel ended: no record follows. When the last one ends the output is `MAX`. (A plain stop or cancel ends no channel.)
    pub fn on_end(&mut self, channel: usize) -> ClockChange {
        match self.channels[channel].part {
            Part::Ended => ClockChange::default(),
            _ => self.leave(channel, Part::Ended),
        }
    }

    /// The last watermark sent on; this is what a checkpoint records.
    pub fn last_output(&self) -> Watermark {
        self.last_output
    }

    /// The status last sent on. It starts active.
    pub fn status(&self) -> StreamStatus {
        self.status
    }

    /// Which channel holds the minimum, and since when; `None` when no channel counts.
    pub fn holder(&self, now_ns: u64) -> Option<Holder> {
        let counting = self.channels.iter().enumerate().filter(|(_, input)| input.part == Part::Aligned);
        counting.min_by_key(|(_, input)| (input.watermark, input.since_ns)).map(|(channel, input)| Holder {
            channel,
            watermark: input.watermark,
            held_ns: now_ns.saturating_sub(input.since_ns),
        })
    }

    fn leave(&mut self, channel: usize, part: Part) -> ClockChange {
        self.channels[channel].part = part;
        if self.channels.iter().all(|input| input.part == Part::Ended) {
            return self.advance_to(Some(Watermark::MAX));
        }
        let held_the_output = self.channels[channel].watermark == self.last_output;
        if self.channels.iter().any(|input| matches!(input.part, Part::Aligned | Part::CatchingUp)) {
            return if held_the_output { self.advance_to(self.aligned_minimum()) } else { ClockChange::default() };
        }
        // Nobody is left to wait for, so everything that was promised by anybody may be acted upon.
        let mut output = ClockChange::default();
        if held_the_output {
            output = self.advance_to(self.channels.iter().map(|input| input.watermark).max());
        }
        if self.status == StreamStatus::Active {
            self.status = StreamStatus::Idle;
            output.status = Some(StreamStatus::Idle);
        }
        output
    }

    fn come_back(&mut self, channel: usize, now_ns: u64) -> ClockChange {
        let caught_up = self.channels[channel].watermark >= self.last_output;
        self.channels[channel].part = if caught_up { Part::Aligned } else { Part::CatchingUp };
        self.channels[channel].since_ns = now_ns;
        if self.status == StreamStatus::Active {
            return ClockChange::default();
        }
        self.status = StreamStatus::Active;
        ClockChange { watermark: None, status: Some(StreamStatus::Active) }
    }

    /// A scan, not a heap as in Flink: a task has as many channels as there are slots, a handful.
    fn aligned_minimum(&self) -> Option<Watermark> {
        self.channels.iter().filter(|input| input.part == Part::Aligned).map(|input| input.watermark).min()
    }

    fn advance_to(&mut self, watermark: Option<EventTimeMs>) -> ClockChange {
        let advanced = watermark.filter(|&watermark| watermark > self.last_output);
        self.last_output = advanced.unwrap_or(self.last_output);
        ClockChange { watermark: advanced, status: None }
    }
}

#[cfg(test)]
mod tests {
    use super::StreamStatus::{Active, Idle};
    use super::*;

    const NOTHING: ClockChange = ClockChange { watermark: None, status: None };

    fn watermark(at: i64) -> ClockChange {
        ClockChange { watermark: Some(EventTimeMs(at)), status: None }
    }

    fn status(status: StreamStatus) -> ClockChange {
        ClockChange { watermark: None, status: Some(status) }
    }

    /// A valve whose channels have received these watermarks.
    fn valve_at(watermarks: &[i64]) -> WatermarkValve {
        let mut valve = WatermarkValve::new(watermarks.len(), 0);
        for (channel, &at) in watermarks.iter().enumerate() {
            let _ = valve.on_watermark(channel, EventTimeMs(at), 0);
        }
        valve
    }

    #[test]
    fn the_output_waits_for_the_first_watermark_of_every_channel() {
        let mut valve = WatermarkValve::new(2, 0);
        assert_eq!(valve.on_watermark(0, EventTimeMs(10), 0), NOTHING);
        assert_eq!(valve.on_watermark(1, EventTimeMs(4), 0), watermark(4));
    }

    #[test]
    fn the_output_is_the_minimum_and_only_grows() {
        let mut valve = valve_at(&[10, 4]);
        assert_eq!(valve.on_watermark(1, EventTimeMs(7), 0), watermark(7));
        assert_eq!(valve.on_watermark(0, EventTimeMs(12), 0), NOTHING);
        assert_eq!(
            valve.on_watermark(1, EventTimeMs(6), 0),
            NOTHING,
            "a watermark behind its channel's last is ignored"
        );
        assert_eq!(valve.on_watermark(1, EventTimeMs(20), 0), watermark(12));
    }

    #[test]
    fn an_idle_channel_does_not_hold_back_the_watermark() {
        let mut valve = valve_at(&[10, 4]);
        assert_eq!(valve.on_status(1, Idle, 0), watermark(10));
        assert_eq!(valve.on_watermark(0, EventTimeMs(11), 0), watermark(11));
    }

    #[test]
    fn a_channel_that_did_not_hold_the_minimum_falls_idle_without_a_new_watermark() {
        let mut valve = valve_at(&[10, 4]);
        assert_eq!(valve.on_status(0, Idle, 0), NOTHING);
    }

    #[test]
    fn a_watermark_of_an_idle_channel_is_ignored() {
        let mut valve = valve_at(&[10, 4]);
        let _ = valve.on_status(1, Idle, 0);
        assert_eq!(valve.on_watermark(1, EventTimeMs(50), 0), NOTHING);
        assert_eq!(valve.on_watermark(0, EventTimeMs(60), 0), watermark(60));
    }

    #[test]
    fn when_the_last_channel_falls_idle_the_maximum_is_flushed_before_the_status() {
        let mut valve = valve_at(&[10, 4]);
        let _ = valve.on_status(0, Idle, 0);
        assert_eq!(
            valve.on_status(1, Idle, 0),
            ClockChange { watermark: Some(EventTimeMs(10)), status: Some(Idle) },
            "channel 1 held the minimum, nobody is left to wait for"
        );
        assert_eq!(valve.status(), Idle);
    }

    #[test]
    fn nothing_is_flushed_when_the_last_channel_to_fall_idle_did_not_hold_the_minimum() {
        let mut valve = valve_at(&[10, 20]);
        let _ = valve.on_status(0, Idle, 0); // output 20
        let _ = valve.on_status(0, Active, 0); // behind, catching up
        let _ = valve.on_status(1, Idle, 0); // held 20, nobody aligned
        assert_eq!(valve.on_status(0, Idle, 0), status(Idle));
    }

    #[test]
    fn a_silent_channel_falls_idle_without_a_watermark() {
        let mut valve = WatermarkValve::new(1, 0);
        assert_eq!(valve.on_status(0, Idle, 0), status(Idle));
    }

    #[test]
    fn an_idle_valve_becomes_active_with_its_first_active_channel() {
        let mut valve = valve_at(&[10, 4]);
        let _ = valve.on_status(0, Idle, 0);
        let _ = valve.on_status(1, Idle, 0);
        assert_eq!(valve.on_status(1, Active, 0), status(Active));
        assert_eq!(valve.on_status(0, Active, 0), NOTHING);
        assert_eq!(valve.status(), Active);
    }

    #[test]
    fn a_returning_channel_counts_only_once_it_has_caught_up() {
        let mut valve = valve_at(&[10, 4]);
        let _ = valve.on_status(1, Idle, 0); // output 10
        let _ = valve.on_status(1, Active, 0); // at 4: behind
        assert_eq!(valve.on_watermark(0, EventTimeMs(15), 0), watermark(15), "the one behind does not hold back");
        assert_eq!(valve.on_watermark(1, EventTimeMs(12), 0), NOTHING, "still behind");
        assert_eq!(valve.on_watermark(1, EventTimeMs(15), 0), NOTHING, "caught up");
        assert_eq!(valve.on_watermark(0, EventTimeMs(30), 0), NOTHING, "now it holds back");
        assert_eq!(valve.on_watermark(1, EventTimeMs(25), 0), watermark(25));
    }

    #[test]
    fn a_returning_channel_that_is_not_behind_counts_at_once() {
        let mut valve = valve_at(&[10, 4]);
        let _ = valve.on_status(0, Idle, 0);
        let _ = valve.on_status(0, Active, 0);
        assert_eq!(valve.on_watermark(1, EventTimeMs(30), 0), watermark(10));
    }

    #[test]
    fn an_ended_channel_no_longer_holds_back_the_watermark() {
        let mut valve = valve_at(&[10, 4]);
        assert_eq!(valve.on_end(1), watermark(10));
        assert_eq!(valve.on_watermark(1, EventTimeMs(90), 0), NOTHING);
        assert_eq!(valve.on_status(1, Idle, 0), NOTHING);
        assert_eq!(valve.on_end(1), NOTHING);
    }

    #[test]
    fn the_end_of_the_last_channel_is_the_end_of_time() {
        let mut valve = valve_at(&[10, 4]);
        let _ = valve.on_end(0);
        assert_eq!(valve.on_end(1), watermark(i64::MAX));
    }

    #[test]
    fn an_idle_channel_that_ends_last_still_gives_the_end_of_time() {
        let mut valve = valve_at(&[10, 4]);
        let _ = valve.on_end(0);
        let _ = valve.on_status(1, Idle, 0);
        assert_eq!(valve.on_end(1), watermark(i64::MAX));
    }

    #[test]
    fn an_ended_and_an_idle_channel_do_not_end_time() {
        let mut valve = valve_at(&[10, 4]);
        let _ = valve.on_end(0);
        let flushed = ClockChange { watermark: Some(EventTimeMs(10)), status: Some(Idle) };
        assert_eq!(valve.on_status(1, Idle, 0), flushed, "what the ended one promised, not the end of time");
    }

    #[test]
    fn a_watermark_of_max_is_the_end_of_its_channel() {
        let mut valve = valve_at(&[10, 4]);
        let _ = valve.on_status(1, Idle, 0);
        assert_eq!(valve.on_watermark(1, Watermark::MAX, 0), NOTHING);
        assert_eq!(valve.on_watermark(0, Watermark::MAX, 0), watermark(i64::MAX));
    }

    #[test]
    fn a_restored_valve_holds_its_output_until_every_channel_has_passed_it() {
        let mut valve = WatermarkValve::restored(2, EventTimeMs(100), 0);
        assert_eq!(valve.on_watermark(0, EventTimeMs(50), 0), NOTHING);
        assert_eq!(valve.on_watermark(0, EventTimeMs(150), 0), NOTHING);
        assert_eq!(valve.last_output(), EventTimeMs(100));
        assert_eq!(valve.on_watermark(1, EventTimeMs(120), 0), watermark(120));
    }

    #[test]
    fn the_holder_is_the_channel_with_the_minimum_and_since_when_it_stands_there() {
        let mut valve = WatermarkValve::new(2, 0);
        let _ = valve.on_watermark(0, EventTimeMs(10), 100);
        let _ = valve.on_watermark(1, EventTimeMs(4), 200);
        assert_eq!(valve.holder(500), Some(Holder { channel: 1, watermark: EventTimeMs(4), held_ns: 300 }));
        let _ = valve.on_status(1, Idle, 600);
        assert_eq!(valve.holder(700), Some(Holder { channel: 0, watermark: EventTimeMs(10), held_ns: 600 }));
        let _ = valve.on_end(0);
        assert_eq!(valve.holder(800), None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_happens_the_output_grows_and_stays_behind_every_aligned_channel(
            events in proptest::collection::vec((0usize..3, 0u8..8, 0i64..100), 0..60),
        ) {
            let mut valve = WatermarkValve::new(3, 0);
            let mut last = Watermark::MIN;
            for (channel, what, at) in events {
                let change = match what {
                    0 => valve.on_status(channel, Idle, 0),
                    1 => valve.on_status(channel, Active, 0),
                    2 if at == 0 => valve.on_end(channel),
                    _ => valve.on_watermark(channel, EventTimeMs(at), 0),
                };
                if let Some(watermark) = change.watermark {
                    proptest::prop_assert!(watermark > last);
                    last = watermark;
                }
                proptest::prop_assert_eq!(valve.last_output(), last);
                if let Some(holder) = valve.holder(0) {
                    proptest::prop_assert!(holder.watermark >= last);
                }
            }
        }
    }
}
