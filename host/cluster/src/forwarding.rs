//! Forwards requests to other shards.

use std::sync::Arc;

use ostrakon_contract::contract::Request;
use ostrakon_observe::trace::{Attribute, Open, Operation};
use ostrakon_protocol::{Epoch, HandOff, Ordinal};
use ostrakon_shard::service::{Boxed, Forwarded, Gate, NoPart, Others, Part};
use tokio::time::Instant;

use super::message::{ForwardedRequest, PeerRequest, PeerResponse, millis};
use super::{AskError, Cluster};

impl Others for Cluster {
    fn gate(&self) -> &Gate {
        &self.0.gate
    }

    fn forward<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        hand_off: Option<HandOff>,
        until: Instant,
    ) -> Boxed<'a, Forwarded> {
        Box::pin(async move {
            let Some(plan) = self.plan() else {
                return Forwarded::NotTaken("there is no plan yet".to_owned());
            };
            let mut span = hop(request, at, Operation::Forward);
            let within = until.saturating_duration_since(Instant::now());
            let ask = PeerRequest::Forward {
                request: ForwardedRequest::new(request, span.as_ref(), self.at_least()),
                hand_off,
                plan,
                wait_ms: millis(within),
            };
            let said = self.ask_until(at, &ask, Some(until)).await;
            if let (Some(span), Err(error)) = (&mut span, &said) {
                span.fail(error.to_string());
            }
            drop(span);
            match said {
                Ok(PeerResponse::Answer { generation, reply }) => match reply.unpack() {
                    Some(reply) => Forwarded::Answered { generation, reply },
                    None => Forwarded::Unknown(AskError::Answer.to_string()),
                },
                Ok(PeerResponse::Elsewhere { at, plan, .. }) if at >= plan.shards() => {
                    Forwarded::NotTaken(AskError::Answer.to_string())
                }
                Ok(PeerResponse::Elsewhere { at, hand_off, plan }) => {
                    // This shard's plan may be the older one.
                    if let Err(error) = self.learn(plan).await {
                        return Forwarded::NotTaken(error.to_string());
                    }
                    let at = Ordinal(at);
                    Forwarded::Elsewhere { at, hand_off }
                }
                Ok(PeerResponse::Later { reason }) => Forwarded::NotTaken(reason),
                Ok(_) => Forwarded::Unknown(AskError::Answer.to_string()),
                Err(error) if error.is_not_run() => Forwarded::NotTaken(self.why_away(at, &error)),
                Err(error) => Forwarded::Unknown(error.to_string()),
            }
        })
    }

    fn hold(&self, at: Ordinal, until: Instant) -> Boxed<'_, Result<(), String>> {
        Box::pin(async move {
            if at == self.0.me {
                return self.hold_here().await;
            }
            match self.ask_until(at, &PeerRequest::Hold {}, Some(until)).await {
                Ok(PeerResponse::Done {}) => Ok(()),
                said => Err(self.refusal(at, said)),
            }
        })
    }

    fn tell(&self, at: Ordinal, until: Instant) -> Boxed<'_, Result<Epoch, String>> {
        Box::pin(async move {
            let Some(plan) = self.plan() else {
                return Err("there is no plan yet".to_owned());
            };
            let epoch = plan.epoch;
            match self
                .ask_until(at, &PeerRequest::UsePlan { plan }, Some(until))
                .await
            {
                Ok(PeerResponse::Plan { plan: Some(_) }) => Ok(epoch),
                said => Err(self.refusal(at, said)),
            }
        })
    }

    fn part<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        until: Instant,
    ) -> Boxed<'a, Result<Part, NoPart>> {
        Box::pin(async move {
            let mut span = hop(request, at, Operation::AskForAPart);
            let ask = PeerRequest::Part {
                request: ForwardedRequest::new(request, span.as_ref(), self.at_least()),
            };
            let said = self.ask_until(at, &ask, Some(until)).await;
            if let (Some(span), Err(error)) = (&mut span, &said) {
                span.fail(error.to_string());
            }
            drop(span);
            let malformed = || NoPart::Away(self.refusal(at, Err(AskError::Answer)));
            match said {
                Ok(PeerResponse::Part {
                    moved,
                    reply,
                    origin,
                }) => Ok(Part {
                    shard: at,
                    moved,
                    reply: reply.unpack().ok_or_else(malformed)?,
                    origin: origin.map(Into::into),
                }),
                Ok(PeerResponse::PartRefused { reply }) => {
                    Err(reply.unpack().map_or_else(malformed, NoPart::Refused))
                }
                said => Err(NoPart::Away(self.refusal(at, said))),
            }
        })
    }
}

/// The span of asking another shard.
fn hop(request: &Request, at: Ordinal, operation: Operation) -> Option<Open> {
    let mut span = request.trace.span(operation)?;
    span.set_attribute(Attribute::Peer, at.0);
    Some(span)
}

impl Cluster {
    /// Why a shard did not do what it was asked.
    fn refusal(&self, at: Ordinal, said: Result<PeerResponse, AskError>) -> String {
        let why = match said {
            Ok(PeerResponse::Later { reason }) => reason,
            Ok(_) => AskError::Answer.to_string(),
            Err(error) => return self.why_away(at, &error),
        };
        format!("shard {at} does not answer: {why}")
    }
}
