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

#[test]
fn a_live_swap_to_ranked_choices_counts_each_voter_once_with_the_last_choice() {
    let mut cluster = Cluster::start(31, SHARDS, SHARDS.into(), &version("voting-v1"));
    let two = version("voting");
    let polls: Vec<String> = (0..POLLS)
        .map(|number| {
            let form = format!("question=Poll+{number}&options=a%0Ab%0Ac%0Ad");
            let mut client = cluster.hosts[number % 3].client();
            let created = client.send("POST", "/polls", &[], form.as_bytes());
            let created = created.expect("an answer");
            assert_eq!(created.status, 303, "{created:?}");
            created.header("location").expect("a location").to_owned()
        })
        .collect();
    let cast: Vec<Mutex<BTreeMap<(usize, usize), Cast>>> =
        Vec::from_iter(std::iter::repeat_with(Mutex::default).take(WORKERS));
    let phase = AtomicU64::new(BEFORE);
    let (listings, pages) = (AtomicU64::new(0), AtomicU64::new(0));

    let request = |clients: &mut [Client], worker: usize, number: u64| {
        let shards = clients.len();
        let number = usize::try_from(number).expect("few requests");
        let client = &mut clients[(worker + number) % shards];
        let (poll, voter) = (number % POLLS, number / POLLS % VOTERS);
        match number % 11 {
            // While versions differ, each listing still has every poll once.
            3 => {
                let listed = json(&client.get("/api/polls").expect("an answer"));
                let listed = listed["polls"].as_array().expect("a list").clone();
                let ids = listed.iter().map(|poll| poll["id"].to_string());
                let distinct: BTreeSet<_> = ids.collect();
                assert_eq!((listed.len(), distinct.len()), (POLLS, POLLS));
                listings.fetch_add(1, Ordering::Relaxed);
            }
            7 => {
                let path = format!("{}/results", polls[poll]);
                let page = client.get(&path).expect("an answer");
                assert_eq!((page.status, page.header("refresh")), (200, Some("5")));
                pages.fetch_add(1, Ordering::Relaxed);
            }
            // Some voters vote before the swap only: the migration must keep their votes.
            _ if voter % 4 == 0 && phase.load(Ordering::SeqCst) != BEFORE => {
                let cast = cast[worker].lock().expect("no holder panics");
                let headers = [("cookie", &*cookie(worker, voter))];
                let path = format!("/api{}", polls[poll]);
                let result = json(&client.send("GET", &path, &headers, b"").expect("an answer"));
                match cast.get(&(poll, voter)) {
                    Some(cast) => {
                        assert!(cast.may_be.contains(&result["yours"]), "{cast:?}: {result}")
                    }
                    None => assert_eq!(result["yours"], json!([])),
                }
            }
            _ => {
                let first = (number * 7 + worker + voter) % OPTIONS;
                let choices = [first, (first + 1) % OPTIONS];
                let form = format!("choice={}&choice={}", choices[0], choices[1]);
                let path = format!("{}/votes", polls[poll]);
                let began = phase.load(Ordering::SeqCst);
                let headers = [("cookie", &*cookie(worker, voter))];
                let voted = client.send("POST", &path, &headers, form.as_bytes());
                let voted = voted.expect("an answer");
                assert_eq!(voted.status, 303, "{voted:?}");
                let ended = phase.load(Ordering::SeqCst);
                let mut may_be = Vec::new();
                if began < AFTER {
                    may_be.push(json!(choices[..1]));
                }
                if ended > BEFORE {
                    may_be.push(json!(choices));
                }
                let mut cast = cast[worker].lock().expect("no holder panics");
                let before = cast.get(&(poll, voter));
                let acknowledged = 1 + before.map_or(0, |before| before.acknowledged);
                let last = Cast {
                    choices,
                    may_be,
                    acknowledged,
                };
                cast.insert((poll, voter), last);
            }
        }
    };
    let addresses: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let (requests, ()) = under_load_through(&addresses, WORKERS, request, |answered| {
        let proceed = || {
            let (until, deadline) = (
                answered.load(Ordering::Relaxed) + PHASE,
                Instant::now() + PATIENCE,
            );
            while answered.load(Ordering::Relaxed) < until {
                assert!(Instant::now() < deadline, "the voters do not proceed");
                thread::sleep(Duration::from_millis(1));
            }
        };
        proceed();
        phase.store(DURING, Ordering::SeqCst);
        for shard in 0..SHARDS.into() {
            swap(&mut cluster, shard, &two);
            proceed();
        }
        phase.store(AFTER, Ordering::SeqCst);
        proceed();
    });

    let cast: BTreeMap<_, _> = (0..)
        .zip(cast)
        .flat_map(|(worker, cast)| {
            let cast = cast.into_inner().expect("no holder panics");
            cast.into_iter()
                .map(move |((poll, voter), cast)| ((poll, (worker, voter)), cast))
        })
        .collect();
    let of = |poll: usize| cast.iter().filter(move |((of, _), _)| *of == poll);
    for host in &cluster.hosts {
        let mut client = host.client();
        let listed = json(&client.get("/api/polls").expect("an answer"));
        assert_eq!(listed["polls"].as_array().expect("a list").len(), POLLS);
        for (number, path) in polls.iter().enumerate() {
            let mut first = [0_u64; OPTIONS];
            for (_, cast) in of(number) {
                first[cast.choices[0]] += 1;
            }
            let result = json(&client.get(&format!("/api{path}")).expect("an answer"));
            let voters = of(number).count();
            assert_eq!(result["votes"], voters, "each voter once: {result}");
            assert_eq!(result["rounds"][0]["counts"], json!(first), "{result}");
            let listed = listed["polls"].as_array().expect("a list").iter();
            let mut same = listed.filter(|listed| listed["id"] == result["id"]);
            let listed = same.next().expect("it is listed");
            assert_eq!(
                (&listed["first"], &listed["ranked"]),
                (&json!(first), &json!(true))
            );
        }
    }
    let (mut ranked, mut migrated) = (0, 0);
    let mut client = cluster.hosts[1].client();
    for ((poll, (worker, voter)), cast) in &cast {
        let headers = [("cookie", &*cookie(*worker, *voter))];
        let path = format!("/api{}", polls[*poll]);
        let result = json(&client.send("GET", &path, &headers, b"").expect("an answer"));
        assert!(cast.may_be.contains(&result["yours"]), "{cast:?}: {result}");
        ranked += u64::from(result["yours"] == json!(cast.choices));
        migrated += u64::from(voter % 4 == 0);
    }
    let acknowledged: u64 = cast.values().map(|cast| cast.acknowledged).sum();
    assert!(
        ranked > 0 && migrated > 0,
        "{ranked} ranked, {migrated} migrated"
    );
    for host in &cluster.hosts {
        assert_eq!(host.metric("ostrakon_swap_refusals_total"), 0);
    }
    println!(
        "at least {requests} requests to {SHARDS} shards, 0 failed: {acknowledged} votes acknowledged to {} voters in \
         {POLLS} polls; the last votes, {}, each counted once ({migrated} from before the swap, {ranked} with a second \
         choice); {} listings, each whole; {} pages of results",
        WORKERS * VOTERS,
        cast.len(),
        listings.into_inner(),
        pages.into_inner(),
    );
}

/// Checks the page that a browser shows, in a wide and a narrow window, in light and dark.
fn inspect(browser: &mut Browser) {
    for (width, dark) in [(1280, false), (1280, true), (320, false), (320, true)] {
        browser.show(width, dark);
        let (barriers, url) = (browser.barriers(), browser.url());
        assert!(barriers.is_empty(), "{url}, {width} pixels: {barriers:#?}");
    }
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{}: {complaints:#?}", browser.url());
}

#[test]
fn a_browser_creates_a_poll_votes_and_ranks_after_the_swap() {
    let mut cluster = Cluster::start(32, SHARDS, SHARDS.into(), &version("voting-v1"));
    let base = format!("http://{}", cluster.hosts[0].address);
    let mut browser = Browser::start();
    let mut inspected = 0;
    let mut look = |browser: &mut Browser| {
        inspect(browser);
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
