//! Values of AWS Secrets Manager: one signed call each, with keys or a role as providers of that cloud have them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{Failure, Read};
use crate::{
    config::{AwsLogin, Secret, SecretsManager},
    provider::sign::{Ask, AwsKeys, Identity, Outside, Reach, Scope, Unsigned, aws::Role, sigv4},
};

/// Keys of a role, for as long as they last.
#[derive(Default)]
pub(super) struct Keys {
    held: Mutex<Option<(AwsKeys, Instant)>>,
}

impl Keys {
    pub async fn forget(&self) {
        *self.held.lock().await = None;
    }

    pub async fn read(
        &self,
        manager: &SecretsManager,
        outside: &dyn Outside,
        name: &str,
        field: Option<&str>,
    ) -> Result<Read, Failure> {
        let mut again = true;
        loop {
            let keys = self.keys(manager, outside).await?;
            let answer = outside.send(ask(manager, &keys, name, outside)?).await;
            let answer = answer.map_err(|why| Failure::Unknown(format!("it cannot be reached ({why})")))?;
            let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            if answer.status == 200 {
                return value(&said, field);
            }
            // `namespace#Name`, or the name alone.
            let kind = said["__type"].as_str().and_then(|kind| kind.rsplit('#').next()).unwrap_or_default();
            match kind {
                "ResourceNotFoundException" => return Err(Failure::Absent(format!("there is no secret {name:?}"))),
                "ExpiredTokenException" | "UnrecognizedClientException" | "InvalidSignatureException" if again => {
                    again = false;
                    self.forget().await;
                }
                kind => {
                    let plain = kind.len() <= 64 && kind.bytes().all(|b| b.is_ascii_alphanumeric());
                    let word = if plain && !kind.is_empty() { format!(", {kind}") } else { String::new() };
                    return Err(Failure::Unknown(format!("it refused with status {}{word}", answer.status)));
                }
            }
        }
    }

    async fn keys(&self, manager: &SecretsManager, outside: &dyn Outside) -> Result<AwsKeys, Failure> {
        let role = match &manager.login {
            None => return Err(Failure::Unknown("the gateway has no identity there".to_owned())),
            Some(AwsLogin::Keys { id, secret, session }) => return Ok(AwsKeys::new(id, secret, session.as_ref())),
            Some(AwsLogin::Role(role)) => role,
        };
        let mut held = self.held.lock().await;
        if let Some((keys, until)) = held.as_ref().filter(|(_, until)| *until > Instant::now()) {
            let _ = until;
            return Ok(keys.clone());
        }
        let role = Role::of(role, Some(&manager.region)).map_err(Failure::Unknown)?;
        let granted = role.grant(outside).await.map_err(|e| Failure::Unknown(e.message.clone()))?;
        let Identity::Aws(keys) = granted.identity else {
            return Err(Failure::Unknown("the login gave no keys".to_owned()));
        };
        *held = Some((keys.clone(), Instant::now() + granted.lifetime.saturating_sub(AHEAD)));
        Ok(keys)
    }
}

fn ask(manager: &SecretsManager, keys: &AwsKeys, name: &str, outside: &dyn Outside) -> Result<Ask, Failure> {
    let region = &manager.region;
    let ending = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let usual = format!("https://secretsmanager.{region}.{ending}/");
    let odd = |_| Failure::Unknown("the request cannot be signed".to_owned());
    let mut ask = Ask::get(manager.url.as_deref().unwrap_or(&usual), Reach::Host).map_err(odd)?;
    ask.method = Method::POST;
    ask.body = Bytes::from(json!({ "SecretId": name }).to_string());
    ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
    ask.headers.insert(TARGET, HeaderValue::from_static("secretsmanager.GetSecretValue"));
    let body = [ask.body.clone()];
    let scope = Scope { service: "secretsmanager", region: region.clone() };
    let (method, url) = (ask.method.clone(), ask.url.clone());
    let mut request = Unsigned { method, url, headers: std::mem::take(&mut ask.headers), body: &body };
    sigv4::sign(keys, &scope, &mut request, outside.now()).map_err(odd)?;
    ask.headers = request.headers;
    Ok(ask)
}

fn value(said: &Value, field: Option<&str>) -> Result<Read, Failure> {
    let Some(text) = said["SecretString"].as_str().filter(|text| !text.trim().is_empty()) else {
        return Err(Failure::Absent("it has no text".to_owned()));
    };
    let text = match field {
        None => text.to_owned(),
        Some(field) => {
            let object: Value = serde_json::from_str(text)
                .map_err(|_| Failure::Absent("it is no JSON, so it has no fields".to_owned()))?;
            match &object[field] {
                Value::String(text) if !text.trim().is_empty() => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return Err(Failure::Absent(format!("it has no field {field:?}"))),
            }
        }
    };
    Ok(Read { value: Secret::new(text), lease: None })
}

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
/// So long before their end, keys of a role are not used any more.
const AHEAD: Duration = Duration::from_secs(120);
