//! Values that may be lost, in Redis: over a connection of their own, so that a large one is in nobody's way, and one that does not
//! answer in time costs limits and rows nothing. What is decided is in the scripts.

use std::{sync::Arc, time::Duration};

use ::redis::Value;
use futures_util::future::BoxFuture;

use super::{
    link::Link,
    scripts::{EMPTY, KEEP, bytes, number, text},
};
use crate::store::{
    Result, StoreError,
    volatile::{Emptied, Placed, Put, Read, Volatile},
};

pub(super) struct Values {
    link: Arc<Link>,
    /// Of a value's name.
    prefix: String,
    mark: String,
    order: String,
    sizes: String,
    total: String,
}

impl Values {
    /// A server that is away is waited for by the link's keeper, not here.
    pub async fn open(mut link: Link) -> Values {
        link.quiet = true;
        let link = Arc::new(link);
        tokio::spawn(link.clone().keep());
        link.begin().await;
        let name = |what: &str| format!("{{{}}}:v:{what}", link.config.prefix);
        Values {
            prefix: name("="),
            mark: name("mark"),
            order: name("order"),
            sizes: name("sizes"),
            total: name("bytes"),
            link,
        }
    }

    fn books(&self) -> [&[u8]; 4] {
        [&self.mark, &self.order, &self.sizes, &self.total].map(|name| name.as_bytes())
    }

    fn odd(&self) -> StoreError {
        StoreError::Shared { at: self.link.at.clone(), why: "it gave an answer that nobody understands".to_owned() }
    }

    async fn look(&self, name: &str, patience: Duration) -> Result<Read> {
        let mut command = ::redis::cmd("MGET");
        command.arg(&self.mark).arg(format!("{}{name}", self.prefix));
        let answer = self.link.call(command, patience.min(self.link.config.timeout)).await?;
        let Value::Array(items) = answer else { return Err(self.odd()) };
        let value = match items.get(1) {
            Some(Value::BulkString(value)) => Some(value.clone()),
            _ => None,
        };
        Ok(Read { value, mark: of_mark(items.first()) })
    }

    async fn keep(&self, put: Put<'_>) -> Result<Placed> {
        let own = format!("{}{}", self.prefix, put.name);
        let keep = put.keep.as_millis().clamp(1, MOST_KEEP).to_string();
        let (mark, bound) = (put.mark.to_string(), put.bound.to_string());
        let [mark_key, order, sizes, total] = self.books();
        let keys = [mark_key, order, sizes, total, own.as_bytes()];
        let words = [put.name, &self.prefix, &keep, &mark, &bound].map(str::as_bytes);
        let args: Vec<&[u8]> = std::iter::once(put.value).chain(words).collect();
        let answer = self.link.run(&KEEP, &keys, &args, BEHIND).await?;
        self.link.took();
        match number(&answer, 0) {
            Some(0) => Ok(Placed::Emptied),
            Some(1) => Ok(Placed::Kept {
                evicted: number(&answer, 1).unwrap_or(0),
                bytes: number(&answer, 2).ok_or_else(|| self.odd())?,
            }),
            Some(2) => Ok(Placed::NoRoom),
            _ => Err(self.odd()),
        }
    }

    async fn take(&self, what: &str, names: &str, cursor: &str) -> Result<(String, Emptied)> {
        let args = [self.prefix.as_str(), what, names, cursor].map(str::as_bytes);
        let answer = self.link.run(&EMPTY, &self.books(), &args, BEHIND).await?;
        let at = |at: usize| number(&answer, at).ok_or_else(|| self.odd());
        let cursor = text(&answer, 0).ok_or_else(|| self.odd())?;
        Ok((cursor, Emptied { removed: at(1)?, mark: at(2)?, bytes: at(3)? }))
    }

    async fn empty_all(&self, names: &str) -> Result<Emptied> {
        let (mut cursor, mut so_far) = self.take("first", names, "0").await?;
        while cursor != "0" {
            let (next, piece) = self.take("next", names, &cursor).await?;
            cursor = next;
            so_far = Emptied { removed: so_far.removed + piece.removed, ..piece };
        }
        Ok(so_far)
    }

    async fn marked(&self) -> Result<u64> {
        let mut command = ::redis::cmd("GET");
        command.arg(&self.mark);
        Ok(of_mark(Some(&self.link.call(command, self.link.config.timeout).await?)))
    }
}

impl Volatile for Values {
    fn read<'a>(&'a self, name: &'a str, patience: Duration) -> BoxFuture<'a, Result<Read>> {
        Box::pin(self.look(name, patience))
    }

    fn put<'a>(&'a self, put: Put<'a>) -> BoxFuture<'a, Result<Placed>> {
        Box::pin(self.keep(put))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.take("one", name, "0").await.map(drop) })
    }

    fn empty<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Emptied>> {
        Box::pin(self.empty_all(prefix))
    }

    fn mark(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.marked())
    }
}

/// None yet: nothing was ever emptied.
fn of_mark(value: Option<&Value>) -> u64 {
    value.and_then(bytes).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(0)
}

/// Behind requests nobody waits.
const BEHIND: Duration = Duration::from_secs(5);
/// In milliseconds: ten years.
const MOST_KEEP: u128 = 315_360_000_000;
