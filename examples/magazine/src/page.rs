//! What all pages have in common.

use ostrakon_guest::{Error, Request, Response, Result, html::escape, router::Call};
use sha2::{Digest, Sha256};

use crate::{Magazine, session};

const STYLE: &str = include_str!("style.css");

/// A page's title, which is empty on the front page, and the HTML of its main part.
pub(crate) struct Page<'a> {
    pub(crate) title: &'a str,
    pub(crate) main: String,
}

impl Magazine {
    pub(crate) fn html(&self, Page { title, main }: Page<'_>) -> String {
        let name = escape(&self.site.title);
        let tagline = escape(&self.site.tagline);
        let (full_title, heading) = match title {
            "" => (name.clone(), "h1"),
            title => (format!("{} – {name}", escape(title)), "p"),
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
            <meta name=\"viewport\" content=\"width=device-width\">\n<title>{full_title}</title>\n\
            <link rel=\"alternate\" type=\"application/atom+xml\" href=\"/feed.atom\" title=\"{name}\">\n\
            <link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n<body>\n\
            <a class=\"skip\" href=\"#main\">Skip to the content</a>\n\
            <header>\n<{heading} class=\"name\"><a href=\"/\">{name}</a></{heading}>\n<p>{tagline}</p>\n</header>\n\
            <main id=\"main\">\n{main}</main>\n\
            <footer>\n<nav aria-label=\"Site\"><a href=\"/\">Newest articles</a> <a href=\"/feed.atom\">Feed</a> \
            <a href=\"/editor\">Editor</a></nav>\n</footer>\n</body>\n</html>\n"
        )
    }

    /// A page for readers, who may keep it. It is the same for all of them.
    pub(crate) fn public(&self, call: &Call<'_>, page: Page<'_>) -> Response {
        fresh(call, "text/html; charset=utf-8", self.html(page))
    }

    /// A page for the editor, which nobody keeps.
    pub(crate) fn private(&self, page: Page<'_>) -> Response {
        Response::html(self.html(page)).header("cache-control", "no-store")
    }

    /// A page that says what is wrong. Nothing is stored.
    pub(crate) fn problem(&self, status: u16, title: &str, text: &str) -> Response {
        let main = format!("<h1>{}</h1>\n<p>{}</p>\n", escape(title), escape(text));
        self.private(Page { title, main }).status(status).discard()
    }

    /// # Errors
    /// If another site makes a visitor's browser send a form here.
    pub(crate) fn reject_other_sites(&self, request: &Request) -> Result<()> {
        let is_read = matches!(request.method(), "GET" | "HEAD");
        if !is_read && session::is_from_elsewhere(request, &self.site.base(request)) {
            let text = "this form was sent from another site: open it here, and send it again";
            return Err(Error::new(403, "other_site", text));
        }
        Ok(())
    }

    /// The response as it is sent: an error as a page, and each with the headers that all have.
    pub(crate) fn finished(&self, answer: Result<Response>) -> Response {
        let response = answer.unwrap_or_else(|error| {
            let text = match error.code() {
                "partition_full" => "the magazine is full: shorten an article or delete one".into(),
                _ => error.to_string(),
            };
            let page = self.problem(error.status(), title(error.status()), &sentence(&text));
            let mut response = Response::from(error);
            // It keeps the error's own headers, such as `allow`.
            response
                .headers
                .retain(|header| header.name != "content-type");
            response.headers.extend(page.headers);
            response.body = page.body;
            response
        });
        let has_policy = response
            .headers
            .iter()
            .any(|header| header.name == "content-security-policy");
        let response = response
            .header("x-content-type-options", "nosniff")
            // With `no-referrer`, browsers would not say where a form comes from.
            .header("referrer-policy", "same-origin");
        if has_policy {
            response
        } else {
            response.header("content-security-policy", policy())
        }
    }
}

/// A response whose version is a hash of it, so that it is right whatever the response depends on: articles, the
/// settings, this code, and the time at which an article appears.
pub(crate) fn fresh(call: &Call<'_>, content_type: &str, body: String) -> Response {
    let hash = Sha256::digest(body.as_bytes());
    Response::bytes(content_type, body).versioned(call, &hex(&hash[..16]))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
    digits.collect()
}

/// No scripts, nothing from elsewhere, and only this style.
fn policy() -> String {
    let style = base64(&Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; img-src 'self' data:; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; \
        frame-ancestors 'none'"
    )
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| {
            bits << 8 | three.get(at).copied().map_or(0, usize::from)
        });
        for digit in 0..4 {
            let is_used = digit <= three.len();
            let shown = DIGITS[bits >> (18 - 6 * digit) & 63];
            text.push(if is_used { shown.into() } else { '=' });
        }
    }
    text
}

fn title(status: u16) -> &'static str {
    match status {
        403 => "Not allowed",
        404 => "Not found",
        405 => "Not possible here",
        413 => "Too large",
        415 => "Not supported",
        507 => "Full",
        500.. => "Something failed",
        _ => "This cannot be done",
    }
}

/// A message as a sentence.
fn sentence(message: &str) -> String {
    let mut characters = message.chars();
    let first = characters
        .next()
        .map(|first| first.to_uppercase().to_string());
    [&first.unwrap_or_default(), characters.as_str(), "."].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
