//! Timestamps in text: ISO 8601 in UTC, or milliseconds since 1970.
//!
//! Accepted: `2014-02-14T14:30:00`, a blank instead of the `T`, fractional seconds (cut to milliseconds), a final `Z`; or an
//! integer, which is milliseconds since 1970. Years 0 to 9999, proleptic Gregorian. Other time zones, leap seconds and dates
//! that do not exist are refused.

use std::cell::Cell;

/// Milliseconds since 1970 of 0000-01-01T00:00:00Z.
const MS_MIN: i64 = -62_167_219_200_000;
/// Milliseconds since 1970 of the last millisecond of the year 9999.
const MS_MAX: i64 = 253_402_300_799_999;

/// Milliseconds since 1970 as `text` says, or what is wrong with it.
#[inline]
pub fn parse_timestamp_ms(text: &[u8]) -> Result<i64, &'static str> {
    if let Some((date_time, b"" | b"Z")) = text.split_first_chunk()
        && let Some(ms) = plain_time_ms(date_time)
    {
        return Ok(ms);
    }
    any_timestamp_ms(text)
}

/// In any form.
fn any_timestamp_ms(text: &[u8]) -> Result<i64, &'static str> {
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
            .try_fold(0, |sum: u32, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
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
    Ok(days_since_1970(year, month, day) * 86_400_000 + i64::from((hour * 60 + minute) * 60 + second) * 1000 + ms)
}

/// How long `YYYY-MM-DDThh:mm:ss` is.
pub const PLAIN_LEN_BYTES: usize = 19;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Milliseconds since 1970 of `YYYY-MM-DDThh:mm:ss`, or with a blank; `None` when it is of another form, or there is no such time.
#[inline]
fn plain_time_ms(text: &[u8; PLAIN_LEN_BYTES]) -> Option<i64> {
    let is_date_and_time = text[10] == b' ' || text[10] == b'T';
    let day_text = (word(text, 0), u16::from_le_bytes([text[8], text[9]]));
    if !is_date_and_time {
        return None;
    }
    let (last_text, mut day) = LAST_DAY.get();
    if day_text != last_text {
        day = day_ms(day_text)?;
        LAST_DAY.set((day_text, day));
    }
    Some(day + time_of_day_ms(text)?)
}

thread_local! {
    /// The day last read and its milliseconds: times follow one another, and what reads a field of a record keeps nothing by itself.
    static LAST_DAY: Cell<(DayText, i64)> = const { Cell::new((EPOCH, 0)) };
}

/// The bytes of the date: equal for equal days.
type DayText = (u64, u16);

/// `1970-01-01`.
const EPOCH: DayText = (u64::from_le_bytes(*b"1970-01-"), u16::from_le_bytes(*b"01"));

/// Milliseconds from 1970 to the beginning of a day, if this is one.
#[inline]
fn day_ms((month, day): DayText) -> Option<i64> {
    const MONTH: u64 = u64::from_le_bytes(*b"0000-00-");
    // What may be added to a byte before its high bit is set: to a digit up to nine, to a mark not one.
    const MONTH_ROOM: u64 = u64::from_le_bytes([0x76, 0x76, 0x76, 0x76, 0x7f, 0x76, 0x76, 0x7f]);
    const DAY: u16 = u16::from_le_bytes(*b"00");
    let (month, day) = (month ^ MONTH, day ^ DAY);
    let is_wrong = (month.wrapping_add(MONTH_ROOM) | month) & HIGH_BITS != 0;
    let is_wrong = is_wrong || (day.wrapping_add(0x7676) | day) & HIGH_BITS as u16 != 0;
    // Tens and ones together, in the byte of the tens.
    let [century, _, year, _, _, month, ..] = month.wrapping_mul(10).wrapping_add(month >> 8).to_le_bytes();
    let [day, _] = day.wrapping_mul(10).wrapping_add(day >> 8).to_le_bytes();
    let (year, month, day) = (u32::from(century) * 100 + u32::from(year), u32::from(month), u32::from(day));
    // Most days are in every month.
    let is_in_month = day.wrapping_sub(1) < 28 || (29..=days_in_month(year, month)).contains(&day);
    let exists = !is_wrong && (1..=12).contains(&month) && is_in_month;
    exists.then(|| days_since_1970(year, month, day) * 86_400_000)
}

