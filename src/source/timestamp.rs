//! Timestamps in text: ISO 8601 in UTC, or milliseconds since 1970.
//!
//! Accepted: `2014-02-14T14:30:00`, a blank instead of the `T`, fractional seconds (cut to milliseconds), a final `Z`; or an
//! integer, which is milliseconds since 1970. Years 0 to 9999, proleptic Gregorian. Other time zones, leap seconds and dates
//! that do not exist are refused.

/// Milliseconds since 1970 of 0000-01-01T00:00:00Z.
const MS_MIN: i64 = -62_167_219_200_000;
/// Milliseconds since 1970 of the last millisecond of the year 9999.
const MS_MAX: i64 = 253_402_300_799_999;

/// Milliseconds since 1970 as `text` says, or what is wrong with it.
pub fn parse_timestamp_ms(text: &[u8]) -> Result<i64, &'static str> {
    if let Some((date_time, b"" | b"Z")) = text.split_first_chunk()
        && let Some(ms) = PlainTime::read(date_time).and_then(|time| Some(time.day_ms()? + time.time_ms()?))
    {
        return Ok(ms);
    }
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        let ms = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        return ms
            .filter(|ms| (MS_MIN..=MS_MAX).contains(ms))
            .ok_or("outside the years 0 to 9999 (integers are milliseconds since 1970)");
    }
    let (date_time, rest) =
        text.split_at_checked(19).ok_or("expected YYYY-MM-DDThh:mm:ss or milliseconds since 1970")?;
    let number = |from: usize, to: usize| {
        date_time[from..to]
            .iter()
            .try_fold(0, |sum: i64, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let marks = [(4, b"--"), (7, b"--"), (10, b"T "), (13, b"::"), (16, b"::")];
    if !marks.iter().all(|&(at, either)| either.contains(&date_time[at])) {
        return Err("expected YYYY-MM-DDThh:mm:ss or milliseconds since 1970");
    }
    let fields =
        (|| Some([number(0, 4)?, number(5, 7)?, number(8, 10)?, number(11, 13)?, number(14, 16)?, number(17, 19)?]))();
    let [year, month, day, hour, minute, second] = fields.ok_or("expected digits between the separators")?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return Err("there is no such day");
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err("there is no such time of day");
    }
    let ms = fraction_ms(rest)?;
    Ok(days_since_1970(year, month, day) * 86_400_000 + ((hour * 60 + minute) * 60 + second) * 1000 + ms)
}

/// `YYYY-MM-DDThh:mm:ss`, or with a blank: digits and marks where they belong, the numbers not yet judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PlainTime {
    /// The bytes of the date: equal for equal days.
    day_text: (u64, u16),
    /// Century, year of the century, month, day.
    date: [u8; 4],
    /// Hour, minute, second.
    time: [u8; 3],
}

impl PlainTime {
    const LEN_BYTES: usize = 19;

