//! What is said of a candidate that serves some of the partitions.

use ostrakon_protocol::Trial;

/// Logs which partitions a candidate serves from now on.
pub fn tried(trial: &Trial, is_prepared: bool) {
    let Trial {
        candidate,
        share,
        paused,
        ..
    } = trial;
    let (generation, digest) = (candidate.number, candidate.digest.short());
    let percent = f64::from(*share) / 10_000.0;
    if is_prepared {
        tracing::info!(
            generation,
            digest,
            percent,
            paused,
            "a generation serves a share of the partitions"
        );
    } else {
        tracing::info!(
            generation,
            digest,
            percent,
            "the partitions of a generation that is tried wait until it is prepared here"
        );
    }
}
