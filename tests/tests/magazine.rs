//! The magazine: readers notice neither publishing nor swaps, everything comes back after all hosts were killed, and a
//! browser writes an article.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::tools::output;
use ostrakon_tests::browser::Browser;
use ostrakon_tests::client::{Client, Response};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, PATIENCE, config, guest};
use ostrakon_tests::load::under_load_through;

const TOKEN: &str = "the token of the magazine's editor";
const TITLES: [&str; 2] = ["Salt and Steam", "Pepper and Smoke"];
/// Readers never see this.
const HIDDEN: &str = "not for readers";
const WORKERS: usize = 4;
/// Articles that are published while readers read.
const ARTICLES: u64 = 40;
/// A swap follows each of these many.
const EACH: u64 = 5;

fn files(title: &str) -> Files {
    let settings = [
        ("ostrakon.toml", "[cluster]\nshards = 3"),
        ("title", title),
        ("url", "http://magazine.example"),
    ];
    config(&guest("magazine"), &settings)
}

fn start(part: u8) -> Cluster {
    let secret = Files::from([("editor-token".to_owned(), TOKEN.into())]);
    Cluster::start_with(part, 3, 3, &files(TITLES[0]), &secret)
}

fn get(client: &mut Client, path: &str) -> Response {
    let response = client.get(path).expect("an answer");
    assert_eq!(response.status, 200, "{path}: {response:?}");
    response
}

/// A form as browsers send it.
fn form(fields: &[(&str, &str)]) -> String {
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", value.replace(' ', "+")));
    fields.collect::<Vec<_>>().join("&")
}

/// A client with an editor's session.
struct Editor {
    client: Client,
    cookie: String,
}

impl Editor {
    fn sign_in(host: &Host) -> Self {
        let mut client = host.client();
        let body = form(&[("token", TOKEN)]);
        let signed_in = client.send("POST", "/editor/sign-in", &[], body.as_bytes());
        let signed_in = signed_in.expect("an answer");
        assert_eq!(signed_in.status, 303, "{signed_in:?}");
        let cookie = signed_in.header("set-cookie").expect("a session");
        let cookie = cookie.split(';').next().expect("a cookie").to_owned();
        Self { client, cookie }
    }

    fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> std::io::Result<Response> {
        let headers = [("cookie", self.cookie.as_str())];
        let body = form(fields);
        self.client.send("POST", path, &headers, body.as_bytes())
    }

    fn create(&mut self, fields: &[(&str, &str)]) {
        let created = self.post("/editor/articles", fields).expect("an answer");
        assert_eq!(created.status, 303, "{created:?}");
    }

    /// Uploads an image, and returns its path for readers.
    fn upload(&mut self, image: &[u8]) -> String {
        let head =
            "--edge\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n";
        let body = [head.as_bytes(), image, b"\r\n--edge--\r\n"].concat();
        let headers = [
            ("cookie", self.cookie.as_str()),
            ("content-type", "multipart/form-data; boundary=edge"),
        ];
        let uploaded = self.client.send("POST", "/editor/images", &headers, &body);
        let uploaded = uploaded.expect("an answer");
        assert_eq!(uploaded.status, 303, "{uploaded:?}");
        let page = uploaded.header("location").expect("the image's page");
        page.replace("/editor", "")
    }
}

/// An image of a size, each with other bytes, which a browser would not show.
fn image(bytes: usize) -> Vec<u8> {
    let mut image = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut state = bytes as u64;
    while image.len() < bytes {
        // Knuth's linear congruential generator (MMIX).
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        image.extend(state.to_be_bytes());
    }
    image.truncate(bytes);
    image
}

/// The numbers of the articles in a list, in its order.
fn numbers(page: &str) -> Vec<u64> {
    let parts = page.split(">Number ").skip(1);
    let numbers = parts.map(|part| part.split('<').next().expect("a number").parse());
    numbers.collect::<Result<_, _>>().expect("numbers")
}

