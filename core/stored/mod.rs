//! Answers that their caller wants kept, so that a later request can go on from one, whatever provider made it, and read it
//! again. They are kept here and at no upstream: one way for every provider, and an id means something to its own tenant
//! only. The newest lie in memory, all of them sealed in files; with a store that keeps nothing, in memory alone. A request that
//! keeps nothing and goes on from nothing costs nothing here.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, request::Parts};
use serde_json::{Map, Value, json};
use tokio::{sync::oneshot, time::timeout};

use self::{
    conversations::Joined,
    items::Turn,
    shelf::{Look, Shelf},
};
use crate::{
    auth::Principal,
    codec::{document::Document, envelope::Envelope},
    config,
    error::{Error, Kind, Result},
    lanes::{Clock, Content, Index, Lanes, Put, now, seconds},
    model::{Format, Operation},
    seal::{AtRest, Name, Tenant, Thing},
    store::{Directory, StoreError},
    telemetry::metrics,
};

mod conversations;
mod items;
mod references;
mod shelf;

/// All that is kept, of every tenant.
pub struct Stored {
    shelf: Arc<Mutex<Shelf>>,
    rest: Arc<AtRest>,
    clock: Clock,
    /// `None`: nothing outlives the process.
    disk: Option<Lanes>,
    /// Conversations are changed one after another; by a hash of their ids.
    gates: [tokio::sync::Mutex<()>; GATES],
}

/// The right to keep the answer of a request that is under way.
pub struct Keep {
    stored: Arc<Stored>,
    principal: Arc<Principal>,
    request: Bytes,
    /// The answer may be asked for by its id.
    by_id: bool,
    joined: Option<Joined>,
}

impl Stored {
    /// `secret`: derived from the master key for this purpose alone. `directory`: where the data lives, unless nothing is to
    /// outlive the process.
    pub async fn open(
        directory: Option<&Directory>,
        secret: &[u8; 32],
        bounds: config::Responses,
    ) -> anyhow::Result<Arc<Stored>> {
        Stored::open_at(directory, secret, bounds, now).await
    }

    /// Nothing outlives the process.
    pub fn in_memory(secret: &[u8; 32], bounds: config::Responses) -> Result<Arc<Stored>> {
        let shelf = Arc::new(Mutex::new(Shelf::new(bounds)));
        let (rest, gates) = (Arc::new(AtRest::new(secret)?), Default::default());
        Ok(Arc::new(Stored { shelf, rest, clock: now, disk: None, gates }))
    }

    async fn open_at(
        directory: Option<&Directory>,
        secret: &[u8; 32],
        bounds: config::Responses,
        clock: Clock,
    ) -> anyhow::Result<Arc<Stored>> {
        let rest = Arc::new(AtRest::new(secret)?);
        let shelf = Arc::new(Mutex::new(Shelf::new(bounds)));
        let Some(directory) = directory.cloned() else {
            return Ok(Arc::new(Stored { shelf, rest, clock, disk: None, gates: Default::default() }));
        };
        let (opening, sealing) = (shelf.clone(), rest.clone());
        let open = move || Lanes::open(directory.files(FOLDER)?, FOLDER, sealing, opening, clock);
        let disk = tokio::task::spawn_blocking(open).await??;
        Ok(Arc::new(Stored { shelf, rest, clock, disk: Some(disk), gates: Default::default() }))
    }

    /// The configuration was read anew.
    pub fn set_bounds(&self, bounds: config::Responses) {
        self.lock().bounds = bounds;
    }

    /// What a Responses request says of keeping: the turns before it are put in front of its own, and the upstream is told to
    /// keep nothing. `None`: its answer is not wanted later.
    pub async fn begin(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        document: &mut Document,
        echo: &mut Option<Arc<Map<String, Value>>>,
    ) -> Result<Option<Box<Keep>>> {
        if document.format() != Format::OpenaiResponses {
            return Ok(None);
        }
        let answered = document.operation() == Operation::Chat;
        let background = answered && document.field("background").is_some_and(|v| v == true);
        if background {
            may_run_in_background(document)?;
        }
        if let Some(whole) = self.with_items(principal, document).await? {
            *document = whole;
        }
        let conversation = conversations::named(document.field("conversation"))?;
        let mut joined = None;
        if let Some(id) = conversation {
            if document.field("previous_response_id").is_some_and(|v| !v.is_null()) {
                let text = "a request goes on in a `conversation` or from a `previous_response_id`, not both";
                return Err(Error::invalid("conversation", text));
            }
            let mut told = document.echo().map(|echo| Map::clone(&echo)).unwrap_or_default();
            told.insert("conversation".to_owned(), json!({"id": id}));
            *echo = Some(Arc::new(told));
            let (resumed, input) = self.join(principal, id, document).await?;
            *document = resumed;
            joined = Some(input);
        }
        match document.field("previous_response_id") {
            None | Some(Value::Null) => {}
            Some(Value::String(id)) => {
                let turn = self.find(principal, &id).await.map_err(|e| e.at("previous_response_id"))?;
                // The answer repeats what was asked, not what became of it.
                *echo = document.echo();
                *document = turn.resumed(document)?;
            }
            Some(_) => return Err(Error::invalid("previous_response_id", "`previous_response_id` must be a string")),
        }
        if background {
            // Its upstream keeps it, under an id of its own.
            document.run_in_background();
            return Ok(None);
        }
        // A count, or a conversation that is only compacted, is no answer.
        let by_id = document.field("store").is_none_or(|v| v != false);
        if !answered || !by_id && joined.is_none() {
            return Ok(None);
        }
        document.keep_here();
        let request = document.bytes().clone();
        let (stored, principal) = (self.clone(), principal.clone());
        Ok(Some(Box::new(Keep { stored, principal, request, by_id, joined })))
    }

