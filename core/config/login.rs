//! `aws`, `google` and `entra` of a provider, resolved: whose identity the gateway takes on at a cloud, and where it comes
//! from. Plain values; `provider::sign` uses them.

use std::path::PathBuf;

use aws_lc_rs::digest;

use super::Secret;

#[derive(Debug, Clone)]
pub enum Login {
    Aws(AwsLogin),
    Google(GoogleLogin),
    Entra(EntraLogin),
}

#[derive(Debug, Clone)]
pub enum AwsLogin {
    Keys { id: Secret, secret: Secret, session: Option<Secret> },
    Role(AwsRole),
}

/// Temporary keys, asked for again before they end.
#[derive(Debug, Clone)]
pub enum AwsRole {
    /// A cluster's service account (IRSA): its token lies in a file that is kept fresh.
    WebIdentity { arn: String, session: Option<String>, file: PathBuf, token_url: Option<String> },
    /// Another role, taken on with what `base` is.
    Assume {
        base: Box<AwsLogin>,
        arn: String,
        session: Option<String>,
        external_id: Option<String>,
        token_url: Option<String>,
    },
    /// ECS and EKS Pod Identity.
    Container { url: String, token: Option<Secret>, token_file: Option<PathBuf> },
    /// EC2.
    Instance { token_url: Option<String> },
}

#[derive(Debug, Clone, Default)]
pub struct GoogleLogin {
    /// A JSON document as Google's tools write it; `None`: the machine's own account.
    pub credentials: Option<Secret>,
    pub token_url: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct EntraLogin {
    pub tenant: Option<String>,
    pub client_id: Option<String>,
    pub client_secret: Option<Secret>,
    /// Kept fresh by a cluster; neither this nor a secret: the machine's own identity.
    pub token_file: Option<PathBuf>,
    pub scope: Option<String>,
    pub token_url: Option<String>,
}

/// Names that a cloud's address is made of, checked to be names and nothing else.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Places {
    pub region: Option<String>,
    pub project: Option<String>,
    pub location: Option<String>,
    pub resource: Option<String>,
    pub api_version: Option<String>,
}

impl Login {
    /// What names it across reloads: part of a SHA-256 over all that it holds.
    pub fn print(&self) -> [u8; 16] {
        let mut state = digest::Context::new(&digest::SHA256);
        let mut add = |part: Option<&str>| {
            state.update(&[u8::from(part.is_some())]);
            state.update(&(part.map_or(0, str::len) as u64).to_be_bytes());
            state.update(part.unwrap_or_default().as_bytes());
        };
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        match self {
            Login::Aws(AwsLogin::Keys { id, secret, session }) => {
                [Some("keys"), Some(id.expose()), Some(secret.expose()), session.as_ref().map(Secret::expose)]
                    .into_iter()
                    .for_each(add);
            }
            Login::Aws(AwsLogin::Role(AwsRole::WebIdentity { arn, session, file, token_url })) => {
                let file = path(file);
                [Some("web"), Some(arn), session.as_deref(), Some(&file), token_url.as_deref()]
                    .into_iter()
                    .for_each(add);
            }
            Login::Aws(AwsLogin::Role(AwsRole::Assume { base, arn, session, external_id, token_url })) => {
                let base = Login::Aws((**base).clone()).print();
                let base: String = base.iter().map(|byte| format!("{byte:02x}")).collect();
                let all = [session.as_deref(), external_id.as_deref(), token_url.as_deref()];
                [Some("assume"), Some(&base), Some(arn)].into_iter().chain(all).for_each(add);
            }
            Login::Aws(AwsLogin::Role(AwsRole::Container { url, token, token_file })) => {
                let file = token_file.as_ref().map(path);
                [Some("container"), Some(url), token.as_ref().map(Secret::expose), file.as_deref()]
                    .into_iter()
                    .for_each(add);
            }
            Login::Aws(AwsLogin::Role(AwsRole::Instance { token_url })) => {
                [Some("instance"), token_url.as_deref()].into_iter().for_each(add);
            }
            Login::Google(GoogleLogin { credentials, token_url }) => {
                [Some("google"), credentials.as_ref().map(Secret::expose), token_url.as_deref()]
                    .into_iter()
                    .for_each(add);
            }
            Login::Entra(EntraLogin { tenant, client_id, client_secret, token_file, scope, token_url }) => {
                let file = token_file.as_ref().map(path);
                let secret = client_secret.as_ref().map(Secret::expose);
                add(Some("entra"));
                [
                    tenant.as_deref(),
                    client_id.as_deref(),
                    secret,
                    file.as_deref(),
                    scope.as_deref(),
                    token_url.as_deref(),
                ]
                .into_iter()
                .for_each(add);
            }
        }
        let mut print = [0; 16];
        print.copy_from_slice(&state.finish().as_ref()[..16]);
        print
    }
}
