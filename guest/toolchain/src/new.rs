//! Writes a new guest: a crate that builds, tests and runs anywhere, with the SDK beside it.
//!
//! The SDK is carried by this program, because it is on no registry, and because a guest should be
//! built with the SDK of the host that runs it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The most characters of a guest's name, as in the contract.
const MAX_NAME: usize = 64;

/// The files of the SDK, as they are in this project.
const SDK: &[(&str, &str)] = &[
    (
        "wit/ostrakon.wit",
        include_str!("../../../wit/ostrakon.wit"),
    ),
    ("guest/README.md", include_str!("../../README.md")),
    (
        "guest/sdk/src/bindings.rs",
        include_str!("../../sdk/src/bindings.rs"),
    ),
    (
        "guest/sdk/src/collections.rs",
        include_str!("../../sdk/src/collections.rs"),
    ),
    (
        "guest/sdk/src/cookies.rs",
        include_str!("../../sdk/src/cookies.rs"),
    ),
    (
        "guest/sdk/src/error.rs",
        include_str!("../../sdk/src/error.rs"),
    ),
    (
        "guest/sdk/src/exports.rs",
        include_str!("../../sdk/src/exports.rs"),
    ),
    (
        "guest/sdk/src/forms.rs",
        include_str!("../../sdk/src/forms.rs"),
    ),
    (
        "guest/sdk/src/guest.rs",
        include_str!("../../sdk/src/guest.rs"),
    ),
    (
        "guest/sdk/src/html.rs",
        include_str!("../../sdk/src/html.rs"),
    ),
    (
        "guest/sdk/src/imports/mod.rs",
        include_str!("../../sdk/src/imports/mod.rs"),
    ),
    (
        "guest/sdk/src/imports/wasm.rs",
        include_str!("../../sdk/src/imports/wasm.rs"),
    ),
    ("guest/sdk/src/lib.rs", include_str!("../../sdk/src/lib.rs")),
    ("guest/sdk/src/log.rs", include_str!("../../sdk/src/log.rs")),
    (
        "guest/sdk/src/part.rs",
        include_str!("../../sdk/src/part.rs"),
    ),
    (
        "guest/sdk/src/paths.rs",
        include_str!("../../sdk/src/paths.rs"),
    ),
    (
        "guest/sdk/src/request.rs",
        include_str!("../../sdk/src/request.rs"),
    ),
    (
        "guest/sdk/src/response.rs",
        include_str!("../../sdk/src/response.rs"),
    ),
    (
        "guest/sdk/src/route.rs",
        include_str!("../../sdk/src/route.rs"),
    ),
    (
        "guest/sdk/src/router.rs",
        include_str!("../../sdk/src/router.rs"),
    ),
    (
        "guest/sdk/src/secret.rs",
        include_str!("../../sdk/src/secret.rs"),
    ),
    (
        "guest/sdk/src/settings.rs",
        include_str!("../../sdk/src/settings.rs"),
    ),
    (
        "guest/sdk/src/shard.rs",
        include_str!("../../sdk/src/shard.rs"),
    ),
    (
        "guest/sdk/src/sharding.rs",
        include_str!("../../sdk/src/sharding.rs"),
    ),
    (
        "guest/sdk/src/store.rs",
        include_str!("../../sdk/src/store.rs"),
    ),
    (
        "guest/sdk/src/testing/call.rs",
        include_str!("../../sdk/src/testing/call.rs"),
    ),
    (
        "guest/sdk/src/testing/cluster.rs",
        include_str!("../../sdk/src/testing/cluster.rs"),
    ),
    (
        "guest/sdk/src/testing/imports.rs",
        include_str!("../../sdk/src/testing/imports.rs"),
    ),
    (
        "guest/sdk/src/testing/mod.rs",
        include_str!("../../sdk/src/testing/mod.rs"),
    ),
    (
        "guest/sdk/src/testing/reply.rs",
        include_str!("../../sdk/src/testing/reply.rs"),
    ),
    (
        "guest/sdk/src/time.rs",
        include_str!("../../sdk/src/time.rs"),
    ),
];

