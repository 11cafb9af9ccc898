//! Builds one guest crate: runs cargo, then makes the component.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::component;
use crate::search::Toolchain;
use crate::sha256;

/// The profile of guests, which overrides the crate's own release profile; a named profile is
/// used as it is.
///
/// Level 2 and not "s": a request to the key/value guest takes a fifth fewer of the guest's
/// instructions, small guests get 3 to 11 % smaller and larger ones 7 to 12 % larger. Level 3 makes
/// all of them but one larger than level 2, and that request no cheaper.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2"),
    ("CARGO_PROFILE_RELEASE_LTO", "true"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "true"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
];

/// A guest crate to be built.
#[derive(Clone, Debug)]
pub struct Build {
    directory: PathBuf,
    profile: Option<String>,
    output: Option<PathBuf>,
    quiet: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Where the component is.
    pub path: PathBuf,
    pub bytes: usize,
    /// The component's SHA-256, in hex.
    pub sha256: String,
}

impl Build {
    /// A build of the crate in `directory`, with the profile of guests, to
    /// `guests/<crate>.wasm` in its target directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            profile: None,
            output: None,
            quiet: false,
        }
    }

    /// Uses a profile of the crate's workspace, unchanged.
    #[must_use]
    pub fn profile(mut self, name: Option<String>) -> Self {
        self.profile = name;
        self
    }

    /// Writes the component to this file; `None` keeps the default.
    #[must_use]
    pub fn output(mut self, path: Option<PathBuf>) -> Self {
        self.output = path;
        self
    }

    /// Makes cargo print only errors and warnings.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Builds. cargo's messages go to standard error as they come.
    ///
    /// # Errors
    /// When the crate makes no guest, does not compile, or its component cannot be
    /// made or written.
    pub fn run(&self, toolchain: &Toolchain) -> Result<Built, Error> {
        let package = Package::read(toolchain, &self.directory)?;
        let module = self.compile(toolchain, &package)?;
        let bytes = fs::read(&module).map_err(|source| Error::Read {
            path: module.clone(),
            source,
        })?;
        if self.profile.is_none() && toolchain.has_no_clock() && asks_for_the_time(&bytes) {
            return Err(Error::NoClock(package.name));
        }
        let component = component::guest(bytes).map_err(|source| Error::Component {
            package: package.name.clone(),
            source,
        })?;
        let path = self.output.clone().unwrap_or_else(|| {
            let name = format!("{}.wasm", package.name);
            package.target_directory.join("guests").join(name)
        });
        write(path, &component)
    }

    /// Makes a component of a Wasm file that another toolchain made: a core module, or already a
    /// component.
    ///
    /// # Errors
    /// When the file cannot be read, is no guest or cannot be made one, or the component cannot be
    /// written.
    pub fn of_file(file: &Path, output: Option<PathBuf>) -> Result<Built, Error> {
        let bytes = fs::read(file).map_err(|source| Error::Read {
            path: file.to_owned(),
            source,
        })?;
        let component = component::guest(bytes).map_err(|source| Error::Component {
            package: file.display().to_string(),
            source,
        })?;
        let path = output.unwrap_or_else(|| file.with_extension("component.wasm"));
        write(path, &component)
    }

    /// Runs cargo and returns the Wasm file that it made.
    fn compile(&self, toolchain: &Toolchain, package: &Package) -> Result<PathBuf, Error> {
        let mut cargo = toolchain.cargo(&self.directory);
        cargo
            .args(["build", "--lib", "--message-format"])
            .arg("json-render-diagnostics")
            .args(toolchain.build_arguments())
            .arg("--target-dir")
            .arg(toolchain.target_directory(&package.target_directory));
        if self.quiet {
            cargo.arg("--quiet");
        }
        match &self.profile {
            Some(name) => cargo.args(["--profile", name]),
            None => cargo.arg("--release").envs(PROFILE),
        };
        let mut child = cargo
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::Cargo)?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut module = None;
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(Error::Cargo)?;
            module = wasm_of(&line, &package.manifest).or(module);
        }
        if !child.wait().map_err(Error::Cargo)?.success() {
            return Err(Error::Compile(package.name.clone()));
        }
        module.ok_or_else(|| Error::NoWasm(package.name.clone()))
    }
}

