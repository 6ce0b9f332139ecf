//! Reads a request's body whole: under a size, a pace and a share of the memory that all bodies have together, and
//! decompressed when the client compressed it.
//!
//! A limit holds before the bytes are kept, with or without a `content-length`, and for the decompressed size.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_compression::tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, sleep_until},
};

use super::BoxError;
use crate::error::{Error, Kind, Result};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BodyLimits {
    /// Bytes, decompressed.
    pub max_body: u64,
    /// The least bytes a second, on average after the grace; 0: no matter.
    pub min_rate: u64,
    pub grace: Duration,
}

impl BodyLimits {
    pub fn new(max_body: u64, min_rate: u64) -> Self {
        BodyLimits { max_body, min_rate, grace: GRACE }
    }
}

/// The bytes that all buffered bodies may have together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BodyMemory(Arc<Memory>);

#[derive(Debug)]
struct Memory {
    used: AtomicU64,
    limit: AtomicU64,
}

impl BodyMemory {
    pub fn new(limit: u64) -> Self {
        BodyMemory(Arc::new(Memory { used: AtomicU64::new(0), limit: AtomicU64::new(limit) }))
    }

    /// A reload may change it; what is held stays held.
    pub fn set_limit(&self, limit: u64) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// A share that can grow, given back when it drops.
    pub fn permit(&self) -> BodyPermit {
        BodyPermit { memory: self.0.clone(), bytes: 0 }
    }
}

#[derive(Debug)]
pub struct BodyPermit {
    memory: Arc<Memory>,
    bytes: u64,
}

impl BodyPermit {
    /// 503 when all bodies together would be over the limit.
    pub fn grow(&mut self, by: u64) -> Result<()> {
        let limit = self.memory.limit.load(Ordering::Relaxed);
        let before = self.memory.used.fetch_add(by, Ordering::Relaxed);
        if before.saturating_add(by) > limit {
            self.memory.used.fetch_sub(by, Ordering::Relaxed);
            return Err(full());
        }
        self.bytes += by;
        Ok(())
    }

    /// 503 when so much more has no room now. Holds nothing.
    fn has_room(&self, more: u64) -> Result<()> {
        let limit = self.memory.limit.load(Ordering::Relaxed);
        let used = self.memory.used.load(Ordering::Relaxed);
        if used.saturating_add(more) > limit { Err(full()) } else { Ok(()) }
    }

    /// At least this much in all.
    fn grow_to(&mut self, total: u64) -> Result<()> {
        if total > self.bytes { self.grow(total - self.bytes) } else { Ok(()) }
    }

    /// Only as long as others have half of the memory left for what must be held.
    pub(super) fn grow_spare(&mut self, by: u64) -> bool {
        let half = self.memory.limit.load(Ordering::Relaxed) / 2;
        self.memory.used.load(Ordering::Relaxed).saturating_add(by) <= half && self.grow(by).is_ok()
    }

    pub(super) fn shrink_to(&mut self, total: u64) {
        if total < self.bytes {
            self.memory.used.fetch_sub(self.bytes - total, Ordering::Relaxed);
            self.bytes = total;
        }
    }
}

impl BodyPermit {
    /// The bytes, holding this share until the last of them is gone.
    pub fn around(self, bytes: Bytes) -> Bytes {
        if self.bytes == 0 { bytes } else { Bytes::from_owner(BodyHeld { bytes, permit: self }) }
    }
}

