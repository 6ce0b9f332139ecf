//! Ids that live at an upstream, on their way to a client and back: sealed with what they are, whose they are and where
//! they live, so that nobody else can use or forge one and every follow-up goes to the same target. Pure: keeps no list of
//! what it sealed, and knows no store.
//!
//! The same id of the same tenant always has the same sealed form: clients compare ids. Only equality shows, which is what
//! AES-GCM-SIV leaves of a fixed nonce (RFC 8452, §4).

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

pub use self::rest::{AtRest, Name};
use crate::{
    auth::Principal,
    error::{Error, Kind, Result},
};

pub mod rest;

/// What an id is of. Each has the look that clients expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    File,
    Batch,
    Response,
    Conversation,
    /// Of an answer that is kept: only ever a name at rest.
    Item,
}

impl Thing {
    pub const fn prefix(self) -> &'static str {
        match self {
            Thing::File => "file-",
            Thing::Batch => "batch_",
            Thing::Response => "resp_",
            Thing::Conversation => "conv_",
            Thing::Item => "item_",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Thing::File => "file",
            Thing::Batch => "batch",
            Thing::Response => "response",
            Thing::Conversation => "conversation",
            Thing::Item => "item",
        }
    }
}

/// Whose an id is: a team's, or a key's own when it has no team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tenant<'a> {
    Team(&'a str),
    Key(&'a str),
}

impl<'a> Tenant<'a> {
    pub fn of(principal: &'a Principal) -> Tenant<'a> {
        match &principal.team {
            Some(team) => Tenant::Team(team),
            None => Tenant::Key(&principal.key_id),
        }
    }
}

/// What a sealed id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// `provider/model`, or a provider.
    pub target: String,
    /// The upstream's own id.
    pub id: String,
}

/// Seals and opens. The key is derived from the master key, so ids stay good over restarts.
pub struct Seals(LessSafeKey);

impl Seals {
    /// `secret`: derived from the master key for this purpose alone.
    pub fn new(secret: &[u8; 32]) -> Result<Seals> {
        let key = UnboundKey::new(&AES_256_GCM_SIV, secret)
            .map_err(|_| Error::new(Kind::Internal, "the key that seals ids cannot be made"))?;
        Ok(Seals(LessSafeKey::new(key)))
    }

    /// `target` holds no line break; an upstream's id may hold anything.
    pub fn seal(&self, thing: Thing, tenant: Tenant<'_>, target: &str, id: &str) -> Result<String> {
        let mut bytes = format!("{target}\n{id}").into_bytes();
        self.0
            .seal_in_place_append_tag(nonce(), Aad::from(bound(thing, tenant)), &mut bytes)
            .map_err(|_| Error::new(Kind::Internal, "an id could not be sealed"))?;
        Ok(format!("{}{}", thing.prefix(), URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// 404 for what this tenant does not own: another one's id, a forged one, none of ours.
    pub fn open(&self, thing: Thing, tenant: Tenant<'_>, text: &str) -> Result<Opened> {
        self.try_open(thing, tenant, text).ok_or_else(|| not_found(thing))
    }

    fn try_open(&self, thing: Thing, tenant: Tenant<'_>, text: &str) -> Option<Opened> {
        let text = text.strip_prefix(thing.prefix()).filter(|t| t.len() <= LONGEST)?;
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let plain = self.0.open_in_place(nonce(), Aad::from(bound(thing, tenant)), &mut bytes).ok()?;
        let (target, id) = std::str::from_utf8(plain).ok()?.split_once('\n')?;
        Some(Opened { target: target.to_owned(), id: id.to_owned() })
    }
}

/// Without saying which: who guesses learns nothing.
pub fn not_found(thing: Thing) -> Error {
    let name = thing.name();
    let message = format!("there is no such {name}: it is not one of your team's, it was deleted, or it never existed");
    Error::new(Kind::NotFound, message).with_code(match thing {
        Thing::File => "file_not_found",
        Thing::Batch => "batch_not_found",
        Thing::Response => "response_not_found",
        Thing::Conversation => "conversation_not_found",
        Thing::Item => "item_not_found",
    })
}

/// What an id is bound to without being told: it opens for nobody else, and as nothing else.
fn bound(thing: Thing, tenant: Tenant<'_>) -> Vec<u8> {
    let (kind, name) = match tenant {
        Tenant::Team(name) => ("team", name),
        Tenant::Key(name) => ("key", name),
    };
    format!("{}\n{kind}\n{name}", thing.name()).into_bytes()
}

/// Fixed: see above.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// What is longer was not made here.
const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: Tenant<'static> = Tenant::Team("lab");

    fn seals() -> Seals {
        Seals::new(&[7; 32]).expect("a key")
    }

    #[test]
    fn an_id_comes_back_to_its_tenant_with_its_target() {
        let seals = seals();
        for (thing, target, id) in [
            (Thing::File, "house", "file-abc"),
            (Thing::Batch, "house", "batch_1\n2"),
            (Thing::Response, "house/large", "resp_é"),
        ] {
            let sealed = seals.seal(thing, LAB, target, id).expect("sealed");
            assert!(sealed.starts_with(thing.prefix()) && sealed.len() < 90, "{sealed}");
            assert!(sealed.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{sealed}");
            assert!(!sealed.contains("abc"), "{sealed}");
            assert_eq!(sealed, seals.seal(thing, LAB, target, id).expect("sealed"), "it stays the same");
            let opened = seals.open(thing, LAB, &sealed).expect("opened");
            assert_eq!((opened.target.as_str(), opened.id.as_str()), (target, id));
        }
    }

    #[test]
    fn another_tenants_id_is_not_found() {
        let (seals, other) = (seals(), Seals::new(&[8; 32]).expect("a key"));
        let sealed = seals.seal(Thing::File, LAB, "house", "file-abc").expect("sealed");
        for tenant in [Tenant::Team("other"), Tenant::Key("lab"), Tenant::Team(""), Tenant::Key("")] {
            let error = seals.open(Thing::File, tenant, &sealed).expect_err("refused");
            assert_eq!((error.status(), error.code()), (404, "file_not_found"));
        }
        let as_batch = sealed.replace("file-", "batch_");
        assert_eq!(seals.open(Thing::Batch, LAB, &as_batch).expect_err("refused").status(), 404);
        assert!(other.open(Thing::File, LAB, &sealed).is_err(), "another gateway's");
    }

    #[test]
    fn a_forged_or_damaged_id_is_not_found() {
        let seals = seals();
        let sealed = seals.seal(Thing::File, LAB, "house", "file-abc").expect("sealed");
        for at in "file-".len()..sealed.len() {
            let mut forged = sealed.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("text");
            assert!(seals.open(Thing::File, LAB, &forged).is_err(), "{forged}");
        }
        let long = format!("file-{}", "A".repeat(4000));
        for wrong in ["", "file-", "file-abc", "abc", "file-é", "file-AAAAAAAAAAAAAAAAAAAAAAAA", &sealed[..20], &long]
        {
            assert!(seals.open(Thing::File, LAB, wrong).is_err(), "{wrong}");
        }
    }
}
