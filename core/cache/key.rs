//! What makes two requests the same: all that goes upstream, whose they are, what they may reach, and under which policy.
//! Pure: a request in, a key out.
//!
//! Keys are by format. An answer repeats fields that only its own format has, formats differ in what they assume where
//! nothing is said (`max_tokens`), and the same bytes are the only sameness that needs no judgement. So two formats never
//! share an answer, and one that is kept can always be said again in full.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use aws_lc_rs::digest::{Context as Digest, SHA256};

use crate::{auth::Principal, codec::document::Document, context::Context, error::Result, seal::Tenant};

/// Whose an answer is. A part of the key that is compared as what it is, not as a text among others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whose {
    Team(Arc<str>),
    /// A key without a team is its own tenant.
    Key(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub whose: Whose,
    pub digest: [u8; 32],
}

impl Whose {
    pub fn of(principal: &Principal) -> Whose {
        match &principal.team {
            Some(team) => Whose::Team(team.clone()),
            None => Whose::Key(principal.key_id.clone()),
        }
    }

    pub fn tenant(&self) -> Tenant<'_> {
        match self {
            Whose::Team(name) => Tenant::Team(name),
            Whose::Key(name) => Tenant::Key(name),
        }
    }
}

/// The digest has the tenant in it already.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.digest[..8]);
    }
}

impl Key {
    /// `policy`: the version of what decides over answers. `headers`: names of those that travel upstream.
    pub fn of(cx: &Context, document: &mut Document, policy: &str, headers: &[&str]) -> Result<Key> {
        let whose = Whose::of(&cx.principal);
        let mut digest = Digest::new(&SHA256);
        let mut piece = |bytes: &[u8]| {
            digest.update(&(bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        piece(b"portcullis cache 1");
        // Another version may decide otherwise, and write another answer.
        piece(env!("CARGO_PKG_VERSION").as_bytes());
        match &whose {
            Whose::Team(name) => [b"team", name.as_bytes()].map(&mut piece),
            Whose::Key(name) => [b"key.", name.as_bytes()].map(&mut piece),
        };
        piece(policy.as_bytes());
        piece(cx.format.name().as_bytes());
        piece(cx.operation.name().as_bytes());
        piece(document.model().as_bytes());
        // Two keys of a team may not be allowed the same models: what one of them may not ask for, it is not told either.
        for list in &*cx.principal.models {
            piece(b"may use");
            list.models.iter().for_each(|name| piece(name.as_bytes()));
        }
        for (name, value) in cx.headers.iter().filter(|(name, _)| headers.contains(&name.as_str())) {
            piece(name.as_bytes());
            piece(value.as_bytes());
        }
        piece(b"body");
        document.tell(&mut |bytes| digest.update(bytes))?;
        let mut out = [0; 32];
        out.copy_from_slice(digest.finish().as_ref());
        Ok(Key { whose, digest: out })
    }
}
