//! The editor: signing in, the list of all articles, and writing them.

use std::time::Duration;

use ostrakon_guest::{Error, Request, Response, Result, html::escape, paths::encode, router::Call};

use crate::{
    Magazine,
    archive::{Archive, List},
    article::{Article, State},
    form::Typed,
    page::Page,
    reader::{before, pages, time, whole},
    session::{self, Session},
};

/// Articles on a page of the editor's list.
const PAGE_SIZE: usize = 50;

/// Later than all instants that fit an index of nanoseconds in 64 bits.
const END: Duration = Duration::from_nanos(u64::MAX);

impl Magazine {
    /// The answer to one who is not signed in, if only the editor may do this: everything below `/editor`. It is checked
    /// here, so that no endpoint can forget it.
    pub(crate) fn denied(&self, request: &Request) -> Option<Response> {
        // Decoded, as the router compares them.
        let path = request.segments().unwrap_or_default();
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        match path[..] {
            ["editor", "sign-in" | "sign-out"] => None,
            ["editor", _, ..] => self.denied_to_readers(request),
            _ => None,
        }
    }

    pub(crate) fn denied_to_readers(&self, request: &Request) -> Option<Response> {
        match Session::of(request) {
            Session::Editor => None,
            Session::Closed => Some(self.closed()),
            Session::Reader if request.method() == "POST" => Some(self.problem(
                403,
                "You are not signed in",
                "Nothing was stored. Sign in at /editor in another tab, then come back here, reload the page and send the \
                form again.",
            )),
            Session::Reader => Some(Response::see_other("/editor")),
        }
    }

    pub(crate) fn editor(&self, call: &Call<'_>) -> Result<Response> {
        match Session::of(call) {
            Session::Closed => return Ok(self.closed()),
            Session::Reader => return Ok(self.sign_in_page(None)),
            Session::Editor => {}
        }
        let end = before(call)?.unwrap_or(END);
        let page = Archive::new(call.store()).page(List::Edited, end, PAGE_SIZE)?;
        let rows: String = page
            .articles
            .iter()
            .map(|(slug, article)| row(slug, article, call.now()))
            .collect();
        let table = match rows.as_str() {
            "" => "<p>There are no articles yet.</p>\n".to_owned(),
            rows => format!(
                "<table>\n<thead><tr><th scope=\"col\">Article</th><th scope=\"col\">State</th>\
                <th scope=\"col\">Saved</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
            ),
        };
        let pages = pages(page.next, "Older articles", "/editor");
        let main = format!(
            "<h1>Editor</h1>\n<nav aria-label=\"Editor\" class=\"buttons\"><a href=\"/editor/articles\">New article</a> \
            <a href=\"/editor/images\">Images</a></nav>\n{table}{pages}\
            <form method=\"post\" action=\"/demo\"><button>Add the demo's articles</button></form>\n\
            <form method=\"post\" action=\"/editor/sign-out\"><button>Sign out</button></form>\n"
        );
        Ok(self.private(Page {
            title: "Editor",
            main,
        }))
    }

    pub(crate) fn sign_in(&self, call: &Call<'_>) -> Result<Response> {
        if Session::of(call) == Session::Closed {
            return Ok(self.closed());
        }
        let form = call.form()?;
        let given = form.get("token").unwrap_or_default();
        if let Some(cookie) = session::begin(given, call.now(), &self.site) {
            return Ok(Response::see_other("/editor").cookie(cookie));
        }
        ostrakon_guest::warn!("an editor was rejected: wrong token");
        Ok(self.sign_in_page(Some("This is not the editor's token.")))
    }

    pub(crate) fn sign_out(&self, _: &Call<'_>) -> Result<Response> {
        Ok(Response::see_other("/").cookie(session::end()))
    }

    pub(crate) fn new_article(&self, _: &Call<'_>) -> Result<Response> {
        let main = Typed::default().page(None, State::Draft, &[]);
        Ok(self.private(Page {
            title: "New article",
            main,
        }))
    }

    pub(crate) fn edit(&self, call: &Call<'_>) -> Result<Response> {
        let (slug, archive) = (call.param("slug"), Archive::new(call.store()));
        let article = archive.get(slug)?.ok_or_else(no_article)?;
        let state = article.state(call.now());
        let mut main = Typed::of(&article, archive.text(slug)?).page(Some(slug), state, &[]);
        main.push_str(&format!(
            "<p><a href=\"{}/preview\">Preview</a></p>\n",
            article_path(slug)
        ));
        Ok(self.private(Page {
            title: &article.title,
            main,
        }))
    }

    pub(crate) fn preview(&self, call: &Call<'_>) -> Result<Response> {
        let (slug, archive) = (call.param("slug"), Archive::new(call.store()));
        let article = archive.get(slug)?.ok_or_else(no_article)?;
        let mut main = whole(&article, &archive.text(slug)?, call.now());
        main.push_str(&format!(
            "<p><a href=\"{}\">Edit this article</a></p>\n",
            article_path(slug)
        ));
        let title = format!("Preview: {}", article.title);
        Ok(self.private(Page {
            title: &title,
            main,
        }))
    }

