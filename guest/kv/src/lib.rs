//! The key/value store: the reference guest.
//!
//! It has two APIs over the same data, in which each key is a partition: the course's (`/save`, `/load`, `/allKeys`)
//! and a conventional HTTP API (`/kv/<key>`, `/kv?prefix=&after=&limit=`, `/keys`). The files are in the order in which
//! a request needs them: `call` parses the request, `sharding` chooses the shard, `item` is the stored value,
//! `condition` checks preconditions, `part` holds one shard's keys, and `page` is the listing of all shards.

mod call;
mod condition;
mod item;
mod page;
mod part;
mod sharding;

use ostrakon_guest::{
    Description, Error, Guest, Part, Request, RequestHead, Response, Result, Route, Settings,
};

use call::{Call, Page};
use condition::Conditions;
use item::Item;
use sharding::Sharding;

pub struct Kv {
    sharding: Sharding,
}

ostrakon_guest::export!(Kv);

impl Guest for Kv {
    fn describe(settings: Settings) -> Description {
        let sharding = Sharding::from_settings(settings).unwrap_or_default();
        Description::new("kv", env!("CARGO_PKG_VERSION")).with_sharding(sharding.version())
    }

    fn new(settings: Settings) -> Result<Self, String> {
        Ok(Self {
            sharding: Sharding::from_settings(settings)?,
        })
    }

    fn owner(&self, partition: &[u8], shards: u32) -> u32 {
        self.sharding.owner(partition, shards)
    }

    fn route(&self, head: &RequestHead) -> Route {
        match Call::of(head) {
            Ok(Call::Save { key, .. } | Call::Put { key } | Call::Delete { key }) => {
                Route::write(key)
            }
            Ok(Call::Load { key } | Call::Get { key }) => Route::read(key),
            Ok(Call::List(_) | Call::Keys) => Route::everywhere(),
            // Any shard can report that a request is invalid.
            Ok(Call::AllKeys) | Err(_) => Route::here(),
        }
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        match Call::of(request)? {
            Call::Save { word, .. } => save(request, word),
            Call::Load { .. } => Ok(load(request)),
            Call::AllKeys => page::all(request.shard().partitions()),
            Call::Keys => Ok(part::of_shard(
                request,
                request.shard().partitions(),
                usize::MAX,
            )),
            Call::Get { .. } => get(request),
            Call::Put { .. } => put(request),
            Call::Delete { .. } => delete(request),
            Call::List(page) => {
                let partitions = page::partitions(&page, request);
                Ok(part::of_shard(request, partitions, page.limit as usize))
            }
        }
    }

    fn gather(&self, request: &Request, parts: Vec<Part>) -> Result<Response> {
        match Call::of(request)? {
            Call::List(Page { limit, .. }) => page::of_all(limit, &parts),
            Call::Keys => page::all_of_all(&parts),
            _ => Err(Error::bad_request("only a listing is asked of all shards")),
        }
    }
}

fn save(request: &Request, word: String) -> Result<Response> {
    Item::text(word.as_bytes()).store(request.store())?;
    Ok(Response::text(word))
}

fn load(request: &Request) -> Response {
    match Item::load(request.store()) {
        Some(item) => reply(item),
        None => Response::text("_key_not_found_"),
    }
}

fn reply(item: Item) -> Response {
    let (content_type, body) = item.into_parts();
    Response::bytes(content_type, body)
}

fn get(request: &Request) -> Result<Response> {
    let item = Item::load(request.store()).ok_or_else(key_not_found)?;
    let etag = item.etag();
    match Conditions::of(request)?.read(&etag)? {
        condition::Read::Unchanged => Ok(Response::new(304).header("etag", etag)),
        condition::Read::Whole => Ok(reply(item).header("etag", etag)),
    }
}

fn put(request: &Request) -> Result<Response> {
    let before = Item::load(request.store()).map(|item| item.etag());
    Conditions::of(request)?.write(before.as_deref())?;
    let content_type = request.header("content-type").into_iter().next();
    let item = Item::new(
        content_type
            .as_deref()
            .unwrap_or(b"application/octet-stream"),
        request.body(),
    )?;
    item.store(request.store())?;
    Ok(Response::new(if before.is_some() { 204 } else { 201 }).header("etag", item.etag()))
}

fn delete(request: &Request) -> Result<Response> {
    let item = Item::load(request.store()).ok_or_else(key_not_found)?;
    Conditions::of(request)?.write(Some(&item.etag()))?;
    Item::remove(request.store())?;
    Ok(Response::new(204))
}

fn key_not_found() -> Error {
    Error::new(404, "key_not_found", "there is no value under this key")
}
