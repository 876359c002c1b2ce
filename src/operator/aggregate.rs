//! Aggregates: what a window or a key remembers instead of its records. Semantics: Flink `AggregateFunction`.
//!
//! Several are computed together with `and`; the results come as a pair.

use crate::state::{Both, FixedValue};
use std::marker::PhantomData;

/// Summarises records of type `V` in an accumulator of fixed size.
pub trait Aggregate<V>: Clone + Send + Sync + 'static {
    /// What is remembered; part of every checkpoint.
    type Accumulator: FixedValue + Clone;
    /// What comes out.
    type Out: 'static;
    /// Whether merging gives the same accumulator, bit for bit, in any order and grouping: that of integers does, that of f64 does not, as it
    /// rounds. Windows of such an aggregate take records without reading accumulators back where the state outgrows its memory.
    const MERGES_IN_ANY_ORDER: bool = false;
    /// Whether [`retract`](Self::retract) undoes `merge`, bit for bit; needs `MERGES_IN_ANY_ORDER`. Overlapping windows of such an aggregate are
    /// not merged anew: each is the one before with what has come since and without what has gone, however many slices it has.
    /// Those of another that merges in any order cost a few merges for each slice that comes or goes; those of the rest merge all their slices.
    const RETRACTS: bool = false;

    /// The accumulator of no records.
    fn create(&self) -> Self::Accumulator;
    /// Adds a record.
    fn add(&self, accumulator: &mut Self::Accumulator, record: &V);
    /// Adds the records of another accumulator. The order of merging is that of event time.
    fn merge(&self, accumulator: &mut Self::Accumulator, other: &Self::Accumulator);
    /// Takes out the records of another accumulator, which were merged before. Semantics: `retract` of Flink's table aggregates. Only asked of an
    /// aggregate that `RETRACTS`.
    fn retract(&self, _accumulator: &mut Self::Accumulator, _other: &Self::Accumulator) {
        unreachable!("an aggregate that says that it retracts does");
    }
    /// What comes out of an accumulator.
    fn result(&self, accumulator: &Self::Accumulator) -> Self::Out;

    /// This and `other` over the same records.
    fn and<B: Aggregate<V>>(self, other: B) -> And<Self, B> {
        And(self, other)
    }
}

/// Two aggregates over the same records; the result is a pair.
#[derive(Clone, Copy, Debug)]
pub struct And<A, B>(A, B);

impl<V, A: Aggregate<V>, B: Aggregate<V>> Aggregate<V> for And<A, B> {
    type Accumulator = Both<A::Accumulator, B::Accumulator>;
    type Out = (A::Out, B::Out);
    const MERGES_IN_ANY_ORDER: bool = A::MERGES_IN_ANY_ORDER && B::MERGES_IN_ANY_ORDER;
    const RETRACTS: bool = A::RETRACTS && B::RETRACTS;

    fn create(&self) -> Self::Accumulator {
        Both(self.0.create(), self.1.create())
    }

    #[inline]
    fn add(&self, accumulator: &mut Self::Accumulator, record: &V) {
        self.0.add(&mut accumulator.0, record);
        self.1.add(&mut accumulator.1, record);
    }

    fn merge(&self, accumulator: &mut Self::Accumulator, other: &Self::Accumulator) {
        self.0.merge(&mut accumulator.0, &other.0);
        self.1.merge(&mut accumulator.1, &other.1);
    }

    fn retract(&self, accumulator: &mut Self::Accumulator, other: &Self::Accumulator) {
        self.0.retract(&mut accumulator.0, &other.0);
        self.1.retract(&mut accumulator.1, &other.1);
    }

    fn result(&self, accumulator: &Self::Accumulator) -> Self::Out {
        (self.0.result(&accumulator.0), self.1.result(&accumulator.1))
    }
}

/// How many records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count;

impl<V> Aggregate<V> for Count {
    type Accumulator = u64;
    type Out = u64;
    const MERGES_IN_ANY_ORDER: bool = true;
    const RETRACTS: bool = true;

    fn create(&self) -> u64 {
        0
    }

    #[inline]
    fn add(&self, count: &mut u64, _: &V) {
        *count += 1;
    }

    fn merge(&self, count: &mut u64, other: &u64) {
        *count += other;
    }

    fn retract(&self, count: &mut u64, other: &u64) {
        *count -= other;
    }

    fn result(&self, count: &u64) -> u64 {
        *count
    }
}

/// A number that can be summed and compared.
pub trait Number: FixedValue + Copy + PartialOrd + 'static {
    /// The sum of nothing.
    const ZERO: Self;
    /// Whether sums are the same in any order, and equal numbers the same bytes.
    const IS_EXACT: bool = false;
    /// The sum; integers wrap around, as Java's do.
    fn plus(self, other: Self) -> Self;
    /// The difference; that of exact numbers undoes the sum.
    fn minus(self, other: Self) -> Self;
}

macro_rules! number {
    ($($integer:ty)*) => {$(
        impl Number for $integer {
            const ZERO: Self = 0;
            const IS_EXACT: bool = true;

            #[inline]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
        }
    )*};
}

number! { i64 u64 i32 u32 }

impl Number for f64 {
    const ZERO: Self = 0.0;

    #[inline]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline]
    fn minus(self, other: Self) -> Self {
        self - other
    }
}

macro_rules! of_field {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<F, X> {
            field: F,
            _number: PhantomData<fn() -> X>,
        }

        impl<F: Clone, X> Clone for $name<F, X> {
            fn clone(&self) -> Self {
                Self::of(self.field.clone())
            }
        }

        impl<F, X> $name<F, X> {
            /// Over the number that `field` finds in each record.
            pub fn of(field: F) -> Self {
                Self { field, _number: PhantomData }
            }
        }
    };
}

