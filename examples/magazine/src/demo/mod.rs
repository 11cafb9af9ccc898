//! Some articles and pictures to begin with.
//!
//! A request writes one partition, and each picture is one. So the demo is a chain of requests: each stores a picture, if
//! it is not there yet, and redirects to the next (307 keeps the method), and the last one stores the articles, all
//! in one transaction. The pictures are there before articles show them, and a chain that breaks can be run again.

mod picture;

use std::time::Duration;

use ostrakon_guest::{Error, Response, Result, router::Call};

use crate::{
    Magazine,
    archive::{Archive, List},
    article::{Article, Picture, slug},
    image,
    session::Session,
};
use picture::{SCENES, png};

struct Demo {
    title: &'static str,
    summary: &'static str,
    author: &'static str,
    tags: &'static [&'static str],
    /// The name of a scene, and what it shows.
    picture: Option<(&'static str, &'static str)>,
    text: &'static str,
    /// How many days ago it was published; none for a draft.
    age: Option<u64>,
}

const DEMOS: [Demo; 6] = [
    Demo {
        title: "The patience of bread",
        summary: "Flour, water and salt are in the shop. The fourth ingredient is not.",
        author: "Ida Lind",
        tags: &["bread", "slow"],
        picture: Some(("bread", "A round loaf with three cuts on a wooden board")),
        text: include_str!("bread.md"),
        age: Some(0),
    },
    Demo {
        title: "Soup is a way of listening",
        summary: "No recipe, only an order: what is hard, what is firm, what is tender.",
        author: "Tomas Okoye",
        tags: &["soup", "vegetables"],
        picture: Some((
            "soup",
            "A red soup with green leaves in a white bowl, seen from above",
        )),
        text: include_str!("soup.md"),
        age: Some(3),
    },
    Demo {
        title: "Four tomatoes and a knife",
        summary: "The best meal of the week needs no flame.",
        author: "Ida Lind",
        tags: &["vegetables", "summer"],
        picture: Some(("tomatoes", "Four tomatoes on a blue cloth")),
        text: include_str!("tomatoes.md"),
        age: Some(8),
    },
    Demo {
        title: "Onions, three ways",
        summary: "One vegetable, three temperatures, three tastes.",
        author: "Mei Castell",
        tags: &["vegetables", "slow"],
        picture: Some(("onion", "Half an onion with its rings")),
        text: include_str!("onions.md"),
        age: Some(13),
    },
    Demo {
        title: "What the salt jar knows",
        summary: "Early, late, and how much.",
        author: "Tomas Okoye",
        tags: &["salt"],
        picture: None,
        text: include_str!("salt.md"),
        age: Some(21),
    },
    Demo {
        title: "A cupboard of pickles",
        summary: "",
        author: "",
        tags: &["slow"],
        picture: None,
        text: include_str!("pickles.md"),
        age: None,
    },
];

/// The partition of a demo's picture.
pub(crate) fn partition(scene: &str) -> Result<Vec<u8>> {
    if !SCENES.iter().any(|known| known.name == scene) {
        return Err(Error::not_found("the demo has no such picture"));
    }
    image::partition(&image_id(scene))
}

fn image_id(scene: &str) -> String {
    ["demo-", scene].concat()
}

impl Magazine {
    pub(crate) fn demo(&self, call: &Call<'_>) -> Result<Response> {
        self.with_demo(call, |_| Ok(next(&image_path(0))))
    }

    pub(crate) fn demo_image(&self, call: &Call<'_>) -> Result<Response> {
        self.with_demo(call, |call| {
            let name = call.param("name");
            let at = SCENES
                .iter()
                .position(|scene| scene.name == name)
                .unwrap_or_default();
            if call.store().get("about").is_none() {
                image::store(call, "image/png", &png(&SCENES[at]))?;
            }
            Ok(match at + 1 {
                last if last == SCENES.len() => next("/demo/articles"),
                at => next(&image_path(at)),
            })
        })
    }

    pub(crate) fn demo_articles(&self, call: &Call<'_>) -> Result<Response> {
        self.with_demo(call, |call| {
            let archive = Archive::new(call.store());
            let is_empty = archive
                .page(List::Edited, Duration::from_nanos(u64::MAX), 1)?
                .articles
                .is_empty();
            if !is_empty && Session::of(call) != Session::Editor {
                return Err(Error::new(
                    403,
                    "not_empty",
                    "the magazine has articles already: only its editor can add the demo's",
                ));
            }
            for demo in &DEMOS {
                demo.store(&archive, call)?;
            }
            Ok(Response::see_other("/"))
        })
    }

    /// Answers one who may fill the magazine with the demo: the editor, or anybody if the settings say so.
    fn with_demo(
        &self,
        call: &Call<'_>,
        answer: impl FnOnce(&Call<'_>) -> Result<Response>,
    ) -> Result<Response> {
        if !self.site.demo
            && let Some(page) = self.denied_to_readers(call)
        {
            return Ok(page);
        }
        answer(call)
    }
}

impl Demo {
    /// Stores the article unless it is there.
    fn store(&self, archive: &Archive, call: &Call<'_>) -> Result<()> {
        let slug = slug(self.title);
        if archive.get(&slug)?.is_some() {
            return Ok(());
        }
        let now = call.now();
        let published = self.age.map(|age| {
            let at = now.saturating_sub(Duration::from_hours(24 * age));
            archive.free_instant(List::Dated, at)
        });
        let article = Article {
            title: self.title.to_owned(),
            summary: self.summary.to_owned(),
            author: self.author.to_owned(),
            tags: self.tags.iter().map(|&tag| tag.to_owned()).collect(),
            picture: self.picture.map(|(scene, alt)| Picture {
                image: image_id(scene),
                alt: alt.to_owned(),
            }),
            updated: archive.free_instant(List::Edited, published.unwrap_or(now)),
            published,
            revision: 1,
            ..Article::draft(call.random_id())
        };
        archive.set(&slug, &article, self.text.trim_end())
    }
}

fn image_path(at: usize) -> String {
    format!("/demo/images/{}", SCENES[at].name)
}

/// Sends the same form to another path.
fn next(path: &str) -> Response {
    Response::new(307).header("location", path)
}
