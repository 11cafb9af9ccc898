//! Answers the requests of peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use ostrakon_contract::client::{Client, Clients};
use ostrakon_contract::contract::Request;
use ostrakon_observe::trace::{Attribute, Open};
use ostrakon_peers::{Handler, Identity};
use ostrakon_protocol::{Authority, Batch, HandOff, MAX_SHARDS, Ordinal, Plan, Received};
use ostrakon_settings::settings::MOST_BARRIER;
use ostrakon_shard::service::{Answer, Refused, Service};
use ostrakon_shard::writer::{Change, ChangeError, Changed};

use super::Cluster;
use super::message::{
    self, Address, Envelope, ForwardedReply, Partition, PeerRequest, PeerResponse, millis,
};

/// Answers the peer of one connection.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) cluster: Cluster,
    pub(super) service: Service,
    /// The clients whose requests peers forward.
    pub(super) clients: Arc<Clients>,
    /// The address that the peer calls from.
    pub(super) from: SocketAddr,
    /// Whether the peer's address is noted.
    pub(super) is_noted: AtomicBool,
}

impl Handler for Answering {
    fn admit(&self, peer: &Identity) -> Result<(), String> {
        if peer.ordinal >= MAX_SHARDS {
            let most = MAX_SHARDS - 1;
            return Err(format!(
                "no shard has the ordinal {}: {most} is the last",
                peer.ordinal
            ));
        }
        if Ordinal(peer.ordinal) == self.cluster.0.me {
            return Err(format!(
                "shard {} is here: see where your peers' names lead",
                peer.ordinal
            ));
        }
        Ok(())
    }

    async fn call(&self, peer: Identity, body: Bytes) -> Bytes {
        let mut client = Client::default();
        let said = match message::decode::<Envelope<PeerRequest>>(&body) {
            Ok(asked) => {
                if let Some(own) = self.cluster.foreign(asked.cluster) {
                    PeerResponse::Foreign { cluster: own }
                } else {
                    client = self.client(&peer, &asked.request).unwrap_or(client);
                    self.answer(&peer, &client, asked).await
                }
            }
            Err(error) => {
                let reason = format!("this shard does not know the request: {error}");
                PeerResponse::NotUnderstood { reason }
            }
        };
        // The peer takes replies as fast as the connection allows; until then they count as
        // replies that clients of this shard have not taken.
        let replies = self.service.replies();
        let said = (&HeaderMap::new(), message::encode(&said));
        let held = replies.hold(client.replies(), said, usize::MAX);
        held.expect("without a limit there is room")
    }
}

/// Whether a shard answers before a generation is live there.
fn is_about_a_start(request: &PeerRequest) -> bool {
    matches!(
        request,
        PeerRequest::Releases {}
            | PeerRequest::News {}
            | PeerRequest::Generation { .. }
            | PeerRequest::Addresses {}
    )
}

impl Answering {
    /// The client that a peer asks for, if the request is a client's.
    fn client(&self, peer: &Identity, request: &PeerRequest) -> Option<Client> {
        match request {
            PeerRequest::Forward { request, .. } | PeerRequest::Part { request } => {
                Some(self.clients.of(peer.ordinal, request.client()))
            }
            _ => None,
        }
    }

