//! The voting service: version 1 becomes version 2 while voters vote, and a browser sees both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_tests::browser::Browser;
use ostrakon_tests::client::{Client, Response};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, PATIENCE, config, guest};
use ostrakon_tests::load::under_load_through;
use serde_json::{Value, json};

const SHARDS: u8 = 3;
const POLLS: usize = 12;
const OPTIONS: usize = 4;
const WORKERS: usize = 6;
/// Of each worker.
const VOTERS: usize = 20;
/// The requests in each of the phases: before the swap, between two shards' swaps, and after.
const PHASE: u64 = 1500;

fn version(name: &str) -> Files {
    config(&guest(name), &[("ostrakon.toml", "[cluster]\nshards = 3")])
}

/// Brings version 2 to one shard.
fn swap(cluster: &mut Cluster, shard: usize, files: &Files) {
    let config = &mut cluster.shards[shard].config;
    config.publish(files).expect("published");
    cluster.hosts[shard].wait_for_status("version 2", |status| {
        status["generation"]["generation"] == 2
    });
}

fn cookie(worker: usize, voter: usize) -> String {
    format!("voter={:032x}", worker * VOTERS + voter)
}

fn json(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{response:?}");
    serde_json::from_slice(&response.body).expect("JSON")
}

/// The last acknowledged vote of one voter in one poll.
#[derive(Clone, Debug)]
struct Cast {
    choices: [usize; 2],
    /// What may be stored: the first choice alone, if version 1 counted it, or both.
    may_be: Vec<Value>,
    acknowledged: u64,
}

/// How far the swap is.
const BEFORE: u64 = 0;
const DURING: u64 = 1;
const AFTER: u64 = 2;

/// What the workers share.
struct Voting {
    /// The polls' paths.
    polls: Vec<String>,
    phase: AtomicU64,
    /// Of each worker, by poll and voter.
    cast: [Mutex<BTreeMap<(usize, usize), Cast>>; WORKERS],
    listings: AtomicU64,
    pages: AtomicU64,
}

impl Voting {
    fn create(cluster: &Cluster) -> Self {
        let create = |number: usize| {
            let form = format!("question=Poll+{number}&options=a%0Ab%0Ac%0Ad");
            let mut client = cluster.hosts[number % 3].client();
            let created = client.send("POST", "/polls", &[], form.as_bytes());
            let created = created.expect("an answer");
            assert_eq!(created.status, 303, "{created:?}");
            created.header("location").expect("a location").to_owned()
        };
        Self {
            polls: (0..POLLS).map(create).collect(),
            phase: AtomicU64::new(BEFORE),
            cast: Default::default(),
            listings: AtomicU64::new(0),
            pages: AtomicU64::new(0),
        }
    }

    fn request(&self, clients: &mut [Client], worker: usize, number: u64) {
        let shards = clients.len();
        let number = usize::try_from(number).expect("few requests");
        let client = &mut clients[(worker + number) % shards];
        let (poll, voter) = (number % POLLS, number / POLLS % VOTERS);
        match number % 11 {
            // While versions differ, each listing still has every poll once.
            3 => {
                let listed = json(&client.get("/api/polls").expect("an answer"));
                let listed = listed["polls"].as_array().expect("a list");
                let ids: BTreeSet<_> = listed.iter().map(|poll| poll["id"].to_string()).collect();
                assert_eq!((listed.len(), ids.len()), (POLLS, POLLS));
                self.listings.fetch_add(1, Ordering::Relaxed);
            }
            7 => {
                let path = format!("{}/results", self.polls[poll]);
                let page = client.get(&path).expect("an answer");
                assert_eq!((page.status, page.header("refresh")), (200, Some("5")));
                self.pages.fetch_add(1, Ordering::Relaxed);
            }
            // The migration alone can keep the votes of these.
            _ if votes_before_only(voter) && self.phase.load(Ordering::SeqCst) != BEFORE => {
                let yours = self.yours(client, poll, worker, voter);
                let cast = self.cast[worker].lock().expect("no holder panics");
                match cast.get(&(poll, voter)) {
                    Some(cast) => assert!(cast.may_be.contains(&yours), "{cast:?}: {yours}"),
                    None => assert_eq!(yours, json!([])),
                }
            }
            _ => {
                let first = (number * 7 + worker + voter) % OPTIONS;
                self.vote(client, poll, worker, voter, first);
            }
        }
    }

