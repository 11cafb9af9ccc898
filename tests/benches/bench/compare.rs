//! Tables that compare servers, measured in turns.

use std::time::Duration;

use anyhow::Context as _;

use crate::clients::{Action, Target, Work};
use crate::figures::{Measured, median};
use crate::hosts::{Baseline, Filled};
use crate::plan::Plan;
use crate::{redis, wrk};

const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];

/// A program or part of this one that sends requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// The clients of this program.
    Own,
    Wrk,
    RedisBenchmark,
}

impl Client {
    /// The client of HTTP that takes the least processor time: wrk, if it is installed and a turn
    /// is a second at least.
    pub(crate) fn of_http(plan: &Plan) -> Self {
        if plan.turn >= Duration::from_secs(1) && wrk::is_installed() {
            Self::Wrk
        } else {
            Self::Own
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Own => "this program's clients",
            Self::Wrk => "wrk",
            Self::RedisBenchmark => "redis-benchmark",
        }
    }
}

/// A server with its client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) target: Target,
    pub(crate) client: Client,
}

impl Side {
    pub(crate) fn http(plan: &Plan, name: &'static str, target: Target) -> Self {
        let client = Client::of_http(plan);
        Self {
            name,
            target,
            client,
        }
    }

    /// Another build of the host, if it was built.
    pub(crate) fn baseline(
        plan: &Plan,
        baseline: Baseline,
        filled: Option<&Filled>,
    ) -> Option<Self> {
        filled.map(|filled| Self::http(plan, baseline.name(), filled.target()))
    }

    pub(crate) fn work(&self, work: Work, time: Duration) -> anyhow::Result<Measured> {
        let address = self.target.address;
        let measured = match self.client {
            Client::Own => self.target.work(work, time).map(|all| all.figures()),
            Client::Wrk => wrk::work(address, work, time),
            Client::RedisBenchmark => redis::benchmark(address, work, time),
        };
        measured.context(self.name)
    }
}

/// Prints a row for each number of connections: requests/s and waits of the first side and of each
/// other one, and the ratio of the first side's requests/s to the other's.
pub(crate) fn compare(
    plan: &Plan,
    (action, keys): (Action, usize),
    sides: &[Side],
) -> anyhow::Result<()> {
    let [first, others @ ..] = sides else {
        return Ok(());
    };
    print_clients(sides);
    print!("{:11} {:^26}", "", first.name);
    for other in others {
        print!(" | {:^33}", other.name);
    }
    print!(
        "\n{:11} {:>8} {:>8} {:>8}",
        "connections", "/s", "p50 ms", "p99 ms"
    );
    for _ in others {
        print!(
            " | {:>8} {:>8} {:>8} {:>6}",
            "/s", "p50 ms", "p99 ms", "ratio"
        );
    }
    println!();
    for connections in CONNECTIONS {
        let work = Work::new(action, connections).among(keys);
        let mut own = Vec::new();
        let mut turns = vec![Vec::new(); others.len()];
        let mut ratios = vec![Vec::new(); others.len()];
        for _ in 0..plan.turns {
            let measured = first.work(work, plan.turn)?;
            own.push(measured);
            for (index, other) in others.iter().enumerate() {
                // Another system may fail with so many connections; ours must not.
                match other.work(work, plan.turn) {
                    Ok(baseline) => {
                        turns[index].push(baseline);
                        ratios[index].push(measured.rate / baseline.rate);
                    }
                    Err(error) => println!("{error:#}"),
                }
            }
        }
        print!("{connections:11} {}", Measured::row(&own));
        for (turns, ratios) in turns.iter().zip(ratios) {
            print!(" | {} {:>6.2}", Measured::row(turns), median(ratios));
        }
        println!();
    }
    Ok(())
}

/// Prints which client measures which side.
pub(crate) fn print_clients(sides: &[Side]) {
    for client in [Client::Own, Client::Wrk, Client::RedisBenchmark] {
        let of_client = sides.iter().filter(|side| side.client == client);
        let names: Vec<_> = of_client.map(|side| side.name).collect();
        if !names.is_empty() {
            println!("{} measured by {}", names.join(", "), client.name());
        }
    }
}
