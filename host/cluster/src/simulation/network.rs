//! A network in memory. Data arrives after a delay that the seed decides, links can be cut in
//! one direction or both, and a connection ends with its process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use bytes::Bytes;

use super::life::Life;
use super::random;
use super::stream::Stream;
use super::witness::note;

/// The least delay of a message, in milliseconds. Processes run for that long one after another
/// as if they ran at once: nothing that one sends reaches another sooner.
pub(super) const LEAST_DELAY: u64 = 5;
/// The most that is added to the delay of most messages.
const JITTER: u64 = 12;
/// The most that is added to the delay of a few messages.
const STALL: u64 = 400;

/// The network. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Network(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct State {
    seed: u64,
    /// The links on which nothing gets through: from, to.
    cut: BTreeSet<(u32, u32)>,
    listening: BTreeMap<u32, Listening>,
    connections: BTreeMap<u64, Connection>,
    opened: u64,
    /// A digest of everything that was ever sent. It does not depend on the order at any one
    /// time, because the runtime chooses the order in which connections end when a process is
    /// told to stop.
    pub(super) digest: u64,
    /// Connections that a lost process or a fault ended.
    pub(super) resets: u64,
}

#[derive(Debug)]
struct Listening {
    life: Life,
    /// When connections arrive, and their numbers.
    coming: VecDeque<(u64, u64)>,
    waker: Option<Waker>,
}

/// A connection: side 0 opened it, side 1 accepted it.
#[derive(Debug)]
struct Connection {
    sides: [Side; 2],
    /// The data on its way to each side.
    pipes: [Pipe; 2],
}

#[derive(Debug)]
struct Side {
    shard: u32,
    life: Option<Life>,
    is_open: bool,
}

/// The data on its way in one direction.
#[derive(Debug, Default)]
struct Pipe {
    /// When each chunk arrives; `None` if only after the link is mended.
    chunks: VecDeque<(Option<u64>, Bytes)>,
    end: Option<(Option<u64>, End)>,
    last: u64,
    sent: u64,
    waker: Option<Waker>,
}

/// How a direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In good order.
    Closed,
    /// The connection was lost.
    Reset,
}

