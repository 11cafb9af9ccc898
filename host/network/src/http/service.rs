//! From a request's headers to its answer: reads the body within its limits and calls the handler.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body_util::{LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use ostrakon_observe::metrics::{Limit, Metrics};

use super::bodies::{self, Unread};
use super::date::date;
use super::sums::{Held, Sums};
use super::taken::{self, Taken};
use super::together::HeadAlone;
use super::wire::{Activity, InFlight};
use super::{Caller, Handler, LiveLimits, Refusal, head, heads, refusals, streams, unwanted};

/// State shared by a connection's requests.
#[derive(Debug)]
pub(super) struct Requests<H> {
    pub(super) handler: Arc<H>,
    pub(super) limits: LiveLimits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) heads: Sums,
    pub(super) bodies: Sums,
    pub(super) caller: Arc<Caller>,
    pub(super) activity: Arc<Activity>,
    pub(super) clock: fn() -> SystemTime,
}

/// A request whose head has arrived. It is counted until it is answered. If there is no room for
/// its head, only its body is kept.
struct Begun {
    request: Result<Request<Incoming>, Incoming>,
    version: Version,
    is_head: bool,
    _in_flight: InFlight,
    _held: Held,
}

impl<H: Handler> Requests<H> {
    /// Answers a request with the handler's response or with a refusal.
    ///
    /// The future is kept small: it is moved as a whole when a request begins, and each connection
    /// has room for one. So what few requests need is boxed, and no future is wrapped in another,
    /// which would hold it twice.
    pub(super) fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Taken>, Infallible>> + Send + use<H> {
        // Counted now and not when the future is polled, because more requests may arrive before
        // that.
        let begun = self.begin(request);
        Arc::clone(self).finish(begun)
    }

    fn begin(&self, request: Request<Incoming>) -> Begun {
        let (version, is_head) = (request.version(), request.method() == Method::HEAD);
        let (mut head, body) = request.into_parts();
        let in_flight = self.activity.request(heads::length(&head));
        let mut held = self.heads.share();
        let bound = heads::bound(self.limits.load().max_heads_bytes);
        let has_room = held.grow(heads::held_by(&head), bound);
        let request = if has_room {
            if version == Version::HTTP_2 {
                head.uri = heads::own(&head.uri);
            }
            Ok(Request::from_parts(head, body))
        } else {
            held.release();
            Err(body)
        };
        Begun {
            request,
            version,
            is_head,
            _in_flight: in_flight,
            _held: held,
        }
    }

    async fn finish(self: Arc<Self>, begun: Begun) -> Result<Response<Taken>, Infallible> {
        let (version, head) = (begun.version, begun.is_head);
        let read = match begun.request {
            Ok(request) => self.read(request).await,
            Err(body) => {
                if version == Version::HTTP_2 {
                    unwanted::discard(body);
                }
                Err(self.refuse(Limit::Heads, refusals::HEADS))
            }
        };
        // Its request may not have arrived completely.
        let is_early = read.is_err();
        let mut response = match read {
            Ok((request, _held)) => self.call(request).await,
            Err(refused) => refused,
        };
        if version == Version::HTTP_2 {
            // The header belongs to HTTP/1; in h2 only the stream ends.
            response.headers_mut().remove(CONNECTION);
        }
        response.headers_mut().insert(DATE, date((self.clock)()));
        let has_body = !matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        );
        let length = response.body().len();
        // An answer without a body keeps no length: it is unknown, or 0.
        if head && has_body {
            response
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        if !has_body || head || length == 0 {
            let unsent = std::mem::take(response.body_mut());
            if version == Version::HTTP_2 {
                taken::with_headers(response.headers_mut(), unsent);
            }
        } else if is_early && version == Version::HTTP_2 {
            streams::keep_while_polled(HeadAlone::of(&self.activity));
        }
        Ok(response.map(|body| match version {
            Version::HTTP_2 => Taken::followed(body, self.activity.untaken()),
            _ => Taken::whole(body),
        }))
    }

    /// The request with its body, which is counted as long as it is held; or the answer, if the
    /// request is answered without the handler.
    async fn read(
        &self,
        request: Request<Incoming>,
    ) -> Result<(Request<Bytes>, Option<Held>), Response<Bytes>> {
        let (mut head, mut body) = request.into_parts();
        match self.read_body(&mut head, &mut body).await {
            Ok((body, held)) => Ok((Request::from_parts(head, body), held)),
            Err(refused) => {
                if head.version == Version::HTTP_2 {
                    unwanted::discard(body);
                }
                Err(refused)
            }
        }
    }

    async fn read_body(
        &self,
        head: &mut request::Parts,
        body: &mut Incoming,
    ) -> Result<(Bytes, Option<Held>), Response<Bytes>> {
        if let Some(refusal) = self.caller.unwelcome() {
            return Err(refusal.closing());
        }
        if let Err(refusal) = head::check(head) {
            return Err(refusal.closing());
        }
        if let Some(mut response) = self.handler.refuse(head, &self.caller) {
            if head.version < Version::HTTP_2
                && !Box::pin(unwanted::is_over(head, body, &self.activity)).await
            {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            return Err(response);
        }
        if body.is_end_stream() {
            return Ok((Bytes::new(), None));
        }
        let (body, held) = Box::pin(self.read_within_limits(body)).await?;
        Ok((body, Some(held)))
    }

    async fn read_within_limits(
        &self,
        body: &mut Incoming,
    ) -> Result<(Bytes, Held), Response<Bytes>> {
        let limits = **self.limits.load();
        if body.size_hint().lower() > limits.max_body_bytes as u64 {
            return Err(self.refuse(Limit::BodySize, refusals::BODY_SIZE));
        }
        let body = Limited::new(body, limits.max_body_bytes);
        let mut held = self.bodies.share();
        let mut reading = self.activity.reading();
        let body = bodies::read(body, &mut held, limits.max_bodies_bytes);
        match tokio::time::timeout(limits.body_timeout, body).await {
            Ok(Ok(body)) => {
                reading.is_read(body.len());
                Ok((body, held))
            }
            Ok(Err(Unread::Full)) => Err(self.refuse(Limit::Bodies, refusals::BODIES)),
            Ok(Err(Unread::Body(error))) if error.is::<LengthLimitError>() => {
                Err(self.refuse(Limit::BodySize, refusals::BODY_SIZE))
            }
            Ok(Err(Unread::Body(_))) if self.activity.is_overfull() => {
                Err(self.refuse(Limit::Heads, refusals::HEADS))
            }
            Ok(Err(Unread::Body(error))) => {
                tracing::debug!(client = %self.caller.address(), %error, "request body was not read");
                Err(refusals::BAD_REQUEST.closing())
            }
            Err(_) => Err(self.refuse(Limit::BodyTime, refusals::BODY_TIME)),
        }
    }

    /// Runs the handler. A panic is a bug in the host, and ends only this request.
    async fn call(&self, request: Request<Bytes>) -> Response<Bytes> {
        let mut answer = pin!(self.handler.call(request, &self.caller));
        std::future::poll_fn(|context| {
            // Unwind safe: the future is not polled again, and its shared state is behind locks
            // and atomics that stay valid in any state a panic leaves.
            catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))).unwrap_or_else(|_| {
                tracing::error!(client = %self.caller.address(), "a request's handler panicked");
                Poll::Ready(refusals::INTERNAL.response())
            })
        })
        .await
    }

    fn refuse(&self, limit: Limit, refusal: Refusal) -> Response<Bytes> {
        self.metrics.request_refused(limit);
        refusal.closing()
    }
}
