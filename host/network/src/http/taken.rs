//! An answer's body on its way to a client, seen by how far that takes it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{DATE, HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::streams::End;

/// How much an h2 stream is given at a time: h2 asks for more once its client has made room for it.
const PIECE: usize = 16 * 1024;

/// The answers of a connection that are not taken to their end, each with its number and when its
/// client last took something of it.
#[derive(Debug, Default)]
pub(super) struct Untaken(
    /// A std mutex: held for a look. There are as many as streams at most.
    Mutex<Answers>,
);

#[derive(Debug, Default)]
struct Answers {
    last: u64,
    untaken: Vec<Answer>,
}

#[derive(Debug)]
struct Answer {
    number: u64,
    /// When its client last took something of it.
    at: Instant,
    stream: Option<End>,
}

impl Untaken {
    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().untaken.is_empty()
    }

    /// When something was last taken of the one of which nothing was for longest. What its client
    /// does meanwhile, or takes of others, does not count.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.lock().untaken.iter().map(|answer| answer.at).min()
    }

    /// Ends the streams of answers of which nothing was taken since a time: only they are concerned, for
    /// others may be of other clients of a proxy.
    pub(super) fn end_untaken_since(&self, time: Instant) {
        for answer in &mut self.lock().untaken {
            if answer.at <= time
                && let Some(stream) = answer.stream.take()
            {
                stream.now();
                // If even its end is not taken, the connection is not.
                answer.at = Instant::now();
            }
        }
    }

    fn begin(&self) -> u64 {
        let mut answers = self.lock();
        answers.last += 1;
        let number = answers.last;
        answers.untaken.push(Answer {
            number,
            at: Instant::now(),
            stream: End::here(),
        });
        number
    }

    fn progress(&self, number: u64) {
        let mut answers = self.lock();
        let mut untaken = answers.untaken.iter_mut();
        if let Some(answer) = untaken.find(|answer| answer.number == number) {
            answer.at = Instant::now();
        }
    }

    fn end(&self, number: u64) {
        let mut answers = self.lock();
        answers.untaken.retain(|answer| answer.number != number);
    }
}

/// An answer's bytes, which are untaken until the last of them is let go.
struct Owed {
    body: Bytes,
    number: u64,
    of: Arc<Untaken>,
}

impl AsRef<[u8]> for Owed {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.of.end(self.number);
    }
}

/// A piece of an answer: HTTP lets it go once its client has taken it, or the system for it.
struct Piece {
    bytes: Bytes,
    number: u64,
    of: Arc<Untaken>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.of.progress(self.number);
    }
}

/// The date of an answer, and what is to be let go with its headers.
struct Dated {
    date: HeaderValue,
    _body: Bytes,
}

impl AsRef<[u8]> for Dated {
    fn as_ref(&self) -> &[u8] {
        self.date.as_bytes()
    }
}

/// Keeps a body that is not sent until HTTP lets go of the headers: by it counts what the answer holds, and
/// of h2 headers wait, too, while their client takes nothing. Where a body is sent, it goes after them.
pub(super) fn with_headers(headers: &mut HeaderMap, body: Bytes) {
    let Some(date) = headers.remove(DATE) else {
        return;
    };
    let dated = Bytes::from_owner(Dated { date, _body: body });
    let mut date = HeaderValue::from_maybe_shared(dated).expect("it was a value before");
    // Or HPACK would keep it for its table, for as long as the connection.
    date.set_sensitive(true);
    headers.insert(DATE, date);
}

/// An answer's body as HTTP takes it.
#[derive(Debug)]
pub(super) struct Taken {
    rest: Bytes,
    followed: Option<(u64, Arc<Untaken>)>,
}

impl Taken {
    /// One that is given whole: HTTP/1 has one answer at a time.
    pub(super) fn whole(rest: Bytes) -> Self {
        let followed = None;
        Self { rest, followed }
    }

    /// One that is given in pieces, and counts among `untaken` until its end.
    pub(super) fn followed(body: Bytes, untaken: &Arc<Untaken>) -> Self {
        if body.is_empty() {
            return Self::whole(body);
        }
        let number = untaken.begin();
        let of = Arc::clone(untaken);
        Self {
            rest: Bytes::from_owner(Owed { body, number, of }),
            followed: Some((number, Arc::clone(untaken))),
        }
    }
}

impl Body for Taken {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = match &self.followed {
            None => std::mem::take(&mut self.rest),
            Some((number, untaken)) => {
                // h2 takes some dozens of them before its client has taken the first.
                let (number, of) = (*number, Arc::clone(untaken));
                of.progress(number);
                let length = self.rest.len().min(PIECE);
                let bytes = self.rest.split_to(length);
                Bytes::from_owner(Piece { bytes, number, of })
            }
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_answer_is_as_old_as_what_was_last_taken_of_it() {
        let untaken = Arc::new(Untaken::default());
        let began = Instant::now();
        let mut large = Taken::followed(vec![b'x'; 2 * PIECE + 1].into(), &untaken);
        let pass = || tokio::time::advance(Duration::from_secs(1));
        pass().await;
        let mut others = Vec::new();
        for _ in 0..3 {
            let mut small = Taken::followed(Bytes::from_static(b"small"), &untaken);
            others.push(small.frame().await);
            pass().await;
        }
        assert_eq!(untaken.oldest(), Some(began), "others do not count for it");
        let piece = large.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(
            (piece.len(), large.size_hint().exact()),
            (PIECE, Some(PIECE as u64 + 1))
        );
        assert_eq!(untaken.oldest(), Some(began + Duration::from_secs(1)));
        others.clear();
        pass().await;
        let before = untaken.oldest();
        drop(piece.clone());
        assert_eq!(untaken.oldest(), before, "a part of it is held");
        drop(piece);
        assert_eq!(untaken.oldest(), Some(Instant::now()));
        let first = large.frame().await.unwrap().unwrap().into_data().unwrap();
        let rest = large.collect().await.unwrap().to_bytes();
        assert_eq!((first.len(), rest.len()), (PIECE, 1));
        drop(rest);
        assert!(!untaken.is_empty(), "a part of it is held");
        drop(first);
        assert!(untaken.is_empty() && untaken.oldest().is_none());
        assert!(Taken::followed(Bytes::new(), &untaken).is_end_stream());
    }
}