    fn vote(&self, client: &mut Client, poll: usize, worker: usize, voter: usize, first: usize) {
        let choices = [first, (first + 1) % OPTIONS];
        let form = format!("choice={}&choice={}", choices[0], choices[1]);
        let path = format!("{}/votes", self.polls[poll]);
        let headers = [("cookie", &*cookie(worker, voter))];
        let began = self.phase.load(Ordering::SeqCst);
        let voted = client.send("POST", &path, &headers, form.as_bytes());
        let voted = voted.expect("an answer");
        assert_eq!(voted.status, 303, "{voted:?}");
        let ended = self.phase.load(Ordering::SeqCst);
        let mut may_be = Vec::new();
        if began < AFTER {
            may_be.push(json!(choices[..1]));
        }
        if ended > BEFORE {
            may_be.push(json!(choices));
        }
        let mut cast = self.cast[worker].lock().expect("no holder panics");
        let before = cast.get(&(poll, voter));
        let acknowledged = 1 + before.map_or(0, |before| before.acknowledged);
        let last = Cast {
            choices,
            may_be,
            acknowledged,
        };
        cast.insert((poll, voter), last);
    }

    /// The choices that the service has of a voter.
    fn yours(&self, client: &mut Client, poll: usize, worker: usize, voter: usize) -> Value {
        let headers = [("cookie", &*cookie(worker, voter))];
        let path = format!("/api{}", self.polls[poll]);
        let result = client.send("GET", &path, &headers, b"");
        json(&result.expect("an answer"))["yours"].take()
    }

    /// Checks that each shard lists every poll, and counts each voter once.
    fn check_counts(&self, cluster: &Cluster) {
        let mut expected = vec![[0_u64; OPTIONS]; POLLS];
        for cast in &self.cast {
            for ((poll, _), cast) in &*cast.lock().expect("no holder panics") {
                expected[*poll][cast.choices[0]] += 1;
            }
        }
        for host in &cluster.hosts {
            let mut client = host.client();
            let listed = json(&client.get("/api/polls").expect("an answer"));
            let listed = listed["polls"].as_array().expect("a list");
            assert_eq!(listed.len(), POLLS);
            for (path, first) in self.polls.iter().zip(&expected) {
                let result = json(&client.get(&format!("/api{path}")).expect("an answer"));
                assert_eq!(result["votes"], first.iter().sum::<u64>(), "{result}");
                assert_eq!(result["rounds"][0]["counts"], json!(first), "{result}");
                let mut same = listed.iter().filter(|poll| poll["id"] == result["id"]);
                let listed = same.next().expect("it is listed");
                assert_eq!(listed["first"], json!(first), "{listed}");
                assert_eq!(listed["ranked"], true, "{listed}");
            }
        }
    }
}

/// The votes of one voter in four are older than the swap.
fn votes_before_only(voter: usize) -> bool {
    voter.is_multiple_of(4)
}

