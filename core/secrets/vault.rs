//! Values of a key-value store of Vault's kind (KV, version 2), and the login that it takes: a token, AppRole, or a cluster's
//! service account. A login is renewed ahead of its end, and made anew when it is refused.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{Failure, Read};
use crate::{
    config::{Secret, Vault, VaultAuth},
    provider::sign::{Ask, Outside, Reach},
};

/// The login, for as long as it lasts.
#[derive(Default)]
pub(super) struct Login {
    held: Mutex<Option<Held>>,
}

#[derive(Clone)]
struct Held {
    token: Secret,
    renewable: bool,
    /// `None`: it has no end.
    renew: Option<Instant>,
    until: Option<Instant>,
}

impl Login {
    /// Another way in: what there is of the old one is forgotten.
    pub async fn forget(&self) {
        *self.held.lock().await = None;
    }

    pub async fn read(&self, vault: &Vault, outside: &dyn Outside, path: &str, field: &str) -> Result<Read, Failure> {
        let url = address(vault, path);
        let mut again = !matches!(vault.auth, VaultAuth::Token(_));
        loop {
            let token = self.token(vault, outside).await?;
            let (status, said) = send(vault, outside, Method::GET, &url, Some(&token), None).await?;
            match status {
                200 => return value(&said, path, field),
                404 => return Err(Failure::Absent(format!("there is nothing at {path:?}"))),
                // A login that was taken back, or that this path is closed to: only a new one can tell.
                403 if again => {
                    again = false;
                    self.forget().await;
                }
                403 => {
                    let why = format!("the login may not read {path:?} (403): its policy has to allow it");
                    return Err(Failure::Unknown(why));
                }
                status => return Err(Failure::Unknown(format!("{} answered with {status}", vault.address))),
            }
        }
    }

    /// Renews what is due. `None`: nothing will be, as it is.
    pub async fn keep(&self, vault: &Vault, outside: &dyn Outside) -> Option<Instant> {
        let due = |held: &Option<Held>| held.as_ref().and_then(|held| held.renew);
        if due(&*self.held.lock().await)? <= Instant::now()
            && let Err(Failure::Unknown(why) | Failure::Absent(why)) = self.token(vault, outside).await
        {
            tracing::warn!(why, "the login at the vault could not be renewed");
            return Some(Instant::now() + AGAIN);
        }
        due(&*self.held.lock().await)
    }

    /// A token that is good now. One asks, all others wait for it.
    async fn token(&self, vault: &Vault, outside: &dyn Outside) -> Result<Secret, Failure> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        if let Some(known) = held.as_mut() {
            let ended = known.until.is_some_and(|until| until <= now);
            if !ended && known.renew.is_none_or(|renew| renew > now) {
                return Ok(known.token.clone());
            }
            if !ended && known.renewable {
                let url = format!("{}/v1/auth/token/renew-self", vault.address);
                let said = send(vault, outside, Method::POST, &url, Some(&known.token), Some(json!({}))).await;
                if let Ok((200, said)) = said {
                    let fresh = Held::of(known.token.clone(), &said["auth"]);
                    *known = fresh;
                    return Ok(known.token.clone());
                }
            }
            if matches!(vault.auth, VaultAuth::Token(_)) && !ended {
                // It works to its end; nobody can make another one here.
                known.renew = known.until;
                return Ok(known.token.clone());
            }
        }
        let fresh = login(vault, outside).await?;
        let token = fresh.token.clone();
        *held = Some(fresh);
        Ok(token)
    }
}

impl Held {
    /// By the `auth` of an answer.
    fn of(token: Secret, auth: &Value) -> Held {
        let life = auth["lease_duration"].as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let now = Instant::now();
        Held {
            token,
            renewable: auth["renewable"] == true,
            renew: life.map(|life| now + life * 2 / 3),
            until: life.map(|life| now + life.saturating_sub(MARGIN.min(life / 10))),
        }
    }
}