    async fn answer(
        &self,
        peer: &Identity,
        client: &Client,
        asked: Envelope<PeerRequest>,
    ) -> PeerResponse {
        let source = Ordinal(peer.ordinal);
        if matches!(asked.request, PeerRequest::Accepted {}) {
            // Answered to a process that is not accepted, too.
            return PeerResponse::Accepted {
                accepted: self.cluster.accepted(source),
            };
        }
        if self.cluster.has_stopped() {
            return later(&"this process must not go on serving its shard");
        }
        if let Some(refusal) = self.cluster.hear(peer).await {
            return refusal;
        }
        if self.cluster.is_past(peer, asked.accepts).await {
            return PeerResponse::Outdated {};
        }
        if !self.is_noted.swap(true, Relaxed) {
            self.cluster.meet(peer, self.from.ip());
        }
        if !is_about_a_start(&asked.request) && !self.cluster.is_live() {
            return later(&"no generation is live here yet");
        }
        match asked.request {
            PeerRequest::Accepted {} => PeerResponse::Accepted {
                accepted: self.cluster.accepted(source),
            },
            PeerRequest::HasGiven { epoch } if self.cluster.has_given(epoch) => {
                PeerResponse::Done {}
            }
            PeerRequest::HasGiven { .. } => later(&"there are partitions to give away"),
            PeerRequest::Forward {
                request,
                hand_off,
                plan,
                wait_ms,
            } => {
                let at_least = request.at_least();
                let unpacked = request.unpack(self.service.tracer(), client.clone());
                let Some(unpacked) = unpacked else {
                    return no_request();
                };
                let within = Duration::from_millis(wait_ms);
                let within = self.cluster.until_gone_over(at_least, within).await;
                self.forwarded(peer, unpacked, hand_off, plan, within).await
            }
            PeerRequest::Part { request } => {
                let at_least = request.at_least();
                let _rest = self.cluster.until_gone_over(at_least, MOST_BARRIER).await;
                match request.unpack(self.service.tracer(), client.clone()) {
                    Some((request, _span)) => self.part(request).await,
                    None => no_request(),
                }
            }
            PeerRequest::Hold {} => match self.cluster.hold_here().await {
                Ok(()) => PeerResponse::Done {},
                Err(why) => PeerResponse::Later { reason: why },
            },
            PeerRequest::Addresses {} => self.addresses(),
            PeerRequest::Releases {} => self.cluster.releases(),
            PeerRequest::News {} => {
                self.cluster.has_news(source);
                PeerResponse::Done {}
            }
            request @ (PeerRequest::HoldRequests { .. }
            | PeerRequest::IsHeld { .. }
            | PeerRequest::LetRequests { .. }) => self.barrier(source, request).await,
            PeerRequest::Schema {} => PeerResponse::Schema {
                schema: self.cluster.schema(),
            },
            PeerRequest::Plan {} => self.plan(),
            PeerRequest::UsePlan { plan } => match self.learn(peer, plan).await {
                Ok(()) => self.plan(),
                Err(later) => later,
            },
            PeerRequest::Receive {
                plan,
                batch,
                schema,
                partitions,
            } => self.receive(peer, plan, batch, schema, partitions).await,
            PeerRequest::Served { generations } => self.cluster.say_served(&generations),
            request @ (PeerRequest::Survey { .. } | PeerRequest::Rehearse { .. }) => {
                // Boxed: operators ask for it, and rarely.
                Box::pin(self.find_out(request)).await
            }
            PeerRequest::Progress {} => PeerResponse::Progress {
                source: self.cluster.source(),
            },
            PeerRequest::Done { epoch, progress } => {
                self.cluster.measured().hear(source, progress);
                self.cluster.hear_done(source, epoch).await;
                self.plan()
            }
            PeerRequest::Generation { digest } => PeerResponse::Generation {
                files: self.cluster.files(digest),
            },
        }
    }

    /// Finds something out for an operator.
    async fn find_out(&self, request: PeerRequest) -> PeerResponse {
        match request {
            PeerRequest::Survey { shards, basis } => {
                match self.cluster.survey_here(shards, basis).await {
                    Ok(owners) => PeerResponse::Survey { owners },
                    Err(why) => PeerResponse::Later { reason: why },
                }
            }
            PeerRequest::Rehearse { files, terms } => {
                self.cluster.rehearse_here(files, terms).await
            }
            _ => no_request(),
        }
    }

    /// Holds clients' requests, or lets them begin again.
    async fn barrier(&self, source: Ordinal, request: PeerRequest) -> PeerResponse {
        match request {
            PeerRequest::HoldRequests {
                candidate,
                hold,
                within_ms,
            } => {
                let within = Duration::from_millis(within_ms);
                let held = self
                    .cluster
                    .hold_requests(source, (candidate, hold), within);
                match held.await {
                    Ok(()) => PeerResponse::Done {},
                    Err(why) => PeerResponse::Later { reason: why },
                }
            }
            PeerRequest::IsHeld { candidate, hold } if !self.cluster.is_held(candidate, hold) => {
                later(&"no requests are held")
            }
            PeerRequest::LetRequests { candidate, hold } => {
                self.cluster.let_requests(source, candidate, hold);
                PeerResponse::Done {}
            }
            _ => PeerResponse::Done {},
        }
    }

