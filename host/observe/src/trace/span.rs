//! Spans: timed operations within a trace.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::context::{Context, SpanId};
use super::{Attribute, Inner, MOST, Operation};

/// The side of a call that a span describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Neither: an operation within the shard.
    Internal,
    /// The shard receives the call.
    Server,
    /// The shard makes the call.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(Cow<'static, str>),
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
    /// Its trace, and its own number.
    pub context: Context,
    /// The enclosing span, of this process or of the client.
    pub parent: Option<SpanId>,
    pub name: Cow<'static, str>,
    pub kind: Kind,
    pub began: SystemTime,
    pub took: Duration,
    pub attributes: Vec<(&'static str, Value)>,
    /// Why the operation failed, if it did.
    pub failed: Option<String>,
}

/// A span in progress, which ends when this is dropped.
#[derive(Debug)]
pub struct Open {
    inner: Arc<Inner>,
    /// `Some` until drop.
    span: Option<Span>,
    began: Instant,
}

impl Open {
    /// Begins a span within a request's, at `began`.
    pub(super) fn begin(inner: Arc<Inner>, operation: Operation, began: Instant) -> Self {
        let context = Context {
            span: SpanId(fastrand::u64(1..)),
            ..inner.context
        };
        let parent = Some(inner.context.span);
        Self::new(inner, context, parent, operation, began)
    }

    /// Begins a request's own span, within the caller's.
    pub(super) fn root(inner: Arc<Inner>, parent: Option<SpanId>, operation: Operation) -> Self {
        let context = inner.context;
        Self::new(inner, context, parent, operation, Instant::now())
    }

    fn new(
        inner: Arc<Inner>,
        context: Context,
        parent: Option<SpanId>,
        operation: Operation,
        began: Instant,
    ) -> Self {
        let span = Span {
            context,
            parent,
            name: Cow::Borrowed(operation.name()),
            kind: operation.kind(),
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

    /// Replaces the name by a more specific one.
    pub fn name(&mut self, name: String) {
        if let Some(span) = &mut self.span {
            span.name = Cow::Owned(name);
        }
    }

    pub fn set_attribute(&mut self, attribute: Attribute, value: impl Into<Value>) {
        if let Some(span) = &mut self.span {
            span.attributes.push((attribute.name(), value.into()));
        }
    }

    /// Marks the span as failed, with the reason.
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
                let attribute = Attribute::SpansLeftOut.name();
                span.attributes.push((attribute, left_out.into()));
            }
            recorder.take(span);
        }
    }
}
