//! Google's credentials in the shapes that its own tools write: a service account's key (a signed grant), a person's refresh
//! token, workload identity federation (a token of another cloud, exchanged), each as another account where the file says so;
//! and without a file the account of the machine.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::grant::{self, Ask, Granted, Outside, Reach, failed, text};
use crate::{
    config::{self, Secret},
    error::Result,
};

#[derive(Debug)]
pub struct Login {
    how: How,
    /// Asked for a token of another account, with the first one.
    impersonate: Option<String>,
}

enum How {
    Account { key: EncodingKey, key_id: Option<String>, email: String, url: String },
    User { client: String, secret: Secret, refresh: Secret, url: String },
    External(Box<External>),
    Machine { url: String },
}

/// Workload identity federation.
struct External {
    audience: String,
    kind: String,
    subject: Subject,
    /// The field of a JSON document that holds the token; without one the document is the token.
    field: Option<String>,
    client: Option<(String, Secret)>,
    url: String,
}

enum Subject {
    File(PathBuf),
    Url { url: String, headers: Vec<(String, Secret)> },
}

impl std::fmt::Debug for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            How::Account { .. } => "service account",
            How::User { .. } => "authorized user",
            How::External(_) => "workload identity",
            How::Machine { .. } => "machine",
        })
    }
}

impl Login {
    pub fn of(login: &config::GoogleLogin) -> Result<Login, String> {
        let own = login.token_url.as_deref();
        let Some(document) = &login.credentials else {
            let url = own.unwrap_or(MACHINE).to_owned();
            return Ok(Login { how: How::Machine { url }, impersonate: None });
        };
        let document: Value = serde_json::from_str(document.expose()).map_err(|e| {
            format!("`google.credentials` is not the JSON that Google's tools write (line {})", e.line())
        })?;
        Login::read(&document, own)
    }

    fn read(document: &Value, own: Option<&str>) -> Result<Login, String> {
        let need = |key: &str| {
            text(document, key).map(str::to_owned).ok_or_else(|| format!("`google.credentials`: `{key}` is missing"))
        };
        let mut impersonate = None;
        let how = match need("type")?.as_str() {
            "service_account" => How::Account {
                key: EncodingKey::from_rsa_pem(need("private_key")?.as_bytes())
                    .map_err(|_| "`google.credentials`: `private_key` is no RSA key in PEM".to_owned())?,
                key_id: text(document, "private_key_id").map(str::to_owned),
                email: need("client_email")?,
                url: place(text(document, "token_uri"), TOKEN, own)?,
            },
            "authorized_user" => How::User {
                client: need("client_id")?,
                secret: Secret::new(need("client_secret")?),
                refresh: Secret::new(need("refresh_token")?),
                url: place(text(document, "token_uri"), TOKEN, own)?,
            },
            "external_account" => {
                impersonate = text(document, "service_account_impersonation_url").map(str::to_owned);
                How::External(Box::new(External::read(document, own)?))
            }
            "impersonated_service_account" => {
                let source = document.get("source_credentials").filter(|s| s["type"] != "impersonated_service_account");
                let source = source.ok_or("`google.credentials`: `source_credentials` is missing")?;
                impersonate = Some(need("service_account_impersonation_url")?);
                Login::read(source, own)?.how
            }
            other => {
                return Err(format!(
                    "`google.credentials`: type \"{other}\" is not known; service_account, authorized_user, \
                     external_account and impersonated_service_account are"
                ));
            }
        };
        let impersonate = impersonate.map(|url| place(Some(&url), "", own.map(|_| url.as_str()))).transpose()?;
        Ok(Login { how, impersonate })
    }

    pub async fn grant(&self, outside: &dyn Outside) -> Result<Granted> {
        let (ask, who) = match &self.how {
            How::Account { key, key_id, email, url } => {
                let assertion = assertion(key, key_id.as_deref(), email, url, outside.now())?;
                let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
                (Ask::form(url, &[grant, ("assertion", &assertion)])?, WHO)
            }
            How::User { client, secret, refresh, url } => {
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("client_id", client),
                    ("client_secret", secret.expose()),
                    ("refresh_token", refresh.expose()),
                ];
                (Ask::form(url, &fields)?, WHO)
            }
            How::External(external) => (external.ask(outside).await?, "Google's token exchange"),
            How::Machine { url } => {
                (Ask::get(url, Reach::Machine)?.header("metadata-flavor", "Google")?, "the machine's metadata service")
            }
        };
        let (token, lifetime) = grant::oauth(who, &grant::ask(outside, who, ask).await?)?;
        match &self.impersonate {
            Some(url) => as_another(url, &token, outside).await,
            None => grant::bearer(&token, lifetime),
        }
    }
}

/// The signed claim that a service account makes about itself.
fn assertion(key: &EncodingKey, key_id: Option<&str>, email: &str, url: &str, now: SystemTime) -> Result<String> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let header = Header { kid: key_id.map(str::to_owned), ..Header::new(Algorithm::RS256) };
    let claims = json!({ "iss": email, "scope": SCOPE, "aud": url, "iat": now, "exp": now + 3600 });
    jsonwebtoken::encode(&header, &claims, key).map_err(|_| failed("the service account's key cannot sign"))
}

