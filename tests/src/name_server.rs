//! A caching name server like those of Kubernetes: it repeats its answers, including the answer that
//! a name does not exist. Those of Kubernetes do so for half a minute, this one until it is told to
//! forget: what has to wait for that never ends here, on however fast a machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use crate::network::DOMAIN;

const A: u16 = 1;
const NO_SUCH_NAME: u8 = 3;

/// A name server in a test's own network.
#[derive(Clone, Debug)]
pub struct NameServer(Arc<Mutex<Names>>);

#[derive(Debug, Default)]
struct Names {
    /// The true addresses.
    addresses: BTreeMap<String, Ipv4Addr>,
    /// The cached answers.
    kept: BTreeMap<String, Option<Ipv4Addr>>,
    /// Whether it also caches addresses that it found.
    keeps_found: bool,
    said: Said,
}

/// The number of answers so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// All answers.
    pub answers: u64,
    /// Answers that the name does not exist.
    pub unknown: u64,
    /// Answers that were no longer true.
    pub stale: u64,
}

impl NameServer {
    /// Starts a name server that caches negative answers, and with `keeps_found` addresses too.
    ///
    /// # Panics
    /// When its port is taken.
    pub fn start(keeps_found: bool) -> Self {
        let server = Self(Arc::new(Mutex::new(Names {
            keeps_found,
            ..Names::default()
        })));
        let socket = UdpSocket::bind("127.0.0.53:53").expect("the network is the test's own");
        let names = server.clone();
        thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some(answer) = names.answer(&query[..length]) {
                    // A client that does not receive the answer asks again.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        server
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Gives a Pod this address, or none.
    pub fn set(&self, pod: &str, address: Option<Ipv4Addr>) {
        let name = format!("{pod}.{DOMAIN}");
        let mut names = self.names();
        match address {
            Some(address) => names.addresses.insert(name, address),
            None => names.addresses.remove(&name),
        };
    }

    /// Empties the cache.
    pub fn forget(&self) {
        self.names().kept.clear();
    }

    /// The number of answers so far.
    pub fn said(&self) -> Said {
        self.names().said
    }

    /// The answer to a query; `None` if the bytes are no query.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (head, mut rest) = query.split_first_chunk::<12>()?;
        let mut labels = Vec::new();
        loop {
            let (length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked((*length).into())?;
            rest = after;
            if label.is_empty() {
                break;
            }
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        }
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let question = &query[12..query.len() - rest.len()];
        let found = self.names().look_up(&labels.join("."));
        let is_a = u16::from_be_bytes([kind[0], kind[1]]) == A;
        let address = found.filter(|_| is_a);
        let code = if found.is_none() { NO_SUCH_NAME } else { 0 };
        // An authoritative response, with recursion available, to one question.
        let mut answer = vec![head[0], head[1], 0x85, 0x80 | code, 0, 1];
        answer.extend([0, u8::from(address.is_some()), 0, 0, 0, 0]);
        answer.extend(question);
        if let Some(address) = address {
            // The name of the question, an address in the Internet, 30 s, 4 bytes.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
            answer.extend(address.octets());
        }
        Some(answer)
    }
}

impl Names {
    fn look_up(&mut self, name: &str) -> Option<Ipv4Addr> {
        let is_so = self.addresses.get(name).copied();
        let kept = self.kept.get(name).copied();
        let said = kept.unwrap_or(is_so);
        if kept.is_none() && (said.is_none() || self.keeps_found) {
            self.kept.insert(name.to_owned(), said);
        }
        if name.ends_with(DOMAIN) {
            self.said.answers += 1;
            self.said.unknown += u64::from(said.is_none());
            self.said.stale += u64::from(said != is_so);
        }
        said
    }
}
