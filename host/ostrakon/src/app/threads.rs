//! The threads that answer requests.

use std::io;
use std::num::NonZeroUsize;

use tokio::runtime::{Builder, Runtime};

/// How often a thread looks for a task among those that wait for any thread: after each second task
/// of its own.
///
/// A thread has a queue of its own for 256 tasks. Of more connections than that, the others wait in a
/// queue that all threads share. By default a thread looks there so seldom that of 600 tasks some got
/// one turn while most got 19.
const SHARED_QUEUE_EVERY: u32 = 2;

/// A runtime with this number of threads.
///
/// # Errors
/// When the system has no resources for it.
pub(super) fn start(threads: NonZeroUsize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads.get())
        .global_queue_interval(SHARED_QUEUE_EVERY)
        .thread_name("worker")
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    /// Counts turns, because how long they take depends on the machine.
    #[test]
    fn each_of_many_tasks_gets_its_turns() {
        const TASKS: u64 = 600;
        const TURNS: u64 = 20 * TASKS;
        let runtime = start(NonZeroUsize::MIN).unwrap();
        let taken = Arc::new(AtomicU64::new(0));
        let turn = async move |taken: Arc<AtomicU64>| {
            let mut mine = 0_u64;
            while taken.fetch_add(1, Ordering::Relaxed) < TURNS {
                mine += 1;
                // As long as a request takes, about.
                let began = Instant::now();
                while began.elapsed() < Duration::from_micros(10) {}
                tokio::task::yield_now().await;
            }
            mine
        };
        // By a task of the one thread, so that none of them runs before all are there.
        let spawned = runtime.spawn(async move {
            let tasks = (0..TASKS).map(|_| tokio::spawn(turn(Arc::clone(&taken))));
            tasks.collect::<Vec<_>>()
        });
        let mut turns: Vec<u64> = runtime.block_on(async {
            let mut turns = Vec::new();
            for task in spawned.await.unwrap() {
                turns.push(task.await.unwrap());
            }
            turns
        });
        turns.sort_unstable();
        let (least, median) = (turns[0], turns[turns.len() / 2]);
        println!("{TURNS} turns of {TASKS} tasks: the median is {median}, the least {least}");
        assert!(4 * least >= median, "{least} of {median}");
    }
}
