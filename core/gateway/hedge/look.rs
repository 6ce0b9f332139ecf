//! One runner of a race: its call is sent, and read as far as its first output, or whole where it does not stream. What was read comes
//! again when it is heard. Touches nothing of the request.

use std::{
    ops::Deref,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;

use crate::{
    codec::{anthropic_messages::Unwrap, codec},
    error::{Error, Kind, Result},
    model::Format,
    route::Target,
    server::BodyMemory,
    transport::{self, Incoming, Sealed, Transport},
    upstream::Answer,
};

/// How far a runner reads.
pub(super) struct Look {
    pub stream: bool,
    pub spoken: (Format, Format),
    pub until: Instant,
    pub whole: Instant,
    pub limit: usize,
}

impl Look {
    /// `early`: as long as it is set, somebody else looks at the clock, and no timer of its own is needed.
    pub async fn at(
        self,
        transport: &Transport,
        memory: &BodyMemory,
        sealed: Sealed,
        target: impl Deref<Target = Target>,
        early: &AtomicBool,
    ) -> Result<Incoming> {
        let timed = || !early.load(Ordering::Relaxed);
        let Look { stream, spoken, until, whole, limit } = self;
        let sending = pin!(transport.send(sealed, &target));
        let mut incoming = transport::before_when(timed, until, sending).await??;
        if !incoming.status.is_success() {
            return Err(transport::refusal(incoming, &target, spoken, until).await);
        }
        if stream && transport::stream_of(&incoming.headers, &target, spoken.0).is_some() {
            incoming.body =
                transport::before_when(timed, until, begun(incoming.body, &target, spoken.0, limit)).await??;
            return Ok(incoming);
        }
        let mut share = memory.permit();
        let mut grow = |by| share.grow(by);
        let reading = pin!(incoming.body.collect(limit as u64, &mut grow));
        let body = transport::before_when(timed, whole, reading).await??;
        Ok(Incoming { body: Answer::bytes(body), ..incoming })
    }
}

/// The same stream, once its first output has come: what was read until then comes again.
async fn begun(mut answer: Answer, target: &Target, format: Format, limit: usize) -> Result<Answer> {
    let mut decoder = codec(format).stream_decoder(&target.dialect, limit);
    let mut unwrap = target.provider.framed().then(|| Unwrap::new(limit));
    let (mut seen, mut bytes, mut events) = (Vec::new(), 0, Vec::new());
    loop {
        let Some(frame) = answer.frame().await.transpose()? else {
            // Its end tells whether that was all it had to say.
            decoder.finish(&mut events)?;
            break;
        };
        bytes += frame.len();
        if bytes > limit.saturating_mul(2) {
            return Err(Error::new(Kind::Upstream, format!("the upstream sent {bytes} bytes without output")));
        }
        match &mut unwrap {
            None => decoder.push(&frame, &mut events)?,
            Some(unwrap) => {
                let mut inner = Vec::new();
                unwrap.push(&frame, &mut inner)?;
                decoder.push(&inner, &mut events)?;
            }
        }
        seen.push(frame);
        if events.drain(..).any(|event| event.commits()) {
            break;
        }
    }
    let rest = stream::unfold(answer, |mut answer| async move {
        let frame = answer.frame().await?;
        Some((frame.map(Frame::data), answer))
    });
    let seen = stream::iter(seen.into_iter().map(|frame| Ok(Frame::data(frame))));
    Ok(Answer::body(StreamBody::new(seen.chain(rest))))
}