impl AsRef<[u8]> for BodyHeld {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A body in memory, and its share of it.
#[derive(Debug)]
pub struct BodyHeld {
    pub bytes: Bytes,
    pub permit: BodyPermit,
}

/// Reads, decompresses and checks. Errors: 400 damaged, 408 too slow, 413 too large, 415 unknown encoding, 503 no
/// memory, 499 the client left.
pub async fn read_body<B>(body: B, headers: &HeaderMap, limits: &BodyLimits, memory: &BodyMemory) -> Result<BodyHeld>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let encoding = Encoding::of(headers)?;
    let mut permit = memory.permit();
    let announced = body.size_hint().lower();
    if announced > limits.max_body {
        return Err(too_large(limits));
    }
    // Held as it comes: who announces much and sends little keeps nobody else out.
    permit.has_room(announced)?;
    let raw = collect(body, limits, &mut permit).await?;
    let bytes = match encoding {
        None => raw,
        Some(encoding) => {
            let plain = encoding.decode(&raw, limits, &mut permit).await?;
            drop(raw);
            permit.shrink_to(plain.len() as u64);
            plain
        }
    };
    Ok(BodyHeld { bytes, permit })
}

async fn collect<B>(mut body: B, limits: &BodyLimits, permit: &mut BodyPermit) -> Result<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    // Both only when the body makes us wait: most bodies are there with their head.
    let mut began = None;
    let mut first: Option<Bytes> = None;
    let mut whole: Option<BytesMut> = None;
    let mut total = 0u64;
    let mut timer = pin!(None);
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
                return Poll::Ready(Ok(frame));
            }
            let began = *began.get_or_insert_with(Instant::now);
            let Some(due) = due(began, total, limits) else { return Poll::Pending };
            if timer.is_none() {
                timer.set(Some(sleep_until(due)));
            }
            while let Some(mut sleep) = timer.as_mut().as_pin_mut() {
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if Instant::now() >= due {
                    return Poll::Ready(Err(too_slow()));
                }
                sleep.reset(due);
            }
            Poll::Pending
        })
        .await?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|e| broken(e.into()))?.into_data() else { continue };
        total += data.len() as u64;
        if total > limits.max_body {
            return Err(too_large(limits));
        }
        permit.grow_to(total)?;
        if data.is_empty() {
            continue;
        }
        if let Some(whole) = &mut whole {
            whole.extend_from_slice(&data);
        } else if let Some(head) = first.take() {
            // As long as it says it is, so that it never stands in memory twice; what is not written to yet is not in use.
            let more = body.size_hint().exact().unwrap_or(0);
            let room = usize::try_from(total.saturating_add(more).min(limits.max_body)).unwrap_or(0);
            let mut joined = BytesMut::with_capacity(room);
            joined.extend_from_slice(&head);
            joined.extend_from_slice(&data);
            whole = Some(joined);
        } else {
            first = Some(data);
        }
    }
    Ok(whole.map(BytesMut::freeze).or(first).unwrap_or_default())
}

/// When the body is too slow, as things stand.
fn due(began: Instant, total: u64, limits: &BodyLimits) -> Option<Instant> {
    let earned = total.saturating_mul(1000).checked_div(limits.min_rate)?;
    began.checked_add(limits.grace)?.checked_add(Duration::from_millis(earned))
}

/// One content coding of RFC 9110 §8.4.1 and its successors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Option<Self>> {
        let mut found = None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let text = value.to_str().map_err(|_| unknown_encoding())?;
            for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
                let encoding = match name.to_ascii_lowercase().as_str() {
                    "identity" => continue,
                    "gzip" | "x-gzip" => Encoding::Gzip,
                    "deflate" => Encoding::Deflate,
                    "br" => Encoding::Brotli,
                    "zstd" => Encoding::Zstd,
                    _ => return Err(unknown_encoding()),
                };
                if found.replace(encoding).is_some() {
                    return Err(unknown_encoding());
                }
            }
        }
        Ok(found)
    }

    async fn decode(self, raw: &[u8], limits: &BodyLimits, permit: &mut BodyPermit) -> Result<Bytes> {
        let mut input = raw;
        let plain = match self {
            Encoding::Gzip => {
                let mut decoder = GzipDecoder::new(&mut input);
                decoder.multiple_members(true);
                inflate(decoder, raw.len(), limits, permit).await?
            }
            // "deflate" means zlib, and some clients send it raw: the first two bytes tell (RFC 1950 §2.2).
            Encoding::Deflate if is_zlib(raw) => {
                inflate(ZlibDecoder::new(&mut input), raw.len(), limits, permit).await?
            }
            Encoding::Deflate => inflate(DeflateDecoder::new(&mut input), raw.len(), limits, permit).await?,
            Encoding::Brotli => inflate(BrotliDecoder::new(&mut input), raw.len(), limits, permit).await?,
            Encoding::Zstd => {
                // RFC 9659: 8 MB is all a sender may use. A frame that asks for more would have it allocated unasked.
                let window = [async_compression::zstd::DParameter::window_log_max(23)];
                let mut decoder = ZstdDecoder::with_params(&mut input, &window);
                decoder.multiple_members(true);
                inflate(decoder, raw.len(), limits, permit).await?
            }
        };
        if input.is_empty() { Ok(plain) } else { Err(damaged("there is more after its end")) }
    }
}

