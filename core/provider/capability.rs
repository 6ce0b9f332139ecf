//! What a model can do: `capability.toml`, by prefix of the model's name, and how it meets a provider's quirks in a
//! `Dialect`. Data about models only: nothing here knows hosts or keys.

use std::sync::LazyLock;

use dashmap::DashMap;
use serde::Deserialize;

use super::catalog::{Row, keep, keep_all};
use crate::{codec::Dialect, model::Format};

type Words = &'static [&'static str];

/// The facts of one family of models.
#[derive(Debug, Default, PartialEq)]
pub struct Capability {
    pub prefix: &'static str,
    pub context: Option<u64>,
    pub output: Option<u64>,
    pub budget: bool,
    pub no_sampling: bool,
    pub mid_system: bool,
    pub schema: bool,
    pub json_schema: bool,
    pub completion_field: bool,
    pub refuses: Words,
    pub lacks: Words,
    pub features: Words,
    pub source: &'static str,
    pub date: &'static str,
}

/// The longest prefix that fits; for an unknown model what is true of most that speak the format.
pub fn capability(model: &str, format: Format) -> &'static Capability {
    let name = normal(model);
    MODELS
        .iter()
        .filter(|c| name.starts_with(c.prefix))
        .max_by_key(|c| c.prefix.len())
        .unwrap_or_else(|| &UNKNOWN[Format::ALL.iter().position(|f| *f == format).unwrap_or(0)])
}

/// What to tell a codec about a target.
pub fn dialect(row: &'static Row, format: Format, model: &str) -> Dialect {
    let can = capability(model, format);
    let (refuses, lacks) = joined(row, can);
    let quirks = &row.quirks;
    Dialect {
        model: model.to_owned(),
        provider: row.name.to_owned(),
        max_tokens_field: if can.completion_field { "max_completion_tokens" } else { quirks.max_tokens },
        default_max_tokens: can.output.unwrap_or(DEFAULT_OUTPUT).min(MOST_OUTPUT),
        developer_role: quirks.developer,
        stream_options: quirks.stream_options,
        reasoning_field: quirks.reasoning,
        terminal_optional: quirks.open_end,
        short_tool_ids: quirks.short_ids,
        refuses,
        renames: quirks.renames,
        lacks,
        no_sampling: can.no_sampling,
        reasons: can.features.contains(&"reasoning"),
        thinking_budget: can.budget,
        // The table says it of one vendor's models; of others, and of unknown ones, the format decides.
        native_schema: can.schema || !can.prefix.starts_with("claude"),
        json_schema: can.json_schema,
        media_urls: quirks.media_urls,
        prefill: quirks.prefill,
        echoes: quirks.echoes,
        mid_system: can.mid_system,
        version: row.version,
        search: quirks.search.filter(|_| !lacks.contains(&"web_search")),
        code: quirks.code.filter(|_| !lacks.contains(&"code_execution")),
        fetch: quirks.fetch.filter(|_| !lacks.contains(&"web_fetch")),
        search_alone: format == Format::Gemini,
        hosted: quirks.hosted,
        assumed: row.name.is_empty(),
        completions: false,
    }
}

/// A model's name as the program's tables compare it: without a vendor's path, and without where AWS has it answered and
/// whose it is (`us.anthropic.claude-…`).
pub fn normal(model: &str) -> String {
    let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    let mut rest = name.as_str();
    for table in [AREAS, VENDORS] {
        if let Some((first, tail)) = rest.split_once('.')
            && table.contains(&first)
        {
            rest = tail;
        }
    }
    if rest.starts_with("claude") { rest.replace('.', "-") } else { rest.to_owned() }
}

/// First words of AWS's names for models that are answered in more than one region.
const AREAS: &[&str] = &["us", "eu", "apac", "jp", "au", "ca", "in", "us-gov", "global"];
/// First words of AWS's names for models: their vendors.
const VENDORS: &[&str] = &[
    "ai21",
    "amazon",
    "anthropic",
    "cohere",
    "deepseek",
    "google",
    "luma",
    "meta",
    "minimax",
    "mistral",
    "moonshot",
    "moonshotai",
    "nvidia",
    "openai",
    "qwen",
    "stability",
    "writer",
    "xai",
    "zai",
];

/// What the format's vendor runs itself: a search of the web, code, a reader of pages.
pub fn vendors_tools(format: Format) -> [Option<&'static str>; 3] {
    match format {
        Format::AnthropicMessages => {
            [Some("web_search_20250305"), Some("code_execution_20260120"), Some("web_fetch_20250910")]
        }
        Format::Gemini => [Some("googleSearch"), Some("codeExecution"), Some("urlContext")],
        Format::OpenaiResponses => [Some("web_search"), Some("code_interpreter"), None],
        _ => [None, None, None],
    }
}

