//! Runs a sampled request by one guest, without any effect.

use std::sync::Arc;

use ostrakon_base::digest::Digest;
use ostrakon_contract::contract::{Access, Origin, Part, Reply, Route, Target};
use ostrakon_engine::{Bound, Failure, Guest, ReadData};
use ostrakon_store::Group;

use super::stage::{Data, Sample};

/// A guest, and the digest of it with its settings.
pub(super) type Of = (Arc<Guest>, Digest);

/// The guests of a rehearsal.
pub(super) struct Doubles {
    pub(super) live: Of,
    pub(super) candidate: Of,
}

/// What a guest did with a request.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) route: Route,
    /// What it answered; `None` where it routed the request elsewhere than the sample came from.
    pub(super) answer: Option<Answer>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// What it wrote, beside what the group had before, and the partition.
    pub(super) wrote: Option<(Group, Vec<u8>)>,
}

/// What a write to this partition is on top of; `None` if the sample is of no such write.
fn on_top(data: &Data, partition: &[u8]) -> Option<Group> {
    match data {
        Data::Write {
            group,
            partition: of,
        } => (of == partition).then(|| group.fork(of)),
        Data::Again(snapshot) => Some(Group::new(Arc::clone(snapshot))),
        Data::Read(_) => None,
    }
}

/// Runs a sample. What it writes is only in what is returned.
pub(super) async fn run(
    (guest, digest): &Of,
    sample: &Sample,
    ordinal: u32,
) -> Result<Ran, Failure> {
    let settings = guest.settings();
    let deadline = match sample.data() {
        Data::Read(_) | Data::Again(_) => settings.guest.read_deadline,
        Data::Write { .. } => settings.guest.write_deadline,
    };
    let (bound, request) = (Bound::Deadline(deadline), sample.request());
    let mut lease = guest.lease(sample.shards()).await?;
    let route = lease.route(request, bound).await?;
    let answer = match (sample.data(), &route.target, route.access) {
        (data, Target::Partition(partition), Access::Write) => match on_top(data, partition) {
            Some(group) => {
                lease.at_the_instant_of(request);
                let limits = (&settings.store).into();
                let transaction = group.begin(partition.clone(), limits);
                let (group, replied) = lease.write(request, transaction).await;
                let wrote = Some((group, partition.clone()));
                let reply = replied?;
                Some(Answer { reply, wrote })
            }
            None => None,
        },
        (
            Data::Read(snapshot) | Data::Again(snapshot),
            Target::Partition(partition),
            Access::Read,
        ) => {
            let data = ReadData::Partition(partition.clone(), Arc::clone(snapshot));
            let reply = lease.read(request, data, bound).await?;
            Some(Answer { reply, wrote: None })
        }
        (Data::Read(snapshot) | Data::Again(snapshot), Target::Here | Target::Everywhere, _) => {
            let data = ReadData::Shard(Arc::clone(snapshot));
            let mut reply = lease.read(request, data, bound).await?;
            // Among several shards there are no others' parts to give to `gather`.
            if route.target == Target::Everywhere && sample.shards() == 1 {
                let origin = Some(Origin {
                    digest: *digest,
                    description: guest.description().clone(),
                });
                let shard = ordinal;
                let parts = [Part {
                    shard,
                    reply,
                    origin,
                }];
                reply = lease.gather(request, &parts, *digest, bound).await?;
            }
            Some(Answer { reply, wrote: None })
        }
        _ => None,
    };
    Ok(Ran { route, answer })
}
