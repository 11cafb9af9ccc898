//! The output of `ostrakon status --watch`: a screen that is redrawn, or lines where there is
//! no terminal.

use ostrakon_base::printable::Printable;
use serde_json::Value;

use super::Failure;
use super::peers;
use super::progress::Progress;

/// The previous output.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The number of lines on the screen.
    drawn: usize,
    /// The text printed last, where there is no terminal.
    told: String,
}

impl Watch {
    /// Redraws the screen. Lines are cut at the terminal's edge: wrapped lines could not be
    /// drawn over.
    pub(super) fn screen(&mut self, asked: &Result<Value, Failure>) -> String {
        let text = shown(asked);
        let up = match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r"),
        };
        self.drawn = text.lines().count();
        format!("{up}\x1b[J\x1b[?7l{text}\x1b[?7h")
    }

    /// Prints lines, where they differ from the previous ones.
    pub(super) fn lines(&mut self, asked: &Result<Value, Failure>) -> String {
        let text = shown(asked);
        if text == self.told {
            return String::new();
        }
        self.told.clone_from(&text);
        text
    }
}

/// The shard's state in one line, and the progress of a change.
fn shown(asked: &Result<Value, Failure>) -> String {
    let status = match asked {
        Ok(status) => status,
        Err(failure) => return format!("{}\n", Printable(&failure.line())),
    };
    let progress = Progress::of(&status["topology"]["progress"]);
    let moving = progress.filter(|progress| progress.moving);
    let progress = moving.map_or_else(String::new, |progress| progress.shown());
    let (problems, lost) = (peers::problems(status), peers::rows(status, true));
    format!(
        "{}\n{problems}{lost}{progress}",
        Printable(&headline(status))
    )
}

fn headline(status: &Value) -> String {
    let shard = &status["shard"];
    let state = match (status["ready"].as_bool(), status["not_ready"].as_str()) {
        (Some(true), _) => "ready".to_owned(),
        (_, why) => format!("not ready ({})", why.unwrap_or("it does not say why")),
    };
    let live = &status["generation"];
    let live = match (live["generation"].as_u64(), live["name"].as_str()) {
        (Some(number), Some(name)) => format!("generation {number}, {name}"),
        _ => "no generation".to_owned(),
    };
    let topology = &status["topology"];
    let data = match (topology["shards"].as_u64(), topology["stable"].as_bool()) {
        (Some(1), Some(true)) => "1 shard has everything".to_owned(),
        (Some(shards), Some(true)) => format!("{shards} shards have everything"),
        (Some(shards), _) => {
            let before = match topology["shards_before"].as_u64() {
                Some(1) => "1 shard".to_owned(),
                before => format!("{} shards", before.unwrap_or(0)),
            };
            format!("data moves from {before} to {shards}")
        }
        (None, _) => "alone".to_owned(),
    };
    let lost = status["topology"]["away"].as_array().map_or(0, Vec::len);
    let lost = match lost {
        0 => String::new(),
        1 => ", and 1 of them cannot be asked".to_owned(),
        lost => format!(", and {lost} of them cannot be asked"),
    };
    format!("shard {shard}: {state}, {live}; {data}{lost}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Exit;
    use super::*;

    fn status(stable: bool) -> Value {
        let source = json!({ "shard": 0, "left": 5, "moved": 15, "stayed": 0 });
        json!({
            "shard": 0, "ready": true, "not_ready": null,
            "generation": { "generation": 2, "name": "kv" },
            "topology": {
                "shards": 5, "shards_before": 3, "stable": stable,
                "progress": { "epoch": 2, "moving": !stable, "sources": [source] },
            },
        })
    }

    const MOVING: &str = "shard 0: ready, generation 2, kv; data moves from 3 shards to 5\n\
        shard 0 [##################......]  75 % 5 left, 15 moved\n";
    const MOVED: &str = "shard 0: ready, generation 2, kv; 5 shards have everything\n";

    #[test]
    fn bars_are_there_while_partitions_move() {
        assert_eq!(shown(&Ok(status(false))), MOVING);
        assert_eq!(shown(&Ok(status(true))), MOVED);
        let alone = json!({ "shard": 0, "ready": false, "not_ready": "the shard is starting" });
        let line = "shard 0: not ready (the shard is starting), no generation; alone\n";
        assert_eq!(shown(&Ok(alone)), line);
    }

    #[test]
    fn a_shard_that_cannot_be_asked_is_told_of() {
        let mut status = status(true);
        status["topology"]["away"] = json!([4]);
        status["topology"]["peers"] = json!([
            { "shard": 3, "reached": true, "since": 0.0, "cause": null },
            { "shard": 4, "reached": false, "since": 0.0, "cause": "nobody is there" },
        ]);
        status["problems"] = json!(["shard 4 cannot be asked"]);
        assert_eq!(
            shown(&Ok(status)),
            "shard 0: ready, generation 2, kv; 5 shards have everything, and 1 of them cannot be asked\n\
             ! shard 4 cannot be asked\n\
             shard 4 cannot be asked, since 1970-01-01T00:00:00Z: nobody is there\n"
        );
    }

    #[test]
    fn a_screen_is_drawn_over_the_one_before() {
        let mut watch = Watch::default();
        let drawn = |text: &str| format!("\x1b[J\x1b[?7l{text}\x1b[?7h");
        assert_eq!(watch.screen(&Ok(status(false))), drawn(MOVING));
        assert_eq!(
            watch.screen(&Ok(status(true))),
            format!("\x1b[2A\r{}", drawn(MOVED))
        );
        assert_eq!(
            watch.screen(&Ok(status(true))),
            format!("\x1b[1A\r{}", drawn(MOVED))
        );
    }

    #[test]
    fn without_a_terminal_only_what_is_new_is_said_and_failures_are_gone_through() {
        let mut watch = Watch::default();
        assert_eq!(watch.lines(&Ok(status(false))), MOVING);
        assert_eq!(watch.lines(&Ok(status(false))), "");
        let failure = || Err(Failure::new(Exit::Unavailable, "nobody is there"));
        assert_eq!(watch.lines(&failure()), "nobody is there\n");
        assert_eq!(watch.lines(&failure()), "");
        assert_eq!(watch.lines(&Ok(status(true))), MOVED);
    }
}
