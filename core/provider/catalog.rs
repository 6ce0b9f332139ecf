//! The built-in providers: `catalog.toml`, read once. A row is data about a vendor; it holds no key and makes no call.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

use super::{capability, hosted::Hosted};
use crate::model::Format;

/// One provider as the catalogue knows it. Everything lives as long as the process.
#[derive(Debug, PartialEq)]
pub struct Row {
    pub name: &'static str,
    pub title: &'static str,
    pub format: Format,
    /// Formats that it speaks besides, each for clients of that format.
    pub also: &'static [Format],
    /// With `{region}`, `{project}`, `{location}` or `{resource}` where the configuration fills in a name.
    pub base_url: Option<&'static str>,
    /// The address at locations that have one of their own (`global`).
    pub base_urls: &'static [(&'static str, &'static str)],
    pub auth: AuthScheme,
    /// Identities of a cloud that it takes besides keys.
    pub logins: &'static [Cloud],
    /// AWS: the service that signatures are for.
    pub service: Option<&'static str>,
    /// Entra: what tokens are for.
    pub scope: Option<&'static str>,
    /// For paths that name one.
    pub api_version: Option<&'static str>,
    /// The variable in which its key is usually found.
    pub env: Option<&'static str>,
    /// Prefixes of bare model names.
    pub models: &'static [&'static str],
    /// Caller's headers that may travel to the same format.
    pub headers: &'static [&'static str],
    pub version: Option<&'static str>,
    pub paths: Paths,
    /// Another vendor's format at a cloud.
    pub hosted: Option<Hosted>,
    pub quirks: Quirks,
    pub source: &'static str,
    pub date: &'static str,
}

impl Row {
    /// Keys of the configuration without which it has no address.
    pub fn wants(&self) -> Vec<&'static str> {
        let Some(url) = self.base_url else { return vec!["base_url"] };
        let mut names: Vec<_> = url.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Where operations lie that are not at their format's usual place.
#[derive(Debug, Default, PartialEq)]
pub struct Paths {
    /// `{model}` is the model's name as one encoded segment, `{api_version}` the API's version.
    pub chat: Option<&'static str>,
    /// Chat that streams, where it lies elsewhere.
    pub stream: Option<&'static str>,
    pub count_tokens: Option<&'static str>,
    /// Of the format `openai_responses`, where that is not the row's first.
    pub responses: Option<&'static str>,
    /// Legacy completions, at those that offer them.
    pub completions: Option<&'static str>,
    /// Chat that goes on with a begun answer, where it lies elsewhere.
    pub prefill: Option<&'static str>,
    pub embeddings: Option<&'static str>,
    pub models: Option<&'static str>,
}

#[derive(Debug, PartialEq)]
pub struct Quirks {
    pub max_tokens: &'static str,
    pub developer: bool,
    pub stream_options: bool,
    pub reasoning: Option<&'static str>,
    pub open_end: bool,
    pub short_ids: bool,
    pub media_urls: bool,
    /// The field of a last assistant turn by which that turn is gone on with, and whether the answer says it again.
    pub prefill: Option<&'static str>,
    pub echoes: bool,
    pub refuses: &'static [&'static str],
    /// Fields of a request that it calls otherwise: of embeddings, and a seed.
    pub renames: &'static [(&'static str, &'static str)],
    /// The tool by which it searches the web, and all those of its format that it runs, where that is known.
    pub search: Option<&'static str>,
    /// The tools by which it runs code and reads pages.
    pub code: Option<&'static str>,
    pub fetch: Option<&'static str>,
    pub hosted: Option<&'static [&'static str]>,
    pub lacks: &'static [&'static str],
}

/// Whose identities a provider may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cloud {
    Aws,
    Google,
    Entra,
}

impl Cloud {
    /// As the configuration calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Cloud::Aws => "aws",
            Cloud::Google => "google",
            Cloud::Entra => "entra",
        }
    }
}

/// How a key travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthScheme {
    Bearer,
    XApiKey,
    XGoogApiKey,
    ApiKey,
    None,
}

impl AuthScheme {
    pub const ALL: [AuthScheme; 5] =
        [AuthScheme::Bearer, AuthScheme::XApiKey, AuthScheme::XGoogApiKey, AuthScheme::ApiKey, AuthScheme::None];

