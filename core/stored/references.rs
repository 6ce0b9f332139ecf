//! Items of kept answers that a request names by id instead of sending them again, as one SDK does in each step of a loop of tools.
//! Upstreams keep nothing, and what one does keep is other tenants' too, so a name is looked up here, under its tenant, and the
//! item stands in its place before stages and limits see the request. Of each item that an answer brings a record says which
//! answer that was; the item itself lies in the answer alone, and is gone with it.

use std::collections::HashMap;

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Stored,
    items::{Turn, is_empty_thought, object},
};
use crate::{
    auth::Principal,
    codec::{document::Document, envelope::Envelope},
    error::{Error, Kind, Result},
    seal::{Name, Tenant, Thing},
};

impl Stored {
    /// The same request with the items that it names in its input. `None`: it names none.
    pub(super) async fn with_items(&self, principal: &Principal, document: &Document) -> Result<Option<Document>> {
        let bytes = document.bytes();
        // The word may be written in escapes.
        if memmem::find(bytes, REFERENCE.as_bytes()).or_else(|| memmem::find(bytes, b"\\u00")).is_none() {
            return Ok(None);
        }
        let mut body = object(bytes)?;
        let Some(Value::Array(input)) = body.get_mut("input") else { return Ok(None) };
        if !input.iter().any(is_reference) {
            return Ok(None);
        }
        let (mut known, mut out) = (HashMap::new(), Vec::with_capacity(input.len()));
        for (at, item) in std::mem::take(input).into_iter().enumerate() {
            if !is_reference(&item) {
                out.push(item);
                continue;
            }
            let path = format!("input[{at}].id");
            let Some(id) = item.get("id").and_then(Value::as_str) else {
                return Err(Error::invalid(&path, format!("`{path}` must be the id of an item")));
            };
            if !known.contains_key(id) {
                known.extend(self.items_with(principal, id).await.map_err(|e| e.at(path))?);
            }
            // A thought that nobody can read any more is left out, as it is where a conversation goes on.
            let item = known.get(id).ok_or_else(|| unknown(id))?;
            out.extend((!is_empty_thought(item)).then(|| item.clone()));
        }
        *input = out;
        document.reopened(Value::Object(body).to_string().into()).map(Some)
    }

    /// All items of the answer that brought this one.
    async fn items_with(&self, principal: &Principal, id: &str) -> Result<Vec<(String, Value)>> {
        let missing = || unknown(id);
        let record = self.look_up(self.item(principal, id), missing).await?;
        let answer = std::str::from_utf8(&record.request).map_err(|_| missing())?;
        let turn = self.look_up(self.name(principal, answer), missing).await?;
        let Some(Value::Array(output)) = object(&turn.answer)?.shift_remove("output") else { return Err(missing()) };
        let named = |item: Value| Some((item.get("id")?.as_str()?.to_owned(), item));
        Ok(output.into_iter().filter_map(named).collect())
    }

    /// What says where the items of an answer are.
    pub(super) fn records(&self, principal: &Principal, id: &str, answer: &Bytes) -> Vec<(Name, Turn)> {
        let record = || Turn { request: Bytes::copy_from_slice(id.as_bytes()), answer: Bytes::new() };
        ids(answer).unwrap_or_default().iter().map(|item| (self.item(principal, item), record())).collect()
    }

    fn item(&self, principal: &Principal, id: &str) -> Name {
        self.rest.name(Thing::Item, Tenant::of(principal), id)
    }
}

fn is_reference(item: &Value) -> bool {
    item.get("type").is_some_and(|kind| kind == REFERENCE)
}

/// The ids of an answer's items. Nothing else of it is read.
fn ids(answer: &Bytes) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        id: Option<String>,
    }
    let at = Envelope::fields(answer).ok()?.value(answer, "output")?;
    let items: Vec<Item> = serde_json::from_slice(&answer[at]).ok()?;
    let id = |item: Item| item.id.filter(|id| !id.is_empty() && id.len() <= super::MAX_ID);
    Some(items.into_iter().filter_map(id).take(MOST_RECORDS).collect())
}

/// Another tenant's, one that is too old, none at all: nobody learns which.
fn unknown(id: &str) -> Error {
    let shown: String = id.chars().take(80).collect();
    let text =
        format!("there is no item `{shown}`; its response may be too old, or was not stored: send the item itself");
    Error::new(Kind::NotFound, text).with_code("item_not_found")
}

const REFERENCE: &str = "item_reference";
/// Of one answer: no model makes so many.
const MOST_RECORDS: usize = 256;
