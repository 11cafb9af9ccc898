//! The pages. They work by plain links and forms, without scripts.

mod layout;

use std::{fmt::Write as _, time::Duration};

use layout::page;
use ostrakon_guest::{Error, Response, html::escape, time};

use crate::{
    Ballot, Outcome, Poll, Round,
    listing::{Listing, Summary},
    poll::{Draft, Wrong, is_past, readable},
};

/// How often a page of results refreshes itself, in seconds.
const REFRESH: &str = "5";

/// The newest polls.
pub(crate) fn home(listing: &Listing, now: Duration) -> Response {
    let mut main = String::from("<h1>Polls</h1>");
    if listing.polls.is_empty() {
        main.push_str("<p>There are no polls here. <a href=\"/polls/new\">Create one</a>.</p>");
    } else {
        main.push_str("<ul class=\"polls\">");
        for summary in &listing.polls {
            let Summary { id, poll, .. } = summary;
            let question = escape(&poll.question);
            let _ = write!(
                main,
                "<li><h2><a href=\"/polls/{id}\">{question}</a></h2><p class=\"meta\">{} · {}{} · \
                 <a href=\"/polls/{id}/results\" aria-label=\"Results: {question}\">Results</a></p></li>",
                votes(summary.votes()),
                state(poll, now),
                if summary.ranked { " · ranked" } else { "" },
            );
        }
        main.push_str("</ul>");
    }
    older(&mut main, listing, "/");
    page("Polls", &main)
}

/// The results of the newest polls.
pub(crate) fn overview(listing: &Listing, now: Duration, live: bool) -> Response {
    let mut main = String::from("<h1>Results</h1>");
    if listing.polls.is_empty() {
        main.push_str("<p>There are no polls here. <a href=\"/polls/new\">Create one</a>.</p>");
    }
    for summary in &listing.polls {
        let Summary {
            id, poll, tally, ..
        } = summary;
        let question = escape(&poll.question);
        let _ = write!(
            main,
            "<section><h2><a href=\"/polls/{id}/results\">{question}</a></h2>\
             <p class=\"meta\">{} · {}{}</p>",
            votes(summary.votes()),
            state(poll, now),
            if summary.ranked {
                " · first choices"
            } else {
                ""
            },
        );
        let counts: Vec<_> = tally.iter().copied().map(Some).collect();
        bars(&mut main, &format!("Votes: {question}"), poll, &counts, &[]);
        main.push_str("</section>");
    }
    older(&mut main, listing, "/results");
    refreshed(main, "Results", "/results", live)
}

/// The form for a new poll, with what was wrong in the last one.
pub(crate) fn new(draft: &Draft, wrong: Option<&Wrong>) -> Response {
    let of = |field: &str| {
        let found = wrong.filter(|wrong| wrong.field == field);
        match found {
            Some(wrong) => (
                format!(
                    "<p class=\"error\" id=\"{field}-error\">{}</p>",
                    escape(&wrong.to_string())
                ),
                format!(
                    " aria-invalid=\"true\" aria-describedby=\"{field}-error {field}-hint\" autofocus"
                ),
            ),
            None => (String::new(), format!(" aria-describedby=\"{field}-hint\"")),
        }
    };
    let (question_error, question) = of("question");
    let (options_error, options) = of("options");
    let (closes_error, closes) = of("closes");
    let main = format!(
        "<h1>New poll</h1><form method=\"post\" action=\"/polls\">\
         <label for=\"question\">Question</label>{question_error}\
         <p class=\"hint\" id=\"question-hint\">At most 200 characters.</p>\
         <input id=\"question\" name=\"question\" required maxlength=\"200\" autocomplete=\"off\" value=\"{}\"{question}>\
         <label for=\"options\">Options</label>{options_error}\
         <p class=\"hint\" id=\"options-hint\">2 to 20, each in a line of its own.</p>\
         <textarea id=\"options\" name=\"options\" required rows=\"6\"{options}>\n{}</textarea>\
         <label for=\"closes\">Closes</label>{closes_error}\
         <p class=\"hint\" id=\"closes-hint\">Optional. The time is in UTC.</p>\
         <input id=\"closes\" name=\"closes\" type=\"datetime-local\" value=\"{}\"{closes}>\
         <button>Create poll</button></form>",
        escape(&draft.question),
        escape(&draft.options.join("\n")),
        escape(&draft.closes),
    );
    let title = if wrong.is_some() {
        "Error: new poll"
    } else {
        "New poll"
    };
    page(title, &main)
}

