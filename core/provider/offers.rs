//! What a provider offers besides chat and embeddings, and what the raw passthrough may reach at it: `offers.toml` by row, or
//! the configuration. Where these things lie behind its base. Makes no call.

use std::{collections::BTreeMap, sync::LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Deserialize;

use super::{
    Provider,
    url::{self, Base},
};
use crate::{
    error::{Error, Kind, Result},
    model::{Format, Operation},
};

/// Of one row.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offers {
    offers: Vec<String>,
    passthrough: Vec<String>,
    list: bool,
    /// Models that answer legacy completions, by the beginning of their names; none: all do.
    completes: Vec<String>,
}

impl Offers {
    /// A row's, with what the configuration says in its place.
    pub(super) fn of(
        row: &str,
        format: Format,
        offers: Option<Vec<String>>,
        passthrough: Option<Vec<String>>,
    ) -> Offers {
        let plain = || Offers { offers: plain(format), ..Offers::default() };
        let own = if row.is_empty() { plain() } else { TABLE.get(row).cloned().unwrap_or_default() };
        Offers {
            completes: if offers.is_some() { Vec::new() } else { own.completes },
            offers: offers.unwrap_or(own.offers),
            passthrough: passthrough.unwrap_or(own.passthrough),
            list: own.list,
        }
    }

    /// What the configuration may name.
    pub fn check(name: &str) -> bool {
        ALL.contains(&name)
    }
}

/// A server that is in no row: what it lacks it says itself. Things that outlive a request must be offered by name.
fn plain(format: Format) -> Vec<String> {
    let usual: &[&str] = match format {
        Format::OpenaiChat => {
            &["rerank", "moderations", "images", "speech", "transcription", "translation", "completions"]
        }
        Format::OpenaiResponses => &["rerank", "moderations", "images", "speech", "transcription", "translation"],
        _ => &[],
    };
    usual.iter().map(|name| (*name).to_owned()).collect()
}

impl Provider {
    /// Chat and what has a codec is another question.
    pub fn offers(&self, operation: Operation) -> bool {
        operation.offer().is_some_and(|name| self.offers.offers.iter().any(|o| o == name))
    }

    /// Refuses a conversation that this provider cannot compact. Nobody else can in its place: what comes back only its maker
    /// reads.
    pub fn must_compact(&self, client: Format) -> Result<()> {
        if self.speaks(client) == client && self.offers(Operation::Compact) {
            return Ok(());
        }
        let text = format!(
            "{} does not compact conversations: ask a model for a summary instead, or choose a model of a provider that does",
            self.name
        );
        Err(Error::unsupported("compaction", text))
    }

    /// Refuses an answer that is to be made in the background where this provider makes none.
    pub fn must_run_in_background(&self, client: Format) -> Result<()> {
        if self.speaks(client) == client && self.offers(Operation::OneResponse) {
            return Ok(());
        }
        let text = format!(
            "{} makes no answers in the background: leave `background` out and stream long answers, or choose a model of a \
             provider that does",
            self.name
        );
        Err(Error::unsupported("background", text))
    }

    /// Has it the endpoint of legacy completions for this model? Where not, a chat answers them.
    pub fn completes(&self, model: &str) -> bool {
        let Offers { offers, completes, .. } = &self.offers;
        let named = || completes.is_empty() || completes.iter().any(|head| model.starts_with(head.as_str()));
        self.format == Format::OpenaiChat && offers.iter().any(|o| o == "completions") && named()
    }

    /// Its rerank speaks of `top_k` and `data`.
    pub fn lists(&self) -> bool {
        self.offers.list
    }

    /// Where an operation without a codec lies; `id`: the upstream's own, `query` is the program's or the caller's, cleaned.
    pub fn place(&self, operation: Operation, id: Option<&str>, query: Option<&str>) -> Result<Uri> {
        if !self.offers(operation) {
            return Err(self.lacks(operation));
        }
        let id = id.map(url::segment).transpose()?.unwrap_or_default();
        let mut path = match operation {
            Operation::Rerank => "/rerank".to_owned(),
            Operation::Moderations => "/moderations".to_owned(),
            Operation::GenerateImage => "/images/generations".to_owned(),
            Operation::EditImage => "/images/edits".to_owned(),
            Operation::VaryImage => "/images/variations".to_owned(),
            Operation::Speech => "/audio/speech".to_owned(),
            Operation::Transcription => "/audio/transcriptions".to_owned(),
            Operation::Translation => "/audio/translations".to_owned(),
            Operation::UploadFile | Operation::ListFiles => "/files".to_owned(),
            Operation::OneFile | Operation::DeleteFile => format!("/files/{id}"),
            Operation::FileContent => format!("/files/{id}/content"),
            Operation::CreateBatch | Operation::ListBatches => "/batches".to_owned(),
            Operation::OneBatch => format!("/batches/{id}"),
            Operation::CancelBatch => format!("/batches/{id}/cancel"),
            Operation::OneResponse | Operation::DeleteResponse => format!("/responses/{id}"),
            Operation::ResponseItems => format!("/responses/{id}/input_items"),
            Operation::CancelResponse => format!("/responses/{id}/cancel"),
            Operation::Realtime => "/realtime".to_owned(),
            _ => return Err(self.lacks(operation)),
        };
        if let Some(query) = query.filter(|q| !q.is_empty()) {
            path.push('?');
            path.push_str(query);
        }
        self.base.join(&path)
    }

