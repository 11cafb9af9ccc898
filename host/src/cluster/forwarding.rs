//! Passing requests on to other shards.

use std::sync::Arc;

use super::message::{Ask, ForwardedRequest, Said};
use super::{AskError, Cluster};
use crate::contract::Request;
use crate::peers::RequestError;
use crate::service::{Boxed, Forwarded, Others, Part};
use crate::topology::{Ordinal, Passed};

impl Others for Cluster {
    fn forward<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        told: Option<Passed>,
    ) -> Boxed<'a, Forwarded> {
        Box::pin(async move {
            let Some(plan) = self.plan() else {
                return Forwarded::NotTaken("there is no plan yet".to_owned());
            };
            let ask = Ask::Forward {
                request: ForwardedRequest::new(request),
                told,
                plan,
            };
            match self.ask(at, &ask).await {
                Ok(Said::Answer { generation, reply }) => match reply.unpack() {
                    Some(reply) => Forwarded::Answered { generation, reply },
                    None => Forwarded::Unknown(AskError::Answer.to_string()),
                },
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
                Err(AskError::Request(error @ RequestError::NotSent(_))) => {
                    Forwarded::NotTaken(error.to_string())
                }
                Err(error) => Forwarded::Unknown(error.to_string()),
            }
        })
    }

    fn part<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
    ) -> Boxed<'a, Result<Part, String>> {
        Box::pin(async move {
            let ask = Ask::Part(ForwardedRequest::new(request));
            let away = |why: String| format!("shard {at} does not answer: {why}");
            match self.ask(at, &ask).await {
                Ok(Said::Part {
                    epoch,
                    is_whole,
                    reply,
                }) => {
                    let reply = reply.unpack();
                    let reply = reply.ok_or_else(|| away(AskError::Answer.to_string()))?;
                    Ok(Part {
                        shard: at.0,
                        epoch,
                        is_whole,
                        reply,
                    })
                }
                Ok(Said::Later(why)) => Err(away(why)),
                Ok(_) => Err(away(AskError::Answer.to_string())),
                Err(error) => Err(away(error.to_string())),
            }
        })
    }
}
