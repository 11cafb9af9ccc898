//! The magazine, in memory.

use std::{collections::BTreeSet, time::Duration};

use magazine::Magazine;
use ostrakon_guest::{
    paths::encode,
    testing::{Limits, Reply, TestCluster, TestShard},
};

const TOKEN: &str = "a token of the tests";
/// A PNG by its first bytes.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and more \r\n--x\0";

const MULTIPART: &str = "multipart/form-data; boundary=edge";

type Shard = TestShard<Magazine>;

fn shard() -> Shard {
    let builder = TestShard::new().secret("editor-token", format!("{TOKEN}\n"));
    builder.start().unwrap()
}

/// A shard with a signed-in editor, and the editor's cookie.
fn signed_in() -> (Shard, String) {
    let mut shard = shard();
    let cookie = sign_in(&mut shard);
    (shard, cookie)
}

fn sign_in(shard: &mut Shard) -> String {
    let reply = shard.post("/editor/sign-in", form(&[("token", TOKEN)]));
    assert_eq!(
        (reply.status, reply.header("location")),
        (303, Some("/editor"))
    );
    let cookie = reply.header("set-cookie").unwrap();
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=43200"),
        "{cookie}"
    );
    cookie.split(';').next().unwrap().to_owned()
}

fn form(fields: &[(&str, &str)]) -> String {
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)));
    fields.collect::<Vec<_>>().join("&")
}

fn get(shard: &mut Shard, cookie: &str, path: &str) -> Reply {
    shard.send("GET", path, &[("cookie", cookie)], "")
}

fn post(shard: &mut Shard, cookie: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
    shard.send("POST", path, &[("cookie", cookie)], form(fields))
}

#[track_caller]
fn create(shard: &mut Shard, cookie: &str, fields: &[(&str, &str)]) {
    let reply = post(shard, cookie, "/editor/articles", fields);
    assert_eq!(reply.status, 303, "{}", reply.text());
}

fn multipart(file: &[u8]) -> Vec<u8> {
    let head = b"--edge\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a\"\r\ncontent-type: text/html\r\n\r\n";
    [head, file, b"\r\n--edge--\r\n"].concat()
}

fn upload(shard: &mut Shard, cookie: &str, file: &[u8]) -> Reply {
    let headers = [("cookie", cookie), ("content-type", MULTIPART)];
    shard.send("POST", "/editor/images", &headers, multipart(file))
}

/// The titles of the articles in a list.
fn titles(reply: &Reply) -> Vec<&str> {
    let parts = reply.text().split("<h2><a href=\"").skip(1);
    parts
        .map(|part| part.split(['>', '<']).nth(1).unwrap())
        .collect()
}

