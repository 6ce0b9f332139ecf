//! Revocations that a store does not take: they hold, are told as what they are, and are written once it takes changes again.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    admin::written_late,
    audit::{Audit, Wanted},
    auth::{permission::Actor, tokens::NewToken},
    store::{Directory, Exported, Row, StoreError},
};

/// One in memory whose disk can be full.
#[derive(Default)]
struct Small {
    rows: Memory,
    full: AtomicBool,
}

impl Small {
    fn refused<T: Send + 'static>(&self) -> Option<BoxFuture<'static, store::Result<T>>> {
        if !self.full.load(Ordering::Relaxed) {
            return None;
        }
        let full = StoreError::Full(std::io::ErrorKind::StorageFull.into());
        Some(Box::pin(std::future::ready(Err(full))))
    }
}

impl Store for Small {
    fn read(&self, table: store::Table, key: &[u8]) -> BoxFuture<'_, store::Result<Option<Vec<u8>>>> {
        self.rows.read(table, key)
    }

    fn scan(
        &self,
        table: store::Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> BoxFuture<'_, store::Result<Vec<Row>>> {
        self.rows.scan(table, prefix, after, limit)
    }

    fn write(&self, batch: Vec<Op>) -> BoxFuture<'_, store::Result<()>> {
        self.refused().unwrap_or_else(|| self.rows.write(batch))
    }

    fn write_if(&self, expected: Vec<Op>, batch: Vec<Op>) -> BoxFuture<'_, store::Result<bool>> {
        self.refused().unwrap_or_else(|| self.rows.write_if(expected, batch))
    }

    fn write_soft(&self, batch: Vec<Op>) -> BoxFuture<'_, store::Result<()>> {
        self.write(batch)
    }

    fn close(&self) -> BoxFuture<'_, store::Result<()>> {
        self.rows.close()
    }

    fn directory(&self) -> Option<&Directory> {
        None
    }

    fn export(&self, to: Option<std::path::PathBuf>) -> BoxFuture<'_, store::Result<Exported>> {
        self.rows.export(to)
    }
}

/// Is it revoked in the store?
async fn stored(store: &Small, id: &str) -> bool {
    let row = store.read(store::Table::Keys, id.as_bytes()).await.unwrap().unwrap();
    String::from_utf8(row).unwrap().contains("\"revoked\":")
}

#[tokio::test]
async fn what_was_revoked_on_a_full_disk_holds_is_shown_and_is_written_later() {
    let store = Arc::new(Small::default());
    let keys = keys_on(store.clone()).await;
    let (info, secret) = keys.create(named("k")).await.unwrap();
    let (cut, _) = keys.create(named("cut")).await.unwrap();
    let audit = Audit::open(store.clone(), &[7; 32], crate::audit::LOCAL).await.unwrap();
    let stop = CancellationToken::new();
    // Not polled: the test says itself when it is tried again.
    let _waits = keys.clone().catch_up(written_late(audit.clone()), stop);
    store.full.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let error = keys.revoke(&info.id, false).await.unwrap_err();
        assert_eq!((error.status(), error.code()), (507, "store_full"));
        let said = [&*info.id, "is refused by this gateway from now on", "free some space", "a restart would let"];
        assert!(said.iter().all(|words| error.message.contains(words)), "{}", error.message);
        assert!(!error.message.contains("nothing was changed"), "{}", error.message);
    }
    assert_eq!(keys.revoke(&cut.id, true).await.unwrap_err().status(), 507);
    assert_eq!(code(who(&keys, secret.expose())), "key_revoked");
    let shown = keys.one(&info.id).await.unwrap();
    assert!(shown.status == "revoked" && shown.revoked.is_some(), "{shown:?}");
    assert!(keys.list(None, 10).await.unwrap().iter().all(|key| key.status == "revoked"));
    assert!(keys.rotate(&info.id, Duration::ZERO).await.unwrap_err().to_string().contains("was revoked"));
    // What another gateway says of it, or a look at all rows, does not let it in again.
    keys.refresh(&[(store::Table::Keys, info.id.clone().into_bytes())]).await.unwrap();
    keys.load().await.unwrap();
    assert_eq!(code(who(&keys, secret.expose())), "key_revoked");

    keys.write_late(&written_late(audit.clone())).await;
    assert!(!stored(&store, &info.id).await, "there is no room yet");
    store.full.store(false, Ordering::Relaxed);
    keys.write_late(&written_late(audit.clone())).await;
    assert!(stored(&store, &info.id).await && stored(&store, &cut.id).await);
    let row = store.read(store::Table::Keys, cut.id.as_bytes()).await.unwrap().unwrap();
    assert!(String::from_utf8(row).unwrap().contains("\"cut\":true"), "as it was asked for");
    assert_eq!(keys.one(&info.id).await.unwrap().revoked, shown.revoked, "it was revoked then, not now");
    let told = audit.page(&Wanted { action: Some("keys.delete".into()), ..Wanted::default() }, None, 10).await.unwrap();
    let told = told.unwrap().rows;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|row| row["outcome"] == "done" && row["actor"]["kind"] == "system"), "{told:?}");
    // Nothing is left to do.
    keys.write_late(&written_late(audit.clone())).await;
    let again = audit.page(&Wanted::default(), None, 10).await.unwrap().unwrap().rows;
    assert_eq!(again.len(), 2, "{again:?}");
}

