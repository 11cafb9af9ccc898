//! The handler of the public port: from HTTP to the service and back.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread::LocalKey;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, LOCATION};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request,
};
use ostrakon_contract::contract;
use ostrakon_network::http::{Caller, Handler, Refusal, refusals as of_http};
use ostrakon_observe::metrics::{Access, Label as _, Limit, Metrics, Target};
use ostrakon_observe::trace::{Attribute, Open, Operation};
use ostrakon_settings::settings::Settings;
use ostrakon_shard::answers::refusals;
use ostrakon_shard::service::{Answer, Refused, Service};

#[cfg(test)]
mod counts;

use super::credentials::{ClientsPort, Credentials};
use crate::drain::Drain;

/// The ordinal of the shard that answered, or that is to be asked.
const SHARD: HeaderName = HeaderName::from_static("ostrakon-shard");
/// The number of the generation that answered.
const GENERATION: HeaderName = HeaderName::from_static("ostrakon-generation");

/// A number, and the header's value that it was formatted to.
type Formatted = RefCell<Option<(u64, HeaderValue)>>;

thread_local! {
    /// The numbers formatted last, whose values thousands of answers share. Per thread, so that no
    /// thread waits for another.
    static LAST_SHARD: Formatted = const { RefCell::new(None) };
    static LAST_GENERATION: Formatted = const { RefCell::new(None) };
}

/// A header's value for a number, which is `last` in most cases.
fn number(last: &'static LocalKey<Formatted>, number: u64) -> HeaderValue {
    last.with_borrow_mut(|last| match last {
        Some((of, value)) if *of == number => value.clone(),
        _ => {
            let value = HeaderValue::from(number);
            *last = Some((number, value.clone()));
            value
        }
    })
}

/// Answers the requests on the public port.
pub(super) struct Public {
    pub(super) service: Service,
    pub(super) drain: Drain,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clients: Credentials<ClientsPort>,
    pub(super) settings: Arc<ArcSwap<Settings>>,
}

impl Handler for Public {
    fn refuse(&self, head: &mut request::Parts, caller: &Caller) -> Option<Response<Bytes>> {
        if self.drain.is_refusing() {
            return Some(self.shutting_down());
        }
        if let Err(refusal) = self.clients.current().admit(head, caller) {
            return Some(self.unrouted(refusal));
        }
        // Checked before the request runs: the outcome of a write must be reported afterwards.
        let most = self.settings.load().http.max_replies_bytes;
        let replies = self.service.replies();
        if replies.are_full(caller.client().replies(), most) {
            self.metrics.request_refused(Limit::Replies);
            return Some(self.unrouted(refusals::REPLIES));
        }
        if head.uri.path().starts_with('/') {
            return None;
        }
        // `OPTIONS *` is about the host, not about a resource of the guest.
        if head.method == Method::OPTIONS && head.uri.path() == "*" {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Some(self.the_hosts(response));
        }
        Some(self.unrouted(of_http::BAD_REQUEST))
    }

    async fn leaving(&self) {
        self.drain.begun().await;
    }

