//! From a signed call to an upstream's answer: over the network, or in this process for the mock. Reads what an upstream
//! refuses; knows deadlines but sets none.

use std::{
    collections::HashMap,
    future::poll_fn,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Either},
    stream,
};
use http::{HeaderMap, Method, header};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::task::unconstrained;

pub use crate::upstream::Incoming;
use crate::{
    clock,
    codec::{anthropic_messages::Unwrap, codec, framing::Framing, said},
    error::{Error, Kind, Result},
    model::Format,
    provider::{self, Signed, mock, resets},
    route::Target,
    upstream::{
        Answer, Client, Destination, Egress, Fetcher, Flow, Frames, Opened, Outgoing, ProxyConfig, SendLimits, Trust,
        within,
    },
    vigil,
};

/// Lives across reloads: connections stay warm.
pub struct Transport {
    client: Client,
    fetcher: Fetcher,
    /// Certificate authorities of the user's own, by file.
    trust: std::sync::Mutex<HashMap<PathBuf, Arc<Trust>>>,
    /// Answers in the place of every upstream; `None` but in a rehearsal.
    stage: Option<Arc<dyn Upstreams>>,
}

/// All upstreams in one: what a rehearsal puts in their place, so that nothing goes out.
pub trait Upstreams: Send + Sync {
    fn answer<'a>(&'a self, target: &'a Target, call: Outbound) -> BoxFuture<'a, Result<Incoming>>;
}

/// A signed call as an upstream would hear it.
pub struct Outbound {
    pub format: Format,
    pub method: Method,
    pub url: http::Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A call with its key on it. `call::Call::sign` makes it, and only with a permit.
pub struct Sealed {
    pub signed: Signed,
    pub body: Vec<Bytes>,
    /// What follows the body's pieces, as it comes.
    pub flow: Option<Flow>,
    /// What is spoken.
    pub format: Format,
}

impl Transport {
    pub fn new(proxy: &ProxyConfig) -> Transport {
        Transport {
            client: Client::new(proxy),
            fetcher: Fetcher::default(),
            trust: std::sync::Mutex::default(),
            stage: None,
        }
    }

    /// Nothing goes out: `stage` answers every call, and media cannot be fetched.
    pub fn rehearsed(client: Client, stage: Arc<dyn Upstreams>) -> Transport {
        let fetcher = Fetcher::nowhere();
        Transport { client, fetcher, trust: std::sync::Mutex::default(), stage: Some(stage) }
    }

