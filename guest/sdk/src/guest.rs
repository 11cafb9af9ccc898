//! The trait that a guest implements.

use crate::{
    Description, Error, Migration, Part, Request, RequestLine, Response, Result, Route, Settings,
    sharding,
};

/// A stateful service's logic.
///
/// One value of the type lives in each instance of the component. The host keeps several instances and drops one
/// whenever it likes, so what is in the value is a cache, never truth.
pub trait Guest: Sized + 'static {
    /// Says what this guest is, from its settings alone, also where [`Guest::new`] would refuse them.
    fn describe(settings: Settings) -> Description;

    /// Makes the instance's value from the settings; may use nothing else but the log.
    ///
    /// # Errors
    /// A text for people on what is wrong with the settings: the generation is refused with it and the one before
    /// goes on.
    fn new(settings: Settings) -> Result<Self, String>;

    /// What a request is: whom it belongs to and whether it writes. Pure.
    fn route(&self, line: &RequestLine) -> Route;

    /// Answers a request.
    ///
    /// # Errors
    /// An error is a reply, too, but with it nothing that the request wrote is stored.
    fn handle(&self, request: &Request) -> Result<Response>;

    /// Whether this generation may serve, beyond what [`Guest::new`] has found; secrets can be looked at here.
    ///
    /// # Errors
    /// A text for people: the generation is refused with it.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The ordinal, below `shards`, of the shard that owns a partition. Pure.
    ///
    /// By default [`sharding::jump`]. A guest that changes it gives [`Description::with_sharding`] a new number.
    fn owner(&self, partition: &[u8], shards: u32) -> u32 {
        sharding::jump(partition, shards)
    }

    /// Joins the answers of all shards, in the order of their ordinals, to a request routed
    /// [everywhere](Route::everywhere). The request's body is empty here, and there is no store.
    ///
    /// # Errors
    /// As in [`Guest::handle`]. By default always: how answers are joined is for the guest to say.
    fn gather(&self, request: &Request, parts: Vec<Part>) -> Result<Response> {
        let _ = (request, parts);
        Err(Error::new(
            500,
            "no_gather",
            "this guest does not say how to join the shards' answers",
        ))
    }

    /// Turns the data of schema `from` into this guest's, in one transaction.
    ///
    /// # Errors
    /// A text for people: nothing is stored and the generation is refused. By default always.
    fn migrate(&self, from: u32, shard: &Migration) -> Result<(), String> {
        let _ = shard;
        Err([
            "this guest cannot migrate data of schema ",
            &from.to_string(),
        ]
        .concat())
    }
}