fn assert_hides_drafts(response: &Response) {
    assert!(!response.text().contains(HIDDEN), "{}", response.text());
}

/// The number of entries in a feed that Python's XML parser accepts and that has what Atom demands.
fn entries(feed: &Response) -> usize {
    const CHECK: &str = r#"
import sys, xml.etree.ElementTree as tree
atom = "{http://www.w3.org/2005/Atom}"
feed = tree.parse(sys.argv[1]).getroot()
assert feed.tag == atom + "feed", feed.tag
entries = feed.findall(atom + "entry")
for one in [feed, *entries]:
    for name in ["id", "title", "updated"]:
        assert len(one.findall(atom + name)) == 1, name
    assert one.find(atom + "link[@rel='alternate']").get("href").startswith("http://magazine.example/")
ids = {one.find(atom + "id").text for one in [feed, *entries]}
assert len(ids) == len(entries) + 1, ids
assert feed.find(atom + "updated").text == max(one.find(atom + "updated").text for one in entries)
print(len(entries))
"#;
    let directory = tempfile::tempdir().expect("a directory can be created");
    let path = directory.path().join("feed.xml");
    fs::write(&path, &feed.body).expect("the file can be written");
    let said = output(Command::new("python3").args(["-c", CHECK]).arg(path));
    said.trim().parse().expect("a number")
}

/// Waits until a condition holds.
fn wait(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "the clients do not proceed");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Kills all hosts with SIGKILL, and starts others on their data.
fn kill_and_restart(cluster: &mut Cluster, meanwhile: impl FnOnce()) {
    for host in &cluster.hosts {
        host.signal("KILL");
    }
    for host in cluster.hosts.drain(..) {
        host.kill();
    }
    meanwhile();
    // All at once, because the first shard waits for the others.
    cluster.hosts = thread::scope(|scope| {
        let starting: Vec<_> = cluster
            .shards
            .iter()
            .map(|shard| scope.spawn(|| shard.start()))
            .collect();
        let started = starting.into_iter().map(thread::ScopedJoinHandle::join);
        started.map(|host| host.expect("the host starts")).collect()
    });
    cluster.wait_for(3);
}

/// Readers, each of whom checks what it is given.
struct Readers {
    images: BTreeMap<String, Vec<u8>>,
    /// The number of the last article whose publication the editor's client saw acknowledged.
    published: AtomicU64,
    /// The last version of the front page that each has.
    versions: [Mutex<String>; WORKERS],
    /// How often the front page was another one, and how often it was not (304).
    changed: AtomicU64,
    unchanged: AtomicU64,
}

impl Readers {
    fn read(&self, client: &mut Client, worker: usize, number: usize) {
        let newest = self.published.load(Ordering::SeqCst);
        let turn = number / 8;
        match number % 8 {
            0 => {
                let mut images = self.images.iter();
                let (path, bytes) = images.nth(turn % images.len()).expect("an image");
                assert!(get(client, path).body == *bytes, "{path}: other bytes");
            }
            1 => {
                let article = get(client, &format!("/articles/number-{newest}"));
                let heading = format!("<h1>Number {newest}</h1>");
                assert!(article.text().contains(&heading), "{}", article.text());
            }
            2 => {
                let feed = get(client, "/feed.atom");
                assert_hides_drafts(&feed);
                let title = format!(">Number {newest}<");
                assert!(feed.text().contains(&title), "{title}: {}", feed.text());
            }
            3 => {
                let path = ["/articles/plans", "/articles/next", "/articles/number-999"][turn % 3];
                let response = client.get(path).expect("an answer");
                assert_eq!(response.status, 404, "{response:?}");
                assert_hides_drafts(&response);
            }
            4 => {
                let tagged = get(client, "/tags/numbers");
                assert_hides_drafts(&tagged);
                assert!(numbers(tagged.text())[0] >= newest);
            }
            _ => self.read_front(client, worker, newest),
        }
    }