    async fn call(&self, request: Request<Bytes>, caller: &Caller) -> Response<Bytes> {
        let Some(_in_flight) = self.drain.enter() else {
            return self.shutting_down();
        };
        let began = Instant::now();
        let (head, body) = request.into_parts();
        let version = head.version;
        if version == Version::HTTP_2 {
            // The caller checks only now whether the client has cancelled the request, which
            // costs the client two frames.
            let waits = self.metrics.not_yet_run();
            tokio::task::yield_now().await;
            waits.is_run();
        }
        let path = head
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let (trace, mut span) = self
            .service
            .tracer()
            .begin(&head.headers, Operation::Request);
        let request = Arc::new(contract::Request {
            method: head.method,
            path,
            headers: head.headers,
            body,
            trace,
            client: caller.client().clone(),
            kept: contract::Kept::default(),
        });
        let answer = self.service.answer(Arc::clone(&request)).await;
        if let Some(span) = &mut span {
            describe(span, &request, &answer);
        }
        let Answer {
            shard,
            route,
            generation,
            reply,
        } = answer;
        let (target, access) = match &route {
            Some(route) => (Target::from(&route.target), Access::from(route.access)),
            None => (Target::Unrouted, Access::Read),
        };
        let is_own = shard == self.service.ordinal();
        let reply = reply.and_then(|mut reply| {
            reply.body = self.hold(caller, &reply.headers, reply.body, (access, is_own))?;
            Ok(reply)
        });
        let mut response = match reply {
            Ok(reply) => {
                let mut response = Response::new(reply.body);
                *response.status_mut() = reply.status;
                *response.headers_mut() = reply.headers;
                response
            }
            Err(refused) => {
                self.count(&refused);
                let mut response = refused.response();
                if let Some(location) = refused.location() {
                    response.headers_mut().insert(LOCATION, location);
                }
                response
            }
        };
        let headers = response.headers_mut();
        headers.insert(SHARD, number(&LAST_SHARD, shard.into()));
        if let Some(generation) = generation {
            headers.insert(GENERATION, number(&LAST_GENERATION, generation));
        }
        // The client's next request then goes to another shard, while this one still serves.
        if self.drain.has_begun() && version < Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.metrics
            .request(target, access, response.status(), began.elapsed());
        if let Some(span) = &mut span {
            let status = u32::from(response.status().as_u16());
            span.set_attribute(Attribute::Status, status);
        }
        response
    }
}

/// Records in a request's span what it was and how it ended. The query is not recorded, because
/// it can contain private data.
fn describe(span: &mut Open, request: &contract::Request, answer: &Answer) {
    let path = request.path.split('?').next().unwrap_or_default();
    span.set_attribute(Attribute::Method, request.method.to_string());
    span.set_attribute(Attribute::Path, path.to_owned());
    let target = answer.route.as_ref().map(|route| &route.target);
    let target = target.map_or(Target::Unrouted, Target::from);
    span.name(format!(
        "{} {}",
        request.method,
        Target::VALUES[target.index()]
    ));
    answer.tell(span);
}

impl Public {
    fn shutting_down(&self) -> Response<Bytes> {
        self.metrics.request_refused(Limit::Draining);
        let mut response = self.unrouted(refusals::SHUTTING_DOWN);
        // The client must not retry here.
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn unrouted(&self, refusal: Refusal) -> Response<Bytes> {
        self.the_hosts(refusal.response())
    }

    /// Completes a response of the host that no guest was asked for.
    fn the_hosts(&self, mut response: Response<Bytes>) -> Response<Bytes> {
        let shard = number(&LAST_SHARD, self.service.ordinal().into());
        response.headers_mut().insert(SHARD, shard);
        let (target, access) = (Target::Unrouted, Access::Read);
        self.metrics
            .request(target, access, response.status(), std::time::Duration::ZERO);
        response
    }

    /// A reply's body, which counts with its headers until its client has taken it. If too many
    /// bytes are held already, a refusal instead. A read can be asked again. The outcome of a
    /// write in this shard must be reported, and the writer ran it only because there was room;
    /// many replies of other shards' writes can come back at once.
    fn hold(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        body: Bytes,
        (access, is_own): (Access, bool),
    ) -> Result<Bytes, Refused> {
        let limit = self.settings.load().http.max_replies_bytes;
        let (replies, of_one) = (self.service.replies(), caller.client().replies());
        if access == Access::Read {
            let held = replies.hold(of_one, (headers, body), limit);
            return held.ok_or(Refused::RepliesFull);
        }
        let limit = if is_own { usize::MAX } else { limit };
        let held = replies.hold_as_told(of_one, (headers, body), limit);
        held.ok_or(Refused::ReplyDropped)
    }

    /// Counts a request that a limit turned away.
    fn count(&self, refused: &Refused) {
        let limit = match refused {
            Refused::RepliesFull => Some(Limit::Replies),
            Refused::TooManySlow => Some(Limit::SlowReads),
            Refused::WriterFull => Some(Limit::WriterFull),
            Refused::WriterWait => Some(Limit::WriterWait),
            _ => None,
        };
        if let Some(limit) = limit {
            self.metrics.request_refused(limit);
        }
    }
}