of_field! {
    /// The sum of a number.
    Sum
}

impl<V, X: Number, F: Fn(&V) -> X + Clone + Send + Sync + 'static> Aggregate<V> for Sum<F, X> {
    type Accumulator = X;
    type Out = X;
    const MERGES_IN_ANY_ORDER: bool = X::IS_EXACT;
    const RETRACTS: bool = X::IS_EXACT;

    fn create(&self) -> X {
        X::ZERO
    }

    #[inline]
    fn add(&self, sum: &mut X, record: &V) {
        *sum = sum.plus((self.field)(record));
    }

    fn merge(&self, sum: &mut X, other: &X) {
        *sum = sum.plus(*other);
    }

    fn retract(&self, sum: &mut X, other: &X) {
        *sum = sum.minus(*other);
    }

    fn result(&self, sum: &X) -> X {
        *sum
    }
}

/// The best number so far and whether there was one.
type Best<X> = Both<u64, X>;

fn keep_better<X: Number>(best: &mut Best<X>, candidate: X, better: impl Fn(X, X) -> bool) {
    if best.0 == 0 || better(candidate, best.1) {
        *best = Both(1, candidate);
    }
}

macro_rules! best {
    ($name:ident, $better:expr) => {
        impl<V, X: Number, F: Fn(&V) -> X + Clone + Send + Sync + 'static> Aggregate<V> for $name<F, X> {
            type Accumulator = Best<X>;
            type Out = Option<X>;
            const MERGES_IN_ANY_ORDER: bool = X::IS_EXACT;

            fn create(&self) -> Best<X> {
                Both(0, X::ZERO)
            }

            #[inline]
            fn add(&self, best: &mut Best<X>, record: &V) {
                keep_better(best, (self.field)(record), $better);
            }

            fn merge(&self, best: &mut Best<X>, other: &Best<X>) {
                if other.0 != 0 {
                    keep_better(best, other.1, $better);
                }
            }

            fn result(&self, best: &Best<X>) -> Option<X> {
                (best.0 != 0).then_some(best.1)
            }
        }
    };
}

of_field! {
    /// The smallest number; `None` of no records.
    Min
}
best!(Min, |a, b| a < b);

of_field! {
    /// The largest number; `None` of no records.
    Max
}
best!(Max, |a, b| a > b);

of_field! {
    /// Mean and variance of an f64, computed stably (Welford; merged as Chan et al. 1979).
    Variance
}

/// Count, mean and population variance of some records.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable, millstream::Schema)]
#[repr(C)]
pub struct Moments {
    /// How many records.
    pub count: u64,
    /// Their mean; 0 of no records.
    pub mean: f64,
    /// The sum of squared distances from the mean.
    pub squares: f64,
}

impl Moments {
    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let distance = value - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (value - self.mean);
    }

    /// Adds the values that `other` saw.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (n, m) = (self.count as f64, other.count as f64);
        let distance = other.mean - self.mean;
        self.count += other.count;
        self.mean += distance * (m / (n + m));
        self.squares += other.squares + distance * distance * (n * m / (n + m));
    }

    /// The population variance; 0 of no records.
    pub fn variance(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.squares / self.count as f64 }
    }

    /// The population standard deviation; 0 of no records.
    pub fn stddev(&self) -> f64 {
        self.variance().sqrt()
    }
}

impl<V, F: Fn(&V) -> f64 + Clone + Send + Sync + 'static> Aggregate<V> for Variance<F, f64> {
    type Accumulator = Moments;
    type Out = Moments;

    fn create(&self) -> Moments {
        Moments::default()
    }

    #[inline]
    fn add(&self, moments: &mut Moments, record: &V) {
        moments.add((self.field)(record));
    }

    fn merge(&self, moments: &mut Moments, other: &Moments) {
        moments.merge(other);
    }

    fn result(&self, moments: &Moments) -> Moments {
        *moments
    }
}

of_field! {
    /// The mean of an f64; 0 of no records.
    Mean
}

impl<V, F: Fn(&V) -> f64 + Clone + Send + Sync + 'static> Aggregate<V> for Mean<F, f64> {
    type Accumulator = Moments;
    type Out = f64;

    fn create(&self) -> Moments {
        Moments::default()
    }

    #[inline]
    fn add(&self, moments: &mut Moments, record: &V) {
        moments.add((self.field)(record));
    }

    fn merge(&self, moments: &mut Moments, other: &Moments) {
        moments.merge(other);
    }

    fn result(&self, moments: &Moments) -> f64 {
        moments.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn merged_moments_equal_the_moments_of_all_values(
            values in proptest::collection::vec(-1e6f64..1e6, 1..100), cut in 0usize..100,
        ) {
            let of = |part: &[f64]| part.iter().fold(Moments::default(), |mut m, &v| { m.add(v); m });
            let cut = cut.min(values.len());
            let mut merged = of(&values[..cut]);
            merged.merge(&of(&values[cut..]));
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
            prop_assert_eq!(merged.count, values.len() as u64);
            prop_assert!((merged.mean - mean).abs() < 1e-6 * (1.0 + mean.abs()));
            prop_assert!((merged.variance() - variance).abs() < 1e-6 * (1.0 + variance));
        }
    }

    #[test]
    fn the_smallest_and_largest_of_no_records_are_none() {
        let both = Min::of(|v: &i64| *v).and(Max::of(|v: &i64| *v));
        let mut accumulator = both.create();
        assert_eq!(both.result(&accumulator), (None, None));
        both.add(&mut accumulator, &3);
        both.add(&mut accumulator, &-3);
        assert_eq!(both.result(&accumulator), (Some(-3), Some(3)));
    }
}
