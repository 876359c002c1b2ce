//! How many pauses of each length there were, in steps of a quarter of an octave; both axes in decades.

use super::frame::Frame;
use super::scale::{Scale, number, time};
use crate::Curve;

const STEPS_PER_DOUBLING: f64 = 4.0;

/// One outline for each histogram; the first is solid.
pub fn pauses(title: &str, curves: &[Curve<'_>]) -> String {
    let drawn: Vec<(&str, Vec<(f64, f64)>)> = curves.iter().map(|curve| (curve.name, outline(curve))).collect();
    let all = || drawn.iter().flat_map(|(_, points)| points);
    let x = (Scale::decades(all().map(|(x, _)| *x)), "pause", &time as &dyn Fn(f64) -> String);
    let y = (Scale::decades(all().map(|(_, y)| *y)), "count", &number as &dyn Fn(f64) -> String);
    let mut frame = Frame::new(title, x, y);
    for (index, (name, points)) in drawn.iter().enumerate() {
        frame.line(name, points.iter().copied(), index > 0);
    }
    frame.finish()
}

/// The upper edges of all steps as corners; a step without pauses lies on the axis.
fn outline(curve: &Curve<'_>) -> Vec<(f64, f64)> {
    let step = |ns: u64| (ns.max(1) as f64).log2() * STEPS_PER_DOUBLING;
    let (first, last) = (step(curve.times_ns.min()) as usize, step(curve.times_ns.max()) as usize);
    let mut counts = vec![0u64; last - first + 1];
    for value in curve.times_ns.iter_recorded() {
        let at = step(value.value_iterated_to()) as usize;
        counts[at.clamp(first, last) - first] += value.count_at_value();
    }
    let edge = |index: usize| ((first + index) as f64 / STEPS_PER_DOUBLING).exp2();
    let corners = |(index, count): (usize, &u64)| [(edge(index), *count as f64), (edge(index + 1), *count as f64)];
    counts.iter().enumerate().flat_map(corners).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;

    #[test]
    fn the_outline_counts_every_pause_once() {
        let mut times = Histogram::<u64>::new_with_bounds(1, 1_000_000, 3).unwrap();
        (1..5_000u64).for_each(|ns| times.record(ns * 7).unwrap());
        let outline = outline(&Curve { name: "", times_ns: &times });
        let sum: f64 = outline.iter().step_by(2).map(|(_, count)| count).sum();
        assert_eq!(sum, 4_999.0);
    }
}
