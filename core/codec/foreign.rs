//! What another family's request asks for in fields that have no name in the model. They never reach this wire: an ability
//! that is asked for is refused by name, and a knob worth a note is named among what was dropped.

use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    model::{Extra, Format},
};

/// Fields of another family than `own`.
fn fields(extra: &Extra, own: Format) -> Option<&Map<String, Value>> {
    extra.any().filter(|(format, _)| *format != own).map(|(_, fields)| fields)
}

/// Abilities that a text-only wire lacks.
pub fn refuse(extra: &Extra, own: Format) -> Result<()> {
    let Some(fields) = fields(extra, own) else { return Ok(()) };
    let asks = |key: &str, what: &str| {
        let inner = || fields.get("generationConfig").and_then(|config| config.get(key));
        let list = fields.get(key).or_else(inner).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).any(|word| word.eq_ignore_ascii_case(what))
    };
    for (what, feature) in [("audio", "audio"), ("image", "image_output")] {
        if ["modalities", "responseModalities"].iter().any(|key| asks(key, what)) {
            let message = format!("this model answers in text, not in {what}; choose another model");
            return Err(Error::unsupported(feature, message));
        }
    }
    for (key, feature, message) in ABILITIES {
        if fields.contains_key(key) {
            return Err(Error::unsupported(feature, message));
        }
    }
    Ok(())
}

/// Knobs that are dropped: each is named once.
pub fn note(extra: &Extra, own: Format, dropped: &mut Vec<&'static str>) {
    let Some(fields) = fields(extra, own) else { return };
    for (key, name) in KNOBS {
        if fields.contains_key(key) && !dropped.contains(&name) {
            dropped.push(name);
        }
    }
}

const SEARCH: &str =
    "this model's web search, if it has one, is a tool of its own; choose a model of your format's vendor";
const CACHED: &str = "content cached at one vendor cannot be read by another; send the content itself";
const ABILITIES: [(&str, &str, &str); 3] = [
    ("web_search_options", "web_search", SEARCH),
    ("cachedContent", "cached_content", CACHED),
    ("cached_content", "cached_content", CACHED),
];

/// (its own family's word, the name under which it is told)
const KNOBS: [(&str, &str); 15] = [
    ("prediction", "prediction"),
    ("store", "store"),
    ("prompt_cache_key", "prompt_cache_key"),
    ("prompt_cache_retention", "prompt_cache_retention"),
    ("moderation", "moderation"),
    ("safetySettings", "safety_settings"),
    ("labels", "labels"),
    ("min_p", "min_p"),
    ("guardrailConfig", "guardrail_config"),
    ("performanceConfig", "performance_config"),
    ("promptVariables", "prompt_variables"),
    ("mcp_servers", "mcp_servers"),
    ("safety_mode", "safety_mode"),
    ("citation_options", "citation_options"),
    ("keep_alive", "keep_alive"),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn extra(format: Format, value: Value) -> Extra {
        Extra::new(format, value.as_object().cloned().unwrap_or_default())
    }

    #[test]
    fn abilities_are_refused_and_knobs_named_unless_they_are_ones_own() {
        let guarded = extra(Format::BedrockConverse, json!({"guardrailConfig": {}, "unknown": 1}));
        let mut dropped = vec!["guardrail_config"];
        note(&guarded, Format::OpenaiChat, &mut dropped);
        assert_eq!(dropped, ["guardrail_config"], "once");
        let mut dropped = Vec::new();
        note(&guarded, Format::BedrockConverse, &mut dropped);
        assert!(dropped.is_empty());
        for (asked, feature) in [
            (json!({"modalities": ["text", "audio"]}), "audio"),
            (json!({"generationConfig": {"responseModalities": ["IMAGE"]}}), "image_output"),
            (json!({"web_search_options": {}}), "web_search"),
            (json!({"cachedContent": "x"}), "cached_content"),
        ] {
            let asked = extra(Format::OpenaiChat, asked);
            let error = refuse(&asked, Format::Cohere).expect_err("refused");
            assert_eq!(error.param.as_deref(), Some(feature));
            assert!(refuse(&asked, Format::OpenaiChat).is_ok());
        }
    }
}
