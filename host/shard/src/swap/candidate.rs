//! A candidate: the component and settings read from a volume's files.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use ostrakon_base::digest::Digest;
use ostrakon_engine::{Unfit, examine};
use ostrakon_settings::settings::{self, Settings};
use ostrakon_volumes::volume::Files;

const PLAIN: &str = "guest.wasm";
const PACKED: &str = "guest.wasm.zst";
const SETTINGS: &str = "ostrakon.toml";

/// The most bytes that a component may have.
const MAX_COMPONENT_BYTES: usize = 64 << 20;

/// A generation that is not live yet: a component with its settings, all well-formed.
#[derive(Clone)]
pub struct Candidate {
    /// The component, unpacked. It is whole, its exterior is that of a guest, and compiling it
    /// is bounded; only the compiler says whether it is valid.
    pub component: Bytes,
    /// The digest of the component alone.
    pub component_digest: Digest,
    /// The runtime's settings.
    pub settings: Arc<Settings>,
    /// The guest's settings: all other files.
    pub files: Arc<BTreeMap<String, Bytes>>,
    /// The digest of all the files of the candidate.
    pub digest: Digest,
    /// The files of the candidate, as they were in the volume.
    pub source: Files,
}

impl Candidate {
    /// Makes a candidate of a volume's files. Hashing, unpacking and parsing the component can
    /// take some milliseconds, and a tenth of a second for a very large one.
    ///
    /// # Errors
    /// What is wrong with the files, and how to correct it.
    pub fn new(source: &Files) -> Result<Self, Rejection> {
        let files = source.contents();
        let component = match (files.get(PLAIN), files.get(PACKED)) {
            (Some(plain), None) => plain.clone(),
            (None, Some(packed)) => unpack(packed)?,
            (Some(_), Some(_)) => return Err(Rejection::TwoGuests),
            (None, None) => return Err(Rejection::NoGuest),
        };
        verify(&component)?;
        examine(&component)?;
        let settings = match files.get(SETTINGS) {
            Some(text) => {
                let text = std::str::from_utf8(text).map_err(Rejection::SettingsNotText)?;
                Settings::parse(text)?
            }
            None => Settings::default(),
        };
        let own = [PLAIN, PACKED, SETTINGS];
        let rest = files
            .iter()
            .filter(|(name, _)| !own.contains(&name.as_str()));
        Ok(Self {
            component_digest: Digest::of(&component),
            component,
            settings: Arc::new(settings),
            files: Arc::new(
                rest.map(|(name, content)| (name.clone(), content.clone()))
                    .collect(),
            ),
            digest: source.digest(),
            source: source.clone(),
        })
    }
}

/// Whether a volume's files include a component, valid or not.
pub(super) fn has_component(files: &Files) -> bool {
    let contents = files.contents();
    contents.contains_key(PLAIN) || contents.contains_key(PACKED)
}

/// Whether the files are a component and nothing else.
pub(super) fn is_component_alone(files: &Files) -> bool {
    has_component(files) && files.contents().len() == 1
}

