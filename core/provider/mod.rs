//! Who we talk to: a provider is a row of the catalogue and what the configuration says of it. It owns its keys and the
//! host they may go to, and gives them away together or not at all (promise 1). Makes no call itself.

pub mod capability;
pub mod catalog;
mod headers;
pub mod hosted;
pub mod keys;
pub mod mock;
mod offers;
mod paths;
mod places;
pub mod resets;
pub mod sign;
pub mod url;

#[cfg(test)]
mod tests;

use std::{
    any::Any,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::digest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use self::sign::{Identity, Scope};
pub use self::{
    catalog::{AuthScheme, Cloud, Row, catalog_names, row, travelling},
    keys::{KeyChoice, KeyRests},
    offers::Offers,
    sign::{Granted, Source, Unsigned},
    url::Base,
};
use crate::{
    codec::Dialect,
    config::{self, Secret, Timeouts},
    error::{Error, Kind, Result},
    model::{Format, Operation},
};

/// One configured provider.
#[derive(Debug)]
pub struct Provider {
    pub name: Arc<str>,
    pub row: &'static Row,
    pub format: Format,
    /// What it speaks besides, to clients of that format.
    pub also: &'static [Format],
    pub auth: AuthScheme,
    pub base: Base,
    pub transport: Transport,
    /// Why it cannot be used (`environment variable OPENAI_API_KEY is not set`).
    pub missing: Option<String>,
    /// Prefixes of bare model names: the row's and the configuration's.
    pub models: Vec<String>,
    /// Private and loopback addresses may be dialled.
    pub private: bool,
    pub ca: Option<PathBuf>,
    pub http2: Option<bool>,
    pub timeouts: Timeouts,
    /// What becomes of data that is sent there.
    pub handling: config::Handling,
    /// Where its tokens come from, when its proof is one.
    pub source: Option<Source>,
    /// Service and region of its signatures.
    scope: Option<Scope>,
    api_version: Option<Box<str>>,
    /// What the transport worked out about this provider.
    pub memo: Memo,
    offers: Offers,
    /// In place of the row's.
    open_end: Option<bool>,
    headers: Vec<(HeaderName, HeaderValue)>,
    keys: Vec<Key>,
}

/// A slot that is filled once, with a value that only its owner knows the type of.
#[derive(Debug, Default)]
pub struct Memo(OnceLock<Box<dyn Any + Send + Sync>>);

impl Memo {
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.get()?.downcast_ref()
    }

    /// Two at a time: the first one stays.
    pub fn keep(&self, value: impl Any + Send + Sync) {
        let _ = self.0.set(Box::new(value));
    }
}

/// How its bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Http,
    /// Answered in this process (`mock`).
    Mock,
}

/// A key, ready for use, and what names it where the key itself must not stand. No identity: nothing is sent.
#[derive(Debug, Clone)]
struct Key {
    identity: Option<Identity>,
    print: [u8; 16],
}

/// An upstream request's head with its proof on it. Only a provider makes one, for its own host: nothing changes after.
#[derive(Debug)]
pub struct Signed {
    method: Method,
    url: Uri,
    headers: HeaderMap,
}

impl Signed {
    pub fn url(&self) -> &Uri {
        &self.url
    }

    pub fn into_parts(self) -> (Method, Uri, HeaderMap) {
        (self.method, self.url, self.headers)
    }
}

