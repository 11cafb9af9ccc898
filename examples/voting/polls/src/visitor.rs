//! Who votes, and from where: a browser is recognised by a cookie with a random id.

use std::time::Duration;

use ostrakon_guest::{Cookie, Error, Request, RequestHead, Response, Result, Settings};

use crate::poll::is_id;

const COOKIE: &str = "voter";
const YEAR: Duration = Duration::from_hours(365 * 24);

/// How browsers are recognised.
#[derive(Debug)]
pub(crate) struct Cookies {
    secure: bool,
}

impl Cookies {
    pub(crate) fn new(settings: Settings) -> Result<Self, String> {
        let secure = settings.parsed("secure-cookies")?.unwrap_or(false);
        Ok(Self { secure })
    }

    /// The response, which gives the browser an id if it has none.
    pub(crate) fn remembered(&self, request: &Request, response: Response) -> Response {
        if known(request).is_some() {
            return response;
        }
        let cookie = Cookie::new(COOKIE, &request.random_id()).max_age(YEAR);
        response.cookie(if self.secure { cookie.secure() } else { cookie })
    }
}

/// The browser's id, if it has one.
pub(crate) fn known(head: &RequestHead) -> Option<String> {
    head.cookie(COOKIE).filter(|id| is_id(id))
}

/// The browser's id, which it needs to vote: without one, a vote that is sent twice would count twice.
pub(crate) fn required(head: &RequestHead) -> Result<String> {
    known(head).ok_or_else(|| {
        let message = "Your browser sent no cookie, by which each browser has one vote. Allow cookies for this \
                       site, open the poll again, and vote there.";
        Error::new(403, "no_cookie", message)
    })
}

/// Rejects a request that changes something and that a page of another site made.
pub(crate) fn from_here(request: &Request) -> Result<()> {
    if matches!(request.method(), "GET" | "HEAD") {
        return Ok(());
    }
    let first = |name| {
        let value = request.header(name).into_iter().next()?;
        String::from_utf8(value).ok()
    };
    let is_ours = match (first("sec-fetch-site"), first("origin"), first("host")) {
        (Some(site), ..) => site == "same-origin" || site == "none",
        (None, Some(origin), Some(host)) => {
            let of = origin.split_once("://").map_or("", |(_, host)| host);
            of.eq_ignore_ascii_case(&host)
        }
        // Not a browser, or one whose address is unknown; `SameSite` keeps other sites from sending the cookie.
        (None, _, _) => true,
    };
    if is_ours {
        Ok(())
    } else {
        let message =
            "This form was sent from another site. Open the poll here, and send it again.";
        Err(Error::new(403, "other_site", message))
    }
}