    pub(crate) fn create(&self, call: &Call<'_>) -> Result<Response> {
        self.store(call, None)
    }

    pub(crate) fn save(&self, call: &Call<'_>) -> Result<Response> {
        self.store(call, Some(call.param("slug")))
    }

    pub(crate) fn delete(&self, call: &Call<'_>) -> Result<Response> {
        if !Archive::new(call.store()).remove(call.param("slug"))? {
            return Err(no_article());
        }
        Ok(Response::see_other("/editor"))
    }

    /// Stores what was typed as a new article, or as a new revision of one.
    fn store(&self, call: &Call<'_>, slug: Option<&str>) -> Result<Response> {
        let (now, archive) = (call.now(), Archive::new(call.store()));
        let form = call.form()?;
        let typed = Typed::new(&form)?;
        let mut article = match slug {
            Some(slug) => archive.get(slug)?.ok_or_else(no_article)?,
            None => Article::draft(call.random_id()),
        };
        let state = article.state(now);
        let mut problems = typed.write_to(&mut article);
        if typed.revision != article.revision {
            let problem = "Someone else has saved this article meanwhile: copy your text, open the article again and \
                put your changes in.";
            problems.push(("title", problem.to_owned()));
        }
        match form.get("action") {
            Some("unpublish") => article.published = None,
            None | Some("save" | "publish") => {
                let is_publishing = form.get("action") == Some("publish");
                match typed.published_other_than(article.published) {
                    // A draft keeps no time: it is given when the draft is published.
                    Ok(Some(at)) if is_publishing || article.published.is_some() => {
                        article.published = Some(archive.free_instant(List::Dated, at));
                    }
                    Ok(_) if is_publishing && article.published.is_none() => {
                        article.published = Some(archive.free_instant(List::Dated, now));
                    }
                    Ok(_) => {}
                    Err(problem) => problems.push(problem),
                }
            }
            Some(_) => {
                return Err(Error::bad_request(
                    "the action is neither save, publish nor unpublish",
                ));
            }
        }
        if !problems.is_empty() {
            let main = typed.page(slug, state, &problems);
            let page = Page {
                title: "Nothing is stored yet",
                main,
            };
            return Ok(self.private(page).status(400).discard());
        }
        article.updated = archive.free_instant(List::Edited, now);
        article.revision += 1;
        let slug = match slug {
            Some(slug) => slug.to_owned(),
            None => archive.free_slug(&article.title)?,
        };
        archive.set(&slug, &article, &typed.text)?;
        Ok(Response::see_other("/editor"))
    }

    fn closed(&self) -> Response {
        self.problem(
            403,
            "The editor is closed",
            "The Secret has no key editor-token. Put one in, such as the output of: openssl rand -hex 32. Then open this page \
            again.",
        )
    }

    fn sign_in_page(&self, problem: Option<&str>) -> Response {
        let alert = problem.map_or_else(String::new, |problem| {
            format!("<p role=\"alert\" class=\"problem\" id=\"token-problem\">{problem}</p>\n")
        });
        let described = match problem {
            Some(_) => " aria-invalid=\"true\" aria-describedby=\"token-problem\"",
            None => "",
        };
        let main = format!(
            "<h1>Editor</h1>\n{alert}<form method=\"post\" action=\"/editor/sign-in\">\n\
            <input type=\"text\" name=\"name\" value=\"editor\" autocomplete=\"username\" hidden>\n<label for=\"token\">Token</label>\n\
            <input type=\"password\" id=\"token\" name=\"token\" required autocomplete=\"current-password\"{described}>\n\
            <button>Sign in</button>\n</form>\n"
        );
        let status = if problem.is_some() { 403 } else { 200 };
        self.private(Page {
            title: "Sign in",
            main,
        })
        .status(status)
    }
}

impl Article {
    /// A draft in which nothing is written yet.
    pub(crate) fn draft(id: String) -> Self {
        Self {
            id,
            title: String::new(),
            summary: String::new(),
            author: String::new(),
            tags: Vec::new(),
            picture: None,
            updated: Duration::ZERO,
            published: None,
            revision: 0,
        }
    }
}

fn row(slug: &str, article: &Article, now: Duration) -> String {
    let (edit, title) = (article_path(slug), escape(&article.title));
    let state = match article.state(now) {
        State::Draft => "draft".to_owned(),
        State::Scheduled(at) => format!("appears on {}", time(at)),
        State::Published(_) => format!(
            "<a href=\"{}\">published</a>",
            crate::reader::article_path(slug)
        ),
    };
    let saved = time(article.updated);
    format!("<tr><td><a href=\"{edit}\">{title}</a></td><td>{state}</td><td>{saved}</td></tr>\n")
}

/// The path at which an article is edited.
pub(crate) fn article_path(slug: &str) -> String {
    format!("/editor/articles/{}", encode(slug))
}

fn no_article() -> Error {
    Error::not_found("there is no such article")
}
