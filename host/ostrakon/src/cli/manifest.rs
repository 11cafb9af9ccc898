//! The manifest of a ConfigMap: the checks of its content, and its text.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The most that a ConfigMap's values may have together, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// The largest annotation, in bytes. `kubectl apply` keeps the whole object in one, unless it
/// applies on the server side.
const MAX_ANNOTATION: usize = 262_144;
/// The keys that are not settings of the guest.
const RESERVED: [&str; 3] = ["guest.wasm", "guest.wasm.zst", "ostrakon.toml"];

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{0:?} cannot be a name in Kubernetes: use lower-case letters, digits, `-` and `.`, at most 253"
    )]
    Name(String),
    #[error(
        "{0:?} cannot be a key of a ConfigMap: use letters, digits, `-`, `_` and `.`, at most 253"
    )]
    Key(String),
    /// A key is reserved for the runtime.
    #[error("the key {0} is not for settings of the guest: use --guest or --settings")]
    Reserved(String),
    #[error("the key {0} is given twice: leave one out")]
    Twice(String),
    /// The content is larger than a ConfigMap.
    #[error("this is {bytes} bytes and a ConfigMap holds {MAX_BYTES}: {advice}")]
    TooLarge { bytes: usize, advice: &'static str },
}

/// A ConfigMap.
#[derive(Debug)]
pub(super) struct Manifest {
    name: String,
    namespace: Option<String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Manifest {
    pub(super) fn new(name: &str, namespace: Option<&str>) -> Result<Self, Error> {
        if let Some(bad) = [Some(name), namespace]
            .into_iter()
            .flatten()
            .find(|name| !is_name(name))
        {
            return Err(Error::Name(bad.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            files: BTreeMap::new(),
        })
    }

    /// Adds a setting of the guest. A key of the runtime is refused.
    pub(super) fn add_setting(&mut self, key: &str, content: Vec<u8>) -> Result<(), Error> {
        if RESERVED.contains(&key) {
            return Err(Error::Reserved(key.to_owned()));
        }
        self.add(key, content)
    }

    pub(super) fn add(&mut self, key: &str, content: Vec<u8>) -> Result<(), Error> {
        if !is_key(key) {
            return Err(Error::Key(key.to_owned()));
        }
        match self.files.insert(key.to_owned(), content) {
            None => Ok(()),
            Some(_) => Err(Error::Twice(key.to_owned())),
        }
    }

    pub(super) fn check_size(&self) -> Result<(), Error> {
        let bytes = self.files.values().map(Vec::len).sum();
        if bytes <= MAX_BYTES {
            return Ok(());
        }
        let advice = if self.files.contains_key("guest.wasm") {
            "try --zstd, and a guest of fewer dependencies"
        } else {
            "make the guest smaller"
        };
        Err(Error::TooLarge { bytes, advice })
    }

    /// Whether the manifest is too large for `kubectl apply` to keep in an annotation.
    pub(super) fn needs_server_side(&self) -> bool {
        self.json().to_string().len() > MAX_ANNOTATION
    }

    /// The manifest as JSON, which `kubectl` takes as it does YAML; the same for the same
    /// content.
    pub(super) fn json(&self) -> Value {
        let mut manifest = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": self.name },
        });
        if let Some(namespace) = &self.namespace {
            manifest["metadata"]["namespace"] = json!(namespace);
        }
        let texts: BTreeMap<_, _> = self.texts().collect();
        if !texts.is_empty() {
            manifest["data"] = json!(texts);
        }
        let binaries: BTreeMap<_, _> = self.binaries().collect();
        if !binaries.is_empty() {
            manifest["binaryData"] = json!(binaries);
        }
        manifest
    }

    fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter_map(|(key, content)| Some((key.as_str(), str::from_utf8(content).ok()?)))
    }

    fn binaries(&self) -> impl Iterator<Item = (&str, String)> {
        self.files
            .iter()
            .filter(|(_, content)| str::from_utf8(content).is_err())
            .map(|(key, content)| (key.as_str(), STANDARD.encode(content)))
    }
}

/// A size for people, with its share of a ConfigMap.
pub(super) fn share(bytes: usize) -> String {
    let tenths = bytes * 1000 / MAX_BYTES;
    let (percent, tenth) = (tenths / 10, tenths % 10);
    format!("{bytes} bytes, {percent}.{tenth} % of a ConfigMap's 1 MiB")
}

fn is_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let bytes = name.as_bytes();
    bytes.len() <= 253
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| edge(Some(byte)) || b"-.".contains(byte))
}

