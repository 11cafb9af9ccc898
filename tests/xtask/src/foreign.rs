//! Programs of others that the tests run. Missing ones are installed from Debian's packages.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use ostrakon_toolchain::machine::ThisMachine;
use ostrakon_toolchain::search::install;

use crate::steps::say;

/// A program, the arguments that check whether it is installed, and its package.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("crun", "--version", "crun"),
    ("curl", "--version", "curl"),
    ("ip", "-V", "iproute2"),
    ("openssl", "version", "openssl"),
    ("setpriv", "--version", "util-linux"),
    ("shellcheck", "--version", "shellcheck"),
];

/// Installs the programs that are missing.
pub(crate) fn check() -> anyhow::Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        let names = missing.join(", ");
        install(&ThisMachine, &missing).with_context(|| format!("install {names}"))?;
    }
    let missing = self::missing();
    ensure!(
        missing.is_empty(),
        "{} are still not there",
        missing.join(", ")
    );
    let names = PROGRAMS.map(|(program, _, _)| program).join(", ");
    say(&format!("   there: {names}"));
    Ok(())
}

fn missing() -> Vec<&'static str> {
    let is_missing = |(program, question, _): &&(&str, &str, &str)| {
        let mut command = Command::new(program);
        let asked = command
            .arg(question)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        !asked.status().is_ok_and(|status| status.success())
    };
    let missing = PROGRAMS.iter().filter(is_missing);
    missing.map(|(_, _, package)| *package).collect()
}
