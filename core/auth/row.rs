//! Virtual keys, identities and admin tokens as the store keeps them and as lists show them. No secret is ever kept: only its
//! keyed hash.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    bound::Bound,
    directory::{Identity, Sort, names_of},
    expiry,
    terms::TermsRow,
};
use crate::{
    config::{Grant, Limits, Scope},
    error::{Error, Result},
};

/// The stored form of a key: JSON under the key's id. Seconds since the epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// All other terms; `models` and `limits` stand above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Box<TermsRow>>,
    pub created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
    /// Refused until it is enabled again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// With the revocation, or while it is disabled: what ran with it was ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
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

/// The stored form of an organisation, a team, a user: under its sort's letter and its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organisation: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub teams: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub service: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// When it was disabled, what ran with its keys was ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    #[serde(default)]
    pub terms: TermsRow,
    pub created: u64,
}

/// The stored form of an admin token: under its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRow {
    pub name: String,
    /// On whose behalf; without roles of its own it holds what this user holds at the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organisation: Option<String>,
    pub created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
    /// HMAC-SHA256 of the whole token under the master key, hex.
    pub hash: String,
    pub last4: String,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A key as the API and `portcullis keys list` show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyInfo {
    pub id: String,
    pub name: String,
    pub team: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    /// `null`: every model.
    pub models: Option<Vec<String>>,
    /// `null`: none of its own; those of its team bind it all the same.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// `active`, `disabled`, `expired` or `revoked`.
    pub status: String,
    /// `sk-pc-…wxyz`: enough to recognise a key by, useless without the rest.
    pub hint: String,
    pub created: String,
    pub expires: Option<String>,
    pub revoked: Option<String>,
    /// After a rotation with overlap: until when the former secret works.
    pub former_secret_until: Option<String>,
    /// All other terms, by name.
    #[serde(skip)]
    pub terms: TermsRow,
}

impl Row {
    pub fn terms(&self) -> TermsRow {
        let rest = self.terms.as_deref().cloned().unwrap_or_default();
        TermsRow { models: self.models.clone(), limits: self.limits, ..rest }
    }

    pub fn set_terms(&mut self, terms: TermsRow) {
        self.models = terms.models.clone();
        self.limits = terms.limits;
        let rest = TermsRow { models: None, limits: None, ..terms };
        self.terms = (rest != TermsRow::default()).then(|| Box::new(rest));
    }

    /// What it binds its callers to; `None`: nothing of its own.
    pub fn bound(&self, id: &Arc<str>, name: &Arc<str>) -> Result<Option<Arc<Bound>>> {
        if self.models.is_none() && self.limits.is_none() && self.terms.is_none() {
            return Ok(None);
        }
        let terms = self.terms().stored()?;
        Ok(Some(Bound::new(Scope::Key(id.clone()), name, terms)))
    }

    pub fn info(&self, id: &str, now: SystemTime) -> KeyInfo {
        let now = expiry::to_seconds(now);
        let status = match (self.revoked, self.expires) {
            (Some(_), _) => "revoked",
            (None, Some(at)) if at <= now => "expired",
            _ if self.disabled => "disabled",
            _ => "active",
        };
        let former = self.secrets.iter().filter_map(|s| s.until).filter(|at| *at > now).max();
        KeyInfo {
            id: id.to_owned(),
            name: self.name.clone(),
            team: self.team.clone(),
            user: self.user.clone(),
            models: self.models.clone(),
            limits: self.limits,
            status: status.to_owned(),
            hint: format!("sk-pc-…{}", self.secrets.last().map_or("", |s| s.last4.as_str())),
            created: expiry::show(self.created),
            expires: self.expires.map(expiry::show),
            revoked: self.revoked.map(expiry::show),
            former_secret_until: former.map(expiry::show),
            terms: self.terms(),
        }
    }
}

impl KeyInfo {
    /// With all terms.
    pub fn json(&self) -> Value {
        let mut shown = json!(self);
        if let Value::Object(fields) = &mut shown {
            self.terms.show(fields);
        }
        shown
    }
}

impl IdentityRow {
    pub fn identity(&self, sort: Sort, name: &Arc<str>) -> Result<Identity> {
        let roles: Result<Vec<Grant>, String> = self.roles.iter().map(|role| Grant::parse(role)).collect();
        let roles = roles.map_err(|e| Error::invalid("roles", e))?;
        Ok(Identity {
            organisation: self.organisation.as_deref().map(Arc::from),
            teams: self.teams.iter().map(|team| Arc::from(team.as_str())).collect(),
            email: self.email.as_deref().map(Arc::from),
            role_names: names_of(&roles),
            roles,
            service: self.service,
            disabled: self.disabled,
            cut: self.cut,
            ..Identity::of(sort, name, self.terms.stored()?)
        })
    }
}

impl TokenRow {
    pub fn json(&self, id: &str, now: SystemTime) -> Value {
        let now = expiry::to_seconds(now);
        let status = match (self.revoked, self.expires) {
            (Some(_), _) => "revoked",
            (None, Some(at)) if at <= now => "expired",
            _ => "active",
        };
        json!({
            "id": id,
            "name": self.name,
            "user": self.user,
            "roles": self.roles,
            "team": self.team,
            "organisation": self.organisation,
            "status": status,
            "hint": format!("sk-pca-…{}", self.last4),
            "created": expiry::show(self.created),
            "expires": self.expires.map(expiry::show),
            "revoked": self.revoked.map(expiry::show),
            "by": self.by,
        })
    }
}

/// Fields of an object, taken apart by who knows them.
pub(super) fn object(value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Error::new(crate::error::Kind::InvalidRequest, "the body is a JSON object")),
    }
}
