//! Requests to all shards: each shard answers from its own data, and the guest joins the
//! answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use ostrakon_contract::client::Client;
use ostrakon_contract::contract::{self, Reply, Request, Route};
use ostrakon_contract::replies::{Replies, Sum};
use ostrakon_engine::{Bound, Failure, ReadData};
use ostrakon_protocol::{Moved, Ordinal, Plan};
use tokio::time::{Instant, sleep, timeout_at};

use super::others::{NoPart, Part};
use super::reads::has_no_room;
use super::{Answer, Refused, Service};
use crate::writer::View;

/// How long to wait before asking the shards again when some could not answer: the first wait,
/// which doubles each time, up to the second.
const ASK_AGAIN: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(320)];

impl Service {
    /// Asks all shards and joins their answers. Succeeds only if all shards answer and no
    /// partition can be missing or counted twice.
    pub(super) async fn everywhere(
        &self,
        request: &Arc<Request>,
        route: Option<Route>,
        came: Instant,
    ) -> Answer {
        let Some((_waits, deadline)) = self.may_wait(came) else {
            let why = "too many requests wait for other shards".to_owned();
            return self.refused(route, Refused::Away(why));
        };
        let mut pause = ASK_AGAIN[0];
        loop {
            let Some(view) = self.writer.views().get() else {
                return self.refused(route, Refused::Starting);
            };
            let reply = self.gathered(&view, request, deadline).await;
            let reply = match reply {
                Ok(reply) => Ok(reply),
                Err(Unjoined::Answered(reply)) => Ok(*reply),
                Err(Unjoined::Refused(refused)) => Err(refused),
            };
            let may_wait = Instant::now() + pause < deadline;
            if matches!(reply, Err(Refused::Away(_))) && may_wait {
                sleep(pause).await;
                pause = (pause * 2).min(ASK_AGAIN[1]);
                continue;
            }
            return Answer {
                shard: self.ordinal,
                route,
                generation: Some(view.generation),
                reply,
            };
        }
    }

    async fn gathered(
        &self,
        view: &View,
        request: &Arc<Request>,
        deadline: Instant,
    ) -> Result<Reply, Unjoined> {
        let plan = view
            .membership
            .as_ref()
            .and_then(|membership| membership.shard.plan());
        let plan = plan.ok_or_else(|| {
            Refused::Away("it does not know yet how many shards there are".to_owned())
        })?;
        let reading = view.guest.settings().guest.read_deadline;
        let settings = view.guest.settings();
        let room = Room {
            most: settings.guest.max_memory,
            taken: AtomicUsize::new(0),
            replies: &self.replies,
            of_one: request.client.replies(),
            max_replies: settings.http.max_replies_bytes,
        };
        let parts = self
            .parts(plan, request, (deadline, reading), &room)
            .await?;
        let client = &request.client;
        let parts = parts.into_iter().map(|part| contract::Part {
            shard: part.shard.0,
            reply: part.reply,
            origin: part.origin,
        });
        let parts: Arc<Vec<_>> = Arc::new(parts.collect());
        let (guest, request) = (Arc::clone(&view.guest), Arc::clone(request));
        let (digest, shards) = (view.digest, view.shards());
        let call = move |bound| {
            let (guest, request, parts) =
                (Arc::clone(&guest), Arc::clone(&request), Arc::clone(&parts));
            async move {
                let mut lease = guest.lease(shards).await?;
                lease.gather(&request, &parts, digest, bound).await
            }
        };
        let joined = self.within_budget_or_apart(view, client, call, false);
        Ok(joined.await?)
    }