    /// Eight bytes at a time: a digit leaves its number when the byte of a zero is taken off it, a mark leaves nothing.
    #[inline]
    fn read(text: &[u8; Self::LEN_BYTES]) -> Option<Self> {
        const DATE: u64 = u64::from_le_bytes(*b"0000-00-");
        const TIME: u64 = u64::from_le_bytes(*b"00\x0000:00");
        const SECOND: u32 = u32::from_le_bytes(*b"0:00");
        // What may be added to a byte before its high bit is set: to a digit up to nine, to a mark not one.
        const DATE_ROOM: u64 = u64::from_le_bytes([0x76, 0x76, 0x76, 0x76, 0x7f, 0x76, 0x76, 0x7f]);
        const TIME_ROOM: u64 = u64::from_le_bytes([0x76, 0x76, 0x7f, 0x76, 0x76, 0x7f, 0x76, 0x76]);
        const SECOND_ROOM: u32 = u32::from_le_bytes([0x76, 0x7f, 0x76, 0x76]);
        const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| text[at + byte]));
        if text[10] != b' ' && text[10] != b'T' {
            return None;
        }
        let (date_word, time_word) = (word(0), word(8) & !0xff_0000);
        let second_word = u32::from_le_bytes(std::array::from_fn(|byte| text[15 + byte]));
        let (date, time, second) = (date_word ^ DATE, time_word ^ TIME, second_word ^ SECOND);
        let wrong = (date.wrapping_add(DATE_ROOM) | date | time.wrapping_add(TIME_ROOM) | time) & HIGH_BITS;
        let wrong_second = (second.wrapping_add(SECOND_ROOM) | second) & HIGH_BITS as u32;
        if wrong != 0 || wrong_second != 0 {
            return None;
        }
        // Tens and ones together, in the byte of the tens.
        let date = date.wrapping_mul(10).wrapping_add(date >> 8).to_le_bytes();
        let time = time.wrapping_mul(10).wrapping_add(time >> 8).to_le_bytes();
        let second = second.wrapping_mul(10).wrapping_add(second >> 8).to_le_bytes();
        Some(Self {
            day_text: (date_word, time_word as u16),
            date: [date[0], date[2], date[5], time[0]],
            time: [time[3], time[6], second[2]],
        })
    }

    /// Milliseconds from 1970 to the beginning of the day, if there is such a day.
    #[inline]
    fn day_ms(&self) -> Option<i64> {
        let [century, year, month, day] = self.date.map(i64::from);
        let year = century * 100 + year;
        let exists = (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
        exists.then(|| days_since_1970(year, month, day) * 86_400_000)
    }

    /// Milliseconds from the beginning of the day, if there is such a time.
    #[inline]
    fn time_ms(&self) -> Option<i64> {
        let [hour, minute, second] = self.time.map(i64::from);
        (hour <= 23 && minute <= 59 && second <= 59).then_some(((hour * 60 + minute) * 60 + second) * 1000)
    }
}

/// Reads times that begin a text, one after the other. The day is worked out once for as long as it stays the same.
#[cfg(feature = "formats")]
#[derive(Clone, Debug, Default)]
pub struct LeadingTimes {
    day_text: (u64, u16),
    day_ms: i64,
}

#[cfg(feature = "formats")]
impl LeadingTimes {
    /// How much of the text a time is.
    pub const LEN_BYTES: usize = PlainTime::LEN_BYTES;

    /// Milliseconds since 1970 of the `YYYY-MM-DDThh:mm:ss` (or with a blank) that `text` begins with; `None` leaves it to
    /// `parse_timestamp_ms`.
    #[inline]
    pub fn leading_ms(&mut self, text: &[u8]) -> Option<i64> {
        let time = PlainTime::read(text.first_chunk()?)?;
        if time.day_text != self.day_text {
            self.day_ms = time.day_ms()?;
            self.day_text = time.day_text;
        }
        Some(self.day_ms + time.time_ms()?)
    }
}

