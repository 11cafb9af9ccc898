//! A person's view of a set: one line for each event.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::sync::Mutex;
use std::time::Duration;

use ostrakon_base::digest::Digest;
use ostrakon_base::printable::Printable;
use ostrakon_observe::telemetry::{Backlog, MOST, unlocked};

use super::addresses::Addresses;
use super::news::{News, What};
use super::observation::Refused;

/// The shards' colours, in rotation: all but red, which marks errors.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 96];
const RED: u8 = 31;
/// How long the end waits until everything is written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Erases the line that the cursor is on.
const WIPE: &str = "\r\x1b[K";

/// Standard output, for people.
#[derive(Debug)]
pub(super) struct Screen {
    addresses: Addresses,
    in_colour: bool,
    /// The text in front of the person's input.
    prompt: &'static str,
    /// The refusal shown last, because every shard reports the same one.
    refused: Mutex<Option<(Option<Digest>, String)>>,
    /// Bounded and never blocking: even if nobody reads the output, the shards run and signals are
    /// handled.
    output: Backlog,
}

impl Screen {
    pub(super) fn new(addresses: Addresses) -> io::Result<Self> {
        let on_terminal = io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let prompts = on_terminal && io::stdin().is_terminal();
        Ok(Self {
            addresses,
            in_colour: on_terminal && !refused,
            prompt: if prompts { "> " } else { "" },
            refused: Mutex::default(),
            output: Backlog::start(MOST, unlocked(io::stdout())?, |_| {})?,
        })
    }

    pub(super) fn show(&self, news: &News) {
        let Some((wrong, mut text)) = words(news, &self.addresses) else {
            return;
        };
        if let What::Refused(refused) = &news.what
            && !self.is_new(refused)
        {
            "refused it, too".clone_into(&mut text);
        }
        // Much of the text comes from guests or other processes.
        let text = Printable(&text).to_string();
        self.write(&format!(
            "{}{}",
            self.prefix(news.shard),
            self.red(wrong, &text)
        ));
    }

    /// Shows a message that does not concern one shard.
    pub(super) fn say(&self, text: &str) {
        if !text.is_empty() {
            self.write(text);
        }
    }

    pub(super) fn complain(&self, text: &str) {
        self.write(&self.red(true, text));
    }

    /// Shows the prompt, if there is one.
    pub(super) fn ask(&self) {
        self.put(self.prompt);
    }

    /// Prompts again after an empty line.
    pub(super) fn ask_again(&self, silent: bool) {
        if silent {
            self.ask();
        }
    }

    pub(super) fn end(&self) {
        if !self.prompt.is_empty() {
            self.put(WIPE);
        }
        self.output.flush(LAST_LINES);
    }

    /// Whether no shard has reported the same refusal yet.
    fn is_new(&self, refused: &Refused) -> bool {
        let told = (refused.digest, refused.reason.clone());
        let mut last = self.refused.lock().expect("no holder of this lock panics");
        last.replace(told.clone()) != Some(told)
    }

    fn prefix(&self, shard: Option<u32>) -> String {
        let Some(shard) = shard else {
            return String::new();
        };
        let at = usize::try_from(shard).unwrap_or(0) % COLOURS.len();
        format!("{} ", self.paint(COLOURS[at], &format!("shard {shard} |")))
    }

    fn red(&self, wrong: bool, text: &str) -> String {
        if wrong {
            self.paint(RED, text)
        } else {
            text.to_owned()
        }
    }

