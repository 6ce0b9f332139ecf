//! Answers that their caller wants kept, so that a later request can go on from one, whatever provider made it, and read it
//! again. They are kept here and at no upstream: one way for every provider, and an id means something to its own tenant
//! only. Lives in memory, within a bound; nothing of a request waits for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, request::Parts};
use serde_json::{Map, Value, json};

use crate::{
    auth::Principal,
    codec::{document::Document, envelope::Envelope},
    error::{Error, Kind, Result},
    model::Format,
    seal::Tenant,
};

/// All that is kept, of every tenant.
#[derive(Debug)]
pub struct Stored {
    shelf: Mutex<Shelf>,
    /// Bytes at most; the oldest ones make room.
    most: usize,
}

#[derive(Debug, Default)]
struct Shelf {
    kept: HashMap<Key, Arc<Kept>>,
    /// By age. An entry whose answer was removed or replaced meanwhile is passed over.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    serial: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    owner: Owner,
    id: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    Team(Box<str>),
    Key(Box<str>),
}

/// A request as it went on, with the turns before it, and its answer as the client got it. Read only when asked for.
#[derive(Debug)]
struct Kept {
    at: Instant,
    serial: u64,
    request: Bytes,
    answer: Bytes,
}

/// The right to keep the answer of a request that is under way.
#[derive(Debug)]
pub struct Keep {
    stored: Arc<Stored>,
    owner: Owner,
    request: Bytes,
}

impl Default for Stored {
    fn default() -> Self {
        Stored::new(MOST_BYTES)
    }
}

impl Stored {
    pub fn new(most: usize) -> Stored {
        Stored { shelf: Mutex::default(), most }
    }

    /// What a request says of keeping: the turns before it are put in front of its own, and the upstream is told to keep
    /// nothing. `None`: its answer is not wanted later. Costs other formats nothing.
    pub fn begin(
        self: &Arc<Self>,
        principal: &Principal,
        document: &mut Document,
        echo: &mut Option<Arc<Map<String, Value>>>,
    ) -> Result<Option<Box<Keep>>> {
        if document.format() != Format::OpenaiResponses {
            return Ok(None);
        }
        if document.field("background").is_some_and(|v| v == true) {
            let text = "the gateway runs nothing in the background; leave `background` out, and stream long answers";
            return Err(Error::unsupported("background", text));
        }
        if document.field("conversation").is_some_and(|v| !v.is_null()) {
            let text = "the gateway keeps no conversations; send `previous_response_id`, or the whole `input`";
            return Err(Error::unsupported("conversation", text));
        }
        let owner = Owner::of(principal);
        match document.field("previous_response_id") {
            None | Some(Value::Null) => {}
            Some(Value::String(id)) => {
                let kept = self.find(&owner, &id).ok_or_else(|| unknown(&id).at("previous_response_id"))?;
                // The answer repeats what was asked, not what became of it.
                *echo = document.echo();
                *document = resumed(&kept, document)?;
            }
            Some(_) => return Err(Error::invalid("previous_response_id", "`previous_response_id` must be a string")),
        }
        if document.field("store").is_some_and(|v| v == false) {
            return Ok(None);
        }
        document.keep_here();
        Ok(Some(Box::new(Keep { stored: self.clone(), owner, request: document.bytes().clone() })))
    }

    /// `GET`, `DELETE` and the rest of what a client may do with an answer that is kept. The body of the answer to that.
    pub fn serve(&self, principal: &Principal, id: &str, parts: &Parts) -> Result<Bytes> {
        let owner = Owner::of(principal);
        let path = parts.uri.path();
        if parts.method == Method::DELETE {
            let key = Key { owner, id: id.into() };
            return if self.lock().remove(&key) {
                Ok(json!({"id": id, "object": "response", "deleted": true}).to_string().into())
            } else {
                Err(unknown(id))
            };
        }
        let kept = self.find(&owner, id).ok_or_else(|| unknown(id))?;
        let query = parts.uri.query().unwrap_or_default();
        if path.ends_with("/input_items") {
            return page(&kept.items()?, query).map(|page| page.to_string().into());
        }
        if path.ends_with("/cancel") {
            let text = format!("`{id}` is complete; only a response that runs in the background can be cancelled");
            return Err(Error::new(Kind::InvalidRequest, text).with_code("response_not_cancellable"));
        }
        if query.split('&').any(|pair| pair == "stream=true") {
            let text = "an answer that is kept comes whole; leave `stream` out";
            return Err(Error::unsupported("stream", text));
        }
        Ok(kept.answer.clone())
    }

