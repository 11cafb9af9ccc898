//! The child process that compiles: started, given the component, heard, ended.

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

/// This very program, also where its file was replaced by a newer one.
#[cfg(target_os = "linux")]
const PROGRAM: &str = "/proc/self/exe";

/// The most code that a component may become, in bytes. Guests of 12 and 18 MB became 37 and 35 MB.
const MAX_CODE: u64 = 256 << 20;
/// How often this process has it in memory, while it is loaded or kept.
const COPIES: u64 = 2;
/// How much is heard of what the child says of a failure, in bytes.
const MAX_SAID: usize = 4096;
/// What is left to this process of a container's memory, in bytes.
const HEADROOM: u64 = 64 << 20;
/// With less than this left, in bytes, a child that runs is ended: others have taken what it was given.
/// It is less than [`HEADROOM`], because a child takes a little that its limit does not count: stacks,
/// page tables and pipes.
const TAKEN: u64 = HEADROOM / 4 * 3;
/// How often it is looked how much is left. A look takes some tens of microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// With less than this, in bytes, it is not begun.
const LEAST_MEMORY: u64 = 64 << 20;

/// What is to be compiled.
pub(super) struct Work {
    /// Given back when the child is gone.
    pub(super) turn: OwnedSemaphorePermit,
    pub(super) digest: Digest,
    pub(super) component: Bytes,
    pub(super) limits: Limits,
    pub(super) attempts: Option<Attempts>,
}

/// Compiles in a child process. Dropping the future kills it.
pub(super) async fn compile(work: Work) -> Result<Vec<u8>, CompileError> {
    let (mut done, result) = oneshot::channel();
    // A thread of its own, for as long as the child lives: the kernel ends the child with the thread
    // that started it.
    let compiling = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let (turn, code) = match runtime {
            Ok(runtime) => runtime.block_on(run(work, &mut done)),
            Err(error) => (work.turn, Err(CompileError::System(error))),
        };
        drop(turn);
        // Nobody may want it any more.
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
        // While the child starts; it is given nothing to compile before this is on the disk.
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
        // This process lives, whatever became of the child.
        drop(attempt);
        match code? {
            // Nobody waits for what it is.
            None => Err(CompileError::GaveWay),
            Some(said) => said.code(status, &memory, limits),
        }
    };
    let code = code.await;
    (turn, code)
}

/// How much memory the child may take, and who says so.
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

/// Returns how much is left of a container's memory, once that is too little to go on. Clients can take
/// what was there when the child was started, and then the kernel would end this process, too.
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

/// What of an attempt may decide how it ends, beside the component.
fn circumstances(limits: Limits, room: Option<Room>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let limit = room.map(|room| room.limit);
    format!("{version} {limits:?} {limit:?}")
}

/// Starts it: it has nothing of this process but three pipes.
fn start(memory: &Memory, cpu: Duration) -> std::io::Result<Child> {
    #[cfg(target_os = "linux")]
    let program = PROGRAM;
    #[cfg(not(target_os = "linux"))]
    let program = std::env::current_exe()?;
    // Whole seconds are what the kernel counts.
    let cpu = cpu.as_secs() + u64::from(cpu.subsec_nanos() > 0);
    Command::new(program)
        .arg0("ostrakon")
        .arg("compile")
        .args(["--memory", &memory.bytes.to_string()])
        .args(["--cpu", &cpu.to_string()])
        .args(["--with-parent", &std::process::id().to_string()])
        .env_clear()
        .current_dir("/")
        // The terminal's Ctrl-C is for the parent.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Ends it, whether it has ended or not.
async fn end(mut child: Child) -> Option<ExitStatus> {
    // It is not waited for yet, so that its number is nobody else's.
    if let Some(id) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process_group(id, Signal::KILL);
    }
    child.wait().await.ok()
}

/// What a child said until it closed its pipes.
struct Said {
    code: Result<Vec<u8>, Unheard>,
    words: String,
    status: Option<ExitStatus>,
}

enum Unheard {
    /// It would have been so much, and there is room for so much.
    Long { code: u64, most: u64 },
    /// The child ended before it was whole.
    Cut,
}

/// Gives the component to it, hears what it says, and waits for its end.
async fn talk(child: &mut Child, component: &[u8]) -> Said {
    let stdin = child.stdin.take().expect("it is piped");
    let stdout = child.stdout.take().expect("it is piped");
    let stderr = child.stderr.take().expect("it is piped");
    let ((), code, words) = tokio::join!(give(stdin, component), take(stdout), hear(stderr));
    let status = child.wait().await.ok();
    Said {
        code,
        words,
        status,
    }
}

async fn give(mut stdin: ChildStdin, component: &[u8]) {
    // Where the child does not take it, it has said why, or has ended.
    let _ = stdin.write_all(component).await;
}

/// The code, which comes after its length: in eight bytes, the least significant first.
async fn take(mut stdout: ChildStdout) -> Result<Vec<u8>, Unheard> {
    let length = stdout.read_u64_le().await.map_err(|_| Unheard::Cut)?;
    // What the child takes now is given back; that is not counted on.
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

/// The beginning of what it says; the rest is read, and dropped.
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
    /// The code, or why there is none.
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
                    tracing::warn!(%words, "the process that compiled the guest said something");
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

/// The exit code of a child that found a component not to be one.
const INVALID: i32 = 64;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    /// The room was looked at before the child was started, and never again.
    #[tokio::test(start_paused = true)]
    async fn a_child_is_ended_once_others_have_taken_its_room() {
        let looks = Cell::new(0_u64);
        let room = || {
            looks.set(looks.get() + 1);
            // As where clients take 16 MiB between two looks; the second look fails.
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

    /// A child that takes all that it was given is ended by its own limit, which says so.
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
