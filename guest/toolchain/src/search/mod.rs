//! The search for a toolchain that can build guests.
//!
//! There are three ways, tried in this order, and the first one that can build
//! wins: the target's standard library is installed; rustup adds it; Debian's
//! packages build it from source (they are installed if this is root on Debian).
//! `OSTRAKON_GUEST_TOOLCHAIN` set to `installed`, `rustup` or `debian` selects
//! one way.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use crate::machine::{self, Machine, ThisMachine};

/// The environment variable that forces one way.
pub(crate) const WAY_VARIABLE: &str = "OSTRAKON_GUEST_TOOLCHAIN";

/// The Debian packages that build guests: a compiler, cargo and the source of
/// the standard library.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// Enough for a query to a compiler on a busy machine.
const ASK_LIMIT: Duration = Duration::from_mins(1);
/// Enough to download a standard library of 25 MB.
const RUSTUP_LIMIT: Duration = Duration::from_mins(1);
/// Debian's packages are some 400 MB unpacked.
const APT_LIMIT: Duration = Duration::from_mins(10);

/// The compilation target of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Target {
    /// `wasm32-unknown-unknown`: imports only the contract.
    #[default]
    Unknown,
    /// `wasm32-wasip2`: also imports the part of WASI 0.2 that the host offers.
    Wasip2,
}

impl Target {
    /// The name that rustc knows it by.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::Unknown => "wasm32-unknown-unknown",
            Self::Wasip2 => "wasm32-wasip2",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.triple())
    }
}

/// A way to a toolchain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The active rustc has the target's standard library.
    Installed,
    /// rustup installs the target's standard library.
    Rustup,
    /// Debian's packages build it from source.
    Debian,
}

impl Way {
    const ALL: [Self; 3] = [Self::Installed, Self::Rustup, Self::Debian];

    fn name(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Way {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|way| way.name() == name)
            .ok_or_else(|| Error::UnknownWay(name.to_owned()))
    }
}

/// A toolchain that has been checked to build for its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    pub target: Target,
    pub way: Way,
    /// The linker, if it is Debian's, whose rustc has none of its own.
    linker: Option<PathBuf>,
}

impl Toolchain {
    /// A command that runs cargo, without arguments, for the directory of a crate.
    pub fn cargo(&self, directory: &Path) -> Command {
        let mut command = match self.way {
            Way::Installed | Way::Rustup => Command::new("cargo"),
            Way::Debian => debian(DEBIAN_CARGO),
        };
        command.current_dir(directory);
        if let Some(linker) = &self.linker {
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        command
    }

    /// Whether a guest that asks the standard library for the time traps.
    pub(crate) fn has_no_clock(&self) -> bool {
        self.target == Target::Unknown
    }

    /// What `cargo build` is to be given, after `build`.
    pub(crate) fn build_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--target".into(), self.target.triple().into()];
        if self.way == Way::Debian {
            arguments.push("-Zbuild-std=std,panic_abort".into());
        }
        arguments
    }

    /// The target directory, if it is not the crate's usual one: otherwise the
    /// artifacts of two compilers would replace each other.
    pub fn target_directory(&self, usual: &Path) -> PathBuf {
        match self.way {
            Way::Installed | Way::Rustup => usual.to_owned(),
            Way::Debian => usual.join("debian"),
        }
    }
}

/// The search for a toolchain, for the crate in one directory.
#[derive(Clone, Debug)]
pub struct Search {
    target: Target,
    directory: PathBuf,
    only: Option<Way>,
}

impl Search {
    /// A search for a toolchain for the crate in `directory`. It respects the
    /// crate's `rust-toolchain.toml`; `OSTRAKON_GUEST_TOOLCHAIN` narrows it.
    ///
    /// # Errors
    /// When the variable has an unknown value.
    pub fn new(target: Target, directory: impl Into<PathBuf>) -> Result<Self, Error> {
        let only = match env::var(WAY_VARIABLE) {
            Ok(name) if !name.is_empty() => Some(name.parse()?),
            _ => None,
        };
        Ok(Self {
            target,
            directory: directory.into(),
            only,
        })
    }

    /// The first toolchain that builds.
    ///
    /// # Errors
    /// When none does. The error says what to install, and why each way failed.
    pub fn find(&self) -> Result<Toolchain, Error> {
        self.find_on(&ThisMachine)
    }

    fn find_on(&self, machine: &impl Machine) -> Result<Toolchain, Error> {
        let mut failures = Failures(Vec::new());
        for way in Way::ALL {
            if self.only.is_some_and(|only| only != way) {
                continue;
            }
            let found = match way {
                Way::Installed => self.installed(machine, way),
                Way::Rustup => self.rustup(machine),
                Way::Debian => self.debian(machine),
            };
            match found {
                Ok(toolchain) => return Ok(toolchain),
                Err(failure) => failures.0.push((way, failure)),
            }
        }
        Err(Error::NotFound {
            target: self.target,
            failures,
        })
    }

    fn installed(&self, machine: &impl Machine, way: Way) -> Result<Toolchain, Failure> {
        let rustc = Command::new("rustc");
        compiles(machine, rustc, &self.directory, self.target, Sample::Std)?;
        Ok(Toolchain {
            target: self.target,
            way,
            linker: None,
        })
    }

    fn rustup(&self, machine: &impl Machine) -> Result<Toolchain, Failure> {
        machine.progress(&format!("adding the target {} with rustup", self.target));
        let mut rustup = Command::new("rustup");
        rustup
            .args(["target", "add", self.target.triple()])
            .current_dir(&self.directory);
        machine.run(rustup, RUSTUP_LIMIT)?;
        self.installed(machine, Way::Rustup)
    }

