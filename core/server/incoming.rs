//! A request's body as it arrives, and who sends it.
//!
//! On HTTP/1.1 a connection is read only while somebody asks for the body, and who left is noticed only by reading. So a
//! request that has to wait with its body unread reads some of it ahead, and has the socket watched for a client that hangs up.
//! A request that does not wait pays for neither. Decides nothing about requests.

use std::{
    future::{pending, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::{
    connection::{AT_ONCE, Shared},
    read::{BodyMemory, BodyPermit, broken},
};
use crate::{error::Error, wakes};

pub struct Incoming {
    body: hyper::body::Incoming,
    http2: bool,
    client: Client,
    ahead: Option<Box<Ahead>>,
}

/// What was read before anybody asked for it.
struct Ahead {
    bytes: BytesMut,
    held: BodyPermit,
}

impl Incoming {
    pub(super) fn new(body: hyper::body::Incoming, http2: bool, shared: Arc<Shared>) -> Incoming {
        Incoming { body, http2, client: Client(shared), ahead: None }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Reads ahead while the request waits, as far as `AHEAD` and the memory of all bodies allow, and looks out for a client that
    /// leaves. Ends only when the body cannot come whole any more: with the reason. Dropped, it loses nothing of what was read.
    pub async fn wait(&mut self, memory: &BodyMemory) -> Error {
        let announced = usize::try_from(self.body.size_hint().lower()).unwrap_or(AHEAD).min(AHEAD);
        while !self.body.is_end_stream() {
            let ahead = self.ahead.get_or_insert_with(|| {
                Box::new(Ahead { bytes: BytesMut::with_capacity(announced), held: memory.permit() })
            });
            // As much as hyper hands over is asked for first: what was read cannot be put back.
            if ahead.bytes.len() + AT_ONCE > AHEAD || !ahead.held.grow_spare(AT_ONCE as u64) {
                break;
            }
            match poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
                // From here on the connection looks out itself.
                None => return pending().await,
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    ahead.bytes.extend_from_slice(&data);
                    ahead.held.shrink_to(ahead.bytes.len() as u64);
                }
                Some(Err(error)) => return broken(error.into()),
            }
        }
        let _watched = (!self.body.is_end_stream()).then(|| self.client.watch());
        pending().await
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(ahead) = &mut self.ahead {
            let piece = ahead.bytes.split_to(ahead.bytes.len().min(PIECE));
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece.freeze()))));
            }
            self.ahead = None;
        }
        if self.http2 { Pin::new(&mut self.body).poll_frame(cx) } else { wakes::poll_frame(&mut self.body, cx) }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.as_ref().is_none_or(|ahead| ahead.bytes.is_empty()) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        if let Some(ahead) = &self.ahead {
            let more = ahead.bytes.len() as u64;
            let (lower, upper) = (hint.lower(), hint.upper());
            hint = SizeHint::new();
            if let Some(upper) = upper {
                hint.set_upper(upper + more);
            }
            hint.set_lower(lower + more);
        }
        hint
    }
}

/// Whoever sends a request, as its connection knows them.
#[derive(Debug, Clone)]
pub struct Client(Arc<Shared>);

impl Client {
    /// As long as this is held, a client that hangs up ends its connection, read or not, and whatever runs for it is dropped.
    /// That it may only have closed its own side behind a whole request cannot be told from here, and is not told anywhere else:
    /// a client that was killed says just that.
    pub fn watch(&self) -> Watched {
        self.0.watched.fetch_add(1, Ordering::Relaxed);
        Watched(self.0.clone())
    }
}

pub struct Watched(Arc<Shared>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.watched.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As much of one body may be in memory before its turn comes: what is found of a form's fields is looked for as far.
const AHEAD: usize = 8 << 20;
const PIECE: usize = 64 << 10;