/// What follows the seconds: nothing, `.123`, `Z`, `.123Z`.
fn fraction_ms(rest: &[u8]) -> Result<i64, &'static str> {
    let rest = rest.strip_suffix(b"Z").unwrap_or(rest);
    if rest.is_empty() {
        return Ok(0);
    }
    match rest.strip_prefix(b".") {
        Some(digits) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let places = digits.iter().chain(b"00").take(3);
            Ok(places.fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0')))
        }
        _ => Err("after the seconds only a fraction and Z may follow (times are UTC)"),
    }
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, counting years from March so that the leap day is the last (H. Hinnant, `days_from_civil`).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_any_place_of_a_plain_time_is_judged() {
        let plain = *b"2014-02-28T23:59:07";
        for place in 0..plain.len() {
            for byte in 0..=255 {
                let mut text = plain;
                text[place] = byte;
                let belongs = match plain[place] {
                    b'0'..=b'9' => byte.is_ascii_digit(),
                    b'T' => byte == b'T' || byte == b' ',
                    mark => byte == mark,
                };
                let time = PlainTime::read(&text);
                assert_eq!(time.is_some(), belongs, "{place} {byte}");
                if let Some(time) = time.filter(|_| text == plain) {
                    assert_eq!((time.date, time.time), ([20, 14, 2, 28], [23, 59, 7]));
                }
            }
        }
    }

    #[cfg(feature = "formats")]
    #[test]
    fn times_of_many_days_in_any_order_are_those_of_the_parser() {
        let mut times = LeadingTimes::default();
        for text in [
            "2014-02-28 23:59:59,",
            "2014-02-28T00:00:00",
            "2014-02-29 00:00:00",
            "2014-03-01 00:00:00",
            "2014-02-28 24:00:00",
            "0000-00-00 00:00:00",
            "0000-01-01 00:00:00",
            "2014-03-01 00:00:0",
            "",
        ] {
            let expected =
                text.get(..LeadingTimes::LEN_BYTES).and_then(|time| parse_timestamp_ms(time.as_bytes()).ok());
            assert_eq!(times.leading_ms(text.as_bytes()), expected, "{text}");
        }
    }

    fn ms(text: &str) -> i64 {
        parse_timestamp_ms(text.as_bytes()).unwrap()
    }

    #[test]
    fn iso_times_are_utc_with_t_or_blank_with_fraction_and_z() {
        let expected = 1_392_388_200_000;
        for text in ["2014-02-14 14:30:00", "2014-02-14T14:30:00", "2014-02-14T14:30:00Z", "2014-02-14 14:30:00.000Z"] {
            assert_eq!(ms(text), expected, "{text}");
        }
        assert_eq!(ms("2014-02-14T14:30:00.5"), expected + 500);
        assert_eq!(ms("2014-02-14T14:30:00.123999Z"), expected + 123);
    }

    #[test]
    fn integers_are_milliseconds_since_1970() {
        assert_eq!(ms("1392388200000"), 1_392_388_200_000);
        assert_eq!(ms("0"), 0);
        assert_eq!(ms("-1"), -1);
    }

    #[test]
    fn every_day_of_the_years_0_to_9999_follows_the_one_before() {
        let mut expected = MS_MIN;
        for year in 0..=9999 {
            for month in 1..=12 {
                for day in 1..=days_in_month(year, month) {
                    assert_eq!(days_since_1970(year, month, day) * 86_400_000, expected, "{year}-{month}-{day}");
                    expected += 86_400_000;
                }
            }
        }
        assert_eq!(expected, MS_MAX + 1);
    }

    #[test]
    fn times_before_1970_and_in_the_year_9999_work() {
        assert_eq!(ms("1969-12-31T23:59:59.999"), -1);
        assert_eq!(ms("0000-01-01T00:00:00"), MS_MIN);
        assert_eq!(ms("9999-12-31T23:59:59.999Z"), MS_MAX);
    }

    #[test]
    fn leap_days_exist_only_in_leap_years() {
        assert_eq!(ms("2000-03-01 00:00:00") - ms("2000-02-29 00:00:00"), 86_400_000);
        for text in ["1900-02-29 00:00:00", "2023-02-29 00:00:00", "2024-02-30 00:00:00", "2024-04-31 00:00:00"] {
            assert_eq!(parse_timestamp_ms(text.as_bytes()), Err("there is no such day"), "{text}");
        }
    }

    #[test]
    fn what_is_no_timestamp_is_refused() {
        for text in [
            "",
            "-",
            "x",
            "2014-02-14",
            "2014-02-14 14:30",
            "2014-02-14 24:00:00",
            "2014-02-14 14:60:00",
            "2014-02-14 14:30:60",
            "2014-13-01 00:00:00",
            "2014-00-01 00:00:00",
            "2014-01-00 00:00:00",
            "2014-02-14 14:30:00+01:00",
            "2014-02-14 14:30:00.",
            "2014-02-14 14:30:00.Z",
            "2014/02/14 14:30:00",
            "2o14-02-14 14:30:00",
            "1.5e3",
            "253402300800000",
            "99999999999999999999",
            "+1392388200000",
            "2014-02-14 14:30:00é",
        ] {
            assert!(parse_timestamp_ms(text.as_bytes()).is_err(), "{text}");
        }
    }
}
