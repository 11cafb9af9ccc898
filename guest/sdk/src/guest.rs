//! The trait that a guest implements.

use crate::{
    Description, Error, Migration, Part, Request, RequestHead, Response, Result, Route, Settings,
    sharding,
};

/// A stateful service's logic.
///
/// Each instance of the component has one value of the type. The host keeps several instances and may drop one at any
/// time, so the value is only a cache. Keep all data in the store.
pub trait Guest: Sized + 'static {
    /// Describes this guest, from its settings alone, even if [`Guest::new`] would reject them.
    fn describe(settings: Settings) -> Description;

    /// Creates the instance's value from the settings. It may use the settings and the log, and nothing else.
    ///
    /// # Errors
    /// A text for people that says what is wrong with the settings. The generation is refused with it, and the previous
    /// one keeps serving.
    fn new(settings: Settings) -> Result<Self, String>;

    /// The route of a request: its partition or shards, and whether it writes. Pure: the same for the same head, settings
    /// and [random bytes](RequestHead::random).
    fn route(&self, head: &RequestHead) -> Route;

    /// Answers a request.
    ///
    /// # Errors
    /// An error is sent as a response, too, but nothing that the request wrote is stored.
    fn handle(&self, request: &Request) -> Result<Response>;

    /// Checks whether this generation may serve, in addition to [`Guest::new`]. It can read secrets.
    ///
    /// # Errors
    /// A text for people, with which the generation is refused.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The ordinal, below `shards`, of the shard that owns a partition. Pure.
    ///
    /// The default is [`sharding::jump`]. If you change it, raise the number in [`Description::with_sharding`].
    fn owner(&self, partition: &[u8], shards: u32) -> u32 {
        sharding::jump(partition, shards)
    }

    /// Joins the responses of all shards, in the order of their ordinals, to a request routed
    /// [everywhere](Route::everywhere). The request's body is empty here, and there is no store.
    ///
    /// # Errors
    /// As in [`Guest::handle`]. The default always fails, because only the guest knows how to join responses.
    fn gather(&self, request: &Request, parts: Vec<Part>) -> Result<Response> {
        let _ = (request, parts);
        Err(Error::new(
            500,
            "no_gather",
            "this guest does not implement `gather`, which joins the shards' responses",
        ))
    }

    /// Converts the data of schema `from` to this guest's schema, in one transaction.
    ///
    /// # Errors
    /// A text for people. Nothing is stored, and the generation is refused. The default always fails.
    fn migrate(&self, from: u32, shard: &Migration) -> Result<(), String> {
        let _ = shard;
        Err([
            "this guest cannot migrate data of schema ",
            &from.to_string(),
        ]
        .concat())
    }
}
