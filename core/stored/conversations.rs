//! Conversations: items under an id, that requests go on from and that their answers are added to, whatever provider answers.
//! Kept as answers are, sealed and by tenant; each change writes the whole of one anew, one after another. Knows the shapes
//! of OpenAI's Conversations API and nothing of how items are kept.

use bytes::Bytes;
use http::{Method, request::Parts};
use serde_json::{Map, Value, json};

use super::{
    Stored,
    items::{self, Turn, input_items, is_empty_thought, object},
    lane,
};
use crate::{
    auth::Principal,
    codec::document::Document,
    error::{Error, Kind, Result},
    seal::{Name, Tenant, Thing},
};

/// A request that goes on in a conversation: which, and what it adds.
pub struct Joined {
    id: String,
    input: Vec<Value>,
}

/// All that is kept of one. Ids are its own, because items of several answers may have the same.
#[derive(Debug, Default)]
struct Conversation {
    created: u64,
    metadata: Map<String, Value>,
    ids: Vec<String>,
    items: Vec<Value>,
}

impl Stored {
    /// `/v1/conversations` and what is below. `rest`: what the path has behind an id, from its slash on.
    pub(super) async fn conversations(
        &self,
        principal: &Principal,
        (id, rest): (Option<&str>, &str),
        parts: &Parts,
        body: &[u8],
    ) -> Result<Value> {
        let query = parts.uri.query().unwrap_or_default();
        let fields = || if body.is_empty() { Ok(Map::new()) } else { object(body) };
        let item = rest.strip_prefix("/items/").filter(|item| !item.is_empty() && !item.contains('/'));
        match (&parts.method, id, rest, item) {
            (&Method::POST, None, "", _) => self.create(principal, fields()?).await,
            (&Method::GET, Some(id), "", _) => Ok(self.conversation(principal, id).await?.shown(id)),
            (&Method::GET, Some(id), "/items", _) => {
                items::page(&self.conversation(principal, id).await?.listed(), query)
            }
            (&Method::GET, Some(id), _, Some(item)) => {
                let conversation = self.conversation(principal, id).await?;
                let at = conversation.place(item)?;
                Ok(conversation.item(at))
            }
            (&Method::DELETE, Some(id), "", _) => {
                let _turn = self.gate(id).await;
                self.forget(self.conversation_name(principal, id), || unknown(id)).await?;
                Ok(json!({"id": id, "object": "conversation.deleted", "deleted": true}))
            }
            (&Method::POST, Some(id), "", _) => {
                let metadata = metadata(fields()?.get("metadata"))?;
                let change = |kept: &mut Conversation| {
                    kept.metadata = metadata;
                    Ok(kept.shown(id))
                };
                self.change(principal, id, change).await
            }
            (&Method::POST, Some(id), "/items", _) => {
                self.conversation(principal, id).await?;
                let fresh = given(fields()?.remove("items"))?;
                if fresh.is_empty() {
                    return Err(Error::invalid("items", "`items` is required: a list of items to add"));
                }
                let change = |kept: &mut Conversation| {
                    let from = kept.items.len();
                    kept.add(fresh)?;
                    let data: Vec<Value> = (from..kept.items.len()).map(|at| kept.item(at)).collect();
                    let id = |at: Option<&Value>| at.map_or(Value::Null, |item| item["id"].clone());
                    let (first, last) = (id(data.first()), id(data.last()));
                    Ok(json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false}))
                };
                self.change(principal, id, change).await
            }
            (&Method::DELETE, Some(id), _, Some(item)) => {
                let change = |kept: &mut Conversation| {
                    let at = kept.place(item)?;
                    kept.ids.remove(at);
                    kept.items.remove(at);
                    Ok(kept.shown(id))
                };
                self.change(principal, id, change).await
            }
            _ => {
                let text = format!("conversations have no {} {rest}; there are `/items` and `/items/ID`", parts.method);
                Err(Error::new(Kind::NotFound, text))
            }
        }
    }

    /// The request with the conversation's items in front of its own, and what it adds to them.
    pub(super) async fn join(
        &self,
        principal: &Principal,
        id: String,
        document: &Document,
    ) -> Result<(Document, Joined)> {
        let kept = self.conversation(principal, &id).await.map_err(|e| e.at("conversation"))?;
        let mut body = object(document.bytes())?;
        body.shift_remove("conversation");
        let input = input_items(body.shift_remove("input"));
        let mut items = kept.items;
        items.extend(input.iter().cloned());
        let full = items.len() > MOST_ITEMS;
        body.insert("input".to_owned(), Value::Array(items));
        let body = Value::Object(body).to_string();
        if full || body.len() > MOST_BYTES {
            let text = "this conversation has grown as long as one may be; begin another one";
            return Err(Error::new(Kind::TooLarge, text).with_code("conversation_too_long").at("conversation"));
        }
        let joined = document.reopened(body.into())?;
        Ok((joined, Joined { id, input }))
    }

    /// Adds a request's input and its answer. One that was deleted meanwhile stays so.
    pub(super) async fn went_on(&self, principal: &Principal, joined: Joined, answer: &Bytes) {
        let Joined { id, input } = joined;
        let output = match object(answer).map(|mut answer| answer.shift_remove("output")) {
            Ok(Some(Value::Array(output))) => output,
            _ => return,
        };
        let add = |kept: &mut Conversation| {
            input
                .into_iter()
                .chain(output.into_iter().filter(|item| !is_empty_thought(item)))
                .for_each(|i| kept.push(i));
            Ok(Value::Null)
        };
        if let Err(error) = self.change(principal, &id, add).await
            && error.kind != Kind::NotFound
        {
            tracing::warn!(%error, "an answer could not be added to its conversation");
        }
    }

    async fn create(&self, principal: &Principal, mut fields: Map<String, Value>) -> Result<Value> {
        let id = format!("{}{:032x}", Thing::Conversation.prefix(), fastrand::u128(..));
        let metadata = metadata(fields.get("metadata"))?;
        let mut kept = Conversation { created: (self.clock)(), metadata, ..Conversation::default() };
        kept.add(given(fields.remove("items"))?)?;
        self.put(lane(principal), self.conversation_name(principal, &id), kept.turn()).await;
        Ok(kept.shown(&id))
    }

    async fn conversation(&self, principal: &Principal, id: &str) -> Result<Conversation> {
        let turn = self.look_up(self.conversation_name(principal, id), || unknown(id)).await?;
        Conversation::read(&turn)
    }

    /// One change after another: none is lost.
    async fn change(
        &self,
        principal: &Principal,
        id: &str,
        change: impl FnOnce(&mut Conversation) -> Result<Value>,
    ) -> Result<Value> {
        let _turn = self.gate(id).await;
        let mut kept = self.conversation(principal, id).await?;
        let told = change(&mut kept)?;
        self.put(lane(principal), self.conversation_name(principal, id), kept.turn()).await;
        Ok(told)
    }

    fn conversation_name(&self, principal: &Principal, id: &str) -> Name {
        self.rest.name(Thing::Conversation, Tenant::of(principal), id)
    }
}

