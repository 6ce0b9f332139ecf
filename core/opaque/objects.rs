//! Which files and batches a tenant has: an index of sealed ids in the store, with each thing as it was last seen. Lists are
//! answered from it, so that nobody sees what others have at the same provider. Written when an upstream answered, never while
//! a model call waits.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Kind, Result},
    seal::{Tenant, Thing},
    store::{self, Op, Store, StoreError},
};

pub struct Objects(Arc<dyn Store>);

/// A row: its key, and the thing as it was last seen.
type Kept = (Vec<u8>, Map<String, Value>);

/// What a list asks for.
#[derive(Debug, Default)]
pub struct Page {
    pub after: Option<String>,
    pub limit: Option<String>,
    pub order: Option<String>,
    pub purpose: Option<String>,
}

impl Objects {
    pub fn new(store: Arc<dyn Store>) -> Objects {
        Objects(store)
    }

    /// A thing as its provider describes it, ids sealed.
    pub async fn keep(&self, thing: Thing, tenant: Tenant<'_>, object: &Map<String, Value>) -> Result<()> {
        let Some(key) = key(thing, tenant, object) else { return Ok(()) };
        let value = Value::Object(object.clone()).to_string();
        if value.len() > store::MAX_ROW / 2 {
            return Ok(());
        }
        self.0.write(vec![Op::put(store::Table::Objects, key, value)]).await.map_err(failed)
    }

    /// It is gone.
    pub async fn forget(&self, thing: Thing, tenant: Tenant<'_>, id: &str) -> Result<()> {
        let rows = self.all(thing, tenant).await?;
        let gone = rows.into_iter().find(|(_, object)| object.get("id").and_then(Value::as_str) == Some(id));
        let Some((key, _)) = gone else { return Ok(()) };
        self.0.write(vec![Op::remove(store::Table::Objects, key)]).await.map_err(failed)
    }

    /// The newest first, unless the other way is asked for.
    pub async fn list(&self, thing: Thing, tenant: Tenant<'_>, page: Page) -> Result<Vec<u8>> {
        let mut rows: Vec<Map<String, Value>> =
            self.all(thing, tenant).await?.into_iter().map(|(_, object)| object).collect();
        if let Some(purpose) = &page.purpose {
            rows.retain(|o| o.get("purpose").and_then(Value::as_str) == Some(purpose));
        }
        if page.order.as_deref() == Some("asc") {
            rows.reverse();
        }
        let id = |o: &Map<String, Value>| o.get("id").and_then(Value::as_str).map(str::to_owned);
        if let Some(after) = &page.after {
            let at = rows.iter().position(|o| id(o).as_ref() == Some(after));
            let at = at.ok_or_else(|| Error::invalid("after", "`after` is none of the ids in this list"))?;
            rows.drain(..=at);
        }
        let default = if thing == Thing::Batch { 20 } else { MOST };
        let limit = match page.limit.as_deref().map(str::parse::<usize>) {
            None => default,
            Some(Ok(limit)) if (1..=MOST).contains(&limit) => limit,
            Some(_) => return Err(Error::invalid("limit", format!("`limit` is a number from 1 to {MOST}"))),
        };
        let more = rows.len() > limit;
        rows.truncate(limit);
        let (first, last) = (rows.first().and_then(id), rows.last().and_then(id));
        Ok(json!({"object": "list", "data": rows, "first_id": first, "last_id": last, "has_more": more})
            .to_string()
            .into())
    }

    async fn all(&self, thing: Thing, tenant: Tenant<'_>) -> Result<Vec<Kept>> {
        let prefix = prefix(thing, tenant);
        let mut out: Vec<Kept> = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        while out.len() < MOST {
            let rows = self.0.scan(store::Table::Objects, &prefix, after.as_deref(), PAGE).await.map_err(failed)?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            // A row that cannot be read is not shown.
            out.extend(rows.into_iter().filter_map(|(key, row)| Some((key, serde_json::from_slice(&row).ok()?))));
        }
        Ok(out)
    }
}

/// The newest first, as the store sorts.
fn key(thing: Thing, tenant: Tenant<'_>, object: &Map<String, Value>) -> Option<Vec<u8>> {
    let id = object.get("id")?.as_str()?;
    let created = object.get("created_at").and_then(Value::as_u64).unwrap_or(0);
    let mut key = prefix(thing, tenant);
    key.extend_from_slice(&(u64::MAX - created).to_be_bytes());
    key.extend_from_slice(id.as_bytes());
    Some(key)
}

/// A name holds no zero byte, so that none is another one's beginning.
fn prefix(thing: Thing, tenant: Tenant<'_>) -> Vec<u8> {
    let (kind, name) = match tenant {
        Tenant::Team(name) => ("team", name),
        Tenant::Key(name) => ("key", name),
    };
    format!("{}\0{kind}\0{name}\0", thing.prefix()).into_bytes()
}

fn failed(error: StoreError) -> Error {
    Error::new(Kind::Internal, "the list of files and batches cannot be kept").with_code("store_failed").because(error)
}

/// In one list.
const MOST: usize = 10_000;
const PAGE: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn object(id: &str, created: u64) -> Map<String, Value> {
        let Value::Object(map) = json!({"id": id, "created_at": created, "purpose": "batch"}) else { unreachable!() };
        map
    }

    async fn listed(objects: &Objects, tenant: Tenant<'_>, page: Page) -> (Vec<String>, bool) {
        let list: Value =
            serde_json::from_slice(&objects.list(Thing::File, tenant, page).await.expect("a list")).expect("JSON");
        let ids = list["data"].as_array().expect("data").iter().map(|o| o["id"].as_str().expect("id").to_owned());
        (ids.collect(), list["has_more"] == true)
    }

    #[tokio::test]
    async fn a_list_holds_the_tenants_own_things_newest_first() {
        let objects = Objects::new(Arc::new(store::Memory::default()));
        let (lab, other) = (Tenant::Team("lab"), Tenant::Key("lab"));
        for (id, created) in [("a", 1), ("b", 3), ("c", 2)] {
            objects.keep(Thing::File, lab, &object(id, created)).await.expect("kept");
        }
        objects.keep(Thing::File, other, &object("x", 9)).await.expect("kept");
        objects.keep(Thing::Batch, lab, &object("y", 9)).await.expect("kept");
        assert_eq!(listed(&objects, lab, Page::default()).await, (vec!["b".into(), "c".into(), "a".into()], false));
        assert_eq!(listed(&objects, other, Page::default()).await.0, ["x"]);
        let page = Page { limit: Some("1".into()), after: Some("b".into()), ..Page::default() };
        assert_eq!(listed(&objects, lab, page).await, (vec!["c".into()], true));
        let page = Page { order: Some("asc".into()), purpose: Some("none".into()), ..Page::default() };
        assert!(listed(&objects, lab, page).await.0.is_empty());
        objects.forget(Thing::File, lab, "c").await.expect("gone");
        assert_eq!(listed(&objects, lab, Page::default()).await.0, ["b", "a"]);
        assert!(objects.list(Thing::File, lab, Page { limit: Some("0".into()), ..Page::default() }).await.is_err());
    }
}
