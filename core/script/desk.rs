//! What lies before a script during one call: the request, the answer, the context. The values are moved in before the
//! call and out after it; script objects are views of this desk, so nothing is copied that nobody reads, and nothing
//! can be used after the call.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, PoisonError},
    thread::LocalKey,
};

use rhai::{Dynamic, EvalAltResult, ImmutableString, Position};

use crate::{
    account::Record,
    codec::{Field, document::Document},
    context::Context,
    error::Error,
    model::{Event, Format, Request, Response},
    pipeline::{Candidate, Effects, Phase},
};

pub type Fail = Box<EvalAltResult>;

/// One visit's desk; views hold it by reference count.
pub struct Desk {
    own: Arc<Own>,
    lent: Mutex<Lent>,
}

/// What a stage has for all its visits.
pub struct Own {
    pub stage: Arc<str>,
    pub effects: Effects,
    pub config: serde_json::Map<String, serde_json::Value>,
}

impl std::ops::Deref for Desk {
    type Target = Own;

    fn deref(&self) -> &Own {
        &self.own
    }
}

#[derive(Default)]
pub struct Lent {
    pub phase: Option<Phase>,
    pub cx: Option<Box<Context>>,
    pub doc: Option<Box<Document>>,
    pub headers: Option<http::HeaderMap>,
    pub target: Option<Arc<Candidate>>,
    pub response: Option<Response>,
    pub event: Option<Event>,
    pub event_kind: &'static str,
    /// Of the event's part, with this event; `None` when nobody looks, or when it is too long.
    pub so_far: Option<ImmutableString>,
    pub attempt_starts: bool,
    pub error: Option<Error>,
    pub record: Option<Box<Record>>,
    /// The last user text as scripts have it, until the messages change.
    pub text: Option<ImmutableString>,
    /// Grows when a list of messages or parts is replaced: older views of single ones are stale then.
    pub generation: u32,
    /// The request was written to.
    pub changed: bool,
    /// The caller's body could not be read: this goes to the caller.
    pub failed: Option<Error>,
    pub notes: u32,
    pub choices: u64,
    /// Asked of models.
    pub questions: u32,
}

impl Desk {
    pub fn new(own: Arc<Own>) -> Self {
        Desk { own, lent: Mutex::default() }
    }

    /// A look at the desk. Never call back into the engine from `f`.
    pub fn with<T>(&self, f: impl FnOnce(&mut Lent) -> T) -> T {
        // Poisoned by a panic inside a call that was caught: the values are whole, they are only moved.
        f(&mut self.lent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn cx<T>(&self, f: impl FnOnce(&mut Context) -> T) -> Result<T, Fail> {
        self.with(|lent| lent.cx.as_deref_mut().map(f).ok_or_else(|| gone("context")))
    }

    pub fn doc<T>(&self, f: impl FnOnce(&mut Document) -> Result<T, Error>) -> Result<T, Fail> {
        self.with(|lent| {
            let doc = lent.doc.as_deref_mut().ok_or_else(|| gone("request"))?;
            f(doc).map_err(|error| {
                let told = fail(format!("the caller's request cannot be read: {}", error.message));
                lent.failed = Some(error);
                told
            })
        })
    }

    /// Reads the canonical request.
    pub fn request<T>(&self, f: impl FnOnce(&Request) -> T) -> Result<T, Fail> {
        self.doc(|doc| Ok(f(doc.request()?)))
    }

    /// Writes to the canonical request.
    pub fn edit<T>(&self, field: Field, f: impl FnOnce(&mut Request) -> Result<T, Fail>) -> Result<T, Fail> {
        self.may_edit()?;
        let result = self.doc(|doc| Ok(f(doc.edit(field)?)))??;
        self.with(|lent| {
            lent.changed = true;
            if field == Field::Messages {
                lent.text = None;
            }
        });
        Ok(result)
    }

    /// The request can be changed in the phases that come before it is sent.
    pub fn may_edit(&self) -> Result<(), Fail> {
        let phase = self.with(|lent| lent.phase);
        match phase {
            Some(Phase::Request | Phase::Attempt) => Ok(()),
            _ => Err(fail(format!(
                "the request cannot be changed in {}: change it in fn request or fn attempt",
                phase.map_or("this phase", Phase::name)
            ))),
        }
    }

    pub fn response<T>(&self, f: impl FnOnce(&mut Response) -> Result<T, Fail>) -> Result<T, Fail> {
        self.with(|lent| f(lent.response.as_mut().ok_or_else(|| gone("response"))?))
    }
}

/// An error of the host's own making, told apart from a script's `throw`: its text is ours and holds no prompt.
#[derive(Debug, Clone)]
pub struct HostError(pub String);

pub fn fail(message: impl Into<String>) -> Fail {
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(HostError(message.into())), Position::NONE))
}

fn gone(what: &str) -> Fail {
    fail(format!("there is no {what} in this phase"))
}

/// What each thread keeps for a place whose value is lent: it is swapped for the value, so that nothing is made for a call, and
/// nothing let go of after it.
pub type Shells<T> = LocalKey<Cell<Option<Box<T>>>>;

thread_local! {
    pub static CONTEXTS: Cell<Option<Box<Context>>> = const { Cell::new(None) };
    pub static DOCUMENTS: Cell<Option<Box<Document>>> = const { Cell::new(None) };
}

/// The value for a desk; nobody looks at what stands in its place until it is given back.
pub fn lend<T>(place: &mut T, shells: &'static Shells<T>, new: impl FnOnce(&T) -> T) -> Box<T> {
    let mut own = shells.take().unwrap_or_else(|| Box::new(new(place)));
    std::mem::swap(place, &mut own);
    own
}

pub fn give_back<T>(place: &mut T, mut own: Box<T>, shells: &'static Shells<T>) {
    std::mem::swap(place, &mut own);
    shells.set(Some(own));
}

/// Of nobody: it lives as long as its thread.
pub fn empty_context(cx: &Context) -> Context {
    Context { id: "".into(), principal: Arc::default(), ..context_shell(cx) }
}

/// What stands in a document's place while it is lent.
pub fn document_shell() -> Document {
    Document::from_request(Format::OpenaiChat, Request::default())
}

/// What stands in a context's place while it is lent.
pub fn context_shell(cx: &Context) -> Context {
    Context {
        id: cx.id.clone(),
        operation: cx.operation,
        format: cx.format,
        principal: cx.principal.clone(),
        now: cx.now,
        started: cx.started,
        deadline: cx.deadline,
        tags: Vec::new(),
        priority: cx.priority,
        wished: cx.wished,
        sticks: None,
        beside: cx.beside,
        drawn: None,
        headers: Vec::new(),
        explain: cx.explain,
        attempt: cx.attempt,
        seed: cx.seed,
        cached: None,
        vars: serde_json::Map::new(),
        trace: crate::context::Trace::default(),
    }
}
