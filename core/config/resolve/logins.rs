//! `aws`, `google` and `entra` of a provider: which identity is meant, and where it comes from. An empty table looks where
//! the cloud's own tools look, in the environment that the configuration is read with.

use std::path::PathBuf;

use super::{Found, MOST_SECRET, Resolver, path, profiles::Meant};
use crate::config::{AwsLogin, AwsRole, EntraLogin, GoogleLogin, Login, Secret, file, source::dotted, sources};

impl Resolver<'_, '_, '_> {
    /// The login, or why there is none yet.
    pub(super) fn login(&mut self, at: &[String], raw: &file::Provider) -> (Option<Login>, Option<String>) {
        let key = |key: &str| [at, &path(&[key])].concat();
        let named: Vec<&str> =
            [("aws", raw.aws.is_some()), ("google", raw.google.is_some()), ("entra", raw.entra.is_some())]
                .into_iter()
                .filter_map(|(name, there)| there.then_some(name))
                .collect();
        if let [first, second, ..] = named[..] {
            self.fault_at_key(&key(second), format!("`{}` and `{first}`: keep one of them", dotted(&key(second))));
        } else if let ([only], true) = (&named[..], raw.key.is_some() || raw.keys.is_some()) {
            self.fault_at_key(&key(only), format!("`{}` and a key: keep one of them", dotted(&key(only))));
        }
        let mut missing = None;
        let login = if let Some(aws) = &raw.aws {
            self.aws(&key("aws"), aws, &mut missing).map(Login::Aws)
        } else if let Some(google) = &raw.google {
            self.google(&key("google"), google, &mut missing).map(Login::Google)
        } else if let Some(entra) = &raw.entra {
            self.entra(&key("entra"), entra, &mut missing).map(Login::Entra)
        } else {
            None
        };
        (login, missing)
    }

    /// A role is taken on with whatever identity there is, unless a cluster's token proves it already.
    pub(super) fn aws(&mut self, at: &[String], raw: &file::Aws, missing: &mut Option<String>) -> Option<AwsLogin> {
        let (Some(arn), None) = (&raw.role_arn, &raw.token_file) else { return self.aws_base(at, raw, missing) };
        // Another address is that of the service which hands out the role.
        let base = file::Aws { role_arn: None, token_url: None, ..raw.clone() };
        Some(AwsLogin::Role(AwsRole::Assume {
            base: Box::new(self.aws_base(at, &base, missing)?),
            arn: arn.clone(),
            session: raw.session_name.clone(),
            external_id: raw.external_id.clone(),
            token_url: raw.token_url.clone(),
        }))
    }

    fn aws_base(&mut self, at: &[String], raw: &file::Aws, missing: &mut Option<String>) -> Option<AwsLogin> {
        let file::Aws {
            access_key_id,
            secret_access_key,
            session_token,
            role_arn,
            token_file,
            session_name,
            token_url,
            external_id: _,
            profile,
        } = raw;
        let env = self.around.env;
        if access_key_id.is_some() || secret_access_key.is_some() || session_token.is_some() {
            let (Some(id), Some(secret)) = (access_key_id, secret_access_key) else {
                let name = dotted(at);
                return self.fault(at, format!("`{name}` needs `access_key_id` and `secret_access_key` together"));
            };
            let id = self.held(at, "access_key_id", id, missing);
            let secret = self.held(at, "secret_access_key", secret, missing);
            let session = session_token.as_ref().map(|token| self.held(at, "session_token", token, missing));
            return Some(AwsLogin::Keys { id: id?, secret: secret?, session: session.flatten() });
        }
        let token_url = token_url.clone();
        let web = |arn: String, file: PathBuf| {
            AwsLogin::Role(AwsRole::WebIdentity {
                arn,
                session: session_name.clone(),
                file,
                token_url: token_url.clone(),
            })
        };
        match (role_arn, token_file) {
            (Some(arn), Some(file)) => return Some(web(arn.clone(), self.around.root.join(file))),
            (None, None) => {}
            _ => {
                let name = dotted(at);
                return self.fault(at, format!("`{name}` needs `role_arn` and `token_file` together"));
            }
        }
        // The order of AWS's own chain.
        if profile.is_none()
            && let Some(keys) = self.env_keys()
        {
            return Some(keys);
        }
        match self.profile(at, raw) {
            Meant::Login(login) => return Some(login),
            Meant::Refused => return None,
            Meant::Nothing => {}
        }
        if let (Some(arn), Some(file)) = (env("AWS_ROLE_ARN"), env("AWS_WEB_IDENTITY_TOKEN_FILE")) {
            let session = session_name.clone().or_else(|| env("AWS_ROLE_SESSION_NAME"));
            return Some(AwsLogin::Role(AwsRole::WebIdentity { arn, session, file: file.into(), token_url }));
        }
        if let Some(container) = self.container(token_url.as_deref()) {
            return Some(container);
        }
        if env("AWS_EC2_METADATA_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true")) {
            *missing = Some(
                "there are no keys of AWS, and AWS_EC2_METADATA_DISABLED keeps the machine's from being asked for"
                    .to_owned(),
            );
            return None;
        }
        Some(AwsLogin::Role(AwsRole::Instance { token_url }))
    }

    fn google(&mut self, at: &[String], raw: &file::Google, missing: &mut Option<String>) -> Option<GoogleLogin> {
        let file::Google { credentials, token_url } = raw;
        let at = [at, &path(&["credentials"])].concat();
        let named = credentials.clone();
        let usual = || (self.around.env)("GOOGLE_APPLICATION_CREDENTIALS").map(|file| format!("file:{file}"));
        let credentials = match named.or_else(usual) {
            None => None,
            Some(written) => match self.document(&at, &written)? {
                Found::Value(secret) => Some(secret),
                Found::Missing(why) => {
                    *missing = Some(why);
                    return None;
                }
            },
        };
        Some(GoogleLogin { credentials, token_url: token_url.clone() })
    }

    fn entra(&mut self, at: &[String], raw: &file::Entra, missing: &mut Option<String>) -> Option<EntraLogin> {
        let file::Entra { tenant, client_id, client_secret, token_file, scope, token_url } = raw;
        let env = self.around.env;
        let written = client_secret.is_some() || token_file.is_some();
        let client_secret = match client_secret {
            Some(written) => Some(self.held(at, "client_secret", written, missing)?),
            None if written => None,
            None => env("AZURE_CLIENT_SECRET").map(Secret::new),
        };
        let token_file = match token_file {
            Some(file) => Some(self.around.root.join(file)),
            None if written => None,
            None => env("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from),
        };
        Some(EntraLogin {
            tenant: tenant.clone().or_else(|| env("AZURE_TENANT_ID")),
            client_id: client_id.clone().or_else(|| env("AZURE_CLIENT_ID")),
            client_secret,
            token_file,
            scope: scope.clone(),
            token_url: token_url.clone(),
        })
    }

    fn held(&mut self, at: &[String], key: &str, written: &str, missing: &mut Option<String>) -> Option<Secret> {
        match self.secret(&[at, &path(&[key])].concat(), written)? {
            Found::Value(secret) => Some(secret),
            Found::Missing(why) => {
                missing.get_or_insert(why);
                None
            }
        }
    }

    /// A secret of several lines, from a file or a variable.
    fn document(&mut self, at: &[String], written: &str) -> Option<Found> {
        let name = dotted(at);
        if let Some(variable) = written.strip_prefix("env:") {
            return Some(match (self.around.env)(variable).filter(|value| !value.trim().is_empty()) {
                Some(value) => Found::Value(Secret::new(value)),
                None => Found::Missing(format!("environment variable {variable} is not set")),
            });
        }
        if let Some(found) = self.elsewhere(at, written) {
            // What nobody looked up is no document.
            return match (self.around.elsewhere, found) {
                (None, Ok(_)) => Some(Found::Missing(format!("\"{written}\" is read by a serving gateway"))),
                (_, found) => found.ok(),
            };
        }
        let Some(file) = written.strip_prefix("file:") else {
            let why = "must say where the credentials are, not hold them: \"file:secrets/google.json\" or \"env:NAME\"";
            return self.fault(at, format!("`{name}` {why}"));
        };
        let full = self.around.root.join(file);
        self.meets(&full);
        match sources::text(&full, MOST_SECRET) {
            Ok(Some(text)) => Some(Found::Value(Secret::new(text))),
            Ok(None) => self.fault(at, format!("`{name}`: there is no file {file:?} (from gateway.toml's folder)")),
            Err(e) => self.fault(at, format!("`{name}`: file {file:?} {e}")),
        }
    }
}