/// The form for a vote, with what was wrong in the last one.
pub(crate) fn ballot<B: Ballot>(
    id: &str,
    poll: &Poll,
    chosen: &[u8],
    wrong: Option<&str>,
    now: Duration,
) -> Response {
    let question = escape(&poll.question);
    let mut main = format!(
        "<h1>{question}</h1><p class=\"meta\">{}</p>",
        state(poll, now)
    );
    if poll.is_closed(now) {
        let _ = write!(
            main,
            "<p>Votes are no longer accepted.</p><p><a class=\"button\" href=\"/polls/{id}/results\">Results</a></p>"
        );
        return page(&poll.question, &main);
    }
    if let Some(wrong) = wrong {
        let _ = write!(
            main,
            "<p class=\"error\" role=\"alert\">{}</p>",
            escape(wrong)
        );
    }
    let _ = write!(
        main,
        "<form method=\"post\" action=\"/polls/{id}/votes\">{}<button>{}</button></form>\
         <p><a href=\"/polls/{id}/results\">Results</a></p>",
        B::fields(poll, chosen),
        if chosen.is_empty() || wrong.is_some() {
            "Vote"
        } else {
            "Change vote"
        },
    );
    page(&poll.question, &main)
}

/// The result of a poll.
pub(crate) fn results(
    id: &str,
    poll: &Poll,
    chosen: &[u8],
    outcome: &Outcome,
    now: Duration,
    live: bool,
) -> Response {
    let closed = poll.is_closed(now);
    let mut main = format!(
        "<h1>{}</h1><p class=\"meta\">{} · {}</p><p class=\"winner\">{}</p>",
        escape(&poll.question),
        votes(outcome.votes()),
        state(poll, now),
        leading(poll, outcome, closed),
    );
    for (number, round) in (1..).zip(&outcome.rounds) {
        let Round { counts, exhausted } = round;
        let caption = if outcome.rounds.len() == 1 {
            "Votes".to_owned()
        } else {
            format!("Round {number}")
        };
        let _ = write!(main, "<section><h2>{caption}</h2>");
        bars(&mut main, &caption, poll, counts, &outcome.winners);
        if *exhausted > 0 {
            let _ = write!(
                main,
                "<p class=\"meta\">{} no remaining option.</p>",
                match exhausted {
                    1 => "1 vote ranks".to_owned(),
                    many => format!("{many} votes rank"),
                }
            );
        }
        main.push_str("</section>");
    }
    if outcome.rounds.len() > 1 {
        main.push_str(
            "<p class=\"meta\">The option with the fewest votes leaves after each round, until one has more than half. \
             Of several with the fewest, the one with fewer votes in earlier rounds leaves, then the one listed later.</p>",
        );
    }
    if !chosen.is_empty() {
        let names = chosen
            .iter()
            .filter_map(|option| poll.options.get(usize::from(*option)));
        let names: Vec<_> = names.map(|name| escape(name)).collect();
        let _ = write!(
            main,
            "<p>Your vote: <strong>{}</strong></p>",
            names.join(", then ")
        );
    }
    if closed {
        return page(&format!("Results: {}", poll.question), &main);
    }
    let _ = write!(
        main,
        "<p><a class=\"button\" href=\"/polls/{id}\">{}</a></p>",
        if chosen.is_empty() {
            "Vote"
        } else {
            "Change your vote"
        },
    );
    let path = format!("/polls/{id}/results");
    refreshed(main, &format!("Results: {}", poll.question), &path, live)
}

