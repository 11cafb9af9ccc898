//! The compiled forms of the most recently used guests, in the data directory.
//!
//! A compiled form is derived from the component. So a file that is damaged or not for this exact
//! engine is replaced, even if a later version wrote it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ostrakon_base::digest::Digest;
use ostrakon_base::full;
use ostrakon_base::recency;
use ostrakon_base::regular;
use wasmtime::component::Component;

use super::engine::Engine;

/// The beginning of a compiled file; its last byte is the version. Then follow the engine's
/// compatibility hash (8 bytes), the digest of the code (32 bytes), and the code.
const MAGIC: &[u8; 8] = b"ostrakn1";
const HEADER: usize = 8 + 8 + 32;

/// Why a compiled file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unfit {
    #[error("another version of ostrakon wrote it, or it was compiled for another processor")]
    Foreign,
    #[error("it is damaged")]
    Damaged,
}

/// The limit on the bytes of a compiled file.
const MAX_FILE: usize = 1 << 30;

/// The number of guests that are kept.
const KEPT: usize = 8;

/// The directory of compiled guests, by the digest of their components. Its files are as
/// trustworthy as the data beside them: it contains only code that this host compiled.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Opens the cache of a data directory.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn open(data_directory: &Path) -> io::Result<Self> {
        let directory = data_directory.join("compiled");
        full::make_directory(&directory)?;
        Ok(Self { directory })
    }

    /// Removes all files but the most recently used ones.
    fn prune(&self) {
        for (_, path) in recency::by_use(&self.directory).into_iter().skip(KEPT) {
            // A file that cannot be removed only costs space.
            let _ = fs::remove_file(path);
        }
    }

    /// The compiled form of a component for this exact engine.
    #[expect(
        unsafe_code,
        reason = "deserialising compiled code trusts it: this host wrote the file into its own \
                  data directory; the digest shows it is whole, the hash that it fits this engine"
    )]
    pub(super) fn compiled(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let file = match regular::read_own(&path, MAX_FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled guest is not used");
                return None;
            }
        };
        let code = match code_of(&file, engine.compatibility()) {
            Ok(code) => code,
            Err(why) => {
                let path = path.display();
                if why == Unfit::Damaged {
                    tracing::warn!(%path, %why, "a compiled guest is not used, and is compiled again");
                } else {
                    tracing::info!(%path, %why, "a compiled guest is not used, and is compiled again");
                }
                return None;
            }
        };
        // SAFETY: see the reason above.
        match unsafe { Component::deserialize(&engine.wasmtime, code) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled guest is not used");
                None
            }
        }
    }

    pub(super) fn keep_compiled(&self, engine: &Engine, digest: &Digest, code: &[u8]) {
        let path = self.path(digest);
        let header = header(engine.compatibility(), code);
        if regular::read_own(&path, MAX_FILE).is_ok_and(|file| file.starts_with(&header)) {
            // If this fails, the file is at worst pruned early, and compiled again.
            let _ = recency::used_last(&path);
            return;
        }
        let written = Self::write(&path, &[&header, code]).and_then(|()| recency::used_last(&path));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "a compiled guest cannot be kept");
        }
        self.prune();
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{digest}.cwasm"))
    }

    /// Writes a whole file under a temporary name, then renames it.
    fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // Remove any remains of an earlier write.
        let _ = fs::remove_file(&temporary);
        let written = File::create_new(&temporary).and_then(|mut file| {
            for part in parts {
                file.write_all(part)?;
            }
            fs::rename(&temporary, path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn header(compatibility: u64, code: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&compatibility.to_le_bytes());
    header[16..].copy_from_slice(Digest::of(code).as_bytes());
    header
}

/// The code in a compiled file, if the file is undamaged and for this engine.
fn code_of(file: &[u8], compatibility: u64) -> Result<&[u8], Unfit> {
    let (found, code) = file.split_at_checked(HEADER).ok_or(Unfit::Damaged)?;
    let of_this = header(compatibility, code);
    let (name, version) = (..MAGIC.len() - 1, MAGIC.len() - 1);
    if found[name] != of_this[name] {
        Err(Unfit::Damaged)
    } else if found[version..16] != of_this[version..16] {
        Err(Unfit::Foreign)
    } else if found != of_this {
        Err(Unfit::Damaged)
    } else {
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use ostrakon_test_support::files::{fifo, in_time};

    use super::*;

    /// A compiled file of version 1, for an engine with [`COMPATIBILITY`].
    const COMPILED_1: &[u8] = include_bytes!("fixtures/compiled.1.cwasm");
    const COMPATIBILITY: u64 = 0x0123_4567_89ab_cdef;

    #[test]
    fn what_is_written_is_what_was_written_by_this_version_before() {
        let written = [&header(COMPATIBILITY, b"code")[..], b"code"].concat();
        assert_eq!(written, COMPILED_1);
        assert_eq!(code_of(COMPILED_1, COMPATIBILITY), Ok(&b"code"[..]));
    }

    #[test]
    fn what_is_of_another_version_is_told_from_what_is_damaged() {
        let unfit = |file: &[u8]| code_of(file, COMPATIBILITY).unwrap_err();
        let mut later = COMPILED_1.to_vec();
        later[7] = b'2';
        assert_eq!(unfit(&later), Unfit::Foreign);
        assert_eq!(code_of(COMPILED_1, 1), Err(Unfit::Foreign));
        for at in (0..7).chain(16..COMPILED_1.len()) {
            let mut damaged = COMPILED_1.to_vec();
            damaged[at] ^= 1;
            assert_eq!(unfit(&damaged), Unfit::Damaged, "{at}");
        }
        for at in 0..COMPILED_1.len() {
            assert_eq!(unfit(&COMPILED_1[..at]), Unfit::Damaged, "{at}");
        }
        assert_eq!(unfit(&[COMPILED_1, b"more"].concat()), Unfit::Damaged);
    }

    /// Regression: a FIFO in place of a compiled guest blocked the start.
    #[test]
    fn what_is_no_regular_file_is_compiled_anew_and_never_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(directory.path()).expect("it opens");
        let engine = Engine::new().expect("it runs here");
        let digest = Digest::of(b"a guest");
        let path = cache.path(&digest);
        fifo(&path);
        let mut temporary = path.clone().into_os_string();
        temporary.push(".new");
        fifo(Path::new(&temporary));
        in_time(move || {
            assert!(cache.compiled(&engine, &digest).is_none());
            cache.keep_compiled(&engine, &digest, b"code");
            let header = header(engine.compatibility(), b"code");
            let file = fs::read(&path).expect("it is kept");
            assert_eq!(file, [&header[..], b"code"].concat());
        });
    }
}
