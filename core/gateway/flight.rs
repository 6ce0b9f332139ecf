//! What differs where others wait for an answer: the request that flies goes on in a task of its own, so that its client may leave
//! and read slowly, and those that follow hear it through their own stages. Which requests are equal is the cache's to say.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{Gateway, worded};
use crate::{
    auth::cut::Watch,
    cache::{Flight, Follower},
    clock,
    error::Result,
    exchange::Exchange,
    follow::{Following, Lead},
    generated::Generated,
    reply::Reply,
    runtime::{Runtime, WHOLE},
    server::Body,
    transport,
};

/// What came of a stream and was not taken by its client yet.
#[derive(Default)]
struct Queued {
    bytes: AtomicUsize,
    freed: Notify,
}

type Frame = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

impl Gateway {
    /// 6 to 12 in a task of its own. It ends when nobody waits for it: neither its client nor one that follows.
    pub(super) fn fly(
        self: &Arc<Self>,
        runtime: &Arc<Runtime>,
        exchange: Exchange,
        lead: Box<Lead>,
        json_array: bool,
    ) -> BoxFuture<'static, Response<Body>> {
        let (tell, told) = oneshot::channel();
        tokio::spawn(flown(self.clone(), runtime.clone(), exchange, lead, json_array, tell));
        Box::pin(async move {
            // Without a word it ended only by a fault of ours.
            told.await.unwrap_or_else(|_| {
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            })
        })
    }

    /// 9 for a stream that another request's upstream sends, up to its commit.
    pub(super) async fn follow(&self, runtime: &Runtime, exchange: &mut Exchange, follower: Follower) -> Result<Reply> {
        let mut following = Box::new(Following::open(exchange, follower, runtime.config.server.keep_alive));
        let until = exchange.cx.until(WHOLE);
        while !following.committed && !following.ended {
            transport::before(until, following.step(exchange)).await??;
        }
        exchange.record.first_event = Some(clock::since(exchange.cx.started));
        Ok(Reply::Follow(following))
    }
}

async fn flown(
    gateway: Arc<Gateway>,
    runtime: Arc<Runtime>,
    mut exchange: Exchange,
    mut lead: Box<Lead>,
    json_array: bool,
    mut tell: oneshot::Sender<Response<Body>>,
) {
    let Some(flight) = exchange.flight.as_ref().map(|leading| leading.flight().clone()) else { return };
    let work = async move {
        let principal = exchange.cx.principal.clone();
        let outcome = {
            let Lead { document, client } = &mut *lead;
            let rest = pin!(gateway.onward(&runtime, &mut exchange, client, document));
            let cut = pin!(principal.is_cut());
            Watch::of(&principal).over_pinned(cut, rest).await.flatten()
        };
        drop(lead);
        let outcome = worded(&mut exchange, outcome, json_array).await;
        gateway.deliver(&runtime, exchange, outcome, json_array).await
    };
    let response = tokio::select! {
        response = work => response,
        // Dropped, the work ends like that of any client who left.
        () = left(tell.closed(), &flight) => return,
    };
    let (head, body) = response.into_parts();
    if !matches!(body, Body::Stream(_)) {
        let _ = tell.send(Response::from_parts(head, body));
        return;
    }
    let queued = Arc::<Queued>::default();
    let (frames, mut taken) = mpsc::unbounded_channel::<Frame>();
    let freed = queued.clone();
    let shown = Generated::new(|sink| async move {
        while let Some(frame) = taken.recv().await {
            let frame = frame?;
            let size = frame.len();
            sink.send([frame]).await;
            freed.bytes.fetch_sub(size, Ordering::Relaxed);
            freed.freed.notify_one();
        }
        Ok(())
    });
    let _ = tell.send(Response::from_parts(head, Body::stream(shown)));
    let driven = drive(body, &frames, &queued, &flight);
    tokio::select! {
        () = driven => {}
        () = left(frames.closed(), &flight) => {}
    }
}

/// Its client is gone, and nobody follows.
async fn left(client: impl Future<Output = ()>, flight: &Flight) {
    client.await;
    flight.is_deserted().await;
}

/// Reads the answer for its client, which is waited for; where others follow, it may be behind by more.
async fn drive(mut body: Body, frames: &mpsc::UnboundedSender<Frame>, queued: &Queued, flight: &Flight) {
    loop {
        loop {
            let freed = queued.freed.notified();
            let most = if flight.is_followed() { BEHIND } else { NEAR };
            if queued.bytes.load(Ordering::Relaxed) < most || frames.is_closed() {
                break;
            }
            tokio::select! {
                () = freed => {}
                () = frames.closed() => {}
                () = flight.is_joined(), if most == NEAR => {}
            }
        }
        let frame = match body.frame().await {
            None => return,
            Some(Ok(frame)) => Ok(frame.into_data().unwrap_or_default()),
            Some(Err(error)) => Err(error),
        };
        let size = frame.as_ref().map_or(0, Bytes::len);
        queued.bytes.fetch_add(size, Ordering::Relaxed);
        // One whose client has left is read for those that follow.
        let _ = frames.send(frame);
    }
}

/// Bytes that a slow client may leave waiting: alone, and where others would have to wait with it.
const NEAR: usize = 64 << 10;
const BEHIND: usize = 1 << 20;
