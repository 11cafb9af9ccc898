//! A table of a guest's paths, which `route`, `handle` and `gather` share.

use std::{fmt, ops::Deref};

use crate::{Access, Error, Part, Request, RequestHead, Response, Result, Route, Target, paths};

/// A guest's endpoints. The first one that matches a request's method and path answers it.
///
/// ```
/// use ostrakon_guest::{
///     Description, Guest, Request, RequestHead, Response, Result, Route, Settings,
///     router::{Call, Endpoint, Place, Router},
/// };
///
/// struct Notes;
///
/// const ROUTER: Router<Notes> = Router::new(&[
///     Endpoint::get("/notes/{name}", Place::Partition("name"), Notes::show),
///     Endpoint::put("/notes/{name}", Place::Partition("name"), Notes::keep),
/// ]);
///
/// impl Notes {
///     fn show(&self, call: &Call<'_>) -> Result<Response> {
///         Ok(Response::text(call.store().get_json::<String>("text")?.unwrap_or_default()))
///     }
///
///     fn keep(&self, call: &Call<'_>) -> Result<Response> {
///         call.store().set_json("text", &String::from_utf8_lossy(call.body()))?;
///         Ok(Response::text(call.param("name")))
///     }
/// }
///
/// impl Guest for Notes {
///     fn describe(_: Settings) -> Description { Description::new("notes", "1.0.0") }
///     fn new(_: Settings) -> Result<Self, String> { Ok(Self) }
///     fn route(&self, head: &RequestHead) -> Route { ROUTER.route(head) }
///     fn handle(&self, request: &Request) -> Result<Response> { ROUTER.handle(self, request) }
/// }
/// ```
///
/// A path that no endpoint has is answered with 404 `not_found`, and a method that no endpoint of the path has with 405
/// `method_not_allowed`. An endpoint for `GET` answers `HEAD`, too.
pub struct Router<G: 'static>(&'static [Endpoint<G>]);

/// What answers a request.
pub type Answer<G> = fn(&G, &Call<'_>) -> Result<Response>;

/// What joins the parts of all shards.
pub type Join<G> = fn(&G, &Call<'_>, Vec<Part>) -> Result<Response>;

/// A method, a path, the shard that answers there, and the function that does.
///
/// The path is a pattern of segments: `/polls/{poll}/votes` has a parameter, which is one segment that is not empty. A
/// last segment `{name...}` is the rest of the path, at least one segment.
pub struct Endpoint<G> {
    method: &'static str,
    pattern: &'static str,
    place: Place,
    access: Access,
    relaxed: bool,
    answer: Answer<G>,
    join: Option<Join<G>>,
}

/// Where a request is answered.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// By the owner of the partition that this parameter of the path names.
    Partition(&'static str),
    /// By the owner of the partition with this key, such as one from a cookie, or a new
    /// [`random_id`](RequestHead::random_id), which `handle` gets from [`Request::partition`].
    Key(fn(&RequestHead, &Params) -> Result<Vec<u8>>),
    /// By the shard that got the request.
    Here,
    /// By all shards; see [`Endpoint::joined`].
    Everywhere,
}

impl<G> fmt::Debug for Endpoint<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method,
            pattern,
            place,
            ..
        } = self;
        write!(formatter, "{method} {pattern}: {place:?}")
    }
}

impl<G> fmt::Debug for Router<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0).finish()
    }
}

impl<G> Endpoint<G> {
    /// An endpoint that reads.
    pub const fn get(pattern: &'static str, place: Place, answer: Answer<G>) -> Self {
        Self::new("GET", pattern, place, Access::Read, answer)
    }

    /// An endpoint that writes, for `POST`.
    pub const fn post(pattern: &'static str, place: Place, answer: Answer<G>) -> Self {
        Self::new("POST", pattern, place, Access::Write, answer)
    }

    /// An endpoint that writes, for `PUT`.
    pub const fn put(pattern: &'static str, place: Place, answer: Answer<G>) -> Self {
        Self::new("PUT", pattern, place, Access::Write, answer)
    }

    /// An endpoint that writes, for `DELETE`.
    pub const fn delete(pattern: &'static str, place: Place, answer: Answer<G>) -> Self {
        Self::new("DELETE", pattern, place, Access::Write, answer)
    }