impl Conversation {
    fn read(turn: &Turn) -> Result<Conversation> {
        let broken = || Error::new(Kind::Internal, "a kept conversation cannot be read").with_code("store_failed");
        let mut head = object(&turn.request).map_err(|_| broken())?;
        let items: Vec<Value> = serde_json::from_slice(&turn.answer).map_err(|_| broken())?;
        let ids: Vec<String> = serde_json::from_value(head.remove("ids").unwrap_or_default()).map_err(|_| broken())?;
        let Some(Value::Object(metadata)) = head.remove("metadata") else { return Err(broken()) };
        let created = head.get("created_at").and_then(Value::as_u64).unwrap_or_default();
        if ids.len() != items.len() {
            return Err(broken());
        }
        Ok(Conversation { created, metadata, ids, items })
    }

    fn turn(&self) -> Turn {
        let Conversation { created, metadata, ids, items } = self;
        let head = json!({"created_at": created, "metadata": metadata, "ids": ids});
        let items: Vec<String> = items.iter().map(Value::to_string).collect();
        Turn { request: head.to_string().into(), answer: format!("[{}]", items.join(",")).into() }
    }

    fn shown(&self, id: &str) -> Value {
        json!({"id": id, "object": "conversation", "created_at": self.created, "metadata": self.metadata})
    }

    fn listed(&self) -> Vec<Value> {
        (0..self.items.len()).map(|at| self.item(at)).collect()
    }

    /// As a list shows it: with a type, an id, and a message's content in parts.
    fn item(&self, at: usize) -> Value {
        let mut item = self.items[at].as_object().cloned().unwrap_or_default();
        item.insert("id".to_owned(), self.ids[at].as_str().into());
        let kind = item.entry("type").or_insert_with(|| "message".into());
        if kind == "message" {
            item.entry("status").or_insert_with(|| "completed".into());
            if let Some(Value::String(text)) = item.get("content") {
                let said =
                    if item.get("role").is_some_and(|role| role == "assistant") { "output_text" } else { "input_text" };
                let mut part = json!({"type": said, "text": text});
                if said == "output_text" {
                    part["annotations"] = json!([]);
                }
                item.insert("content".to_owned(), json!([part]));
            }
        }
        Value::Object(item)
    }