#[test]
fn an_article_is_written_published_changed_and_withdrawn() {
    let (mut shard, cookie) = signed_in();
    let text = "# How\n*slowly* & <b>with care</b>";
    let mut fields = [
        ("title", "Bread & butter"),
        ("summary", "On <toast>"),
        ("author", "Ida"),
        ("tags", "Bread, slow food, bread,"),
        ("text", text),
        ("revision", "0"),
        ("action", "save"),
    ];
    create(&mut shard, &cookie, &fields);

    // Readers see nothing of a draft.
    for path in ["/articles/bread-butter", "/tags/bread"] {
        assert_eq!(shard.get(path).status, 404, "{path}");
    }
    for path in ["/", "/feed.atom"] {
        assert!(!shard.get(path).text().contains("Bread"), "{path}");
    }
    let preview = get(&mut shard, &cookie, "/editor/articles/bread-butter/preview");
    assert!(preview.text().contains("<strong>Draft</strong>"));

    (fields[5].1, fields[6].1) = ("1", "publish");
    let path = "/editor/articles/bread-butter";
    assert_eq!(post(&mut shard, &cookie, path, &fields).status, 303);
    let article = shard.get("/articles/bread-butter");
    assert_eq!(article.status, 200);
    for part in [
        "<h1>Bread &amp; butter</h1>",
        "<p class=\"summary\">On &lt;toast&gt;</p>",
        "1 January 2026</time> · by Ida · <a href=\"/tags/bread\">bread</a> · <a href=\"/tags/slow%20food\">",
        "<h2>How</h2>\n<p><em>slowly</em> &amp; &lt;b&gt;with care&lt;/b&gt;</p>",
    ] {
        assert!(article.text().contains(part), "{part}: {}", article.text());
    }
    assert_eq!(titles(&shard.get("/")), ["Bread &amp; butter"]);
    assert_eq!(
        titles(&shard.get("/tags/slow%20food")),
        ["Bread &amp; butter"]
    );

    // Saved again it stays published at the same time, and loses a tag.
    shard.advance(Duration::from_hours(48));
    let cookie = sign_in(&mut shard);
    (fields[0].1, fields[3].1) = ("Bread", "bread");
    (fields[5].1, fields[6].1) = ("2", "save");
    assert_eq!(post(&mut shard, &cookie, path, &fields).status, 303);
    assert!(
        shard
            .get("/articles/bread-butter")
            .text()
            .contains("1 January 2026")
    );
    assert_eq!(titles(&shard.get("/tags/bread")), ["Bread"]);
    assert_eq!(shard.get("/tags/slow%20food").status, 404);
    let feed = shard.get("/feed.atom");
    assert!(
        feed.text()
            .contains("<published>2026-01-01T00:00:00Z</published>\n<updated>2026-01-03T00:00:00Z")
    );

    (fields[5].1, fields[6].1) = ("3", "unpublish");
    assert_eq!(post(&mut shard, &cookie, path, &fields).status, 303);
    assert_eq!(shard.get("/articles/bread-butter").status, 404);
    assert_eq!(titles(&shard.get("/")).len(), 0);

    assert_eq!(
        post(&mut shard, &cookie, &format!("{path}/delete"), &[]).status,
        303
    );
    assert_eq!(
        post(&mut shard, &cookie, &format!("{path}/delete"), &[]).status,
        404
    );
    assert!(shard.partition("articles").is_none());
}

#[test]
fn an_article_appears_when_its_time_has_come() {
    let (mut shard, cookie) = signed_in();
    let fields = [
        ("title", "Soup"),
        ("tags", "soup"),
        ("published", "2026-01-02T08:30"),
        ("action", "publish"),
    ];
    create(&mut shard, &cookie, &fields);
    assert!(
        get(&mut shard, &cookie, "/editor")
            .text()
            .contains("appears on")
    );
    let is_visible = |shard: &mut Shard| {
        let found = shard.get("/articles/soup").status == 200;
        // A reader who asks for a later page of the list finds no more there.
        let listed = [
            ("/", 200),
            ("/?before=18446744073709551615", 200),
            ("/tags/soup", 404),
        ];
        for (path, otherwise) in listed {
            let reply = shard.get(path);
            assert_eq!(reply.status, if found { 200 } else { otherwise }, "{path}");
            assert_eq!(titles(&reply).len(), usize::from(found), "{path}");
        }
        assert_eq!(shard.get("/feed.atom").text().contains("<entry>"), found);
        found
    };
    assert!(!is_visible(&mut shard));
    let before = shard.get("/").header("etag").unwrap().to_owned();
    shard.advance(Duration::from_secs(32 * 3600 + 1799));
    assert!(!is_visible(&mut shard));
    shard.advance(Duration::from_secs(1));
    assert!(is_visible(&mut shard));
    // Nothing was stored meanwhile, but the page is another.
    let reply = shard.send("GET", "/", &[("if-none-match", &before)], "");
    assert_eq!(reply.status, 200);
}

#[test]
fn lists_have_pages_that_lack_none_even_of_the_same_minute() {
    let mut shard = TestShard::<Magazine>::new()
        .secret("editor-token", TOKEN)
        .setting("page-size", "3")
        .start()
        .unwrap();
    let cookie = sign_in(&mut shard);
    for number in 0..8 {
        let title = format!("n{number}");
        let fields = [
            ("title", &*title),
            ("published", "2025-12-31T12:00"),
            ("action", "publish"),
        ];
        create(&mut shard, &cookie, &fields);
    }
    let (mut path, mut found) = ("/".to_owned(), Vec::new());
    loop {
        let page = shard.get(&path);
        found.push(titles(&page).join(" "));
        let next = page.text().split_once("rel=\"next\" href=\"");
        let Some((_, next)) = next else { break };
        next.split('"').next().unwrap().clone_into(&mut path);
    }
    assert_eq!(found, ["n7 n6 n5", "n4 n3 n2", "n1 n0"]);
    assert_eq!(shard.get("/?before=x").status, 400);
}