    pub const fn name(self) -> &'static str {
        match self {
            AuthScheme::Bearer => "bearer",
            AuthScheme::XApiKey => "x-api-key",
            AuthScheme::XGoogApiKey => "x-goog-api-key",
            AuthScheme::ApiKey => "api-key",
            AuthScheme::None => "none",
        }
    }

    pub fn parse(name: &str) -> Option<AuthScheme> {
        AuthScheme::ALL.into_iter().find(|s| s.name() == name)
    }

    /// What servers of a format usually want.
    pub const fn usual(format: Format) -> AuthScheme {
        match format {
            Format::OpenaiChat
            | Format::OpenaiResponses
            | Format::BedrockConverse
            | Format::Cohere
            | Format::Ollama => AuthScheme::Bearer,
            Format::AnthropicMessages => AuthScheme::XApiKey,
            Format::Gemini => AuthScheme::XGoogApiKey,
        }
    }
}

/// The row of a name.
pub fn row(name: &str) -> Option<&'static Row> {
    CATALOG.binary_search_by(|r| r.name.cmp(name)).ok().map(|at| &CATALOG[at])
}

/// All rows, by name.
pub fn rows() -> &'static [Row] {
    &CATALOG
}

/// All names, in order.
pub fn catalog_names() -> Vec<&'static str> {
    CATALOG.iter().map(|r| r.name).collect()
}

/// Headers of callers that travel to some provider or other, and so have a say in its answer.
pub fn travelling() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = CATALOG.iter().flat_map(|row| row.headers.iter().copied()).collect();
    names.extend(["anthropic-version", super::mock::CONTROL]);
    names.sort_unstable();
    names.dedup();
    names
}

/// What a server that is in no row is taken for: the format's plain form.
pub fn plain(format: Format) -> &'static Row {
    static PLAIN: LazyLock<[Row; Format::ALL.len()]> = LazyLock::new(|| Format::ALL.map(plain_row));
    &PLAIN[Format::ALL.iter().position(|f| *f == format).unwrap_or(0)]
}

fn plain_row(format: Format) -> Row {
    let [search, code, fetch] = capability::vendors_tools(format);
    Row {
        name: "",
        title: "",
        format,
        also: &[],
        base_url: None,
        base_urls: &[],
        auth: AuthScheme::usual(format),
        logins: &[],
        service: None,
        scope: None,
        api_version: None,
        env: None,
        models: &[],
        headers: if matches!(format, Format::AnthropicMessages) { &["anthropic-beta"] } else { &[] },
        version: matches!(format, Format::AnthropicMessages).then_some("2023-06-01"),
        paths: Paths::default(),
        hosted: None,
        quirks: Quirks {
            max_tokens: "max_tokens",
            developer: false,
            stream_options: matches!(format, Format::OpenaiChat),
            reasoning: Some("reasoning_content"),
            open_end: false,
            short_ids: false,
            media_urls: matches!(format, Format::OpenaiChat | Format::OpenaiResponses | Format::AnthropicMessages),
            prefill: None,
            echoes: false,
            refuses: &[],
            renames: &[],
            search,
            code,
            fetch,
            hosted: None,
            lacks: if matches!(format, Format::AnthropicMessages) { &["embeddings"] } else { &[] },
        },
        source: "",
        date: "",
    }
}

static CATALOG: LazyLock<Vec<Row>> = LazyLock::new(|| {
    // The file is part of the program; a test reads it, so a broken one never ships.
    parse(include_str!("catalog.toml")).unwrap_or_default()
});

