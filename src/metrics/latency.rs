//! Latencies of one slot's sink: recorded by its thread without a lock, collected by another on request.
//!
//! Two histograms go round: the recorder fills one while the reader empties the other, which is made when the reader asks for the first time.
//! ```text
//! recorder --- full, when asked for ---> reader: merges it into the whole
//!          <------- emptied spare -------
//! ```
//! Unlike Flink, latency is always measured, from the source's intended time of every record: there are no latency markers to switch on.

use crossbeam_queue::ArrayQueue;
use hdrhistogram::Histogram;
use std::sync::Arc;

/// One nanosecond to one minute; longer ones count as a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Two digits: at most 1 % off, and 29 KiB per histogram, which fits in a first-level cache. Three would be 213 KiB and thrash it.
const SIGNIFICANT_DIGITS: u8 = 2;

/// The recording end; stays with the slot.
#[derive(Debug)]
pub struct LatencyRecorder {
    current: Histogram<u64>,
    /// The last latency, which many records of one step have in common, and how many had it.
    run_ns: u64,
    run_len: u64,
    exchange: Arc<Exchange>,
}

/// The collecting end: holds everything collected so far.
#[derive(Debug)]
pub struct LatencyReader {
    /// `None` until something was collected: most jobs are never asked, and a histogram is half of what a small job takes.
    collected: Option<Histogram<u64>>,
    has_asked: bool,
    exchange: Arc<Exchange>,
}

/// The figures that are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencySummary {
    /// How many were recorded.
    pub count: u64,
    /// Half were at most this.
    pub p50_ns: u64,
    /// 99 of 100 were at most this.
    pub p99_ns: u64,
    /// 999 of 1000 were at most this.
    pub p999_ns: u64,
    /// All were at most this.
    pub max_ns: u64,
}

/// The spare in one queue is the request: the recorder that finds it answers with what it has.
#[derive(Debug)]
struct Exchange {
    spare: ArrayQueue<Histogram<u64>>,
    full: ArrayQueue<Histogram<u64>>,
}

/// Both ends of a new measurement.
pub fn latency_channel() -> (LatencyRecorder, LatencyReader) {
    let exchange = Arc::new(Exchange { spare: ArrayQueue::new(1), full: ArrayQueue::new(1) });
    let recorder = LatencyRecorder { current: empty(), run_ns: 0, run_len: 0, exchange: exchange.clone() };
    (recorder, LatencyReader { collected: None, has_asked: false, exchange })
}

/// The figures of several readers together.
pub fn summarize<'a>(readers: impl IntoIterator<Item = &'a LatencyReader>) -> LatencySummary {
    let mut whole = empty();
    for collected in readers.into_iter().flat_map(|reader| &reader.collected) {
        add(&mut whole, collected);
    }
    LatencySummary {
        count: whole.len(),
        p50_ns: whole.value_at_quantile(0.5),
        p99_ns: whole.value_at_quantile(0.99),
        p999_ns: whole.value_at_quantile(0.999),
        max_ns: whole.max(),
    }
}

impl LatencyRecorder {
    /// Records one latency. No lock, no allocation.
    #[inline]
    pub fn record(&mut self, latency_ns: u64) {
        if latency_ns == self.run_ns {
            self.run_len += 1;
        } else {
            self.begin_run(latency_ns);
        }
    }

    #[inline(never)]
    fn begin_run(&mut self, latency_ns: u64) {
        self.end_run();
        (self.run_ns, self.run_len) = (latency_ns, 1);
    }

    fn end_run(&mut self) {
        if self.run_len == 0 {
            return;
        }
        let recorded = self.current.record_n(self.run_ns.clamp(1, LATENCY_NS_MAX), self.run_len);
        recorded.expect("the value is within the bounds");
        self.run_len = 0;
    }

    /// Hands over what was recorded if the reader asked for it. Once per step: one load when nobody did.
    #[inline]
    pub fn hand_over_if_asked(&mut self) {
        if !self.exchange.spare.is_empty() {
            self.hand_over();
        }
    }

    #[cold]
    fn hand_over(&mut self) {
        self.end_run();
        if let Some(spare) = self.exchange.spare.pop() {
            let full = std::mem::replace(&mut self.current, spare);
            // There are at most two histograms, and the other one is here: the queue is empty.
            let _ = self.exchange.full.push(full);
        }
    }
}

impl Drop for LatencyRecorder {
    /// What was recorded after the last request goes to the reader: the last figures of a run are complete.
    fn drop(&mut self) {
        self.end_run();
        let mut last = self.exchange.full.pop().unwrap_or_else(empty);
        add(&mut last, &self.current);
        let _ = self.exchange.full.push(last);
    }
}

impl LatencyReader {
    /// Takes in what the recorder handed over since, and asks it for more. Never waits: figures lag by one request.
    pub fn collect(&mut self) {
        let spare = match self.exchange.full.pop() {
            Some(mut full) => {
                add(self.collected.get_or_insert_with(empty), &full);
                full.reset();
                full
            }
            None if !self.has_asked => empty(),
            None => return,
        };
        self.has_asked = true;
        let _ = self.exchange.spare.push(spare);
    }

    /// Whether the recorder is gone: then nothing comes after what it handed over last.
    pub fn has_ended(&mut self) -> bool {
        Arc::get_mut(&mut self.exchange).is_some()
    }