impl External {
    fn read(document: &Value, own: Option<&str>) -> Result<External, String> {
        let need = |key: &str| {
            text(document, key).map(str::to_owned).ok_or_else(|| format!("`google.credentials`: `{key}` is missing"))
        };
        let source = &document["credential_source"];
        let subject = match (text(source, "file"), text(source, "url")) {
            (Some(file), _) => Subject::File(file.into()),
            (None, Some(url)) => {
                let headers = source["headers"].as_object().into_iter().flatten();
                let headers =
                    headers.filter_map(|(name, v)| Some((name.to_ascii_lowercase(), Secret::new(v.as_str()?))));
                Subject::Url { url: url.to_owned(), headers: headers.collect() }
            }
            (None, None) => {
                let why = "only a `file` or a `url` can be its `credential_source`: programs are not run, and AWS's own \
                           way is not known";
                return Err(format!("`google.credentials`: {why}"));
            }
        };
        let format = &source["format"];
        let field = match text(format, "type") {
            Some("json") => Some(
                text(format, "subject_token_field_name")
                    .ok_or("`google.credentials`: `subject_token_field_name` is missing")?
                    .to_owned(),
            ),
            _ => None,
        };
        let client = text(document, "client_id").zip(text(document, "client_secret"));
        Ok(External {
            audience: need("audience")?,
            kind: need("subject_token_type")?,
            subject,
            field,
            client: client.map(|(id, secret)| (id.to_owned(), Secret::new(secret))),
            url: place(text(document, "token_url"), EXCHANGE, own)?,
        })
    }

    async fn ask(&self, outside: &dyn Outside) -> Result<Ask> {
        let read = match &self.subject {
            Subject::File(file) => {
                outside.read(file).map_err(|why| failed(&format!("the subject token's file {why}")))?
            }
            Subject::Url { url, headers } => {
                let machine = url.starts_with("http://169.254.169.254/");
                let mut ask = Ask::get(url, if machine { Reach::Machine } else { Reach::Host })?;
                for (name, value) in headers {
                    let name = http::HeaderName::try_from(name).map_err(|_| failed("a header's name is wrong"))?;
                    let value = value.expose().parse().map_err(|_| failed("a header's value is wrong"))?;
                    ask.headers.insert(name, value);
                }
                let body = grant::ask(outside, "the subject token's address", ask).await?;
                String::from_utf8(body.to_vec()).map_err(|_| failed("the subject token is not text"))?
            }
        };
        let token = match &self.field {
            Some(field) => {
                let document = grant::json("the subject token's source", read.as_bytes())?;
                let found = text(&document, field).map(str::to_owned);
                found.ok_or_else(|| failed(&format!("the subject token's source has no field `{field}`")))?
            }
            None => read.trim().to_owned(),
        };
        let ask = Ask::form(
            &self.url,
            &[
                ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                ("audience", &self.audience),
                ("scope", SCOPE),
                ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
                ("subject_token_type", &self.kind),
                ("subject_token", &token),
            ],
        )?;
        match &self.client {
            Some((id, secret)) => {
                use base64::{Engine, prelude::BASE64_STANDARD};
                let pair = BASE64_STANDARD.encode(format!("{id}:{}", secret.expose()));
                ask.header("authorization", &format!("Basic {pair}"))
            }
            None => Ok(ask),
        }
    }
}

/// A token of another account, for one who may act as it.
async fn as_another(url: &str, token: &Secret, outside: &dyn Outside) -> Result<Granted> {
    let who = "Google's IAM";
    let mut ask = Ask::get(url, Reach::Host)?
        .header("authorization", &format!("Bearer {}", token.expose()))?
        .header("content-type", "application/json")?;
    ask.method = http::Method::POST;
    ask.body = json!({ "scope": [SCOPE], "lifetime": "3600s" }).to_string().into();
    let answer = grant::json(who, &grant::ask(outside, who, ask).await?)?;
    let token = text(&answer, "accessToken").ok_or_else(|| failed(&format!("{who} answered without a token")))?;
    let lifetime = grant::until(text(&answer, "expireTime"), outside.now());
    grant::bearer(&Secret::new(token), lifetime.max(Duration::from_secs(1)))
}

/// Where a secret goes: to Google, or to the address that the configuration names itself.
fn place(written: Option<&str>, usual: &str, own: Option<&str>) -> Result<String, String> {
    let url = own.or(written).unwrap_or(usual);
    let host = url::Url::parse(url).ok().and_then(|u| Some((u.scheme().to_owned(), u.host_str()?.to_owned())));
    match host {
        Some((scheme, host)) if scheme == "https" && host.ends_with(".googleapis.com") => Ok(url.to_owned()),
        Some(_) if own.is_some() => Ok(url.to_owned()),
        _ => Err(format!(
            "`google.credentials` names {url:?}: only https addresses of googleapis.com are asked, or `google.token_url`"
        )),
    }
}

const WHO: &str = "Google";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const TOKEN: &str = "https://oauth2.googleapis.com/token";
const EXCHANGE: &str = "https://sts.googleapis.com/v1/token";
const MACHINE: &str = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token";
