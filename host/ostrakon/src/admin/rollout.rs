//! `/rollout`: what an operator says to a generation in its steps.

use http::{StatusCode, Uri};

use super::NoAnswer;

/// What an operator says to a generation in its steps, or while it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Stay in this step.
    Pause,
    Resume,
    /// Take the next step at once or, if `full`, serve all partitions.
    Promote {
        full: bool,
    },
    /// Go back to what was live.
    Abort,
}

/// The order with what the query says.
pub(super) fn with(order: Order, uri: &Uri) -> Result<Order, NoAnswer> {
    let usage = match (order, uri.query()) {
        (order, None) => return Ok(order),
        (Order::Promote { .. }, Some("full=true")) => return Ok(Order::Promote { full: true }),
        (Order::Promote { .. }, Some(_)) => {
            "ask for /rollout/promote, or for /rollout/promote?full=true"
        }
        _ => "ask for this path without a query",
    };
    Err(NoAnswer {
        status: StatusCode::BAD_REQUEST,
        why: usage.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_promotion_may_be_full() {
        let of = |order, path: &str| with(order, &path.parse().unwrap());
        let promote = Order::Promote { full: false };
        assert_eq!(of(promote, "/rollout/promote"), Ok(promote));
        let full = of(promote, "/rollout/promote?full=true");
        assert_eq!(full, Ok(Order::Promote { full: true }));
        assert_eq!(of(Order::Abort, "/rollout/abort"), Ok(Order::Abort));
        for (order, path) in [
            (promote, "/rollout/promote?full"),
            (promote, "/rollout/promote?full=false"),
            (Order::Pause, "/rollout/pause?full=true"),
            (Order::Abort, "/rollout/abort?"),
        ] {
            assert_eq!(of(order, path).unwrap_err().status, 400, "{path}");
        }
    }
}
