//! LiteLLM's `model_prices_and_context_window.json`: one flat object a model, whose keys are words of a small grammar. The
//! grammar is read, not a list of keys.

use serde_json::{Map, Value};

use super::{
    draft::{Draft, Entry, count},
    names,
};

pub fn read(value: Value) -> Result<Draft, String> {
    let Value::Object(models) = value else { return Err("it should be one object, a model a key".to_owned()) };
    let mut draft = Draft::default();
    for (name, value) in models {
        // The file's own legend.
        if name == "sample_spec" {
            continue;
        }
        draft.entries += 1;
        match value {
            Value::Object(fields) => one(&name, &fields, &mut draft),
            _ => draft.refuse(&name, "it is not an object"),
        }
    }
    Ok(draft)
}

fn one(name: &str, fields: &Map<String, Value>, draft: &mut Draft) {
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or("");
    let (provider, mode) = (text("litellm_provider"), text("mode"));
    let bare = name.strip_prefix(provider).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
    let providers = names::rows(provider, bare);
    if providers.is_empty() {
        *draft.elsewhere.entry(if provider.is_empty() { "(none)" } else { provider }.to_owned()).or_default() += 1;
        return;
    }
    let Some(model) = names::model(bare) else { return draft.refuse(name, "its name cannot be one") };
    let mut entry = Entry { name: name.to_owned(), providers, models: vec![model], ..Entry::default() };
    for (key, value) in fields {
        let read = match key.as_str() {
            "max_input_tokens" => count(value).map(|n| entry.context = n),
            "max_output_tokens" => count(value).map(|n| entry.output_limit = n),
            key if key.starts_with("supports_") => {
                let feature = FEATURES.iter().find(|(word, _)| key.ends_with(word)).map(|(_, feature)| *feature);
                let knob = KNOBS.iter().find(|(word, _)| key == *word).map(|(_, knob)| *knob);
                match (feature, knob, value.as_bool()) {
                    (Some(feature), _, Some(true)) => entry.feature(feature),
                    (Some(lacking), _, Some(false)) | (_, Some(lacking), Some(false)) => entry.lack(lacking),
                    _ => {}
                }
                Ok(())
            }
            "search_context_cost_per_query" => match &value["search_context_size_medium"] {
                Value::Number(price) => entry.price("per_search", None, 0, price, 0),
                _ => Ok(()),
            },
            key if !is_price(key) => Ok(()),
            key => match (grammar(key, mode), value) {
                (_, Value::Null) => Ok(()),
                (Some(Said { key, service, above, shift }), Value::Number(price)) => {
                    entry.price(key, service, above, price, shift)
                }
                (Some(_), other) => Err(format!("{other} is no price")),
                (None, _) => {
                    draft.odd(key, name);
                    Ok(())
                }
            },
        };
        if let Err(why) = read {
            return draft.refuse(name, format!("{key}: {why}"));
        }
    }
    draft.take(entry);
}

fn is_price(key: &str) -> bool {
    ["cost", "pricing", "uplift", "price"].iter().any(|word| key.contains(word)) && key != "litellm_provider"
}

/// What a key says.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    pub key: &'static str,
    pub service: Option<&'static str>,
    pub above: u64,
    /// From the file's unit to ours, as a power of ten.
    pub shift: i32,
}

/// `{what}[_above_1hr][_above_{n}k_tokens][_{service}]`, the last two in either order. `None`: it says something that this
/// gateway does not count.
pub(super) fn grammar(key: &str, mode: &str) -> Option<Said> {
    let (mut rest, mut service, mut above, mut hour) = (key, None, 0, false);
    loop {
        if let Some((before, name)) = SERVICES.iter().find_map(|(word, name)| Some((rest.strip_suffix(word)?, *name))) {
            // A service of which nobody knows when it is meant.
            (rest, service) = (before, Some(name?));
        } else if let Some(before) = rest.strip_suffix("_above_1hr") {
            (rest, hour) = (before, true);
        } else if let Some((before, size)) = rest.rsplit_once("_above_").filter(|(_, size)| size.ends_with("_tokens")) {
            let size = size.strip_suffix("_tokens")?;
            let thousands = size.strip_suffix('k').map(|n| n.parse::<u64>().ok()?.checked_mul(1000));
            above = thousands.unwrap_or_else(|| size.parse().ok())?;
            rest = before;
        } else {
            break;
        }
    }
    let (key, shift) = what(rest, mode)?;
    match (key, hour) {
        ("cache_write", true) => Some(Said { key: "cache_write_1h", service, above, shift }),
        (_, true) => None,
        (key, false) => Some(Said { key, service, above, shift }),
    }
}

/// The words without what is behind them.
fn what(words: &str, mode: &str) -> Option<(&'static str, i32)> {
    let (direction, unit) = if let Some(rest) = words.strip_prefix("cache_read_input") {
        ("cache_read", rest)
    } else if let Some(rest) = words.strip_prefix("cache_creation_input") {
        ("cache_write", rest)
    } else if let Some(rest) = words.strip_prefix("input") {
        ("input", rest)
    } else {
        ("output", words.strip_prefix("output")?)
    };
    // `_cost_per_audio_token` and `_audio_token_cost` say the same.
    let tokens = unit
        .strip_suffix("_token_cost")
        .or_else(|| if unit == "_cost_per_token" { Some("") } else { None })
        .or_else(|| unit.strip_prefix("_cost_per").and_then(|u| u.strip_suffix("_token")));
    if let Some(modality) = tokens {
        let key = match (direction, modality) {
            ("cache_read", "") => "cache_read",
            ("cache_write", "") => "cache_write",
            ("input", "") => "input",
            ("output", "") => "output",
            ("input", "_audio") => "input_audio",
            ("output", "_audio") => "output_audio",
            ("input", "_image") => "input_image",
            ("output", "_image") => "output_image",
            ("output", "_reasoning") => "reasoning",
            _ => return None,
        };
        return Some((key, MILLION));
    }
    let drawn = mode == "image_generation" || mode == "image_edit";
    Some(match (direction, unit.strip_prefix("_cost_per_")?) {
        ("input", "character") => ("characters", MILLION),
        ("input", "request") => ("request", 0),
        ("input", "query") => ("per_search_unit", 0),
        // Where pictures are made, both words mean those that are made.
        ("output", "image") => ("per_image", 0),
        ("input", "image") if drawn => ("per_image", 0),
        ("input", "image") => ("per_input_image", 0),
        ("input", "second" | "audio_per_second") => ("per_input_second", 0),
        ("output", "second") => ("per_output_second", 0),
        _ => return None,
    })
}

const MILLION: i32 = 6;

/// Without a name: not one that an answer could tell.
const SERVICES: [(&str, Option<&str>); 8] = [
    ("_batches", Some("batch")),
    ("_flex", Some("flex")),
    ("_priority", Some("priority")),
    ("_fast", Some("fast")),
    ("_balanced", None),
    ("_ultrafast", None),
    ("_decisions", None),
    ("_cache_hit", None),
];

/// What is only told where it is not so.
const KNOBS: [(&str, &str); 2] = [("supports_sampling_params", "sampling"), ("supports_assistant_prefill", "prefill")];

const FEATURES: [(&str, &str); 8] = [
    ("supports_function_calling", "tools"),
    ("supports_vision", "images"),
    ("supports_pdf_input", "documents"),
    ("supports_audio_input", "audio"),
    ("supports_video_input", "video"),
    ("supports_reasoning", "reasoning"),
    ("supports_response_schema", "json_schema"),
    ("supports_web_search", "web_search"),
];
