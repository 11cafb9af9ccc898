//! What others ask of this shard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use ostrakon_contract::client::{Client, Clients};
use ostrakon_contract::contract::Request;
use ostrakon_observe::trace::Open;
use ostrakon_peers::{Handler, Identity};
use ostrakon_protocol::{Authority, MOST_SHARDS, Ordinal, Passed, Plan, Received};
use ostrakon_shard::lane::{Change, ChangeError, Changed};
use ostrakon_shard::service::{Answer, Service};

use super::Cluster;
use super::message::{Ask, Asked, ForwardedReply, Said};

/// Why a request that was passed on is not answered.
const NO_REQUEST: &str = "the request is not one";

/// Answers the peer of one connection.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) cluster: Cluster,
    pub(super) service: Service,
    /// Whose requests peers pass on.
    pub(super) clients: Arc<Clients>,
    /// Where it calls from.
    pub(super) from: SocketAddr,
    /// Whether it is noted where it is.
    pub(super) is_noted: AtomicBool,
}

impl Handler for Answering {
    fn admit(&self, peer: &Identity) -> Result<(), String> {
        if peer.ordinal >= MOST_SHARDS {
            let most = MOST_SHARDS - 1;
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
        let said = match postcard::from_bytes::<Asked<Ask>>(&body) {
            Ok(asked) => {
                if let Some(own) = self.cluster.foreign(asked.cluster) {
                    Said::Foreign(own)
                } else {
                    client = self.client(&peer, &asked.ask).unwrap_or(client);
                    self.answer(&peer, &client, asked).await
                }
            }
            Err(_) => Said::Later("the host here does not understand this".to_owned()),
        };
        let said = postcard::to_stdvec(&said).expect("an answer can always be encoded");
        // Whoever asks for a client takes its replies as fast as the line is; until then they
        // count as what clients of this shard have not taken.
        let replies = self.service.replies();
        let said = (&HeaderMap::new(), Bytes::from(said));
        let held = replies.hold(client.replies(), said, usize::MAX);
        held.expect("without a bound all has room")
    }
}

impl Answering {
    /// For whom a peer asks, if for a client of its own.
    fn client(&self, peer: &Identity, ask: &Ask) -> Option<Client> {
        match ask {
            Ask::Forward { request, .. } | Ask::Part(request) => {
                Some(self.clients.of(peer.ordinal, request.client()))
            }
            _ => None,
        }
    }