/// A command that ends promises nothing that it cannot keep.
#[tokio::test]
async fn where_nobody_tries_again_the_error_is_the_store_s_own() {
    let store = Arc::new(Small::default());
    let keys = keys_on(store.clone()).await;
    let (info, _) = keys.create(named("k")).await.unwrap();
    store.full.store(true, Ordering::Relaxed);
    let error = keys.revoke(&info.id, false).await.unwrap_err();
    assert!(error.message.contains("nothing was changed"), "{}", error.message);
    assert_eq!(keys.one(&info.id).await.unwrap().status, "active");
}

/// The end of a gateway is one more try.
#[tokio::test]
async fn what_waits_is_written_when_the_gateway_stops() {
    let store = Arc::new(Small::default());
    let keys = keys_on(store.clone()).await;
    let (info, _) = keys.create(named("k")).await.unwrap();
    let audit = Audit::open(store.clone(), &[7; 32], crate::audit::LOCAL).await.unwrap();
    let stop = CancellationToken::new();
    let waits = keys.clone().catch_up(written_late(audit), stop.clone());
    store.full.store(true, Ordering::Relaxed);
    assert_eq!(keys.revoke(&info.id, false).await.unwrap_err().status(), 507);
    store.full.store(false, Ordering::Relaxed);
    stop.cancel();
    waits.await;
    assert!(stored(&store, &info.id).await);
}

#[tokio::test]
async fn a_token_revoked_on_a_full_disk_is_refused_and_the_answer_says_what_is_left_to_do() {
    let store = Arc::new(Small::default());
    let keys = keys_on(store.clone()).await;
    let new = json!({ "name": "ops", "role": "viewer" });
    let new = NewToken::read(new.as_object().unwrap().clone(), SystemTime::now()).unwrap();
    let (row, secret) = keys.create_token(new, &Actor::owner("test")).await.unwrap();
    let id = row["id"].as_str().unwrap();
    store.full.store(true, Ordering::Relaxed);
    let error = keys.revoke_token(id).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (507, "store_full"));
    let said = [id, "is refused by this gateway from now on", "free some space", "Revoke it again when there is room"];
    assert!(said.iter().all(|words| error.message.contains(words)), "{}", error.message);
    assert!(keys.actor(secret.expose(), SystemTime::now()).is_err());
    store.full.store(false, Ordering::Relaxed);
    assert!(keys.revoke_token(id).await.unwrap()["revoked"].is_string(), "asked again it is written");
}
