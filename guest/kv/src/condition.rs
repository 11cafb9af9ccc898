//! Conditional requests: RFC 9110, section 13.

use ostrakon_guest::{Error, Request, Result};

/// The preconditions of a request.
#[derive(Debug)]
pub(crate) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// The response to a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Whole,
    Unchanged,
}

impl Conditions {
    pub(crate) fn of(request: &Request) -> Result<Self> {
        Ok(Self {
            if_match: Tags::of(request, "if-match")?,
            if_none_match: Tags::of(request, "if-none-match")?,
        })
    }

    /// The response to a read of a value with this tag.
    pub(crate) fn read(&self, etag: &str) -> Result<Read> {
        self.matches(Some(etag))?;
        let known = self
            .if_none_match
            .as_ref()
            .is_some_and(|tags| tags.name_weakly(Some(etag)));
        Ok(if known { Read::Unchanged } else { Read::Whole })
    }

    /// Whether a value with this tag, or none, may be written.
    pub(crate) fn write(&self, etag: Option<&str>) -> Result<()> {
        self.matches(etag)?;
        match &self.if_none_match {
            Some(tags) if tags.name_weakly(etag) => {
                Err(failed("if-none-match: there is such a value"))
            }
            _ => Ok(()),
        }
    }

    fn matches(&self, etag: Option<&str>) -> Result<()> {
        match &self.if_match {
            Some(tags) if !tags.name_strongly(etag) => {
                Err(failed("if-match: the value is different, or there is none"))
            }
            _ => Ok(()),
        }
    }
}

fn failed(message: &'static str) -> Error {
    Error::new(412, "precondition_failed", message)
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    Any,
    List(Vec<Tag>),
}

/// An entity tag: `"abc"` or `W/"abc"`.
#[derive(Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    /// The tag with its quotes.
    opaque: String,
}

impl Tags {
    /// Reads all headers of a name as one list.
    fn of(request: &Request, name: &str) -> Result<Option<Self>> {
        let values = request.header(name);
        if values.is_empty() {
            return Ok(None);
        }
        let list = values.join(&b',');
        let tags = std::str::from_utf8(&list).ok().and_then(Self::parse);
        let message = || [name, " is * or a list of entity tags in double quotes"].concat();
        tags.map(Some)
            .ok_or_else(|| Error::new(400, "bad_precondition", message()))
    }

    fn parse(list: &str) -> Option<Self> {
        let mut rest = list.trim_ascii();
        if rest == "*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return (!tags.is_empty()).then_some(Self::List(tags));
            }
            let weak = rest.strip_prefix("W/");
            let (opaque, after) = weak.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
            if opaque.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
                return None;
            }
            tags.push(Tag {
                weak: weak.is_some(),
                opaque: ["\"", opaque, "\""].concat(),
            });
            rest = after.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
        }
    }

    /// Strong comparison: a weak tag equals no tag.
    fn name_strongly(&self, etag: Option<&str>) -> bool {
        self.name(etag, |tag| !tag.weak)
    }

    /// Weak comparison: only the text in quotes counts. The tags of this store are strong.
    fn name_weakly(&self, etag: Option<&str>) -> bool {
        self.name(etag, |_| true)
    }

    fn name(&self, etag: Option<&str>, counts: impl Fn(&Tag) -> bool) -> bool {
        etag.is_some_and(|etag| match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|tag| counts(tag) && tag.opaque == etag),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, expected: &[(bool, &str)]) {
        let tags = expected.iter().map(|&(weak, opaque)| Tag {
            weak,
            opaque: opaque.to_owned(),
        });
        assert_eq!(
            Tags::parse(list),
            Some(Tags::List(tags.collect())),
            "{list}"
        );
    }

    #[test]
    fn lists_of_tags_are_read() {
        check(r#""a""#, &[(false, r#""a""#)]);
        check(
            r#" "a" , W/"b","c,d" "#,
            &[(false, r#""a""#), (true, r#""b""#), (false, r#""c,d""#)],
        );
        check(r#",,"a",,"""#, &[(false, r#""a""#), (false, r#""""#)]);
        assert_eq!(Tags::parse(" * "), Some(Tags::Any));
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused() {
        for list in [
            "",
            " , ",
            "a",
            r#""a"#,
            r#""a" "b""#,
            r#"w/"a""#,
            r#"*, "a""#,
            r#""a b""#,
            "é",
        ] {
            assert_eq!(Tags::parse(list), None, "{list}");
        }
    }
}
