//! An article, without its text.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is stored of an article beside its text, which a list does not need.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Article {
    /// 32 hexadecimal digits, its identity in the feed for ever.
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) summary: String,
    pub(crate) author: String,
    /// Lower case, without duplicates.
    pub(crate) tags: Vec<String>,
    pub(crate) picture: Option<Picture>,
    /// When it was last saved.
    pub(crate) updated: Duration,
    /// From when on readers see it; none for a draft.
    pub(crate) published: Option<Duration>,
    /// Counts how often it was saved, so that one editor does not overwrite another's work unseen.
    pub(crate) revision: u64,
}

/// An image at the top of an article.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Picture {
    /// The image's id.
    pub(crate) image: String,
    /// What it shows, for those who do not see it.
    pub(crate) alt: String,
}

/// Who sees an article.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Draft,
    /// Readers see it from then on.
    Scheduled(Duration),
    Published(Duration),
}

impl Article {
    pub(crate) fn state(&self, now: Duration) -> State {
        match self.published {
            None => State::Draft,
            Some(from) if from > now => State::Scheduled(from),
            Some(from) => State::Published(from),
        }
    }

    /// When readers last saw something new in it.
    pub(crate) fn changed(&self) -> Duration {
        self.updated.max(self.published.unwrap_or_default())
    }
}

/// The last segment of an article's path, from its title.
pub(crate) fn slug(title: &str) -> String {
    let mut slug = String::new();
    for character in title.chars().flat_map(char::to_lowercase) {
        if slug.chars().count() == 60 {
            break;
        }
        if character.is_alphanumeric() {
            slug.push(character);
        } else if !matches!(character, '\'' | '’') && !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    match slug.trim_end_matches('-') {
        "" => "article".to_owned(),
        slug => slug.to_owned(),
    }
}

/// A date for people: `9 March 2026`.
pub(crate) fn date(time: Duration) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let text = ostrakon_guest::time::rfc3339(time);
    let mut parts = text.split(['-', 'T']);
    let (year, month, day) = (parts.next(), parts.next(), parts.next());
    let month = month
        .and_then(|month| month.parse::<usize>().ok())
        .unwrap_or(1);
    let day = day.unwrap_or_default().trim_start_matches('0');
    format!("{day} {} {}", MONTHS[month - 1], year.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_makes_a_slug() {
        for (title, expected) in [
            ("Bread, slowly", "bread-slowly"),
            ("  Don't stir!  ", "dont-stir"),
            ("Crème brûlée & co", "crème-brûlée-co"),
            ("日本の味", "日本の味"),
            ("../..?#", "article"),
            ("", "article"),
        ] {
            assert_eq!(slug(title), expected, "{title}");
        }
        assert_eq!(slug(&"a ".repeat(100)).len(), 59);
    }

    #[test]
    fn dates_are_for_people() {
        assert_eq!(date(Duration::from_hours(492_504)), "9 March 2026");
        assert_eq!(date(Duration::ZERO), "1 January 1970");
    }
}