fn is_key(key: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=253).contains(&key.len())
        && key != "."
        && !key.starts_with("..")
        && key.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &[(&str, &[u8])]) -> Manifest {
        let mut manifest = Manifest::new("kv", Some("shop")).unwrap();
        for (key, content) in files {
            manifest.add(key, content.to_vec()).unwrap();
        }
        manifest
    }

    /// The content that a YAML reader gets back.
    fn read_back(manifest: &Manifest) -> BTreeMap<String, Vec<u8>> {
        let object = manifest.json();
        assert_eq!(
            (&object["apiVersion"], &object["kind"]),
            (&json!("v1"), &json!("ConfigMap"))
        );
        assert_eq!(
            object["metadata"],
            json!({ "name": "kv", "namespace": "shop" })
        );
        let entries = |field: &str| object[field].as_object().cloned().unwrap_or_default();
        let text = |value: Value| value.as_str().unwrap().as_bytes().to_vec();
        let texts = entries("data")
            .into_iter()
            .map(|(key, value)| (key, text(value)));
        let binaries = entries("binaryData")
            .into_iter()
            .map(|(key, value)| (key, STANDARD.decode(text(value)).unwrap()));
        texts.chain(binaries).collect()
    }

    #[test]
    fn every_content_is_read_back_as_it_was() {
        let files: &[(&str, &[u8])] = &[
            ("guest.wasm", b"\0asm\x0d\0\x01\0\xff"),
            (
                "ostrakon.toml",
                b"[http]\n# a comment: with \"quotes\"\n\nmax_connections = 3\n",
            ),
            ("sharding", b"jump"),
            ("number", b"0123"),
            ("yes", b"true"),
            ("empty", b""),
            ("newlines", b"\n\n"),
            ("open", b"a\nb"),
            ("indented", b"  a\nb\n"),
            ("trailing", b"a  \n\tb\t\n"),
            ("blank-lines", b"a\n\n\nb\n\n"),
            ("windows", b"a\r\nb\r\n"),
            ("control", b"\x1b[0m\x7f"),
            (
                "unicode",
                "gr\u{fc}n \u{1f34f} \u{2028}\u{feff}\n".as_bytes(),
            ),
            ("--", b"--- # not a document\n...\n"),
        ];
        let manifest = manifest(files);
        assert_eq!(read_back(&manifest), manifest.files);
        assert_eq!(manifest.files.len(), files.len());
    }

    #[test]
    fn what_there_is_none_of_is_not_named() {
        let manifest = Manifest::new("kv", None).unwrap();
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "kv" },
        });
        assert_eq!(manifest.json(), expected);
    }

    #[test]
    fn a_configmap_of_a_mebibyte_fits_and_a_byte_more_does_not() {
        let fits = vec![0xff; MAX_BYTES - 1];
        let mut manifest = manifest(&[("guest.wasm", &fits), ("a", b"1")]);
        manifest.check_size().unwrap();
        manifest.add("b", b"1".to_vec()).unwrap();
        let error = manifest.check_size().unwrap_err().to_string();
        assert!(
            error.contains("is 1048577 bytes") && error.contains("--zstd"),
            "{error}"
        );
    }

    #[test]
    fn what_kubectls_annotation_cannot_hold_needs_the_server_to_apply_it() {
        // 190 KiB are 253 KiB in base64.
        assert!(!manifest(&[("guest.wasm", &vec![0xff; 190 * 1024])]).needs_server_side());
        assert!(manifest(&[("guest.wasm", &vec![0xff; 197 * 1024])]).needs_server_side());
    }

    #[test]
    fn names_and_keys_that_kubernetes_refuses_are_refused() {
        for name in ["", "KV", "-kv", "kv.", "a_b", "a b"] {
            assert!(
                matches!(Manifest::new(name, None), Err(Error::Name(_))),
                "{name}"
            );
        }
        let mut manifest = manifest(&[("a", b"")]);
        for key in ["", ".", "..data", "a/b", "a b"] {
            assert!(
                matches!(manifest.add(key, vec![]), Err(Error::Key(_))),
                "{key}"
            );
        }
        assert!(matches!(manifest.add("a", vec![]), Err(Error::Twice(_))));
        let reserved = manifest.add_setting("guest.wasm", vec![]);
        assert!(matches!(reserved, Err(Error::Reserved(_))));
    }

    #[test]
    fn a_size_is_told_with_its_share() {
        assert_eq!(share(26_214), "26214 bytes, 2.4 % of a ConfigMap's 1 MiB");
    }
}