/// The manifests from which that of the carried SDK is made.
const WORKSPACE: &str = include_str!("../../../Cargo.toml");
const SDK_MANIFEST: &str = include_str!("../../sdk/Cargo.toml");

/// What the README of a new guest says of its SDK.
const COPY: &str = "\
`ostrakon/` is the SDK, of the version of the `ostrakon` that wrote it, and `ostrakon/guest/README.md` its guide. To take the SDK of
another version, run `ostrakon new` of that version elsewhere and replace the directory.";

/// Where the SDK is, in a new guest.
const CARRIED: &str = "ostrakon/guest/sdk";

/// A guest to be written.
#[derive(Clone, Debug)]
pub struct New {
    name: String,
    directory: PathBuf,
    sdk: Option<PathBuf>,
}

impl New {
    /// A guest with this name, in a new directory of that name.
    ///
    /// # Errors
    /// When it cannot be the name of a crate and of a Kubernetes object.
    pub fn named(name: &str) -> Result<Self, Error> {
        let is_valid = name.len() <= MAX_NAME
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && !name.ends_with('-')
            && !name.contains("--")
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !is_valid {
            return Err(Error::Name(name.to_owned()));
        }
        if TAKEN.contains(&name) {
            return Err(Error::Taken(name.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            directory: name.into(),
            sdk: None,
        })
    }

    /// Writes to this directory instead.
    #[must_use]
    pub fn directory(mut self, directory: Option<PathBuf>) -> Self {
        self.directory = directory.unwrap_or(self.directory);
        self
    }

    /// Uses the SDK in this directory instead of a copy.
    #[must_use]
    pub fn sdk(mut self, directory: Option<PathBuf>) -> Self {
        self.sdk = directory;
        self
    }

    /// Writes the guest, and returns its directory.
    ///
    /// # Errors
    /// When the directory has files already, cannot be written, or the SDK is not where it was said
    /// to be. Nothing that was there is changed.
    pub fn write(&self) -> Result<PathBuf, Error> {
        let sdk = match &self.sdk {
            None => CARRIED.to_owned(),
            Some(directory) => {
                let manifest = directory.join("Cargo.toml");
                let found = fs::read_to_string(&manifest).ok();
                let is_sdk = found.is_some_and(|text| text.contains("name = \"ostrakon-guest\""));
                let whole = directory.canonicalize().ok().filter(|_| is_sdk);
                let whole = whole.ok_or_else(|| Error::NoSdk(directory.clone()))?;
                whole.display().to_string()
            }
        };
        match fs::read_dir(&self.directory).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Err(Error::NotEmpty(self.directory.clone())),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Write(self.directory.clone(), source)),
        }
        let library = self.name.replace('-', "_");
        let about_sdk = if self.sdk.is_none() {
            COPY
        } else {
            "The SDK is that of another directory: see Cargo.toml."
        };
        let of_this = |text: &str| {
            text.replace("{{library}}", &library)
                .replace("{{about_sdk}}", about_sdk)
                .replace("{{name}}", &self.name)
                .replace("{{sdk}}", &Value::from(sdk.as_str()).to_string())
        };
        let template = |file: &str, text| self.put(file, &of_this(text));
        template("Cargo.toml", include_str!("../template/Cargo.toml"))?;
        template("README.md", include_str!("../template/README.md"))?;
        template("src/lib.rs", include_str!("../template/lib.rs"))?;
        template("tests/service.rs", include_str!("../template/test.rs"))?;
        self.put(".gitignore", "/target\n/.ostrakon\n*.wasm\n")?;
        if self.sdk.is_none() {
            let manifest = manifest(WORKSPACE, SDK_MANIFEST);
            self.put(&format!("{CARRIED}/Cargo.toml"), &manifest)?;
            for (file, text) in SDK {
                self.put(&format!("ostrakon/{file}"), text)?;
            }
        }
        Ok(self.directory.clone())
    }

    fn put(&self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.directory.join(file);
        let parent = path.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .map_err(|source| Error::Write(path, source))
    }
}