    fn find(&self, owner: &Owner, id: &str) -> Option<Arc<Kept>> {
        let key = Key { owner: owner.clone(), id: id.into() };
        let kept = self.lock().kept.get(&key).cloned();
        kept.filter(|kept| kept.at.elapsed() < KEPT_FOR)
    }

    fn put(&self, key: Key, request: Bytes, answer: Bytes) {
        if request.len() + answer.len() > self.most / 4 {
            return;
        }
        let mut shelf = self.lock();
        shelf.remove(&key);
        shelf.serial += 1;
        let serial = shelf.serial;
        let kept = Kept { at: Instant::now(), serial, request, answer };
        shelf.bytes += kept.size(&key);
        shelf.order.push_back((key.clone(), serial));
        shelf.kept.insert(key, Arc::new(kept));
        shelf.sweep(self.most);
    }

    /// Nothing that is done under the lock can leave it half done.
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn remove(&mut self, key: &Key) -> bool {
        let Some(kept) = self.kept.remove(key) else { return false };
        self.bytes = self.bytes.saturating_sub(kept.size(key));
        true
    }

    /// From the oldest on: what is gone, what is too old, what there is no room for.
    fn sweep(&mut self, most: usize) {
        while let Some((key, serial)) = self.order.front() {
            let current = self.kept.get(key).filter(|kept| kept.serial == *serial);
            match current {
                Some(kept) if self.bytes <= most && kept.at.elapsed() < KEPT_FOR => return,
                Some(_) => {
                    let key = key.clone();
                    self.remove(&key);
                }
                None => {}
            }
            self.order.pop_front();
        }
    }
}

impl Kept {
    fn size(&self, key: &Key) -> usize {
        self.request.len() + self.answer.len() + 2 * key.id.len() + OVERHEAD
    }

    /// Its input, with the turns before it.
    fn items(&self) -> Result<Vec<Value>> {
        Ok(input_items(object(&self.request)?.shift_remove("input")))
    }

    /// The conversation up to and with its answer, as an upstream takes it back: thoughts that nobody can read any more are
    /// left out.
    fn turns(&self) -> Result<Vec<Value>> {
        let mut items = self.items()?;
        if let Some(Value::Array(output)) = object(&self.answer)?.shift_remove("output") {
            items.extend(output.into_iter().filter(|item| !is_empty_thought(item)));
        }
        Ok(items)
    }
}

impl Keep {
    /// The answer, whole.
    pub fn answered(self, answer: &Bytes) {
        let id = Envelope::fields(answer).ok().and_then(|envelope| envelope.value(answer, "id"));
        let id = id.and_then(|at| serde_json::from_slice::<String>(&answer[at]).ok());
        if let Some(id) = id.filter(|id| !id.is_empty() && id.len() <= MAX_ID) {
            let Keep { stored, owner, request } = self;
            // A copy: the answer's bytes may hold a share of the memory for bodies.
            stored.put(Key { owner, id: id.into() }, request, Bytes::copy_from_slice(answer));
        }
    }

