//! Microsoft Entra: a token for an application, by its secret, by a federated token that a cluster keeps fresh in a file, or
//! as the identity of the machine.

use std::path::PathBuf;

use super::grant::{self, Ask, Granted, Outside, Reach, failed};
use crate::{
    config::{self, Secret},
    error::Result,
};

#[derive(Debug)]
pub struct Login {
    url: String,
    scope: String,
    how: How,
}

#[derive(Debug)]
enum How {
    Secret { client: String, secret: Secret },
    Federated { client: String, file: PathBuf },
    Machine { client: Option<String> },
}

impl Login {
    /// `scope` is the provider's row's; the configuration may name another one.
    pub fn of(login: &config::EntraLogin, scope: Option<&str>) -> Result<Login, String> {
        let config::EntraLogin { tenant, client_id, client_secret, token_file, scope: own, token_url } = login;
        let scope =
            own.as_deref().or(scope).ok_or("`entra.scope` is missing: for what shall the token be?")?.to_owned();
        let client = || client_id.clone().ok_or("`entra.client_id` is missing");
        let how = match (client_secret, token_file) {
            (Some(secret), _) => How::Secret { client: client()?, secret: secret.clone() },
            (None, Some(file)) => How::Federated { client: client()?, file: file.clone() },
            (None, None) => How::Machine { client: client_id.clone() },
        };
        let url = match (token_url, &how) {
            (Some(url), _) => url.clone(),
            (None, How::Machine { .. }) => MACHINE.to_owned(),
            (None, _) => {
                let tenant = tenant.as_deref().ok_or("`entra.tenant` is missing: the directory's id or domain")?;
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
                if tenant.is_empty() || !tenant.chars().all(plain) || tenant.contains("..") {
                    return Err(format!("`entra.tenant` {tenant:?} is neither an id nor a domain"));
                }
                format!("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token")
            }
        };
        Ok(Login { url, scope, how })
    }

    pub async fn grant(&self, outside: &dyn Outside) -> Result<Granted> {
        let scope = self.scope.as_str();
        let ask = match &self.how {
            How::Secret { client, secret } => Ask::form(
                &self.url,
                &[
                    ("grant_type", "client_credentials"),
                    ("client_id", client),
                    ("client_secret", secret.expose()),
                    ("scope", scope),
                ],
            )?,
            How::Federated { client, file } => {
                let token = outside.read(file).map_err(|why| failed(&format!("the token file {why}")))?;
                Ask::form(
                    &self.url,
                    &[
                        ("grant_type", "client_credentials"),
                        ("client_id", client),
                        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                        ("client_assertion", token.trim()),
                        ("scope", scope),
                    ],
                )?
            }
            How::Machine { client } => {
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                query.append_pair("api-version", "2018-02-01");
                query.append_pair("resource", scope.trim_end_matches("/.default"));
                if let Some(client) = client {
                    query.append_pair("client_id", client);
                }
                Ask::get(&format!("{}?{}", self.url, query.finish()), Reach::Machine)?.header("metadata", "true")?
            }
        };
        let (token, lifetime) = grant::oauth(WHO, &grant::ask(outside, WHO, ask).await?)?;
        grant::bearer(&token, lifetime)
    }
}

const WHO: &str = "Microsoft Entra";
const MACHINE: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
