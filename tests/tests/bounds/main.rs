//! Clients that take more than their share: of memory, of connections, of descriptors. What they are
//! given has a bound, and others go on.

#![expect(clippy::print_stdout, reason = "the test prints its measurements")]

mod connections;
mod descriptors;
mod floods;
mod memory;
mod probes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Host, PATIENCE};

/// Longer than any well-behaved client is to wait, on a busy machine.
const TOO_LONG: Duration = Duration::from_secs(10);

/// Well-behaved clients that go on until they are stopped.
struct Others {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    threads: Vec<JoinHandle<(u32, Duration)>>,
}

impl Others {
    /// Of a host with the key/value guest.
    fn start(host: &Host) -> Self {
        Self::by(host, ["save", "load"])
    }

    /// One that keeps its connection, and one that makes a new one for each request; they save and load
    /// by these paths.
    fn by(host: &Host, [save, load]: [&'static str; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU32::new(0));
        let threads = [true, false].map(|keeps| {
            let (stop, address) = (Arc::clone(&stop), host.address);
            let answered = Arc::clone(&answered);
            thread::spawn(move || {
                let (mut client, mut asked, mut worst) = (Client::new(address), 0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    if !keeps {
                        client = Client::new(address);
                    }
                    let word = format!("word-{asked}");
                    let key = if keeps { "kept" } else { "new" };
                    for path in [format!("/{save}/{key}/{word}"), format!("/{load}/{key}")] {
                        let began = Instant::now();
                        let answer = client.get(&path).expect("others are answered");
                        assert_eq!((answer.status, answer.text()), (200, &*word), "{path}");
                        worst = worst.max(began.elapsed());
                        asked += 1;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                (asked, worst)
            })
        });
        Self {
            stop,
            answered,
            threads: threads.into(),
        }
    }

    /// Waits until they have made some requests.
    fn warm_up(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.answered.load(Ordering::Relaxed) < 200 {
            assert!(
                Instant::now() < deadline,
                "requests of others are not answered"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the others, and checks that none of them waited too long.
    #[track_caller]
    fn stop(self, during: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let fared = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("others go on"));
        let (asked, worst) = fared.fold((0, Duration::ZERO), |(asked, worst), one| {
            (asked + one.0, worst.max(one.1))
        });
        println!("{during}: others made {asked} requests, 0 failed, the worst wait {worst:?}");
        assert!(asked > 0 && worst < TOO_LONG, "{during}: {worst:?}");
    }
}
