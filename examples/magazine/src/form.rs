//! The form with which an article is written: its fields, what is wrong with them, and its page.

use std::time::Duration;

use ostrakon_guest::{Result, forms::Form, html::escape, time};

use crate::{
    article::{Article, Picture, State},
    image::is_id,
};

/// The most bytes of an article's text: 16 MiB hold some 250 such articles, and thousands of usual ones.
const MAX_TEXT: usize = 64 << 10;
const MAX_TAGS: usize = 10;
/// The begin of 2100. Pages of lists begin at instants of 64 bits, which end in 2554.
const LATEST: Duration = Duration::from_hours(1_139_568);

/// What an editor typed. Only tidied up, so that a form that is rejected shows it again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Typed {
    pub(crate) title: String,
    summary: String,
    author: String,
    tags: String,
    picture: String,
    alt: String,
    pub(crate) text: String,
    published: String,
    /// Of the article that the editor has changed; 0 for a new one.
    pub(crate) revision: u64,
}

/// A field, and what is wrong with it.
pub(crate) type Problem = (&'static str, String);

impl Typed {
    pub(crate) fn new(form: &Form) -> Result<Self> {
        let line = |name| tidy(form.get(name).unwrap_or_default(), false);
        Ok(Self {
            title: line("title"),
            summary: line("summary"),
            author: line("author"),
            tags: line("tags"),
            picture: line("picture"),
            alt: line("alt"),
            text: tidy(form.get("text").unwrap_or_default(), true),
            published: line("published"),
            revision: form.parsed("revision")?.unwrap_or(0),
        })
    }

    /// What the form of an article shows first.
    pub(crate) fn of(article: &Article, text: String) -> Self {
        let picture = article.picture.clone();
        let (picture, alt) = picture
            .map(|picture| (picture.image, picture.alt))
            .unwrap_or_default();
        Self {
            title: article.title.clone(),
            summary: article.summary.clone(),
            author: article.author.clone(),
            tags: article.tags.join(", "),
            picture,
            alt,
            text,
            published: article.published.map(minute).unwrap_or_default(),
            revision: article.revision,
        }
    }

    /// Takes over everything but the time of publication and the revision.
    pub(crate) fn write_to(&self, article: &mut Article) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, text, least, most) in [
            ("title", &self.title, 1, 150),
            ("summary", &self.summary, 0, 500),
            ("author", &self.author, 0, 100),
            ("alt", &self.alt, 0, 300),
        ] {
            let length = text.chars().count();
            if length < least {
                problems.push((name, "Write something here.".to_owned()));
            } else if length > most {
                problems.push((
                    name,
                    format!("Write at most {most} characters: these are {length}."),
                ));
            }
        }
        if self.text.len() > MAX_TEXT {
            let problem = format!(
                "Write at most {MAX_TEXT} bytes: these are {}.",
                self.text.len()
            );
            problems.push(("text", problem));
        }
        article.title.clone_from(&self.title);
        article.summary.clone_from(&self.summary);
        article.author.clone_from(&self.author);
        match tags(&self.tags) {
            Ok(tags) => article.tags = tags,
            Err(problem) => problems.push(("tags", problem)),
        }
        match picture(&self.picture, &self.alt) {
            Ok(picture) => article.picture = picture,
            Err(problem) => problems.push(problem),
        }
        problems
    }

    /// The instant that the editor typed, if it is another minute than this one.
    pub(crate) fn published_other_than(
        &self,
        now: Option<Duration>,
    ) -> Result<Option<Duration>, Problem> {
        if self.published.is_empty() || now.map(minute).as_ref() == Some(&self.published) {
            return Ok(None);
        }
        let at = time::parse(&self.published).filter(|at| *at < LATEST);
        at.map(Some).ok_or_else(|| {
            (
                "published",
                "Write a date and time as in 2026-03-09T18:00, before the year 2100.".to_owned(),
            )
        })
    }

    /// The form's page.
    pub(crate) fn page(&self, slug: Option<&str>, state: State, problems: &[Problem]) -> String {
        let (heading, action) = match slug {
            None => ("New article", "/editor/articles".to_owned()),
            Some(slug) => ("Edit article", crate::editor::article_path(slug)),
        };
        let mut html = format!("<h1>{heading}</h1>\n{}", summary(problems));
        html.push_str(&format!("<form method=\"post\" action=\"{action}\">\n"));
        html.push_str(&format!(
            "<input type=\"hidden\" name=\"revision\" value=\"{}\">\n",
            self.revision
        ));
        for (name, label, hint, value) in [
            ("title", "Title", "", &self.title),
            (
                "summary",
                "Summary",
                "For lists and the feed",
                &self.summary,
            ),
            ("author", "Author", "", &self.author),
            ("tags", "Tags", "With commas between them", &self.tags),
            (
                "picture",
                "Picture",
                "The id of an image, which its page shows",
                &self.picture,
            ),
            (
                "alt",
                "What the picture shows",
                "For those who do not see it",
                &self.alt,
            ),
        ] {
            let required = if name == "title" { " required" } else { "" };
            html.push_str(&field(name, label, hint, problems, |attributes| {
                format!(
                    "<input name=\"{name}\" value=\"{}\"{attributes}{required}>\n",
                    escape(value)
                )
            }));
        }
        let hint = "# heading, *emphasis*, **strong**, [link](/articles/other), ![image](/images/id), - item, 1. item";
        html.push_str(&field("text", "Text", hint, problems, |attributes| {
            // Browsers leave out a line break at the beginning.
            format!(
                "<textarea name=\"text\" rows=\"20\"{attributes}>\n{}</textarea>\n",
                escape(&self.text)
            )
        }));
        let hint = "In UTC, from when you publish on. Empty: at once";
        html.push_str(&field("published", "Time of publication", hint, problems, |attributes| {
            let value = escape(&self.published);
            format!("<input type=\"datetime-local\" name=\"published\" value=\"{value}\"{attributes}>\n")
        }));
        html.push_str(match state {
            State::Draft => {
                "<p class=\"buttons\"><button name=\"action\" value=\"save\">Save draft</button>\n\
                <button name=\"action\" value=\"publish\">Publish</button></p>\n</form>\n"
            }
            State::Scheduled(_) | State::Published(_) => {
                "<p class=\"buttons\"><button name=\"action\" value=\"save\">Save</button>\n\
                <button name=\"action\" value=\"unpublish\">Unpublish</button></p>\n</form>\n"
            }
        });
        if slug.is_some() {
            html.push_str(&format!(
                "<details><summary>Delete this article</summary>\n<form method=\"post\" action=\"{action}/delete\">\n\
                <p>It cannot be brought back.</p>\n<button class=\"danger\">Delete</button>\n</form></details>\n"
            ));
        }
        html
    }
}

