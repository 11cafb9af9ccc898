//! Loads and durable saves, against a native handler in the same host and against plain hyper.

use crate::bare::Bare;
use crate::clients::{Action, KEYS, Target};
use crate::compare::{Side, compare};
use crate::hosts::{Baseline, Filled};
use crate::plan::Plan;

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    let host = Filled::this(KEYS)?;
    let native = Baseline::Native.start(KEYS)?;
    let hello = Bare::Hello.start()?;
    let mut sides = vec![Side::http(plan, "host", host.target())];
    sides.extend(Side::baseline(plan, Baseline::Native, native.as_ref()));
    sides.push(Side::http(plan, "hyper", Target::http(hello.address)));
    println!("\nloads, against servers that do less (plain hyper stores nothing)");
    compare(plan, (Action::Load, KEYS), &sides)?;
    println!("\ndurable saves, by GET /save/<key>/<word>, against the same");
    compare(plan, (Action::Save, KEYS), &sides)
}
