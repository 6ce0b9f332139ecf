//! A request's body: a few pieces of known length, so that a splice is written without being put together, and behind them,
//! for what is too long to be held, a flow that is sent as it comes.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::Error;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone, Default)]
pub struct Frames {
    list: Vec<Bytes>,
    next: usize,
    left: u64,
    flow: Option<Flow>,
}

impl Frames {
    /// Pieces, then a flow.
    pub fn then(list: Vec<Bytes>, flow: Option<Flow>) -> Frames {
        Frames { flow, ..list.into() }
    }

    /// The next piece, for whoever answers in this process.
    pub async fn piece(&mut self) -> Option<Result<Bytes, Error>> {
        let next = self.next;
        match self.list.get_mut(next).map(std::mem::take) {
            Some(piece) => {
                self.next += 1;
                self.left -= piece.len() as u64;
                Some(Ok(piece))
            }
            None => match &self.flow {
                Some(flow) => flow.piece().await,
                None => None,
            },
        }
    }

    pub fn streams(&self) -> bool {
        self.flow.is_some()
    }

    /// Bytes still to be sent; of a flow without a length nobody knows.
    pub fn len(&self) -> Option<u64> {
        match &self.flow {
            None => Some(self.left),
            Some(flow) => Some(self.left + flow.0.length?),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0 && self.flow.is_none()
    }
}

impl From<Vec<Bytes>> for Frames {
    fn from(mut list: Vec<Bytes>) -> Self {
        list.retain(|piece| !piece.is_empty());
        let left = list.iter().map(|piece| piece.len() as u64).sum();
        Frames { list, next: 0, left, flow: None }
    }
}

impl From<Bytes> for Frames {
    fn from(bytes: Bytes) -> Self {
        vec![bytes].into()
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = self.next;
        if let Some(piece) = self.list.get_mut(next).map(std::mem::take) {
            self.next += 1;
            self.left -= piece.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(flow) = &self.flow else { return Poll::Ready(None) };
        let polled = ready!(flow.poll(cx));
        if polled.is_none() {
            self.flow = None;
        }
        Poll::Ready(polled.map(|piece| piece.map(Frame::data).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.len() {
            Some(len) => SizeHint::with_exact(len),
            None => SizeHint::new(),
        }
    }
}

/// A body that is there once. Cheap to clone: whoever sends first has it, and what has begun cannot be sent again.
#[derive(Clone)]
pub struct Flow(Arc<Shared>);

type Source = Pin<Box<dyn Body<Data = Bytes, Error = Error> + Send>>;

struct Shared {
    source: Mutex<Option<Source>>,
    length: Option<u64>,
    begun: AtomicBool,
    /// Why it ended early.
    fault: Mutex<Option<Error>>,
}

impl Flow {
    pub fn new(source: impl Body<Data = Bytes, Error = Error> + Send + 'static, length: Option<u64>) -> Flow {
        let source: Source = Box::pin(source);
        let (begun, fault) = (AtomicBool::new(false), Mutex::default());
        Flow(Arc::new(Shared { source: Mutex::new(Some(source)), length, begun, fault }))
    }

    /// Has anything of it been taken?
    pub fn begun(&self) -> bool {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// What was wrong with it, told once: then no upstream is to blame.
    pub fn fault(&self) -> Option<Error> {
        self.0.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn piece(&self) -> Option<Result<Bytes, Error>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.0.begun.store(true, Ordering::Relaxed);
        let mut held = self.0.source.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(source) = held.as_mut() else { return Poll::Ready(None) };
            let polled = ready!(source.as_mut().poll_frame(cx));
            match polled {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) if !piece.is_empty() => return Poll::Ready(Some(Ok(piece))),
                    _ => {}
                },
                Some(Err(error)) => {
                    *held = None;
                    *self.0.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.copy());
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    *held = None;
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("begun", &self.begun()).field("length", &self.0.length).finish()
    }
}