/// A volume's files with this component, plain or packed, in place of their own.
pub fn with_component(files: &Files, component: Bytes) -> Files {
    let mut contents = BTreeMap::clone(files.contents());
    contents.retain(|name, _| name != PLAIN && name != PACKED);
    let is_packed = component.starts_with(&zstd::zstd_safe::MAGICNUMBER.to_le_bytes());
    let name = if is_packed { PACKED } else { PLAIN };
    contents.insert(name.to_owned(), component);
    Files::new(contents)
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// Why files are not a generation.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("there is neither guest.wasm nor guest.wasm.zst; add one, made by `ostrakon build`")]
    NoGuest,
    #[error("there are both guest.wasm and guest.wasm.zst; remove one")]
    TwoGuests,
    #[error(
        "guest.wasm.zst cannot be unpacked; it must be whole, and made by `ostrakon pack` or zstd"
    )]
    Packing(#[source] std::io::Error),
    #[error("the guest is empty; make it with `ostrakon build`")]
    Empty,
    #[error(
        "the guest has more than {} MiB; build it with `ostrakon build`, which makes it small",
        MAX_COMPONENT_BYTES >> 20
    )]
    TooLarge,
    #[error("the guest is not WebAssembly; make it with `ostrakon build`")]
    NotWasm,
    #[error(
        "the guest is a core WebAssembly module, not a component; make it with `ostrakon build`"
    )]
    CoreModule,
    /// The component has an encoding that this host does not know.
    #[error(
        "the guest is WebAssembly of a version that this host does not support; make it with `ostrakon build`"
    )]
    OtherVersion,
    #[error("the guest is cut off after {0} bytes; copy it again or make it with `ostrakon build`")]
    Truncated(usize),
    /// The component must not be compiled.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("ostrakon.toml is not UTF-8 text")]
    SettingsNotText(#[source] std::str::Utf8Error),
    #[error(transparent)]
    Settings(#[from] settings::Error),
}

/// The largest window that unpacking may keep, as a power of two: no component is longer than
/// that.
const MAX_WINDOW_LOG: u32 = MAX_COMPONENT_BYTES.ilog2();

fn unpack(packed: &[u8]) -> Result<Bytes, Rejection> {
    if packed.is_empty() {
        return Err(Rejection::Empty);
    }
    let mut component = Vec::new();
    let limit = MAX_COMPONENT_BYTES as u64 + 1;
    zstd::Decoder::with_buffer(packed)
        .and_then(|mut decoder| {
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            decoder.take(limit).read_to_end(&mut component)
        })
        .map_err(Rejection::Packing)?;
    Ok(component.into())
}

/// Checks that these are the bytes of a whole component. The errors are worded for people who
/// copy files.
fn verify(component: &[u8]) -> Result<(), Rejection> {
    const MAGIC: &[u8] = b"\0asm";
    const MODULE: &[u8] = &[1, 0, 0, 0];
    const COMPONENT: &[u8] = &[0x0d, 0, 1, 0];

    if component.is_empty() {
        return Err(Rejection::Empty);
    }
    if component.len() > MAX_COMPONENT_BYTES {
        return Err(Rejection::TooLarge);
    }
    let magic = &component[..component.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        return Err(Rejection::NotWasm);
    }
    match component.get(4..8) {
        Some(COMPONENT) => {}
        Some(MODULE) => return Err(Rejection::CoreModule),
        Some(_) => return Err(Rejection::OtherVersion),
        None => return Err(Rejection::Truncated(component.len())),
    }
    let mut rest = &component[8..];
    while !rest.is_empty() {
        rest = after_section(rest).ok_or(Rejection::Truncated(component.len()))?;
    }
    Ok(())
}

/// The bytes after the first section: an id, its size as a LEB128 number, and that many bytes
/// (WebAssembly core specification, 5.5.2).
fn after_section(bytes: &[u8]) -> Option<&[u8]> {
    let mut size: u64 = 0;
    // A 32-bit number has at most five groups of seven bits.
    for group in 0..5 {
        let byte = *bytes.get(1 + group)?;
        size |= u64::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return bytes[2 + group..].get(usize::try_from(size).ok()?..);
        }
    }
    // Longer than any size: the compiler names the fault.
    Some(&[])
}

#[cfg(test)]
mod tests {
    use ostrakon_test_support::bombs::outside;
    use ostrakon_test_support::pages::{code, rows};
    use ostrakon_toolchain::component::EXPORTS;

    use super::*;

    #[test]
    fn the_reference_has_exactly_the_keys_that_are_the_hosts_and_the_largest_guest() {
        let readme = include_str!("../../../README.md");
        let rows_of_keys = rows(readme, "| key | meaning |");
        let keys: Vec<_> = rows_of_keys.iter().flat_map(|row| code(row[0])).collect();
        assert_eq!(keys, [PLAIN, PACKED, SETTINGS], "host/README.md");
        let limits = rows(readme, "| limit | most |");
        let most = format!("{} MiB", MAX_COMPONENT_BYTES >> 20);
        assert_eq!(limits[0], ["unpacked size", &most], "host/README.md");
    }