    /// For the gateway's own calls: the same connections and the same proxies.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// For media that requests name.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// Sends and waits for the head. Dropping the future, or the answer, cancels the upstream.
    ///
    /// What can be done at once is done before the future is made: see `Client::send_to`.
    pub fn send<'a>(
        &'a self,
        sealed: Sealed,
        target: &'a Target,
    ) -> impl Future<Output = Result<Incoming>> + Send + 'a {
        let provider = &target.provider;
        let direct = provider.transport == provider::Transport::Http && self.stage.is_none();
        match provider.memo.get::<Destination>().filter(|_| direct) {
            Some(destination) => {
                let out = outgoing(sealed, target, Egress::default(), None);
                Either::Left(self.client.send_to(destination, out, limits(target)))
            }
            None => Either::Right(self.send_first(sealed, target).boxed()),
        }
    }

    /// To a provider whose place was not looked at yet, to the mock, or in a rehearsal.
    async fn send_first(&self, sealed: Sealed, target: &Target) -> Result<Incoming> {
        let provider = &target.provider;
        if let Some(stage) = &self.stage {
            let (format, (method, url, headers)) = (sealed.format, sealed.signed.into_parts());
            let body = heard(Frames::then(sealed.body, sealed.flow)).await?;
            return stage.answer(target, Outbound { format, method, url, headers, body }).await;
        }
        if provider.transport == provider::Transport::Mock {
            let (method, url, headers) = sealed.signed.into_parts();
            return mocked(method, url, headers, Frames::then(sealed.body, sealed.flow)).await;
        }
        let trust = provider.ca.as_ref().map(|path| self.trust(path)).transpose()?;
        let egress = Egress::of_provider(provider.base.host(), provider.private);
        let out = outgoing(sealed, target, egress, trust);
        let destination = self.client.destination(&out)?;
        provider.memo.keep(destination.clone());
        self.client.send_to(&destination, out, limits(target)).await
    }

    /// Opens a WebSocket. `limit`: bytes of one message.
    pub async fn open(&self, sealed: Sealed, target: &Target, limit: usize) -> Result<Opened> {
        let (_, url, headers) = sealed.signed.into_parts();
        let provider = &target.provider;
        if self.stage.is_some() {
            return Err(Error::new(Kind::Unsupported, "a session cannot be rehearsed"));
        }
        if provider.transport == provider::Transport::Mock {
            let (ours, theirs) = tokio::io::duplex(MOST_HEARD);
            let model = target.model.clone();
            tokio::spawn(async move { mock::realtime(theirs, &model).await });
            return Ok(Opened::Socket(Box::new(within(ours, limit).await)));
        }
        let trust = provider.ca.as_ref().map(|path| self.trust(path)).transpose()?;
        let egress = Egress::of_provider(provider.base.host(), provider.private);
        let out = Outgoing { method: Method::GET, url, headers, body: Frames::default(), egress, trust, http2: None };
        self.client.websocket(out, &limits(target), limit).await
    }

    fn trust(&self, path: &PathBuf) -> Result<Arc<Trust>> {
        let mut known = self.trust.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(trust) = known.get(path) {
            return Ok(trust.clone());
        }
        let pem = crate::config::sources::bytes(path, MAX_AUTHORITIES).map_err(|e| {
            Error::new(Kind::Internal, format!("the authority file {} cannot be read", path.display())).because(e)
        })?;
        let trust = Arc::new(Trust::with_authorities(&pem)?);
        known.insert(path.clone(), trust.clone());
        Ok(trust)
    }
}

fn outgoing(sealed: Sealed, target: &Target, egress: Egress, trust: Option<Arc<Trust>>) -> Outgoing {
    let (method, url, headers) = sealed.signed.into_parts();
    let body = Frames::then(sealed.body, sealed.flow);
    Outgoing { method, url, headers, body, egress, trust, http2: target.provider.http2 }
}

fn limits(target: &Target) -> SendLimits {
    SendLimits { connect: target.timeouts.connect }
}

async fn mocked(method: Method, url: http::Uri, headers: HeaderMap, body: Frames) -> Result<Incoming> {
    let path = url.path_and_query().map_or("/", |p| p.as_str());
    let body = heard(body).await?;
    let (status, headers, body) = mock::run(&method, path, &headers, body).await;
    let frames = stream::unfold(body, |mut body| async move {
        let frame = body.frame().await?;
        Some((frame.map(Frame::data), body))
    });
    Ok(Incoming { status, headers, body: Answer::body(StreamBody::new(frames)), reused: true })
}

/// A body as far as the mock looks at it; the rest of it is taken and let go.
async fn heard(mut body: Frames) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(piece) = body.piece().await.transpose()? {
        if !body.streams() || whole.len() + piece.len() <= MOST_HEARD {
            whole.extend_from_slice(&piece);
        }
    }
    Ok(whole.freeze())
}

/// Waits until a deadline. What is ready at once needs no timer. Large futures are handed over pinned: moving them costs.
pub fn before<F: Future>(until: Instant, future: F) -> impl Future<Output = Result<F::Output>> {
    before_when(|| true, until, future)
}

