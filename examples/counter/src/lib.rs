//! A counter for each path: `POST` adds one, `GET` reads.

use ostrakon_guest::{
    Description, Error, Guest, Request, RequestHead, Response, Result, Route, Settings,
};

pub struct Counter;

ostrakon_guest::export!(Counter);

impl Guest for Counter {
    fn describe(_: Settings) -> Description {
        Description::new("counter", env!("CARGO_PKG_VERSION"))
    }

    fn new(_: Settings) -> Result<Self, String> {
        Ok(Self)
    }

    fn route(&self, head: &RequestHead) -> Route {
        match head.method() {
            "POST" => Route::write(head.path()),
            _ => Route::read(head.path()),
        }
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        let count: u64 = request.store().get_json("count")?.unwrap_or(0);
        match request.method() {
            "GET" | "HEAD" => Ok(Response::json(&count)),
            "POST" => {
                request.store().set_json("count", &(count + 1))?;
                Ok(Response::json(&(count + 1)))
            }
            _ => Err(Error::method_not_allowed("GET, HEAD, POST")),
        }
    }
}
