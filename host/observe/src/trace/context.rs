//! The `traceparent` header of W3C Trace Context, level 1.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The flag that means that the caller records the trace.
const SAMPLED: u8 = 1;

/// The number of a trace, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// The number of a span within its trace, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

/// A position in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: TraceId,
    pub span: SpanId,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl Context {
    /// The context in a request's headers; `None` if the header is missing or violates the
    /// standard.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        // The common case first: a request without the header costs one look-up.
        let value = headers.get(TRACEPARENT)?;
        let mut all = headers.get_all(TRACEPARENT).iter();
        let is_alone = all.next().is_some() && all.next().is_none();
        is_alone.then(|| Self::parse(value.as_bytes())).flatten()
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (version, rest) = (hex(value.get(..2)?)?, value.get(2..)?);
        let (fields, more) = rest.split_at_checked(53)?;
        let is_whole = match version {
            0 => more.is_empty(),
            // The standard forbids this version.
            0xff => false,
            // Later versions may append fields.
            _ => more.is_empty() || more[0] == b'-',
        };
        let dashes = [fields[0], fields[33], fields[50]];
        let (trace, span) = (hex(&fields[1..33])?, hex(&fields[34..50])?);
        let flags = hex(&fields[51..53])?;
        let is_one = is_whole && dashes == [b'-'; 3] && trace != 0 && span != 0;
        is_one.then_some(Self {
            trace: TraceId(trace),
            span: SpanId(u64::try_from(span).ok()?),
            is_sampled: flags & u128::from(SAMPLED) != 0,
        })
    }

    /// The value of a `traceparent` header.
    pub(super) fn header(&self) -> HeaderValue {
        let Self { trace, span, .. } = self;
        let flags = if self.is_sampled { SAMPLED } else { 0 };
        let value = format!("00-{trace}-{span}-{flags:02x}");
        HeaderValue::try_from(value).expect("digits and dashes make a header")
    }
}

/// Parses a number of at most 32 lower-case digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}