    fn paint(&self, colour: u8, text: &str) -> String {
        if self.in_colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Replaces the prompt by whole lines, and then shows it again.
    fn write(&self, text: &str) {
        let prompt = self.prompt;
        let wipe = if prompt.is_empty() { "" } else { WIPE };
        self.put(&format!("{wipe}{text}\n{prompt}"));
    }

    fn put(&self, text: &str) {
        self.output.put(text.as_bytes());
    }
}

/// The text of an event, and whether it is an error. `None` if it is not worth a line.
fn words(news: &News, addresses: &Addresses) -> Option<(bool, String)> {
    let fine = |text: String| Some((false, text));
    let wrong = |text: String| Some((true, text));
    match &news.what {
        What::Started { pid } => {
            let address = addresses.public(news.shard.unwrap_or(0));
            fine(format!("starts on {address}, process {pid}"))
        }
        What::NotStarted { reason } => wrong(format!("cannot be started: {reason}")),
        What::Ready(after) => fine(format!("is ready after {}", shown(*after))),
        What::NotReady => wrong("is not ready".to_owned()),
        What::Stopping => fine("was told to end".to_owned()),
        What::GracePassed(grace) => {
            wrong(format!("has not ended within {}: killed", shown(*grace)))
        }
        What::Ended {
            code: Some(0),
            told: true,
            ..
        } => fine("has ended".to_owned()),
        What::Ended { code, signal, .. } => wrong(match (code, signal) {
            (Some(code), _) => format!("has ended with exit code {code}"),
            (None, Some(9)) => "was killed".to_owned(),
            (None, signal) => format!("was ended by signal {}", signal.unwrap_or(0)),
        }),
        What::Restarting(Duration::ZERO) | What::Projected => None,
        What::Restarting(wait) => fine(format!("will be restarted in {}", shown(*wait))),
        What::WaitsForContent => fine(
            "waits for a save of the configuration or the guest, at the places named above"
                .to_owned(),
        ),
        What::Live(live, after) => {
            let mut text = format!(
                "generation {} is live: {} {}",
                live.generation, live.name, live.version
            );
            if let Some(after) = after {
                let _ = write!(text, ", {} after its files came", shown(*after));
            }
            fine(text)
        }
        What::Refused(refused) => wrong(format!(
            "refused at step `{}`: {}",
            refused.step, refused.reason
        )),
        What::Line { level, text } => match level.as_deref() {
            Some("WARN") => fine(format!("warns: {text}")),
            _ => wrong(text.clone()),
        },
        What::Scaling { from, to } => fine(format!("from {from} shards to {to}")),
        What::Moving {
            from,
            to,
            entries,
            batches,
        } => {
            let entries: Vec<_> = entries
                .iter()
                .map(|entries| {
                    entries.map_or_else(|| "?".to_owned(), |entries| entries.to_string())
                })
                .collect();
            fine(format!(
                "data moves from {from} shards to {to}: entries {}; {batches} batches on their way",
                entries.join(", ")
            ))
        }
        What::Settled(1) => fine("1 shard is ready and has everything".to_owned()),
        What::Settled(shards) => fine(format!("{shards} shards are ready and have everything")),
        What::Unchanged(1) => fine("the shard goes on with what it had before".to_owned()),
        What::Unchanged(shards) => fine(format!("{shards} shards go on with what they had before")),
        What::Failed(reason) => wrong(format!("the state directory: {reason}")),
    }
}

/// A duration with as many digits as a person reads.
fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else if time.subsec_millis() == 0 {
        format!("{} s", time.as_secs())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use super::*;

    fn screen() -> Screen {
        Screen::new(Addresses::new(Ipv4Addr::LOCALHOST, 1, 2, 3).unwrap()).unwrap()
    }

    fn check(what: What, expected: Option<(bool, &str)>) {
        let addresses = Addresses::new(Ipv4Addr::LOCALHOST, 8080, 9090, 7070).unwrap();
        let news = News {
            at: Instant::now(),
            shard: Some(1),
            what,
        };
        let expected = expected.map(|(wrong, text)| (wrong, text.to_owned()));
        assert_eq!(words(&news, &addresses), expected, "{news:?}");
    }

    #[test]
    fn each_thing_is_a_line_and_what_is_wrong_is_marked() {
        let (code, signal) = (None, None);
        check(
            What::Started { pid: 7 },
            Some((false, "starts on 127.0.0.2:8080, process 7")),
        );
        check(
            What::Ready(Duration::from_millis(1500)),
            Some((false, "is ready after 1.5 s")),
        );
        let told = What::Ended {
            code: Some(0),
            signal,
            told: true,
        };
        check(told, Some((false, "has ended")));
        for (code, signal, text) in [
            (Some(0), signal, "has ended with exit code 0"),
            (Some(64), signal, "has ended with exit code 64"),
            (code, Some(9), "was killed"),
            (code, Some(11), "was ended by signal 11"),
        ] {
            let ended = What::Ended {
                code,
                signal,
                told: false,
            };
            check(ended, Some((true, text)));
        }
        check(What::Projected, None);
        check(What::Restarting(Duration::ZERO), None);
        check(
            What::Restarting(Duration::from_secs(5)),
            Some((false, "will be restarted in 5 s")),
        );
        let moving = What::Moving {
            from: 3,
            to: 5,
            entries: vec![Some(7), None],
            batches: 2,
        };
        check(
            moving,
            Some((
                false,
                "data moves from 3 shards to 5: entries 7, ?; 2 batches on their way",
            )),
        );
    }

    #[test]
    fn what_all_shards_refuse_is_explained_once() {
        let screen = screen();
        let refused = |content: &[u8]| Refused {
            digest: Some(Digest::of(content)),
            step: "verify".to_owned(),
            reason: "no".to_owned(),
            unix_time: 1,
        };
        let told = [b"1", b"1", b"2", b"2", b"1"].map(|content| screen.is_new(&refused(content)));
        assert_eq!(told, [true, false, true, false, true]);
    }

    #[test]
    fn each_shard_has_a_colour_and_none_has_red() {
        let mut screen = screen();
        screen.in_colour = true;
        assert_eq!(screen.prefix(Some(0)), "\x1b[36mshard 0 |\x1b[0m ");
        assert_ne!(screen.prefix(Some(1))[..5], screen.prefix(Some(0))[..5]);
        assert_eq!(screen.red(true, "no"), "\x1b[31mno\x1b[0m");
        assert!(!COLOURS.contains(&RED));
        screen.in_colour = false;
        assert_eq!(screen.prefix(Some(0)), "shard 0 | ");
        assert_eq!(screen.red(true, "no"), "no");
    }
}
