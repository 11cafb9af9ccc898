//! Cookies that a response sets (RFC 6265).

use std::time::Duration;

use crate::Response;

/// A cookie for the whole site, which scripts cannot read, and which other sites' requests do not carry except for
/// links to this one (`Path=/; HttpOnly; SameSite=Lax`).
#[derive(Clone, Debug)]
pub struct Cookie(String);

impl Cookie {
    /// A cookie that lasts until the browser is closed.
    ///
    /// # Panics
    /// If the name or the value has characters that a cookie cannot have: white space, quotes, commas, semicolons,
    /// backslashes, or any outside ASCII. Encode such a value first.
    pub fn new(name: &str, value: &str) -> Self {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte);
        let is_valid = !name.is_empty()
            && name.bytes().all(|byte| is_plain(byte) && byte != b'=')
            && value.bytes().all(is_plain);
        assert!(is_valid, "a cookie cannot have this name or value");
        Self([name, "=", value, "; Path=/; HttpOnly; SameSite=Lax"].concat())
    }

    /// Makes the browser drop a cookie.
    pub fn removed(name: &str) -> Self {
        Self::new(name, "").max_age(Duration::ZERO)
    }

    /// How long the browser keeps the cookie, in whole seconds.
    #[must_use]
    pub fn max_age(self, age: Duration) -> Self {
        self.with(["Max-Age=", &age.as_secs().to_string()])
    }

    /// Makes the browser send the cookie over HTTPS only.
    #[must_use]
    pub fn secure(self) -> Self {
        self.with(["Secure", ""])
    }

    fn with(mut self, [name, value]: [&str; 2]) -> Self {
        for part in ["; ", name, value] {
            self.0.push_str(part);
        }
        self
    }
}

impl Response {
    /// Sets a cookie. A response may set several.
    #[must_use]
    pub fn cookie(self, cookie: Cookie) -> Self {
        self.header("set-cookie", cookie.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_written_as_browsers_read_it() {
        let cookie = Cookie::new("session", "abc")
            .max_age(Duration::from_mins(1))
            .secure();
        assert_eq!(
            cookie.0,
            "session=abc; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure"
        );
        let removed = Response::new(204).cookie(Cookie::removed("session"));
        assert_eq!(
            removed.headers[0].value,
            b"session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"
        );
    }

    #[test]
    #[should_panic(expected = "a cookie cannot have this name or value")]
    fn a_value_cannot_add_attributes() {
        let _cookie = Cookie::new("session", "abc; Domain=example.org");
    }
}