/// What a side finds when it reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Bytes(Bytes),
    End(End),
    /// More arrives at this time.
    At(u64),
    /// Nothing is known to arrive.
    Nothing,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            seed,
            cut: BTreeSet::new(),
            listening: BTreeMap::new(),
            connections: BTreeMap::new(),
            opened: 0,
            digest: 0,
            resets: 0,
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Has a process listen as a shard, in place of any process before it.
    pub(super) fn listen(&self, shard: u32, life: &Life) {
        let listening = Listening {
            life: life.clone(),
            coming: VecDeque::new(),
            waker: None,
        };
        self.state().listening.insert(shard, listening);
    }

    /// Accepts the next connection to a process.
    pub(super) fn accept(&self, life: &Life, shard: u32, now: u64, waker: &Waker) -> Accepted {
        let mut state = self.state();
        let listening = state.listening.get_mut(&shard);
        let Some(listening) = listening.filter(|it| it.life.number() == life.number()) else {
            return Accepted::Nothing;
        };
        listening.waker = Some(waker.clone());
        match listening.coming.front() {
            Some((at, connection)) if *at <= now => {
                let connection = *connection;
                listening.coming.pop_front();
                // The caller may be gone by now, and the whole connection with it.
                let from = state.connections.get(&connection);
                let from = from.map_or(u32::MAX, |it| it.sides[0].shard);
                drop(state);
                Accepted::Stream(Stream::new(self, life, connection, 1), from)
            }
            Some((at, _)) => Accepted::At(*at),
            None => Accepted::Nothing,
        }
    }

    /// Begins to connect. Returns the stream and the time when it is ready, or when the refusal
    /// arrives because no process listens. `None` while the link is cut.
    pub(super) fn connect(
        &self,
        life: &Life,
        (from, to): (u32, u32),
        now: u64,
    ) -> Option<(u64, Option<Stream>)> {
        let mut state = self.state();
        if state.is_cut(from, to) || state.is_cut(to, from) {
            return None;
        }
        state.opened += 1;
        let number = state.opened;
        let there = now + state.delay(&[number, 2]);
        let back = there + state.delay(&[number, 3]);
        let listening = state.listening.get_mut(&to);
        let Some(listening) = listening.filter(|it| !it.life.is_over()) else {
            return Some((back, None));
        };
        let side = |shard, life: &Life| Side {
            shard,
            life: Some(life.clone()),
            is_open: true,
        };
        let sides = [side(from, life), side(to, &listening.life)];
        listening.coming.push_back((there, number));
        listening.coming.make_contiguous().sort_unstable();
        let waker = listening.waker.take();
        let connection = Connection {
            sides,
            pipes: [Pipe::default(), Pipe::default()],
        };
        state.connections.insert(number, connection);
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Some((back, Some(Stream::new(self, life, number, 0))))
    }

    /// Cuts a link, or mends it, which releases the held data.
    pub(super) fn set_cut(&self, link: (u32, u32), is_cut: bool, now: u64) {
        let mut state = self.state();
        if is_cut {
            state.cut.insert(link);
            return;
        }
        if !state.cut.remove(&link) {
            return;
        }
        let seed = state.seed;
        let mut wakers = Vec::new();
        for (number, connection) in &mut state.connections {
            for to in 0..2 {
                let ends = (connection.sides[1 - to].shard, connection.sides[to].shard);
                if ends == link {
                    let pipe = &mut connection.pipes[to];
                    let held = delay(seed, &[*number, to as u64, pipe.sent, 1]);
                    pipe.mend(now + held);
                    wakers.extend(pipe.waker.take());
                }
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends a connection between two shards, if there is one.
    pub(super) fn reset_between(&self, one: u32, other: u32, now: u64) {
        let mut state = self.state();
        let numbers: Vec<u64> = state
            .connections
            .iter()
            .filter(|(_, it)| {
                [one, other]
                    .iter()
                    .all(|at| it.sides.iter().any(|side| side.shard == *at))
            })
            .map(|(number, _)| *number)
            .collect();
        let wakers: Vec<_> = numbers
            .into_iter()
            .flat_map(|number| [0, 1].map(|to| state.reset(number, to, now)))
            .collect();
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Ends a process's connections. With `is_told`, its system tells the other sides at once;
    /// otherwise they hear nothing.
    pub(super) fn died(&self, life: &Life, is_told: bool, now: u64) {
        let mut state = self.state();
        state
            .listening
            .retain(|_, it| it.life.number() != life.number());
        let mut ends = Vec::new();
        for (number, connection) in &mut state.connections {
            for side in 0..2 {
                let of = &mut connection.sides[side];
                if of
                    .life
                    .as_ref()
                    .is_some_and(|it| it.number() == life.number())
                {
                    of.life = None;
                    of.is_open = false;
                    ends.push((*number, 1 - side));
                }
            }
        }
        let mut wakers = Vec::new();
        for (number, to) in ends {
            if is_told {
                wakers.extend(state.reset(number, to, now));
            }
        }
        state.forget();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Sends data from a side of a connection.
    pub(super) fn send(&self, number: u64, side: usize, data: &[u8], now: u64) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        let Some(connection) = state.connections.get_mut(&number) else {
            return false;
        };
        let to = 1 - side;
        let (from, other) = (&connection.sides[side], &connection.sides[to]);
        let link = (from.shard, other.shard);
        let is_cut = state.cut.contains(&link);
        if other.life.is_none() {
            // The process that has the address now knows nothing of this connection.
            let is_back = state.listening.contains_key(&other.shard);
            if is_back && !is_cut {
                let waker = state.reset(number, side, now);
                waker.into_iter().for_each(Waker::wake);
            }
            return true;
        }
        let pipe = &mut connection.pipes[to];
        pipe.sent += 1;
        let about = [number, to as u64, pipe.sent, 0];
        let due = now + delay(state.seed, &about);
        let due = (!is_cut && !pipe.is_held()).then_some(due.max(pipe.last));
        pipe.last = due.unwrap_or(pipe.last);
        pipe.chunks.push_back((due, Bytes::copy_from_slice(data)));
        let about = [number, to as u64, due.unwrap_or(0), data.len() as u64, now];
        state.digest = state.digest.wrapping_add(random::of(state.seed, &about));
        let bytes = data.len();
        note(
            now,
            "network",
            format_args!("{number}: {link:?} {bytes} bytes, at {due:?}"),
        );
        if let Some(waker) = pipe.waker.take() {
            waker.wake();
        }
        true
    }

    /// Reads at a side of a connection.
    pub(super) fn receive(&self, number: u64, side: usize, now: u64, waker: &Waker) -> Found {
        let mut state = self.state();
        let Some(connection) = state.connections.get_mut(&number) else {
            return Found::End(End::Reset);
        };
        let pipe = &mut connection.pipes[side];
        pipe.waker = Some(waker.clone());
        let arrives = |at: Option<u64>| match at {
            Some(at) if at <= now => None,
            Some(at) => Some(Found::At(at)),
            None => Some(Found::Nothing),
        };
        if let Some((at, _)) = pipe.chunks.front() {
            return arrives(*at).unwrap_or_else(|| {
                let (_, bytes) = pipe.chunks.pop_front().expect("the chunk was just seen");
                Found::Bytes(bytes)
            });
        }
        match pipe.end {
            Some((at, end)) => arrives(at).unwrap_or(Found::End(end)),
            None => Found::Nothing,
        }
    }

    /// Puts back the data that a read had no room for.
    pub(super) fn put_back(&self, number: u64, side: usize, rest: Bytes, now: u64) {
        if let Some(connection) = self.state().connections.get_mut(&number) {
            connection.pipes[side].chunks.push_front((Some(now), rest));
        }
    }

    /// Ends a side's writing and, with `is_gone`, its reading too.
    pub(super) fn close(&self, number: u64, side: usize, is_gone: bool, now: u64) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(connection) = state.connections.get_mut(&number) else {
            return;
        };
        let to = 1 - side;
        let link = (connection.sides[side].shard, connection.sides[to].shard);
        let is_cut = state.cut.contains(&link);
        let pipe = &mut connection.pipes[to];
        if pipe.end.is_none() {
            let due = now + delay(state.seed, &[number, to as u64, pipe.sent, 2]);
            let due = (!is_cut && !pipe.is_held()).then_some(due.max(pipe.last));
            pipe.end = Some((due, End::Closed));
        }
        let waker = pipe.waker.take();
        if is_gone {
            connection.sides[side].is_open = false;
            state.forget();
        }
        waker.into_iter().for_each(Waker::wake);
    }
}

pub(super) enum Accepted {
    /// The stream, and the shard that it comes from.
    Stream(Stream, u32),
    At(u64),
    Nothing,
}

impl State {
    fn is_cut(&self, from: u32, to: u32) -> bool {
        self.cut.contains(&(from, to))
    }

    fn delay(&self, about: &[u64]) -> u64 {
        delay(self.seed, about)
    }

    /// Tells a side that the connection is lost, possibly before the data on its way to that
    /// side.
    fn reset(&mut self, number: u64, to: usize, now: u64) -> Option<Waker> {
        let seed = self.seed;
        let connection = self.connections.get_mut(&number)?;
        let pipe = &mut connection.pipes[to];
        let delay = delay(seed, &[number, to as u64, pipe.sent, 4]);
        if random::of(seed, &[number, to as u64, 5]).is_multiple_of(2) {
            pipe.chunks.retain(|(at, _)| at.is_some_and(|at| at <= now));
        } else {
            pipe.chunks.retain(|(at, _)| at.is_some());
        }
        let due = (now + delay).max(pipe.chunks.back().and_then(|(at, _)| *at).unwrap_or(0));
        pipe.end = Some((Some(due), End::Reset));
        self.resets += 1;
        pipe.waker.take()
    }

    /// Forgets the connections of which no side is left.
    fn forget(&mut self) {
        self.connections
            .retain(|_, it| it.sides.iter().any(|side| side.is_open));
    }
}

impl Pipe {
    fn is_held(&self) -> bool {
        let held = self.chunks.back().is_some_and(|(at, _)| at.is_none());
        held || self.end.is_some_and(|(at, _)| at.is_none())
    }

    fn mend(&mut self, at: u64) {
        let at = at.max(self.last);
        for (due, _) in &mut self.chunks {
            due.get_or_insert(at);
        }
        if let Some((due, _)) = &mut self.end {
            due.get_or_insert(at);
        }
        self.last = at;
    }
}

fn delay(seed: u64, about: &[u64]) -> u64 {
    let number = random::of(seed, about);
    let extra = if (number >> 32).is_multiple_of(100) {
        number % STALL
    } else {
        number % JITTER
    };
    LEAST_DELAY + extra
}
