//! Opens files only if they are regular files.
//!
//! Opening a FIFO waits for its other end, opening a device can have any effect, and a link can
//! lead anywhere. The functions here never wait, and check the type of the opened file, since the
//! file behind a name can be replaced between a check and the opening.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

/// Flags for every open: never block, and close on exec.
const CALM: OFlags = OFlags::CLOEXEC
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Opens a file for reading. Links are followed.
///
/// # Errors
/// If the file cannot be opened, or is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    regular(openat(CWD, path, OFlags::RDONLY | CALM, Mode::empty()))
}

/// Reads a whole file. Links are followed.
///
/// # Errors
/// If the file cannot be read, is not a regular file, or has more than `most` bytes.
pub fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    whole(open(path)?, most)
}

/// Opens one of this host's own files for reading. The file must not be a link.
///
/// # Errors
/// As for [`open`].
pub fn open_own(path: &Path) -> io::Result<File> {
    own(path, OFlags::RDONLY)
}

/// Reads a whole file of this host's own.
///
/// # Errors
/// As for [`read`].
pub fn read_own(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    whole(open_own(path)?, most)
}

/// Opens one of this host's own files for reading and writing, without truncating it. Creates an
/// empty file if none exists and `create` is set.
///
/// # Errors
/// As for [`open`].
pub fn edit_own(path: &Path, create: bool) -> io::Result<File> {
    let mut flags = OFlags::RDWR;
    if create {
        flags |= OFlags::CREATE;
    }
    own(path, flags)
}

/// Replaces one of this host's own files: it has all of the old content or, durably, all of the new.
///
/// # Errors
/// As for [`open`], or if the disk fails.
pub fn replace_own(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = edit_own(&new, true)?;
    file.set_len(0)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn own(path: &Path, flags: OFlags) -> io::Result<File> {
    // The standard library's mode; the process's umask narrows it.
    let mode = Mode::from_raw_mode(0o666);
    match openat(CWD, path, flags | OFlags::NOFOLLOW | CALM, mode) {
        // Either a directory in the path is a loop of links, or, as here, the file itself is a
        // link.
        Err(Errno::LOOP) => Err(irregular("a link")),
        opened => regular(opened),
    }
}

/// Opens the file that a name in a directory leads to, if that file is in the directory too.
///
/// # Errors
/// As for [`open`]; [`leads_out`] tells whether the name leads elsewhere.
pub fn open_beneath(directory: BorrowedFd<'_>, name: &Path) -> io::Result<File> {
    regular(beneath(directory, name, OFlags::RDONLY | CALM))
}

/// Finds the file of any type that a name in a directory leads to, if that file is in the
/// directory too. The result can be inspected but not read.
///
/// # Errors
/// If nothing is found; [`leads_out`] tells whether the name leads elsewhere.
pub fn find_beneath(directory: BorrowedFd<'_>, name: &Path) -> io::Result<File> {
    let found = beneath(directory, name, OFlags::PATH | OFlags::CLOEXEC)?;
    Ok(File::from(found))
}

/// Whether an error means that a link leads out of its directory.
pub fn leads_out(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::XDEV | Errno::LOOP))
}

fn beneath(
    directory: BorrowedFd<'_>,
    name: &Path,
    flags: OFlags,
) -> Result<rustix::fd::OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(directory, name, flags, Mode::empty(), resolve) {
        // A file in the path changed during the look-up; the kernel asks for a retry.
        Err(Errno::AGAIN) => openat2(directory, name, flags, Mode::empty(), resolve),
        // A sandbox may not know this call: then no links are followed.
        Err(Errno::NOSYS | Errno::PERM) => {
            openat(directory, name, flags | OFlags::NOFOLLOW, Mode::empty())
        }
        opened => opened,
    }
}

fn regular(opened: Result<rustix::fd::OwnedFd, Errno>) -> io::Result<File> {
    let file = match opened {
        Ok(file) => file,
        // A FIFO, socket or device without another end.
        Err(Errno::NXIO) => return Err(irregular("a FIFO, a socket or a device")),
        Err(error) => return Err(error.into()),
    };
    let kind = FileType::from_raw_mode(fstat(file.as_fd())?.st_mode);
    match kind {
        FileType::RegularFile => Ok(File::from(file)),
        FileType::Directory => Err(irregular("a directory")),
        FileType::Fifo => Err(irregular("a FIFO")),
        FileType::Socket => Err(irregular("a socket")),
        _ => Err(irregular("a device")),
    }
}

fn irregular(what: &str) -> io::Error {
    let why = format!("it is {what}: put a regular file there");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn whole(file: File, most: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut content)?;
    if content.len() > most {
        let why = format!("it has more than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use ostrakon_test_support::files::{fifo, in_time};

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_nothing_else_is_waited_for() {
        type Way = fn(&Path) -> io::Result<File>;

        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fifo(&at("fifo"));
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        fs::write(at("file"), "12345").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("fifo", at("link-to-fifo")).unwrap();
        let ways: [(&str, Way); 4] = [
            ("open", open),
            ("open_own", open_own),
            ("edit_own", |path| edit_own(path, true)),
            ("open_beneath", |path| {
                let directory = File::open(path.parent().unwrap())?;
                open_beneath(directory.as_fd(), Path::new(path.file_name().unwrap()))
            }),
        ];
        for (way, opened) in ways {
            opened(&at("file")).unwrap();
            for name in ["fifo", "socket", "link-to-fifo", "directory"] {
                let path = at(name);
                let error = in_time(move || opened(&path)).expect_err(name);
                println!("{way} {name}: {error}");
            }
            let device = Path::new("/dev/null").to_owned();
            let error = in_time(move || opened(&device)).expect_err("a device");
            println!("{way} /dev/null: {error}");
            let follows = ["open", "open_beneath"].contains(&way);
            assert_eq!(opened(&at("link")).is_ok(), follows, "{way}");
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"12345", "it is as it was");
        assert!(edit_own(&at("none"), false).is_err());

        assert_eq!(read(&at("link"), 5).unwrap(), b"12345");
        let error = read(&at("link"), 4).unwrap_err().to_string();
        assert_eq!(error, "it has more than 4 bytes");
        let error = open(&at("fifo")).unwrap_err().to_string();
        assert_eq!(error, "it is a FIFO: put a regular file there");
    }

    #[test]
    fn a_name_beneath_a_directory_leads_to_nothing_outside() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("in/sub")).unwrap();
        fs::write(at("out"), "secret").unwrap();
        fs::write(at("in/a"), "1").unwrap();
        symlink("a", at("in/link")).unwrap();
        symlink("sub/../a", at("in/winding")).unwrap();
        symlink("../out", at("in/up")).unwrap();
        symlink(at("out"), at("in/absolute")).unwrap();
        symlink(at("in/a"), at("in/absolute-inside")).unwrap();
        symlink("..", at("in/parent")).unwrap();
        symlink("parent/out", at("in/by-parent")).unwrap();
        symlink("gone", at("in/dangling")).unwrap();
        let inside = File::open(at("in")).unwrap();
        let open = |name: &str| open_beneath(inside.as_fd(), Path::new(name));
        for name in ["a", "link", "winding"] {
            assert_eq!(whole(open(name).unwrap(), 9).unwrap(), b"1", "{name}");
        }
        for name in ["up", "absolute", "absolute-inside", "by-parent", "../out"] {
            assert!(leads_out(&open(name).unwrap_err()), "{name}");
            assert!(find_beneath(inside.as_fd(), Path::new(name)).is_err());
        }
        let error = open("dangling").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!leads_out(&error));
    }
}
