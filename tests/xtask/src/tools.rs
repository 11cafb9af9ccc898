//! What the tests of the manifests and of the image need that is not to be installed on the system: Python's
//! packages, and files out of Debian's.

use std::fs;
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

/// Finds or installs all of it, and gives the directory of what is not the system's.
pub(crate) fn provide(root: &Path) -> anyhow::Result<PathBuf> {
    let directory = crate::target(root)?.join("tools");
    fs::create_dir_all(&directory).context("cannot make the tools' directory")?;
    python(&directory)?;
    // Prometheus' own checker of rules.
    from_package(&directory, "prometheus", "usr/bin/promtool")?;
    // A proxy as many have it in front.
    from_package(&directory, "nginx", "usr/sbin/nginx")?;
    // What container engines let processes ask of the kernel unless they are told otherwise.
    from_package(
        &directory,
        "golang-github-containers-common",
        "usr/share/containers/seccomp.json",
    )?;
    Ok(directory)
}

fn runs(program: &str) -> bool {
    let version = Command::new(program).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// The Python packages in an environment of their own, which is made anew when their list changes.
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
    // Last: what is half installed is made anew.
    fs::rename(&list, &made_for)?;
    Ok(())
}

/// Takes a file out of one of Debian's packages, under its own name: to install the package would start a server,
/// or bring much else.
fn from_package(directory: &Path, package: &str, path: &str) -> anyhow::Result<()> {
    let name = Path::new(path).file_name().context("it names a file")?;
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
            // It leaves a file in the working directory, as the user that runs it.
            .args(["-o", "APT::Sandbox::User=root"])
            .current_dir(scratch.path());
        run(fetch)
    };
    // Without lists of packages, or with old ones, it is not found.
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
    // Not a rename, for it may be another filesystem; and then one, for it may be cut off.
    let partial = wanted.with_extension("partial");
    fs::copy(scratch.path().join(path), &partial)
        .with_context(|| format!("{package} has no {path}"))?;
    fs::rename(partial, wanted)?;
    Ok(())
}

fn run(command: Command) -> anyhow::Result<()> {
    ThisMachine.run(command, LIMIT)?;
    Ok(())
}
