//! The child process that compiles: starting it, sending it the component, reading its output,
//! ending it.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use ostrakon_base::digest::Digest;
use ostrakon_base::printable::Printable;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};

use super::attempts::Attempts;
use super::room::{Room, room};
use super::{CompileError, Limits};

/// This very program, even if its file was replaced by a newer one.
#[cfg(target_os = "linux")]
const PROGRAM: &str = "/proc/self/exe";

/// The limit on a component's code, in bytes. Guests of 12 and 18 MB became 37 and 35 MB.
const MAX_CODE: u64 = 256 << 20;
/// How many copies of the code this process has in memory while the code is loaded or stored.
const COPIES: u64 = 2;
/// How much is read of the child's error text, in bytes.
const MAX_SAID: usize = 4096;
/// The part of a container's memory that is reserved for this process, in bytes.
const HEADROOM: u64 = 64 << 20;
/// A running child is ended if less than this is left, in bytes: others then use the memory that
/// it was given. It is less than [`HEADROOM`], since a child takes a little that its own limit
/// does not count: stacks, page tables and pipes.
const TAKEN: u64 = HEADROOM / 4 * 3;
/// How often the remaining memory is checked. A check takes some tens of microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A compile is not started with less memory than this, in bytes.
const LEAST_MEMORY: u64 = 64 << 20;

pub(super) struct Work {
    /// Released when the child is gone.
    pub(super) turn: OwnedSemaphorePermit,
    pub(super) digest: Digest,
    pub(super) component: Bytes,
    pub(super) limits: Limits,
    pub(super) attempts: Option<Attempts>,
}

/// Compiles in a child process. Dropping the future kills the child.
pub(super) async fn compile(work: Work) -> Result<Vec<u8>, CompileError> {
    let (mut done, result) = oneshot::channel();
    // A separate thread that lives as long as the child: the kernel ends the child together with
    // the thread that started it.
    let compiling = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let (turn, code) = match runtime {
            Ok(runtime) => runtime.block_on(run(work, &mut done)),
            Err(error) => (work.turn, Err(CompileError::System(error))),
        };
        drop(turn);
        // The receiver may be gone.
        let _ = done.send(code);
    };
    let thread = thread::Builder::new().name("compiling".to_owned());
    thread.spawn(compiling).map_err(CompileError::System)?;
    let crashed = || CompileError::Crashed("its thread panicked".to_owned());
    result.await.unwrap_or_else(|_| Err(crashed()))
}

type Done = oneshot::Sender<Result<Vec<u8>, CompileError>>;

async fn run(work: Work, done: &mut Done) -> (OwnedSemaphorePermit, Result<Vec<u8>, CompileError>) {
    let Work {
        turn,
        digest,
        component,
        limits,
        attempts,
    } = work;
    let room = room();
    let code = async {
        let memory = Memory::of(limits, room)?;
        let mut child = start(&memory, limits.cpu).map_err(CompileError::System)?;
        // This runs while the child starts. The child gets the component only once the note is on
        // the disk.
        let attempt = attempts
            .map(|attempts| attempts.begin(digest, circumstances(limits, room)))
            .transpose();
        let code = if attempt.is_ok() {
            tokio::select! {
                biased;
                () = done.closed() => Ok(None),
                code = timeout(limits.deadline, talk(&mut child, &component)) => {
                    code.map_err(|_| CompileError::Deadline(limits.deadline)).map(Some)
                }
                left = until_taken(self::room) => Err(CompileError::Taken { left }),
            }
        } else {
            Ok(None)
        };
        let status = end(child).await;
        let attempt = attempt?;
        // This process has survived, however the child ended.
        drop(attempt);
        match code? {
            // The result goes to nobody.
            None => Err(CompileError::GaveWay),
            Some(said) => said.code(status, &memory, limits),
        }
    };
    let code = code.await;
    (turn, code)
}

/// How much memory the child may take, and which limit determines it.
struct Memory {
    bytes: u64,
    is_what_is_left: bool,
}

impl Memory {
    fn of(limits: Limits, room: Option<Room>) -> Result<Self, CompileError> {
        let given = limits.memory as u64;
        let left = room.map_or(u64::MAX, |room| room.left.saturating_sub(HEADROOM));
        if left < LEAST_MEMORY {
            return Err(CompileError::NoRoom {
                left,
                least: LEAST_MEMORY,
            });
        }
        Ok(Self {
            bytes: given.min(left),
            is_what_is_left: left < given,
        })
    }

    fn exceeded(&self) -> CompileError {
        if self.is_what_is_left {
            CompileError::Room(self.bytes)
        } else {
            CompileError::Memory(self.bytes)
        }
    }
}

/// Returns how much of a container's memory is left, once that is too little to continue. Clients
/// can take the memory that was left when the child was started; the kernel would then end this
/// process, too.
async fn until_taken(room: impl Fn() -> Option<Room>) -> u64 {
    loop {
        sleep(LOOK_EVERY).await;
        if let Some(Room { left, .. }) = room()
            && left < TAKEN
        {
            return left;
        }
    }
}

/// The circumstances, besides the component, that may decide how an attempt ends.
fn circumstances(limits: Limits, room: Option<Room>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let limit = room.map(|room| room.limit);
    format!("{version} {limits:?} {limit:?}")
}

