//! A kept answer as bytes and back: whose it is and to what question it is the answer go with it, so that what lies under a wrong name,
//! or was written by another version, is not taken for it. Pure.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    cache::{Given, Kept, Key, Whose, weight},
    clock,
    error::{Error, Kind, Result},
    lanes::Content,
    model::Response,
    store::hex,
};

/// What stands before the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// Of this and of the answer behind it.
    layout: u32,
    whose: Owner,
    digest: String,
    target: String,
    /// In milliseconds since 1970.
    born: u64,
    /// In nano-dollars, where it is known.
    cost: Option<i64>,
    /// The answer is bytes that no stage looks into.
    vectors: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Owner {
    Team(String),
    Key(String),
}

impl Owner {
    fn of(whose: &Whose) -> Owner {
        match whose {
            Whose::Team(name) => Owner::Team(name.to_string()),
            Whose::Key(name) => Owner::Key(name.to_string()),
        }
    }
}

pub fn pack(key: &Key, kept: &Kept, now: SystemTime) -> Result<Content> {
    let broken = |e| Error::new(Kind::Internal, "an answer cannot be written down").because(e);
    let age = kept.age(clock::now());
    let head = Head {
        layout: LAYOUT,
        whose: Owner::of(&key.whose),
        digest: hex::encode(&key.digest),
        target: kept.target.to_string(),
        born: millis(now).saturating_sub(age.as_millis() as u64),
        cost: kept.worth(),
        vectors: matches!(kept.given, Given::Vectors(_)),
    };
    let body = match &kept.given {
        Given::Said(response) => serde_json::to_vec(&**response).map_err(broken)?.into(),
        Given::Vectors(bytes) => bytes.clone(),
    };
    Ok(Content { head: serde_json::to_vec(&head).map_err(broken)?.into(), body })
}

/// `None`: it is no answer to that, or none that this version reads.
pub fn unpack(key: &Key, content: &Content, now: SystemTime) -> Option<Kept> {
    let head: Head = serde_json::from_slice(&content.head).ok()?;
    let mine = head.layout == LAYOUT && head.whose == Owner::of(&key.whose) && head.digest == hex::encode(&key.digest);
    if !mine {
        return None;
    }
    let (given, size) = match head.vectors {
        true => (Given::Vectors(content.body.clone()), weight::of_bytes(&content.body)),
        false => {
            let response: Response = serde_json::from_slice(&content.body).ok()?;
            let size = weight::weight(&response);
            (Given::Said(Arc::new(response)), size)
        }
    };
    Some(Kept {
        given,
        target: head.target.into(),
        born: clock::now(),
        // Two clocks may differ: nothing is younger than new.
        earlier: Duration::from_millis(millis(now).saturating_sub(head.born)),
        cost: OnceLock::from(head.cost),
        size,
    })
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Another one wherever the shape of an answer changes: what was written in another is not read.
const LAYOUT: u32 = 1;