    /// The answer of each shard, in order, as far as there is room. The shards are asked until
    /// a deadline; their reads may then take a little longer.
    async fn parts(
        &self,
        plan: &Plan,
        request: &Arc<Request>,
        (until, reading): (Instant, Duration),
        room: &Room<'_>,
    ) -> Result<Vec<Part>, Unjoined> {
        let deadline = until + reading;
        let others = self.others.as_ref().ok_or(Refused::Starting)?;
        let shards = || (0..plan.shards()).map(Ordinal);
        if !plan.is_stable() {
            let held = shards().map(|shard| {
                let held = others.hold(shard, until);
                in_time(shard, deadline, async {
                    Ok::<_, Unjoined>(held.await.map_err(Refused::Away)?)
                })
            });
            try_join_all(held).await?;
        }
        let parts = shards().map(|shard| {
            let part = async move {
                if shard.0 == self.ordinal {
                    self.part(request).await.map_err(|refused| {
                        Unjoined::Refused(if refused.is_passing() {
                            Refused::Away(format!("shard {shard}: {refused}"))
                        } else {
                            refused
                        })
                    })
                } else {
                    let part = others.part(shard, request, until);
                    part.await.map_err(|none| match none {
                        NoPart::Away(why) => Refused::Away(why).into(),
                        NoPart::Refused(reply) => Unjoined::Answered(Box::new(reply)),
                    })
                }
            };
            let part = in_time(shard, deadline, part);
            async { Ok::<_, Unjoined>(room.take(part.await?)?) }
        });
        // The first failure ends the others: their answers are of no use.
        let parts = try_join_all(parts).await?;
        let moved: BTreeMap<_, _> = parts
            .iter()
            .map(|part| (part.shard, part.moved.clone()))
            .collect();
        let of_plan = parts.iter().all(|part| part.moved.epoch == plan.epoch);
        if of_plan && (plan.is_stable() || Moved::fit(&moved)) {
            return Ok(parts);
        }
        Err(Refused::Away("partitions are moving".to_owned()).into())
    }

    /// This shard's part of the answer to a request to all shards.
    ///
    /// # Errors
    /// Why the shard gives no part.
    pub async fn part(&self, request: &Arc<Request>) -> Result<Part, Refused> {
        let view = self.writer.views().get().ok_or(Refused::Starting)?;
        let membership = view.membership.as_ref().ok_or(Refused::Starting)?;
        let moved = membership
            .shard
            .moved(membership.store)
            .ok_or(Refused::Starting)?;
        let client = &request.client;
        let call = |bound| {
            let (view, request) = (Arc::clone(&view), Arc::clone(request));
            async move {
                let mut lease = view.lease().await?;
                let data = ReadData::Shard(Arc::clone(&view.snapshot));
                lease.read(&request, data, bound).await
            }
        };
        let taken = self.writer.stage().read(&view, request);
        let reply = self.within_budget_or_apart(&view, client, call, true).await;
        self.may_rehearse(taken, reply.as_ref().err());
        Ok(Part {
            shard: Ordinal(self.ordinal),
            moved,
            origin: Some(view.origin()),
            reply: reply?,
        })
    }

    /// Makes a call that has no effects: first within the short budget, and if it overruns,
    /// again from the start on a thread apart, within a read's whole deadline. Joining the
    /// parts of a listing reserves no room for replies, because the parts already hold it.
    async fn within_budget_or_apart<F>(
        &self,
        view: &View,
        client: &Client,
        call: impl Fn(Bound) -> F,
        needs_room: bool,
    ) -> Result<Reply, Refused>
    where
        F: Future<Output = Result<Reply, Failure>> + Send + 'static,
    {
        let settings = &view.guest.settings().guest;
        let turn = self.turn(client).await;
        if needs_room && has_no_room(&self.replies, view, client) {
            return Err(Refused::RepliesFull);
        }
        let called = call(Bound::Budget(settings.read_budget)).await;
        drop(turn);
        match called {
            Err(Failure::Deadline) => {
                self.metrics.slow_read();
                let deadline = settings.read_deadline;
                let again = call(Bound::Deadline(deadline));
                Ok(self.apart.run(client, deadline, again).await??)
            }
            done => Ok(done?),
        }
    }
}

