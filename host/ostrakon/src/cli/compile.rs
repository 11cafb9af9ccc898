//! `ostrakon compile`: compiles a component; only a shard starts it.

use std::io::{self, Read as _, Write as _};
use std::thread;

use ostrakon_base::printable::Printable;
use ostrakon_base::priority::lower_priority;
use ostrakon_engine::confinement::{Bounds, Filter, confine};
use ostrakon_engine::translate;

use super::serve::end_with;
use super::{Exit, Failure};

/// The most threads that compile: each takes memory.
const MAX_THREADS: usize = 4;

/// Compile a component from standard input to standard output, for the process that started this one.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(super) struct Arguments {
    /// The memory that it may take, in bytes.
    #[arg(long, value_name = "BYTES")]
    memory: u64,
    /// The processor time that it may take, in seconds.
    #[arg(long, value_name = "SECONDS")]
    cpu: u64,
    /// The process that started this one: this process is killed when that one ends.
    #[arg(long, value_name = "PID")]
    with_parent: u32,
}

impl Arguments {
    /// Prints its own errors: other commands use a thread for that, and this one can start
    /// none.
    pub(super) fn run(self) -> Exit {
        match self.compile() {
            Ok(()) => Exit::Done,
            Err(failure) => {
                say_last(&format!("error: {}", failure.line()));
                failure.exit
            }
        }
    }

    fn compile(self) -> Result<(), Failure> {
        end_with(self.with_parent)?;
        lower_priority();
        let bounds = Bounds {
            memory: self.memory,
            cpu: self.cpu,
        };
        let filter = confine(bounds, start_threads).map_err(|error| {
            let error = format!("the system does not confine the compiler: {error}");
            Failure::new(Exit::Internal, error)
        })?;
        if let Filter::Missing(why) = filter {
            // For the log of the parent process.
            let what = "the kernel does not filter its system calls, so only its memory and time are limited";
            say_last(&format!("{what}: {why}"));
        }
        // From here on only the given resources are available.
        let mut component = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut component);
        read.map_err(Failure::with(Exit::Io))?;
        let code = translate(&component).map_err(Failure::with(Exit::Usage))?;
        let mut output = io::stdout().lock();
        let length = code.len() as u64;
        output
            .write_all(&length.to_le_bytes())
            .and_then(|()| output.write_all(&code))
            .and_then(|()| output.flush())
            .map_err(Failure::with(Exit::Io))
    }
}

/// Writes to a pipe that the parent reads for as long as it lives.
fn say_last(line: &str) {
    let line = format!("{}\n", Printable(line));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Starts the compiling threads: later no more can be started.
fn start_threads() -> io::Result<()> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.min(MAX_THREADS));
    pool.build_global().map_err(io::Error::other)?;
    // A thread has certainly begun once it has done some work.
    rayon::broadcast(|_| ());
    Ok(())
}