    /// An endpoint for any method. Only an endpoint of a partition can write.
    pub const fn new(
        method: &'static str,
        pattern: &'static str,
        place: Place,
        access: Access,
        answer: Answer<G>,
    ) -> Self {
        Self {
            method,
            pattern,
            place,
            access,
            relaxed: false,
            answer,
            join: None,
        }
    }

    /// The same endpoint, which writes, with replies that leave before its writes are durable: see
    /// [`RequestHead::relax`].
    #[must_use]
    pub const fn relaxed(mut self) -> Self {
        self.relaxed = true;
        self
    }

    /// The same endpoint, with the function that joins the parts of all shards.
    #[must_use]
    pub const fn joined(mut self, join: Join<G>) -> Self {
        self.join = Some(join);
        self
    }

    fn takes(&self, method: &str) -> bool {
        self.method == method || (self.method == "GET" && method == "HEAD")
    }
}

/// The parameters of a path.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(&'static str, String)>);

impl Params {
    /// The decoded value of a parameter.
    ///
    /// # Panics
    /// If the endpoint's pattern has no such parameter.
    pub fn param(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| *known == name);
        let Some((_, value)) = found else {
            panic!("the endpoint's pattern has no such parameter")
        };
        value
    }

    /// The parameters of a path, if it fits a pattern.
    fn of(pattern: &'static str, segments: &[&str]) -> Option<Result<Self>> {
        let mut params = Vec::new();
        let mut segments = segments.iter();
        for part in pattern.strip_prefix('/').unwrap_or(pattern).split('/') {
            let name = part
                .strip_prefix('{')
                .and_then(|part| part.strip_suffix('}'));
            let rest = name.and_then(|name| name.strip_suffix("..."));
            let (name, value) = match (name, rest) {
                (None, _) => {
                    let segment = segments.next()?;
                    // A literal is compared with the decoded segment; malformed ones fit nothing.
                    if *segment != part && paths::decode(segment).ok()? != part {
                        return None;
                    }
                    continue;
                }
                (_, Some(rest)) => {
                    let left = segments.as_slice();
                    segments = [].iter();
                    (rest, left.join("/"))
                }
                (Some(name), None) => (name, (*segments.next()?).to_owned()),
            };
            if value.is_empty() {
                return None;
            }
            match paths::decode(&value) {
                Ok(value) => params.push((name, value)),
                Err(error) => return Some(Err(error.into())),
            }
        }
        let fits = segments.as_slice().is_empty();
        fits.then_some(Ok(Self(params)))
    }
}

/// A request at an endpoint: it has all methods of the request, and the parameters of its path.
#[derive(Debug)]
pub struct Call<'a> {
    request: &'a Request,
    params: Params,
}

impl Call<'_> {
    /// The decoded value of a parameter of the path.
    ///
    /// # Panics
    /// If the endpoint's pattern has no such parameter.
    pub fn param(&self, name: &str) -> &str {
        self.params.param(name)
    }
}

impl Deref for Call<'_> {
    type Target = Request;

    fn deref(&self) -> &Request {
        self.request
    }
}

impl<G> Router<G> {
    /// A router with these endpoints.
    pub const fn new(endpoints: &'static [Endpoint<G>]) -> Self {
        Self(endpoints)
    }

    /// The route of a request, for [`Guest::route`](crate::Guest::route). A request that fits no endpoint, or whose key
    /// cannot be found, goes to the shard that got it, where [`handle`](Self::handle) rejects it.
    pub fn route(&self, head: &RequestHead) -> Route {
        let Ok((endpoint, params)) = self.find(head) else {
            return Route::here();
        };
        let target = match endpoint.place {
            Place::Partition(name) => Target::Partition(params.param(name).into()),
            Place::Key(key) => match key(head, &params) {
                Ok(key) => Target::Partition(key),
                Err(_) => return Route::here(),
            },
            Place::Here => Target::Here,
            Place::Everywhere => Target::Everywhere,
        };
        if endpoint.relaxed {
            head.relax();
        }
        let access = endpoint.access;
        Route { target, access }
    }

    /// Answers a request, for [`Guest::handle`](crate::Guest::handle).
    ///
    /// # Errors
    /// 404, 405, 400 for a malformed path, and those of the endpoint.
    pub fn handle(&self, guest: &G, request: &Request) -> Result<Response> {
        let (endpoint, params) = self.find(request)?;
        if let Place::Key(key) = endpoint.place
            && request.partition().is_none()
        {
            // `route` found no key. The error says why.
            key(request, &params)?;
        }
        (endpoint.answer)(guest, &Call { request, params })
    }

