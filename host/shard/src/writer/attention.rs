//! How the writer's thread waits for its next message.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use super::worker::LOOK;

/// How long the writer looks for its next message before it sleeps: as long as a client on the same
/// machine takes from a reply to its next request. A thread that sleeps must be woken, which takes
/// longer than what most guests do.
const MOST: Duration = Duration::from_micros(150);

/// A message that came so soon after the writer fell asleep would have come sooner if it had not.
const SOON: Duration = Duration::from_micros(200);

/// Who gives its core away and waits so long for it shares it with others that have work to do. A thread
/// that sleeps gets a core sooner than one that gave it away.
const CONTENDED: Duration = Duration::from_millis(1);

/// How long the writer then does not look.
const REST: Duration = Duration::from_millis(250);

/// Looks for a message before it sleeps only where that was worth it the last time, and only for a
/// client that is alone: one that waits for each reply before its next request finds the writer
/// awake. Where many ask, their requests come while the disk works. Where few do, now and then, a
/// thread that looks would cost processor time for nothing.
#[derive(Debug, Default)]
pub(super) struct Attention {
    is_awake: bool,
    /// When it last waited for a core.
    contended: Option<Instant>,
}

impl Attention {
    /// The next message, if it comes within [`LOOK`]. `is_alone` says whether the last group was
    /// of one request.
    pub(super) fn next<T>(
        &mut self,
        receiver: &Receiver<T>,
        is_alone: bool,
    ) -> Result<T, RecvTimeoutError> {
        let began = Instant::now();
        while self.is_awake && is_alone {
            let next = receiver.try_recv();
            let waited = began.elapsed();
            if waited >= CONTENDED {
                self.contended = Some(began);
            }
            self.is_awake = waited < MOST;
            match next {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if self.is_awake => {}
                Err(TryRecvError::Empty) => return receiver.recv_timeout(LOOK),
            }
            // Whoever else has something to do goes first.
            thread::yield_now();
        }
        let next = receiver.recv_timeout(LOOK);
        let is_contended = |since| began.duration_since(since) < REST;
        self.is_awake =
            next.is_ok() && began.elapsed() < SOON && !self.contended.is_some_and(is_contended);
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn it_stays_awake_for_messages_that_come_soon_and_only_for_those() {
        let (sender, receiver) = mpsc::channel();
        let mut attention = Attention::default();
        // More than once, if the system takes this thread's processor away meanwhile.
        while !attention.is_awake {
            sender.send(1).unwrap();
            assert_eq!(attention.next(&receiver, true), Ok(1));
        }
        sender.send(2).unwrap();
        assert_eq!(attention.next(&receiver, true), Ok(2));
        attention.is_awake = true;
        let late = thread::spawn(move || {
            thread::sleep(20 * MOST);
            sender.send(3).unwrap();
            sender
        });
        assert_eq!(attention.next(&receiver, true), Ok(3));
        assert!(!attention.is_awake, "it looked in vain");
        let sender = late.join().unwrap();
        attention.contended = Some(Instant::now());
        for _ in 0..10 {
            sender.send(4).unwrap();
            assert_eq!(attention.next(&receiver, true), Ok(4));
            let rests = attention.contended.is_some_and(|at| at.elapsed() < REST);
            assert!(!attention.is_awake || !rests, "others have work to do");
        }
        drop(sender);
        for is_awake in [false, true] {
            attention.is_awake = is_awake;
            let ended = Err(RecvTimeoutError::Disconnected);
            assert_eq!(attention.next(&receiver, true), ended);
        }
    }
}
