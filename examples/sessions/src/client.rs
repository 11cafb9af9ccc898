//! How a request names its session, by its path or by a cookie, and whether it may.

use ostrakon_guest::{
    Error, RequestHead, Result,
    router::{Call, Params},
};

/// The name of the cookie.
pub(crate) const COOKIE: &str = "session";

/// How many digits of an id name its partition: there are 4,096 of them. A session whose client never comes back is
/// deleted by the next write to any session of its partition.
const PARTITION: usize = 3;
/// The digits of an id: those of the partition, and 128 random bits.
const ID: usize = PARTITION + 32;

pub(crate) fn gone(head: &RequestHead) -> Error {
    let message = "there is no such session, or it has expired: make one with POST /sessions";
    match head.query("missing") {
        // What nginx's `auth_request` passes on.
        Ok(Some(status)) if status == "401" => Error::new(401, "no_session", message),
        _ => Error::not_found(message),
    }
}

/// Any partition. `handle` makes the rest of the id: an id of `route` alone would be a partition alone, and nobody would
/// write to it again to delete it.
#[expect(clippy::unnecessary_wraps, reason = "the router's functions may fail")]
pub(crate) fn new_partition(head: &RequestHead, _: &Params) -> Result<Vec<u8>> {
    Ok(head.random_id()[..PARTITION].into())
}

pub(crate) fn by_path(head: &RequestHead, params: &Params) -> Result<Vec<u8>> {
    partition_of(head, params.param("id"))
}

pub(crate) fn by_cookie(head: &RequestHead, _: &Params) -> Result<Vec<u8>> {
    partition_of(head, &head.cookie(COOKIE).unwrap_or_default())
}

fn partition_of(head: &RequestHead, id: &str) -> Result<Vec<u8>> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if id.len() == ID && id.bytes().all(digit) {
        Ok(id[..PARTITION].into())
    } else {
        Err(gone(head))
    }
}

pub(crate) fn id(call: &Call<'_>) -> String {
    if is_by_path(call) {
        call.param("id").to_owned()
    } else {
        call.cookie(COOKIE).unwrap_or_default()
    }
}

pub(crate) fn is_by_path(call: &Call<'_>) -> bool {
    let segments = call.segments();
    segments.is_ok_and(|segments| segments.first().is_some_and(|first| first == "sessions"))
}

/// Refuses a request that a page of another site made a browser send with its cookies.
pub(crate) fn check_site(call: &Call<'_>) -> Result<()> {
    let first = |name| call.header(name).into_iter().next();
    let is_own = match (first("sec-fetch-site"), first("origin"), first("host")) {
        (Some(site), _, _) => site == b"same-origin" || site == b"none",
        (None, Some(origin), Some(host)) => origin.ends_with(&[b"://", &*host].concat()),
        (None, origin, _) => origin.is_none(),
    };
    if is_own {
        return Ok(());
    }
    Err(Error::new(
        403,
        "other_site",
        "this request was made by a page of another site",
    ))
}
