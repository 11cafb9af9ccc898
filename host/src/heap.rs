//! Memory that was freed goes back to the system: the C library's allocator keeps it in the arenas of
//! the threads that took it, for as long as anything behind it is in use.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// How often it is done. Of a gigabyte it takes some milliseconds, and threads that allocate meanwhile
/// may wait for it.
const EVERY: Duration = Duration::from_secs(10);

/// Gives back what is freed, until it is dropped.
pub(crate) async fn give_back() {
    loop {
        sleep(EVERY).await;
        if spawn_blocking(trim).await.is_err() {
            // The runtime ends.
            return;
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "a function of the C library that takes a number and may be called at any time"
)]
fn trim() {
    unsafe extern "C" {
        fn malloc_trim(kept: usize) -> i32;
    }
    // SAFETY: it is declared as in malloc.h, locks what it touches, and moves nothing that is in use.
    let _whether_any = unsafe { malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::resident_memory;

    /// As connections leave it: small blocks that were freed, with others in use between them.
    #[tokio::test]
    async fn what_was_freed_among_what_is_in_use_is_given_back() {
        const BLOCK: usize = 16 * 1024;
        let blocks: Vec<Vec<u8>> = (0..8_192).map(|_| vec![1; BLOCK]).collect();
        let held: Vec<_> = blocks
            .into_iter()
            .enumerate()
            .filter_map(|(at, block)| (at % 16 == 0).then_some(block))
            .collect();
        let before = resident_memory().unwrap();
        spawn_blocking(trim).await.unwrap();
        let after = resident_memory().unwrap();
        println!("{} of {} MiB are left", after >> 20, before >> 20);
        assert!(after + 64 * 1024 * 1024 < before, "{after} of {before}");
        drop(held);
    }
}
