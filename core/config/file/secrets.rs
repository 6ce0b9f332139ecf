//! The shape of `[secrets]` and `[audit]`: where secrets lie that this file only names, what seals them, and for how long it is
//! known what was done to the gateway.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Aws, OneOrMany, Span};

/// Where secrets lie that are neither in a variable nor in a file, and the key that seals what the gateway keeps.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// The key that opens all other keys: `file:PATH`, `env:NAME`, or a program that prints it, with its arguments
    /// (`["cmd:/usr/bin/kms", "decrypt"]`). Default: master.key in the data directory, made at the first start.
    pub master_key: Option<OneOrMany>,
    /// For `vault:PATH#FIELD`.
    pub vault: Option<Vault>,
    /// For `aws-sm:NAME` and `aws-sm:NAME#FIELD`.
    pub aws: Option<SecretsManager>,
}

/// HashiCorp Vault or OpenBao: a key-value store, version 2.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    /// `https://vault.internal:8200`. It may live on a private address.
    pub address: String,
    /// How the gateway logs in: one of them.
    pub auth: VaultAuth,
    /// Sent with each call.
    pub namespace: Option<String>,
    /// Where the key-value store is mounted. Default: the first word of a path.
    pub mount: Option<String>,
    /// PEM file with an extra certificate authority.
    pub ca: Option<String>,
    /// How often a value is looked at again, where its lease does not say. Default: 60s.
    pub poll: Option<Span>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultAuth {
    /// `env:NAME`, `file:PATH` or `store:NAME`.
    pub token: Option<String>,
    /// A role's id and secret.
    pub approle: Option<AppRole>,
    /// A cluster's service account.
    pub kubernetes: Option<Kubernetes>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppRole {
    /// `env:NAME`, `file:PATH` or `store:NAME`.
    pub role_id: String,
    /// `env:NAME`, `file:PATH` or `store:NAME`.
    pub secret_id: String,
    /// Default: approle.
    pub mount: Option<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// The role that the service account may take on.
    pub role: String,
    /// Read again at each login. Default: the service account's own token.
    pub token_file: Option<String>,
    /// Default: kubernetes.
    pub mount: Option<String>,
}

/// AWS Secrets Manager.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretsManager {
    /// Default: the variable AWS_REGION, or AWS_DEFAULT_REGION.
    pub region: Option<String>,
    /// Another address than the region's own.
    pub url: Option<String>,
    /// As a provider's `aws`. Default: where AWS's own tools look.
    pub aws: Option<Aws>,
    /// How often a value is looked at again. Default: 5m.
    pub poll: Option<Span>,
}

/// The log of what was done to the gateway, and of what it refused for reasons of security.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// How long a row is kept. Default: 365d.
    pub keep: Option<Span>,
}
