//! What readers see: lists of articles, and an article.

use std::time::Duration;

use ostrakon_guest::{
    Error, Response, Result, html::escape, paths::encode, router::Call, time::rfc3339,
};

use crate::{
    Magazine,
    archive::{self, Archive, List},
    article::{Article, Picture, State, date},
    markup,
    page::Page,
};

impl Magazine {
    pub(crate) fn front(&self, call: &Call<'_>) -> Result<Response> {
        let page = visible(call, List::Dated, self.site.page_size)?;
        let is_first = call.query("before")?.is_none();
        let mut main = String::new();
        if page.articles.is_empty() {
            main.push_str("<p>There are no articles here yet.</p>\n");
            if self.site.demo && is_first {
                main.push_str(
                    "<form method=\"post\" action=\"/demo\"><button>Fill the magazine with a demo</button></form>\n",
                );
            }
        }
        main.push_str(&list(&page, "/"));
        let title = if is_first { "" } else { "Older articles" };
        if !is_first {
            main.insert_str(0, "<h1>Older articles</h1>\n");
        }
        Ok(self.public(call, Page { title, main }))
    }

    pub(crate) fn tag(&self, call: &Call<'_>) -> Result<Response> {
        let tag = call.param("tag");
        let page = visible(call, List::Tagged(tag), self.site.page_size)?;
        if page.articles.is_empty() {
            return Err(Error::not_found("no article has this tag"));
        }
        let title = format!("Articles about {tag}");
        let articles = list(&page, &tag_path(tag));
        let main = format!("<h1>{}</h1>\n{articles}", escape(&title));
        Ok(self.public(
            call,
            Page {
                title: &title,
                main,
            },
        ))
    }

    pub(crate) fn article(&self, call: &Call<'_>) -> Result<Response> {
        let (slug, archive) = (call.param("slug"), Archive::new(call.store()));
        let article = archive.get(slug)?;
        let article =
            article.filter(|article| matches!(article.state(call.now()), State::Published(_)));
        let article = article.ok_or_else(|| Error::not_found("there is no such article"))?;
        let main = whole(&article, &archive.text(slug)?, call.now());
        Ok(self.public(
            call,
            Page {
                title: &article.title,
                main,
            },
        ))
    }
}

/// The articles of a list that readers see, from the one on that the query names. Those with a time of publication that
/// is still to come are beyond `now` in the list.
pub(crate) fn visible(call: &Call<'_>, list: List<'_>, size: usize) -> Result<archive::Page> {
    let end = call.now() + Duration::from_nanos(1);
    Archive::new(call.store()).page(list, before(call)?.unwrap_or(end).min(end), size)
}

/// Where the list of this page begins, by the query.
pub(crate) fn before(call: &Call<'_>) -> Result<Option<Duration>> {
    let Some(before) = call.query("before")? else {
        return Ok(None);
    };
    let before = before.parse().map(Duration::from_nanos);
    let message = "this is no page of the list: begin at its first page";
    before.map(Some).map_err(|_| Error::bad_request(message))
}

/// The link to the next page of a list.
pub(crate) fn pages(next: Option<Duration>, label: &str, path: &str) -> String {
    next.map_or_else(String::new, |next| {
        let next = next.as_nanos();
        format!(
            "<nav aria-label=\"Pages\"><a rel=\"next\" href=\"{path}?before={next}\">{label}</a></nav>
"
        )
    })
}

/// An article as its page shows it.
pub(crate) fn whole(article: &Article, text: &str, now: Duration) -> String {
    let title = escape(&article.title);
    let summary = summary(article);
    let picture = picture(article.picture.as_ref());
    let (about, text) = (about(article, now), markup::html(text));
    format!("<article>\n<h1>{title}</h1>\n{summary}{about}{picture}{text}</article>\n")
}

fn list(page: &archive::Page, path: &str) -> String {
    let mut html = String::new();
    for (slug, article) in &page.articles {
        let (path, title) = (article_path(slug), escape(&article.title));
        let (summary, about) = (summary(article), about(article, Duration::MAX));
        let picture = picture(article.picture.as_ref());
        html.push_str(&format!(
            "<article class=\"teaser\">\n{picture}<h2><a href=\"{path}\">{title}</a></h2>\n{summary}{about}\
            </article>\n"
        ));
    }
    html.push_str(&pages(page.next, "Older articles", path));
    html
}

fn summary(article: &Article) -> String {
    match article.summary.as_str() {
        "" => String::new(),
        summary => format!("<p class=\"summary\">{}</p>\n", escape(summary)),
    }
}

/// When and by whom an article was written, and its tags.
fn about(article: &Article, now: Duration) -> String {
    let mut parts = Vec::new();
    parts.push(match article.state(now) {
        State::Draft => "<strong>Draft</strong>".to_owned(),
        State::Scheduled(at) => format!("<strong>Appears on {}</strong>", time(at)),
        State::Published(at) => time(at),
    });
    if !article.author.is_empty() {
        parts.push(format!("by {}", escape(&article.author)));
    }
    let tags = article.tags.iter();
    parts.extend(tags.map(|tag| format!("<a href=\"{}\">{}</a>", tag_path(tag), escape(tag))));
    format!("<p class=\"about\">{}</p>\n", parts.join(" · "))
}

pub(crate) fn time(at: Duration) -> String {
    format!("<time datetime=\"{}\">{}</time>", rfc3339(at), date(at))
}

fn picture(picture: Option<&Picture>) -> String {
    picture.map_or_else(String::new, |Picture { image, alt }| {
        format!(
            "<img src=\"/images/{}\" alt=\"{}\">\n",
            escape(image),
            escape(alt)
        )
    })
}

pub(crate) fn article_path(slug: &str) -> String {
    format!("/articles/{}", encode(slug))
}

fn tag_path(tag: &str) -> String {
    format!("/tags/{}", encode(tag))
}