    fn read_front(&self, client: &mut Client, worker: usize, newest: u64) {
        let mut version = self.versions[worker].lock().expect("no holder panics");
        let headers = [("if-none-match", version.as_str())];
        let front = client.send("GET", "/", &headers, b"").expect("an answer");
        if front.status == 304 {
            assert!(front.body.is_empty() && front.header("etag") == Some(version.as_str()));
            self.unchanged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        assert_eq!(front.status, 200, "{front:?}");
        assert_hides_drafts(&front);
        let found = numbers(front.text());
        // What was acknowledged to the editor is seen through any shard.
        assert!(found[0] >= newest, "{found:?}: {newest} was published");
        assert!(found.is_sorted_by(|a, b| a > b), "{found:?}");
        // One generation makes a page, in which the magazine's title stands three times.
        let mut titles = TITLES.map(|title| front.text().matches(title).count());
        titles.sort_unstable();
        assert_eq!(titles, [0, 3], "{}", front.text());
        self.changed.fetch_add(1, Ordering::Relaxed);
        let new = front.header("etag").expect("a version");
        new.clone_into(&mut version);
    }
}

/// Stores images of several sizes through all shards, and what readers must not see.
fn fill(cluster: &Cluster, editor: &mut Editor) -> BTreeMap<String, Vec<u8>> {
    let sizes = [1 << 10, 70 << 10, 1 << 20, 3 << 20, 1025, 300 << 10];
    let images = sizes.into_iter().enumerate().map(|(number, bytes)| {
        // The session holds on all shards.
        editor.client = cluster.hosts[number % 3].client();
        let image = image(bytes);
        (editor.upload(&image), image)
    });
    let images = images.collect();
    let mut fields = vec![("title", "Plans"), ("summary", HIDDEN), ("tags", "numbers")];
    editor.create(&fields);
    fields[0].1 = "Next";
    fields.extend([("published", "2099-01-01T00:00"), ("action", "publish")]);
    editor.create(&fields);
    images
}

#[test]
fn readers_notice_neither_publishing_nor_swaps() {
    let mut cluster = start(33);
    let mut editor = Editor::sign_in(&cluster.hosts[1]);
    let readers = Readers {
        images: fill(&cluster, &mut editor),
        published: AtomicU64::new(0),
        versions: Default::default(),
        changed: AtomicU64::new(0),
        unchanged: AtomicU64::new(0),
    };
    let first = [
        ("title", "Number 0"),
        ("tags", "numbers"),
        ("action", "publish"),
    ];
    editor.create(&first);
    let request = |clients: &mut [Client], worker: usize, number: u64| {
        let number = usize::try_from(number).expect("few requests");
        readers.read(&mut clients[(worker + number) % 3], worker, number);
    };
    let addresses: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let (requests, ()) = under_load_through(&addresses, WORKERS, request, |answered| {
        let mut generation = 1;
        for number in 1..=ARTICLES {
            let title = format!("Number {number}");
            let mut fields = vec![("title", &*title), ("tags", "numbers"), ("revision", "0")];
            editor.create(&fields);
            let draft = editor.client.get(&format!("/articles/number-{number}"));
            assert_eq!(draft.expect("an answer").status, 404, "{title} is a draft");
            fields[2].1 = "1";
            fields.push(("action", "publish"));
            let path = format!("/editor/articles/number-{number}");
            let saved = editor.post(&path, &fields).expect("an answer");
            assert_eq!(saved.status, 303, "{saved:?}");
            readers.published.store(number, Ordering::SeqCst);
            if number.is_multiple_of(EACH) {
                let title = TITLES[usize::from(generation % 2 == 1)];
                generation += 1;
                cluster.publish(&files(title));
                cluster.wait_for_generation(generation);
            }
            let until = answered.load(Ordering::Relaxed) + 50;
            wait(|| answered.load(Ordering::Relaxed) >= until);
        }
    });
    for host in &cluster.hosts {
        assert_eq!(host.metric("ostrakon_swap_refusals_total"), 0);
    }
    let (changed, unchanged) = (readers.changed.into_inner(), readers.unchanged.into_inner());
    // Each reader sees most of the articles and swaps on a new front page.
    assert!(changed > ARTICLES && unchanged > 0, "{changed} {unchanged}");
    println!(
        "at least {requests} requests of {WORKERS} readers while {ARTICLES} articles were published and {} swaps made on 3 \
         shards: 0 failed, {changed} new front pages, {unchanged} times the same (304), no draft seen",
        ARTICLES / EACH,
    );
}

#[test]
fn all_is_back_after_all_hosts_were_killed() {
    let mut cluster = start(35);
    let mut editor = Editor::sign_in(&cluster.hosts[1]);
    let images = fill(&cluster, &mut editor);
    let mut pages = BTreeMap::new();
    for number in 0..10 {
        let title = format!("Number {number}");
        editor.create(&[
            ("title", &title),
            ("tags", "numbers"),
            ("action", "publish"),
        ]);
        let path = format!("/articles/number-{number}");
        let page = get(&mut editor.client, &path).body;
        pages.insert(path, page);
    }

    // The first kill comes while the editor publishes. Everything acknowledged is there afterwards.
    let acknowledged = AtomicU64::new(0);
    thread::scope(|scope| {
        let acknowledged = &acknowledged;
        let writing = scope.spawn(move || {
            for number in 1.. {
                let title = format!("Late {number}");
                match editor.post(
                    "/editor/articles",
                    &[("title", &title), ("action", "publish")],
                ) {
                    Ok(created) if created.status == 303 => {
                        acknowledged.store(number, Ordering::SeqCst);
                    }
                    _ => return,
                }
            }
        });
        wait(|| acknowledged.load(Ordering::SeqCst) >= 20);
        kill_and_restart(&mut cluster, || {
            writing.join().expect("the editor ends with the hosts");
        });
    });
    let late = acknowledged.into_inner();
    // The second one comes while nothing happens.
    kill_and_restart(&mut cluster, || ());

    for (number, host) in cluster.hosts.iter().enumerate() {
        let mut client = host.client();
        for (path, bytes) in images.iter().chain(&pages) {
            assert!(get(&mut client, path).body == *bytes, "{path}: other bytes");
        }
        for late in 1..=late {
            get(&mut client, &format!("/articles/late-{late}"));
        }
        for hidden in ["/articles/plans", "/articles/next"] {
            assert_eq!(client.get(hidden).expect("an answer").status, 404);
        }
        for path in ["/", "/feed.atom", "/tags/numbers", "/articles/number-1"] {
            let page = get(&mut client, path);
            let headers = [("if-none-match", page.header("etag").expect("a version"))];
            let mut other = cluster.hosts[(number + 1) % 3].client();
            let again = other.send("GET", path, &headers, b"").expect("an answer");
            assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        }
        assert!(!host.log().contains(TOKEN), "the log tells the token");
    }
    let feed = entries(&get(&mut cluster.hosts[0].client(), "/feed.atom"));
    assert_eq!(feed, 20);
    println!(
        "after 2 kills of all 3 hosts: {} images of {} bytes and {} pages the same, and {late} articles acknowledged until \
         the first kill: 0 lost; {feed} entries in the feed",
        images.len(),
        images.values().map(Vec::len).sum::<usize>(),
        pages.len(),
    );
}

#[test]
fn an_editor_writes_and_publishes_in_a_browser() {
    let cluster = start(34);
    let base = format!("http://{}", cluster.hosts[0].address);
    let mut browser = Browser::start();
    let mut inspected = 0;
    let mut look = |browser: &mut Browser| {
        browser.inspect();
        inspected += 1;
    };

    assert_eq!(browser.open(&base), 200);
    assert!(browser.text("main").contains("no articles"));
    look(&mut browser);

    assert_eq!(browser.follow("a[href='/editor']"), 200);
    look(&mut browser);
    browser.fill("#token", "a guess");
    assert_eq!(browser.follow("main button"), 403);
    assert!(
        browser
            .text("[role=alert]")
            .contains("not the editor's token")
    );
    // The status itself is an error in the browser's log.
    assert_eq!(browser.complaints().len(), 1);
    look(&mut browser);
    browser.fill("#token", TOKEN);
    assert_eq!(browser.follow("main button"), 200);
    assert_eq!(browser.url(), format!("{base}/editor"));
    look(&mut browser);

    // The demo: a chain of redirects that stores pictures on several shards, then the articles.
    assert_eq!(browser.follow("form[action='/demo'] button"), 200);
    assert_eq!(browser.url(), format!("{base}/"));
    assert_eq!(
        (browser.count("article"), browser.count("article img")),
        (5, 4)
    );
    let loaded =
        "[...document.images].every(image => image.complete && image.naturalWidth === 640)";
    assert_eq!(browser.evaluate(loaded), true);
    look(&mut browser);
    assert_eq!(
        browser.follow("a[href='/articles/soup-is-a-way-of-listening']"),
        200
    );
    assert_eq!(browser.count("article h2"), 3);
    look(&mut browser);

    assert_eq!(browser.open(&format!("{base}/editor/images")), 200);
    assert_eq!(browser.count(".images img"), 4);
    look(&mut browser);
    assert_eq!(browser.follow("a[href='/editor/images/demo-onion']"), 200);
    look(&mut browser);

    assert_eq!(browser.open(&format!("{base}/editor/articles")), 200);
    look(&mut browser);
    browser.fill("#title", "Rice & <beans>");
    browser.fill("#summary", "A supper");
    browser.fill("#tags", "Supper, Beans");
    browser.fill("#picture", "demo-onion");
    browser.fill(
        "#text",
        "Soak the *beans*.\n\n# Then\n\n- rice\n- <script>alert(1)</script>",
    );
    assert_eq!(browser.follow("button[value=save]"), 400);
    assert_eq!(browser.text("#alt-problem"), "Say what the picture shows.");
    assert_eq!(browser.complaints().len(), 1);
    look(&mut browser);
    browser.fill("#alt", "Half an onion");
    assert_eq!(browser.follow("button[value=save]"), 200);
    assert_eq!(browser.url(), format!("{base}/editor"));
    assert_eq!(browser.open(&format!("{base}/articles/rice-beans")), 404);
    browser.complaints();

    assert_eq!(
        browser.open(&format!("{base}/editor/articles/rice-beans")),
        200
    );
    look(&mut browser);
    assert_eq!(browser.follow("a[href$='/preview']"), 200);
    assert!(browser.text(".about").starts_with("Draft"));
    look(&mut browser);
    assert_eq!(browser.follow("a[href$='/rice-beans']"), 200);
    assert_eq!(browser.follow("button[value=publish]"), 200);
    assert_eq!(browser.open(&base), 200);
    assert_eq!(browser.text("article h2"), "Rice & <beans>");
    assert_eq!(browser.follow("article h2 a"), 200);
    assert_eq!(browser.text("h1"), "Rice & <beans>");
    assert_eq!(
        browser.text("article li:last-child"),
        "<script>alert(1)</script>"
    );
    assert_eq!(browser.follow("a[href='/tags/beans']"), 200);
    assert_eq!(browser.count("article"), 1);
    look(&mut browser);

    assert_eq!(browser.open(&format!("{base}/editor")), 200);
    assert_eq!(
        browser.follow("form[action='/editor/sign-out'] button"),
        200
    );
    assert_eq!(
        browser.open(&format!("{base}/editor/articles/rice-beans")),
        200
    );
    assert_eq!(browser.url(), format!("{base}/editor"));
    assert_eq!(browser.count("#token"), 1);
    println!("{inspected} pages: no barrier in 4 views of each, no complaint");
}
