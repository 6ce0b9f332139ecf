//! `[auth.jwt.…]`: issuers of signed tokens. What could let a forged token in is refused here, by its line: a secret beside
//! public keys, `none`, keys over plain HTTP.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use url::{Host, Url};

use super::{Found, MOST_SECRET, Resolver, path};
use crate::config::{
    Grant, file,
    jwt::{ASYMMETRIC, Claims, Issuer, Proof, SYMMETRIC},
    sources,
};

impl Resolver<'_, '_, '_> {
    pub(super) fn jwt(&mut self, raw: BTreeMap<String, file::Jwt>) -> Vec<Issuer> {
        let mut all: Vec<Issuer> = Vec::new();
        for (name, raw) in raw {
            let at = path(&["auth", "jwt", &name]);
            let Some(issuer) = self.issuer(&at, name, raw) else { continue };
            if all.iter().any(|other| other.issuer == issuer.issuer && other.audience == issuer.audience) {
                self.fault_at_key(&at, "another issuer has the same `issuer` and `audience`: keep one of both");
            }
            all.push(issuer);
        }
        all
    }

    fn issuer(&mut self, at: &[String], name: String, raw: file::Jwt) -> Option<Issuer> {
        let under = |key: &str| [at, &path(&[key])].concat();
        if raw.issuer.trim().is_empty() {
            self.tell(&under("issuer"), "`issuer` is empty: write what `iss` of its tokens says");
        }
        let audience = match raw.audience {
            file::OneOrMany::One(one) => vec![one],
            file::OneOrMany::Many(many) => many,
        };
        if audience.is_empty() || audience.iter().any(|a| a.trim().is_empty()) {
            self.tell(
                &under("audience"),
                "`audience` is empty: without it a token made for another service would be taken",
            );
        }
        let proof = match (raw.jwks, raw.secret) {
            (Some(jwks), None) => self.public_keys(&under("jwks"), &jwks, raw.private.unwrap_or(false))?,
            (None, Some(secret)) => self.shared(&under("secret"), &secret)?,
            (Some(_), Some(_)) => {
                let message = "public keys and a secret for one issuer: whoever knows the public key could sign with it. Keep \
                               `jwks` or `secret`, or make them two issuers";
                return self.fault(&under("secret"), message);
            }
            (None, None) => {
                self.fault_at_key(at, "an issuer needs `jwks`: where its public keys are (or `secret`)");
                return None;
            }
        };
        let secret = matches!(proof, Proof::Secret(_));
        let (fits, usual): (&[&str], &[&str]) =
            if secret { (&SYMMETRIC, &SYMMETRIC[..1]) } else { (&ASYMMETRIC, &ASYMMETRIC) };
        for (n, algorithm) in raw.algorithms.iter().flatten().enumerate().filter(|(_, a)| !fits.contains(&a.as_str())) {
            let at = self.entry(&under("algorithms"), n);
            let other = SYMMETRIC.contains(&algorithm.as_str()) || ASYMMETRIC.contains(&algorithm.as_str());
            let message = match (other, secret) {
                (true, true) => format!("{algorithm:?} needs public keys (`jwks`), not a secret"),
                (true, false) => format!("{algorithm:?} needs a `secret`: with public keys anybody could sign"),
                _ => format!("{algorithm:?} is not taken: use some of {}", fits.join(", ")),
            };
            self.tell(&at, message);
        }
        let algorithms = raw.algorithms.unwrap_or_else(|| usual.iter().map(|a| (*a).to_owned()).collect());
        if algorithms.is_empty() {
            self.tell(&under("algorithms"), "an empty list would take no token: leave it out for the usual ones");
        }
        let claims = raw.claims.unwrap_or_default();
        let roles = raw.roles.map(|roles| self.meanings(&under("roles"), roles));
        if roles.is_some() && claims.roles.is_none() {
            self.tell(&under("roles"), "`roles` says what values of a claim mean: name that claim in `claims.roles`");
        }
        let span = |r: &mut Self, key: &str, raw, usual| r.span(&under(key), raw).unwrap_or(usual);
        let leeway = self.span_or_zero(&under("leeway"), raw.leeway, LEEWAY);
        if leeway > MOST_LEEWAY {
            self.tell(&under("leeway"), "`leeway` is at most 10m: tokens would outlive their end");
        }
        Some(Issuer {
            name,
            issuer: raw.issuer,
            audience,
            algorithms,
            proof,
            leeway,
            refresh: span(self, "refresh", raw.refresh, REFRESH),
            stale: span(self, "stale", raw.stale, STALE),
            required: raw.required.unwrap_or_default(),
            claims: Claims {
                user: claims.user.unwrap_or_else(|| "sub".to_owned()),
                team: claims.team,
                organisation: claims.organisation,
                roles: claims.roles,
                tags: claims.tags.into_iter().collect(),
            },
            team: raw.team.map(Arc::from),
            roles,
            admin: raw.admin.unwrap_or(false),
        })
    }

    fn meanings(&mut self, at: &[String], raw: BTreeMap<String, file::OneOrMany>) -> BTreeMap<String, Vec<Grant>> {
        let mut all = BTreeMap::new();
        for (value, raw) in raw {
            let at = [at, &path(&[&value])].concat();
            let (names, many) = match raw {
                file::OneOrMany::One(one) => (vec![one], false),
                file::OneOrMany::Many(many) => (many, true),
            };
            let mut grants = Vec::new();
            for (n, name) in names.iter().enumerate() {
                let at = if many { self.entry(&at, n) } else { at.clone() };
                match Grant::parse(name) {
                    Ok(grant) => grants.push(grant),
                    Err(message) => self.tell(&at, message),
                }
            }
            all.insert(value, grants);
        }
        all
    }

    /// Public keys: `https://…`, plain HTTP on this machine only, or `file:PATH`.
    fn public_keys(&mut self, at: &[String], written: &str, private: bool) -> Option<Proof> {
        if let Some(file) = written.strip_prefix("file:") {
            let full = self.around.root.join(file);
            self.meets(&full);
            return match sources::text(&full, MOST_KEYS) {
                Ok(Some(text)) => Some(Proof::Known(text.into())),
                Ok(None) => self.fault(at, format!("there is no file {file:?} (from gateway.toml's folder)")),
                Err(e) => self.fault(at, format!("file {file:?} {e}")),
            };
        }
        let Ok(url) = Url::parse(written) else {
            return self
                .fault(at, format!("{written:?} is no URL such as https://issuer.example/keys, and no file:PATH"));
        };
        let local = match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        match url.scheme() {
            "https" => {}
            "http" if local => {}
            _ => {
                let message = "keys are fetched by https:// only (by http:// on this machine): on the way they could be \
                               exchanged";
                return self.fault(at, message);
            }
        }
        if !url.username().is_empty() || url.password().is_some() {
            return self.fault(at, "leave the login out of this address: public keys need none");
        }
        Some(Proof::Fetched { url, private })
    }

    fn shared(&mut self, at: &[String], written: &str) -> Option<Proof> {
        match self.secret(at, written)? {
            Found::Value(secret) if secret.expose().len() < LEAST_SECRET => {
                self.fault(at, format!("this secret has fewer than {LEAST_SECRET} bytes: it could be guessed"))
            }
            Found::Value(secret) => Some(Proof::Secret(secret)),
            Found::Missing(why) => self.fault(at, format!("{why}; set it, or remove this issuer")),
        }
    }
}

const LEEWAY: Duration = Duration::from_secs(60);
const MOST_LEEWAY: Duration = Duration::from_secs(600);
const REFRESH: Duration = Duration::from_secs(600);
const STALE: Duration = Duration::from_secs(86_400);
/// As long as the shortest hash that is signed with it (RFC 7518, 3.2).
const LEAST_SECRET: usize = 32;
const MOST_KEYS: u64 = MOST_SECRET * 4;