    /// Stores a batch of partitions.
    async fn receive(
        &self,
        peer: &Identity,
        plan: Plan,
        batch: Batch,
        schema: u32,
        partitions: Vec<Partition>,
    ) -> PeerResponse {
        if batch.hand_off.source != Ordinal(peer.ordinal) {
            return later(&"the batch is another shard's");
        }
        if let Err(later) = self.learn(peer, plan).await {
            return later;
        }
        let partitions = partitions.into_iter().map(Partition::unpack).collect();
        let Some(partitions) = partitions else {
            let reason = "the partitions are malformed".to_owned();
            return PeerResponse::NotUnderstood { reason };
        };
        let number = batch.number;
        let receive = Change::Receive {
            batch,
            schema,
            partitions,
        };
        let received = self.cluster.change(receive).await;
        let acknowledged = PeerResponse::Acknowledged {
            number,
            was_long: self.cluster.0.writer.was_long(),
            rest_ms: self.cluster.0.writer.rest().map_or(0, millis),
        };
        match received {
            Ok(Changed::Received(Received::Apply)) => acknowledged,
            Ok(Changed::Received(Received::Known)) => {
                tracing::debug!(peer = peer.ordinal, number, "a batch came again");
                acknowledged
            }
            Ok(other) => later(&format!("the batch is not accepted: {other:?}")),
            Err(error @ ChangeError::Unmigrated(..)) => {
                tracing::warn!(peer = peer.ordinal, %error, "partitions from a peer could not be stored");
                later(&error)
            }
            Err(error) => later(&error),
        }
    }

    /// The plan that this shard follows.
    fn plan(&self) -> PeerResponse {
        PeerResponse::Plan {
            plan: self.cluster.plan(),
        }
    }

    /// The addresses from which peers have called this shard.
    fn addresses(&self) -> PeerResponse {
        let addresses = self.cluster.addresses().into_iter();
        PeerResponse::Addresses {
            addresses: addresses
                .map(|(ordinal, ip)| Address { ordinal, ip })
                .collect(),
        }
    }

    /// This shard's part of the answer to a client's request to all shards.
    async fn part(&self, request: Request) -> PeerResponse {
        match self.service.part(&Arc::new(request)).await {
            Ok(part) => PeerResponse::Part {
                moved: part.moved,
                reply: ForwardedReply::of(&part.reply),
                origin: part.origin.map(Into::into),
            },
            Err(refused) if refused.is_passing() => later(&refused),
            Err(refused) => PeerResponse::PartRefused {
                reply: refusal(&refused),
            },
        }
    }

    /// Answers a client's request that a peer forwarded.
    async fn forwarded(
        &self,
        peer: &Identity,
        (request, mut span): (Request, Option<Open>),
        hand_off: Option<HandOff>,
        plan: Plan,
        within: Duration,
    ) -> PeerResponse {
        if let Some(span) = &mut span {
            span.set_attribute(Attribute::Peer, peer.ordinal);
        }
        if let Err(later) = self.learn(peer, plan).await {
            return later;
        }
        let request = Arc::new(request);
        let answer = self
            .service
            .answer_here(&request, hand_off.as_ref(), within);
        match answer.await {
            Ok(answer) => {
                if let Some(span) = &mut span {
                    answer.tell(span);
                }
                said(answer)
            }
            Err(authority) => self.elsewhere(authority),
        }
    }

    /// Learns the plan that came with a peer's request.
    async fn learn(&self, peer: &Identity, plan: Plan) -> Result<(), PeerResponse> {
        let peer = Ordinal(peer.ordinal);
        match self.cluster.learn_of(peer, &plan).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let why = "this shard has not yet learned where partitions are";
                Err(later(&why))
            }
            Err(error) => Err(later(&error)),
        }
    }

    fn elsewhere(&self, authority: Authority) -> PeerResponse {
        match (authority, self.cluster.plan()) {
            (Authority::Elsewhere { at, hand_off }, Some(plan)) => PeerResponse::Elsewhere {
                at: at.0,
                hand_off,
                plan,
            },
            _ => later(&"its partitions have not arrived yet"),
        }
    }
}

/// The answer to a client, to be forwarded unchanged.
fn said(answer: Answer) -> PeerResponse {
    PeerResponse::Answer {
        generation: answer.generation,
        reply: match answer.reply {
            Ok(reply) => ForwardedReply::of(&reply),
            Err(refused) => refusal(&refused),
        },
    }
}

/// The reply to a client whose request is refused.
fn refusal(refused: &Refused) -> ForwardedReply {
    let (head, body) = refused.response().into_parts();
    ForwardedReply::new(head.status, &head.headers, body)
}

fn later(reason: &impl ToString) -> PeerResponse {
    PeerResponse::Later {
        reason: reason.to_string(),
    }
}

fn no_request() -> PeerResponse {
    PeerResponse::NotUnderstood {
        reason: "the client's request is malformed".to_owned(),
    }
}
