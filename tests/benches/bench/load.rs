//! Loads and durable saves, against a native handler in the same host and against plain hyper.

use std::path::PathBuf;

use anyhow::ensure;
use ostrakon_tests::host::{Host, Shard, config, guest};

use crate::clients::{Action, KEYS, Target};
use crate::hello::Hello;
use crate::median;
use crate::plan::Plan;

const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];

/// A host, on a shard that holds the keys.
pub(crate) fn filled_host(binary: Option<PathBuf>) -> anyhow::Result<(Shard, Host)> {
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    if let Some(binary) = binary {
        shard.binary = binary;
    }
    let host = shard.start();
    Target::http(host.address).fill(KEYS)?;
    Ok((shard, host))
}

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    let (_shard, host) = filled_host(None)?;
    let native = std::env::var_os("OSTRAKON_BENCH_NATIVE").map(PathBuf::from);
    let native = native.map(|binary| filled_host(Some(binary))).transpose()?;
    let hello = Hello::start()?;
    let mut baselines = Vec::new();
    match &native {
        Some((_, native)) => baselines.push(("native", Target::http(native.address))),
        None => println!("no host with a native handler was built: nothing is compared with it"),
    }
    baselines.push(("hyper", Target::http(hello.address)));

    println!("\nrequests/s, and their ratio to each baseline's");
    compare(plan, ("host", Target::http(host.address)), &baselines)
}

/// Prints a row for each action and number of connections.
pub(crate) fn compare(
    plan: &Plan,
    (name, subject): (&str, Target),
    baselines: &[(&str, Target)],
) -> anyhow::Result<()> {
    print!("{:6} {:>11} {name:>9}", "", "connections");
    for (name, _) in baselines {
        print!(" {name:>9} {:>6}", "ratio");
    }
    println!();
    for action in [Action::Load, Action::Save] {
        for connections in CONNECTIONS {
            let mut rates = vec![Vec::new(); 1 + baselines.len()];
            let mut ratios = vec![Vec::new(); baselines.len()];
            for _ in 0..plan.turns {
                let rate = subject.rate(action, connections, plan.turn)?;
                rates[0].push(rate);
                for (index, (name, baseline)) in baselines.iter().enumerate() {
                    // Another system may fail with so many connections; ours must not.
                    match baseline.rate(action, connections, plan.turn) {
                        Ok(other) => {
                            rates[index + 1].push(other);
                            ratios[index].push(rate / other);
                        }
                        Err(error) => println!("{name}: {error:#}"),
                    }
                }
            }
            let mut rates = rates.into_iter().map(median);
            let own = rates.next().expect("the subject was measured");
            ensure!(
                own > 0.0 && rates.len() == baselines.len(),
                "a row is incomplete"
            );
            print!("{:6} {connections:>11} {own:>9.0}", action.name());
            for (rate, ratios) in rates.zip(ratios) {
                if ratios.is_empty() {
                    print!(" {:>9} {:>6}", "failed", "-");
                } else {
                    print!(" {rate:>9.0} {:>6.2}", median(ratios));
                }
            }
            println!();
        }
    }
    Ok(())
}