pub(super) fn parse(text: &str) -> Result<Vec<Row>, toml::de::Error> {
    let raw: BTreeMap<String, RawRow> = toml::from_str(text)?;
    Ok(raw.into_iter().map(|(name, row)| row.finish(name)).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    title: String,
    format: Format,
    #[serde(default)]
    also: Vec<Format>,
    base_url: Option<String>,
    #[serde(default)]
    base_urls: BTreeMap<String, String>,
    auth: AuthScheme,
    #[serde(default)]
    logins: Vec<Cloud>,
    service: Option<String>,
    scope: Option<String>,
    api_version: Option<String>,
    env: Option<String>,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    version: Option<String>,
    #[serde(default)]
    paths: RawPaths,
    hosted: Option<RawHosted>,
    #[serde(default)]
    quirks: RawQuirks,
    source: String,
    date: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawPaths {
    chat: Option<String>,
    stream: Option<String>,
    count_tokens: Option<String>,
    responses: Option<String>,
    completions: Option<String>,
    prefill: Option<String>,
    embeddings: Option<String>,
    models: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawQuirks {
    max_tokens: Option<MaxTokens>,
    developer: bool,
    stream_options: bool,
    reasoning: Option<String>,
    open_end: bool,
    short_ids: bool,
    media_urls: bool,
    prefill: Option<String>,
    echoes: bool,
    refuses: Vec<String>,
    renames: BTreeMap<String, String>,
    search: Option<String>,
    code: Option<String>,
    fetch: Option<String>,
    hosted: Option<Vec<String>>,
    lacks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHosted {
    version: String,
    #[serde(default)]
    betas: Vec<String>,
    #[serde(default)]
    framed: bool,
    errors: Option<Format>,
}

impl RawHosted {
    fn finish(self) -> Hosted {
        let RawHosted { version, betas, framed, errors } = self;
        Hosted { version: keep(version), betas: keep_all(betas), framed, errors }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum MaxTokens {
    MaxTokens,
    MaxCompletionTokens,
}

impl RawRow {
    fn finish(self, name: String) -> Row {
        let RawRow {
            title,
            format,
            also,
            base_url,
            base_urls,
            auth,
            logins,
            service,
            scope,
            api_version,
            env,
            models,
            headers,
            version,
            paths,
            hosted,
            quirks,
            source,
            date,
        } = self;
        let base_urls: Vec<_> = base_urls.into_iter().map(|(place, url)| (keep(place), keep(url))).collect();
        Row {
            name: keep(name),
            title: keep(title),
            format,
            also: Box::leak(also.into_boxed_slice()),
            base_url: base_url.map(keep),
            base_urls: base_urls.leak(),
            auth,
            logins: logins.leak(),
            service: service.map(keep),
            scope: scope.map(keep),
            api_version: api_version.map(keep),
            env: env.map(keep),
            models: keep_all(models),
            headers: keep_all(headers),
            version: version.map(keep),
            paths: Paths {
                chat: paths.chat.map(keep),
                stream: paths.stream.map(keep),
                count_tokens: paths.count_tokens.map(keep),
                responses: paths.responses.map(keep),
                completions: paths.completions.map(keep),
                prefill: paths.prefill.map(keep),
                embeddings: paths.embeddings.map(keep),
                models: paths.models.map(keep),
            },
            hosted: hosted.map(RawHosted::finish),
            quirks: quirks.finish(),
            source: keep(source),
            date: keep(date),
        }
    }
}

impl RawQuirks {
    fn finish(self) -> Quirks {
        let RawQuirks {
            max_tokens,
            developer,
            stream_options,
            reasoning,
            open_end,
            short_ids,
            media_urls,
            prefill,
            echoes,
            refuses,
            renames,
            search,
            code,
            fetch,
            hosted,
            lacks,
        } = self;
        Quirks {
            max_tokens: match max_tokens {
                Some(MaxTokens::MaxCompletionTokens) => "max_completion_tokens",
                Some(MaxTokens::MaxTokens) | None => "max_tokens",
            },
            developer,
            stream_options,
            reasoning: reasoning.map(keep),
            open_end,
            short_ids,
            media_urls,
            prefill: prefill.map(keep),
            echoes,
            refuses: keep_all(refuses),
            renames: renames.into_iter().map(|(from, to)| (keep(from), keep(to))).collect::<Vec<_>>().leak(),
            search: search.map(keep),
            code: code.map(keep),
            fetch: fetch.map(keep),
            hosted: hosted.map(keep_all),
            lacks: keep_all(lacks),
        }
    }
}

/// Text of the program's own tables, kept for ever: dialects point into it.
pub(super) fn keep(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

pub(super) fn keep_all(texts: Vec<String>) -> &'static [&'static str] {
    Box::leak(texts.into_iter().map(keep).collect::<Vec<_>>().into_boxed_slice())
}
