//! Volumes that are regular, that change, and that are made to mislead the host.

use std::fs;
use std::os::unix::fs::symlink;

use ostrakon_test_support::files::{fifo, in_time};

use super::*;

fn is_missing(error: &ReadError) -> bool {
    matches!(error, ReadError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn names(files: &Files) -> Vec<&str> {
    files.contents().keys().map(String::as_str).collect()
}

#[test]
fn a_plain_directory_is_its_plain_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "1").unwrap();
    fs::write(dir.path().join(".hidden"), "2").unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/b"), "3").unwrap();
    symlink("a", dir.path().join("linked")).unwrap();

    let files = Files::read(dir.path()).unwrap();
    assert_eq!(names(&files), ["a", "linked"]);
    assert_eq!(files.contents()["linked"], "1");
    assert_eq!(files.digest(), Digest::of_files(files.contents()));
}

/// Regression: through a link in a plain directory, a guest could read `/etc/shadow` as one of its
/// settings.
#[test]
fn links_lead_to_files_of_the_volume_only() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "canary").unwrap();
    fs::create_dir(dir.path().join("secrets")).unwrap();
    fs::write(dir.path().join("secrets/key"), "canary").unwrap();
    let volume = dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("a"), "1").unwrap();
    for target in [
        "../secret",
        "/etc/passwd",
        "../volume/../secret",
        "/proc/self/exe",
    ] {
        symlink(target, volume.join("link")).unwrap();
        let read = Files::read(&volume);
        let is_told = matches!(&read, Err(ReadError::Outside(at)) if at.ends_with("link"));
        assert!(is_told, "{target}: {read:?}");
        fs::remove_file(volume.join("link")).unwrap();
    }
    // The same holds for the link that the kubelet replaces in an update.
    for target in ["../secrets", "/etc", ".", ".."] {
        symlink(target, volume.join("..data")).unwrap();
        let read = Files::read(&volume);
        let is_told = matches!(&read, Err(ReadError::Outside(at)) if at.ends_with("..data"));
        assert!(is_told, "{target}: {read:?}");
        fs::remove_file(volume.join("..data")).unwrap();
    }
    symlink("../secrets", volume.join("..1")).unwrap();
    symlink("..1", volume.join("..data")).unwrap();
    Files::read(&volume).unwrap_err();
    fs::remove_file(volume.join("..data")).unwrap();
    assert_eq!(names(&Files::read(&volume).unwrap()), ["a"]);

    // The directory itself may be a link.
    symlink("volume", dir.path().join("mounted")).unwrap();
    let files = Files::read(&dir.path().join("mounted")).unwrap();
    assert_eq!(names(&files), ["a"]);
}

/// Regression: a FIFO that replaced a file just after its check blocked the volume's thread
/// forever.
#[test]
fn what_is_no_regular_file_is_left_out_and_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    fs::write(path.join("a"), "1").unwrap();
    fifo(&path.join("fifo"));
    symlink("fifo", path.join("linked")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
    let volume = path.clone();
    let files = in_time(move || Files::read(&volume)).unwrap();
    assert_eq!(names(&files), ["a"]);

    // The FIFO takes the file's place after the listing: directly, and behind a link.
    let listing = Listing::take(&path).unwrap();
    fs::remove_file(path.join("a")).unwrap();
    fs::rename(path.join("fifo"), path.join("a")).unwrap();
    let opened = in_time(move || regular::open_beneath(listing.opened.as_fd(), Path::new("a")));
    assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    fs::remove_file(path.join("linked")).unwrap();
    let read = in_time(move || Files::read(&path));
    assert!(matches!(read, Err(ReadError::Empty(_))), "{read:?}");
}

