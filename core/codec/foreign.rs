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

/// Abilities that this wire lacks, but for answers of the kinds in `gives` (`audio`, `image`).
pub fn refuse(extra: &Extra, own: Format, gives: &[&str]) -> Result<()> {
    let Some(theirs) = fields(extra, own) else { return Ok(()) };
    for (what, feature) in [("audio", "audio"), ("image", "image_output")] {
        if !gives.contains(&what) && wants(extra, own, what) {
            let message = format!("this model answers in text, not in {what}; choose another model");
            return Err(Error::unsupported(feature, message));
        }
    }
    let bound = told(theirs, "generationConfig.responseMimeType").and_then(Value::as_str);
    if let Some(mime) = bound {
        let message =
            format!("this model does not answer in `{mime}`; ask for JSON or plain text, or choose another model");
        return Err(Error::unsupported("response_mime_type", message));
    }
    for (key, feature, message) in ABILITIES {
        if theirs.contains_key(key) {
            return Err(Error::unsupported(feature, message));
        }
    }
    Ok(())
}

/// Is an answer of this kind asked for, beside text?
pub fn wants(extra: &Extra, own: Format, what: &str) -> bool {
    let Some(theirs) = fields(extra, own) else { return false };
    let lists = ["modalities", "responseModalities", "generationConfig.responseModalities"];
    let words = lists.iter().filter_map(|path| told(theirs, path)?.as_array()).flatten();
    words.filter_map(Value::as_str).any(|word| word.eq_ignore_ascii_case(what))
}

/// Fields among `keys` that another family calls as this one does, and means the same by them.
pub fn shared<'a>(extra: &'a Extra, own: Format, keys: &[&'static str]) -> Vec<(&'static str, &'a Value)> {
    let theirs = fields(extra, own);
    keys.iter().filter_map(|key| Some((*key, theirs?.get(*key).filter(|value| !value.is_null())?))).collect()
}

/// Knobs that are dropped: each is named once.
pub fn note(extra: &Extra, own: Format, dropped: &mut Vec<&'static str>) {
    let Some(theirs) = fields(extra, own) else { return };
    for (path, name) in KNOBS {
        if told(theirs, path).is_some_and(|value| asks(path, value)) && !dropped.contains(&name) {
            dropped.push(name);
        }
    }
}

/// The value at a path of keys with dots between them.
fn told<'a>(fields: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut keys = path.split('.');
    let first = fields.get(keys.next()?)?;
    keys.try_fold(first, |value, key| value.get(key))
}

/// What is said to be as it is anyway asks for nothing.
fn asks(path: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(false) => path == "store",
        Value::String(word) => path != "truncation" || word != "disabled",
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty() || path == "guardrailConfig",
        _ => true,
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
const KNOBS: [(&str, &str); 45] = [
    // OpenAI
    ("prediction", "prediction"),
    ("store", "store"),
    ("prompt_cache_key", "prompt_cache_key"),
    ("prompt_cache_retention", "prompt_cache_retention"),
    ("prompt_cache_options", "prompt_cache_options"),
    ("moderation", "moderation"),
    ("audio", "audio"),
    ("max_tool_calls", "max_tool_calls"),
    ("truncation", "truncation"),
    ("context_management", "context_management"),
    // Servers that speak its format
    ("min_p", "min_p"),
    ("top_a", "top_a"),
    ("repetition_penalty", "repetition_penalty"),
    ("chat_template_kwargs", "chat_template_kwargs"),
    ("guided_json", "guided_json"),
    ("guided_regex", "guided_regex"),
    ("guided_choice", "guided_choice"),
    ("guided_grammar", "guided_grammar"),
    ("structured_outputs", "structured_outputs"),
    ("provider", "provider"),
    ("models", "models"),
    ("transforms", "transforms"),
    ("plugins", "plugins"),
    // Anthropic
    ("mcp_servers", "mcp_servers"),
    ("cache_control", "cache_control"),
    ("speed", "speed"),
    ("inference_geo", "inference_geo"),
    ("container", "container"),
    ("diagnostics", "diagnostics"),
    // Gemini
    ("safetySettings", "safety_settings"),
    ("labels", "labels"),
    ("generationConfig.mediaResolution", "media_resolution"),
    ("generationConfig.speechConfig", "speech_config"),
    ("generationConfig.imageConfig", "image_config"),
    ("toolConfig.retrievalConfig", "retrieval_config"),
    // Bedrock
    ("guardrailConfig", "guardrail_config"),
    ("performanceConfig", "performance_config"),
    ("promptVariables", "prompt_variables"),
    ("additionalModelRequestFields", "additional_model_request_fields"),
    ("additionalModelResponseFieldPaths", "additional_model_response_field_paths"),
    // Cohere, Ollama
    ("safety_mode", "safety_mode"),
    ("citation_options", "citation_options"),
    ("priority", "priority"),
    ("raw_prompting", "raw_prompting"),
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
        for quiet in [json!({"truncation": "disabled"}), json!({"priority": null}), json!({"raw_prompting": false})] {
            let mut dropped = Vec::new();
            note(&extra(Format::Cohere, quiet), Format::OpenaiChat, &mut dropped);
            assert!(dropped.is_empty(), "{dropped:?}");
        }
        let nested = extra(Format::Gemini, json!({"generationConfig": {"mediaResolution": "x"}, "labels": {"a": "b"}}));
        let mut dropped = Vec::new();
        note(&nested, Format::OpenaiResponses, &mut dropped);
        assert_eq!(dropped, ["labels", "media_resolution"]);
        let keyed = extra(Format::OpenaiChat, json!({"prompt_cache_key": "k", "x": 1}));
        assert_eq!(
            shared(&keyed, Format::OpenaiResponses, &["prompt_cache_key", "x_key"]),
            [("prompt_cache_key", &json!("k"))]
        );
        for (asked, feature) in [
            (json!({"generationConfig": {"responseMimeType": "text/x.enum"}}), "response_mime_type"),
            (json!({"modalities": ["text", "audio"]}), "audio"),
            (json!({"generationConfig": {"responseModalities": ["IMAGE"]}}), "image_output"),
            (json!({"web_search_options": {}}), "web_search"),
            (json!({"cachedContent": "x"}), "cached_content"),
        ] {
            let asked = extra(Format::OpenaiChat, asked);
            let error = refuse(&asked, Format::Cohere, &[]).expect_err("refused");
            assert_eq!(error.param.as_deref(), Some(feature));
            assert!(refuse(&asked, Format::OpenaiChat, &[]).is_ok());
            let given = refuse(&asked, Format::Cohere, &["audio", "image"]).is_ok();
            assert_eq!(given, ["audio", "image_output"].contains(&feature));
        }
    }
}
