//! The `date` header, from the current wall clock.

use std::cell::RefCell;
use std::time::SystemTime;

use http::HeaderValue;
use ostrakon_base::unix_time::unix_time;

thread_local! {
    /// The second formatted last, and its text, which thousands of answers share. Per thread, so
    /// that no thread waits for another.
    static LAST: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
}

/// The header's value at a time. A clock that is set back is followed, too.
pub(super) fn date(now: SystemTime) -> HeaderValue {
    let second = unix_time(now).as_secs();
    LAST.with_borrow_mut(|last| match last {
        Some((of, value)) if *of == second => value.clone(),
        _ => {
            let value = HeaderValue::try_from(httpdate::fmt_http_date(now))
                .expect("a formatted date has only bytes that HTTP allows");
            *last = Some((second, value.clone()));
            value
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_date_follows_the_clock_forward_and_back() {
        const DAY: u64 = 24 * 60 * 60;
        let at = |days: u64, millis: u64| {
            let now = UNIX_EPOCH + Duration::from_secs(days * DAY) + Duration::from_millis(millis);
            date(now).to_str().unwrap().to_owned()
        };
        for (days, millis, shown) in [
            (20_000, 0, "Fri, 04 Oct 2024 00:00:00 GMT"),
            (20_000, 999, "Fri, 04 Oct 2024 00:00:00 GMT"),
            (20_000, 1_000, "Fri, 04 Oct 2024 00:00:01 GMT"),
            (20_060, 0, "Tue, 03 Dec 2024 00:00:00 GMT"),
            (20_000, 2_000, "Fri, 04 Oct 2024 00:00:02 GMT"),
            (20_000, 1_500, "Fri, 04 Oct 2024 00:00:01 GMT"),
            (0, 0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            assert_eq!(at(days, millis), shown, "{days} {millis}");
        }
    }
}
