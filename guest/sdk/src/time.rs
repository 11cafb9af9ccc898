//! Times as texts. A time is what [`Request::now`](crate::Request::now) gives: a duration since 1970-01-01 UTC.

use std::time::Duration;

const DAY: u64 = 86_400;

/// A time in whole seconds, as in JSON, Atom and HTML: `2026-01-01T00:00:00Z` (RFC 3339).
pub fn rfc3339(time: Duration) -> String {
    let (seconds, days) = (time.as_secs() % DAY, time.as_secs() / DAY);
    let (year, month, day) = civil(days);
    let digit = |number: u64| char::from_digit((number % 10) as u32, 10).unwrap_or('0');
    let two = |number: u64| [digit(number / 10), digit(number)];
    let mut text = year.to_string();
    while text.len() < 4 {
        text.insert(0, '0');
    }
    for (mark, number) in [
        ('-', month),
        ('-', day),
        ('T', seconds / 3600),
        (':', seconds / 60 % 60),
        (':', seconds % 60),
    ] {
        text.push(mark);
        text.extend(two(number));
    }
    text.push('Z');
    text
}

/// The time of a text such as `2026-01-01T00:00:00Z` or, as forms send it, `2026-01-01T00:00`, in UTC. `None` if it is no
/// such text, or is before 1970.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once('T')?;
    let numbers = |text: &str, mark, lengths: &[usize]| {
        let parts: Vec<_> = text.split(mark).collect();
        let fit = parts.len() == lengths.len()
            && parts.iter().zip(lengths).all(|(part, length)| {
                part.len() == *length && part.bytes().all(|byte| byte.is_ascii_digit())
            });
        fit.then(|| {
            parts
                .iter()
                .filter_map(|part| part.parse().ok())
                .collect::<Vec<u64>>()
        })
    };
    let date = numbers(date, '-', &[4, 2, 2])?;
    let time = match numbers(time, ':', &[2, 2]) {
        Some(time) => time,
        None => numbers(time, ':', &[2, 2, 2])?,
    };
    let second = time.get(2).copied().unwrap_or(0);
    let [year, month, day] = date[..] else {
        return None;
    };
    let in_day = time[0] < 24 && time[1] < 60 && second < 60;
    if year < 1970 || !(1..=12).contains(&month) || !in_day {
        return None;
    }
    let days = days(year, month, day);
    // A day that its month does not have, such as February 30, is another day.
    if civil(days) != (year, month, day) {
        return None;
    }
    Some(Duration::from_secs(
        days * DAY + time[0] * 3600 + time[1] * 60 + second,
    ))
}

/// The date of a number of days after 1970-01-01, in the proleptic Gregorian calendar (Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    // A year that begins in March ends with the leap day. An era has 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// The number of days after 1970-01-01 of a date.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * from_march + 2) / 5 + day.max(1) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            let time = Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text);
            assert_eq!(parse(text), Some(time));
        }
        assert_eq!(parse("1970-01-01T00:01"), Some(Duration::from_mins(1)));
        for day in 0..400 * 366 {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2026",
            "2026-01-01",
            "2026-02-29T00:00",
            "2026-13-01T00:00",
            "2026-00-01T00:00",
            "2026-01-00T00:00",
            "2026-01-01T24:00",
            "2026-01-01T00:60",
            "2026-01-01T00:00:60",
            "2026-1-1T00:00",
            "1969-12-31T23:59",
            "2026-01-01T00:00+01:00",
            "+026-01-01T00:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
