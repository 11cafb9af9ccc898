//! A food magazine: what a CMS, its database and its file store do, in one guest.
//!
//! | request | response |
//! | --- | --- |
//! | `GET /`, `/?before=<instant>` | the newest articles, page by page |
//! | `GET /tags/<tag>` | those with a tag |
//! | `GET /articles/<slug>` | an article |
//! | `GET /images/<id>` | an image |
//! | `GET /feed.atom` | the newest articles as an Atom feed |
//! | `/editor...` | the editor: articles, drafts, images |
//! | `POST /demo` | some articles and images to begin with |
//!
//! All articles are in one partition, together with their indexes. Each image is a partition of its own.

#![expect(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "the parts of a page read better as templates"
)]
#![expect(
    clippy::unnecessary_wraps,
    clippy::unused_self,
    reason = "all endpoints have the same type"
)]

mod site;
mod article;
mod archive;
mod markup;
mod session;
mod page;
mod reader;
mod feed;
mod editor;
mod form;
mod image;
mod demo;

use ostrakon_guest::{
    Access, Description, Guest, Part, Request, RequestHead, Response, Result, Route, Settings,
    router::{Call, Endpoint, Place, Router},
};

use site::Site;

/// The guest.
pub struct Magazine {
    site: Site,
}

ostrakon_guest::export!(Magazine);

/// The partition of all articles.
const ARTICLES: Place = Place::Key(|_, _| Ok(archive::PARTITION.into()));
const IMAGE: Place = Place::Key(|_, params| image::partition(params.param("id")));
const NEW_IMAGE: Place = Place::Key(|head, _| image::partition(&head.random_id()));
const DEMO_IMAGE: Place = Place::Key(|_, params| demo::partition(params.param("name")));

const ROUTER: Router<Magazine> = Router::new(&[
    Endpoint::get("/", ARTICLES, Magazine::front),
    Endpoint::get("/tags/{tag}", ARTICLES, Magazine::tag),
    Endpoint::get("/articles/{slug}", ARTICLES, Magazine::article),
    Endpoint::get("/feed.atom", ARTICLES, Magazine::feed),
    Endpoint::get("/images/{id}", IMAGE, Magazine::image),
    Endpoint::get("/editor", ARTICLES, Magazine::editor),
    // Signing in and out store nothing: a session is a signed cookie.
    here("/editor/sign-in", Magazine::sign_in),
    here("/editor/sign-out", Magazine::sign_out),
    Endpoint::get("/editor/articles", ARTICLES, Magazine::new_article),
    Endpoint::post("/editor/articles", ARTICLES, Magazine::create),
    Endpoint::get("/editor/articles/{slug}", ARTICLES, Magazine::edit),
    Endpoint::post("/editor/articles/{slug}", ARTICLES, Magazine::save),
    Endpoint::get(
        "/editor/articles/{slug}/preview",
        ARTICLES,
        Magazine::preview,
    ),
    Endpoint::post("/editor/articles/{slug}/delete", ARTICLES, Magazine::delete),
    Endpoint::get("/editor/images", Place::Everywhere, Magazine::images_here)
        .joined(Magazine::images),
    Endpoint::post("/editor/images", NEW_IMAGE, Magazine::upload),
    Endpoint::get("/editor/images/{id}", IMAGE, Magazine::uploaded),
    Endpoint::post("/editor/images/{id}/delete", IMAGE, Magazine::delete_image),
    here("/demo", Magazine::demo),
    Endpoint::post("/demo/images/{name}", DEMO_IMAGE, Magazine::demo_image),
    Endpoint::post("/demo/articles", ARTICLES, Magazine::demo_articles),
]);

/// An endpoint for a form that needs no data.
const fn here(
    pattern: &'static str,
    answer: fn(&Magazine, &Call<'_>) -> Result<Response>,
) -> Endpoint<Magazine> {
    Endpoint::new("POST", pattern, Place::Here, Access::Read, answer)
}

impl Guest for Magazine {
    fn describe(_: Settings) -> Description {
        Description::new("magazine", env!("CARGO_PKG_VERSION"))
    }

    fn new(settings: Settings) -> Result<Self, String> {
        let site = Site::new(settings)?;
        Ok(Self { site })
    }

    fn route(&self, head: &RequestHead) -> Route {
        ROUTER.route(head)
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        let answer = self.reject_other_sites(request);
        let answer = answer.and_then(|()| match self.denied(request) {
            None => ROUTER.handle(self, request),
            Some(page) => Ok(page),
        });
        Ok(self.finished(answer))
    }

    fn gather(&self, request: &Request, parts: Vec<Part>) -> Result<Response> {
        let answer = match self.denied(request) {
            None => ROUTER.gather(self, request, parts),
            Some(page) => Ok(page),
        };
        Ok(self.finished(answer))
    }
}