/// The same once it is `timed`: before that whoever polls it looks at the clock.
pub async fn before_when<F: Future>(timed: impl Fn() -> bool, until: Instant, future: F) -> Result<F::Output> {
    let mut future = pin!(future);
    let mut timer = pin!(None);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if timer.is_none() {
            if !timed() {
                return Poll::Pending;
            }
            if let Some(rang) = vigil::keeps(until, cx) {
                let late = rang && clock::now() >= until;
                return if late { Poll::Ready(Err(too_late())) } else { Poll::Pending };
            }
            // The deadline holds also for one who never rests.
            timer.set(Some(unconstrained(clock::sleep_until(until))));
        }
        match timer.as_mut().as_pin_mut().map(|timer| timer.poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(too_late())),
            _ => Poll::Pending,
        }
    })
    .await
}

fn too_late() -> Error {
    Error::new(Kind::UpstreamTimeout, "the upstream took too long to answer; try again, or raise `timeouts`")
}

/// What an upstream refused, as an error. Its own words reach a client of the same format only.
/// `spoken`: with the upstream, and by the client.
pub async fn refusal(incoming: Incoming, target: &Target, spoken: (Format, Format), until: Instant) -> Error {
    let Incoming { status, headers, body, .. } = incoming;
    if status.is_redirection() {
        let message = format!("{} answered with a redirect; check its `base_url`", target.provider.name);
        return Error::new(Kind::Upstream, message);
    }
    let body = match before(until, body.collect(MAX_REFUSAL, &mut |_| Ok(()))).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) | Err(error) => return error,
    };
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (shape, whole) = target.provider.error_format(spoken.0, &body);
    let mut error = said::about_content(codec(shape).decode_error(status.as_u16(), &header, &body));
    if (shape != spoken.1 || !whole)
        && let Some(fault) = &mut error.upstream
    {
        fault.body = None;
    }
    returns(&mut error, &headers, &body);
    error
}

/// When a refusal ends, where it says so; and what means that nothing is granted any more is told as that, whatever its status.
fn returns(error: &mut Error, headers: &HeaderMap, body: &[u8]) {
    let limited = error.kind == Kind::UpstreamRateLimited;
    let limit = || matches!(error.kind, Kind::UpstreamRefused | Kind::UpstreamAuth) && resets::is_usage_limit(body);
    if !limited && !limit() {
        return;
    }
    let Some(wait) = resets::of(headers, body, clock::wall()) else { return };
    if !limited {
        (error.kind, error.status, error.code) = (Kind::UpstreamRateLimited, None, Some("insufficient_quota".into()));
    }
    error.retry_after = Some(wait.min(MOST_WAIT));
}

/// Nobody waits longer: times stay within what clocks can add.
const MOST_WAIT: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A stream without the frames that its platform puts around the format's own events. `limit`: the most bytes of a frame.
pub fn unwrapped(answer: Answer, target: &Target, limit: usize) -> Answer {
    if !target.provider.framed() {
        return answer;
    }
    let frames = stream::unfold(Some((answer, Unwrap::new(limit))), async |state| {
        let (mut answer, mut unwrap) = state?;
        loop {
            let mut out = Vec::new();
            let end = match answer.frame().await {
                Some(Ok(bytes)) => unwrap.push(&bytes, &mut out),
                Some(Err(error)) => Err(error),
                None => match unwrap.finish() {
                    Ok(()) => return None,
                    Err(error) => Err(error),
                },
            };
            match end {
                Ok(()) if out.is_empty() => {}
                Ok(()) => return Some((Ok(Frame::data(Bytes::from(out))), Some((answer, unwrap)))),
                Err(error) => return Some((Err(error), None)),
            }
        }
    });
    Answer::body(StreamBody::new(frames))
}

/// How its stream is framed, if it is one that this upstream may send.
pub fn stream_of(headers: &HeaderMap, target: &Target, spoken: Format) -> Option<Framing> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let provider = &target.provider;
    let own = if provider.framed() { Framing::EventStream } else { Framing::of(spoken) };
    Framing::told(kind).filter(|framing| *framing == own)
}

/// Of a body that streams.
const MOST_HEARD: usize = 64 << 10;

/// A file of certificate authorities.
const MAX_AUTHORITIES: u64 = 4 << 20;

/// An error's body: more is not read.
const MAX_REFUSAL: u64 = 1 << 20;
