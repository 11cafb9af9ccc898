//! A queue of lines for a stream that may be slow, or that nobody reads.
//!
//! The writer of a line must not wait for its reader: a log on a pipe that nobody empties would
//! stop the process. So lines go into bounded memory, and a thread of its own writes them out.
//! Lines that find no room are dropped and counted. tracing-appender's writer does the same with a
//! bound in lines; here the bound is in bytes, the wait at the end is bounded, and non-blocking
//! pipes are waited for.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// The most bytes of queued lines; as many again can be in the thread's hands.
pub const MOST: usize = 4 << 20;
/// How much buffer capacity the thread keeps while it is idle, in bytes.
const KEPT: usize = 64 << 10;

/// The queue of lines for the thread. Clones share it.
#[derive(Clone, Debug)]
pub struct Backlog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    /// A std mutex, held for the copy of a line. Poisoning is ignored, as any bytes are valid.
    waiting: Mutex<Waiting>,
    /// Signals that there is something to write.
    filled: Condvar,
    /// Signals that everything was written or dropped.
    emptied: Condvar,
    /// Lines that were dropped. Relaxed: no other data is published through it.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    is_writing: bool,
    writer: Option<ThreadId>,
}

impl Backlog {
    /// Starts the thread that writes lines to `output`. When it can write again after lines were
    /// lost, it calls `lost` with their number.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start<W: Write + AsFd + Send + 'static>(
        most: usize,
        output: W,
        lost: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let backlog = Self(Arc::new(Shared {
            most,
            waiting: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            lost: AtomicU64::new(0),
        }));
        let shared = Arc::clone(&backlog.0);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_on(output, lost))?;
        Ok(backlog)
    }

    /// Queues whole lines if there is room for them, and never waits. The writing thread itself
    /// may exceed the bound: it adds a line only after it has written, to report lost lines.
    pub fn put(&self, lines: &[u8]) {
        let mut waiting = self.0.waiting();
        let is_told = waiting.writer == Some(thread::current().id());
        if waiting.lines.len() + lines.len() > self.0.most && !is_told {
            drop(waiting);
            self.0.lose(lines);
            return;
        }
        waiting.lines.extend_from_slice(lines);
        drop(waiting);
        self.0.filled.notify_one();
    }

    /// The number of lines lost so far.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, but at most `at_most`.
    pub fn flush(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        let mut waiting = self.0.waiting();
        // The writing thread would wait for itself.
        if waiting.writer == Some(thread::current().id()) {
            return;
        }
        while waiting.is_writing || !waiting.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.emptied.wait_timeout(waiting, left);
            (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, lines: &[u8]) {
        let lines = lines.split_inclusive(|byte| *byte == b'\n').count() as u64;
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    fn write_on(&self, mut output: impl Write + AsFd, tell: impl Fn(u64)) {
        let mut told = 0;
        let mut lines = Vec::new();
        self.waiting().writer = Some(thread::current().id());
        loop {
            lines.clear();
            lines.shrink_to(KEPT);
            self.take(&mut lines);
            let mut has_written = false;
            // One call for each line: a pipe takes it whole, whatever other processes write there.
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                match write_whole(&mut output, line) {
                    Ok(()) => has_written = true,
                    Err(_) => self.lose(line),
                }
            }
            let lost = self.lost.load(Ordering::Relaxed);
            // Not while nothing gets through: that report would be lost, too, and so on for ever.
            if has_written && lost > told {
                tell(lost - told);
                told = lost;
            }
        }
    }

    /// Waits for lines, and takes all of them.
    fn take(&self, lines: &mut Vec<u8>) {
        let mut waiting = self.waiting();
        waiting.is_writing = false;
        while waiting.lines.is_empty() {
            self.emptied.notify_all();
            let filled = self.filled.wait(waiting);
            waiting = filled.unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_writing = true;
        std::mem::swap(&mut waiting.lines, lines);
    }
}

/// Writes a line completely, waiting when a non-blocking stream is full.
fn write_whole(output: &mut (impl Write + AsFd), mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match output.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut until = [PollFd::new(output, PollFlags::OUT)];
                match poll(&mut until, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, PipeReader, Read as _};
    use std::sync::{OnceLock, mpsc};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A backlog with a bound of `most` bytes on a pipe that holds 64 KiB, and a channel for the
    /// reports of lost lines.
    fn pipe(most: usize) -> (Backlog, PipeReader, mpsc::Receiver<u64>) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let (told, lost) = mpsc::channel();
        let backlog = Backlog::start(most, writer, move |lines| {
            let _ = told.send(lines);
        });
        (backlog.expect("it starts"), reader, lost)
    }

    fn line(number: usize) -> String {
        format!("{number:06} {}\n", "x".repeat(number % 300))
    }

    #[test]
    fn who_writes_to_a_full_pipe_waits_for_nobody_and_what_is_lost_is_counted() {
        let (backlog, reader, lost) = pipe(32 << 10);
        let all = 100_000;
        let began = Instant::now();
        for number in 0..all {
            backlog.put(line(number).as_bytes());
        }
        let took = began.elapsed();
        assert!(took < PATIENCE, "{took:?}");
        assert!(backlog.lost() > 0);
        let began = Instant::now();
        backlog.flush(Duration::from_millis(50));
        assert!(began.elapsed() < PATIENCE, "a flush is bounded");

        let mut reader = BufReader::new(reader);
        let mut seen = 0;
        let mut read = |reader: &mut BufReader<PipeReader>| {
            let mut text = String::new();
            reader.read_line(&mut text).expect("a line");
            let number = text[..6].parse().expect("a line is whole");
            assert_eq!(text, line(number), "a line is whole");
            seen += 1;
            number
        };
        // Lines that are written after the pipe flows again come through, and the loss is
        // reported.
        let mut told = 0;
        let last = loop {
            backlog.put(line(999_999).as_bytes());
            if read(&mut reader) == 999_999 {
                break 999_999;
            }
        };
        assert_eq!(last, 999_999);
        let deadline = Instant::now() + PATIENCE;
        while told == 0 {
            told += lost.recv_timeout(PATIENCE).expect("it is told");
            assert!(Instant::now() < deadline);
        }
        println!("{all} lines in {took:?}: {seen} seen, {told} told to be lost");
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
        let (backlog, reader, lost) = pipe(1 << 20);
        drop(reader);
        for number in 0..1000 {
            backlog.put(line(number).as_bytes());
        }
        backlog.flush(PATIENCE);
        assert_eq!(backlog.lost(), 1000);
        assert!(lost.try_recv().is_err(), "there is nobody to tell");
    }

    /// As if another process that shares the pipe had made it non-blocking.
    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&writer, true).expect("it can be set");
        let calls = Arc::new(AtomicU64::new(0));
        let output = Counted(writer, Arc::clone(&calls));
        let backlog = Backlog::start(MOST, output, |_| {}).expect("it starts");
        let mut expected = String::new();
        for number in 0..3000 {
            expected += &line(number);
            backlog.put(line(number).as_bytes());
        }
        // The pipe is full for a while.
        thread::sleep(Duration::from_millis(100));
        let mut seen = vec![0; expected.len()];
        reader.read_exact(&mut seen).expect("all comes");
        assert!(seen == expected.as_bytes(), "each line, in order");
        backlog.flush(PATIENCE);
        assert_eq!(backlog.lost(), 0);
        let calls = calls.load(Ordering::Relaxed);
        println!("3000 lines by {calls} calls");
        // One call for each line, and one more each time the pipe was full.
        assert!(calls < 3 * 3000, "it was tried again and again: {calls}");
    }

    /// Counts the calls of `write`.
    struct Counted(io::PipeWriter, Arc<AtomicU64>);

    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for Counted {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    /// Regression: when the queue was full, the line that reported the loss found no room itself.
    #[test]
    fn what_is_told_of_lost_lines_is_all_that_was_lost() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let own = Arc::new(OnceLock::<Backlog>::new());
        let to = Arc::clone(&own);
        let backlog = Backlog::start(32 << 10, writer, move |lines| {
            let to = to.get().expect("it is there before lines are lost");
            to.put(format!("told {lines}\n").as_bytes());
        });
        let backlog = backlog.expect("it starts");
        own.set(backlog.clone()).expect("it is set once");
        for number in 0.. {
            if backlog.lost() >= 1000 {
                break;
            }
            backlog.put(line(number).as_bytes());
        }
        let (send, told) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if let Some(lines) = line.strip_prefix("told ") {
                    let _ = send.send(lines.parse::<u64>().expect("a number"));
                }
            }
        });
        let mut sum = 0;
        while sum < backlog.lost() {
            sum += told
                .recv_timeout(PATIENCE)
                .expect("all lost lines are told");
        }
        assert_eq!(sum, 1000);
    }

    #[test]
    fn a_flush_returns_when_all_is_written() {
        let (backlog, mut reader, _) = pipe(1 << 20);
        backlog.flush(PATIENCE);
        backlog.put(b"one\n");
        backlog.flush(PATIENCE);
        let mut seen = [0; 4];
        reader.read_exact(&mut seen).expect("it was written");
        assert_eq!(&seen, b"one\n");
    }
}
