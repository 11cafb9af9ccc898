//! What the tests send.

use ostrakon_guest::testing::Reply;
use serde_json::Value;

/// The cookie of a voter with this number.
pub(crate) fn cookie(voter: usize) -> String {
    format!("voter={voter:032x}")
}

/// The path in a reply that leads to another page.
pub(crate) fn location(reply: &Reply) -> String {
    assert_eq!(reply.status, 303, "{}", reply.text());
    reply.header("location").expect("a location").to_owned()
}

/// A poll's result, without what depends on time.
pub(crate) fn result(reply: &Reply) -> (u64, Value, Value) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let shown: Value = reply.json();
    let votes = shown["votes"].as_u64().expect("a number");
    (votes, shown["winners"].clone(), shown["rounds"].clone())
}
