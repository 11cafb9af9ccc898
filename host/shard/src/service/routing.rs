//! What a shard does with a client's request for a partition of another shard:
//! `cluster.routing`.
//!
//! | setting | a read | a write |
//! | --- | --- | --- |
//! | `forward` | is forwarded | is forwarded |
//! | `redirect` | 307 to the owner | 307 to the owner |
//! | `local` | finds nothing there | 421 with the owner |
//!
//! # While a partition moves
//!
//! Between the moment when the source has passed the partition and the moment when the receiver
//! has stored it, each of the two knows only that the other is to be asked. A client that they
//! sent to each other would go back and forth. Shards that ask each other do not, because the
//! source says how far it has come. So a request for a moving partition is forwarded, as with
//! `forward`; with `local`, only by the source and the receiver, whichever of them the client
//! asks. A third shard finds nothing there: as before the change, and as after it.
//!
//! # Why a redirected client arrives
//!
//! A shard redirects a client by its plan only once the owner follows that plan or a later one,
//! which the owner stores: before the first redirect, the shard tells the owner. There, under
//! the same plan, the request is answered or forwarded, and it is redirected again only under a
//! later plan. Epochs only grow, so a client is redirected at most once more than the topology
//! changes on its way.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use http::HeaderValue;
use ostrakon_contract::contract::{Access, Request, Route, Target};
use ostrakon_engine::Failure;
use ostrakon_protocol::{Epoch, HandOff, Ordinal};
use ostrakon_settings::per_shard::PerShard;
use ostrakon_settings::settings::Routing;
use tokio::time::Instant;

use super::{Answer, Followed, Refused, Service};
use crate::writer::View;

/// Who asks, and what is known of the partition.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    /// Whether a client asks. Otherwise a shard does: it is told the owner, whatever the
    /// setting here says.
    pub(super) is_client: bool,
    /// How far the source has come, if a source has said so.
    pub(super) hand_off: Option<HandOff>,
    pub(super) came: Instant,
}

/// What is done with a client's request for a partition of another shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    Redirect(Ordinal),
    /// Answer as if the partition were empty.
    Nothing,
    /// Refuse the request, and name this shard to the client.
    Refuse(Ordinal),
}

/// Decides by the partition's owners under the plan's two placements.
fn way(routing: Routing, access: Access, me: Ordinal, owners: (Ordinal, Ordinal)) -> Way {
    let (from, to) = owners;
    match (routing, access) {
        (Routing::Redirect, _) if from == to && to != me => Way::Redirect(to),
        (Routing::Local, Access::Read) if from != me && to != me => Way::Nothing,
        (Routing::Local, Access::Write) if from != me && to != me => Way::Refuse(to),
        _ => Way::Forward,
    }
}

/// The last plan that each other shard is known to follow.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(
    /// A std mutex, because it is held only briefly.
    Arc<Mutex<BTreeMap<Ordinal, Epoch>>>,
);

impl Known {
    fn is(&self, shard: Ordinal, epoch: Epoch) -> bool {
        let known = self.0.lock().expect("no holder of this lock panics");
        known.get(&shard).is_some_and(|known| *known >= epoch)
    }

    fn learn(&self, shard: Ordinal, epoch: Epoch) {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        let known = known.entry(shard).or_default();
        *known = epoch.max(*known);
    }
}

/// Whether a request for another shard's partition is answered as if the partition were empty.
pub(super) async fn finds_nothing(
    view: &View,
    asker: &Asker,
    access: Access,
    partition: &[u8],
) -> Result<bool, Failure> {
    let routing = view.guest.settings().cluster.routing;
    let (true, Routing::Local, Some(membership)) = (asker.is_client, routing, &view.membership)
    else {
        return Ok(false);
    };
    let owners = membership.owners_of(partition).await?;
    let me = membership.shard.ordinal();
    Ok(owners.is_some_and(|owners| way(routing, access, me, owners) == Way::Nothing))
}

impl Refused {
    /// The address that the client is to ask.
    pub fn location(self) -> Option<HeaderValue> {
        match self {
            Self::Redirected { location } => Some(location),
            Self::Misplaced { location } => location,
            _ => None,
        }
    }
}

impl Service {
    /// Redirects the client, or forwards its request to the owner, as the settings say.
    pub(super) async fn pass_on(
        &self,
        request: &Arc<Request>,
        at: Ordinal,
        hand_off: Option<HandOff>,
        asker: &mut Asker,
        route: Option<&Route>,
    ) -> Followed {
        let until = self.waits_until(asker.came);
        match self.send_away(request, route, until).await {
            Ok(None) => {
                let known = &mut asker.hand_off;
                *known = hand_off.or_else(|| known.take());
                self.follow(request, at, known, route, until).await
            }
            Ok(Some((owner, refused))) => Followed::Answered(Answer {
                shard: owner.0,
                ..self.refused(None, refused)
            }),
            Err(why) => Followed::Away(why),
        }
    }