/// Milliseconds from the beginning of the day, if there is such a time.
#[inline(always)]
fn time_of_day_ms(text: &[u8; PLAIN_LEN_BYTES]) -> Option<i64> {
    const TIME: u64 = u64::from_le_bytes(*b"00:00:00");
    const TIME_ROOM: u64 = u64::from_le_bytes([0x76, 0x76, 0x7f, 0x76, 0x76, 0x7f, 0x76, 0x76]);
    // The same of hours, minutes and seconds.
    const LAST_ROOM: u64 = u64::from_le_bytes([0x7f - 23, 0, 0, 0x7f - 59, 0, 0, 0x7f - 59, 0]);
    let time = word(text, 11) ^ TIME;
    let numbers = time.wrapping_mul(10).wrapping_add(time >> 8) & 0x00ff_0000_ff00_00ff;
    let wrong = time.wrapping_add(TIME_ROOM) | time | numbers.wrapping_add(LAST_ROOM);
    if wrong & HIGH_BITS != 0 {
        return None;
    }
    // Hours and minutes lie 24 bits apart: between them the product has the hours' minutes and the minutes, times 60.
    let hours_and_minutes_s = (numbers & 0xffff_ffff).wrapping_mul(60 | 3600 << 24) >> 24 & 0xff_ffff;
    Some(((hours_and_minutes_s + (numbers >> 48)) * 1000).cast_signed())
}

/// Eight bytes, the first in the lowest.
#[inline(always)]
fn word(text: &[u8; PLAIN_LEN_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| text[at + byte]))
}

/// Milliseconds since 1970 of the `YYYY-MM-DDThh:mm:ss` (or with a blank) that `text` begins with; `None` leaves it to `parse_timestamp_ms`.
#[cfg(feature = "formats")]
#[inline]
pub fn leading_time_ms(text: &[u8]) -> Option<i64> {
    plain_time_ms(text.first_chunk()?)
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

fn is_leap(year: u32) -> bool {
    (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
}

#[inline]
fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 => 28 + u32::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, counting years from March so that the leap day is the last (C. Neri and L. Schneider, "Euclidean affine functions").
#[inline]
fn days_since_1970(year: u32, month: u32, day: u32) -> i64 {
    /// Of 400 years, which keep the year 0 from becoming negative.
    const DAYS_OF_ERA: i64 = 146_097;
    let (year, month) = if month <= 2 { (year + 399, month + 12) } else { (year + 400, month) };
    let century = year / 100;
    let days = 1461 * year / 4 - century + century / 4 + (979 * month - 2919) / 32 + day - 1;
    i64::from(days) - 719_468 - DAYS_OF_ERA
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
                // A digit may still make a day or an hour that there is not.
                let expected = belongs.then(|| any_timestamp_ms(&text).ok()).flatten();
                assert_eq!(plain_time_ms(&text), expected, "{place} {byte}");
            }
        }
    }

    #[cfg(feature = "formats")]
    #[test]
    fn times_of_many_days_in_any_order_are_those_of_the_parser() {
        for text in [
            "2014-02-28 23:59:59,",
            "2014-02-28T00:00:00",
            "2014-02-29 00:00:00",
            "2014-03-01 00:00:00",
            "2014-02-28 24:00:00",
            "0000-00-00 00:00:00",
            "0000-01-01 00:00:00",
            "1970-01-01 00:00:01",
            "\0\0\0\0\0\0\0\0\0\0 00:00:00",
            "2014-03-01 00:00:0",
            "",
        ] {
            let expected = text.get(..PLAIN_LEN_BYTES).and_then(|time| any_timestamp_ms(time.as_bytes()).ok());
            assert_eq!(leading_time_ms(text.as_bytes()), expected, "{text}");
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
