//! An error with its causes, in one line.

use std::error::Error;
use std::iter;

/// The error and its causes, each shown once: some errors already include the text of their
/// cause.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut causes = iter::successors(Some(error), |error| (*error).source());
    let mut line = causes.next().map(ToString::to_string).unwrap_or_default();
    for cause in causes {
        let words = cause.to_string();
        if !line.contains(&words) {
            line.push_str(": ");
            line.push_str(&words);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: Option<Box<Told>>,
    }

    fn told(text: &'static str, source: Option<Told>) -> Told {
        let source = source.map(Box::new);
        Told { text, source }
    }

    #[test]
    fn each_cause_is_told_once() {
        let disk = || told("no space left", None);
        let error = told(
            "cannot start",
            Some(told("cannot write: no space left", Some(disk()))),
        );
        assert_eq!(
            with_causes(&error),
            "cannot start: cannot write: no space left"
        );
        let error = told("cannot start", Some(disk()));
        assert_eq!(with_causes(&error), "cannot start: no space left");
        assert_eq!(with_causes(&disk()), "no space left");
    }
}