async fn login(vault: &Vault, outside: &dyn Outside) -> Result<Held, Failure> {
    let (mount, body) = match &vault.auth {
        VaultAuth::Missing(why) => return Err(Failure::Unknown(why.clone())),
        VaultAuth::Token(token) => {
            let url = format!("{}/v1/auth/token/lookup-self", vault.address);
            let (status, said) = send(vault, outside, Method::GET, &url, Some(token), None).await?;
            return match status {
                200 => {
                    let data = &said["data"];
                    let auth = json!({ "lease_duration": data["ttl"], "renewable": data["renewable"] });
                    Ok(Held::of(token.clone(), &auth))
                }
                // It may use its paths and not look at itself.
                404 | 405 => Ok(Held::of(token.clone(), &Value::Null)),
                403 => Err(Failure::Unknown(format!("{} does not take the token (403)", vault.address))),
                status => Err(Failure::Unknown(format!("{} answered with {status}", vault.address))),
            };
        }
        VaultAuth::AppRole { role_id, secret_id, mount } => {
            (mount, json!({ "role_id": role_id.expose(), "secret_id": secret_id.expose() }))
        }
        VaultAuth::Kubernetes { role, token_file, mount } => {
            let unread = |why| Failure::Unknown(format!("the service account's token {} {why}", token_file.display()));
            let jwt = outside.read(token_file).map_err(unread)?;
            (mount, json!({ "role": role, "jwt": jwt.trim() }))
        }
    };
    let url = format!("{}/v1/auth/{}/login", vault.address, mount.trim_matches('/'));
    let (status, said) = send(vault, outside, Method::POST, &url, None, Some(body)).await?;
    let token = said["auth"]["client_token"].as_str().filter(|_| status == 200);
    let Some(token) = token else {
        let why = format!("{} does not let the gateway log in by auth/{mount} ({status})", vault.address);
        return Err(Failure::Unknown(why));
    };
    Ok(Held::of(Secret::new(token), &said["auth"]))
}

/// The value, and for how long it is worth keeping, where that is told.
fn value(said: &Value, path: &str, field: &str) -> Result<Read, Failure> {
    let fields = &said["data"]["data"];
    let text = match &fields[field] {
        Value::String(text) if !text.trim().is_empty() => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null if fields.is_object() => {
            return Err(Failure::Absent(format!("{path:?} has no field {field:?}")));
        }
        Value::Null => return Err(Failure::Absent(format!("what was at {path:?} is deleted"))),
        _ => return Err(Failure::Absent(format!("the field {field:?} of {path:?} is no text"))),
    };
    let lease = said["lease_duration"].as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    Ok(Read { value: Secret::new(text), lease })
}

/// `secret/openai` is `secret/data/openai` on the wire.
fn address(vault: &Vault, path: &str) -> String {
    let mount = match &vault.mount {
        Some(mount) if path.strip_prefix(mount.as_str()).is_some_and(|rest| rest.starts_with('/')) => mount.as_str(),
        Some(mount) => return format!("{}/v1/{mount}/data/{path}", vault.address),
        None => path.split('/').next().unwrap_or_default(),
    };
    let rest = path.get(mount.len() + 1..).unwrap_or_default();
    let rest = rest.strip_prefix("data/").unwrap_or(rest);
    format!("{}/v1/{mount}/data/{rest}", vault.address)
}

async fn send(
    vault: &Vault,
    outside: &dyn Outside,
    method: Method,
    url: &str,
    token: Option<&Secret>,
    body: Option<Value>,
) -> Result<(u16, Value), Failure> {
    let odd = |what: &str| Failure::Unknown(format!("{what} cannot be sent"));
    let mut ask = Ask::get(url, Reach::Host).map_err(|_| odd("the address"))?;
    ask.method = method;
    ask.headers.insert(ASKED, HeaderValue::from_static("true"));
    if let Some(namespace) = &vault.namespace {
        ask.headers.insert(NAMESPACE, HeaderValue::from_str(namespace).map_err(|_| odd("the namespace"))?);
    }
    if let Some(token) = token {
        let mut token = HeaderValue::from_str(token.expose().trim()).map_err(|_| odd("the token"))?;
        token.set_sensitive(true);
        ask.headers.insert(TOKEN, token);
    }
    if let Some(body) = body {
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        ask.body = Bytes::from(body.to_string());
    }
    let unreached = |why| Failure::Unknown(format!("{} cannot be reached ({why})", vault.address));
    let answer = outside.send(ask).await.map_err(unreached)?;
    let said = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status == 200 && said == Value::Null {
        return Err(Failure::Unknown(format!("{} answered with something that is not JSON", vault.address)));
    }
    Ok((answer.status, said))
}

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Asked for by the server against forged requests.
const ASKED: HeaderName = HeaderName::from_static("x-vault-request");
/// After a renewal that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// What is left of a login then is not worth a try.
const MARGIN: Duration = Duration::from_secs(5);
