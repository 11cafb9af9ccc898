//! Options for exporting spans. The environment variables are OpenTelemetry's own.

use ostrakon_observe::trace::Sampler;
use ostrakon_otlp::{BadEndpoint, Endpoint, Options, headers, pairs};

use super::{Exit, Failure};

/// The one supported protocol, by OpenTelemetry's name for it.
const PROTOCOL: &str = "http/protobuf";

/// The collector, and which spans it gets.
#[derive(Debug, clap::Args)]
pub(super) struct Exporting {
    /// Export traces to this collector, as `http://HOST:4318`; by OTLP, without TLS.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        value_parser = text
    )]
    otlp_endpoint: Option<String>,
    /// Headers for the collector, as name=value,name=value; sent to nobody else.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_HEADERS",
        value_name = "LIST",
        hide_env_values = true
    )]
    otlp_headers: Option<String>,
    /// The protocol; only this one is supported.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_PROTOCOL",
        value_name = "NAME",
        hide = true
    )]
    otlp_protocol: Option<String>,
    /// The name of this service in spans.
    #[arg(
        long,
        env = "OTEL_SERVICE_NAME",
        value_name = "NAME",
        default_value = "ostrakon"
    )]
    service_name: String,
    /// Further attributes of this process, as name=value,name=value.
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES", value_name = "LIST")]
    resource_attributes: Option<String>,
    /// Which traces are recorded: `always_on`, `always_off`, `traceidratio`, and each with
    /// `parentbased_`.
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER",
        value_name = "NAME",
        default_value = "parentbased_always_on"
    )]
    traces_sampler: String,
    /// The ratio for a sampler by ratio, from 0 to 1.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "RATIO")]
    traces_sampler_arg: Option<String>,
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "clap's value parsers return a `Result`"
)]
fn text(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.trim().to_owned())
}

impl Exporting {
    /// The options; `None` where there is no collector. The other variables are ignored then:
    /// an environment often sets them for all processes.
    pub(super) fn options(self) -> Result<Option<Options>, Failure> {
        let Some(endpoint) = self.otlp_endpoint.filter(|endpoint| !endpoint.is_empty()) else {
            return Ok(None);
        };
        let wrong = |name: &str, error: &dyn std::error::Error| {
            Failure::new(Exit::Usage, format!("{name}: {error}"))
        };
        let bad = |name| move |error: BadEndpoint| wrong(name, &error);
        let protocol = self.otlp_protocol.filter(|protocol| protocol != PROTOCOL);
        if let Some(other) = protocol.filter(|protocol| !protocol.is_empty()) {
            return Err(bad("OTEL_EXPORTER_OTLP_PROTOCOL")(BadEndpoint::Protocol(
                other,
            )));
        }
        let endpoint: Endpoint = endpoint.parse().map_err(bad("--otlp-endpoint"))?;
        let listed = self.otlp_headers.unwrap_or_default();
        let headers = headers(&listed).map_err(bad("--otlp-headers"))?;
        let listed = self.resource_attributes.unwrap_or_default();
        let attributes = pairs(&listed).map_err(bad("--resource-attributes"))?;
        let ratio = self.traces_sampler_arg.as_deref();
        let sampler = Sampler::new(
            &self.traces_sampler,
            ratio.filter(|ratio| !ratio.is_empty()),
        );
        Ok(Some(Options {
            endpoint,
            headers,
            service: self.service_name,
            attributes,
            sampler: sampler.map_err(|error| wrong("--traces-sampler", &error))?,
        }))
    }
}
