use std::collections::BTreeSet;

use ostrakon_test_support::certificates::{Authority, Issued};
use ostrakon_volumes::secrets::HOST_NAMES;
use ostrakon_volumes::volume::{Files, Observation};
use tokio::time::timeout;

use super::*;

const TOKEN: &str = "0123456789abcdef";

fn files(entries: &[(&str, &str)]) -> Files {
    let entries = entries.iter();
    let owned = entries.map(|(name, value)| ((*name).to_owned(), value.to_string().into()));
    Files::new(owned.collect())
}

fn certificate(authority: &Authority, issued: &Issued, token: Option<&str>) -> Files {
    let mut entries = vec![
        ("peer-ca.crt", &*authority.pem),
        ("tls.crt", &issued.certificate),
        ("tls.key", &issued.key),
    ];
    entries.extend(token.map(|token| ("peer-token", token)));
    files(&entries)
}

/// Credentials that follow a Secret, which the test changes.
struct Followed {
    volume: watch::Sender<Observation>,
    metrics: Arc<Metrics>,
    credentials: Credentials<PeersPort>,
}

impl Followed {
    fn start(first: Files) -> Self {
        let (volume, observations) = watch::channel(Ok(first.clone()));
        let secrets = Secrets::new(Ok(first));
        let metrics = Arc::new(Metrics::new("0"));
        let port = PeersPort::new(([0, 0, 0, 0], 0).into());
        let credentials = Credentials::start(port, &secrets, &metrics).unwrap();
        tokio::spawn(secrets.follow(observations, Arc::clone(&metrics)));
        Self {
            volume,
            metrics,
            credentials,
        }
    }

    /// Changes the Secret, and waits until the change has been seen.
    async fn change(&self, to: Files) {
        let _before = self.volume.send_replace(Ok(to));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    fn problem(&self) -> String {
        let status = self.credentials.status();
        status["problem"].as_str().unwrap_or_default().to_owned()
    }

    fn counted(&self, metric: &str) -> u64 {
        let shown = self.metrics.render();
        let line = shown.lines().find_map(|line| line.strip_prefix(metric));
        line.unwrap().trim().parse().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_is_taken_as_a_whole_or_not_at_all() {
    let authority = Authority::new("a");
    let (one, two) = (authority.issue_here(), authority.issue_here());
    let followed = Followed::start(certificate(&authority, &one, Some(TOKEN)));
    let first = Arc::clone(&followed.credentials.port().subscribe().borrow());
    let mixed = Issued {
        key: two.key.clone(),
        ..one
    };
    followed.change(certificate(&authority, &mixed, None)).await;
    let kept = Arc::clone(&followed.credentials.port().subscribe().borrow());
    assert!(Arc::ptr_eq(&first, &kept));
    assert_eq!(followed.credentials.status()["tokens"], 1);
    let problem = followed.problem();
    assert!(
        problem.contains("is not that of the certificate"),
        "{problem}"
    );
    // A refusal is counted once, however often the Secret is checked again.
    sleep(LOOK_EVERY * 10).await;
    assert_eq!(
        followed.counted("ostrakon_credentials_refusals_total{listener=\"peers\"}"),
        1
    );
    // Removing all credentials would leave the port open to everybody.
    followed.change(files(&[("other", "value")])).await;
    assert!(followed.problem().contains("can be reached from elsewhere"));
    assert_eq!(followed.credentials.status()["tokens"], 1);

    followed.change(certificate(&authority, &two, None)).await;
    assert_eq!(followed.problem(), "");
    assert_eq!(followed.credentials.status()["tokens"], 0);
    assert_eq!(
        followed.counted("ostrakon_credentials_reloads_total{listener=\"peers\"}"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_for_others_in_the_secret_changes_nothing() {
    let followed = Followed::start(files(&[("peer-token", TOKEN), ("other", "1")]));
    let first = Arc::clone(&followed.credentials.port().subscribe().borrow());
    let other = files(&[("peer-token", TOKEN), ("other", "2")]);
    followed.change(other).await;
    let kept = Arc::clone(&followed.credentials.port().subscribe().borrow());
    assert!(Arc::ptr_eq(&first, &kept));
    assert_eq!(
        followed.counted("ostrakon_credentials_reloads_total{listener=\"peers\"}"),
        0
    );
}

/// Only the runtime's clock is paused. The time that applies to certificates goes on.
#[tokio::test(start_paused = true)]
async fn a_certificate_of_the_future_is_taken_when_its_time_has_come() {
    let authority = Authority::new("a");
    let soon = authority.issue_for(&["localhost"], 2, 60, &[]);
    let followed = Followed::start(files(&[("peer-token", TOKEN)]));
    let mut credentials = followed.credentials.port().subscribe();
    followed.change(certificate(&authority, &soon, None)).await;
    assert!(
        followed.problem().contains("is not valid before"),
        "{}",
        followed.problem()
    );
    let taken = timeout(Duration::from_hours(2_000), credentials.changed()).await;
    taken.expect("it is taken").unwrap();
    assert_eq!(followed.problem(), "");
    assert_eq!(followed.credentials.status()["tls"], true);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_expires_in_force_is_shown() {
    let authority = Authority::new("a");
    let short = authority.issue_for(&["localhost"], -60, 1, &[]);
    let followed = Followed::start(certificate(&authority, &short, None));
    assert_eq!(followed.problem(), "");
    let deadline = SystemTime::now() + Duration::from_mins(1);
    while followed.problem().is_empty() && SystemTime::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(
        followed.problem().contains("expired at"),
        "{}",
        followed.problem()
    );
}

/// The contract and host/README.md list these names. A test of `ostrakon-volumes` checks that.
#[test]
fn no_guest_sees_what_a_port_reads() {
    let keys = [ClientsPort::KEYS, OperatorsPort::KEYS, PeersPort::KEYS].concat();
    let mut read = BTreeSet::from_iter(keys);
    // cert-manager puts this file beside `tls.crt`.
    read.insert("ca.crt");
    assert_eq!(read, BTreeSet::from(HOST_NAMES));
}