/// Names that a crate cannot have, or that would be confused with a dependency.
const TAKEN: &[&str] = &[
    "alloc",
    "as",
    "async",
    "await",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "match",
    "mod",
    "move",
    "mut",
    "ostrakon-guest",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "serde",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "type",
    "unsafe",
    "use",
    "where",
    "while",
];

/// The SDK's manifest by itself: what it takes from this project's workspace is written out.
fn manifest(workspace: &str, sdk: &str) -> String {
    let parse = |text: &str| text.parse::<Table>().expect("the manifests are valid");
    let (workspace, mut sdk) = (parse(workspace), parse(sdk));
    let shared = |section: &str| workspace["workspace"][section].clone();
    for key in ["dev-dependencies", "lints"] {
        sdk.remove(key);
    }
    for (section, shared) in [
        ("package", shared("package")),
        ("dependencies", shared("dependencies")),
    ] {
        let Some(Value::Table(entries)) = sdk.get_mut(section) else {
            continue;
        };
        for (name, value) in entries.iter_mut() {
            if value.get("workspace").is_some() {
                *value = shared[name.as_str()].clone();
            }
        }
    }
    sdk.to_string()
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{0:?} cannot be a guest's name: use lower-case letters, digits and single `-`, at most {MAX_NAME}, and begin with a letter"
    )]
    Name(String),
    #[error("a crate cannot be named {0}: take another name")]
    Taken(String),
    #[error("{0} has files already: name a new directory with --directory, or remove it")]
    NotEmpty(PathBuf),
    #[error("{0} is not the SDK: name the directory of the crate ostrakon-guest")]
    NoSdk(PathBuf),
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn files(directory: &Path, below: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(directory.join(below)).expect("the directory is there") {
            let entry = entry.expect("it can be read");
            let name = format!("{below}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("it has a type").is_dir() {
                found.extend(files(directory, &name));
            } else {
                found.insert(name);
            }
        }
        found
    }

    #[test]
    fn the_whole_sdk_is_carried() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let carried: BTreeSet<_> = SDK.iter().map(|(file, _)| (*file).to_owned()).collect();
        let mut there = files(&root, "guest/sdk/src");
        there.extend(files(&root, "wit"));
        there.insert("guest/README.md".to_owned());
        assert_eq!(carried, there);
    }

    #[test]
    fn the_manifest_of_the_sdk_needs_no_workspace() {
        let text = manifest(WORKSPACE, SDK_MANIFEST);
        assert!(!text.contains("workspace"), "{text}");
        let parsed: Table = text.parse().expect("it is valid");
        assert_eq!(parsed["package"]["name"].as_str(), Some("ostrakon-guest"));
        assert!(
            parsed["dependencies"]["wit-bindgen"]
                .get("version")
                .is_some(),
            "{text}"
        );
    }

    #[test]
    fn what_cannot_be_written_is_refused_with_what_to_do_and_changes_nothing() {
        for name in [
            "",
            "A",
            "1a",
            "a_b",
            "a-",
            "a--b",
            "a/b",
            "ä",
            "..",
            &"a".repeat(65),
        ] {
            assert!(matches!(New::named(name), Err(Error::Name(_))), "{name}");
        }
        for name in ["test", "fn", "ostrakon-guest"] {
            assert!(matches!(New::named(name), Err(Error::Taken(_))), "{name}");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let there = directory.path().join("there");
        fs::write(&there, "mine").expect("it is written");
        let into = |path: &Path| {
            New::named("a")
                .expect("a name")
                .directory(Some(path.to_owned()))
        };
        assert!(matches!(
            into(directory.path()).write(),
            Err(Error::NotEmpty(_))
        ));
        assert!(matches!(into(&there).write(), Err(Error::Write(..))));
        let free = directory.path().join("free");
        let without = into(&free).sdk(Some(directory.path().to_owned()));
        assert!(matches!(without.write(), Err(Error::NoSdk(_))));
        assert!(!free.exists());
        assert_eq!(fs::read_to_string(there).expect("it is there"), "mine");
    }
}
