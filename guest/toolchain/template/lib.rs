//! Counts the visits of pages. Each page is a partition: a small ordered map of its own, kept by one shard.

use ostrakon_guest::{
    Description, Guest, Request, RequestHead, Response, Result, Route, Settings,
    router::{Call, Endpoint, Place, Router},
};

pub struct Service {
    greeting: String,
}

ostrakon_guest::export!(Service);

/// Where each request goes, and what answers it. An endpoint that writes runs alone on its shard, in one transaction.
const ROUTER: Router<Service> = Router::new(&[
    Endpoint::get("/", Place::Here, Service::greet),
    Endpoint::get("/visits/{page}", Place::Partition("page"), Service::show),
    Endpoint::post("/visits/{page}", Place::Partition("page"), Service::count),
]);

impl Service {
    fn greet(&self, _: &Call<'_>) -> Result<Response> {
        Ok(Response::text(format!("{}\n", self.greeting)))
    }

    fn show(&self, call: &Call<'_>) -> Result<Response> {
        Ok(Response::json(&visits(call)?))
    }

    fn count(&self, call: &Call<'_>) -> Result<Response> {
        let visits = visits(call)? + 1;
        call.store().set_json("visits", &visits)?;
        call.store().set_json("last", &call.now().as_secs())?;
        Ok(Response::json(&visits))
    }
}

fn visits(call: &Call<'_>) -> Result<u64> {
    Ok(call.store().get_json("visits")?.unwrap_or(0))
}

impl Guest for Service {
    fn describe(_: Settings) -> Description {
        Description::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    }

    /// The settings are the other keys of the ConfigMap: under `ostrakon dev` the files in `.ostrakon/{{name}}/settings`,
    /// such as `greeting`. When they change, the service is swapped. An error here refuses the new settings, and the old
    /// ones stay in force.
    fn new(settings: Settings) -> Result<Self, String> {
        let greeting = settings.text("greeting")?;
        Ok(Self {
            greeting: greeting.unwrap_or_else(|| "POST /visits/<page> counts a visit".to_owned()),
        })
    }

    fn route(&self, head: &RequestHead) -> Route {
        ROUTER.route(head)
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        ROUTER.handle(self, request)
    }
}