/// Starts the child: it shares only three pipes with this process.
fn start(memory: &Memory, cpu: Duration) -> std::io::Result<Child> {
    #[cfg(target_os = "linux")]
    let program = PROGRAM;
    #[cfg(not(target_os = "linux"))]
    let program = std::env::current_exe()?;
    // The kernel counts whole seconds.
    let cpu = cpu.as_secs() + u64::from(cpu.subsec_nanos() > 0);
    Command::new(program)
        .arg0("ostrakon")
        .arg("compile")
        .args(["--memory", &memory.bytes.to_string()])
        .args(["--cpu", &cpu.to_string()])
        .args(["--with-parent", &std::process::id().to_string()])
        .env_clear()
        .current_dir("/")
        // The terminal's Ctrl-C is for the parent only.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Ends the child, if it is still running, and returns its status.
async fn end(mut child: Child) -> Option<ExitStatus> {
    // The child was not waited for yet, so its id cannot belong to another process.
    if let Some(id) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process_group(id, Signal::KILL);
    }
    child.wait().await.ok()
}

/// The child's output until it closed its pipes.
struct Said {
    code: Result<Vec<u8>, Unheard>,
    words: String,
    status: Option<ExitStatus>,
}

enum Unheard {
    /// The code would have this size, and there is room for `most` bytes.
    Long { code: u64, most: u64 },
    /// The child ended before the code was complete.
    Cut,
}

/// Sends the component to the child, reads its output, and waits for its end.
async fn talk(child: &mut Child, component: &[u8]) -> Said {
    let stdin = child.stdin.take().expect("stdin is piped");
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let ((), code, words) = tokio::join!(give(stdin, component), take(stdout), hear(stderr));
    let status = child.wait().await.ok();
    Said {
        code,
        words,
        status,
    }
}

async fn give(mut stdin: ChildStdin, component: &[u8]) {
    // A child that does not read all of it has reported why, or has ended.
    let _ = stdin.write_all(component).await;
}

/// Reads the code, preceded by its length: eight bytes, least significant first.
async fn take(mut stdout: ChildStdout) -> Result<Vec<u8>, Unheard> {
    let length = stdout.read_u64_le().await.map_err(|_| Unheard::Cut)?;
    // The memory that the child uses now will be freed, but this does not rely on that.
    let most = room().map_or(MAX_CODE, |room| MAX_CODE.min(room.left / COPIES));
    let long = Unheard::Long { code: length, most };
    if length > most {
        return Err(long);
    }
    let mut code = Vec::with_capacity(usize::try_from(length).map_err(|_| long)?);
    let mut stdout = stdout.take(length);
    let read = stdout.read_to_end(&mut code).await;
    match read {
        Ok(read) if read as u64 == length => Ok(code),
        _ => Err(Unheard::Cut),
    }
}

/// The beginning of the child's error text; the rest is read and dropped.
async fn hear(mut stderr: ChildStderr) -> String {
    let mut said = Vec::new();
    let mut first = (&mut stderr).take(MAX_SAID as u64);
    let _ = first.read_to_end(&mut said).await;
    drain(&mut stderr).await;
    let said = String::from_utf8_lossy(&said);
    let said = said.trim();
    said.strip_prefix("error: ").unwrap_or(said).to_owned()
}

async fn drain(from: &mut (impl AsyncRead + Unpin)) {
    let _ = tokio::io::copy(from, &mut tokio::io::sink()).await;
}

impl Said {
    /// The code, or the error.
    fn code(
        self,
        ended: Option<ExitStatus>,
        memory: &Memory,
        limits: Limits,
    ) -> Result<Vec<u8>, CompileError> {
        let status = self.status.or(ended);
        let code = match self.code {
            Err(Unheard::Long { code, most }) => return Err(CompileError::Code { code, most }),
            Ok(code) if status.is_some_and(|status| status.success()) => {
                if !self.words.is_empty() {
                    let words = Printable(&self.words);
                    tracing::warn!(%words, "the compiler process wrote to its standard error");
                }
                return Ok(code);
            }
            _ => status.and_then(|status| status.code()),
        };
        let signal = status.and_then(|status| status.signal());
        let of_memory = [
            "memory allocation of ",
            "Cannot allocate memory",
            "out of memory",
        ];
        if of_memory.iter().any(|text| self.words.contains(text)) {
            return Err(memory.exceeded());
        }
        Err(match (code, signal.and_then(Signal::from_named_raw)) {
            (Some(INVALID), _) => CompileError::Invalid(self.words),
            (_, Some(Signal::XCPU)) => CompileError::Cpu(limits.cpu),
            (_, Some(Signal::KILL)) => CompileError::Killed,
            _ if self.words.is_empty() => {
                let status = status.map_or_else(String::new, |status| status.to_string());
                CompileError::Crashed(status)
            }
            _ => CompileError::Crashed(self.words),
        })
    }
}

/// The exit code of a child whose input is not a valid component.
const INVALID: i32 = 64;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    /// Regression: the room was checked before the child was started, and never again.
    #[tokio::test(start_paused = true)]
    async fn a_child_is_ended_once_others_have_taken_its_room() {
        let looks = Cell::new(0_u64);
        let room = || {
            looks.set(looks.get() + 1);
            // As if clients took 16 MiB between two checks; the second check fails.
            let left = (256_u64 << 20) - (looks.get() << 24);
            (looks.get() != 2).then_some(Room {
                limit: 1 << 30,
                left,
            })
        };
        let began = Instant::now();
        let left = until_taken(room).await;
        assert_eq!(left, 32 << 20);
        assert_eq!(looks.get(), 14);
        assert_eq!(began.elapsed(), 14 * LOOK_EVERY);
    }

    /// A child that uses up its memory is ended by its own limit, whose error names the reason.
    #[tokio::test(start_paused = true)]
    async fn a_child_that_takes_all_that_it_was_given_is_left_to_its_limit() {
        let full = Room {
            limit: 1 << 30,
            left: HEADROOM - (8 << 20),
        };
        for room in [Some(full), None] {
            let ended = timeout(Duration::from_mins(1), until_taken(|| room)).await;
            ended.expect_err("it goes on");
        }
    }
}