    /// `GET`, `DELETE` and the rest of what a client may do with an answer that is kept, or with a conversation. The body of the
    /// answer to that. `place`: the id in the path, and what the path has behind it.
    pub async fn serve(
        &self,
        principal: &Principal,
        place: (Option<&str>, Option<&str>),
        parts: &Parts,
        body: &[u8],
    ) -> Result<Bytes> {
        let path = parts.uri.path();
        if path.contains("/v1/conversations") {
            let place = (place.0, place.1.unwrap_or_default());
            return self.conversations(principal, place, parts, body).await.map(|told| told.to_string().into());
        }
        let id = place.0.unwrap_or_default();
        if parts.method == Method::DELETE {
            self.delete(principal, id).await?;
            return Ok(json!({"id": id, "object": "response", "deleted": true}).to_string().into());
        }
        let turn = self.find(principal, id).await?;
        let query = parts.uri.query().unwrap_or_default();
        if path.ends_with("/input_items") {
            return items::page(&turn.items()?, query).map(|page| page.to_string().into());
        }
        if path.ends_with("/cancel") {
            let text = format!("`{id}` is complete: only a response that runs in the background can be cancelled");
            return Err(Error::new(Kind::InvalidRequest, text).with_code("response_not_cancellable"));
        }
        if query.split('&').any(|pair| pair == "stream=true") {
            let text = "an answer that is kept comes whole; leave `stream` out";
            return Err(Error::unsupported("stream", text));
        }
        Ok(turn.answer.clone())
    }

    /// All that was kept so far is on the disk when it returns.
    pub async fn sync(&self) {
        if let Some(disk) = &self.disk {
            let _ = timeout(ANSWER, disk.sync()).await;
        }
    }

    async fn find(&self, principal: &Principal, id: &str) -> Result<Arc<Turn>> {
        self.look_up(self.name(principal, id), || unknown(id)).await
    }

    async fn look_up(&self, name: Name, unknown: impl Fn() -> Error) -> Result<Arc<Turn>> {
        let place = match self.lock().look(&name, (self.clock)()) {
            Look::Here(turn) => return Ok(turn),
            Look::Nowhere => return Err(unknown()),
            Look::There(place) => place,
        };
        let Some(disk) = &self.disk else { return Err(unknown()) };
        let failed = |error: StoreError| {
            Error::new(Kind::Internal, "kept responses cannot be read").with_code("store_failed").because(error)
        };
        let Some(Content { head, body }) = disk.read(name, place).await.map_err(failed)? else {
            if self.lock().was_damaged(&name, place) {
                tracing::warn!(file = place.segment, "a kept answer is damaged, and gone");
            }
            return Err(unknown());
        };
        let turn = Arc::new(Turn { request: head, answer: body });
        let mut shelf = self.lock();
        shelf.was_read(name, place, turn.clone());
        shelf.sweep((self.clock)());
        Ok(turn)
    }

    async fn put(&self, lane: u32, name: Name, turn: Turn) {
        if let Some(written) = self.lay(lane, name, turn) {
            // It goes on without us; the answer waits no longer.
            let _ = timeout(PATIENCE, written).await;
        }
    }

    /// What is laid first is written first. What comes back ends when it is on the disk; `None`: it does not go there.
    fn lay(&self, lane: u32, name: Name, turn: Turn) -> Option<oneshot::Receiver<()>> {
        let (turn, now) = (Arc::new(turn), (self.clock)());
        let mut shelf = self.lock();
        let expires = now.saturating_add(seconds(shelf.bounds.keep));
        let replaces = shelf.put(name, turn.clone(), expires);
        shelf.sweep(now);
        let disk = self.disk.as_ref()?;
        // What would push out most others is not kept.
        if turn.size() as u64 > shelf.bounds.max_size / 4 || !disk.takes(turn.size()) {
            metrics().response_unwritten();
            disk.erase(replaces.into_iter().collect());
            return None;
        }
        let serial = shelf.written_soon(name);
        let content = Content { head: turn.request.clone(), body: turn.answer.clone() };
        // Under the lock: what is put first is written first.
        Some(disk.put(Put { lane, name, serial, expires, content, replaces }))
    }

    async fn delete(&self, principal: &Principal, id: &str) -> Result<()> {
        self.forget(self.name(principal, id), || unknown(id)).await
    }