/// What a catalogue file alone knows of a model: one that no prefix here fits.
pub fn completed(dialect: Dialect, features: Words, lacks: Words, output: Option<u64>) -> Dialect {
    static SEEN: LazyLock<DashMap<(Words, Words), Words>> = LazyLock::new(DashMap::new);
    let joined = |a: Words, b: Words| *SEEN.entry((a, b)).or_insert_with(|| union(a, b));
    let unsampled = lacks.contains(&"sampling");
    Dialect {
        default_max_tokens: output.map_or(dialect.default_max_tokens, |output| output.min(MOST_OUTPUT)),
        no_sampling: dialect.no_sampling || unsampled,
        refuses: if unsampled { joined(dialect.refuses, SAMPLING) } else { dialect.refuses },
        reasons: dialect.reasons || features.contains(&"reasoning"),
        lacks: joined(dialect.lacks, lacks),
        ..dialect
    }
}

/// Knobs of models that take no sampling.
const SAMPLING: Words = &["temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "logit_bias"];

/// The union of a provider's and a model's lists. Both come from the program's own tables, so there are only so many pairs
/// to keep.
fn joined(row: &'static Row, can: &'static Capability) -> (Words, Words) {
    static SEEN: LazyLock<DashMap<(usize, usize), (Words, Words)>> = LazyLock::new(DashMap::new);
    let key = (std::ptr::from_ref(row).addr(), std::ptr::from_ref(can).addr());
    if let Some(known) = SEEN.get(&key) {
        return *known;
    }
    let both = (union(row.quirks.refuses, can.refuses), union(row.quirks.lacks, can.lacks));
    *SEEN.entry(key).or_insert(both)
}

fn union(a: Words, b: Words) -> Words {
    match (a, b) {
        (a, []) => a,
        ([], b) => b,
        (a, b) => {
            let mut all = a.to_vec();
            all.extend(b.iter().filter(|w| !a.contains(w)));
            Box::leak(all.into_boxed_slice())
        }
    }
}

/// What a family of models can, or else lacks: it is known of each.
const ALL_OR_NONE: [&str; 2] = ["audio", "reasoning"];

/// Where a format needs a bound and nobody gave one: enough for a long answer, within what old models take.
const DEFAULT_OUTPUT: u64 = 8192;
const MOST_OUTPUT: u64 = 64_000;

static UNKNOWN: LazyLock<[Capability; Format::ALL.len()]> = LazyLock::new(|| {
    Format::ALL.map(|_| Capability {
        budget: true,
        schema: true,
        json_schema: true,
        features: &["tools"],
        ..Capability::default()
    })
});

static MODELS: LazyLock<Vec<Capability>> = LazyLock::new(|| {
    // The file is part of the program; a test reads it, so a broken one never ships.
    parse(include_str!("capability.toml")).unwrap_or_default()
});

pub(super) fn parse(text: &str) -> Result<Vec<Capability>, toml::de::Error> {
    let raw: RawTable = toml::from_str(text)?;
    Ok(raw.model.into_iter().map(RawModel::finish).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    model: Vec<RawModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    prefix: String,
    context: Option<u64>,
    output: Option<u64>,
    #[serde(default)]
    budget: bool,
    #[serde(default)]
    no_sampling: bool,
    #[serde(default)]
    mid_system: bool,
    #[serde(default)]
    schema: bool,
    #[serde(default)]
    json_schema: bool,
    #[serde(default)]
    completion_field: bool,
    #[serde(default)]
    refuses: Vec<String>,
    #[serde(default)]
    lacks: Vec<String>,
    features: Vec<String>,
    #[serde(default)]
    maybe: Vec<String>,
    source: String,
    date: String,
}

impl RawModel {
    fn finish(mut self) -> Capability {
        for word in ALL_OR_NONE {
            let said = [&self.features, &self.maybe, &self.lacks].iter().any(|list| list.iter().any(|w| w == word));
            if !said {
                self.lacks.push(word.to_owned());
            }
        }
        Capability {
            prefix: keep(self.prefix),
            context: self.context,
            output: self.output,
            budget: self.budget,
            no_sampling: self.no_sampling,
            mid_system: self.mid_system,
            schema: self.schema,
            json_schema: self.json_schema,
            completion_field: self.completion_field,
            refuses: keep_all(self.refuses),
            lacks: keep_all(self.lacks),
            features: keep_all(self.features),
            source: keep(self.source),
            date: keep(self.date),
        }
    }
}