    /// Joins the parts of all shards, for [`Guest::gather`](crate::Guest::gather).
    ///
    /// # Errors
    /// As for [`handle`](Self::handle).
    ///
    /// # Panics
    /// If the endpoint is everywhere and has no function that [joins](Endpoint::joined) the parts.
    pub fn gather(&self, guest: &G, request: &Request, parts: Vec<Part>) -> Result<Response> {
        let (endpoint, params) = self.find(request)?;
        let Some(join) = endpoint.join else {
            panic!("this endpoint has no function that joins the parts of all shards")
        };
        join(guest, &Call { request, params }, parts)
    }

    fn find(&self, head: &RequestHead) -> Result<(&'static Endpoint<G>, Params)> {
        let path = head.path();
        let segments: Vec<_> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        let mut allowed = Vec::new();
        for endpoint in self.0 {
            let Some(params) = Params::of(endpoint.pattern, &segments) else {
                continue;
            };
            if endpoint.takes(head.method()) {
                return Ok((endpoint, params?));
            }
            if endpoint.method == "GET" {
                allowed.push("HEAD");
            }
            allowed.push(endpoint.method);
        }
        if allowed.is_empty() {
            return Err(Error::not_found("this path does not exist"));
        }
        allowed.sort_unstable();
        allowed.dedup();
        Err(Error::method_not_allowed(&allowed.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    const ROUTER: Router<Nothing> = Router::new(&[
        Endpoint::get("/", Place::Here, |_, _| Ok(Response::text("root"))),
        Endpoint::get("/a/b", Place::Everywhere, |_, _| Ok(Response::text("b"))),
        Endpoint::get("/a/{name}", Place::Partition("name"), |_, call| {
            Ok(Response::text(call.param("name")))
        }),
        Endpoint::put("/a/{name}", Place::Partition("name"), |_, call| {
            Ok(Response::text(call.param("name")))
        }),
        Endpoint::get("/files/{name...}", Place::Partition("name"), |_, call| {
            Ok(Response::text(call.param("name")))
        }),
        Endpoint::post("/by-query", Place::Key(by_query), |_, _| {
            Ok(Response::new(204))
        }),
    ]);

    fn by_query(head: &RequestHead, _: &Params) -> Result<Vec<u8>> {
        let name = head.query("name")?;
        Ok(name.ok_or_else(|| Error::bad_request("no name"))?.into())
    }

    fn route(method: &str, path: &str) -> Route {
        ROUTER.route(&RequestHead::new(method, path))
    }

    fn error(method: &str, path: &str) -> (u16, Option<Vec<u8>>) {
        let request = Request::new(RequestHead::new(method, path), Vec::new());
        let response = Response::from(ROUTER.handle(&Nothing, &request).unwrap_err());
        let headers = response.headers.into_iter();
        let mut allow = headers.filter(|header| header.name == "allow");
        (response.status, allow.next().map(|header| header.value))
    }

    #[test]
    fn the_first_endpoint_that_fits_is_taken() {
        assert_eq!(route("GET", "/"), Route::here());
        assert_eq!(route("GET", "/a/b"), Route::everywhere());
        assert_eq!(route("PUT", "/a/b"), Route::write("b"));
        assert_eq!(route("HEAD", "/a/c%2Fd?x=/y"), Route::read("c/d"));
        assert_eq!(route("GET", "/files/a/b%2Fc"), Route::read("a/b/c"));
        assert_eq!(route("POST", "/by-query?name=d"), Route::write("d"));
        assert_eq!(route("GET", "/%61/c"), Route::read("c"));
    }

    #[test]
    fn what_fits_no_endpoint_is_rejected_where_it_came() {
        for (method, path, expected) in [
            ("GET", "/nowhere", (404, None)),
            ("GET", "/a", (404, None)),
            ("GET", "/a/", (404, None)),
            ("GET", "/a/b/c", (404, None)),
            ("GET", "/files", (404, None)),
            ("GET", "/a/%zz", (400, None)),
            ("DELETE", "/a/c", (405, Some(b"GET, HEAD, PUT".to_vec()))),
        ] {
            assert_eq!(route(method, path), Route::here(), "{method} {path}");
            assert_eq!(error(method, path), expected, "{method} {path}");
        }
        assert_eq!(route("POST", "/by-query"), Route::here());
    }
}