#[test]
fn a_form_that_is_rejected_keeps_what_was_typed() {
    let (mut shard, cookie) = signed_in();
    let long = "x".repeat(151);
    let text = "y".repeat((64 << 10) + 1);
    let tags = "t,".repeat(3) + &"z".repeat(41);
    for (fields, field) in [
        (&[("title", " "), ("summary", "<kept>")][..], "title"),
        (&[("title", &long), ("summary", "<kept>")], "title"),
        (
            &[("title", "a"), ("summary", "<kept>"), ("text", &text)],
            "text",
        ),
        (
            &[("title", "a"), ("summary", "<kept>"), ("tags", &tags)],
            "tags",
        ),
        (
            &[("title", "a"), ("summary", "<kept>"), ("picture", "a/../B")],
            "picture",
        ),
        (
            &[
                ("title", "a"),
                ("summary", "<kept>"),
                ("picture", "/images/0a"),
            ],
            "alt",
        ),
        (
            &[
                ("title", "a"),
                ("summary", "<kept>"),
                ("published", "soon"),
                ("action", "publish"),
            ],
            "published",
        ),
        (
            &[
                ("title", "a"),
                ("summary", "<kept>"),
                ("published", "2100-01-01T00:00"),
                ("action", "publish"),
            ],
            "published",
        ),
        (
            &[("title", "a"), ("summary", "<kept>"), ("revision", "7")],
            "title",
        ),
    ] {
        let reply = post(&mut shard, &cookie, "/editor/articles", fields);
        assert_eq!(reply.status, 400, "{fields:?}");
        let page = reply.text();
        assert!(page.contains("value=\"&lt;kept&gt;\""), "{page}");
        assert!(
            page.contains(&format!("id=\"{field}-problem\"")),
            "{field}: {page}"
        );
        assert!(
            page.contains(&format!("<li><a href=\"#{field}\">")),
            "{page}"
        );
    }
    for fields in [[("revision", "x")], [("action", "burn")]] {
        assert_eq!(
            post(&mut shard, &cookie, "/editor/articles", &fields).status,
            400
        );
    }
    assert!(shard.partition("articles").is_none());
}

#[test]
fn one_editor_does_not_overwrite_another() {
    let (mut shard, cookie) = signed_in();
    create(&mut shard, &cookie, &[("title", "a"), ("text", "first")]);
    let path = "/editor/articles/a";
    let save = |text| [("title", "a"), ("text", text), ("revision", "1")];
    assert_eq!(post(&mut shard, &cookie, path, &save("second")).status, 303);
    let late = post(&mut shard, &cookie, path, &save("third"));
    assert_eq!(late.status, 400);
    assert!(
        late.text().contains("Someone else has saved"),
        "{}",
        late.text()
    );
    assert!(late.text().contains("third</textarea>"));
    assert!(
        get(&mut shard, &cookie, path)
            .text()
            .contains("second</textarea>")
    );
    // The same title makes another path.
    create(&mut shard, &cookie, &[("title", "A!")]);
    assert_eq!(get(&mut shard, &cookie, "/editor/articles/a-2").status, 200);
}

