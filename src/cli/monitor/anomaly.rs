//! Which values of a series are out of the ordinary, and when a series falls silent.
//!
//! Each series keeps an exponentially weighted mean and variance. A value further from the mean than `sigma` standard deviations
//! raises an alarm, one within half of that ends it; both are judged by the statistics from before the value. A timer that every
//! value pushes ahead tells of silence, once.
//!
//! Must see records in event-time order. Semantics: EWMA control chart (Roberts 1959), with hysteresis.

use super::lines::{Alert, AlertKind};
use bytemuck::{Pod, Zeroable};
use millstream::operator::{Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry};
use millstream::source::ArchivedReading;
use millstream::state::{StateError, ValueState};
use millstream::time::EventTimeMs;

/// Values seen before the first one can be out of the ordinary.
const SEEN_MIN: u64 = 30;

/// When to raise an alarm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnomalyRule {
    /// How many standard deviations from the mean are too far.
    pub sigma: f64,
    /// The weight of each new value.
    pub alpha: f64,
    /// How long a series may be silent.
    pub silent_ms: i64,
}

/// What is remembered of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable, millstream::Schema)]
#[repr(C)]
pub struct SeriesStatistics {
    seen: u64,
    mean: f64,
    variance: f64,
    /// When the last value came; the timer stands at this and `silent_ms`.
    last_at: i64,
    /// 1 while in alarm.
    in_alarm: u64,
}

/// What a value said about its series, with mean and standard deviation from before it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Finding {
    kind: AlertKind,
    mean: f64,
    stddev: f64,
}

impl SeriesStatistics {
    fn first(value: f64) -> Self {
        Self { seen: 1, mean: value, ..Self::default() }
    }

    fn add(&mut self, rule: &AnomalyRule, value: f64) -> Option<Finding> {
        let distance = value - self.mean;
        let stddev = self.variance.sqrt();
        let is_settled = self.seen >= SEEN_MIN && self.variance > 0.0;
        let kind = match self.in_alarm {
            0 if is_settled && distance.abs() > rule.sigma * stddev => Some(AlertKind::Anomaly),
            1 if is_settled && distance.abs() <= rule.sigma / 2.0 * stddev => Some(AlertKind::Recovered),
            _ => None,
        };
        let finding = kind.map(|kind| Finding { kind, mean: self.mean, stddev });
        if let Some(kind) = kind {
            self.in_alarm = u64::from(kind == AlertKind::Anomaly);
        }
        self.mean += rule.alpha * distance;
        self.variance = (1.0 - rule.alpha) * (self.variance + rule.alpha * distance * distance);
        self.seen += 1;
        finding
    }
}

impl KeyedProcess<str, ArchivedReading> for AnomalyRule {
    type Out = Alert;
    type Side = NoSide;
    type State = ValueState<str, SeriesStatistics>;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError> {
        states.value("statistics")
    }

    fn on_record(
        &self,
        state: &mut Self::State,
        cx: &mut KeyedContext<'_, str>,
        record: &ArchivedReading,
        out: &mut impl Emit<Alert, NoSide>,
    ) -> Result<(), StateError> {
        let value = record.sample.value.to_native();
        let mut finding = None;
        let mut last_at = None;
        state.update(&cx.hashed(), |stored| {
            let mut statistics = match stored {
                None => SeriesStatistics::first(value),
                Some(mut statistics) => {
                    last_at = Some(statistics.last_at);
                    finding = statistics.add(self, value);
                    statistics
                }
            };
            statistics.last_at = cx.at().0;
            Some(statistics)
        })?;
        if let Some(last_at) = last_at {
            cx.delete_timer(EventTimeMs(last_at).saturating_add(self.silent_ms));
        }
        cx.set_timer(cx.at().saturating_add(self.silent_ms))?;
        if let Some(Finding { kind, mean, stddev }) = finding {
            let figures = [Some(value), Some(mean), Some(stddev)];
            out.emit(&Alert::new(cx.key(), kind, cx.at(), figures));
        }
        Ok(())
    }

    fn on_timer(
        &self,
        _state: &mut Self::State,
        cx: &mut KeyedContext<'_, str>,
        out: &mut impl Emit<Alert, NoSide>,
    ) -> Result<(), StateError> {
        out.emit(&Alert::new(cx.key(), AlertKind::Silent, cx.at(), [None; 3]));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: AnomalyRule = AnomalyRule { sigma: 3.0, alpha: 0.1, silent_ms: 1_000 };

    /// After 40 values of 9 and 11 in turn.
    fn settled() -> SeriesStatistics {
        let mut statistics = SeriesStatistics::first(9.0);
        for index in 1..40 {
            assert_eq!(statistics.add(&RULE, if index % 2 == 0 { 9.0 } else { 11.0 }), None);
        }
        statistics
    }

    #[test]
    fn a_far_value_is_an_anomaly_by_the_statistics_from_before_it() {
        let mut statistics = settled();
        let before = statistics;
        let finding = statistics.add(&RULE, 30.0).unwrap();
        assert_eq!(finding, Finding { kind: AlertKind::Anomaly, mean: before.mean, stddev: before.variance.sqrt() });
        assert!(statistics.mean > before.mean && statistics.variance > before.variance);
    }

    #[test]
    fn an_alarm_is_told_once_and_ends_within_half_the_distance() {
        let mut statistics = settled();
        assert_eq!(statistics.add(&RULE, 30.0).unwrap().kind, AlertKind::Anomaly);
        assert_eq!(statistics.add(&RULE, 40.0), None);
        let reach = RULE.sigma / 2.0 * statistics.variance.sqrt();
        let mut beyond = statistics;
        assert_eq!(beyond.add(&RULE, statistics.mean + reach * 1.001), None);
        assert_eq!(statistics.add(&RULE, statistics.mean + reach).unwrap().kind, AlertKind::Recovered);
    }

    #[test]
    fn nothing_is_an_anomaly_before_thirty_values_were_seen() {
        let mut statistics = SeriesStatistics::first(1.0);
        for index in 1..30 {
            assert_eq!(statistics.add(&RULE, f64::from(index % 2)), None);
        }
        assert_eq!(
            (statistics.seen, statistics.add(&RULE, 1e6).map(|found| found.kind)),
            (30, Some(AlertKind::Anomaly))
        );
        let mut early = SeriesStatistics::first(1.0);
        (1..29).for_each(|index| assert_eq!(early.add(&RULE, f64::from(index % 2)), None));
        assert_eq!((early.seen, early.add(&RULE, 1e6)), (29, None));
    }

    #[test]
    fn a_series_without_variance_has_no_anomaly() {
        let mut statistics = SeriesStatistics::first(5.0);
        (0..100).for_each(|_| assert_eq!(statistics.add(&RULE, 5.0), None));
        assert_eq!(statistics.add(&RULE, 6.0), None, "the first other value only makes a variance");
    }

    #[test]
    fn mean_and_variance_move_by_alpha() {
        let mut statistics = SeriesStatistics::first(10.0);
        statistics.add(&RULE, 20.0);
        assert_eq!((statistics.mean, statistics.variance), (11.0, 0.9 * (0.1 * 10.0 * 10.0)));
    }
}
