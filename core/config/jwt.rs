//! `[auth.jwt.<name>]`, resolved: whose signed tokens are taken, and what their claims mean. Plain data; `auth::jwt` checks
//! tokens against it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use url::Url;

use super::{Grant, Over, Role, Secret};

#[derive(Debug, Clone)]
pub struct Issuer {
    /// As gateway.toml calls it.
    pub name: String,
    /// `iss`, letter for letter.
    pub issuer: String,
    pub audience: Vec<String>,
    /// Of one family of proofs: public keys, or a secret.
    pub algorithms: Vec<String>,
    pub proof: Proof,
    pub leeway: Duration,
    pub refresh: Duration,
    pub stale: Duration,
    pub required: Vec<String>,
    pub claims: Claims,
    pub team: Option<Arc<str>>,
    /// What values of the claim for roles mean; `None`: they are names of roles.
    pub roles: Option<BTreeMap<String, Vec<Grant>>>,
    /// Its tokens are taken at the control plane too.
    pub admin: bool,
}

impl Issuer {
    /// What these values of the claim for roles permit. A name alone is held over the holder's own teams: more than that only the
    /// file says, never a token.
    pub fn grants(&self, values: &[String]) -> Vec<Grant> {
        match &self.roles {
            Some(meaning) => values.iter().filter_map(|value| meaning.get(value)).flatten().cloned().collect(),
            None => {
                let role = |value: &String| Some(Grant { role: Role::parse(value)?, over: Over::Belonging });
                values.iter().filter_map(role).collect()
            }
        }
    }
}

#[derive(Debug, Clone)]
pub enum Proof {
    /// Public keys behind a URL; `private`: at an address of the own network.
    Fetched {
        url: Url,
        private: bool,
    },
    /// Public keys from a file, as it was read.
    Known(Arc<str>),
    Secret(Secret),
}

/// Paths of claims.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    pub user: String,
    pub team: Option<String>,
    pub organisation: Option<String>,
    pub roles: Option<String>,
    pub tags: Vec<(String, String)>,
}

/// Signatures with public keys; those with a secret.
pub const ASYMMETRIC: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
pub const SYMMETRIC: [&str; 3] = ["HS256", "HS384", "HS512"];