/// What the standard library says where a target has no clock. It is in a module only if something
/// there can ask for the time.
const NO_CLOCK: &[u8] = b"time not implemented on this platform";

fn asks_for_the_time(module: &[u8]) -> bool {
    module.windows(NO_CLOCK.len()).any(|text| text == NO_CLOCK)
}

fn write(path: PathBuf, component: &[u8]) -> Result<Built, Error> {
    match write_atomically(&path, component) {
        Ok(()) => Ok(Built {
            path,
            bytes: component.len(),
            sha256: sha256(component),
        }),
        Err(source) => Err(Error::Write { path, source }),
    }
}

/// Cargo's metadata of the crate in a directory.
struct Package {
    name: String,
    manifest: PathBuf,
    target_directory: PathBuf,
}

impl Package {
    fn read(toolchain: &Toolchain, directory: &Path) -> Result<Self, Error> {
        let not_a_crate = || Error::NotACrate(directory.to_owned());
        let manifest = directory
            .join("Cargo.toml")
            .canonicalize()
            .map_err(|_| not_a_crate())?;
        let output = toolchain
            .cargo(directory)
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(Error::Cargo)?;
        let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|_| not_a_crate())?;
        let name = metadata["packages"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|package| names_file(&package["manifest_path"], &manifest))
            .and_then(|package| package["name"].as_str())
            .ok_or_else(not_a_crate)?;
        let target_directory = metadata["target_directory"]
            .as_str()
            .ok_or_else(not_a_crate)?;
        Ok(Self {
            name: name.to_owned(),
            manifest,
            target_directory: target_directory.into(),
        })
    }
}

/// The Wasm file in one of cargo's JSON messages, if it belongs to this package.
fn wasm_of(message: &str, manifest: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || !names_file(&message["manifest_path"], manifest)
    {
        return None;
    }
    message["filenames"]
        .as_array()?
        .iter()
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .find(|path| path.extension() == Some(OsStr::new("wasm")))
}

fn names_file(path: &Value, file: &Path) -> bool {
    path.as_str()
        .and_then(|path| Path::new(path).canonicalize().ok())
        .is_some_and(|path| path == file)
}

/// Writes a file atomically: readers of its path see the complete old content or
/// the complete new content.
///
/// # Errors
/// When its directory cannot be made or written to.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    fs::write(&new, bytes)?;
    fs::rename(&new, path).inspect_err(|_| {
        // Only the rename's error is reported.
        let _ = fs::remove_file(&new);
    })
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{0} holds no cargo package that can be read: see cargo's message, if there is one, or name the directory of a guest's Cargo.toml"
    )]
    NotACrate(PathBuf),
    #[error("cannot run cargo")]
    Cargo(#[source] io::Error),
    /// The crate does not compile; cargo has printed the reason.
    #[error("{0} does not compile: see cargo's messages above")]
    Compile(String),
    /// The crate's library is not a dynamic one.
    #[error("{0} makes no Wasm file: add `[lib] crate-type = [\"cdylib\"]` to its Cargo.toml")]
    NoWasm(String),
    /// The crate asks the standard library for the time, which its target does not have.
    #[error(
        "{0} asks std for the time, and would trap: use the request's `now()`, or build it for wasm32-wasip2 (`--target`, `OSTRAKON_TARGET`)"
    )]
    NoClock(String),
    /// The file that cargo made could not be read.
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{package} makes no guest")]
    Component {
        package: String,
        /// What the crate makes instead.
        #[source]
        source: component::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}
