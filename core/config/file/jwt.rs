//! The shape of `[auth.jwt.<name>]`: issuers whose tokens callers may send in place of a virtual key.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{OneOrMany, Span};

/// An issuer of signed tokens (JWT).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// What `iss` must be, letter for letter.
    pub issuer: String,
    /// What `aud` must name, at least one of them.
    pub audience: OneOrMany,
    /// Signatures that are taken. Default: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA; with `secret`: HS256.
    pub algorithms: Option<Vec<String>>,
    /// Where the issuer's public keys are (JWKS): `https://…`, or `file:PATH`.
    pub jwks: Option<String>,
    /// In place of public keys, for HS256, HS384 and HS512: `env:NAME` or `file:PATH`, 32 bytes at least.
    pub secret: Option<String>,
    /// By how much clocks may differ. Default: 60s.
    pub leeway: Option<Span>,
    /// Keys are fetched again so often. Default: 10m.
    pub refresh: Option<Span>,
    /// For so long keys hold when the issuer cannot be reached. Default: 24h.
    pub stale: Option<Span>,
    /// Claims that must be there, besides `exp`, `iss`, `aud` and the one of `claims.user`.
    pub required: Option<Vec<String>>,
    /// Which claims tell what; dots lead into objects (`realm_access.roles`).
    pub claims: Option<JwtClaims>,
    /// Of callers whose claims name no team. Default: none.
    pub team: Option<String>,
    /// What values of the claim `claims.roles` mean: a role or several, over the holder's teams or over what follows it
    /// (`{ "platform" = "operator@everything" }`). Values that are not named here mean nothing. Default: a value is the name of a role.
    pub roles: Option<BTreeMap<String, OneOrMany>>,
    /// `true`: its tokens are taken at the admin API too, for what their roles permit there. Default: false.
    pub admin: Option<bool>,
    /// Allow private and loopback addresses behind the name of `jwks`.
    pub private: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtClaims {
    /// Default: sub.
    pub user: Option<String>,
    /// Default: none is read.
    pub team: Option<String>,
    /// Default: none is read.
    pub organisation: Option<String>,
    /// Default: none is read.
    pub roles: Option<String>,
    /// Tags of the request, each from a claim.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}