#[test]
fn images_are_stored_apart_and_kept_for_good() {
    let (mut shard, cookie) = signed_in();
    let reply = upload(&mut shard, &cookie, PNG);
    assert_eq!(reply.status, 303, "{}", reply.text());
    let page = reply.header("location").unwrap().to_owned();
    let id = page.strip_prefix("/editor/images/").unwrap();
    assert!(
        get(&mut shard, &cookie, &page)
            .text()
            .contains(&format!("![What it shows](/images/{id})"))
    );
    let path = format!("/images/{id}");
    let image = shard.get(&path);
    assert_eq!((image.status, &*image.body), (200, PNG));
    for (name, value) in [
        // By its bytes: the client said text/html.
        ("content-type", "image/png"),
        ("cache-control", "public, max-age=31536000, immutable"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; sandbox"),
    ] {
        assert_eq!(image.header(name), Some(value));
    }
    let tag = image.header("etag").unwrap();
    let again = shard.send("GET", &path, &[("if-none-match", tag)], "");
    assert_eq!((again.status, again.body.len()), (304, 0));
    let listed = get(&mut shard, &cookie, "/editor/images");
    assert!(listed.text().contains(&format!("src=\"{path}\"")));

    for (file, status) in [(&b"<svg onload=alert(1)>"[..], 415), (b"", 400)] {
        assert_eq!(upload(&mut shard, &cookie, file).status, status);
    }
    assert_eq!(post(&mut shard, &cookie, "/editor/images", &[]).status, 415);
    for path in [
        "/images/0",
        "/images/A",
        "/images/..%2Farticles",
        "/images/articles",
    ] {
        assert_eq!(shard.get(path).status, 404, "{path}");
    }
    assert_eq!(
        post(&mut shard, &cookie, &format!("{page}/delete"), &[]).status,
        303
    );
    assert_eq!(shard.get(&path).status, 404);
    assert!(shard.partition(format!("image/{id}")).is_none());
}

#[test]
fn the_list_of_images_has_pages() {
    let (mut shard, cookie) = signed_in();
    for _ in 0..130 {
        shard.advance(Duration::from_secs(1));
        assert_eq!(upload(&mut shard, &cookie, PNG).status, 303);
    }
    let (mut path, mut found) = ("/editor/images".to_owned(), Vec::new());
    let mut seen = BTreeSet::new();
    loop {
        let page = get(&mut shard, &cookie, &path);
        let images = page.text().split("<img src=\"").skip(1);
        let images: Vec<_> = images.map(|part| part[..40].to_owned()).collect();
        found.push(images.len());
        seen.extend(images);
        let next = page.text().split_once("rel=\"next\" href=\"");
        let Some((_, next)) = next else { break };
        next.split('"').next().unwrap().clone_into(&mut path);
    }
    assert_eq!((found, seen.len()), (vec![60, 60, 10], 130));
    let wrong = get(&mut shard, &cookie, "/editor/images?before=x");
    assert_eq!(wrong.status, 400);
}

#[test]
fn an_image_of_eight_mib_fits() {
    let (mut shard, cookie) = signed_in();
    let mut file = vec![7; (8 << 20) - 1024];
    file[..PNG.len()].copy_from_slice(PNG);
    let reply = upload(&mut shard, &cookie, &file);
    let path = reply.header("location").unwrap().replace("/editor", "");
    assert_eq!(shard.get(&path).body, file);
}

#[test]
fn only_the_editor_edits() {
    let (mut shard, cookie) = signed_in();
    create(&mut shard, &cookie, &[("title", "a")]);
    let id = upload(&mut shard, &cookie, PNG)
        .header("location")
        .unwrap()
        .replace("/editor/images/", "");
    let stored = |shard: &Shard| {
        [
            shard.partition("articles").cloned(),
            shard.partition(format!("image/{id}")).cloned(),
        ]
    };
    let before = stored(&shard);
    let (until, signature) = cookie.split_once('.').unwrap();
    let later = format!("{}9.{signature}", &until[..until.len() - 1]);
    let shorter = &cookie[..cookie.len() - 2];
    for cookie in [
        "",
        "magazine-session=",
        "magazine-session=x.y",
        &later,
        shorter,
    ] {
        let reads = [
            "/editor/articles",
            "/editor/articles/a",
            "/editor/articles/a/preview",
            "/editor/images",
            &format!("/editor/images/{id}"),
            "/%65ditor/articles/a",
        ];
        for path in reads {
            let reply = get(&mut shard, cookie, path);
            assert_eq!(
                (reply.status, reply.header("location")),
                (303, Some("/editor")),
                "{path}"
            );
        }
        let image = format!("/editor/images/{id}/delete");
        for path in [
            "/editor/articles",
            "/editor/articles/a",
            "/editor/articles/a/delete",
            "/editor/images",
            &image,
            "/%65ditor/articles/a/delete",
            "/demo",
            "/demo/images/soup",
            "/demo/articles",
        ] {
            let reply = post(
                &mut shard,
                cookie,
                path,
                &[("title", "b"), ("revision", "1")],
            );
            assert_eq!(reply.status, 403, "{path}");
            assert!(reply.text().contains("<h1>You are not signed in</h1>"));
        }
        let front = get(&mut shard, cookie, "/editor");
        assert!(front.text().contains("name=\"token\"") && !front.text().contains("<table>"));
    }
    assert_eq!(stored(&shard), before);
}

#[test]
fn a_session_ends_by_time_by_sign_out_and_with_its_token() {
    let (mut shard, cookie) = signed_in();
    for wrong in ["", "a", &TOKEN[1..], &format!("{TOKEN}x")] {
        let reply = shard.post("/editor/sign-in", form(&[("token", wrong)]));
        assert_eq!((reply.status, reply.header("set-cookie")), (403, None));
        assert!(reply.text().contains("This is not the editor's token."));
    }
    assert!(
        get(&mut shard, &cookie, "/editor")
            .text()
            .contains("New article")
    );
    let out = post(&mut shard, &cookie, "/editor/sign-out", &[]);
    assert_eq!(
        (out.status, out.header("set-cookie")),
        (
            303,
            Some("magazine-session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0")
        )
    );
    shard.advance(Duration::from_hours(12));
    assert!(
        get(&mut shard, &cookie, "/editor")
            .text()
            .contains("Sign in")
    );
    let cookie = sign_in(&mut shard);
    assert!(
        get(&mut shard, &cookie, "/editor")
            .text()
            .contains("New article")
    );
    shard.rotate("editor-token", "another token");
    assert!(
        get(&mut shard, &cookie, "/editor")
            .text()
            .contains("Sign in")
    );

    // Without a token the editor is closed, whatever is sent.
    for token in [None, Some(""), Some(" \n")] {
        let mut builder = TestShard::<Magazine>::new();
        if let Some(token) = token {
            builder = builder.secret("editor-token", token);
        }
        let mut shard = builder.start().unwrap();
        for (method, path, body) in [
            ("GET", "/editor", ""),
            ("POST", "/editor/sign-in", "token="),
            ("POST", "/editor/articles", "title=a"),
            ("GET", "/editor/images", ""),
        ] {
            let reply = shard.send(method, path, &[("cookie", &*cookie)], body);
            assert_eq!(reply.status, 403, "{path}");
            assert!(reply.text().contains("<h1>The editor is closed</h1>"));
        }
        assert_eq!(shard.get("/").status, 200);
    }
}

#[test]
fn another_site_cannot_send_the_editors_forms() {
    let (mut shard, cookie) = signed_in();
    for (headers, status) in [
        (&[("sec-fetch-site", "same-origin")][..], 303),
        (&[("sec-fetch-site", "none")], 303),
        (&[("sec-fetch-site", "cross-site")], 403),
        (
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "http://a.example"),
                ("host", "a.example"),
            ],
            403,
        ),
        (
            &[("origin", "http://a.example"), ("host", "a.example")],
            303,
        ),
        (
            &[
                ("origin", "https://a.example:444"),
                ("host", "a.example:444"),
            ],
            303,
        ),
        (
            &[("origin", "http://b.example"), ("host", "a.example")],
            403,
        ),
        (&[("origin", "null"), ("host", "a.example")], 403),
    ] {
        let headers = [headers, &[("cookie", &*cookie)]].concat();
        let reply = shard.send("POST", "/editor/articles", &headers, "title=a");
        assert_eq!(reply.status, status, "{headers:?}");
    }
    let linked = shard.send("GET", "/", &[("sec-fetch-site", "cross-site")], "");
    assert_eq!(linked.status, 200);
}

