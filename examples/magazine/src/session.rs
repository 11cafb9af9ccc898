//! The editor's session: a cookie signed with the token, so that each shard can check it without the data of another.
//! It ends by itself, and all sessions end when the token is rotated.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use ostrakon_guest::{Cookie, Request, RequestHead, Secret};
use sha2::Sha256;

use crate::{page::hex, site::Site};

const COOKIE: &str = "magazine-session";
const LIFETIME: Duration = Duration::from_hours(12);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// The Secret has no token: nobody can sign in.
    Closed,
    Reader,
    Editor,
}

impl Session {
    pub(crate) fn of(request: &Request) -> Self {
        let Some(token) = token() else {
            return Self::Closed;
        };
        let cookie = request.cookie(COOKIE);
        let is_editor = cookie.is_some_and(|cookie| is_valid(&cookie, &token, request.now()));
        if is_editor {
            Self::Editor
        } else {
            Self::Reader
        }
    }
}

/// The cookie for one who knows the token.
pub(crate) fn begin(given: &str, now: Duration, site: &Site) -> Option<Cookie> {
    let token = token()?;
    let expected = signature(&token, &token).finalize().into_bytes();
    // Two signatures are compared in constant time, and tell nothing of the token's length.
    let given = signature(&token, given.trim().as_bytes());
    given.verify_slice(&expected).ok()?;
    let until = (now + LIFETIME).as_secs();
    let signature = signature(&token, signed(until).as_bytes()).finalize();
    let digits = hex(&signature.into_bytes());
    let cookie = Cookie::new(COOKIE, &format!("{until}.{digits}")).max_age(LIFETIME);
    Some(if site.is_secure() {
        cookie.secure()
    } else {
        cookie
    })
}

/// Makes the browser forget its session.
pub(crate) fn end() -> Cookie {
    Cookie::removed(COOKIE)
}

/// Whether a form comes from a page of another site.
pub(crate) fn is_from_elsewhere(head: &RequestHead, base: &str) -> bool {
    let first = |name| head.header(name).into_iter().next();
    if let Some(site) = first("sec-fetch-site") {
        return site != b"same-origin" && site != b"none";
    }
    // Browsers leave that header out over plain HTTP.
    let (Some(origin), host) = (first("origin"), first("host").unwrap_or_default()) else {
        return false;
    };
    let same = [&b"http://"[..], b"https://"].map(|scheme| [scheme, &host].concat());
    !same.contains(&origin) && origin != base.as_bytes()
}

fn token() -> Option<Vec<u8>> {
    let token = Secret::named("editor-token")?.reveal();
    let token = token.trim_ascii();
    (!token.is_empty()).then(|| token.to_vec())
}

fn signature(token: &[u8], text: &[u8]) -> Hmac<Sha256> {
    let mut signature =
        Hmac::<Sha256>::new_from_slice(token).expect("HMAC takes keys of any length");
    signature.update(text);
    signature
}

fn signed(until: u64) -> String {
    format!("magazine session until {until}")
}

fn is_valid(cookie: &str, token: &[u8], now: Duration) -> bool {
    let Some((until, digits)) = cookie.split_once('.') else {
        return false;
    };
    let Ok(until) = until.parse() else {
        return false;
    };
    let bytes: Option<Vec<u8>> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let signature = signature(token, signed(until).as_bytes());
    let is_signed = bytes.is_some_and(|bytes| signature.verify_slice(&bytes).is_ok());
    is_signed && now < Duration::from_secs(until)
}
