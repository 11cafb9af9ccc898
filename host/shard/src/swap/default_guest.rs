//! The component that serves where a volume has none.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ostrakon_base::regular;
use ostrakon_volumes::volume::{self, Files, Observation, ReadError};

use super::candidate;

/// A component that is given at the start, or none. It completes a volume's files, and is part
/// of the generation as if the volume had contained it.
#[derive(Clone, Default)]
pub struct DefaultGuest(Option<Bytes>);

impl DefaultGuest {
    /// Reads a component, plain or packed. The swap checks what it is.
    ///
    /// # Errors
    /// When the file cannot be read, or is larger than a volume's files may be.
    pub fn read(path: &Path) -> Result<Self, DefaultGuestError> {
        let mut component = Vec::new();
        let limit = volume::MAX_BYTES as u64 + 1;
        regular::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut component))
            .map_err(|source| DefaultGuestError::Unreadable {
                path: path.to_owned(),
                source,
            })?;
        if component.len() > volume::MAX_BYTES {
            let path = path.to_owned();
            return Err(DefaultGuestError::TooLarge { path });
        }
        Ok(Self(Some(component.into())))
    }

    /// The files, with this component added where they have none.
    pub fn complete(&self, files: Files) -> Files {
        match &self.0 {
            Some(component) if !candidate::has_component(&files) => {
                candidate::with_component(&files, component.clone())
            }
            _ => files,
        }
    }

    /// The content that an observation of the volume stands for; `None` if it cannot be read.
    pub fn of(&self, observed: &Observation) -> Option<Files> {
        match observed {
            Ok(files) => Some(self.complete(files.clone())),
            Err(error) if matches!(**error, ReadError::Empty(_)) => self.alone(),
            Err(_) => None,
        }
    }

    /// This component without any settings; `None` where there is no default guest.
    pub(super) fn alone(&self) -> Option<Files> {
        let component = self.0.as_ref()?;
        let none = Files::new(BTreeMap::new());
        Some(candidate::with_component(&none, component.clone()))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DefaultGuestError {
    #[error(
        "cannot read the default guest {path}: give --default-guest a component's file, or leave it out"
    )]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the default guest {path} has more than {} MiB; build it with `ostrakon build`, which makes it small",
        volume::MAX_BYTES >> 20
    )]
    TooLarge { path: PathBuf },
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn files(names: &[&str]) -> Files {
        let contents = names.iter();
        Files::new(
            contents
                .map(|&name| (name.to_owned(), Bytes::from(name.to_owned())))
                .collect(),
        )
    }

    fn default_guest(content: &[u8]) -> DefaultGuest {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kv.wasm");
        fs::write(&path, content).unwrap();
        DefaultGuest::read(&path).unwrap()
    }

    #[test]
    fn it_is_added_where_there_is_none_and_changes_the_digest() {
        let default = default_guest(b"\0asm");
        let brought = files(&["ostrakon.toml", "sharding"]);
        let complete = default.complete(brought.clone());
        assert_eq!(&complete.contents()["guest.wasm"][..], b"\0asm");
        assert_eq!(
            complete.contents()["sharding"],
            brought.contents()["sharding"]
        );
        assert_ne!(complete.digest(), brought.digest());
        let other = default_guest(b"\0asm, another").complete(brought);
        assert_ne!(complete.digest(), other.digest());
        assert_eq!(
            default.complete(complete.clone()).digest(),
            complete.digest()
        );
    }

    #[test]
    fn a_guest_that_the_volume_brings_stays_alone() {
        let default = default_guest(b"\0asm");
        for name in ["guest.wasm", "guest.wasm.zst"] {
            let brought = files(&[name, "sharding"]);
            let complete = default.complete(brought.clone());
            assert_eq!(complete.digest(), brought.digest(), "{name}");
        }
        let none = files(&["sharding"]);
        let complete = DefaultGuest::default().complete(none.clone());
        assert_eq!(complete.digest(), none.digest());
    }

    #[test]
    fn one_that_is_packed_stays_so() {
        let packed = zstd::encode_all(&b"\0asm"[..], 1).unwrap();
        let complete = default_guest(&packed).complete(files(&["sharding"]));
        assert_eq!(&complete.contents()["guest.wasm.zst"][..], packed);
    }

    #[test]
    fn what_cannot_be_one_is_told_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let read = |name: &str| {
            let read = DefaultGuest::read(&directory.path().join(name)).err();
            read.expect("the guest is refused").to_string()
        };
        let missing = read("missing.wasm");
        assert!(
            missing.contains("missing.wasm") && missing.contains("--default-guest"),
            "{missing}"
        );
        fs::write(
            directory.path().join("large"),
            vec![0; volume::MAX_BYTES + 1],
        )
        .unwrap();
        let large = read("large");
        assert!(large.contains("more than 4 MiB"), "{large}");
    }
}