    /// The shard that the client is to ask instead, and its answer; `None` where the request is
    /// to be forwarded.
    ///
    /// # Errors
    /// Why the client cannot be redirected yet. Nothing was run.
    async fn send_away(
        &self,
        request: &Request,
        route: Option<&Route>,
        until: Instant,
    ) -> Result<Option<(Ordinal, Refused)>, String> {
        let view = self.writer.views().get();
        let (Some(view), Some(others), Some(route)) = (view, &self.others, route) else {
            return Ok(None);
        };
        let settings = &view.guest.settings().cluster;
        let (Some(membership), Target::Partition(partition)) = (&view.membership, &route.target)
        else {
            return Ok(None);
        };
        if settings.routing == Routing::Forward {
            return Ok(None);
        }
        let owners = membership.owners_of(partition).await;
        let (Some(plan), Some(owners)) = (
            membership.shard.plan(),
            owners.map_err(|failure| failure.to_string())?,
        ) else {
            return Ok(None);
        };
        let location = |owner| {
            let url = settings.public_url.as_ref()?;
            location(url, owner, &request.path)
        };
        let me = Ordinal(self.ordinal);
        let (owner, refused) = match way(settings.routing, route.access, me, owners) {
            Way::Forward | Way::Nothing => return Ok(None),
            Way::Redirect(owner) => match location(owner) {
                Some(location) => (owner, Refused::Redirected { location }),
                None => return Ok(None),
            },
            Way::Refuse(owner) => {
                let location = location(owner);
                (owner, Refused::Misplaced { location })
            }
        };
        if !self.known.is(owner, plan.epoch) {
            let epoch = others.tell(owner, until).await?;
            self.known.learn(owner, epoch);
        }
        Ok(Some((owner, refused)))
    }
}

/// The address of the same request at another shard.
fn location(url: &PerShard, owner: Ordinal, path: &str) -> Option<HeaderValue> {
    let mut location = url.of(owner);
    for byte in path.bytes() {
        if byte.is_ascii_graphic() {
            location.push(char::from(byte));
        } else {
            // Some clients send bytes that a URL must escape.
            let _ = write!(location, "%{byte:02X}");
        }
    }
    HeaderValue::try_from(location).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(routing: Routing, access: Access, me: u32, owners: (u32, u32), expected: Way) {
        let owners = (Ordinal(owners.0), Ordinal(owners.1));
        assert_eq!(
            way(routing, access, Ordinal(me), owners),
            expected,
            "{routing:?} {access:?} at {me} of {owners:?}"
        );
    }

    #[test]
    fn what_does_not_move_is_sent_away_and_what_moves_is_passed_on() {
        for access in [Access::Read, Access::Write] {
            check(Routing::Forward, access, 0, (1, 1), Way::Forward);
            check(
                Routing::Redirect,
                access,
                0,
                (1, 1),
                Way::Redirect(Ordinal(1)),
            );
            for me in 0..3 {
                check(Routing::Redirect, access, me, (0, 1), Way::Forward);
            }
            for me in 0..2 {
                check(Routing::Local, access, me, (0, 1), Way::Forward);
            }
        }
        for owners in [(1, 1), (0, 1)] {
            check(Routing::Local, Access::Read, 2, owners, Way::Nothing);
            let refuse = Way::Refuse(Ordinal(1));
            check(Routing::Local, Access::Write, 2, owners, refuse);
        }
    }

    /// A client that is redirected twice under one plan could be redirected for ever.
    #[test]
    fn under_one_plan_nobody_is_sent_away_twice() {
        let mut sent = 0;
        for routing in [Routing::Redirect, Routing::Local] {
            for access in [Access::Read, Access::Write] {
                for me in (0..4).map(Ordinal) {
                    for owners in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))) {
                        let owners = (Ordinal(owners.0), Ordinal(owners.1));
                        let (Way::Redirect(next) | Way::Refuse(next)) =
                            way(routing, access, me, owners)
                        else {
                            continue;
                        };
                        sent += 1;
                        assert_ne!(next, me);
                        for routing in [Routing::Forward, Routing::Redirect, Routing::Local] {
                            let then = way(routing, access, next, owners);
                            assert_eq!(then, Way::Forward, "{routing:?} {next} of {owners:?}");
                        }
                    }
                }
            }
        }
        assert!(sent > 0);
    }

    #[test]
    fn the_path_goes_with_the_client_as_it_was_sent() {
        let url: PerShard = "http://kv-{}:80"
            .parse()
            .expect("the URL has a place for the ordinal");
        let of = |path| location(&url, Ordinal(2), path).expect("the location is a header value");
        assert_eq!(of("/a%2Fb?c=d&e"), "http://kv-2:80/a%2Fb?c=d&e");
        assert_eq!(of("//elsewhere/x"), "http://kv-2:80//elsewhere/x");
        assert_eq!(of("/é"), "http://kv-2:80/%C3%A9");
    }

    #[test]
    fn what_a_shard_goes_by_is_never_forgotten_for_less() {
        let known = Known::default();
        assert!(!known.is(Ordinal(1), Epoch(1)));
        known.learn(Ordinal(1), Epoch(3));
        known.learn(Ordinal(1), Epoch(2));
        assert!(known.is(Ordinal(1), Epoch(3)));
        assert!(!known.is(Ordinal(1), Epoch(4)) && !known.is(Ordinal(2), Epoch(1)));
    }
}