fn is_zlib(raw: &[u8]) -> bool {
    matches!(raw, [a, b, ..] if a & 0x0f == 8 && (u16::from(*a) << 8 | u16::from(*b)) % 31 == 0)
}

async fn inflate(
    decoder: impl AsyncRead,
    compressed: usize,
    limits: &BodyLimits,
    permit: &mut BodyPermit,
) -> Result<Bytes> {
    let mut decoder = pin!(decoder);
    let mut plain = BytesMut::new();
    loop {
        permit.grow_to((compressed + plain.len() + STEP) as u64)?;
        plain.reserve(STEP);
        let count =
            decoder.read_buf(&mut plain).await.map_err(|e| damaged("its data is corrupt or cut off").because(e))?;
        if count == 0 {
            return Ok(plain.freeze());
        }
        if plain.len() as u64 > limits.max_body {
            return Err(too_large(limits));
        }
        if plain.len() > RATIO_FLOOR && plain.len() / RATIO > compressed {
            return Err(Error::new(
                Kind::TooLarge,
                format!("the request body unpacks to over {RATIO} times its size; send it uncompressed"),
            ));
        }
        // The input is memory and never waits: others must have their turn.
        tokio::task::consume_budget().await;
    }
}

fn full() -> Error {
    Error::new(Kind::Overloaded, "the gateway holds as many bodies as its memory allows; retry in a second")
        .retry_after(Duration::from_secs(1))
}

pub(super) fn too_large(limits: &BodyLimits) -> Error {
    Error::new(
        Kind::TooLarge,
        format!("the request body is over the limit of {} bytes (server.max_body)", limits.max_body),
    )
}

pub(super) fn too_slow() -> Error {
    Error::new(Kind::RequestTimeout, "the request body came too slowly; send it again over a better connection")
}

fn unknown_encoding() -> Error {
    Error::new(
        Kind::UnsupportedMediaType,
        "this content-encoding is not understood: send one of gzip, deflate, br or zstd, once, or none",
    )
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::InvalidRequest, format!("the compressed request body cannot be unpacked: {what}"))
}

/// The connection went, or what came was not a body.
pub(super) fn broken(cause: BoxError) -> Error {
    let malformed = cause
        .downcast_ref::<hyper::Error>()
        .and_then(|e| std::error::Error::source(e)?.downcast_ref::<std::io::Error>())
        .is_some_and(|e| matches!(e.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData));
    if malformed {
        Error::new(Kind::InvalidRequest, "the request body's transfer coding is malformed").because(cause)
    } else {
        Error::new(Kind::ClientGone, "the client left before its request was whole").because(cause)
    }
}

const GRACE: Duration = Duration::from_secs(5);
/// What one step of unpacking may add.
const STEP: usize = 64 << 10;
/// Real prompts unpack to 3–30 times; only bombs need more than this.
const RATIO: usize = 1000;
const RATIO_FLOOR: usize = 1 << 20;