#[test]
fn a_live_swap_to_ranked_choices_counts_each_voter_once_with_the_last_choice() {
    let mut cluster = Cluster::start(31, SHARDS, SHARDS.into(), &version("voting-v1"));
    let two = version("voting");
    let voting = Voting::create(&cluster);
    let addresses: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let request = |clients: &mut [Client], worker: usize, number: u64| {
        voting.request(clients, worker, number);
    };
    let (requests, ()) = under_load_through(&addresses, WORKERS, request, |answered| {
        let proceed = || {
            let until = answered.load(Ordering::Relaxed) + PHASE;
            let deadline = Instant::now() + PATIENCE;
            while answered.load(Ordering::Relaxed) < until {
                assert!(Instant::now() < deadline, "the voters do not proceed");
                thread::sleep(Duration::from_millis(1));
            }
        };
        proceed();
        voting.phase.store(DURING, Ordering::SeqCst);
        for shard in 0..SHARDS.into() {
            swap(&mut cluster, shard, &two);
            proceed();
        }
        voting.phase.store(AFTER, Ordering::SeqCst);
        proceed();
    });

    voting.check_counts(&cluster);
    let (mut acknowledged, mut last, mut migrated, mut ranked) = (0, 0, 0, 0);
    let mut client = cluster.hosts[1].client();
    for (worker, cast) in voting.cast.iter().enumerate() {
        for ((poll, voter), cast) in &*cast.lock().expect("no holder panics") {
            let yours = voting.yours(&mut client, *poll, worker, *voter);
            assert!(cast.may_be.contains(&yours), "{cast:?}: {yours}");
            acknowledged += cast.acknowledged;
            last += 1;
            migrated += u64::from(votes_before_only(*voter));
            ranked += u64::from(yours == json!(cast.choices));
        }
    }
    assert!(
        ranked > 0 && migrated > 0,
        "{ranked} ranked, {migrated} migrated"
    );
    for host in &cluster.hosts {
        assert_eq!(host.metric("ostrakon_swap_refusals_total"), 0);
    }
    println!(
        "at least {requests} requests to {SHARDS} shards, 0 failed: {acknowledged} votes acknowledged to {} voters in \
         {POLLS} polls; the last votes, {last}, each counted once ({migrated} from before the swap, {ranked} with a \
         second choice); {} listings, each whole; {} pages of results",
        WORKERS * VOTERS,
        voting.listings.into_inner(),
        voting.pages.into_inner(),
    );
}

#[test]
fn a_browser_creates_a_poll_votes_and_ranks_after_the_swap() {
    let mut cluster = Cluster::start(32, SHARDS, SHARDS.into(), &version("voting-v1"));
    let base = format!("http://{}", cluster.hosts[0].address);
    let mut browser = Browser::start();
    let mut inspected = 0;
    let mut look = |browser: &mut Browser| {
        browser.inspect();
        inspected += 1;
    };

    assert_eq!(browser.open(&base), 200);
    look(&mut browser);
    assert_eq!(browser.follow("a[href='/polls/new']"), 200);
    look(&mut browser);
    browser.fill("#question", "Where to <go>?");
    browser.fill("#options", "The lake\nThe hills");
    browser.fill("#closes", "2020-01-01T10:00");
    assert_eq!(browser.follow("main button"), 422);
    assert!(browser.text(".error").contains("closed already"));
    // The status itself is an error in the browser's log.
    assert_eq!(browser.complaints().len(), 1);
    look(&mut browser);
    browser.fill("#closes", "2999-12-31T10:00");
    assert_eq!(browser.follow("main button"), 200);
    let poll = browser.url();
    assert_eq!(browser.text("h1"), "Where to <go>?");
    look(&mut browser);

    browser.click("input[value='1']");
    assert_eq!(browser.follow("main button"), 200);
    assert_eq!(browser.url(), format!("{poll}/results"));
    assert_eq!(browser.text(".winner"), "The hills is ahead.");
    // The page refreshes itself, and can be told not to.
    assert_eq!(browser.reloaded(), 200);
    assert_eq!(browser.follow("a[href$='live=no']"), 200);
    look(&mut browser);

    let two = version("voting");
    for shard in 0..SHARDS.into() {
        swap(&mut cluster, shard, &two);
    }
    assert_eq!(browser.follow("main a.button"), 200);
    assert_eq!(
        browser.evaluate("document.querySelector('#rank-1').value"),
        "1"
    );
    look(&mut browser);
    browser.fill("#rank-2", "1");
    assert_eq!(browser.follow("main button"), 422);
    assert!(browser.text(".error").contains("twice"));
    assert_eq!(browser.complaints().len(), 1);
    look(&mut browser);
    browser.fill("#rank-1", "0");
    assert_eq!(browser.follow("main button"), 200);
    assert_eq!(browser.text("main p strong"), "The lake");
    let text = browser.text("main");
    assert!(
        text.contains("1 vote") && text.contains("The lake, then The hills"),
        "{text}"
    );
    assert_eq!(browser.open(&format!("{base}/results?live=no")), 200);
    look(&mut browser);
    assert_eq!(browser.count("tbody tr"), 2);

    assert_eq!(browser.open(&format!("{base}/polls/none")), 404);
    assert_eq!(browser.complaints().len(), 1);
    look(&mut browser);
    println!("{inspected} pages: no barrier in 4 views of each, no complaint");
}
