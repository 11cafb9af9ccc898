//! HTML forms: fields that a browser sends in a body.

use std::str::FromStr;

use crate::{Error, Request, Result, paths};

/// The fields of a form, in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Reads the body of a form as browsers send it by default (`application/x-www-form-urlencoded`).
    ///
    /// # Errors
    /// A malformed percent-encoding, as status 400.
    pub fn parse(body: &str) -> Result<Self> {
        let pairs = body.split('&').filter(|pair| !pair.is_empty());
        let fields = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((paths::decode_form(name)?, paths::decode_form(value)?))
        });
        fields.collect::<Result<_>>().map(Self)
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All values of a field, such as those of checkboxes with the same name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let fields = self.0.iter().filter(move |(known, _)| known == name);
        fields.map(|(_, value)| value.as_str())
    }

    /// The first value of a field, without white space around it.
    ///
    /// # Errors
    /// If there is none, or it is empty, as status 400.
    pub fn required(&self, name: &str) -> Result<&str> {
        let value = self.get(name).map(str::trim);
        value.filter(|value| !value.is_empty()).ok_or_else(|| {
            Error::bad_request(["the field `", name, "` is missing: fill it in"].concat())
        })
    }

    /// The first value of a field, read as a number or another type; `None` if it is missing or empty.
    ///
    /// # Errors
    /// If it is no such value, as status 400.
    pub fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let value = self.get(name).map(str::trim);
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|_| {
            Error::bad_request(["the field `", name, "` cannot be `", value, "`"].concat())
        })
    }
}

/// A field of a form with files (`multipart/form-data`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The field's name.
    pub name: &'a str,
    /// The file's name on the client's machine, if the field is a file.
    pub file_name: Option<&'a str>,
    /// The content type that the client gave.
    pub content_type: Option<&'a str>,
    /// The content.
    pub body: &'a [u8],
}

impl Request {
    /// The fields of a form that was sent in the body.
    ///
    /// # Errors
    /// If the body is not UTF-8 or its percent-encoding is malformed, as status 400; if the content type is that of
    /// something else, as 415.
    pub fn form(&self) -> Result<Form> {
        if let Some(of) = self.header("content-type").first()
            && !of
                .to_ascii_lowercase()
                .starts_with(b"application/x-www-form-urlencoded")
        {
            return Err(unsupported("application/x-www-form-urlencoded"));
        }
        let body = std::str::from_utf8(self.body());
        Form::parse(body.map_err(|_| Error::bad_request("the form is not UTF-8"))?)
    }

    /// The fields of a form with files (`multipart/form-data`, RFC 7578).
    ///
    /// # Errors
    /// If the body is malformed, as status 400; if the content type is that of something else, as 415.
    pub fn multipart(&self) -> Result<Vec<Field<'_>>> {
        let of = self
            .header("content-type")
            .into_iter()
            .next()
            .unwrap_or_default();
        let of = String::from_utf8(of).unwrap_or_default();
        let is_multipart = of.to_ascii_lowercase().starts_with("multipart/form-data");
        let boundary = parameter(&of, "boundary").filter(|_| is_multipart);
        let boundary = boundary.ok_or_else(|| unsupported("multipart/form-data"))?;
        fields(self.body(), boundary)
            .ok_or_else(|| Error::bad_request("the form is malformed or cut off: send it again"))
    }
}

fn unsupported(expected: &str) -> Error {
    let message = ["this takes a form of type ", expected].concat();
    Error::new(415, "unsupported_media_type", message)
}

/// The value of a parameter of a header's value, without quotes.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        let is_it = key.trim().eq_ignore_ascii_case(name);
        is_it.then(|| value.trim().trim_matches('"'))
    })
}

/// The fields between the boundaries; `None` if the body is malformed.
fn fields<'a>(body: &'a [u8], boundary: &str) -> Option<Vec<Field<'a>>> {
    let delimiter = ["\r\n--", boundary].concat();
    let delimiter = delimiter.as_bytes();
    let mut rest = match body.strip_prefix(&delimiter[2..]) {
        Some(rest) => rest,
        // Something may stand before the first boundary.
        None => split_at(body, delimiter)?.1,
    };
    let mut found = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Some(found);
        }
        let (part, after) = split_at(rest.strip_prefix(b"\r\n")?, delimiter)?;
        let (head, body) = split_at(part, b"\r\n\r\n")?;
        let head = std::str::from_utf8(head).ok()?;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let disposition = header("content-disposition")?;
        found.push(Field {
            name: parameter(disposition, "name")?,
            file_name: parameter(disposition, "filename"),
            content_type: header("content-type"),
            body,
        });
        rest = after;
    }
}

/// What is before and after the first occurrence of some bytes.
fn split_at<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut from = 0;
    loop {
        let first = from + bytes.get(from..)?.iter().position(|byte| *byte == at[0])?;
        if bytes[first..].starts_with(at) {
            return Some((&bytes[..first], &bytes[first + at.len()..]));
        }
        from = first + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_decoded_fields() {
        let form = Form::parse("q=What%3F+&option=a&option=b&n=7&empty=").expect("a form");
        assert_eq!(form.get("q"), Some("What? "));
        assert_eq!(form.required("q").unwrap(), "What?");
        assert_eq!(form.all("option").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(form.parsed::<u8>("n").unwrap(), Some(7));
        assert_eq!(form.parsed::<u8>("empty").unwrap(), None);
        assert_eq!(form.parsed::<u8>("q").unwrap_err().status(), 400);
        assert_eq!(form.required("empty").unwrap_err().status(), 400);
        assert_eq!(Form::parse("a=%q").unwrap_err().status(), 400);
    }

    #[test]
    fn a_form_with_files_has_their_bytes() {
        let body = b"before\r\n--x1\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nSoup\r\n--x1\r\n\
            content-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n\
            \x89PNG\r\n--x\0\r\n--x1--\r\n";
        let [title, image] = fields(body, "x1")
            .expect("a form")
            .try_into()
            .expect("two fields");
        assert_eq!(
            (title.name, title.file_name, title.body),
            ("title", None, &b"Soup"[..])
        );
        assert_eq!(
            (image.file_name, image.content_type),
            (Some("a.png"), Some("image/png"))
        );
        assert_eq!(image.body, b"\x89PNG\r\n--x\0");
        for cut in 0..body.len() - 4 {
            assert_eq!(fields(&body[..cut], "x1"), None, "{cut}");
        }
        assert_eq!(fields(b"--x1--", "x1"), Some(Vec::new()));
    }
}
