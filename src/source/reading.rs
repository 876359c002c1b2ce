//! A reading: one value of one named series at one time, what the monitor job reads from files and from /proc.

use crate::Record;

/// One value of one series.
#[derive(Record, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, Default, PartialEq)]
#[rkyv(derive(Debug))]
#[record(archived)]
pub struct Reading {
    /// The name of the series.
    pub series: String,
    /// When, and what.
    pub sample: Sample,
}

/// A value and its time.
#[derive(Record, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, Default, PartialEq)]
#[rkyv(derive(Debug))]
#[repr(C)]
pub struct Sample {
    /// Event time in milliseconds since 1970.
    pub at: i64,
    /// The value, finite.
    pub value: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record as _, Scratch};

    #[test]
    fn a_reading_is_read_in_place() {
        let reading = Reading { series: "cpu0.busy_percent".into(), sample: Sample { at: -5, value: 12.5 } };
        let mut scratch = Scratch::default();
        reading
            .with_bytes(&mut scratch, |bytes| {
                let view = Reading::view(bytes).unwrap();
                assert_eq!(view.series, "cpu0.busy_percent");
                assert_eq!((view.sample.at.to_native(), view.sample.value.to_native()), (-5, 12.5));
            })
            .unwrap();
    }
}