/// Why there are no parts to join.
enum Unjoined {
    Refused(Refused),
    /// A shard refused its part for good; the client gets this reply.
    Answered(Box<Reply>),
}

impl From<Refused> for Unjoined {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// The room for the parts that are being collected. No more is collected than fits into the
/// guest's memory, and each part counts among the held replies as soon as it arrives.
struct Room<'a> {
    most: usize,
    taken: AtomicUsize,
    replies: &'a Replies,
    of_one: &'a Sum,
    max_replies: usize,
}

impl Room<'_> {
    /// Adds a part, or drops it where there is no room.
    fn take(&self, mut part: Part) -> Result<Part, Refused> {
        let headers = part.reply.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let bytes = part.reply.body.len() + headers;
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.most {
            return Err(Refused::Failed(Failure::Memory(format!(
                "the answers of all shards have more than {} bytes together (`guest.max_memory`)",
                self.most
            ))));
        }
        let body = std::mem::take(&mut part.reply.body);
        // The limit for one connection does not apply to parts: one listing alone can exceed
        // it.
        let said = (&part.reply.headers, body);
        let held = self
            .replies
            .hold_as_told(self.of_one, said, self.max_replies);
        part.reply.body = held.ok_or(Refused::RepliesFull)?;
        Ok(part)
    }
}

/// A shard's part, if it arrives before the deadline.
async fn in_time<T>(
    shard: Ordinal,
    deadline: Instant,
    asked: impl Future<Output = Result<T, Unjoined>>,
) -> Result<T, Unjoined> {
    let said = timeout_at(deadline, asked).await;
    said.unwrap_or_else(|_| {
        let why = format!("shard {shard} does not answer in time");
        Err(Refused::Away(why).into())
    })
}

#[cfg(test)]
mod tests {
    use ostrakon_protocol::Epoch;

    use super::*;

    fn part(shard: u32, bytes: usize) -> Part {
        let reply = Reply {
            status: http::StatusCode::OK,
            headers: http::HeaderMap::new(),
            body: vec![b'x'; bytes].into(),
            discard: false,
        };
        Part {
            shard: Ordinal(shard),
            moved: Moved {
                epoch: Epoch(1),
                store: 0,
                given: None,
                taken: BTreeMap::new(),
            },
            origin: None,
            reply,
        }
    }

    fn room(most: usize, (replies, of_one): &(Replies, Sum), max_replies: usize) -> Room<'_> {
        Room {
            most,
            taken: AtomicUsize::new(0),
            replies,
            of_one,
            max_replies,
        }
    }

    /// A regression test: a thousand shards' answers of 9 MiB each were collected before the
    /// limit of the guest's memory refused them.
    #[test]
    fn no_more_is_collected_of_all_shards_than_fits_a_guest() {
        let sums = (Replies::default(), Sum::default());
        let small = room(100, &sums, usize::MAX);
        let _held = small.take(part(0, 60)).expect("there is room");
        let refused = small.take(part(1, 60)).expect_err("there is none");
        assert!(matches!(refused, Refused::Failed(Failure::Memory(_))));
        let exact = room(120, &sums, usize::MAX);
        let _held = exact.take(part(0, 60)).expect("there is room");
        exact.take(part(1, 60)).expect("the part fits exactly");
    }

    /// A regression test: parts counted only once all had arrived, so nothing bounded what many
    /// requests to all shards collected together.
    #[test]
    fn each_part_counts_among_the_replies_from_when_it_comes() {
        let sums = (Replies::default(), Sum::default());
        let room = room(usize::MAX, &sums, 200);
        let first = room.take(part(0, 200)).expect("there is room");
        let refused = room
            .take(part(1, 60))
            .expect_err("the connection has a quarter");
        assert!(matches!(refused, Refused::RepliesFull));
        drop(first);
        room.take(part(1, 60)).expect("the first part was released");
        assert!(!sums.0.are_full(&sums.1, 4));
    }
}
