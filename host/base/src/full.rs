//! Handles disks that are full, read-only or failing.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Whether an error means that the disk accepts no writes at present.
pub fn takes_nothing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO]
        .into_iter()
        .any(|of_disk| errno == Some(of_disk))
}

/// Creates a missing directory for files that a shard can do without. A disk that accepts no
/// writes is not an error here; the caller must then create the directory again before it writes
/// to it.
///
/// # Errors
/// If the directory cannot be created for another reason.
pub fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir_all(path) {
        Err(error) if takes_nothing(&error) => Ok(()),
        made => made,
    }
}