/// An error, with what to do.
pub(crate) fn error(error: Error) -> Response {
    let title = match error.status() {
        400 | 413 | 415 | 422 => "This request cannot be read",
        403 => "This is not allowed",
        404 => "Not found",
        405 => "This page cannot do that",
        409 => "This poll is closed",
        503 | 507 => "This does not work now",
        _ => "Something went wrong",
    };
    let message = match error.status() {
        500 => "Try again. If that fails, tell the people who run this service.".to_owned(),
        _ => escape(&sentence(&error.to_string())),
    };
    let main = format!(
        "<h1>{title}</h1><p>{message}</p><p><a class=\"button\" href=\"/\">All polls</a></p>"
    );
    let status = error.status();
    // Headers such as `allow` stay.
    let mut response = Response::from(error);
    response
        .headers
        .retain(|header| header.name != "content-type");
    let page = page(title, &main);
    response.headers.extend(page.headers);
    Response {
        status,
        headers: response.headers,
        body: page.body,
        discard: true,
    }
}

/// A message as a sentence. Those of the SDK are in lower case, without a full stop.
fn sentence(message: &str) -> String {
    let mut sentence = message.to_owned();
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if !sentence.ends_with('.') {
        sentence.push('.');
    }
    sentence
}

/// A page that refreshes itself, and can be told not to.
fn refreshed(mut main: String, title: &str, path: &str, live: bool) -> Response {
    if live {
        let _ = write!(
            main,
            "<p class=\"meta\">This page refreshes itself every {REFRESH} seconds. <a href=\"{path}?live=no\">Stop that</a></p>"
        );
        page(title, &main).header("refresh", REFRESH)
    } else {
        let _ = write!(
            main,
            "<p class=\"meta\">This page does not refresh itself. <a href=\"{path}\">Show live results</a></p>"
        );
        page(title, &main)
    }
}

fn older(main: &mut String, listing: &Listing, path: &str) {
    if let Some(next) = listing.next() {
        let _ = write!(main, "<p><a href=\"{path}?{next}\">Older polls</a></p>");
    }
}

/// Who is ahead or has won.
fn leading(poll: &Poll, outcome: &Outcome, closed: bool) -> String {
    let names = outcome.winners.iter();
    let names = names.filter_map(|option| poll.options.get(usize::from(*option)));
    let names: Vec<_> = names
        .map(|name| format!("<strong>{}</strong>", escape(name)))
        .collect();
    match (&names[..], closed) {
        ([], true) => "Nobody voted.".to_owned(),
        ([], false) => "Nobody has voted yet.".to_owned(),
        ([one], true) => format!("{one} won."),
        ([one], false) => format!("{one} is ahead."),
        (_, true) => format!("A draw between {}.", names.join(" and ")),
        (_, false) => format!("A draw so far between {}.", names.join(" and ")),
    }
}

/// The counts of all options as a table with bars.
fn bars(main: &mut String, caption: &str, poll: &Poll, counts: &[Option<u32>], winners: &[u8]) {
    let total: u32 = counts.iter().flatten().sum();
    let _ = write!(
        main,
        "<table><caption class=\"hidden\">{caption}</caption><thead class=\"hidden\"><tr><th scope=\"col\">Option</th>\
         <th scope=\"col\">Votes</th></tr></thead><tbody>"
    );
    for ((number, option), count) in (0..).zip(&poll.options).zip(counts) {
        let name = escape(option);
        let name = if winners.contains(&number) {
            format!("<strong>{name}</strong>")
        } else {
            name
        };
        let _ = match count {
            Some(count) => write!(
                main,
                "<tr><th scope=\"row\">{name}<svg class=\"bar\" aria-hidden=\"true\"><rect width=\"{}%\" \
                 height=\"100%\"/></svg></th><td>{count}</td></tr>",
                percent(*count, total)
            ),
            None => write!(
                main,
                "<tr class=\"out\"><th scope=\"row\">{name}</th><td>out</td></tr>"
            ),
        };
    }
    main.push_str("</tbody></table>");
}

fn percent(count: u32, total: u32) -> u64 {
    u64::from(count) * 100 / u64::from(total.max(1))
}

fn votes(count: u32) -> String {
    match count {
        1 => "1 vote".to_owned(),
        many => format!("{many} votes"),
    }
}

/// Whether a poll is open, and until when.
fn state(poll: &Poll, now: Duration) -> String {
    let Some(closes) = poll.closes else {
        return "open".to_owned();
    };
    let verb = if is_past(Some(closes), now) {
        "closed"
    } else {
        "closes"
    };
    format!(
        "{verb} <time datetime=\"{}\">{}</time>",
        time::rfc3339(Duration::from_millis(closes)),
        readable(closes)
    )
}