    async fn forget(&self, name: Name, unknown: impl Fn() -> Error) -> Result<()> {
        let gone = {
            let mut shelf = self.lock();
            if matches!(shelf.look(&name, (self.clock)()), Look::Nowhere) {
                return Err(unknown());
            }
            shelf.remove(&name)
        };
        let Some(disk) = self.disk.as_ref().filter(|_| gone.found) else { return Ok(()) };
        match timeout(ANSWER, disk.erase(gone.place.into_iter().collect())).await {
            Ok(Ok(Ok(()))) => Ok(()),
            other => {
                if let Some(place) = gone.place {
                    self.lock().put_back(name, place);
                }
                let text = "the response could not be removed from the disk: ask again";
                let error = Error::new(Kind::Internal, text).with_code("store_failed");
                Err(match other {
                    Ok(Ok(Err(source))) => error.because(source),
                    _ => error,
                })
            }
        }
    }

    async fn gate(&self, id: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        self.gates[hasher.finish() as usize % GATES].lock().await
    }

    fn name(&self, principal: &Principal, id: &str) -> Name {
        self.rest.name(Thing::Response, Tenant::of(principal), id)
    }

    /// Nothing that is done under the lock can leave it half done.
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keep {
    /// The answer, whole. When it returns, the answer outlives the process, unless the disk is full or too slow.
    pub async fn answered(self, answer: &Bytes) {
        let id = Envelope::fields(answer).ok().and_then(|envelope| envelope.value(answer, "id"));
        let id = id.and_then(|at| serde_json::from_slice::<String>(&answer[at]).ok());
        if let Some(id) = id.filter(|id| !id.is_empty() && id.len() <= MAX_ID) {
            let Keep { stored, principal, request, by_id, joined } = self;
            if by_id {
                for (name, record) in stored.records(&principal, &id, answer) {
                    stored.lay(lane(&principal), name, record);
                }
                // A copy: the answer's bytes may hold a share of the memory for bodies.
                let turn = Turn { request, answer: Bytes::copy_from_slice(answer) };
                stored.put(lane(&principal), stored.name(&principal, &id), turn).await;
            }
            if let Some(joined) = joined {
                stored.went_on(&principal, joined, answer).await;
            }
        }
    }

    /// The answer, if this piece of a stream's bytes has the event that tells it whole. Events are never cut in two here.
    pub fn seen(piece: &Bytes) -> Option<Bytes> {
        let last = ENDINGS.iter().find_map(|ending| memchr::memmem::rfind(piece, ending))?;
        let start = memchr::memrchr(b'\n', &piece[..last]).map_or(0, |at| at + 1);
        let end = memchr::memchr(b'\n', &piece[last..]).map_or(piece.len(), |at| last + at);
        let data = piece[start..end].strip_prefix(b"data:")?;
        let fields = Envelope::fields(data).ok()?;
        // Events before it repeat the caller's own words, which may be these.
        fields.value(data, "type").filter(|at| ENDINGS.contains(&&data[at.clone()]))?;
        let response = fields.value(data, "response")?;
        // A copy: the piece may hold much more.
        Some(Bytes::copy_from_slice(&data[response]))
    }
}

/// Whose files a tenant's answers lie in. Another version of the program may choose otherwise: nothing is found by it.
fn lane(principal: &Principal) -> u32 {
    let mut hasher = DefaultHasher::new();
    match Tenant::of(principal) {
        Tenant::Team(name) => ("team", name).hash(&mut hasher),
        Tenant::Key(name) => ("key", name).hash(&mut hasher),
    }
    hasher.finish() as u32
}

/// An answer that nobody waits for: what cannot be said of one.
fn may_run_in_background(document: &Document) -> Result<()> {
    if document.stream() {
        let text = "an answer that is made in the background is asked for by its id: leave `stream` out";
        return Err(Error::unsupported("stream", text));
    }
    if document.field("store").is_some_and(|v| v == false) {
        let text = "an answer that is made in the background is kept until it is asked for: leave `store` out";
        return Err(Error::invalid("store", text));
    }
    if document.field("conversation").is_some_and(|v| !v.is_null()) {
        let text = "an answer that is made in the background joins no conversation: leave one of the two out";
        return Err(Error::unsupported("conversation", text));
    }
    Ok(())
}

/// Another tenant's, one that is too old, none at all: nobody learns which.
fn unknown(id: &str) -> Error {
    let shown: String = id.chars().take(80).collect();
    let text = format!("there is no response `{shown}`; it may be too old, or was not stored");
    Error::new(Kind::NotFound, text).with_code("response_not_found")
}

/// Conversations whose ids fall together wait for each other.
const GATES: usize = 32;
const FOLDER: &str = "responses";
/// An answer waits so long for the disk; what takes longer is written behind it.
const PATIENCE: Duration = Duration::from_secs(1);
/// A removal waits so long: it is told as done only when it is.
const ANSWER: Duration = Duration::from_secs(30);
const MAX_ID: usize = 256;
/// Types of the events that carry an answer that ended well.
const ENDINGS: [&[u8]; 2] = [b"\"response.completed\"", b"\"response.incomplete\""];

#[cfg(test)]
mod tests;