    /// The exterior of a guest, and a custom section `a` with 200 zero bytes.
    fn component() -> Vec<u8> {
        let mut bytes = outside(&EXPORTS);
        bytes.extend(b"\0\xca\x01\x01a");
        bytes.extend([0; 200]);
        bytes
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    fn files(entries: &[(&str, &[u8])]) -> Files {
        let contents = entries.iter();
        Files::new(
            contents
                .map(|(name, bytes)| ((*name).into(), bytes.to_vec().into()))
                .collect(),
        )
    }

    #[track_caller]
    fn rejected(entries: &[(&str, &[u8])], expected: &str) {
        let message = Candidate::new(&files(entries))
            .expect_err("must be rejected")
            .to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn files_are_sorted_into_component_settings_and_the_guests_own() {
        let source = files(&[
            ("guest.wasm", &component()),
            ("ostrakon.toml", b"writer.max_group = 7"),
            ("sharding", b"jump"),
        ]);
        let candidate = Candidate::new(&source).unwrap();
        assert_eq!(candidate.component, component());
        assert_eq!(candidate.component_digest, Digest::of(&component()));
        assert_eq!(candidate.settings.writer.max_group, 7);
        assert_eq!(candidate.files.keys().collect::<Vec<_>>(), ["sharding"]);
        assert_eq!(candidate.digest, source.digest());
        assert_eq!(
            Candidate::new(&candidate.source).unwrap().digest,
            candidate.digest
        );
    }

    #[test]
    fn a_packed_guest_is_the_same_component() {
        let plain = Candidate::new(&files(&[("guest.wasm", &component())])).unwrap();
        let bytes = packed(&component());
        let packed = Candidate::new(&files(&[("guest.wasm.zst", &bytes)])).unwrap();
        assert_eq!(packed.component, plain.component);
        assert_eq!(packed.component_digest, plain.component_digest);
        assert_ne!(packed.digest, plain.digest);
    }

    #[test]
    fn there_must_be_one_guest() {
        rejected(
            &[("ostrakon.toml", b"")],
            "neither guest.wasm nor guest.wasm.zst",
        );
        let bytes = packed(&component());
        let both: [(&str, &[u8]); 2] = [("guest.wasm", &component()), ("guest.wasm.zst", &bytes)];
        rejected(&both, "both guest.wasm and guest.wasm.zst");
    }

    #[test]
    fn what_is_not_a_component_is_told_apart() {
        rejected(&[("guest.wasm", b"")], "is empty");
        rejected(&[("guest.wasm.zst", b"")], "is empty");
        rejected(&[("guest.wasm", b"hello, world")], "is not WebAssembly");
        rejected(&[("guest.wasm", b"\0a")], "cut off after 2 bytes");
        rejected(&[("guest.wasm", b"\0asm\x0d\0")], "cut off after 6 bytes");
        rejected(
            &[("guest.wasm", b"\0asm\x01\0\0\0")],
            "core WebAssembly module",
        );
        rejected(&[("guest.wasm", b"\0asm\x0e\0\x01\0")], "does not support");
    }

    #[test]
    fn a_guest_cut_off_anywhere_within_a_section_is_truncated() {
        let whole = component();
        let sections = [8, outside(&EXPORTS).len()];
        for length in (9..whole.len()).filter(|length| !sections.contains(length)) {
            let expected = format!("cut off after {length} bytes");
            rejected(&[("guest.wasm", &whole[..length])], &expected);
        }
    }

    #[test]
    fn what_is_too_much_to_compile_is_rejected() {
        let bomb = ostrakon_test_support::bombs::nested(&component(), 10, 8);
        rejected(&[("guest.wasm", &bomb)], "steps to instantiate it");
    }

    #[test]
    fn a_guest_packed_badly_or_too_large_is_rejected() {
        let bytes = packed(&component());
        rejected(
            &[("guest.wasm.zst", &bytes[..bytes.len() / 2])],
            "cannot be unpacked",
        );
        rejected(&[("guest.wasm.zst", b"hello")], "cannot be unpacked");
        let bomb = packed(&vec![0; MAX_COMPONENT_BYTES + 1]);
        assert!(bomb.len() < 64 << 10, "the bomb fits into a ConfigMap");
        rejected(&[("guest.wasm.zst", &bomb)], "more than 64 MiB");
    }

    #[test]
    fn a_guest_is_unpacked_in_no_more_memory_than_it_can_have_itself() {
        // A frame header with the size of its window, and a last block of no bytes.
        let frame = |window_log: u8| {
            let magic = zstd::zstd_safe::MAGICNUMBER.to_le_bytes();
            [&magic[..], &[0, (window_log - 10) << 3, 1, 0, 0]].concat()
        };
        rejected(&[("guest.wasm.zst", &frame(26))], "is empty");
        rejected(&[("guest.wasm.zst", &frame(27))], "cannot be unpacked");
    }

    #[test]
    fn wrong_settings_are_rejected_by_name() {
        let with = |text: &'static [u8]| rejected_settings(&component(), text);
        assert_eq!(
            with(b"writer.max_group = 0"),
            "writer.max_group is 0; it must be 1 to 65536"
        );
        assert_eq!(with(b"\xff"), "ostrakon.toml is not UTF-8 text");
    }

    fn rejected_settings(component: &[u8], text: &[u8]) -> String {
        let source = files(&[("guest.wasm", component), ("ostrakon.toml", text)]);
        Candidate::new(&source)
            .expect_err("must be rejected")
            .to_string()
    }
}
