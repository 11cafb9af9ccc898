//! An answer's body on its way to a client, with the client's progress in taking it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{DATE, HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::streams::End;

/// How much an h2 stream is given at a time. h2 asks for more once its client has made room.
const PIECE: usize = 16 * 1024;

/// The answers of a connection that have not been taken completely, each with a number and the
/// time at which its client last took a part of it.
#[derive(Debug, Default)]
pub(super) struct Untaken {
    /// A std mutex, held only briefly. There are at most as many answers as streams.
    answers: Mutex<Answers>,
    /// Their number, which each poll of a connection looks at. Relaxed: it orders nothing else.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Answers {
    last: u64,
    untaken: Vec<Answer>,
}

#[derive(Debug)]
struct Answer {
    number: u64,
    /// When the client last took a part of the answer.
    at: Instant,
    stream: Option<End>,
}

impl Untaken {
    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().expect("no holder of this lock panics")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// The time of last progress of the answer that has made none for longest. The client's other
    /// activity, including progress on other answers, does not count.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.lock().untaken.iter().map(|answer| answer.at).min()
    }

    /// Ends the streams of answers that have made no progress since `time`. Only those streams
    /// end, because the others may belong to other clients of a proxy.
    pub(super) fn end_untaken_since(&self, time: Instant) {
        for answer in &mut self.lock().untaken {
            if answer.at <= time
                && let Some(stream) = answer.stream.take()
            {
                stream.now();
                // If the client does not even take the stream's end, the connection is stuck, too.
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
        self.count.store(answers.untaken.len(), Ordering::Relaxed);
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
        self.count.store(answers.untaken.len(), Ordering::Relaxed);
    }
}

/// An answer's bytes, which count as untaken until the last slice of them is dropped.
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

/// A piece of an answer. HTTP drops it once the client, or the system on its behalf, has taken it.
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

/// An answer's date, with a value to drop together with its headers.
struct Dated {
    date: HeaderValue,
    _body: Bytes,
}

impl AsRef<[u8]> for Dated {
    fn as_ref(&self) -> &[u8] {
        self.date.as_bytes()
    }
}

/// Attaches a body that is not sent to the headers, so that it lives until HTTP drops them: the
/// memory of an answer counts for as long as its body lives, and h2 keeps headers, too, while
/// their client takes nothing. A body that is sent outlives its headers.
pub(super) fn with_headers(headers: &mut HeaderMap, body: Bytes) {
    let Some(date) = headers.remove(DATE) else {
        return;
    };
    let dated = Bytes::from_owner(Dated { date, _body: body });
    let mut date =
        HeaderValue::from_maybe_shared(dated).expect("the value comes from a valid header value");
    // Otherwise HPACK would keep the value in its table for as long as the connection lives.
    date.set_sensitive(true);
    headers.insert(DATE, date);
}

/// An answer's body in the form that HTTP takes.
#[derive(Debug)]
pub(super) struct Taken {
    rest: Bytes,
    followed: Option<(u64, Arc<Untaken>)>,
}

impl Taken {
    /// A body that is given whole, for HTTP/1, which has one answer at a time.
    pub(super) fn whole(rest: Bytes) -> Self {
        let followed = None;
        Self { rest, followed }
    }

    /// A body that is given in pieces, and is listed in `untaken` until its end.
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
        #[cfg(test)]
        tests::linger(&self.rest);
        let piece = match &self.followed {
            None => std::mem::take(&mut self.rest),
            Some((number, untaken)) => {
                // h2 takes dozens of pieces before its client has taken the first.
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
pub(super) mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;

    use super::*;

    /// A body that a stream's task takes longer to hand on than a client takes to act on its head.
    pub(in crate::http) const LINGERS: &str = "this body comes long after its head";

    pub(super) fn linger(body: &[u8]) {
        if body == LINGERS.as_bytes() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

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
