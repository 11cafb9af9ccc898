//! `cargo xtask test`: everything that CI checks.

use std::path::Path;
use std::process::ExitCode;

use crate::steps::{Steps, say};
use crate::{bench, deny, dependencies, documents, foreign, guests, log_fields, tools};

/// Runs all steps up to the first failure; the last line is the tests' count.
pub(crate) fn run(root: &Path) -> ExitCode {
    let mut steps = Steps::new(root);
    let result = check(&mut steps, root);
    if let Err(error) = &result {
        say(&format!("\nerror: {error:#}"));
    }
    let tally = steps.tally;
    say(&format!(
        "\n{} passed, {} failed",
        tally.passed, tally.failed
    ));
    if result.is_ok() && tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn check(steps: &mut Steps, root: &Path) -> anyhow::Result<()> {
    steps.cargo("format", &["fmt", "--all", "--check"])?;
    steps.step("dependencies between packages", |_| {
        dependencies::check(root)
    })?;
    steps.step("documents", |_| {
        documents::check(root)?;
        log_fields::check(root)
    })?;
    steps.step("licences, bans and sources of dependencies", |_| {
        deny::check(root)
    })?;
    steps.step("programs that the tests run", |_| foreign::check())?;
    steps.cargo(
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    )?;
    steps.cargo(
        "documentation",
        &[
            "--config",
            "build.rustdocflags=[\"-D\",\"warnings\"]",
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ],
    )?;
    let guests = steps.step("guests", |_| guests::build(root))?;
    steps.set("OSTRAKON_TEST_GUESTS", guests);
    let tools = steps.step("tools", |_| tools::provide(root))?;
    steps.set("OSTRAKON_TEST_TOOLS", tools);
    // All targets: tests run the binaries of other packages than their own.
    steps.cargo(
        "build of the tests",
        &["build", "--workspace", "--all-targets", "--quiet"],
    )?;
    let host = crate::target(root)?.join("debug/ostrakon");
    steps.set("OSTRAKON_TEST_HOST", host);
    steps.tests("tests", &["test", "--workspace", "--no-fail-fast"])?;
    bench::quick(steps)
}