    /// A realtime session with a model.
    pub fn session(&self, model: &str, id: Option<&str>) -> Result<Uri> {
        self.place(Operation::Realtime, id, Some(&format!("model={}", url::segment(model)?)))
    }

    /// What a browser could only say among its subprotocols.
    pub fn session_headers(&self, client: &HeaderMap) -> Option<(HeaderName, HeaderValue)> {
        let offered = client.get(http::header::SEC_WEBSOCKET_PROTOCOL).and_then(|v| v.to_str().ok())?;
        offered.split(',').find(|word| word.trim() == "openai-beta.realtime-v1")?;
        Some((HeaderName::from_static("openai-beta"), HeaderValue::from_static("realtime=v1")))
    }

    /// Where the raw passthrough leads. `rest` begins with a slash and is as the caller wrote it. 404: the row does not list it.
    pub fn raw(&self, method: &Method, rest: &str, query: Option<&str>) -> Result<Uri> {
        let plain = decoded(rest)?;
        let listed = self.offers.passthrough.iter().any(|pattern| match pattern.split_once(' ') {
            Some((verb, pattern)) => verb == method.as_str() && wildcard(pattern, &plain),
            None => matches!(*method, Method::GET | Method::POST) && wildcard(pattern, &plain),
        });
        if !listed {
            let message = format!(
                "the passthrough to {} does not reach {method} {plain}; its paths are listed in `providers.{}.passthrough` \
                 of gateway.toml",
                self.name, self.name
            );
            return Err(Error::new(Kind::NotFound, message).with_code("path_not_listed"));
        }
        let mut path: String = plain.split('/').map(encoded).collect::<Vec<_>>().join("/");
        if let Some(query) = query.filter(|q| !q.is_empty()) {
            path.push('?');
            path.push_str(query);
        }
        self.base.join(&path)
    }

    pub fn base(&self) -> &Base {
        &self.base
    }
}

/// The path that the upstream will read. What it could read in another way is refused.
fn decoded(rest: &str) -> Result<String> {
    let bad = |why: &str| Error::new(Kind::InvalidRequest, format!("this path cannot be passed on: {why}"));
    if rest.len() > LONGEST_PATH {
        return Err(bad("it is too long"));
    }
    let path = percent_encoding::percent_decode_str(rest).decode_utf8().map_err(|_| bad("it is not UTF-8"))?;
    if path.chars().any(|c| c.is_control() || matches!(c, '\\' | '%' | '?' | '#' | ';')) {
        return Err(bad("it has characters that servers read differently"));
    }
    if path.split('/').skip(1).any(|s| matches!(s, "" | "." | "..")) {
        return Err(bad("it has an empty or dot segment"));
    }
    Ok(path.into_owned())
}

fn encoded(segment: &str) -> String {
    percent_encoding::utf8_percent_encode(segment, PLAIN).to_string()
}

/// `*` stands for any run of characters.
fn wildcard(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail),
    }
}

static TABLE: LazyLock<BTreeMap<String, Offers>> = LazyLock::new(|| {
    // The file is part of the program; a test reads it, so a broken one never ships.
    toml::from_str(include_str!("offers.toml")).unwrap_or_default()
});

/// RFC 3986 path characters travel as they are.
const PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b',')
    .remove(b'=')
    .remove(b'+');

const ALL: [&str; 12] = [
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
const LONGEST_PATH: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::catalog;

    #[test]
    fn every_row_is_one_of_the_catalogue_and_says_what_there_is() {
        let table: BTreeMap<String, Offers> = toml::from_str(include_str!("offers.toml")).expect("it is read");
        for (name, offers) in &table {
            assert!(catalog::row(name).is_some(), "{name} is no row");
            assert!(offers.offers.iter().all(|o| Offers::check(o)), "{name}");
            assert!(offers.passthrough.iter().all(|p| p.split(' ').next_back().is_some_and(|p| p.starts_with('/'))));
            let shared =
                |p: &String| ["/files", "/batches", "/fine_tuning", "/organization"].iter().any(|s| p.contains(s));
            assert!(!offers.passthrough.iter().any(shared), "{name} would show what is not the caller's");
        }
    }

    #[test]
    fn a_path_is_reached_only_when_it_is_listed_and_plain() {
        let provider = Provider::mock();
        let mut narrow = Provider::mock();
        narrow.offers.passthrough = vec!["/models/*".to_owned(), "DELETE /cache".to_owned()];
        let raw = |p: &Provider, method: Method, path: &str| p.raw(&method, path, Some("a=1")).map(|u| u.to_string());
        assert_eq!(
            raw(&narrow, Method::GET, "/models/a%20b:x").expect("listed"),
            "http://mock.invalid/v1/models/a%20b:x?a=1"
        );
        assert!(raw(&narrow, Method::DELETE, "/cache").is_ok());
        for (method, path) in
            [(Method::DELETE, "/models/x"), (Method::GET, "/cache"), (Method::GET, "/modelsx"), (Method::GET, "/files")]
        {
            assert_eq!(raw(&narrow, method, path).expect_err("not listed").status(), 404, "{path}");
        }
        for path in [
            "/a/../files",
            "/a/%2e%2e/files",
            "/a/%2E./b",
            "//x",
            "/a//b",
            "/a/.",
            "/a%2f..%2fb",
            "/a%5cb",
            "/a%00",
            "/a%253f",
            "/a;b",
            "/%ff",
        ] {
            assert_eq!(raw(&provider, Method::GET, path).expect_err("refused").status(), 400, "{path}");
        }
    }
}
