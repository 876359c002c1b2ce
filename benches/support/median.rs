//! The figure to quote of several runs on a noisy machine.

/// The middle value of `runs` runs.
pub fn median(runs: usize, mut run: impl FnMut() -> f64) -> f64 {
    let mut values: Vec<f64> = (0..runs).map(|_| run()).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