    fn place(&self, id: &str) -> Result<usize> {
        let unknown = || {
            let text = format!("there is no item `{}` in this conversation", shown(id));
            Error::new(Kind::NotFound, text).with_code("item_not_found")
        };
        self.ids.iter().position(|known| known == id).ok_or_else(unknown)
    }

    /// Errors: more than may be kept.
    fn add(&mut self, items: Vec<Value>) -> Result<()> {
        if self.items.len() + items.len() > MOST_ITEMS {
            let text = format!("a conversation has at most {MOST_ITEMS} items; begin another one");
            return Err(Error::new(Kind::TooLarge, text));
        }
        items.into_iter().for_each(|item| self.push(item));
        Ok(())
    }

    fn push(&mut self, item: Value) {
        let text = |key: &str| item.get(key).and_then(Value::as_str);
        let own = text("id").filter(|id| !id.is_empty() && !self.ids.iter().any(|known| known == id));
        let id = own.map_or_else(|| made_id(text("type").unwrap_or("message")), str::to_owned);
        self.ids.push(id);
        self.items.push(item);
    }
}

/// The conversation that a request names. Errors: it is neither an id nor an object with one.
pub fn named(field: Option<Value>) -> Result<Option<String>> {
    match field {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(Value::Object(mut object)) => match object.remove("id") {
            Some(Value::String(id)) => Ok(Some(id)),
            _ => Err(Error::invalid("conversation.id", "`conversation.id` must be a string")),
        },
        Some(_) => Err(Error::invalid("conversation", "`conversation` must be an id, or an object with an `id`")),
    }
}

/// What a client adds at a time.
fn given(items: Option<Value>) -> Result<Vec<Value>> {
    let list = match items {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Error::invalid("items", "`items` must be a list")),
    };
    if list.len() > MOST_ADDED {
        return Err(Error::invalid("items", format!("at most {MOST_ADDED} items may be added at a time")));
    }
    for (at, item) in list.iter().enumerate() {
        let kind = item.get("type").map_or(Some("message"), Value::as_str);
        match (item.is_object(), kind) {
            (true, Some("item_reference")) => {
                let text = "an item cannot be added by reference; send the item itself";
                return Err(Error::unsupported("item_reference", text));
            }
            (true, Some("message")) if !item.get("role").is_some_and(Value::is_string) => {
                let path = format!("items[{at}].role");
                return Err(Error::invalid(&path, format!("`{path}` is required and missing")));
            }
            (true, Some(_)) => {}
            _ => {
                let path = format!("items[{at}]");
                return Err(Error::invalid(&path, format!("`{path}` must be an item: an object with a `type`")));
            }
        }
    }
    Ok(list)
}

fn metadata(value: Option<&Value>) -> Result<Map<String, Value>> {
    let map = match value {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(Error::invalid("metadata", "`metadata` must be an object of texts")),
    };
    let long =
        |key: &str, value: &Value| key.len() > 64 || value.as_str().is_none_or(|text| text.chars().count() > 512);
    if map.len() > 16 || map.iter().any(|(key, value)| long(key, value)) {
        let text = "`metadata` has at most 16 pairs, of keys with at most 64 and texts with at most 512 characters";
        return Err(Error::invalid("metadata", text));
    }
    Ok(map.clone())
}

fn made_id(kind: &str) -> String {
    let prefix = match kind {
        "message" => "msg",
        "reasoning" => "rs",
        "function_call" => "fc",
        _ => "item",
    };
    format!("{prefix}_{:032x}", fastrand::u128(..))
}

/// Another tenant's, one that is too old, none at all: nobody learns which.
fn unknown(id: &str) -> Error {
    let text = format!("there is no conversation `{}`; it may be too old", shown(id));
    Error::new(Kind::NotFound, text).with_code("conversation_not_found")
}

fn shown(id: &str) -> String {
    id.chars().take(80).collect()
}

/// Items that may be added by one request, and kept in one conversation.
const MOST_ADDED: usize = 20;
const MOST_ITEMS: usize = 5_000;
/// Of a request with its conversation.
const MOST_BYTES: usize = 16 << 20;
