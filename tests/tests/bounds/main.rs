//! Clients that take more than their share of memory, connections or descriptors. The host bounds
//! what they get, and serves others meanwhile.

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

/// No well-behaved client may wait longer than this, even on a busy machine.
const TOO_LONG: Duration = Duration::from_secs(10);

/// Well-behaved clients that run until they are stopped.
struct Others {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    threads: Vec<JoinHandle<(u32, Duration)>>,
}

impl Others {
    /// Starts clients of the key/value guest.
    fn start(host: &Host) -> Self {
        Self::by(host, ["save", "load"])
    }

    /// Starts two clients, one that keeps its connection and one that opens a new one for each
    /// round. They save and load under these paths.
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

    /// Waits until the clients have made 200 requests.
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

    /// Stops the clients and checks that none of them waited too long.
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
