//! `[secrets]`, `[audit]`, and every secret that gateway.toml names: from a variable, from a file, or from elsewhere.

use std::time::Duration;

use super::{Found, MOST_SECRET, Resolver, path};
use crate::config::{
    Audit, Master, Reference, Secret, Secrets, SecretsManager, Told, Vault, VaultAuth, file, source::dotted, sources,
};

impl Resolver<'_, '_, '_> {
    pub(super) fn audit(&mut self, raw: file::Audit) -> Audit {
        let default = Audit::default();
        Audit { keep: self.span(&path(&["audit", "keep"]), raw.keep).unwrap_or(default.keep) }
    }

    pub(super) fn secrets(&mut self, raw: file::Secrets) -> Secrets {
        let at = path(&["secrets", "master_key"]);
        let written = raw.master_key.map(|key| match key {
            file::OneOrMany::One(key) => vec![key],
            file::OneOrMany::Many(words) => words,
        });
        let master = written.map(|words| Master::parse(&words, self.around.root));
        let master =
            master.and_then(|parsed| parsed.map_err(|why| self.tell(&at, format!("`secrets.master_key` {why}"))).ok());
        let vault = raw.vault.map(|vault| self.vault(vault));
        let aws = raw.aws.is_some().then(|| self.secrets_manager(raw.aws.unwrap_or_default())).flatten();
        Secrets { master, vault, aws, references: Vec::new(), root: self.around.root.to_owned() }
    }

    /// References need to know who can be asked: the tables come first, whatever names them.
    pub(super) fn wants_vault(&mut self, at: &[String], written: &str) {
        if !self.around.source.has(&path(&["secrets", "vault"])) {
            let what = "needs `[secrets.vault]` with its address and how the gateway logs in";
            self.tell(at, format!("`{}`: \"{written}\" {what}", dotted(at)));
        }
    }

    fn vault(&mut self, raw: file::Vault) -> Vault {
        let at = |key: &str| path(&["secrets", "vault", key]);
        let address = raw.address.trim_end_matches('/').to_owned();
        let whole = url::Url::parse(&address)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some() && url.query().is_none());
        if !whole || address.contains('@') {
            self.tell(
                &at("address"),
                "`secrets.vault.address` must be an address such as \"https://vault.internal:8200\"",
            );
        }
        for (key, text) in [("namespace", &raw.namespace), ("mount", &raw.mount)] {
            let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            if text.as_ref().is_some_and(|text| text.is_empty() || !text.chars().all(fine) || text.contains("..")) {
                self.tell(
                    &at(key),
                    format!("`secrets.vault.{key}` is a plain path of letters, digits, `-`, `_` and `/`"),
                );
            }
        }
        Vault {
            address,
            auth: self.vault_auth(raw.auth),
            namespace: raw.namespace,
            mount: raw.mount.map(|mount| mount.trim_matches('/').to_owned()),
            ca: raw.ca.map(|ca| self.existing(&at("ca"), &ca)),
            poll: self.span(&at("poll"), raw.poll).unwrap_or(VAULT_POLL),
        }
    }

    fn vault_auth(&mut self, raw: file::VaultAuth) -> VaultAuth {
        let at = path(&["secrets", "vault", "auth"]);
        let mut missing = None;
        let auth = match (raw.token, raw.approle, raw.kubernetes) {
            (Some(token), None, None) => self.own(&at, "token", &token, &mut missing).map(VaultAuth::Token),
            (None, Some(role), None) => {
                let at = [at.as_slice(), &path(&["approle"])].concat();
                let role_id = self.own(&at, "role_id", &role.role_id, &mut missing);
                let secret_id = self.own(&at, "secret_id", &role.secret_id, &mut missing);
                let mount = role.mount.unwrap_or_else(|| "approle".to_owned());
                role_id.zip(secret_id).map(|(role_id, secret_id)| VaultAuth::AppRole { role_id, secret_id, mount })
            }
            (None, None, Some(k8s)) => Some(VaultAuth::Kubernetes {
                role: k8s.role,
                token_file: self.around.root.join(k8s.token_file.as_deref().unwrap_or(SERVICE_ACCOUNT)),
                mount: k8s.mount.unwrap_or_else(|| "kubernetes".to_owned()),
            }),
            _ => self.fault(&at, "`secrets.vault.auth` wants one of `token`, `approle` and `kubernetes`"),
        };
        auth.unwrap_or_else(|| VaultAuth::Missing(missing.unwrap_or_else(|| "nothing says how to log in".to_owned())))
    }

    /// What opens other secrets lies nowhere that it opens.
    fn own(&mut self, at: &[String], key: &str, written: &str, missing: &mut Option<String>) -> Option<Secret> {
        let at = [at, &path(&[key])].concat();
        if ["vault:", "aws-sm:"].iter().any(|form| written.starts_with(form)) {
            let what = "is what opens other secrets: \"env:NAME\", \"file:PATH\" or \"store:NAME\"";
            return self.fault(&at, format!("`{}` {what}", dotted(&at)));
        }
        match self.secret(&at, written)? {
            Found::Value(secret) => Some(secret),
            Found::Missing(why) => {
                missing.get_or_insert(why);
                None
            }
        }
    }

    fn secrets_manager(&mut self, raw: file::SecretsManager) -> Option<SecretsManager> {
        let at = |key: &str| path(&["secrets", "aws", key]);
        let env = self.around.env;
        let region = raw.region.or_else(|| env("AWS_REGION")).or_else(|| env("AWS_DEFAULT_REGION"));
        let Some(region) = region else {
            return self.fault(&path(&["secrets", "aws"]), "`secrets.aws` needs `region`, or the variable AWS_REGION");
        };
        if region.is_empty() || !region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            self.tell(&at("region"), "`secrets.aws.region` must be a plain name such as \"eu-central-1\"");
        }
        let mut missing = None;
        let login = self.aws(&at("aws"), &raw.aws.unwrap_or_default(), &mut missing);
        if let Some(why) = missing {
            self.warn(format!("`secrets.aws.aws`: {why}"));
        }
        Some(SecretsManager { region, url: raw.url, login, poll: self.span(&at("poll"), raw.poll).unwrap_or(AWS_POLL) })
    }

    /// `env:NAME`, `file:PATH`, or a reference. `None` after a problem was told.
    pub(super) fn secret(&mut self, at: &[String], written: &str) -> Option<Found> {
        let name = dotted(at);
        if let Some(variable) = written.strip_prefix("env:") {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if variable.is_empty() || !variable.chars().all(plain) {
                return self.fault(
                    at,
                    format!("`{name}`: \"env:\" wants the name of a variable, such as \"env:OPENAI_API_KEY\""),
                );
            }
            let value = (self.around.env)(variable).filter(|value| !value.trim().is_empty());
            let Some(value) = value else {
                return Some(Found::Missing(format!("environment variable {variable} is not set")));
            };
            return self.clean(at, &value, &format!("environment variable {variable}"));
        }
        if let Some(file) = written.strip_prefix("file:") {
            let full = self.around.root.join(file);
            self.meets(&full);
            return match sources::text(&full, MOST_SECRET) {
                Ok(Some(text)) if text.trim().is_empty() => self.fault(at, format!("`{name}`: file {file:?} is empty")),
                Ok(Some(text)) => self.clean(at, &text, &format!("file {file:?}")),
                Ok(None) => self.fault(at, format!("`{name}`: there is no file {file:?} (from gateway.toml's folder)")),
                Err(e) => self.fault(at, format!("`{name}`: file {file:?} {e}")),
            };
        }
        match self.elsewhere(at, written) {
            Some(Ok(Found::Value(value))) => self.clean(at, value.expose(), &format!("\"{written}\"")),
            Some(Ok(missing)) => Some(missing),
            Some(Err(())) => None,
            None => {
                let example =
                    if at.first().is_some_and(|s| s == "admin") { "PORTCULLIS_ADMIN_TOKEN" } else { "OPENAI_API_KEY" };
                let message = format!(
                    "`{name}` must say where the secret is, not hold it: \"env:{example}\" reads a variable, \
                     \"file:secrets/key\" a file"
                );
                self.fault(at, message)
            }
        }
    }

    /// A reference. `None`: it is none; `Err` after a problem was told.
    pub(super) fn elsewhere(&mut self, at: &[String], written: &str) -> Option<Result<Found, ()>> {
        let name = dotted(at);
        let reference = match Reference::parse(written)? {
            Ok(reference) => reference,
            Err(form) => {
                self.tell(at, format!("`{name}` wants {form}"));
                return Some(Err(()));
            }
        };
        match reference {
            Reference::Vault { .. } => self.wants_vault(at, written),
            Reference::Aws { .. } if !self.around.source.has(&path(&["secrets", "aws"])) => {
                self.tell(at, format!("`{name}`: \"{written}\" needs `[secrets.aws]`: an empty table looks around"));
            }
            _ => {}
        }
        if !self.references.iter().any(|known| known == written) {
            self.references.push(written.to_owned());
        }
        let Some(elsewhere) = self.around.elsewhere else {
            // Only a gateway that is about to serve asks: whatever else reads the file takes it that there is one.
            return Some(Ok(Found::Value(Secret::new(UNREAD))));
        };
        Some(match elsewhere.look(written) {
            Told::Value(secret) => {
                self.values.push((written.to_owned(), secret.clone()));
                Ok(Found::Value(secret))
            }
            Told::Absent(why) => Ok(Found::Missing(why)),
            Told::Unknown(why) => {
                self.tell(at, format!("`{name}`: \"{written}\" cannot be read: {why}"));
                Err(())
            }
        })
    }

    /// A secret travels in a header: white space around it is a slip of the editor, anything odd inside is an error.
    fn clean(&mut self, at: &[String], value: &str, whence: &str) -> Option<Found> {
        let value = value.trim();
        if !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return Some(Found::Value(Secret::new(value)));
        }
        self.fault(
            at,
            format!("`{}`: {whence} holds characters that no key has (line breaks or non-ASCII)", dotted(at)),
        )
    }
}

const VAULT_POLL: Duration = Duration::from_secs(60);
const AWS_POLL: Duration = Duration::from_secs(300);
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Stands for a secret that nobody looked up.
const UNREAD: &str = "not-read-here";
