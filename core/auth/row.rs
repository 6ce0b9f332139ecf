//! A virtual key as the store keeps it and as lists show it. The key itself is never kept: only its keyed hash.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::expiry;
use crate::config::Limits;

/// The stored form: JSON under the key's id. Seconds since the epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    pub created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
    /// The newest last; older ones are rotated out at their `until`.
    pub secrets: Vec<SecretRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretRow {
    /// HMAC-SHA256 of the whole key under the master key, hex.
    pub hash: String,
    pub last4: String,
    pub created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// A key as the API and `portcullis keys list` show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyInfo {
    pub id: String,
    pub name: String,
    pub team: Option<String>,
    /// `null`: every model.
    pub models: Option<Vec<String>>,
    /// `null`: none of its own; those of its team bind it all the same.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// `active`, `expired` or `revoked`.
    pub status: String,
    /// `sk-pc-…wxyz`: enough to recognise a key by, useless without the rest.
    pub hint: String,
    pub created: String,
    pub expires: Option<String>,
    pub revoked: Option<String>,
    /// After a rotation with overlap: until when the former secret works.
    pub former_secret_until: Option<String>,
}

impl Row {
    pub fn info(&self, id: &str, now: SystemTime) -> KeyInfo {
        let now = expiry::to_seconds(now);
        let status = match (self.revoked, self.expires) {
            (Some(_), _) => "revoked",
            (None, Some(at)) if at <= now => "expired",
            _ => "active",
        };
        let former = self.secrets.iter().filter_map(|s| s.until).filter(|at| *at > now).max();
        KeyInfo {
            id: id.to_owned(),
            name: self.name.clone(),
            team: self.team.clone(),
            models: self.models.clone(),
            limits: self.limits,
            status: status.to_owned(),
            hint: format!("sk-pc-…{}", self.secrets.last().map_or("", |s| s.last4.as_str())),
            created: expiry::show(self.created),
            expires: self.expires.map(expiry::show),
            revoked: self.revoked.map(expiry::show),
            former_secret_until: former.map(expiry::show),
        }
    }
}
