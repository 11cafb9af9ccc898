//! Disks that are full, cannot be written to, or fail.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Whether an error means that the disk takes nothing now.
pub fn takes_nothing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO]
        .into_iter()
        .any(|of_disk| errno == Some(of_disk))
}

/// Makes a directory where there is none, for files that a shard can do without: a disk that takes
/// nothing is no error, and the directory is to be made again before something is written to it.
///
/// # Errors
/// When it cannot be made for another reason.
pub fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir_all(path) {
        Err(error) if takes_nothing(&error) => Ok(()),
        made => made,
    }
}
