//! Passing requests on to other shards.

use std::sync::Arc;

use ostrakon_contract::contract::Request;
use ostrakon_observe::trace::{Kind, Open};
use ostrakon_protocol::{Epoch, Ordinal, Passed};
use ostrakon_shard::service::{Boxed, Forwarded, Others, Part};
use tokio::time::Instant;

use super::message::{Ask, ForwardedRequest, Said};
use super::{AskError, Cluster};

impl Others for Cluster {
    fn forward<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        told: Option<Passed>,
        until: Instant,
    ) -> Boxed<'a, Forwarded> {
        Box::pin(async move {
            let Some(plan) = self.plan() else {
                return Forwarded::NotTaken("there is no plan yet".to_owned());
            };
            let mut span = hop(request, at, "forward");
            let within = until.saturating_duration_since(Instant::now());
            let ask = Ask::Forward {
                request: ForwardedRequest::new(request, span.as_ref()),
                told,
                plan,
                within: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            };
            let said = self.ask_until(at, &ask, Some(until)).await;
            if let (Some(span), Err(error)) = (&mut span, &said) {
                span.fail(error.to_string());
            }
            drop(span);
            match said {
                Ok(Said::Answer { generation, reply }) => match reply.unpack() {
                    Some(reply) => Forwarded::Answered { generation, reply },
                    None => Forwarded::Unknown(AskError::Answer.to_string()),
                },
                Ok(Said::Elsewhere { at, plan, .. }) if at >= plan.shards() => {
                    Forwarded::NotTaken(AskError::Answer.to_string())
                }
                Ok(Said::Elsewhere { at, passed, plan }) => {
                    // Whoever is behind learns.
                    if let Err(error) = self.learn(plan).await {
                        return Forwarded::NotTaken(error.to_string());
                    }
                    let at = Ordinal(at);
                    Forwarded::Elsewhere { at, passed }
                }
                Ok(Said::Later(why)) => Forwarded::NotTaken(why),
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
            match self.ask_until(at, &Ask::Hold, Some(until)).await {
                Ok(Said::Done) => Ok(()),
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
            match self.ask_until(at, &Ask::Learn(plan), Some(until)).await {
                Ok(Said::Plan(Some(_))) => Ok(epoch),
                said => Err(self.refusal(at, said)),
            }
        })
    }

    fn part<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        until: Instant,
    ) -> Boxed<'a, Result<Part, String>> {
        Box::pin(async move {
            let mut span = hop(request, at, "ask for a part");
            let ask = Ask::Part(ForwardedRequest::new(request, span.as_ref()));
            let said = self.ask_until(at, &ask, Some(until)).await;
            if let (Some(span), Err(error)) = (&mut span, &said) {
                span.fail(error.to_string());
            }
            drop(span);
            match said {
                Ok(Said::Part { moved, reply }) => {
                    let reply = reply.unpack();
                    let reply = reply.ok_or_else(|| self.refusal(at, Err(AskError::Answer)))?;
                    Ok(Part {
                        shard: at,
                        moved,
                        reply,
                    })
                }
                said => Err(self.refusal(at, said)),
            }
        })
    }
}

/// The span of asking another shard.
fn hop(request: &Request, at: Ordinal, name: &'static str) -> Option<Open> {
    let mut span = request.trace.span(name, Kind::Client)?;
    span.say("ostrakon.peer", at.0);
    Some(span)
}

impl Cluster {
    /// Why a shard did not do what it was asked.
    fn refusal(&self, at: Ordinal, said: Result<Said, AskError>) -> String {
        let why = match said {
            Ok(Said::Later(why)) => why,
            Ok(_) => AskError::Answer.to_string(),
            Err(error) => self.why_away(at, &error),
        };
        format!("shard {at} does not answer: {why}")
    }
}