    fn debian(&self, machine: &impl Machine) -> Result<Toolchain, Failure> {
        if self.target == Target::Wasip2 {
            return Err(Failure::NoDebianWasip2);
        }
        if !debian_is_complete(machine) {
            install(machine, &DEBIAN_PACKAGES)?;
        }
        let linker = if let Some(linker) = self.linker(machine) {
            linker
        } else {
            install(machine, &["lld"])?;
            self.linker(machine).ok_or(Failure::NoLinker)?
        };
        let mut rustc = debian(DEBIAN_RUSTC);
        let mut flag = OsString::from("linker=");
        flag.push(&linker);
        rustc.arg("-C").arg(flag);
        compiles(machine, rustc, &self.directory, self.target, Sample::Core)?;
        Ok(Toolchain {
            target: self.target,
            way: Way::Debian,
            linker: Some(linker),
        })
    }

    /// A linker of Wasm: the active toolchain's, or one of Debian's.
    fn linker(&self, machine: &impl Machine) -> Option<PathBuf> {
        let mut ask = Command::new("rustc");
        ask.args(["--print", "target-libdir"])
            .current_dir(&self.directory);
        let active = machine.run(ask, ASK_LIMIT).ok().and_then(|libdir| {
            // The output is `lib/rustlib/<host>/lib`; the linker is in `bin` beside it.
            Some(Path::new(libdir.trim()).parent()?.join("bin/rust-lld"))
        });
        active
            .into_iter()
            .chain(["/usr/bin/rust-lld", "/usr/bin/wasm-ld"].map(PathBuf::from))
            .find(|path| machine.is_file(path))
    }
}

/// A program of Debian's compiler, without the variables that rustup and an
/// outer cargo set for theirs.
fn debian(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("RUSTC_BOOTSTRAP", "1");
    for name in ["RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "RUSTDOC", "CARGO"] {
        command.env_remove(name);
    }
    command
}

fn debian_is_complete(machine: &impl Machine) -> bool {
    let mut ask = debian(DEBIAN_RUSTC);
    ask.args(["--print", "sysroot"]);
    machine.is_file(Path::new(DEBIAN_CARGO))
        && machine.is_file(Path::new(DEBIAN_RUSTC))
        && machine.run(ask, ASK_LIMIT).is_ok_and(|sysroot| {
            let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std");
            machine.is_file(&source.join("Cargo.toml"))
        })
}

/// Installs Debian packages, as root on a system that has `apt-get`.
///
/// # Errors
/// When this is not root, or `apt-get` is missing, fails or takes too long.
pub fn install(machine: &impl Machine, packages: &[&str]) -> Result<(), Failure> {
    let mut who = Command::new("id");
    who.arg("-u");
    if machine.run(who, ASK_LIMIT)?.trim() != "0" {
        return Err(Failure::NotRoot(packages.join(" ")));
    }
    machine.progress(&format!("installing {} with apt-get", packages.join(", ")));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let mut update = apt();
    update.args(["-q", "update"]);
    machine.run(update, APT_LIMIT)?;
    let mut install = apt();
    install
        .args(["-q", "install", "-y", "--no-install-recommends"])
        .args(packages);
    machine.run(install, APT_LIMIT)?;
    Ok(())
}

/// A sample that checks that a compiler and its linker work.
#[derive(Clone, Copy)]
enum Sample {
    /// Uses only the standard library.
    Std,
    /// Uses nothing, because the standard library is not built yet.
    Core,
}

/// Compiles and links an empty library, so that a missing standard library or
/// linker is detected now and not in the middle of a build.
fn compiles(
    machine: &impl Machine,
    mut rustc: Command,
    directory: &Path,
    target: Target,
    sample: Sample,
) -> Result<(), Failure> {
    let source = match sample {
        Sample::Std => "#![allow(missing_docs)]\n",
        Sample::Core => "#![feature(no_core)]\n#![no_core]\n",
    };
    let scratch = Scratch::new()?;
    let input = scratch.0.join("sample.rs");
    std::fs::write(&input, source).map_err(Failure::Scratch)?;
    rustc
        .current_dir(directory)
        .args(["--edition", "2021", "--crate-type", "cdylib", "--target"])
        .arg(target.triple())
        .arg("-o")
        .arg(scratch.0.join("sample.wasm"))
        .arg(input);
    machine.run(rustc, ASK_LIMIT)?;
    Ok(())
}

/// A directory that is removed with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ostrakon-toolchain-{}-{number}", std::process::id());
        let path = env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(Failure::Scratch)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the temporary directory does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The failure of one way.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Program(#[from] machine::Error),
    #[error("cannot write to the temporary directory: {0}")]
    Scratch(#[source] std::io::Error),
    /// Packages are missing, and only root can install them.
    #[error("only root can run `apt-get install {0}`")]
    NotRoot(String),
    #[error("neither rust-lld nor wasm-ld is installed")]
    NoLinker,
    /// Debian's compiler has no C library for WASI.
    #[error("Debian's packages build for wasm32-unknown-unknown only")]
    NoDebianWasip2,
}

/// Each way that was tried, with its failure.
#[derive(Debug)]
pub struct Failures(pub Vec<(Way, Failure)>);

impl fmt::Display for Failures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (way, failure)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{way}: {failure}")?;
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No way led to a toolchain that can build.
    #[error(
        "nothing here builds guests for {target}: run `rustup target add {target}`, or as root on \
         Debian `apt-get install --no-install-recommends {}` (tried: {failures})",
        DEBIAN_PACKAGES.join(" ")
    )]
    NotFound { target: Target, failures: Failures },
    #[error("{WAY_VARIABLE} is `{0}`: set it to installed, rustup or debian, or not at all")]
    UnknownWay(String),
}

#[cfg(test)]
mod tests;
