//! From a request's headers to its answer: reads the body within its limits and calls the handler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};

use super::bodies::{Bodies, Held, Unread};
use super::wire::Activity;
use super::{Caller, Handler, LiveLimits, Refusal};
use crate::metrics::{Limit, Metrics};

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Requests<H> {
    pub(super) handler: Arc<H>,
    pub(super) limits: LiveLimits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) bodies: Bodies,
    pub(super) caller: Arc<Caller>,
    pub(super) activity: Arc<Activity>,
}

impl<H: Handler> Requests<H> {
    /// Answers a request: with the handler's response, or with a refusal.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let _in_flight = self.activity.request();
        let (version, head) = (request.version(), request.method() == Method::HEAD);
        let mut response = match self.read(request).await {
            Ok((request, _held)) => self.call(request).await,
            Err(refused) => refused,
        };
        if version == Version::HTTP_2 {
            // The stream ends, not the connection: the header is HTTP/1's.
            response.headers_mut().remove(http::header::CONNECTION);
        }
        // Of what was not modified, the length is not known.
        if head && response.status() != StatusCode::NOT_MODIFIED {
            let length = response.body().len();
            response
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
            *response.body_mut() = Bytes::new();
        }
        response.map(Full::new)
    }

    /// The request with its body, which counts as long as it is held; or the answer that the
    /// request gets without a handler.
    async fn read(
        &self,
        request: Request<Incoming>,
    ) -> Result<(Request<Bytes>, Option<Held>), Response<Bytes>> {
        if let Some(refusal) = self.caller.unwelcome() {
            return Err(refusal.closing());
        }
        let (mut head, body) = request.into_parts();
        if let Some(response) = self.handler.refuse(&mut head, &self.caller) {
            return Err(response);
        }
        if body.is_end_stream() {
            return Ok((Request::from_parts(head, Bytes::new()), None));
        }
        let limits = **self.limits.load();
        if body.size_hint().lower() > limits.max_body_bytes as u64 {
            return Err(self.refuse(Limit::BodySize, Refusal::BodySize));
        }
        let body = Limited::new(body, limits.max_body_bytes);
        let body = self.bodies.read(body, limits.max_bodies_bytes);
        match tokio::time::timeout(limits.body_timeout, body).await {
            Ok(Ok((body, held))) => Ok((Request::from_parts(head, body), Some(held))),
            Ok(Err(Unread::Full)) => Err(self.refuse(Limit::Bodies, Refusal::Bodies)),
            Ok(Err(Unread::Body(error))) if error.is::<LengthLimitError>() => {
                Err(self.refuse(Limit::BodySize, Refusal::BodySize))
            }
            Ok(Err(Unread::Body(error))) => {
                tracing::debug!(peer = %self.caller.address(), %error, "request body was not read");
                Err(Refusal::BadRequest.closing())
            }
            Err(_) => Err(self.refuse(Limit::BodyTime, Refusal::BodyTime)),
        }
    }

    /// Runs the handler. Its panic is our bug, and this request's end only.
    async fn call(&self, request: Request<Bytes>) -> Response<Bytes> {
        let mut answer = pin!(self.handler.call(request, &self.caller));
        std::future::poll_fn(|context| {
            // Unwind safe: the future is not polled again, and what it shares is behind locks and
            // atomics that others use in any state they are left in.
            catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))).unwrap_or_else(|_| {
                tracing::error!(peer = %self.caller.address(), "a request's handler panicked");
                Poll::Ready(Refusal::Internal.response())
            })
        })
        .await
    }

    fn refuse(&self, limit: Limit, refusal: Refusal) -> Response<Bytes> {
        self.metrics.request_refused(limit);
        refusal.closing()
    }
}