/// What is wrong, above the form.
fn summary(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let items = problems
        .iter()
        .map(|(name, problem)| format!("<li><a href=\"#{name}\">{}</a></li>\n", escape(problem)));
    let items: String = items.collect();
    format!(
        "<div role=\"alert\" class=\"problem\"><p>Nothing is stored yet:</p>\n<ul>\n{items}</ul></div>\n"
    )
}

/// A field with its label, its hint and what is wrong with it.
fn field(
    name: &str,
    label: &str,
    hint: &str,
    problems: &[Problem],
    input: impl FnOnce(&str) -> String,
) -> String {
    let problem = problems.iter().find(|(field, _)| *field == name);
    let (mut notes, mut described) = (String::new(), Vec::new());
    if !hint.is_empty() {
        notes.push_str(&format!(
            "<p class=\"hint\" id=\"{name}-hint\">{}</p>\n",
            escape(hint)
        ));
        described.push(format!("{name}-hint"));
    }
    if let Some((_, problem)) = problem {
        notes.push_str(&format!(
            "<p class=\"problem\" id=\"{name}-problem\">{}</p>\n",
            escape(problem)
        ));
        described.push(format!("{name}-problem"));
    }
    let mut attributes = format!(" id=\"{name}\"");
    if !described.is_empty() {
        attributes.push_str(&format!(" aria-describedby=\"{}\"", described.join(" ")));
    }
    if problem.is_some() {
        attributes.push_str(" aria-invalid=\"true\"");
    }
    format!(
        "<label for=\"{name}\">{label}</label>\n{notes}{}",
        input(&attributes)
    )
}

/// A text without control characters and what XML cannot hold, with `\n` between its lines.
fn tidy(text: &str, has_lines: bool) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let characters = text.chars().filter_map(|character| match character {
        '\n' if has_lines => Some('\n'),
        '\n' | '\t' => Some(' '),
        '\u{fffe}' | '\u{ffff}' => None,
        character => (!character.is_control()).then_some(character),
    });
    let text: String = characters.collect();
    if has_lines {
        text.trim_end().to_owned()
    } else {
        text.trim().to_owned()
    }
}

fn tags(typed: &str) -> Result<Vec<String>, String> {
    let mut tags: Vec<String> = Vec::new();
    for tag in typed.split(',') {
        let tag = tag.trim().to_lowercase();
        if tag.chars().count() > 40 {
            return Err("Use at most 40 characters for a tag.".to_owned());
        }
        if !tag.is_empty() && !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    if tags.len() > MAX_TAGS {
        return Err(format!("Use at most {MAX_TAGS} tags."));
    }
    Ok(tags)
}

fn picture(typed: &str, alt: &str) -> Result<Option<Picture>, Problem> {
    if typed.is_empty() {
        return Ok(None);
    }
    let image = typed.rsplit('/').next().unwrap_or_default();
    if !is_id(image) {
        return Err((
            "picture",
            "This is no image's id: copy it from the image's page.".to_owned(),
        ));
    }
    if alt.is_empty() {
        return Err(("alt", "Say what the picture shows.".to_owned()));
    }
    Ok(Some(Picture {
        image: image.to_owned(),
        alt: alt.to_owned(),
    }))
}

/// A time as the field has it: `2026-03-09T18:00`.
fn minute(at: Duration) -> String {
    let mut text = time::rfc3339(at);
    text.truncate("2026-03-09T18:00".len());
    text
}
