//! What a rehearsal costs the live requests: loads and saves with one under way, and without, in turns.
//! Each turn measures without one twice: what differs then is chance.

use anyhow::ensure;
use ostrakon_tests::host::{Files, Shard, config, guest};

use crate::clients::{Action, Target, Work};
use crate::figures::{Measured, median};
use crate::plan::Plan;
use crate::swap::tagged;

const CONNECTIONS: [usize; 3] = [1, 16, 64];

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    println!("\na rehearsal of 10 % of the requests, as a ratio to none in the same turn");
    println!(
        "{:6} {:>11} {:>6} {:>6} {:>6} {:>10}   without again",
        "", "connections", "rate", "p50", "p99", "rehearsed"
    );
    let kv = guest("kv");
    let live = config(&kv, &[]);
    let mut shard = Shard::new(&live);
    let host = shard.start();
    let target = Target::http(host.address);
    target.fill(crate::clients::KEYS)?;
    let mut number = 0;
    let mut candidate = || -> Files {
        number += 1;
        let settings = "[rehearsal]\ntime = '5m'\nrequests = 1000000\nshare = '10%'";
        config(&tagged(&kv, number), &[("ostrakon.toml", settings)])
    };
    for action in [Action::Load, Action::Save] {
        for connections in CONNECTIONS {
            let work = Work::new(action, connections);
            let (mut turns, mut rehearsed) = (Vec::new(), 0);
            for _ in 0..plan.turns {
                let without = target.work(work, plan.turn)?.figures();
                shard.config.publish(&candidate())?;
                host.wait_for_status("the rehearsal", |status| {
                    status["candidate"]["step"] == "rehearse"
                });
                let with = target.work(work, plan.turn)?.figures();
                let status = host.status();
                ensure!(
                    status["candidate"]["step"] == "rehearse",
                    "it has ended: {status}"
                );
                rehearsed += status["rehearsal"]["requests"].as_u64().unwrap_or(0);
                shard.config.publish(&live)?;
                host.wait_for_status("its end", |status| status["candidate"].is_null());
                let again = target.work(work, plan.turn)?.figures();
                turns.push([without, with, again]);
            }
            ensure!(rehearsed > 0, "nothing was rehearsed");
            let ratio = |turn: usize, of: fn(&Measured) -> f64| {
                let turns = turns.iter();
                median(turns.map(|all| of(&all[turn]) / of(&all[0])).collect())
            };
            let ratios = |turn| {
                let (rate, p50) = (ratio(turn, |it| it.rate), ratio(turn, |it| it.p50));
                format!("{rate:>6.2} {p50:>6.2} {:>6.2}", ratio(turn, |it| it.p99))
            };
            let (name, with, again) = (action.name(), ratios(1), ratios(2));
            println!("{name:6} {connections:>11} {with} {rehearsed:>10}  {again}");
        }
    }
    host.stop();
    Ok(())
}
