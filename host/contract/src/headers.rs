//! The memory that headers hold.

use http::HeaderMap;

/// The memory of a header's slot in the map with its share of the index; of each further value of
/// the same name; and the overhead of an allocation beyond its bytes.
const PLACE: usize = 112;
const MORE: usize = 72;
const ALLOCATION: usize = 16;

/// The number of bytes that headers hold: a header of a few bytes takes many times as much
/// memory.
pub fn held_by(headers: &HeaderMap) -> usize {
    let strings: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 2 * ALLOCATION)
        .sum();
    strings + headers.capacity() * PLACE + (headers.len() - headers.keys_len()) * MORE
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn short_headers_count_as_what_they_hold_and_not_as_what_they_say() {
        let mut headers = HeaderMap::new();
        assert_eq!(held_by(&headers), 0);
        for number in 0..900 {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            headers.append(name, HeaderValue::from_static(""));
        }
        assert!(held_by(&headers) > 900 * PLACE);
        let mut headers = HeaderMap::new();
        for _ in 0..900 {
            headers.append("x", HeaderValue::from_static(""));
        }
        assert!(held_by(&headers) > 900 * MORE);
    }
}