#[test]
fn readers_ask_whether_their_copy_is_current() {
    let (mut shard, cookie) = signed_in();
    create(
        &mut shard,
        &cookie,
        &[("title", "a"), ("tags", "t"), ("action", "publish")],
    );
    let paths = ["/", "/tags/t", "/articles/a", "/feed.atom"];
    let tags = paths.map(|path| shard.get(path).header("etag").unwrap().to_owned());
    for (path, tag) in paths.iter().zip(&tags) {
        let reply = shard.send("GET", path, &[("if-none-match", tag)], "");
        assert_eq!((reply.status, reply.body.len()), (304, 0), "{path}");
        // All readers get the same.
        assert_eq!(get(&mut shard, &cookie, path).header("etag"), Some(&**tag));
    }
    let mut shard: Shard = shard.swap().setting("title", "Renamed").start().unwrap();
    for (path, tag) in paths.iter().zip(&tags) {
        let reply = shard.send("GET", path, &[("if-none-match", tag)], "");
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.text().contains("Renamed"), "{path}");
    }
    let private = get(&mut shard, &cookie, "/editor");
    assert_eq!(
        (private.header("cache-control"), private.header("etag")),
        (Some("no-store"), None)
    );
}

#[test]
fn the_feed_has_absolute_addresses_and_lasting_ids() {
    let mut shard = TestShard::<Magazine>::new()
        .secret("editor-token", TOKEN)
        .setting("url", "https://magazine.example/")
        .start()
        .unwrap();
    let reply = shard.post("/editor/sign-in", form(&[("token", TOKEN)]));
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    create(
        &mut shard,
        &cookie,
        &[
            ("title", "Crème & <co>\u{8}\u{ffff}"),
            ("action", "publish"),
        ],
    );
    let feed = shard.get("/feed.atom");
    assert_eq!(
        feed.header("content-type"),
        Some("application/atom+xml; charset=utf-8")
    );
    for part in [
        "<id>https://magazine.example/</id>",
        "<title>Crème &amp; &lt;co&gt;</title>",
        "href=\"https://magazine.example/articles/cr%C3%A8me-co\"/>",
        "<updated>2026-01-01T00:00:00Z</updated>",
    ] {
        assert!(feed.text().contains(part), "{part}: {}", feed.text());
    }
    let (_, id) = feed.text().split_once("<id>urn:uuid:").unwrap();
    let lengths: Vec<_> = id
        .split('<')
        .next()
        .unwrap()
        .split('-')
        .map(str::len)
        .collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12]);
}