    /// The answer, if this piece of a stream's bytes has the event that tells it whole. Events are never cut in two here.
    pub fn seen(piece: &Bytes) -> Option<Bytes> {
        let last = ENDINGS.iter().find_map(|ending| memchr::memmem::rfind(piece, ending))?;
        let start = memchr::memrchr(b'\n', &piece[..last]).map_or(0, |at| at + 1);
        let end = memchr::memchr(b'\n', &piece[last..]).map_or(piece.len(), |at| last + at);
        let data = piece[start..end].strip_prefix(b"data:")?;
        let response = Envelope::fields(data).ok()?.value(data, "response")?;
        // A copy: the piece may hold much more.
        Some(Bytes::copy_from_slice(&data[response]))
    }
}

impl Owner {
    fn of(principal: &Principal) -> Owner {
        match Tenant::of(principal) {
            Tenant::Team(name) => Owner::Team(name.into()),
            Tenant::Key(id) => Owner::Key(id.into()),
        }
    }
}

/// The same request with the turns before it in front of its own.
fn resumed(kept: &Kept, document: &Document) -> Result<Document> {
    let mut body = object(document.bytes())?;
    body.shift_remove("previous_response_id");
    let mut items = kept.turns()?;
    items.extend(input_items(body.shift_remove("input")));
    body.insert("input".to_owned(), Value::Array(items));
    document.reopened(Value::Object(body).to_string().into())
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::invalid("input", format!("the body cannot be read: line {}, column {}", e.line(), e.column()))
    })
}

fn input_items(input: Option<Value>) -> Vec<Value> {
    match input {
        Some(Value::Array(items)) => items,
        Some(Value::String(text)) => {
            vec![json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})]
        }
        _ => Vec::new(),
    }
}

/// Reasoning that stands at nobody any more and cannot be sent again.
fn is_empty_thought(item: &Value) -> bool {
    let none = |key: &str| match item.get(key) {
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::String(text)) => text.is_empty(),
        _ => true,
    };
    item.get("type").is_some_and(|kind| kind == "reasoning") && none("encrypted_content") && none("content")
}

/// A page of items, the newest first unless asked otherwise.
fn page(items: &[Value], query: &str) -> Result<Value> {
    let asked = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let limit = match asked("limit").map(str::parse::<usize>) {
        None => 20,
        Some(Ok(limit @ 1..=100)) => limit,
        Some(_) => return Err(Error::invalid("limit", "`limit` must be a number from 1 to 100")),
    };
    let mut list: Vec<Value> = items.iter().enumerate().map(|(at, item)| named(item, at)).collect();
    if asked("order") != Some("asc") {
        list.reverse();
    }
    let from = match asked("after") {
        None => 0,
        Some(after) => list
            .iter()
            .position(|item| item["id"] == after)
            .map(|at| at + 1)
            .ok_or_else(|| Error::invalid("after", "`after` is the id of no item of this response"))?,
    };
    let rest = &list[from..];
    let data = &rest[..rest.len().min(limit)];
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    Ok(json!({
        "object": "list",
        "data": data,
        "first_id": id(data.first()),
        "last_id": id(data.last()),
        "has_more": rest.len() > data.len(),
    }))
}

/// Items in a list have a type and an id.
fn named(item: &Value, at: usize) -> Value {
    let mut item = item.as_object().cloned().unwrap_or_default();
    item.entry("type").or_insert_with(|| "message".into());
    if item.get("id").is_none_or(Value::is_null) {
        item.insert("id".to_owned(), format!("item_{at}").into());
    }
    Value::Object(item)
}

/// Another tenant's, one that is too old, none at all: nobody learns which.
fn unknown(id: &str) -> Error {
    let shown: String = id.chars().take(80).collect();
    let text = format!("there is no response `{shown}`; it may be too old, or was not stored");
    Error::new(Kind::NotFound, text).with_code("response_not_found")
}

/// As the vendor does it.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
const MOST_BYTES: usize = 256 << 20;
/// What an entry costs besides its bytes.
const OVERHEAD: usize = 256;
const MAX_ID: usize = 256;
/// Types of the events that carry an answer that ended well.
const ENDINGS: [&[u8]; 2] = [b"\"response.completed\"", b"\"response.incomplete\""];

#[cfg(test)]
mod tests;