#[test]
fn files_are_those_behind_the_data_link() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("..1")).unwrap();
    fs::write(dir.path().join("..1/new"), "1").unwrap();
    symlink("..1", dir.path().join("..data")).unwrap();
    // The kubelet's links may be dangling, because their targets are not yet created or already
    // removed.
    symlink("..data/old", dir.path().join("old")).unwrap();

    assert_eq!(names(&Files::read(dir.path()).unwrap()), ["new"]);
}

#[test]
fn what_cannot_be_read_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    assert!(matches!(Files::read(path), Err(ReadError::Empty(_))));
    assert!(is_missing(&Files::read(&path.join("nowhere")).unwrap_err()));

    symlink("..gone", path.join("..data")).unwrap();
    assert!(is_missing(&Files::read(path).unwrap_err()));
    fs::remove_file(path.join("..data")).unwrap();

    symlink("gone", path.join("dangling")).unwrap();
    assert!(is_missing(&Files::read(path).unwrap_err()));
    fs::remove_file(path.join("dangling")).unwrap();

    fs::write(path.join("a"), vec![0; MAX_BYTES]).unwrap();
    assert_eq!(Files::read(path).unwrap().contents()["a"].len(), MAX_BYTES);
    fs::write(path.join("b"), "1").unwrap();
    assert!(matches!(Files::read(path), Err(ReadError::TooLarge(_))));
    fs::remove_file(path.join("a")).unwrap();

    for number in 1..=MAX_FILES {
        fs::write(path.join(number.to_string()), "").unwrap();
    }
    assert!(matches!(Files::read(path), Err(ReadError::TooMany(_))));
}

/// Regression: the kubelet removes the old directory file by file. A reader that resolved `..data`
/// just before the rename could find that directory empty, and reported an empty volume in the
/// middle of an update.
#[test]
fn an_old_directory_found_empty_during_an_update_is_read_again() {
    let files = Files::new([("a".into(), "1".into())].into());
    let mut tries = [
        Err(ReadError::Empty("volume".into())),
        Ok(None),
        Ok(Some(files)),
    ]
    .into_iter();
    let read = Files::first_of_tries(|| tries.next().unwrap()).unwrap();
    assert_eq!(names(&read), ["a"]);

    let mut tries = 0;
    let never = Files::first_of_tries(|| {
        tries += 1;
        Ok(None)
    });
    assert!(matches!(never, Err(ReadError::Unsteady)));
    assert_eq!(tries, TRIES);
}

#[test]
fn files_that_change_while_they_are_read_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    fs::write(path.join("a"), "1").unwrap();
    assert!(Files::try_read(path, || {}).unwrap().is_some());
    let grow = || fs::write(path.join("a"), "22").unwrap();
    assert!(Files::try_read(path, grow).unwrap().is_none());
    let add = || fs::write(path.join("b"), "1").unwrap();
    assert!(Files::try_read(path, add).unwrap().is_none());

    for name in ["..1", "..2"] {
        fs::create_dir(path.join(name)).unwrap();
        fs::write(path.join(name).join("a"), "1").unwrap();
        // The files are equal in everything but their directory.
        let file = fs::File::options()
            .write(true)
            .open(path.join(name).join("a"));
        file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    symlink("..1", path.join("..data")).unwrap();
    let switch = || {
        symlink("..2", path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    };
    assert!(Files::try_read(path, switch).unwrap().is_none());
}

#[test]
fn a_file_of_another_length_than_listed_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "123").unwrap();
    let read = |length, room| read_file(File::open(&path).unwrap(), length, room).unwrap();
    assert_eq!(read(3, 3).unwrap(), "123");
    assert!(read(2, 3).is_none(), "a file that grew must not be read");
    assert!(read(4, 9).is_none(), "a file that shrank must not be read");
    assert!(
        read(3, 2).is_none(),
        "a file beyond the limit must not be read"
    );
}

#[test]
fn contents_are_not_shown() {
    let files = Files::new([("token".into(), "canary".into())].into());
    assert_eq!(format!("{files:?}"), r#"{"token"}"#);
}