#[test]
fn wrong_settings_are_refused() {
    for (name, content) in [
        ("url", "magazine.example"),
        ("url", "https://a b"),
        ("url", "https://"),
        ("demo", "perhaps"),
        ("page-size", "0"),
        ("page-size", "51"),
        ("page-size", "many"),
        ("title", "two\nlines"),
    ] {
        let refused = TestShard::<Magazine>::new()
            .setting(name, content)
            .start()
            .unwrap_err();
        assert!(refused.contains(name), "{refused}");
    }
}

#[test]
fn a_full_magazine_says_what_to_do() {
    let limits = Limits {
        partition: 4000,
        ..Limits::default()
    };
    let builder = TestShard::new().secret("editor-token", TOKEN);
    let mut shard: Shard = builder.limits(limits).start().unwrap();
    let cookie = sign_in(&mut shard);
    let text = "x".repeat(2000);
    let fields = [("title", "a"), ("text", &text), ("action", "publish")];
    create(&mut shard, &cookie, &fields);
    let before = shard.partition("articles").cloned();
    let full = post(&mut shard, &cookie, "/editor/articles", &fields);
    assert_eq!(full.status, 507);
    let expected = "<p>The magazine is full: shorten an article or delete one.</p>";
    assert!(full.text().contains(expected), "{}", full.text());
    assert_eq!(shard.partition("articles").cloned(), before);
}

