//! A fair queue for a few threads.

use std::collections::{BTreeMap, VecDeque};

/// Waiting items, kept by client; a pure structure.
///
/// Clients take turns, however many items each has sent. No client may use all the threads, or
/// more than its share of the places to wait. When all places are taken, the client with the
/// most waiting items gives up its newest for a client with fewer.
#[derive(Debug)]
pub(super) struct Queue<T> {
    bounds: Bounds,
    /// Clients with an item running or waiting.
    clients: BTreeMap<u64, OfOne<T>>,
    /// Clients with an item waiting, in the order of their turns.
    order: VecDeque<u64>,
    running: usize,
    waiting: usize,
    /// The number of the item that entered last.
    last: u64,
}

/// How many items there may be at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How many items may run.
    pub(super) running: usize,
    /// How many items of one client may run.
    pub(super) running_of_one: usize,
    /// How many items may wait.
    pub(super) waiting: usize,
    /// How many items of one client may wait.
    pub(super) waiting_of_one: usize,
}

#[derive(Debug)]
struct OfOne<T> {
    running: usize,
    waiting: VecDeque<(Ticket, T)>,
}

/// Where an item waits, for [`Queue::take_back`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    client: u64,
    number: u64,
}

#[derive(Debug)]
pub(super) enum Entered<T> {
    /// The item waits. If there was no room for both, it took the place of this other item.
    Waits(Ticket, Option<T>),
    /// There is no room for the item.
    Full(T),
}

