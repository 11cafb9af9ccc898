//! A rate limiter: each path is a bucket of tokens, which fills again as time passes.

use std::time::Duration;

use ostrakon_guest::{
    Description, Error, Guest, Request, RequestHead, Response, Result, Route, Settings,
};

pub(crate) struct Limiter {
    capacity: u32,
    each: Duration,
}

impl Guest for Limiter {
    fn describe(_: Settings) -> Description {
        Description::new("limiter", "1.0.0")
    }

    fn new(settings: Settings) -> Result<Self, String> {
        let capacity = settings.parsed("capacity")?.unwrap_or(10);
        let each = settings.parsed("millis_per_token")?.unwrap_or(100);
        Ok(Self {
            capacity,
            each: Duration::from_millis(each),
        })
    }

    fn route(&self, head: &RequestHead) -> Route {
        Route::write(head.path())
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        let (bucket, now) = (request.store(), request.now());
        let full_at = bucket.get_json("full at")?.unwrap_or(now).max(now) + self.each;
        if full_at > now + self.each * self.capacity {
            return Err(Error::new(429, "rate_limited", "ask again later"));
        }
        bucket.set_json("full at", &full_at)?;
        Ok(Response::new(204))
    }
}