impl Provider {
    /// The error is for the configuration's author.
    pub fn resolve(config: config::Provider) -> Result<Provider, String> {
        let config::Provider {
            name,
            row: row_name,
            base_url,
            format,
            auth,
            keys,
            missing,
            login,
            places,
            models,
            headers: fixed,
            private,
            ca,
            http2,
            timeouts,
            offers,
            open_end,
            passthrough,
            // A matter of the gateway's: it asks.
            health: _,
            handling,
        } = config;
        let found = find_row(&name, row_name.as_deref(), format)?;
        // Who names a format means that one.
        let also = if format.is_none() { found.also } else { &[] };
        let format = format.unwrap_or(found.format);
        if open_end.is_some() && format != Format::OpenaiChat {
            return Err(format!(
                "provider {name}: `open_end` is about streams of the format `openai_chat`; this one speaks `{}`: leave it out",
                format.name()
            ));
        }
        let base = Base::parse(&places::address(&name, found, base_url, &places)?)?;
        // A key that was asked for and is not there makes an unknown server unusable, one of the catalogue's local ones not.
        let keyed = !keys.is_empty() || (found.name.is_empty() && missing.is_some());
        let auth = scheme(auth.as_deref(), found, format, keyed)?;
        let transport = if found.name == MOCK { Transport::Mock } else { Transport::Http };
        let missing = match (auth, &login) {
            (_, Some(_)) | (AuthScheme::None, None) => None,
            _ if keys.is_empty() => Some(missing.unwrap_or_else(|| needs_key(&name, found))),
            _ => None,
        };
        let told = |why: String| format!("provider {name}: {why}");
        let mut keys = keys.iter().map(|key| Key::new(auth, key)).collect::<Result<Vec<_>, _>>().map_err(told)?;
        let (aws, source) = places::login(&name, found, login.as_ref(), &places)?;
        keys.extend(aws);
        Ok(Provider {
            memo: Memo::default(),
            scope: places::scope(found, &places),
            api_version: places.api_version.as_deref().or(found.api_version).map(Into::into),
            source,
            private: private || base.is_private(),
            name: name.into(),
            row: found,
            format,
            also,
            auth,
            base,
            transport,
            missing,
            models: found.models.iter().map(|m| (*m).to_owned()).chain(models).collect(),
            ca,
            http2,
            timeouts,
            handling,
            open_end,
            offers: Offers::of(found.name, format, offers, passthrough),
            headers: fixed.iter().map(|(n, v)| headers::fixed(n, v)).collect::<Result<_, _>>()?,
            keys,
        })
    }

    /// The built-in provider, for configurations that do not name it.
    pub fn mock() -> Provider {
        let config = config::Provider { name: MOCK.to_owned(), ..config::Provider::default() };
        // Its row is part of the program, and a test resolves every row.
        Provider::resolve(config).unwrap_or_else(|_| unreachable!("the mock's row resolves"))
    }

    pub fn ready(&self) -> bool {
        self.missing.is_none()
    }

    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// What names a key in health and logs: part of its SHA-256.
    pub fn fingerprint(&self, index: usize) -> Option<[u8; 16]> {
        self.keys.get(index).map(|k| k.print)
    }

    pub fn dialect(&self, model: &str) -> Dialect {
        let dialect = capability::dialect(self.row, self.format, model);
        Dialect { terminal_optional: self.open_end.unwrap_or(dialect.terminal_optional), ..dialect }
    }

    pub fn capability(&self, model: &str) -> &'static capability::Capability {
        capability::capability(model, self.format)
    }

    /// The format in which a client of `client` is served: its own where the provider speaks that.
    pub fn speaks(&self, client: Format) -> Format {
        if self.also.contains(&client) { client } else { self.format }
    }

    /// Has the upstream an endpoint that counts this model's tokens, in this format?
    pub fn counts(&self, format: Format, model: &str) -> bool {
        let speaks = matches!(format, Format::AnthropicMessages | Format::Gemini | Format::OpenaiResponses);
        match format == Format::BedrockConverse || self.framed() {
            true => hosted::countable(model),
            false => speaks && !self.row.quirks.lacks.contains(&"count_tokens"),
        }
    }

    /// The only place where an upstream URL is made. `model` is the upstream's own name.
    pub fn url_for(&self, format: Format, operation: Operation, model: &str, stream: bool) -> Result<Uri> {
        url::check_model(model)?;
        self.base.join(&self.path(format, operation, model, stream)?)
    }

    /// The same in the format that it speaks first.
    #[cfg(test)]
    pub fn url(&self, operation: Operation, model: &str, stream: bool) -> Result<Uri> {
        self.url_for(self.format, operation, model, stream)
    }

    /// Headers before the `attempt` stages saw them: no key yet.
    pub fn headers(&self, client: &HeaderMap, same_format: bool, stream: bool) -> HeaderMap {
        headers::build(self, client, same_format, stream)
    }

    /// Puts the chosen key, or the token that was granted, on a request to this provider's own host. Last step before the
    /// wire.
    pub fn sign(&self, mut request: Unsigned<'_>, choice: KeyChoice, granted: Option<&Granted>) -> Result<Signed> {
        let identity = match choice {
            KeyChoice::Open if self.source.is_some() => Some(&granted.ok_or_else(|| self.no_key())?.identity),
            KeyChoice::Open => None,
            KeyChoice::Key(index) => self.keys.get(index).ok_or_else(|| self.no_key())?.identity.as_ref(),
            KeyChoice::Resting(_) | KeyChoice::Refused(_) => return Err(self.no_key()),
        };
        if !self.base.holds(&request.url) {
            return Err(Error::new(Kind::Internal, "a request was about to leave for another host than its key's"));
        }
        sign::strip(&mut request.headers);
        if let Some(identity) = identity {
            identity.apply(&mut request, self.scope.as_ref())?;
        }
        let Unsigned { method, url, headers, body: _ } = request;
        Ok(Signed { method, url, headers })
    }

    /// What to tell a caller who asked for a provider that has no key.
    pub fn not_configured(&self) -> Error {
        let why = self.missing.as_deref().unwrap_or("it has no key");
        not_configured(&self.name, why)
    }

    fn lacks(&self, operation: Operation) -> Error {
        let what = operation.name();
        Error::unsupported(what, format!("{} has no {what} endpoint; choose a model of another provider", self.name))
    }

    fn no_key(&self) -> Error {
        Error::new(Kind::UpstreamAuth, format!("no key of {} is usable right now", self.name))
    }
}

