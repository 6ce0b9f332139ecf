//! Who calls: virtual keys to principals, from a table in memory. The store is read once at the start and written by the
//! control plane; it is never on a request's path.

use std::sync::Arc;

pub mod credential;
pub mod expiry;
pub mod keys;
mod row;
pub mod table;

pub use credential::{credential, in_protocol};
pub use keys::{Keys, NewKey};
pub use row::KeyInfo;
pub use table::{Table, member};

use crate::config::Rule;

/// The caller, as every later step sees it.
#[derive(Debug, Clone, Default)]
pub struct Principal {
    /// `key_…`; empty for the open gateway's anonymous caller.
    pub key_id: Arc<str>,
    pub key_name: Arc<str>,
    pub team: Option<Arc<str>>,
    pub user: Option<Arc<str>>,
    pub roles: Vec<String>,
    /// Allowed models with wildcards (`openai/*`), key's and team's both to be passed; `None`: all.
    pub key_models: Option<Arc<[String]>>,
    pub team_models: Option<Arc<[String]>>,
    /// What binds it in each of its scopes; all of them hold, each by itself. Empty for most.
    pub rules: Arc<[Rule]>,
}

impl Principal {
    /// What scopes caches, kv, records and ids: the team, or the key itself when it has none.
    pub fn tenant(&self) -> &str {
        self.team.as_deref().unwrap_or(&self.key_id)
    }

    /// May this caller use a model by this name (an alias, or `provider/model`)?
    pub fn may_use(&self, model: &str) -> bool {
        let pass = |list: &Option<Arc<[String]>>| list.as_ref().is_none_or(|l| l.iter().any(|p| wildcard(p, model)));
        pass(&self.key_models) && pass(&self.team_models)
    }
}

/// `*` stands for any run of characters.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests;
