//! The manifests under `deploy/`, rendered.

use std::fs;
use std::path::{Path, PathBuf};

use ostrakon_test_support::tools::{output, tool};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The root of the repository.
///
/// # Panics
/// When it is missing.
pub fn repository() -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    top.canonicalize().expect("the path exists")
}

/// A copy of `deploy/`, to which overlays can be added.
#[derive(Debug)]
pub struct Deploy(TempDir);

impl Deploy {
    /// Copies `deploy/`.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let from = repository().join("deploy");
        for path in files(&from) {
            let to = directory.path().join(
                path.strip_prefix(&from)
                    .expect("the path is below the directory"),
            );
            fs::create_dir_all(to.parent().expect("the path is below the directory"))
                .expect("a directory can be created");
            fs::copy(&path, to).expect("the file can be copied");
        }
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The objects of an overlay, as kustomize renders it.
    ///
    /// # Panics
    /// When kustomize fails.
    pub fn render(&self, overlay: &str) -> Vec<Value> {
        let mut kubectl = tool("kubectl");
        kubectl
            .arg("kustomize")
            .arg(self.path().join("overlays").join(overlay));
        objects(&output(&mut kubectl))
    }

    /// Adds an overlay: another overlay with components.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn add(&self, name: &str, on: &str, components: &[&str]) {
        let directory = self.path().join("overlays").join(name);
        let components: Vec<_> = components
            .iter()
            .map(|component| format!("../../components/{component}"))
            .collect();
        let overlay = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [format!("../{on}")],
            "components": components,
        });
        fs::create_dir_all(&directory).expect("a directory can be created");
        let path = directory.join("kustomization.yaml");
        fs::write(path, overlay.to_string()).expect("the file can be written");
    }
}

impl Default for Deploy {
    fn default() -> Self {
        Self::new()
    }
}

/// The documents of a YAML text.
///
/// # Panics
/// When the text is not YAML.
pub fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml);
    let documents =
        documents.map(|document| Value::deserialize(document).expect("the text is YAML"));
    documents.filter(|object| !object.is_null()).collect()
}

/// All regular files below a directory, in order.
///
/// # Panics
/// When it cannot be read.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("the directory can be listed") {
        let path = entry.expect("the directory can be listed").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The only object of a kind and name.
///
/// # Panics
/// When there is none, or there are several.
pub fn the<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let one = found.next();
    assert!(found.next().is_none(), "two of {kind} {name}");
    one.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// The Dockerfile's instructions with continued lines joined, without comments; a stage begins
/// with its `FROM`.
///
/// # Panics
/// When it cannot be read.
pub fn dockerfile() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository().join("deploy/Dockerfile")).expect("the path exists");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let instructions = joined
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()));
    instructions.collect()
}
