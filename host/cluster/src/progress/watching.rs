//! Measures a change while it is under way.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ostrakon_base::blocking::Blocking;
use ostrakon_protocol::{Counted, Ordinal};
use ostrakon_shard::writer::{ChangeError, View};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::super::message::{PeerRequest, PeerResponse};
use super::super::{Cluster, until_down};

/// How often the change is measured, and the other sources are asked.
const EVERY: Duration = Duration::from_millis(500);
/// How long a source may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Measures the change, and asks the other sources, until shutdown.
pub(in super::super) async fn watch(cluster: Cluster, mut shutdown: watch::Receiver<bool>) {
    let mut counting = JoinSet::new();
    loop {
        if let Some(view) = cluster.0.writer.views().get()
            && cluster.measure(&view)
        {
            let cluster = cluster.clone();
            counting.spawn(async move {
                match count(view, cluster.0.guests.blocking).await {
                    Ok(counted) => cluster.measured().take(counted),
                    Err(error) => tracing::debug!(%error, "partitions could not be counted: they are counted later"),
                }
            });
        }
        cluster.ask_sources().await;
        tokio::select! {
            biased;
            () = until_down(&mut shutdown) => return,
            Some(_) = counting.join_next() => {}
            () = sleep(EVERY) => {}
        }
    }
}

/// Counts the partitions that a source still has to move, on a thread where it delays no other
/// work.
async fn count(view: Arc<View>, blocking: Blocking) -> Result<Counted, ChangeError> {
    let membership = view.membership.as_ref().ok_or(ChangeError::Unplaced)?;
    let under_way = membership.count_under_way(&view.snapshot).await?;
    let counted = Arc::clone(&view);
    let ahead = blocking.run(move || {
        let membership = counted.membership.as_ref();
        membership.map_or(Ok(0), |membership| {
            membership.count_ahead(&counted.snapshot)
        })
    });
    Ok(Counted {
        at: membership.tally,
        ahead: ahead.await?,
        under_way,
    })
}

impl Cluster {
    /// Notes this shard's current tally, and says whether its partitions are to be counted.
    fn measure(&self, view: &View) -> bool {
        let Some(membership) = &view.membership else {
            return false;
        };
        let is_source = membership.shard.plan().is_some_and(|plan| {
            let is_known = membership.owners.is_some();
            is_known
                && plan.is_source(membership.shard.ordinal())
                && plan.epoch == membership.tally.epoch
        });
        if !is_source {
            return false;
        }
        let now = Instant::now();
        let mut measured = self.measured();
        measured.meter.see(now, &membership.tally);
        measured.meter.is_to_count(now, &membership.tally)
    }

    /// Asks the other sources for their progress, where this shard is the coordinator and
    /// partitions move.
    async fn ask_sources(&self) {
        let Some(plan) = self.plan().filter(|plan| !plan.is_stable()) else {
            return;
        };
        if self.0.me != Ordinal::COORDINATOR {
            return;
        }
        let others = (1..plan.from.shards).map(Ordinal);
        join_all(others.map(async |shard| {
            let asked = timeout(PATIENCE, self.ask(shard, &PeerRequest::Progress {})).await;
            match asked {
                Ok(Ok(PeerResponse::Progress { source })) => self.measured().hear(shard, source),
                _ => self.measured().miss(shard),
            }
        }))
        .await;
    }
}
