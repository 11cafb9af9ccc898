//! `ostrakon dev ctl`: commands over a socket in the state directory, which only its owner can
//! use.

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::handle::{Handle, Refusal};
use super::order::Order;
use super::state_directory::StateDirectory;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// How long pending commands may take to be answered once the set has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The answer to one command, as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(String),
    /// The text is not a command, or has an impossible number.
    Misunderstood(String),
    Refused(String),
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(
        "no `ostrakon dev` runs in {}: start it, or give its state directory with --state", .0.display()
    )]
    Nobody(PathBuf),
    #[error("`ostrakon dev` may run in {0}: give one with --state")]
    Several(String),
    /// The text is not a command.
    #[error("{0}")]
    Misunderstood(String),
    #[error("{0}")]
    Refused(String),
    #[error("`ostrakon dev` ended before it had answered: see its terminal")]
    CutOff(#[source] io::Error),
}

/// The open socket for commands.
#[derive(Debug)]
pub(super) struct Ctl {
    listener: UnixListener,
    path: PathBuf,
}

impl Ctl {
    /// Opens the socket, replacing one that an earlier process left. Must be called in a runtime,
    /// by the owner of the [`StateDirectory`].
    pub(super) fn open(place: &Path) -> io::Result<Self> {
        let path = StateDirectory::socket(place);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let address = SockAddr::unix(&path).map_err(|_| {
            let reason = "its path is too long for a socket: give a shorter --state";
            io::Error::new(io::ErrorKind::InvalidInput, reason)
        })?;
        socket.bind(&address)?;
        // Before anybody can connect.
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(net::UnixListener::from(socket))?;
        Ok(Self { listener, path })
    }

    /// Carries out commands until the set has ended and all commands were answered.
    pub(super) async fn serve(self, handle: Handle) {
        let mut calls = JoinSet::new();
        loop {
            tokio::select! {
                () = handle.ended() => break,
                Some(_) = calls.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let handle = handle.clone();
                        // A caller that has gone away needs no answer.
                        calls.spawn(async move { answer(stream, &handle).await.unwrap_or(()) });
                    }
                    Err(_) => tokio::time::sleep(LAST_ANSWERS).await,
                },
            }
        }
        let answered = async { while calls.join_next().await.is_some() {} };
        let _late = tokio::time::timeout(LAST_ANSWERS, answered).await;
    }
}

impl Drop for Ctl {
    fn drop(&mut self) {
        // A leftover socket file is harmless: nothing listens on it.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, handle: &Handle) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader)
        .read_line(&mut line)
        .await?;
    let answer = match line.parse::<Order>() {
        Err(error) => Answer::Misunderstood(error.to_string()),
        Ok(order) => match order.carry_out(handle, true).await {
            Ok(said) => Answer::Done(said),
            Err(refusal @ (Refusal::Shards(_) | Refusal::NoShard(_))) => {
                Answer::Misunderstood(refusal.to_string())
            }
            Err(refusal) => Answer::Refused(refusal.to_string()),
        },
    };
    let mut answer = serde_json::to_vec(&answer).expect("texts can be encoded");
    answer.push(b'\n');
    writer.write_all(&answer).await
}

/// Has the `ostrakon dev` of a state directory carry out a command, and returns its answer.
/// Without a directory, uses the only one below `home` that is in use.
///
/// # Errors
/// When no `ostrakon dev` is running there, or the command is refused.
pub fn call(state: Option<&Path>, command: &str) -> Result<String, CallError> {
    let state = match state {
        Some(state) => state.to_owned(),
        None => only(&home())?,
    };
    let mut stream = net::UnixStream::connect(StateDirectory::socket(&state))
        .map_err(|_| CallError::Nobody(state.clone()))?;
    let mut line = String::new();
    stream
        .write_all(format!("{command}\n").as_bytes())
        .and_then(|()| BufReader::new(stream).read_line(&mut line))
        .map_err(CallError::CutOff)?;
    let answer = serde_json::from_str(&line).map_err(|error| CallError::CutOff(error.into()))?;
    match answer {
        Answer::Done(said) => Ok(said),
        Answer::Misunderstood(why) => Err(CallError::Misunderstood(why)),
        Answer::Refused(why) => Err(CallError::Refused(why)),
    }
}

/// The parent of state directories that are not given explicitly: `.ostrakon` in the working
/// directory or the nearest one above it that has one; otherwise in the working directory.
pub(super) fn home() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let mut above = here
        .ancestors()
        .map(|directory| directory.join(".ostrakon"));
    above
        .find(|home| home.is_dir())
        .unwrap_or_else(|| here.join(".ostrakon"))
}

/// The only state directory that is in use.
fn only(home: &Path) -> Result<PathBuf, CallError> {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let mut live: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|place| net::UnixStream::connect(StateDirectory::socket(place)).is_ok())
        .collect();
    live.sort();
    match live.as_slice() {
        [] => Err(CallError::Nobody(home.to_owned())),
        [place] => Ok(place.clone()),
        several => {
            let names = several.iter().map(|place| place.display().to_string());
            Err(CallError::Several(names.collect::<Vec<_>>().join(" and ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_takes_the_place_of_a_dead_one_and_is_its_owners_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = StateDirectory::socket(scratch.path());
        drop(net::UnixListener::bind(&path).unwrap());
        assert!(net::UnixStream::connect(&path).is_err() && path.exists());
        let ctl = Ctl::open(scratch.path()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        net::UnixStream::connect(&path).unwrap();
        drop(ctl);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_only_live_directory_is_meant() {
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path();
        assert!(matches!(only(home), Err(CallError::Nobody(_))));
        let [one, two, dead] = ["one", "two", "dead"].map(|name| home.join(name));
        for place in [&one, &two, &dead] {
            fs::create_dir(place).unwrap();
        }
        drop(net::UnixListener::bind(StateDirectory::socket(&dead)).unwrap());
        let _one = Ctl::open(&one).unwrap();
        assert_eq!(only(home).unwrap(), one);
        let _two = Ctl::open(&two).unwrap();
        let error = only(home).unwrap_err().to_string();
        assert!(error.contains("one and "), "{error}");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_told_what_to_do() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("x".repeat(120));
        fs::create_dir(&place).unwrap();
        let error = Ctl::open(&place).unwrap_err().to_string();
        assert!(error.contains("a shorter --state"), "{error}");
    }
}
