//! Bodies of requests and answers, and the time that a connection gives them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::activity::Activity;

/// A request that is under way until this is dropped.
pub(crate) struct RunningRequest(Arc<Activity>);

impl RunningRequest {
    pub fn new(activity: Arc<Activity>) -> Self {
        activity.request_begins();
        Self(activity)
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.request_ends(Instant::now());
    }
}

/// An answer's body; its request is under way until it has been sent.
pub(crate) struct AnswerBody {
    body: Body,
    _running: RunningRequest,
}

impl AnswerBody {
    pub fn new(body: Body, running: RunningRequest) -> Self {
        Self { body, _running: running }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body, which fails when whoever reads it has waited for its next piece for too long.
pub(crate) struct RequestBody {
    body: Incoming,
    /// None for HTTP/2, where a stream of requests may rest for as long as its connection shows signs of life.
    patience: Option<Duration>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub fn new(body: Incoming, patience: Option<Duration>) -> Self {
        Self { body, patience, waiting: None }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        let Some(patience) = self.patience else { return Poll::Pending };
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        waiting.as_mut().poll(context).map(|()| {
            let late = io::Error::new(io::ErrorKind::TimedOut, format!("no more of the body in {patience:?}"));
            Some(Err(late.into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