impl Key {
    fn new(auth: AuthScheme, secret: &Secret) -> Result<Key, String> {
        if secret.expose().is_empty() {
            return Err("a key is empty".to_owned());
        }
        let hash = digest::digest(&digest::SHA256, secret.expose().as_bytes());
        let mut print = [0; 16];
        print.copy_from_slice(&hash.as_ref()[..16]);
        Ok(Key { identity: Identity::key(auth, secret)?, print })
    }
}

/// 404 for a provider of the catalogue that cannot be used yet.
pub fn not_configured(name: &str, why: &str) -> Error {
    let message = format!("provider `{name}` is not configured: {why}");
    Error::new(Kind::ModelNotFound, message).with_code("provider_not_configured").at("model")
}

fn find_row(name: &str, row_name: Option<&str>, format: Option<Format>) -> Result<&'static Row, String> {
    if let Some(wanted) = row_name {
        return row(wanted).ok_or_else(|| match nearest(wanted, catalog_names()) {
            Some(near) => format!("row = \"{wanted}\" is no catalogue row; did you mean \"{near}\"?"),
            None => format!("row = \"{wanted}\" is no catalogue row"),
        });
    }
    match (row(name), format) {
        (Some(row), _) => Ok(row),
        (None, Some(format)) => Ok(catalog::plain(format)),
        (None, None) => Err(format!(
            "provider {name} is not in the catalogue: give it `base_url` and `format` ({})",
            Format::ALL.map(Format::name).join(", ")
        )),
    }
}

fn scheme(wanted: Option<&str>, row: &'static Row, format: Format, has_key: bool) -> Result<AuthScheme, String> {
    if let Some(name) = wanted {
        return AuthScheme::parse(name).ok_or_else(|| {
            format!("auth = \"{name}\" is not one of {}", AuthScheme::ALL.map(AuthScheme::name).join(", "))
        });
    }
    let usual = if row.format == format { row.auth } else { AuthScheme::usual(format) };
    Ok(match (row.name, row.auth, has_key) {
        // A server of one's own: a key is used when there is one.
        ("", _, false) | (_, AuthScheme::None, false) => AuthScheme::None,
        (_, AuthScheme::None, true) => AuthScheme::usual(format),
        _ => usual,
    })
}

fn needs_key(name: &str, row: &Row) -> String {
    let or = match row.logins.first() {
        Some(cloud) => format!(", or `{} = {{}}` for an identity of the cloud", cloud.name()),
        None => String::new(),
    };
    match row.env {
        Some(env) => format!("set `key = \"env:{env}\"` under [providers.{name}] and the variable {env}{or}"),
        None => format!("set `key` under [providers.{name}]{or}"),
    }
}

/// The closest of several names, if one is close.
pub(crate) fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|n| (strsim::damerau_levenshtein(wanted, n), n))
        .filter(|(distance, n)| *distance <= 1 + n.len().min(wanted.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, n)| n)
}

const MOCK: &str = "mock";