    /// Takes over what another reader, whose recorder is gone, has collected and can still collect.
    pub fn absorb(&mut self, other: Self) {
        for part in other.exchange.full.pop().into_iter().chain(other.collected) {
            match &mut self.collected {
                Some(whole) => add(whole, &part),
                None => self.collected = Some(part),
            }
        }
    }

    /// The figures of everything collected.
    pub fn summary(&self) -> LatencySummary {
        summarize([self])
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
        .expect("the bounds are constants that hdrhistogram accepts")
}

fn add(whole: &mut Histogram<u64>, part: &Histogram<u64>) {
    whole.add(part).expect("all histograms of this file have the same bounds");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_arrive_at_the_request_after_the_one_that_asked() {
        let (mut recorder, mut reader) = latency_channel();
        recorder.record(100);
        recorder.hand_over_if_asked();
        reader.collect();
        assert_eq!(reader.summary().count, 0, "nobody had asked");
        recorder.hand_over_if_asked();
        reader.collect();
        assert_eq!(reader.summary().count, 1);
        assert_eq!(reader.summary().max_ns, 100);
    }

    #[test]
    fn collected_figures_add_up_and_count_each_record_once() {
        let (mut recorder, mut reader) = latency_channel();
        for round in 0..10 {
            recorder.record(round);
            recorder.hand_over_if_asked();
            reader.collect();
            reader.collect();
        }
        drop(recorder);
        reader.collect();
        assert_eq!(reader.summary().count, 10);
    }

    #[test]
    fn a_dropped_recorder_leaves_its_last_figures_even_beside_unread_ones() {
        let (mut recorder, mut reader) = latency_channel();
        reader.collect();
        recorder.record(5);
        recorder.hand_over_if_asked();
        recorder.record(6);
        drop(recorder);
        reader.collect();
        assert_eq!(reader.summary().count, 2);
    }

    #[test]
    fn latencies_that_repeat_are_counted_as_often_as_they_came() {
        let (mut recorder, mut reader) = latency_channel();
        for latency_ns in [5, 5, 5, 90, 5, 5] {
            recorder.record(latency_ns);
        }
        drop(recorder);
        reader.collect();
        let summary = reader.summary();
        assert_eq!((summary.count, summary.p50_ns, summary.max_ns), (6, 5, 90));
    }

    #[test]
    fn quantiles_are_within_a_hundredth() {
        let (mut recorder, mut reader) = latency_channel();
        (1..=1_000).for_each(|us| recorder.record(us * 1_000));
        drop(recorder);
        reader.collect();
        let summary = reader.summary();
        let close = |value: u64, expected: u64| value.abs_diff(expected) * 100 <= expected;
        assert!(close(summary.p50_ns, 500_000) && close(summary.p99_ns, 990_000), "{summary:?}");
        assert!(close(summary.p999_ns, 999_000) && close(summary.max_ns, 1_000_000), "{summary:?}");
    }

    #[test]
    fn the_tail_agrees_with_a_stopwatch_within_5_percent() {
        // A virtual clock: most records take 1 to 2 us, one of a hundred up to 1 ms, one of two thousand up to 80 ms.
        let (mut recorder, mut reader) = latency_channel();
        let (mut clock_ns, mut random, mut stopwatch) = (0u64, 7u64, Vec::new());
        for n in 0..200_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let longest_ns = if n % 2_000 == 0 {
                80_000_000
            } else if n % 100 == 0 {
                1_000_000
            } else {
                1_000
            };
            let begun_ns = clock_ns;
            clock_ns += 1_000 + (random >> 33) % longest_ns;
            recorder.record(clock_ns - begun_ns);
            stopwatch.push(clock_ns - begun_ns);
            if n % 1_000 == 0 {
                recorder.hand_over_if_asked();
                reader.collect();
            }
        }
        drop(recorder);
        reader.collect();
        stopwatch.sort_unstable();
        let exact = stopwatch[stopwatch.len() * 999 / 1_000 - 1];
        let shown = reader.summary().p999_ns;
        assert!(shown.abs_diff(exact) * 20 <= exact, "{shown} and {exact}");
    }

    #[test]
    fn what_lies_outside_the_bounds_is_counted_at_the_bound() {
        let (mut recorder, mut reader) = latency_channel();
        recorder.record(0);
        recorder.record(u64::MAX);
        drop(recorder);
        reader.collect();
        let summary = reader.summary();
        assert_eq!((summary.count, summary.p50_ns), (2, 1));
        assert!(summary.max_ns >= LATENCY_NS_MAX);
    }

    #[test]
    fn a_reader_that_absorbs_another_has_the_figures_of_both() {
        let (mut first, mut reader) = latency_channel();
        let (mut second, mut ended) = latency_channel();
        first.record(10);
        ended.collect();
        second.record(70);
        second.hand_over_if_asked();
        ended.collect();
        second.record(90);
        assert!(!ended.has_ended());
        drop(second);
        assert!(ended.has_ended());
        reader.absorb(ended);
        drop(first);
        reader.collect();
        let summary = reader.summary();
        assert_eq!((summary.count, summary.p50_ns, summary.max_ns), (3, 70, 90));
    }

    #[test]
    fn several_slots_are_summarized_together() {
        let (mut first, mut first_reader) = latency_channel();
        let (mut second, mut second_reader) = latency_channel();
        first.record(10);
        second.record(70);
        drop((first, second));
        first_reader.collect();
        second_reader.collect();
        let both = summarize([&first_reader, &second_reader]);
        assert_eq!((both.count, both.p50_ns, both.max_ns), (2, 10, 70));
    }
}