#[test]
fn errors_are_pages() {
    let mut shard = shard();
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/articles/none", 404),
        ("GET", "/articles/%zz", 400),
        ("GET", "/tags/none", 404),
        ("DELETE", "/", 405),
        ("POST", "/demo/images/none", 404),
    ] {
        let reply = shard.send(method, path, &[], "");
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(
            reply.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(reply.text().contains("<h1>"), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
    }
    assert_eq!(
        shard.send("DELETE", "/", &[], "").header("allow"),
        Some("GET, HEAD")
    );
    let json = shard.send(
        "POST",
        "/editor/sign-in",
        &[("content-type", "application/json")],
        "{}",
    );
    assert_eq!(json.status, 415);
}

/// Sends the demo's form through any shards, and follows redirects as browsers do: 307 keeps the method.
fn demo(cluster: &mut TestCluster, cookie: &str) -> (u16, usize) {
    let (mut path, mut requests) = ("/demo".to_owned(), 0);
    loop {
        let mut client = cluster.ask(requests % 3);
        let reply = client.send("POST", &path, &[("cookie", cookie)], "");
        requests += 1;
        if reply.status != 307 {
            return (reply.status, requests as usize);
        }
        reply.header("location").unwrap().clone_into(&mut path);
    }
}

#[test]
fn anyone_may_fill_an_empty_magazine_if_the_settings_say_so() {
    let builder = || TestShard::<Magazine>::new().secret("editor-token", TOKEN);
    let mut cluster = TestCluster::start(3, builder).unwrap();
    assert!(!cluster.get("/").text().contains("<form"));
    assert_eq!(demo(&mut cluster, ""), (403, 1));

    let open = move || builder().setting("demo", "yes");
    let mut cluster = TestCluster::start(3, open).unwrap();
    assert!(cluster.get("/").text().contains("action=\"/demo\""));
    assert_eq!(demo(&mut cluster, ""), (303, 6));
    let front = cluster.get("/");
    assert!(!front.text().contains("<form"));
    assert_eq!(titles(&front).len(), 5);
    let links = front.text().split('"').filter(|part| part.starts_with('/'));
    let links: Vec<String> = links.map(str::to_owned).collect();
    assert!(
        links
            .iter()
            .filter(|link| link.starts_with("/images/"))
            .count()
            == 4
    );
    let mut articles = 0;
    for link in links {
        let page = cluster.ask(1).get(&link);
        assert_eq!(page.status, 200, "{link}");
        if link.starts_with("/articles/") {
            articles += 1;
            // What articles link to exists, and all of their markup is understood.
            let page = page.text();
            for link in page
                .split('"')
                .filter(|part| part.starts_with("/images/") || part.starts_with("/articles/"))
            {
                assert_eq!(cluster.ask(2).get(link).status, 200, "{link}");
            }
            let (_, text) = page.split_once("<article>").unwrap();
            let (text, _) = text.split_once("</article>").unwrap();
            assert!(!text.contains(['*', '[']), "{text}");
        }
    }
    assert_eq!(articles, 5);
    assert_eq!(cluster.get("/articles/a-cupboard-of-pickles").status, 404);

    // Once there are articles, only the editor adds what was deleted.
    assert_eq!(demo(&mut cluster, ""), (403, 6));
    let reply = cluster
        .ask(2)
        .post("/editor/sign-in", form(&[("token", TOKEN)]));
    let cookie = reply.header("set-cookie").unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let headers = [("cookie", &*cookie)];
    let gone = cluster.ask(0).send(
        "POST",
        "/editor/articles/onions-three-ways/delete",
        &headers,
        "",
    );
    assert_eq!(gone.status, 303);
    assert_eq!(titles(&cluster.get("/")).len(), 4);
    assert_eq!(demo(&mut cluster, &cookie), (303, 6));
    assert_eq!(titles(&cluster.get("/")).len(), 5);

    // Images are spread over the shards by their keys, and the list has those of all.
    let mut shards = BTreeSet::new();
    let of = [("cookie", &*cookie), ("content-type", MULTIPART)];
    for number in 0..12 {
        let reply = cluster
            .ask(number % 3)
            .send("POST", "/editor/images", &of, multipart(PNG));
        let id = reply
            .header("location")
            .unwrap()
            .replace("/editor/images/", "");
        shards.insert(cluster.partition(format!("image/{id}")).unwrap().0);
    }
    assert_eq!(shards.len(), 3);
    let list = cluster.ask(1).send("GET", "/editor/images", &headers, "");
    assert_eq!(list.text().matches("<img ").count(), 16, "{}", list.text());
}
