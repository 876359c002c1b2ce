//! Latency over percentile, each further nine as long as the one before it; both axes in decades.

use super::frame::Frame;
use super::scale::{Scale, time};
use crate::Curve;

/// How many points a decade has.
const STEPS: u32 = 16;

/// The first curve is what was measured, the others what it is held against. Each ends where one value more would be missing.
pub fn percentiles(title: &str, curves: &[Curve<'_>]) -> String {
    let drawn: Vec<(&str, Vec<(f64, f64)>)> = curves.iter().map(|curve| (curve.name, points(curve))).collect();
    let all = || drawn.iter().flat_map(|(_, points)| points);
    let x = (Scale::decades(all().map(|(x, _)| *x)), "percentile", &percentile as &dyn Fn(f64) -> String);
    let y = (Scale::decades(all().map(|(_, y)| *y)), "latency", &time as &dyn Fn(f64) -> String);
    let mut frame = Frame::new(title, x, y);
    for (index, (name, points)) in drawn.iter().enumerate() {
        frame.line(name, points.iter().copied(), index > 0);
    }
    frame.finish()
}

/// 1/(1 - quantile) and the value there.
fn points(curve: &Curve<'_>) -> Vec<(f64, f64)> {
    let decades = (curve.times_ns.len().max(10) as f64).log10();
    let steps = (decades * f64::from(STEPS)) as u32;
    let at = |step: u32| {
        let beyond = 10f64.powf(f64::from(step) / f64::from(STEPS));
        (beyond, curve.times_ns.value_at_quantile(1.0 - 1.0 / beyond).max(1) as f64)
    };
    (0..=steps).map(at).collect()
}

fn percentile(beyond: f64) -> String {
    match beyond.log10().round() as usize {
        nines @ 6.. => format!("{nines} nines"),
        nines => format!("{:.1$} %", 100.0 - 100.0 / beyond, nines.saturating_sub(2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;

    #[test]
    fn a_curve_ends_at_the_largest_value_there_is_evidence_for() {
        let mut times = Histogram::<u64>::new_with_bounds(1, 1_000_000, 3).unwrap();
        times.record_n(100, 999).unwrap();
        times.record(5_000).unwrap();
        let points = points(&Curve { name: "", times_ns: &times });
        assert_eq!(points[0].1, 100.0);
        let (beyond, value) = *points.last().unwrap();
        assert!((beyond - 1_000.0).abs() < 1.0 && value < 5_100.0, "{beyond} {value}");
    }

    #[test]
    fn percentiles_are_written_with_their_nines() {
        assert_eq!(
            [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 1e6].map(percentile),
            ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "6 nines"]
        );
    }
}
