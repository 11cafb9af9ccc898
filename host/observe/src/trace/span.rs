//! Spans: what took how long, within what.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::context::{Context, SpanId};
use super::{Inner, MOST};

/// Which side of a call a span is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Neither: it is within the shard.
    Internal,
    /// The shard is asked.
    Server,
    /// The shard asks another.
    Client,
}

/// What is said of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its trace and its own number.
    pub context: Context,
    /// The span that it is within.
    pub parent: Option<SpanId>,
    /// What was done.
    pub name: Cow<'static, str>,
    /// Which side it is of.
    pub kind: Kind,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What is said of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub failed: Option<String>,
}

/// A span that is under way: it ends when this is dropped.
#[derive(Debug)]
pub struct Open {
    inner: Arc<Inner>,
    /// Some until it is dropped.
    span: Option<Span>,
    began: Instant,
}

impl Open {
    /// Begins a span within that of a request, then.
    pub(super) fn begin(inner: Arc<Inner>, name: &'static str, kind: Kind, began: Instant) -> Self {
        let context = Context {
            span: SpanId(fastrand::u64(1..)),
            ..inner.context
        };
        let parent = Some(inner.context.span);
        Self::new(inner, context, parent, name, kind, began)
    }

    /// Begins the span of a request itself, within that of whoever asked.
    pub(super) fn root(inner: Arc<Inner>, parent: Option<SpanId>, name: &'static str) -> Self {
        let context = inner.context;
        Self::new(inner, context, parent, name, Kind::Server, Instant::now())
    }

    fn new(
        inner: Arc<Inner>,
        context: Context,
        parent: Option<SpanId>,
        name: &'static str,
        kind: Kind,
        began: Instant,
    ) -> Self {
        let span = Span {
            context,
            parent,
            name: Cow::Borrowed(name),
            kind,
            began: SystemTime::now() - began.elapsed(),
            took: Duration::ZERO,
            attributes: Vec::new(),
            failed: None,
        };
        Self {
            inner,
            span: Some(span),
            began,
        }
    }

    pub(super) fn id(&self) -> SpanId {
        let span = self.span.as_ref();
        span.map_or(self.inner.context.span, |span| span.context.span)
    }

    /// Gives it a name that says more than it could when it began.
    pub fn name(&mut self, name: String) {
        if let Some(span) = &mut self.span {
            span.name = Cow::Owned(name);
        }
    }

    /// Sets an attribute.
    pub fn set_attribute(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.span {
            span.attributes.push((key, value.into()));
        }
    }

    /// Says that it failed, and why.
    pub fn fail(&mut self, why: String) {
        if let Some(span) = &mut self.span {
            span.failed = Some(why);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let (Some(mut span), Some(recorder)) = (self.span.take(), &self.inner.recorder) {
            span.took = self.began.elapsed();
            let left_out = self
                .inner
                .asked
                .load(Ordering::Relaxed)
                .saturating_sub(MOST);
            if span.context.span == self.inner.context.span && left_out > 0 {
                span.attributes
                    .push(("ostrakon.spans_left_out", left_out.into()));
            }
            recorder.take(span);
        }
    }
}
