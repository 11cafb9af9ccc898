//! What others ask of this shard.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use super::Cluster;
use super::message::{Ask, Asked, ForwardedReply, ForwardedRequest, Said};
use crate::lane::{Change, ChangeError, Changed};
use crate::peers::{Handler, Identity};
use crate::service::{Answer, Service};
use crate::topology::{Authority, Ordinal, Passed, Plan, Received};

/// Answers peers.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) cluster: Cluster,
    pub(super) service: Service,
}

impl Handler for Answering {
    async fn call(&self, peer: Identity, body: Bytes) -> Bytes {
        let said = match postcard::from_bytes(&body) {
            Ok(Asked { cluster, ask }) => match self.cluster.foreign(cluster) {
                Some(own) => Said::Foreign(own),
                None => self.answer(&peer, ask).await,
            },
            Err(_) => Said::Later("the host here does not understand this".to_owned()),
        };
        let said = postcard::to_stdvec(&said).expect("an answer can always be encoded");
        Bytes::from(said)
    }
}

impl Answering {
    async fn answer(&self, peer: &Identity, ask: Ask) -> Said {
        if let Some(by) = self.cluster.hear(peer).await {
            return Said::Superseded(by);
        }
        match ask {
            Ask::Forward {
                request,
                told,
                plan,
            } => self.forwarded(peer, request, told, plan).await,
            Ask::Part(request) => {
                let Some((request, _span)) = request.unpack(self.service.tracer()) else {
                    return Said::Later("the request is not one".to_owned());
                };
                match self.service.part(&Arc::new(request)).await {
                    Ok(part) => Said::Part {
                        moved: part.moved,
                        reply: ForwardedReply::of(&part.reply),
                    },
                    Err(refused) => Said::Later(refused.to_string()),
                }
            }
            Ask::Hold => match self.cluster.hold_here().await {
                Ok(()) => Said::Done,
                Err(why) => Said::Later(why),
            },
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
                let source = Ordinal(peer.ordinal);
                self.cluster.measured().hear(source, progress);
                self.cluster.coordinator().done(source, epoch);
                self.cluster.0.news.notify_one();
                Said::Plan(self.cluster.plan())
            }
            Ask::Generation(digest) => Said::Generation(self.cluster.0.guests.files(digest)),
        }
    }

    /// Answers a client's request that a peer passed on.
    async fn forwarded(
        &self,
        peer: &Identity,
        request: ForwardedRequest,
        told: Option<Passed>,
        plan: Plan,
    ) -> Said {
        let Some((request, mut span)) = request.unpack(self.service.tracer()) else {
            return Said::Later("the request is not one".to_owned());
        };
        if let Some(span) = &mut span {
            span.say("ostrakon.peer", peer.ordinal);
        }
        if let Err(later) = self.learn(peer, plan).await {
            return later;
        }
        let request = Arc::new(request);
        match self.service.answer_here(&request, told.as_ref()).await {
            Ok(answer) => {
                if let Some(span) = &mut span {
                    answer.tell(span);
                }
                said(answer)
            }
            Err(authority) => self.elsewhere(authority),
        }
    }

    /// Learns the plan that came with what a peer asks. A shard that knows none takes
    /// it from the coordinator alone: any other peer's may be an older one, by which
    /// it would answer for what is another's.
    async fn learn(&self, peer: &Identity, plan: Plan) -> Result<(), Said> {
        let knows_none = self.cluster.plan().is_none();
        if knows_none && Ordinal(peer.ordinal) != Ordinal::COORDINATOR {
            let why = "this shard has not yet learned where partitions are";
            return Err(Said::Later(why.to_owned()));
        }
        let learned = self.cluster.learn(plan).await;
        learned.map_err(|error| Said::Later(error.to_string()))
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
