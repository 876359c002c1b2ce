//! Durations and sizes as people write them: `20s`, `5m`, `512MiB`; and back.
//!
//! A number without a unit is refused: `10` may mean seconds to one reader and minutes to the next.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const COUNT_UNITS: [(&str, u64); 4] = [("", 1), ("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A million events a second for thirty years; times and ids made from counts do not overflow.
const COUNT_MAX: u64 = 1_000_000_000_000_000;

/// A hundred years: no window, silence or run is longer, and sums with event times do not overflow.
const DURATION_MS_MAX: u64 = 36_525 * 86_400_000;

/// A duration of 0 or more.
pub fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "write a whole number and a unit, as 100ms, 20s, 5m, 1h or 2d";
    let ms = parse(text, &DURATION_UNITS).map_err(|wrong| format!("{wrong}: {FORM}"))?;
    match ms <= DURATION_MS_MAX {
        true => Ok(Duration::from_millis(ms)),
        false => Err("longer than a hundred years".to_owned()),
    }
}

/// A duration above 0.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|duration| match duration.is_zero() {
        true => Err("must be longer than nothing".to_owned()),
        false => Ok(duration),
    })
}

/// How long a job runs; `None` is for ever.
pub fn run_time(text: &str) -> Result<RunTime, String> {
    match text {
        "forever" => Ok(RunTime::Forever),
        _ => positive_duration(text).map(RunTime::For).map_err(|wrong| format!("{wrong}, or forever")),
    }
}

/// A size in bytes.
pub fn size_bytes(text: &str) -> Result<usize, String> {
    const FORM: &str = "write a whole number and a unit, as 64KiB, 512MiB or 4GiB";
    let bytes = parse(text, &SIZE_UNITS).map_err(|wrong| format!("{wrong}: {FORM}"))?;
    match usize::try_from(bytes) {
        Ok(0) => Err("must be more than nothing".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("more than this machine can address".to_owned()),
    }
}

/// A count of 1 or more.
pub fn positive_count(text: &str) -> Result<u64, String> {
    const FORM: &str = "write a whole number, as 5000, 100K, 10M or 2G";
    match parse(text, &COUNT_UNITS) {
        Ok(0) => Err("must be more than none".to_owned()),
        Ok(count) if count > COUNT_MAX => Err(format!("more than {}G is not possible", COUNT_MAX / 1_000_000_000)),
        Ok(count) => Ok(count),
        Err(wrong) => Err(format!("{wrong}: {FORM}")),
    }
}

/// A finite number above 0.
pub fn positive_number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("must be a number above 0".to_owned()),
    }
}

/// A number above 0 and at most 1.
pub fn share(text: &str) -> Result<f64, String> {
    positive_number(text).ok().filter(|share| *share <= 1.0).ok_or("must be above 0 and at most 1".to_owned())
}

/// How long a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunTime {
    /// Until the input ends or somebody stops it.
    Forever,
    /// Then it is stopped, with a final checkpoint.
    For(Duration),
}

/// A duration in its largest unit that divides it, as `duration` reads it.
pub fn shown_ms(ms: i64) -> String {
    let fitting = DURATION_UNITS.iter().rev().find(|(_, unit)| ms % *unit as i64 == 0 && ms >= *unit as i64);
    let (name, unit) = fitting.unwrap_or(&DURATION_UNITS[0]);
    format!("{}{name}", ms / *unit as i64)
}

/// `12,345,678`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2014-02-14 14:30:00.000`, proleptic Gregorian (H. Hinnant, `civil_from_days`).
pub fn shown_utc(ms: i64) -> String {
    let (days, ms) = (ms.div_euclid(86_400_000) + 719_468, ms.rem_euclid(86_400_000));
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("it does not begin with a number".to_owned());
    }
    let known = units.iter().find(|(name, _)| *name == unit);
    let known = known.ok_or_else(|| match unit {
        "" => "it has no unit".to_owned(),
        _ => format!("\"{unit}\" is no unit here"),
    })?;
    let scaled = number.parse::<u64>().ok().and_then(|number| number.checked_mul(known.1));
    scaled.ok_or_else(|| "the number is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert!(duration("10").unwrap_err().starts_with("it has no unit"));
        assert!(duration("-5m").unwrap_err().starts_with("it does not begin with a number"));
        assert!(duration("5 m").unwrap_err().contains("\" m\" is no unit here"));
        assert!(duration("99999999999999999999s").unwrap_err().starts_with("the number is too large"));
        assert!(duration("999999d").unwrap_err().contains("hundred years"));
        assert!(positive_duration("0ms").is_err());
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for ms in [1, 999, 1_000, 1_500, 60_000, 90_000, 3_600_000, 86_400_000] {
            assert_eq!(duration(&shown_ms(ms)), Ok(Duration::from_millis(ms as u64)), "{}", shown_ms(ms));
        }
        assert_eq!(shown_ms(0), "0ms");
        assert_eq!(shown_ms(300_000), "5m");
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(shown_utc(0), "1970-01-01 00:00:00.000");
        assert_eq!(shown_utc(1_392_388_200_123), "2014-02-14 14:30:00.123");
        assert_eq!(shown_utc(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(shown_utc(-1), "1969-12-31 23:59:59.999");
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size_bytes("512MiB"), Ok(512 << 20));
        assert!(size_bytes("512").unwrap_err().contains("512MiB"));
        assert!(size_bytes("512MB").unwrap_err().contains("\"MB\" is no unit here"));
        assert!(size_bytes("0KiB").is_err());
    }

    #[test]
    fn counts_may_have_a_thousand_for_unit() {
        assert_eq!(
            ["1", "100K", "10M", "2G"].map(positive_count),
            [Ok(1), Ok(100_000), Ok(10_000_000), Ok(2_000_000_000)]
        );
        assert_eq!(positive_count("0"), Err("must be more than none".to_owned()));
        assert!(positive_count("2000000G").unwrap_err().contains("not possible"));
        for text in ["", "-1", "1.5M", "10m", "99999999999999999999"] {
            assert!(positive_count(text).unwrap_err().contains("100K"), "{text}");
        }
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_run_time_may_be_forever() {
        assert_eq!(run_time("forever"), Ok(RunTime::Forever));
        assert_eq!(run_time("1h"), Ok(RunTime::For(Duration::from_secs(3_600))));
        assert!(run_time("sometimes").unwrap_err().contains("forever"));
    }

    #[test]
    fn numbers_are_finite_and_positive() {
        assert_eq!(positive_number("6"), Ok(6.0));
        for text in ["NaN", "inf", "0", "-1", "six"] {
            assert!(positive_number(text).is_err(), "{text}");
        }
        assert_eq!(share("1"), Ok(1.0));
        assert!(share("1.5").is_err());
    }
}