impl<T> Queue<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            clients: BTreeMap::new(),
            order: VecDeque::new(),
            running: 0,
            waiting: 0,
            last: 0,
        }
    }

    /// Appends an item to its client's waiting items.
    pub(super) fn enter(&mut self, client: u64, item: T) -> Entered<T> {
        let own = self.clients.get(&client);
        let own = own.map_or(0, |of_one| of_one.waiting.len());
        if own >= self.bounds.waiting_of_one {
            return Entered::Full(item);
        }
        let mut put_out = None;
        if self.waiting >= self.bounds.waiting {
            let waiting = self.clients.iter();
            let waiting = waiting.map(|(client, of_one)| (of_one.waiting.len(), *client));
            match waiting.max() {
                Some((most, greedy)) if most > own + 1 => {
                    let newest = self.clients[&greedy].waiting.back();
                    let (place, _) =
                        newest.expect("the client with the most waiting items has one");
                    put_out = self.take_back(*place);
                }
                _ => return Entered::Full(item),
            }
        }
        self.last += 1;
        let place = Ticket {
            client,
            number: self.last,
        };
        let of_one = self.clients.entry(client).or_insert_with(|| OfOne {
            running: 0,
            waiting: VecDeque::new(),
        });
        if of_one.waiting.is_empty() {
            self.order.push_back(client);
        }
        of_one.waiting.push_back((place, item));
        self.waiting += 1;
        Entered::Waits(place, put_out)
    }

    /// Takes the item to run now, if any, with its client, which [`Queue::done`] needs.
    pub(super) fn next(&mut self) -> Option<(u64, T)> {
        if self.running >= self.bounds.running {
            return None;
        }
        let (clients, bounds) = (&self.clients, self.bounds);
        let may_run = |client: &u64| clients[client].running < bounds.running_of_one;
        let at = self.order.iter().position(may_run)?;
        let client = self.order.remove(at)?;
        let of_one = self.clients.get_mut(&client)?;
        let (_, item) = of_one.waiting.pop_front()?;
        of_one.running += 1;
        if !of_one.waiting.is_empty() {
            self.order.push_back(client);
        }
        self.running += 1;
        self.waiting -= 1;
        Some((client, item))
    }

    /// Counts one of a client's running items as done.
    pub(super) fn done(&mut self, client: u64) {
        if let Some(of_one) = self.clients.get_mut(&client) {
            of_one.running -= 1;
            self.running -= 1;
            self.forget(client);
        }
    }

    /// Takes a waiting item back; `None` if it no longer waits.
    pub(super) fn take_back(&mut self, place: Ticket) -> Option<T> {
        let of_one = self.clients.get_mut(&place.client)?;
        let at = of_one
            .waiting
            .binary_search_by_key(&place.number, |(place, _)| place.number);
        let (_, item) = of_one.waiting.remove(at.ok()?)?;
        self.waiting -= 1;
        if of_one.waiting.is_empty() {
            self.order.retain(|client| *client != place.client);
            self.forget(place.client);
        }
        Some(item)
    }

    fn forget(&mut self, client: u64) {
        let of_one = self.clients.get(&client);
        if of_one.is_some_and(|of_one| of_one.running == 0 && of_one.waiting.is_empty()) {
            self.clients.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        running: 3,
        running_of_one: 2,
        waiting: 8,
        waiting_of_one: 6,
    };

    /// Enters a client's items, each of which must find a place.
    #[track_caller]
    fn enter(queue: &mut Queue<u32>, client: u64, items: impl IntoIterator<Item = u32>) {
        for item in items {
            let entered = queue.enter(client, item);
            assert!(matches!(entered, Entered::Waits(_, None)), "{entered:?}");
        }
    }

    #[test]
    fn clients_take_turns_and_none_has_all_the_threads() {
        let mut queue = Queue::new(BOUNDS);
        enter(&mut queue, 1, 10..15);
        assert_eq!(queue.next(), Some((1, 10)));
        assert_eq!(queue.next(), Some((1, 11)));
        assert_eq!(queue.next(), None, "the third thread is for others");
        enter(&mut queue, 2, 20..22);
        assert_eq!(queue.next(), Some((2, 20)));
        assert_eq!(queue.next(), None);
        // The turn goes to the client that has waited for it, not to the one that has sent
        // more.
        for (done, next) in [(1, (1, 12)), (2, (2, 21)), (2, (1, 13))] {
            queue.done(done);
            let found = queue.next();
            assert_eq!(found.is_some_and(|found| found == next), found.is_some());
        }
        for client in [1, 1, 1, 2] {
            queue.done(client);
            while queue.next().is_some() {}
        }
        queue.done(1);
        assert!(
            queue.clients.is_empty() && queue.order.is_empty(),
            "{queue:?}"
        );
        assert_eq!((queue.running, queue.waiting), (0, 0));
    }

    #[test]
    fn who_waits_with_the_most_gives_way_to_who_has_fewer() {
        let mut queue = Queue::new(BOUNDS);
        enter(&mut queue, 1, 10..16);
        assert!(matches!(queue.enter(1, 16), Entered::Full(16)), "its part");
        enter(&mut queue, 2, 20..22);
        let put_out = |entered| match entered {
            Entered::Waits(_, put_out) => put_out,
            Entered::Full(_) => None,
        };
        assert_eq!(put_out(queue.enter(3, 30)), Some(15));
        assert_eq!(put_out(queue.enter(3, 31)), Some(14));
        assert_eq!(put_out(queue.enter(3, 32)), Some(13));
        assert!(
            matches!(queue.enter(3, 33), Entered::Full(33)),
            "as many as the others"
        );
        assert_eq!(queue.waiting, BOUNDS.waiting);
    }

    #[test]
    fn what_is_taken_back_does_not_run_and_leaves_room() {
        let mut queue = Queue::new(BOUNDS);
        let Entered::Waits(first, None) = queue.enter(1, 10) else {
            panic!("there is room");
        };
        enter(&mut queue, 1, [11]);
        assert_eq!(queue.take_back(first), Some(10));
        assert_eq!(queue.take_back(first), None);
        assert_eq!(queue.next(), Some((1, 11)));
        queue.done(1);
        assert!(queue.clients.is_empty() && queue.order.is_empty());
    }
}