    async fn answer(&self, peer: &Identity, client: &Client, asked: Asked<Ask>) -> Said {
        let source = Ordinal(peer.ordinal);
        if matches!(asked.ask, Ask::Heeded) {
            // A process that is not heeded asks it, too.
            return Said::Heeded(self.cluster.heeded(source));
        }
        if self.cluster.has_stopped() {
            let why = "this process must not go on serving its shard";
            return Said::Later(why.to_owned());
        }
        if let Some(unheeded) = self.cluster.hear(peer).await {
            return unheeded;
        }
        if self.cluster.is_past(peer, asked.heeds).await {
            return Said::Past;
        }
        if !self.is_noted.swap(true, Relaxed) {
            self.cluster.meet(peer, self.from.ip());
        }
        match asked.ask {
            Ask::Heeded => Said::Heeded(self.cluster.heeded(source)),
            Ask::HasGiven(epoch) if self.cluster.has_given(epoch) => Said::Done,
            Ask::HasGiven(_) => Said::Later("there are partitions to give away".to_owned()),
            Ask::Forward {
                request,
                told,
                plan,
                within,
            } => {
                let unpacked = request.unpack(self.service.tracer(), client.clone());
                let Some(unpacked) = unpacked else {
                    return Said::Later(NO_REQUEST.to_owned());
                };
                let within = Duration::from_millis(within);
                self.forwarded(peer, unpacked, told, plan, within).await
            }
            Ask::Part(request) => match request.unpack(self.service.tracer(), client.clone()) {
                Some((request, _span)) => self.part(request).await,
                None => Said::Later(NO_REQUEST.to_owned()),
            },
            Ask::Hold => match self.cluster.hold_here().await {
                Ok(()) => Said::Done,
                Err(why) => Said::Later(why),
            },
            Ask::Addresses => Said::Addresses(self.cluster.addresses()),
            Ask::Schema => Said::Schema(self.cluster.schema()),
            Ask::Plan => Said::Plan(self.cluster.plan()),
            Ask::Learn(plan) => match self.learn(peer, plan).await {
                Ok(()) => Said::Plan(self.cluster.plan()),
                Err(later) => later,
            },
            Ask::Receive {
                plan,
                batch,
                schema,
                partitions,
            } => {
                if batch.passed.source != source {
                    return Said::Later("the batch is another shard's".to_owned());
                }
                if let Err(later) = self.learn(peer, plan).await {
                    return later;
                }
                let number = batch.number;
                let receive = Change::Receive {
                    batch,
                    schema,
                    partitions,
                };
                let received = self.cluster.change(receive).await;
                let acknowledged = Said::Acknowledged {
                    number,
                    was_long: self.cluster.0.lane.was_long(),
                };
                match received {
                    Ok(Changed::Received(Received::Apply)) => acknowledged,
                    Ok(Changed::Received(Received::Known)) => {
                        tracing::debug!(peer = peer.ordinal, number, "a batch came again");
                        acknowledged
                    }
                    Ok(other) => Said::Later(format!("the batch is not taken: {other:?}")),
                    Err(error @ ChangeError::Unmigrated(..)) => {
                        tracing::warn!(peer = peer.ordinal, %error, "partitions are not taken");
                        Said::Later(error.to_string())
                    }
                    Err(error) => Said::Later(error.to_string()),
                }
            }
            Ask::Survey { shards, basis } => match self.cluster.survey_here(shards, basis).await {
                Ok(owners) => Said::Survey(owners),
                Err(why) => Said::Later(why),
            },
            Ask::Progress => Said::Progress(self.cluster.source()),
            Ask::Done(epoch, progress) => {
                self.cluster.measured().hear(source, progress);
                self.cluster.hear_done(source, epoch).await;
                Said::Plan(self.cluster.plan())
            }
            Ask::Generation(digest) => Said::Generation(self.cluster.0.guests.files(digest)),
        }
    }

    /// Answers a client's request to all shards for this one.
    async fn part(&self, request: Request) -> Said {
        match self.service.part(&Arc::new(request)).await {
            Ok(part) => Said::Part {
                moved: part.moved,
                reply: ForwardedReply::of(&part.reply),
            },
            Err(refused) => Said::Later(refused.to_string()),
        }
    }

    /// Answers a client's request that a peer passed on.
    async fn forwarded(
        &self,
        peer: &Identity,
        (request, mut span): (Request, Option<Open>),
        told: Option<Passed>,
        plan: Plan,
        within: Duration,
    ) -> Said {
        if let Some(span) = &mut span {
            span.say("ostrakon.peer", peer.ordinal);
        }
        if let Err(later) = self.learn(peer, plan).await {
            return later;
        }
        let request = Arc::new(request);
        let answer = self.service.answer_here(&request, told.as_ref(), within);
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

    /// Learns of the plan that came with what a peer asks.
    async fn learn(&self, peer: &Identity, plan: Plan) -> Result<(), Said> {
        let peer = Ordinal(peer.ordinal);
        match self.cluster.learn_of(peer, &plan).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let why = "this shard has not yet learned where partitions are";
                Err(Said::Later(why.to_owned()))
            }
            Err(error) => Err(Said::Later(error.to_string())),
        }
    }

    fn elsewhere(&self, authority: Authority) -> Said {
        match (authority, self.cluster.plan()) {
            (Authority::Elsewhere { at, passed }, Some(plan)) => Said::Elsewhere {
                at: at.0,
                passed,
                plan,
            },
            _ => Said::Later("its partitions have not arrived yet".to_owned()),
        }
    }
}

/// The answer to a client, to be sent as it is.
fn said(answer: Answer) -> Said {
    let response = match answer.reply {
        Ok(reply) => {
            return Said::Answer {
                generation: answer.generation,
                reply: ForwardedReply::of(&reply),
            };
        }
        Err(refused) => refused.response(),
    };
    let (head, body) = Response::into_parts(response);
    Said::Answer {
        generation: answer.generation,
        reply: ForwardedReply::new(head.status, &head.headers, body),
    }
}
