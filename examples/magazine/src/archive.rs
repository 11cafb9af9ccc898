//! All articles: the partition `articles`.

use std::time::Duration;

use ostrakon_guest::{
    Result, Store,
    collections::{Indexed, Map},
};

use crate::article::{Article, slug};

/// The partition's key.
pub(crate) const PARTITION: &str = "articles";

/// A place in the index: which list, the tag of a list by tag, and the instant.
type Place = (u8, String, Duration);

/// A list of articles, each with the latest first.
#[derive(Clone, Copy)]
pub(crate) enum List<'a> {
    /// Of those with a time of publication.
    Dated,
    /// Of those with a time of publication and this tag.
    Tagged(&'a str),
    /// Of all, also drafts, by the last change.
    Edited,
}

impl List<'_> {
    fn at(self, instant: Duration) -> Place {
        match self {
            Self::Dated => (0, String::new(), instant),
            Self::Tagged(tag) => (1, tag.to_owned(), instant),
            Self::Edited => (2, String::new(), instant),
        }
    }
}

/// Some articles of a list, each with its slug.
pub(crate) struct Page {
    pub(crate) articles: Vec<(String, Article)>,
    /// Where the list goes on.
    pub(crate) next: Option<Duration>,
}

pub(crate) struct Archive(Store);

impl Archive {
    /// The archive in the request's partition, which must be [`PARTITION`].
    pub(crate) fn new(store: Store) -> Self {
        Self(store)
    }

    fn articles(&self) -> Indexed<String, Article, Place> {
        self.0.indexed("articles", |_, article: &Article| {
            let mut places = vec![List::Edited.at(article.updated)];
            if let Some(published) = article.published {
                places.push(List::Dated.at(published));
                let tags = article.tags.iter();
                places.extend(tags.map(|tag| List::Tagged(tag).at(published)));
            }
            places
        })
    }

    fn texts(&self) -> Map<String, String> {
        self.0.map("texts")
    }

    pub(crate) fn get(&self, slug: &str) -> Result<Option<Article>> {
        self.articles().get(slug)
    }

    pub(crate) fn text(&self, slug: &str) -> Result<String> {
        Ok(self.texts().get(slug)?.unwrap_or_default())
    }

    /// The articles of a list before an instant, at most `size`.
    pub(crate) fn page(&self, list: List<'_>, before: Duration, size: usize) -> Result<Page> {
        let articles = self.articles();
        let places = articles
            .index()
            .from(list.at(Duration::ZERO))
            .until(list.at(before))
            .reverse();
        let (mut page, mut next, mut last) = (Vec::new(), None, None);
        for place in places {
            let ((_, _, instant), slug) = place?;
            if page.len() == size {
                next = last;
                break;
            }
            last = Some(instant);
            if let Some(article) = articles.get(slug.as_str())? {
                page.push((slug, article));
            }
        }
        Ok(Page {
            articles: page,
            next,
        })
    }

    pub(crate) fn set(&self, slug: &str, article: &Article, text: &str) -> Result<()> {
        self.articles().set(slug, article)?;
        self.texts().set(slug, &text.to_owned())
    }

    pub(crate) fn remove(&self, slug: &str) -> Result<bool> {
        self.texts().remove(slug)?;
        self.articles().remove(slug)
    }

    /// The first instant, from this one on, that no article of the list has. So an instant says where a page begins.
    pub(crate) fn free_instant(&self, list: List<'_>, mut instant: Duration) -> Duration {
        let articles = self.articles();
        while articles.index().only(list.at(instant)).next().is_some() {
            instant += Duration::from_nanos(1);
        }
        instant
    }

    /// A slug for a title that no article has.
    pub(crate) fn free_slug(&self, title: &str) -> Result<String> {
        let wanted = slug(title);
        let (mut free, mut number) = (wanted.clone(), 1);
        while self.get(&free)?.is_some() {
            number += 1;
            free = format!("{wanted}-{number}");
        }
        Ok(free)
    }
}
