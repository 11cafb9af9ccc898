//! `/rollback`: going back to a former generation.

use http::{StatusCode, Uri};

use super::NoAnswer;

const USAGE: &str =
    "ask for /rollback, or for /rollback?to=N, with the number of a generation as N";

/// The generation that the query names, if it names one.
pub(super) fn to(uri: &Uri) -> Result<Option<u64>, NoAnswer> {
    let Some(query) = uri.query() else {
        return Ok(None);
    };
    let number = query.strip_prefix("to=");
    let number = number.and_then(|number| number.parse().ok());
    number.map(Some).ok_or_else(|| NoAnswer {
        status: StatusCode::BAD_REQUEST,
        why: USAGE.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_named_by_its_number_or_not_at_all() {
        let of = |path: &str| to(&path.parse().unwrap());
        assert_eq!(of("/rollback"), Ok(None));
        assert_eq!(of("/rollback?to=5"), Ok(Some(5)));
        for wrong in [
            "/rollback?",
            "/rollback?to=",
            "/rollback?to=-1",
            "/rollback?to=five",
            "/rollback?to=5&to=6",
            "/rollback?from=5",
        ] {
            assert_eq!(of(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }
}
