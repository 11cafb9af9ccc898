//! A real browser, headless, as a user of pages has it: Chromium, driven by its `DevTools` protocol.
//!
//! The protocol's messages go over two pipes, each message ended by a NUL.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::tools::provided;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::PATIENCE;

/// Chromium takes messages on descriptor 3 and gives its own on 4. The descriptors of a child other than the standard
/// ones are the shell's to set.
const COMMAND: &str = r#"exec chromium "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#;

const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--remote-debugging-pipe",
    // The tests run as root, too, for whom the sandbox does not start. The pages are our own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--force-color-profile=srgb",
];

/// A browser with one page, and no data of earlier ones. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    /// `None` once the browser is told to end.
    input: Option<ChildStdin>,
    messages: Receiver<Value>,
    session: String,
    sent: u64,
    /// The page's events that nobody has asked for yet.
    events: Vec<Value>,
    /// The browser's files, removed after it.
    _directory: TempDir,
}

impl Browser {
    /// Starts a browser with an empty page.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let mut child = Command::new("sh")
            .args(["-c", COMMAND, "chromium"])
            .args(ARGUMENTS)
            .arg(format!("--user-data-dir={}", directory.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the shell starts");
        let input = child.stdin.take();
        let output = child.stdout.take().expect("the output is piped");
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("the protocol is JSON");
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut browser = Self {
            child,
            input,
            messages,
            session: String::new(),
            sent: 0,
            events: Vec::new(),
            _directory: directory,
        };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", &attach);
        attached["sessionId"]
            .as_str()
            .expect("the session has an id")
            .clone_into(&mut browser.session);
        for domain in ["Page", "Runtime", "Log", "Audits"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Opens a page, and returns its HTTP status once it is loaded.
    ///
    /// # Panics
    /// When there is no answer, or the page does not load.
    pub fn open(&mut self, url: &str) -> u16 {
        self.leaving(|browser| {
            let navigated = browser.call("Page.navigate", &json!({ "url": url }));
            assert!(navigated.get("errorText").is_none(), "{url}: {navigated}");
        })
    }

    /// Clicks the element that a CSS selector finds, such as a link or a form's button, and returns the HTTP status of
    /// the page that this leads to, once it is loaded.
    ///
    /// # Panics
    /// When there is no such element, or no other page follows.
    pub fn follow(&mut self, selector: &str) -> u16 {
        self.leaving(|browser| browser.click(selector))
    }

    /// Waits until the page has reloaded by itself, and returns its HTTP status.
    ///
    /// # Panics
    /// When it does not.
    pub fn reloaded(&mut self) -> u16 {
        self.leaving(|_| ())
    }

    /// Clicks an element that leads to no other page, such as a checkbox.
    ///
    /// # Panics
    /// When there is no such element.
    pub fn click(&mut self, selector: &str) {
        self.on(selector, "element.click()");
    }

    /// Sets the value of a field: what is typed into it, or the value of a `select`'s option.
    ///
    /// # Panics
    /// When there is no such field, or the `select` has no such option.
    pub fn fill(&mut self, selector: &str, value: &str) {
        let value = Value::from(value);
        let set = format!("(element.value = {value}, element.value)");
        assert_eq!(self.on(selector, &set), value, "{selector}");
    }

    /// The visible text of the first element that a selector finds.
    ///
    /// # Panics
    /// When there is no such element.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.on(selector, "element.innerText");
        text.as_str().expect("a text").to_owned()
    }

    /// How many elements a selector finds.
    ///
    /// # Panics
    /// When it is no selector.
    pub fn count(&mut self, selector: &str) -> u64 {
        let selector = Value::from(selector);
        let count = self.evaluate(&format!("document.querySelectorAll({selector}).length"));
        count.as_u64().expect("a number")
    }

    /// The page's address.
    ///
    /// # Panics
    /// When the page does not answer.
    pub fn url(&mut self) -> String {
        let url = self.evaluate("location.href");
        url.as_str().expect("a text").to_owned()
    }

    /// The value of a JavaScript expression in the page, or of what it promises. It is run even if the page's policy
    /// forbids scripts.
    ///
    /// # Panics
    /// When it throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true,
        });
        let mut evaluated = self.call("Runtime.evaluate", &parameters);
        let thrown = &evaluated["exceptionDetails"];
        assert!(thrown.is_null(), "{thrown:#}");
        evaluated["result"]["value"].take()
    }

    /// Shows pages in a window of this width in CSS pixels, with light or dark colours.
    ///
    /// # Panics
    /// When the browser refuses.
    pub fn show(&mut self, width: u32, dark: bool) {
        let metrics = json!({
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        );
    }

    /// Checks the page that is shown, in a wide and a narrow window, in light and dark.
    ///
    /// # Panics
    /// When it has a barrier, or the browser complains of it.
    #[track_caller]
    pub fn inspect(&mut self) {
        for (width, dark) in [(1280, false), (1280, true), (320, false), (320, true)] {
            self.show(width, dark);
            let (barriers, url) = (self.barriers(), self.url());
            assert!(barriers.is_empty(), "{url}, {width} pixels: {barriers:#?}");
        }
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "{}: {complaints:#?}", self.url());
    }

    /// Everything that the browser has reported since the last call: errors and warnings in the console, failed
    /// requests, violations of the page's policy, and problems of its forms and cookies.
    ///
    /// # Panics
    /// When the browser has ended.
    pub fn complaints(&mut self) -> Vec<String> {
        // Events come in order, before the reply.
        self.evaluate("0");
        let is_complaint = |event: &Value| {
            let parameters = &event["params"];
            match event["method"].as_str() {
                Some("Runtime.exceptionThrown" | "Audits.issueAdded") => true,
                Some("Runtime.consoleAPICalled") => {
                    ["error", "warning", "assert"].contains(&text(&parameters["type"]))
                }
                Some("Log.entryAdded") => {
                    ["error", "warning"].contains(&text(&parameters["entry"]["level"]))
                }
                _ => false,
            }
        };
        let complaints = self.events.extract_if(.., |event| is_complaint(event));
        complaints
            .map(|event| event["params"].to_string())
            .collect()
    }

    /// The violations of accessibility rules (WCAG A and AA, and best practices) that axe-core finds in the page, and
    /// whether the page is wider than its window.
    ///
    /// # Panics
    /// When axe-core is not installed, or fails.
    pub fn barriers(&mut self) -> Vec<String> {
        const RUN: &str =
            "axe.run({ resultTypes: ['violations'] }).then(found => found.violations.map(rule =>
            `${rule.id}: ${rule.help}: ${rule.nodes.map(node => node.html).join(' ')}`))";
        let path = provided("axe.min.js");
        let axe = fs::read_to_string(path).expect("the file can be read");
        self.evaluate(&format!("{axe};0"));
        let found = self.evaluate(RUN);
        let mut barriers: Vec<String> = serde_json::from_value(found).expect("a list of texts");
        let wide = self.evaluate("document.documentElement.scrollWidth > innerWidth");
        if wide == true {
            barriers.push("the page is wider than its window".to_owned());
        }
        barriers
    }

    /// Runs an action that leads to another page, and waits until that page is loaded.
    fn leaving(&mut self, action: impl FnOnce(&mut Self)) -> u16 {
        const LOADED: &str = "Page.loadEventFired";
        self.events.retain(|event| event["method"] != LOADED);
        action(self);
        let deadline = Instant::now() + PATIENCE;
        while !self.events.iter().any(|event| event["method"] == LOADED) {
            let message = self.receive(deadline, "the page");
            self.events.push(message);
        }
        let status =
            self.evaluate("performance.getEntriesByType('navigation')[0]?.responseStatus ?? 0");
        let status = status
            .as_u64()
            .and_then(|status| u16::try_from(status).ok());
        status.expect("a status")
    }

    /// The value of an expression of `element`, the first one that a selector finds.
    fn on(&mut self, selector: &str, expression: &str) -> Value {
        let quoted = Value::from(selector);
        let found = self.evaluate(&format!("document.querySelector({quoted}) !== null"));
        assert_eq!(found, true, "the page has no {selector}");
        self.evaluate(&format!(
            "(element => {expression})(document.querySelector({quoted}))"
        ))
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.sent += 1;
        let id = self.sent;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let message = format!("{message}\0");
        let input = self.input.as_mut().expect("the browser runs");
        input
            .write_all(message.as_bytes())
            .expect("the browser runs: `cargo xtask tools` installs it");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut message = self.receive(deadline, method);
            if message["id"] != id {
                self.events.push(message);
                continue;
            }
            let error = &message["error"];
            assert!(error.is_null(), "{method}: {error}");
            return message["result"].take();
        }
    }

    fn receive(&self, deadline: Instant, what: &str) -> Value {
        let left = deadline.saturating_duration_since(Instant::now());
        let received = self.messages.recv_timeout(left);
        received.unwrap_or_else(|error| panic!("{what} does not come from the browser: {error}"))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when its pipe does, and so do its own children.
        self.input = None;
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Ok(None) = self.child.try_wait()
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
