//! Steps: headings, timings, and the total numbers of passed and failed tests.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};

/// A run of steps, in order.
#[derive(Debug)]
pub(crate) struct Steps {
    root: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
    pub(crate) tally: Tally,
}

/// The number of tests, over all summaries of test runners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Steps {
    /// Steps that run in the top directory of the repository.
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            environment: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Sets a path in the environment of the cargo runs that follow.
    pub(crate) fn set(&mut self, variable: &'static str, path: impl Into<PathBuf>) {
        self.environment.push((variable, path.into()));
    }

    /// Runs one step under its heading.
    pub(crate) fn step<T>(
        &mut self,
        heading: &str,
        step: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        say(&format!("\n== {heading}"));
        let started = Instant::now();
        let result = step(self).with_context(|| format!("step `{heading}` failed"))?;
        say(&format!("   {:.1} s", started.elapsed().as_secs_f64()));
        Ok(result)
    }

    /// A step that is one run of cargo.
    pub(crate) fn cargo(&mut self, heading: &str, arguments: &[&str]) -> anyhow::Result<()> {
        self.step(heading, |steps| {
            let status = steps.command(arguments).status()?;
            ensure!(status.success(), "cargo {} failed", arguments.join(" "));
            Ok(())
        })
    }

    /// A step that is one run of cargo whose tests are counted.
    pub(crate) fn tests(&mut self, heading: &str, arguments: &[&str]) -> anyhow::Result<()> {
        self.step(heading, |steps| {
            let mut child = steps.command(arguments).stdout(Stdio::piped()).spawn()?;
            let stdout = child.stdout.take().context("standard output is piped")?;
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line?;
                let line = String::from_utf8_lossy(&line);
                writeln!(io::stdout(), "{line}")?;
                steps.tally.add(&line);
            }
            let status = child.wait()?;
            if !status.success() {
                bail!("cargo {} failed", arguments.join(" "));
            }
            Ok(())
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command
            .args(arguments)
            .current_dir(&self.root)
            .envs(self.environment.iter().cloned());
        command
    }
}

impl Tally {
    /// Adds the numbers of a line, if it is a test runner's summary:
    /// `test result: ok. 3 passed; 0 failed; ...`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .trim()
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse::<u64>().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// Writes a line to standard output.
pub(crate) fn say(line: &str) {
    // If standard output is closed, there is no one to report the error to.
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_all_runners_are_added_up_and_other_lines_are_not() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test tests::test_result ... ok",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        ] {
            tally.add(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 4,
                failed: 2
            }
        );
    }

    #[test]
    fn a_failing_step_is_named() {
        let error = Steps::new(".")
            .step("walls", |_| -> anyhow::Result<()> { bail!("a breach") })
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "step `walls` failed: a breach");
    }
}
