//! All of the certificates and tokens are replaced under load.

use super::*;

/// The credentials that the clients use, and how often they have changed.
struct Shown {
    version: u64,
    tls: Arc<ClientConfig>,
    token: &'static str,
}

const WORKERS: usize = 4;

/// Clients that use the credentials in `shown`, and count their connections.
struct Load<'a> {
    address: SocketAddr,
    authority: &'a Authority,
    shown: Mutex<Shown>,
    /// The version of the credentials that each client used last.
    used: [AtomicU64; WORKERS],
    connections: AtomicU64,
}

impl<'a> Load<'a> {
    fn new(address: SocketAddr, authority: &'a Authority, issued: &Issued) -> Self {
        let shown = Shown {
            version: 1,
            tls: tls::client(authority, Some(issued), HTTP1),
            token: OLD,
        };
        Self {
            address,
            authority,
            shown: Mutex::new(shown),
            used: Default::default(),
            connections: AtomicU64::new(0),
        }
    }

    fn client(&self) -> Client {
        let shown = self.shown.lock().expect("no holder panics");
        let client = Client::new(self.address).over_tls(Arc::clone(&shown.tls));
        client.with_token(shown.token)
    }

    fn request(&self, client: &mut Client, worker: usize, number: u64) {
        let version = self.shown.lock().expect("no holder panics").version;
        // Each connection is used for a while, so that old and new ones are in use at once.
        if number.is_multiple_of(16) || self.used[worker].load(Ordering::SeqCst) != version {
            *client = self.client();
            self.connections.fetch_add(1, Ordering::SeqCst);
        }
        let path = if number.is_multiple_of(2) {
            format!("/save/key{worker}/word")
        } else {
            format!("/load/key{worker}")
        };
        let answer = client.get(&path).expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, "word"), "{answer:?}");
        self.used[worker].store(version, Ordering::SeqCst);
    }

    /// Switches all clients to other credentials, and waits until they use them.
    fn show(&self, host: &Host, issued: &Issued, token: &'static str) {
        let version = {
            let mut shown = self.shown.lock().expect("no holder panics");
            shown.tls = tls::client(self.authority, Some(issued), HTTP1);
            shown.token = token;
            shown.version += 1;
            shown.version
        };
        host.wait_until("all clients to show it", |_| {
            let mut used = self.used.iter();
            used.all(|used| used.load(Ordering::SeqCst) == version)
        });
    }
}

/// The reply to a client on a new connection; none if the connection fails.
fn comes_in(
    address: SocketAddr,
    believed: &Authority,
    shown: &Issued,
    token: &str,
) -> Option<(u16, String)> {
    let config = tls::client(believed, Some(shown), HTTP1);
    let mut client = Client::new(address).over_tls(config).with_token(token);
    let answer = client.get("/load/key0").ok()?;
    let code = answer.header("ostrakon-error").unwrap_or_default();
    Some((answer.status, code.to_owned()))
}

#[test]
fn all_that_clients_come_in_by_rotates_20_times_under_load_and_nothing_fails() {
    const ROUNDS: u64 = 20;
    let public = Authority::new("public");
    let mut clients_of = Authority::new("clients 0");
    let mut shown_by_clients = issue(&clients_of);
    let first = issue(&public);
    let secret_of = |issued: &Issued, believed: &[&Authority], tokens: &str| {
        let believed: String = believed.iter().map(|authority| &*authority.pem).collect();
        secret_with(
            issued,
            &[("client-ca.crt", &believed), ("client-tokens", tokens)],
        )
    };
    let mut shard = shard(&secret_of(&first, &[&clients_of], OLD), "");
    let host = shard.start();
    let load = Load::new(host.address, &public, &shown_by_clients);
    let request = |client: &mut Client, worker, number| load.request(client, worker, number);
    let mut tokens = [OLD, NEW];
    let (mut changes, mut refused) = (0, 0);
    let (answered, ()) = under_load(host.address, WORKERS, request, |answered| {
        for round in 0..ROUNDS {
            let [token, next_token] = tokens;
            let next_authority = Authority::new(&format!("clients {}", round + 1));
            let next_shown = issue(&next_authority);
            let issued = issue(&public);
            let both = format!("{token}\n{next_token}\n");
            // First the new credentials are accepted in addition, then they are used, then the old
            // ones are removed.
            change(
                &mut shard,
                &host,
                &secret_of(&issued, &[&clients_of, &next_authority], &both),
            );
            let asked_with = tls::client(&public, Some(&shown_by_clients), HTTP1);
            let seen = shown_by(host.address, &asked_with).expect("a handshake");
            assert_eq!(
                seen,
                certificate(&issued.certificate),
                "new connections must get the new certificate"
            );

            let other = issue(&public);
            let mixed = Issued {
                certificate: other.certificate.clone(),
                key: issued.key.clone(),
            };
            let expired = public.issue(&here(), SystemTime::now() - Duration::from_mins(1));
            let (unusable, said) = if round % 2 == 0 {
                (&mixed, "is not that of the certificate")
            } else {
                (&expired, "expired at")
            };
            change_refused(
                &mut shard,
                &host,
                &secret_of(unusable, &[&clients_of], token),
                said,
            );
            let seen = shown_by(host.address, &asked_with).expect("a handshake");
            assert_eq!(
                seen,
                certificate(&issued.certificate),
                "the old certificate must stay"
            );

            load.show(&host, &next_shown, next_token);
            change(
                &mut shard,
                &host,
                &secret_of(&other, &[&next_authority], next_token),
            );
            let came = |shown, token| comes_in(host.address, &public, shown, token);
            assert_eq!(
                came(&next_shown, token),
                Some((401, "wrong-token".to_owned()))
            );
            assert_eq!(
                came(&shown_by_clients, next_token),
                None,
                "the client must not trust the certificate"
            );
            assert_eq!(came(&next_shown, next_token), Some((200, String::new())));
            (clients_of, shown_by_clients) = (next_authority, next_shown);
            tokens.reverse();
            changes += 2;
            refused += 1;
            // Each round is under load, however slow the machine is.
            host.wait_until("the load", |_| {
                answered.load(Ordering::Relaxed) > (round + 1) * 50
            });
        }
    });
    println!(
        "{ROUNDS} rotations of certificate, key, authority and token in {changes} changes, and \
         {refused} refused ones: {answered} requests on {} connections, 0 failed",
        load.connections.into_inner()
    );
    assert!(
        answered > ROUNDS * 50,
        "only {answered} requests were answered"
    );
    let log = host.stop();
    for told in [OLD, NEW, first.key.lines().nth(1).expect("a line")] {
        assert!(!log.contains(told), "a secret is in the log");
    }
}
