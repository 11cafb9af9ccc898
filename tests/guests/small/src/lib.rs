//! The least that a guest can be: what a swap of one costs.

use ostrakon_guest::{Description, Guest, Request, RequestHead, Response, Result, Route, Settings};

pub struct Small;

ostrakon_guest::export!(Small);

impl Guest for Small {
    fn describe(_: Settings) -> Description {
        Description::new("small", "1.0.0")
    }

    fn new(_: Settings) -> Result<Self, String> {
        Ok(Self)
    }

    /// Each path is a partition of its own.
    fn route(&self, head: &RequestHead) -> Route {
        Route::read(head.path())
    }

    /// The partition's value.
    fn handle(&self, request: &Request) -> Result<Response> {
        let value = request.store().get("value").unwrap_or_default();
        Ok(Response::bytes("application/octet-stream", value))
    }
}
