//! The feed (Atom, RFC 4287).

use ostrakon_guest::{Response, Result, html::escape, router::Call, time::rfc3339};

use crate::{
    Magazine,
    archive::List,
    article::Article,
    page::fresh,
    reader::{article_path, visible},
};

/// Articles in the feed.
const SIZE: usize = 20;

impl Magazine {
    pub(crate) fn feed(&self, call: &Call<'_>) -> Result<Response> {
        let articles = visible(call, List::Dated, SIZE)?.articles;
        let base = escape(&self.site.base(call));
        let (title, tagline) = (escape(&self.site.title), escape(&self.site.tagline));
        let updated = articles.iter().map(|(_, article)| article.changed()).max();
        let updated = rfc3339(updated.unwrap_or_default());
        let entries: String = articles
            .iter()
            .map(|(slug, article)| entry(slug, article, &base))
            .collect();
        let feed = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\" xml:lang=\"en\">\n\
            <id>{base}/</id>\n<title>{title}</title>\n<subtitle>{tagline}</subtitle>\n<updated>{updated}</updated>\n\
            <author><name>{title}</name></author>\n<link rel=\"alternate\" type=\"text/html\" href=\"{base}/\"/>\n\
            <link rel=\"self\" type=\"application/atom+xml\" href=\"{base}/feed.atom\"/>\n{entries}</feed>\n"
        );
        Ok(fresh(call, "application/atom+xml; charset=utf-8", feed))
    }
}

fn entry(slug: &str, article: &Article, base: &str) -> String {
    let (path, title, summary) = (
        article_path(slug),
        escape(&article.title),
        escape(&article.summary),
    );
    let published = rfc3339(article.published.unwrap_or_default());
    let updated = rfc3339(article.changed());
    let author = match article.author.as_str() {
        "" => String::new(),
        author => format!("<author><name>{}</name></author>\n", escape(author)),
    };
    let tags = article.tags.iter();
    let tags: String = tags
        .map(|tag| format!("<category term=\"{}\"/>\n", escape(tag)))
        .collect();
    format!(
        "<entry>\n<id>{}</id>\n<title>{title}</title>\n<published>{published}</published>\n<updated>{updated}</updated>\n\
        <link rel=\"alternate\" type=\"text/html\" href=\"{base}{path}\"/>\n{author}{tags}<summary>{summary}</summary>\n\
        </entry>\n",
        urn(&article.id),
    )
}

/// An article's id as a URN (RFC 9562): it stays the same at another address and with another title.
fn urn(id: &str) -> String {
    let mut urn = "urn:uuid:".to_owned();
    for (at, digit) in id.chars().enumerate() {
        if [8, 12, 16, 20].contains(&at) {
            urn.push('-');
        }
        urn.push(digit);
    }
    urn
}
