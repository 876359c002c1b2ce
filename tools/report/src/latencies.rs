//! Histograms as the files other tools read: `.hgrm` (percentiles as text) and `.hlog` (the histograms themselves).

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// One histogram of nanoseconds and what it is of.
#[derive(Clone, Copy)]
pub struct Curve<'a> {
    /// Shown in the legend; also the tag in the log.
    pub name: &'a str,
    /// In nanoseconds.
    pub times_ns: &'a Histogram<u64>,
}

/// The percentile distribution in microseconds, as HdrHistogram's own tools print it.
pub fn hgrm(times_ns: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut count = 0;
    for step in times_ns.iter_quantiles(5) {
        count += step.count_since_last_iteration();
        let (value_us, quantile) = (step.value_iterated_to() as f64 / 1e3, step.quantile_iterated_to());
        let _ = match quantile {
            quantile if quantile < 1.0 => {
                writeln!(text, "{value_us:>12.3} {quantile:>2.12} {count:>10} {:>14.2}", 1.0 / (1.0 - quantile))
            }
            quantile => writeln!(text, "{value_us:>12.3} {quantile:>2.12} {count:>10}"),
        };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n#[Max     = {:>12.3}, Total count    = {:>12}]",
        times_ns.mean() / 1e3,
        times_ns.stdev() / 1e3,
        times_ns.max() as f64 / 1e3,
        times_ns.len()
    );
    text
}

/// One interval for each curve, tagged with its name (commas and spaces become hyphens); maxima in milliseconds, as is usual.
pub fn hlog(curves: &[Curve<'_>], began_unix_s: u64, took: Duration) -> Vec<u8> {
    let (mut log, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut builder = IntervalLogWriterBuilder::new();
    builder.with_start_time(UNIX_EPOCH + Duration::from_secs(began_unix_s)).with_max_value_divisor(1e6);
    // Writing into a vector does not fail, and histograms within bounds can be serialized.
    if let Ok(mut writer) = builder.begin_log_with(&mut log, &mut serializer) {
        for curve in curves {
            let name = curve.name.replace([',', ' ', '\n'], "-");
            let _ = writer.write_histogram(curve.times_ns, Duration::ZERO, took, Tag::new(&name));
        }
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;

    fn times() -> Histogram<u64> {
        let mut times = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        (1..=1_000u64).for_each(|n| times.record(n * 1_000).unwrap());
        times
    }

    #[test]
    fn the_percentile_text_ends_with_the_largest_value_and_all_counts() {
        let text = hgrm(&times());
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<f64> = last.split_whitespace().flat_map(str::parse).collect();
        assert_eq!(fields.len(), 3, "{last}");
        assert!((fields[0] - 1_000.0).abs() < 1.0 && fields[1] == 1.0 && fields[2] == 1_000.0, "{last}");
    }

    #[test]
    fn a_histogram_comes_back_from_the_log_whole() {
        let times = times();
        let log = hlog(&[Curve { name: "two words", times_ns: &times }], 1_700_000_000, Duration::from_secs(3));
        let text = String::from_utf8(log).unwrap();
        let line = text.lines().find(|line| line.starts_with("Tag=two-words,")).expect(&text);
        let bytes = base64_decode(line.rsplit(',').next().unwrap());
        let read: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        assert_eq!(read, times);
    }

    fn base64_decode(text: &str) -> Vec<u8> {
        let digit = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u8> = text.trim_end_matches('=').bytes().map(digit).collect();
        let bits = |chunk: &[u8]| {
            let value =
                chunk.iter().fold(0u32, |value, digit| value << 6 | u32::from(*digit)) << (6 * (4 - chunk.len()));
            value.to_be_bytes()[1..chunk.len()].to_vec()
        };
        digits.chunks(4).flat_map(bits).collect()
    }
}
