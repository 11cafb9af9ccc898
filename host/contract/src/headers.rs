//! What headers hold of memory.

use http::HeaderMap;

/// A header's place in the map, with its part of the index; one more value of the same name; and
/// what an allocation costs beyond its bytes.
const PLACE: usize = 112;
const MORE: usize = 72;
const ALLOCATION: usize = 16;

/// How many bytes headers hold: one of a few bytes takes many times as much in memory.
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
