//! `[providers.<name>]`: where it answers, in which format, with which keys. A key that is not set makes a provider "not
//! configured", never an error: the shipped file names many.

use std::collections::BTreeMap;

use super::{Found, Resolver, path};
use crate::{
    config::{
        Places, Provider, Secret, file,
        source::{self, dotted},
        text,
    },
    model::Format,
};

impl Resolver<'_, '_, '_> {
    pub(super) fn providers(&mut self, raw: BTreeMap<String, file::Provider>) -> Vec<Provider> {
        let mut providers = Vec::new();
        for (name, raw) in self.as_written("providers", raw) {
            providers.push(self.provider(name, raw));
        }
        if !providers.iter().any(|p| p.name == MOCK) {
            providers.push(Provider { name: MOCK.to_owned(), ..Provider::default() });
        }
        providers
    }

    fn provider(&mut self, name: String, raw: file::Provider) -> Provider {
        let at = path(&["providers", &name]);
        let key = |key: &str| [at.as_slice(), &path(&[key])].concat();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(plain) {
            self.fault_at_key(&at, format!("provider name {name:?}: use lower-case letters, digits, `-`, `_` and `.`"));
        }
        self.row(&name, &raw);
        let (keys, no_key) = self.keys(&at, &raw);
        let (login, no_login) = self.login(&at, &raw);
        let places = self.places(&at, &raw);
        if matches!(raw.auth, Some(file::AuthScheme::None)) && (raw.key.is_some() || raw.keys.is_some()) {
            self.tell(&key("auth"), format!("`{}` is \"none\", but a key is given: remove one", dotted(&key("auth"))));
        }
        let base_url = raw.base_url.and_then(|url| self.base_url(&key("base_url"), url));
        for (n, prefix) in raw.models.iter().flatten().enumerate() {
            if prefix.is_empty() {
                let at = self.entry(&key("models"), n);
                self.tell(&at, format!("`{}` is empty and would claim every model", dotted(&at)));
            }
        }
        for (header, value) in &raw.headers {
            self.header(&key("headers"), header, value);
        }
        for (n, offer) in raw.offers.iter().flatten().enumerate() {
            if !OFFERS.contains(&offer.as_str()) {
                let at = self.entry(&key("offers"), n);
                self.tell(&at, format!("`{offer}` is nothing that can be offered; there are {}", OFFERS.join(", ")));
            }
        }
        for (n, path) in raw.passthrough.iter().flatten().enumerate() {
            if !path.split(' ').next_back().is_some_and(|p| p.starts_with('/')) || path.matches('*').count() > 1 {
                let at = self.entry(&key("passthrough"), n);
                self.tell(&at, format!("`{path}` is no path: it begins with a slash and has at most one `*`"));
            }
        }
        let timeouts = self.timeouts(&at, raw.timeouts);
        let health = raw.health.and_then(|raw| self.health(&key("health"), raw));
        let data = raw.data.unwrap_or_default();
        let region = data.region.and_then(|region| self.only_region(&key("data"), region));
        let mut handling = self.handling(&key("data"), (region, data.retention, data.train));
        // Where a cloud answers is where data is, unless its contract says otherwise.
        let place = places.region.as_deref().or(places.location.as_deref()).map(str::to_ascii_lowercase);
        handling.region = handling.region.or(place.map(Into::into));
        Provider {
            row: raw.row,
            base_url,
            format: raw.format.map(|format| match format {
                file::Format::OpenaiChat => Format::OpenaiChat,
                file::Format::OpenaiResponses => Format::OpenaiResponses,
                file::Format::AnthropicMessages => Format::AnthropicMessages,
                file::Format::Gemini => Format::Gemini,
                file::Format::BedrockConverse => Format::BedrockConverse,
                file::Format::Cohere => Format::Cohere,
                file::Format::Ollama => Format::Ollama,
            }),
            auth: raw.auth.map(|auth| word(auth).to_owned()),
            keys,
            missing: no_key.or(no_login),
            login,
            places,
            models: raw.models.unwrap_or_default(),
            headers: raw.headers,
            private: raw.private.unwrap_or(false),
            ca: raw.ca.map(|ca| self.existing(&key("ca"), &ca)),
            http2: raw.http2,
            timeouts,
            health,
            offers: raw.offers,
            open_end: raw.open_end,
            passthrough: raw.passthrough,
            handling,
            name,
        }
    }

    /// Is it a row of the catalogue, or does it say enough to do without?
    fn row(&mut self, name: &str, raw: &file::Provider) {
        let at = path(&["providers", name]);
        let key = |key: &str| [at.as_slice(), &path(&[key])].concat();
        let rows = self.around.rows;
        if let Some(row) = &raw.row {
            if !rows.contains(&row.as_str()) {
                let hint = text::hint(row, rows.iter().copied());
                let known = rows.join(", ");
                self.tell(&key("row"), format!("the catalogue has no row {row:?}{hint} (rows: {known})"));
            }
            return;
        }
        if rows.contains(&name) || name == MOCK {
            return;
        }
        let url = raw.base_url.is_some() || self.removed(&key("base_url"));
        let format = raw.format.is_some() || self.removed(&key("format"));
        let lack = match (url, format) {
            (true, true) => return,
            (false, false) => "`base_url` and `format`",
            (false, true) => "`base_url`",
            (true, false) => "`format`",
        };
        let hint = text::hint(name, rows.iter().copied());
        let message = format!("`{name}` is no provider of the catalogue{hint}; a server of your own needs {lack}");
        self.fault_at_key(&at, message);
    }

    fn keys(&mut self, at: &[String], raw: &file::Provider) -> (Vec<Secret>, Option<String>) {
        let one = [at, &path(&["key"])].concat();
        let many = [at, &path(&["keys"])].concat();
        if raw.key.is_some() && raw.keys.is_some() {
            self.fault_at_key(&many, format!("`{}` and `key` say the same: keep one of them", dotted(&many)));
        }
        let mut written: Vec<(Vec<String>, String)> = Vec::new();
        match &raw.key {
            Some(file::OneOrMany::One(key)) => written.push((one.clone(), key.clone())),
            Some(file::OneOrMany::Many(keys)) => {
                written.extend(keys.iter().enumerate().map(|(n, key)| (self.entry(&one, n), key.clone())));
            }
            None => {}
        }
        let listed = raw.keys.iter().flatten().enumerate();
        written.extend(listed.map(|(n, key)| (self.entry(&many, n), key.clone())).collect::<Vec<_>>());
        if written.is_empty()
            && (raw.key.is_some() || raw.keys.is_some())
            && self.around.source.len(&one).max(self.around.source.len(&many)) == 0
        {
            let place = if raw.key.is_some() { &one } else { &many };
            self.tell(place, format!("`{}` is an empty list: name a key, or remove it", dotted(place)));
        }
        let (mut keys, mut missing) = (Vec::new(), Vec::new());
        for (at, key) in written {
            match self.secret(&at, &key) {
                Some(Found::Value(secret)) => keys.push(secret),
                Some(Found::Missing(why)) => missing.push(why),
                None => {}
            }
        }
        if !keys.is_empty() && !missing.is_empty() {
            self.warn(format!("`{}`: {}; the other keys are used", dotted(&one), missing.join(", ")));
            missing.clear();
        }
        (keys, (!missing.is_empty()).then(|| missing.join(", ")))
    }

    /// They become parts of a host or of a path: names, and nothing that could be more (promise 3).
    fn places(&mut self, at: &[String], raw: &file::Provider) -> Places {
        let mut name = |key: &str, written: &Option<String>, more: &str| {
            let name = written.as_deref()?;
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || more.contains(c);
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            if name.len() <= 63 && name.chars().all(plain) && edge(name.chars().next()) && edge(name.chars().last()) {
                return Some(name.to_owned());
            }
            let at = [at, &path(&[key])].concat();
            let message = format!("`{}` must be a plain name: lower-case letters, digits and `-`", dotted(&at));
            self.fault(&at, message)
        };
        Places {
            region: name("region", &raw.region, ""),
            // Projects of old may stand under a domain: `example.com:name`.
            project: name("project", &raw.project, ".:"),
            location: name("location", &raw.location, ""),
            resource: name("resource", &raw.resource, ""),
            api_version: name("api_version", &raw.api_version, ""),
        }
    }

    fn base_url(&mut self, at: &[String], written: String) -> Option<String> {
        let name = dotted(at);
        let Ok(url) = url::Url::parse(&written) else {
            let example = "\"https://host/v1\" or \"http://127.0.0.1:8000/v1\"";
            return self.fault(at, format!("`{name}` must be a whole address such as {example}"));
        };
        let wrong = if !matches!(url.scheme(), "http" | "https") {
            "must begin with http:// or https://"
        } else if !url.username().is_empty() || url.password().is_some() {
            "holds a user or password: give the credential as `key`"
        } else if url.host_str().is_none_or(str::is_empty) {
            "names no host"
        } else if url.query().is_some() || url.fragment().is_some() {
            "must end with the path: leave out `?…` and `#…`"
        } else {
            return Some(written.trim_end_matches('/').to_owned());
        };
        self.fault(at, format!("`{name}` {wrong}"))
    }

    fn header(&mut self, at: &[String], name: &str, value: &str) {
        let at = [at, &path(&[name])].concat();
        let shown = dotted(&at);
        let lower = name.to_ascii_lowercase();
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            return self.fault_at_key(&at, format!("`{shown}` is no header name"));
        }
        if CREDENTIALS.contains(&lower.as_str()) || source::reference(value) {
            return self
                .fault_at_key(&at, format!("`{shown}` is for plain values: give credentials as `key` with `auth`"));
        }
        if OURS.contains(&lower.as_str()) {
            return self.fault_at_key(&at, format!("`{shown}` is set by the gateway itself: remove it"));
        }
        if http::HeaderValue::from_str(value).is_err() {
            self.tell(&at, format!("`{shown}` holds characters that no header may have"));
        }
    }
}

fn word(auth: file::AuthScheme) -> &'static str {
    match auth {
        file::AuthScheme::Bearer => "bearer",
        file::AuthScheme::XApiKey => "x-api-key",
        file::AuthScheme::XGoogApiKey => "x-goog-api-key",
        file::AuthScheme::ApiKey => "api-key",
        file::AuthScheme::None => "none",
    }
}

/// Always there, in the process.
pub(super) const MOCK: &str = "mock";

const CREDENTIALS: [&str; 6] =
    ["authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie"];

/// Framing and hop-by-hop headers.
const OURS: [&str; 11] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "accept-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
];

/// As `provider::Offers` knows them.
const OFFERS: [&str; 12] = [
    "background",
    "rerank",
    "moderations",
    "images",
    "speech",
    "transcription",
    "translation",
    "files",
    "batches",
    "realtime",
    "compaction",
    "completions",
];
