//! Clients at full speed while a test does something else.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::client::Client;

/// Runs `workers` clients, each of which makes one request after another on its own connection,
/// until `meanwhile` returns. Returns the number of requests and the result of `meanwhile`.
/// `request` gets the number of its worker and of the request, from 0. It checks the response, and
/// panics if it is wrong.
///
/// # Panics
/// When a request or `meanwhile` panics.
pub fn under_load<T>(
    address: SocketAddr,
    workers: usize,
    request: impl Fn(&mut Client, usize, u64) + Sync,
    meanwhile: impl FnOnce(&AtomicU64) -> T,
) -> (u64, T) {
    let request = |clients: &mut [Client], worker, number| request(&mut clients[0], worker, number);
    under_load_through(&[address], workers, request, meanwhile)
}

/// As [`under_load`], but each client has a connection to each of several addresses, in their
/// order.
///
/// # Panics
/// When a request or `meanwhile` panics.
pub fn under_load_through<T>(
    addresses: &[SocketAddr],
    workers: usize,
    request: impl Fn(&mut [Client], usize, u64) + Sync,
    meanwhile: impl FnOnce(&AtomicU64) -> T,
) -> (u64, T) {
    let (ended, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = thread::scope(|scope| {
        for worker in 0..workers {
            let (ended, answered, request) = (&ended, &answered, &request);
            scope.spawn(move || {
                let mut clients: Vec<_> = addresses.iter().copied().map(Client::new).collect();
                for number in 0.. {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    request(&mut clients, worker, number);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Ends the clients even after a panic; otherwise they would run forever.
        let _end = End(&ended);
        meanwhile(&answered)
    });
    (answered.into_inner(), result)
}

/// Stops the clients when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
