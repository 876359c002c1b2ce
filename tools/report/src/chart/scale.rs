//! From values to places on an axis, and the ticks beside it.

/// An axis.
pub(super) struct Scale {
    kind: Kind,
    from: f64,
    to: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Linear,
    /// Each power of ten as long as the next.
    Decades,
    /// Each doubling as long as the next.
    Doublings,
}

impl Scale {
    /// From nothing to a round number that is not smaller than `most`.
    pub(super) fn linear(most: f64) -> Self {
        let step = round_step(most.max(f64::MIN_POSITIVE));
        Self { kind: Kind::Linear, from: 0.0, to: (most / step).ceil().max(1.0) * step }
    }

    /// Whole decades around all values that are larger than 0.
    pub(super) fn decades(values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = extremes(values);
        let (from, to) = (least.log10().floor(), most.log10().ceil());
        Self { kind: Kind::Decades, from, to: to.max(from + 1.0) }
    }

    /// From the smallest to the largest value.
    pub(super) fn doublings(values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = extremes(values);
        let (from, to) = (least.log2(), most.log2());
        Self { kind: Kind::Doublings, from, to: to.max(from + 1.0) }
    }

    /// Where a value lies: 0 at the beginning of the axis, 1 at its end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let value = match self.kind {
            Kind::Linear => value,
            Kind::Decades => value.max(f64::MIN_POSITIVE).log10(),
            Kind::Doublings => value.max(f64::MIN_POSITIVE).log2(),
        };
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// The values to write beside the axis.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let steps = |step: f64| {
            let count = ((self.to - self.from) / step).round() as usize;
            let from = self.from;
            (0..=count).map(move |n| from + n as f64 * step)
        };
        match self.kind {
            Kind::Linear => steps(round_step(self.to)).collect(),
            Kind::Decades => steps(1.0).map(|power| 10f64.powf(power)).collect(),
            Kind::Doublings => steps(1.0).map(f64::exp2).collect(),
        }
    }
}

fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let positive = values.filter(|value| *value > 0.0);
    let (least, most) = positive.fold((f64::MAX, 0.0f64), |(least, most), v| (least.min(v), most.max(v)));
    if most == 0.0 { (1.0, 10.0) } else { (least, most) }
}

/// 1, 2 or 5 times a power of ten, four to ten of them up to `most`.
fn round_step(most: f64) -> f64 {
    let power = 10f64.powf((most / 4.0).log10().floor());
    [5.0, 2.0].into_iter().map(|times| times * power).find(|step| most / step >= 4.0).unwrap_or(power)
}

/// A time in the unit in which it is short.
pub(super) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns >= 1e9 => (ns / 1e9, "s"),
        ns if ns >= 1e6 => (ns / 1e6, "ms"),
        ns if ns >= 1e3 => (ns / 1e3, "us"),
        ns => (ns, "ns"),
    };
    format!("{} {unit}", number(value))
}

/// A number without zeros behind its point.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e9 => format!("{}e9", number(value / 1e9)),
        v if v >= 1e6 => format!("{} M", number(value / 1e6)),
        v if v >= 1e3 && value % 1e3 == 0.0 => format!("{} k", number(value / 1e3)),
        v if v >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_begins_at_nothing_and_ends_at_a_round_number() {
        let scale = Scale::linear(87.0);
        assert_eq!(scale.ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(scale.place(50.0), 0.5);
    }

    #[test]
    fn decades_hold_all_values_and_give_each_decade_the_same_length() {
        let scale = Scale::decades([30.0, 4_000.0, 0.0].into_iter());
        assert_eq!(scale.ticks().len(), 4);
        assert!((scale.place(100.0) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn times_are_written_in_the_unit_in_which_they_are_short() {
        assert_eq!([1.0, 1_500.0, 2e6, 6e10].map(time), ["1 ns", "1.50 us", "2 ms", "60 s"]);
    }
}
