//! One token: taken apart, and its signature checked against keys. Which keys may check which algorithm is decided here, and
//! never by the token.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::{Map, Value};

use super::{jwks::Jwk, refuse};
use crate::{config::Secret, error::Result};

pub(super) struct Token<'t> {
    pub algorithm: String,
    pub kid: Option<String>,
    /// Not to be believed before the signature is.
    pub claims: Map<String, Value>,
    signed: &'t str,
    signature: &'t str,
}

impl<'t> Token<'t> {
    pub fn parse(text: &'t str) -> Result<Token<'t>> {
        if text.len() > LONGEST {
            return Err(refuse(format!("this token is longer than {LONGEST} bytes")));
        }
        let broken = || refuse("this is no signed token (JWT): it has three parts with dots between them");
        let (signed, signature) = text.rsplit_once('.').ok_or_else(broken)?;
        let (header, claims) = signed.split_once('.').ok_or_else(broken)?;
        if claims.contains('.') || signature.is_empty() {
            return Err(broken());
        }
        let header = object(header).ok_or_else(broken)?;
        let claims = object(claims).ok_or_else(broken)?;
        if header.contains_key("crit") {
            return Err(refuse("this token wants an extension to be understood (`crit`) that is not"));
        }
        let text = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
        let algorithm = text("alg").ok_or_else(|| refuse("this token does not say how it is signed (`alg`)"))?;
        if header.get("kid").is_some_and(|kid| !kid.is_string()) {
            return Err(broken());
        }
        Ok(Token { algorithm, kid: text("kid"), claims, signed, signature })
    }

    /// By one of these public keys: of its own id where it has one.
    pub fn signed_by(&self, keys: &[Jwk]) -> Result<()> {
        let algorithm = self.known()?;
        if matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return Err(refuse("this token is signed with a secret, and its issuer has public keys"));
        }
        let named = |key: &&Jwk| self.kid.is_none() || key.kid == self.kid;
        let fit = keys.iter().filter(named).filter(|key| key.fits(&self.algorithm));
        let mut any = false;
        for key in fit.take(MOST_TRIED) {
            any = true;
            if self.checked(&key.key, algorithm) {
                return Ok(());
            }
        }
        Err(match any {
            true => refuse("the signature of this token is not right"),
            false => refuse("this token is signed by a key that its issuer does not show; get a new one"),
        })
    }

    pub fn signed_with_secret(&self, secret: &Secret) -> Result<()> {
        let algorithm = self.known()?;
        if !matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return Err(refuse("this token is not signed with its issuer's secret"));
        }
        let key = DecodingKey::from_secret(secret.expose().as_bytes());
        if self.checked(&key, algorithm) { Ok(()) } else { Err(refuse("the signature of this token is not right")) }
    }

    fn known(&self) -> Result<Algorithm> {
        self.algorithm.parse().map_err(|_| refuse("this token is signed by an algorithm that is not taken"))
    }

    fn checked(&self, key: &DecodingKey, algorithm: Algorithm) -> bool {
        key.family().algorithms().contains(&algorithm)
            && crypto::verify(self.signature, self.signed.as_bytes(), key, algorithm).unwrap_or(false)
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// Headers of requests are bounded too, and no issuer comes near this.
const LONGEST: usize = 16 << 10;
/// Without an id, each key that fits is tried.
const MOST_TRIED: usize = 8;
