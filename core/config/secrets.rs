//! `[secrets]` and `[audit]`, resolved: where the master key comes from, where secrets lie that gateway.toml only names, and how
//! long it is known what was done. Plain values; `secrets` and `keyring` use them.

use std::{path::PathBuf, time::Duration};

use super::{AwsLogin, Secret};

/// `[secrets]`.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// `None`: the data directory's own file, made at the first start.
    pub master: Option<Master>,
    pub vault: Option<Vault>,
    pub aws: Option<SecretsManager>,
    /// What the file names that lies neither in a variable nor in a file (`store:NAME`, …), in the order written, once each.
    pub references: Vec<String>,
    /// Where gateway.toml lies: places of a new master key are told from there.
    pub root: PathBuf,
}

/// Where the master key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Master {
    File(PathBuf),
    Env(String),
    /// A program that prints it, and its arguments.
    Command(Vec<String>),
}

/// `[secrets.vault]`: a key-value store, version 2 of its interface.
#[derive(Debug, Clone)]
pub struct Vault {
    /// Without a slash at its end.
    pub address: String,
    pub auth: VaultAuth,
    pub namespace: Option<String>,
    /// Where the key-value store lies; `None`: the first word of a path.
    pub mount: Option<String>,
    pub ca: Option<PathBuf>,
    pub poll: Duration,
}

#[derive(Debug, Clone)]
pub enum VaultAuth {
    Token(Secret),
    AppRole {
        role_id: Secret,
        secret_id: Secret,
        mount: String,
    },
    Kubernetes {
        role: String,
        token_file: PathBuf,
        mount: String,
    },
    /// It cannot log in: why.
    Missing(String),
}

/// `[secrets.aws]`: AWS Secrets Manager.
#[derive(Debug, Clone)]
pub struct SecretsManager {
    pub region: String,
    /// `None`: the region's own.
    pub url: Option<String>,
    /// `None`: nothing is known of an identity, for the reason.
    pub login: Option<AwsLogin>,
    pub poll: Duration,
}

/// A secret that lies elsewhere, as gateway.toml names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Store(String),
    Vault { path: String, field: String },
    Aws { name: String, field: Option<String> },
}

/// Who knows what references stand for.
pub trait Elsewhere: Send + Sync {
    fn look(&self, reference: &str) -> Told;
}

/// What is known of a reference.
#[derive(Debug, Clone)]
pub enum Told {
    Value(Secret),
    /// There is none by that name: as good as a variable that is not set. Half a sentence.
    Absent(String),
    /// Nobody could be asked. Half a sentence.
    Unknown(String),
}

/// `[audit]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Audit {
    pub keep: Duration,
}

impl Default for Audit {
    fn default() -> Self {
        Audit { keep: Duration::from_secs(365 * 86_400) }
    }
}

impl Reference {
    /// `None`: it begins like none. The error says what one looks like.
    pub fn parse(text: &str) -> Option<Result<Reference, &'static str>> {
        if let Some(name) = text.strip_prefix("store:") {
            let known = fine_name(name).then(|| Reference::Store(name.to_owned()));
            return Some(known.ok_or("a name of letters, digits, `-`, `_` and `.`, such as \"store:models\""));
        }
        if let Some(rest) = text.strip_prefix("vault:") {
            let form = "a path and a field, such as \"vault:secret/models#key\"";
            let Some((path, field)) = rest.split_once('#') else { return Some(Err(form)) };
            let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            let steps = path.split('/').all(|step| !step.is_empty() && step.chars().any(|c| c != '.'));
            let right = steps && path.contains('/') && path.chars().all(fine) && !field.is_empty();
            return Some(if right && !field.chars().any(char::is_control) {
                Ok(Reference::Vault { path: path.to_owned(), field: field.to_owned() })
            } else {
                Err(form)
            });
        }
        let rest = text.strip_prefix("aws-sm:")?;
        let (name, field) = rest.split_once('#').map_or((rest, None), |(name, field)| (name, Some(field)));
        let fine = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-:".contains(c);
        let right = !name.is_empty() && name.len() <= 2048 && name.chars().all(fine) && field != Some("");
        Some(if right {
            Ok(Reference::Aws { name: name.to_owned(), field: field.map(str::to_owned) })
        } else {
            Err("a secret's name or ARN, and a field where it is JSON, such as \"aws-sm:prod/models#key\"")
        })
    }
}

/// Of a secret in the store.
pub fn fine_name(name: &str) -> bool {
    (1..=100).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
