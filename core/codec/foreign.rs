//! What another family's request asks for in fields that have no name in the model. They never reach this wire: an ability
//! that is asked for is refused by name, and a knob worth a note is named among what was dropped.

use serde_json::{Map, Value};

use super::custom;
use crate::{
    error::{Error, Result},
    model::{Extra, Format, Request, Tool},
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
    let shape = ["response_format.type", "$text.format.type"].iter().find_map(|path| told(theirs, path)?.as_str());
    if let Some(kind) = shape.filter(|kind| !SHAPES.contains(kind)) {
        let kind: String = kind.chars().take(LONGEST_NAME).collect();
        let message = format!(
            "this model does not bind its answer to a `{kind}`; ask for a JSON schema, or choose another model"
        );
        return Err(Error::unsupported("response_format", message));
    }
    for (key, feature, message) in ABILITIES {
        // An empty list asks for nothing; an empty object may ask for all that is usual.
        if theirs.get(key).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(Error::unsupported(feature, message));
        }
    }
    Ok(())
}

/// Vectors of other numbers than floats, which one format's servers make: no client of it could read others.
pub fn refuse_vectors(extra: &Extra, own: Format) -> Result<()> {
    let Some(theirs) = fields(extra, own) else { return Ok(()) };
    let kinds = theirs.get("embedding_types").and_then(Value::as_array);
    let whole = kinds.is_none_or(|kinds| kinds.iter().all(|kind| kind == "float"));
    if whole && !theirs.contains_key("encoding_format") {
        return Ok(());
    }
    let message = "this target makes vectors of floats only; ask for `float` or `base64`, or choose another model";
    Err(Error::unsupported("encoding_format", message))
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
    // Answers of this format are kept by the gateway, or not, as their client says.
    let kept = extra.of(Format::OpenaiResponses).is_some();
    for (path, name) in KNOBS.into_iter().filter(|(path, _)| !(kept && *path == "store")) {
        if told(theirs, path).is_some_and(|value| asks(path, value)) && !dropped.contains(&name) {
            dropped.push(name);
        }
    }
}

/// Fields that no page of their family's tells of and this gateway has no name for: by the names that their caller gave them,
/// as far as those can stand in a header. So many of them; of the others only how many there are.
pub fn unknown(extra: &Extra, own: Format) -> Vec<String> {
    let Some(theirs) = fields(extra, own) else { return Vec::new() };
    let known = |key: &str| {
        let first = |path: &'static str| path.split('.').next().unwrap_or(path);
        key.starts_with('$')
            || ELSEWHERE.contains(&key)
            || KNOBS.iter().any(|(path, _)| first(path) == key)
            || ABILITIES.iter().any(|(path, ..)| *path == key)
    };
    let mut names: Vec<String> =
        theirs.iter().filter(|(key, value)| !value.is_null() && !known(key)).map(|(key, _)| shown(key)).collect();
    if let Some(more) = names.len().checked_sub(MOST_NAMES).filter(|more| *more > 0) {
        names.truncate(MOST_NAMES);
        names.push(format!("{more}_more"));
    }
    names
}

/// The same, with what an answer's settings and the functions hold that no other wire has.
pub fn unread(request: &Request, own: Format) -> Vec<String> {
    let mut names = unknown(&request.extra, own);
    if let Some(Value::Object(settings)) = fields(&request.extra, own).and_then(|theirs| theirs.get(SETTINGS)) {
        let known = |key: &str| {
            let listed =
                |path: &str| path.strip_prefix(SETTINGS).is_some_and(|rest| rest.strip_prefix('.') == Some(key));
            KNOBS.iter().any(|(path, _)| listed(path)) || READ_SETTINGS.contains(&key)
        };
        let unknown = settings.iter().filter(|(key, value)| !value.is_null() && !known(key));
        names.extend(unknown.take(MOST_NAMES).map(|(key, _)| format!("{SETTINGS}.{}", shown(key))));
    }
    for key in OF_FUNCTIONS {
        let has = |tool: &Tool| matches!(tool, Tool::Function(f) if fields(&f.extra, own).is_some_and(|e| e.contains_key(key)));
        if request.tools.iter().any(has) {
            names.push(format!("tools.{key}"));
        }
    }
    // A tool with free text is one with JSON arguments there, and nothing binds what is in them.
    let bound = |tool: &Tool| matches!(tool, Tool::Function(f) if custom::bound(f, own).is_some());
    if !custom::knows(own) && request.tools.iter().any(bound) {
        names.push("tools.format".to_owned());
    }
    names
}

/// As far as it can stand in a header.
fn shown(key: &str) -> String {
    key.chars().take(LONGEST_NAME).map(|c| if plain(c) { c } else { '_' }).collect()
}

/// Names of fields are made of these.
fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.".contains(c)
}

const SETTINGS: &str = "generationConfig";
/// Settings that are read; the others are knobs above, or nobody's.
const READ_SETTINGS: [&str; 8] = [
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseLogprobs",
    "logprobs",
    "responseModalities",
    "response_modalities",
    "thinkingConfig",
];
/// Of a function: examples of its input, and the schema of its result.
const OF_FUNCTIONS: [&str; 3] = ["input_examples", "response", "responseJsonSchema"];
const MOST_NAMES: usize = 16;
const LONGEST_NAME: usize = 64;

/// The value at a path of keys with dots between them.
fn told<'a>(fields: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut keys = path.split('.');
    let first = fields.get(keys.next()?)?;
    keys.try_fold(first, |value, key| value.get(key))
}

/// What is said to be as it is anyway asks for nothing.
fn asks(path: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(word) => !USUAL.contains(&(path, word)),
        Value::Array(list) => !list.is_empty(),
        // What models and templates are told beside the wire's own fields: some of it has a name.
        Value::Object(fields) if path == ADDITIONAL || path == TEMPLATE => {
            fields.keys().any(|key| !NAMED.contains(&key.as_str()))
        }
        Value::Object(fields) => !fields.is_empty() || path == "guardrailConfig",
        _ => true,
    }
}

const ADDITIONAL: &str = "additionalModelRequestFields";
const TEMPLATE: &str = "chat_template_kwargs";
/// Fields in there that are read.
const NAMED: [&str; 9] = [
    "thinking",
    "enable_thinking",
    "reasoning_config",
    "reasoning_effort",
    "reasoningConfig",
    "output_config",
    "inferenceConfig",
    "top_k",
    "topK",
];
/// What is so when nothing is said.
const USUAL: [(&str, &str); 3] =
    [("truncation", "disabled"), ("reasoning.context", "auto"), ("reasoning.mode", "standard")];
/// Of an answer, that the canonical model has a name for.
const SHAPES: [&str; 3] = ["text", "json_object", "json_schema"];
const SEARCH: &str =
    "this model's web search, if it has one, is a tool of its own; choose a model of your format's vendor";
const CACHED: &str = "content cached at one vendor cannot be read by another; send the content itself";
const SERVERS: &str = "a server of tools is called by your format's vendor only; choose one of its models";
const ABILITIES: [(&str, &str, &str); 4] = [
    ("web_search_options", "web_search", SEARCH),
    ("cachedContent", "cached_content", CACHED),
    ("cached_content", "cached_content", CACHED),
    ("mcp_servers", "mcp_servers", SERVERS),
];

/// What is read in another place, or is about the call and not the answer.
const ELSEWHERE: [&str; 27] = [
    "stream_options",
    "top_logprobs",
    "response_format",
    "reasoning",
    "include_reasoning",
    "thinking",
    "enable_thinking",
    "modalities",
    "include",
    "background",
    "previous_response_id",
    "conversation",
    "output_config",
    "output_format",
    "metadata",
    "anthropic_version",
    "generationConfig",
    "toolConfig",
    "inferenceConfig",
    "outputConfig",
    "serviceTier",
    "strict_tools",
    "input_type",
    "embedding_types",
    "echo",
    "best_of",
    "logprobs",
];

/// (its own family's word, the name under which it is told)
const KNOBS: [(&str, &str); 49] = [
    // OpenAI
    ("prediction", "prediction"),
    ("store", "store"),
    ("prompt_cache_key", "prompt_cache_key"),
    ("prompt_cache_retention", "prompt_cache_retention"),
    ("prompt_cache_options", "prompt_cache_options"),
    ("moderation", "moderation"),
    ("audio", "audio"),
    ("max_tool_calls", "max_tool_calls"),
    ("safety_identifier", "safety_identifier"),
    ("reasoning.context", "reasoning.context"),
    ("reasoning.mode", "reasoning.mode"),
    ("truncation", "truncation"),
    ("context_management", "context_management"),
    // Servers that speak its format
    ("min_p", "min_p"),
    ("top_a", "top_a"),
    ("repetition_penalty", "repetition_penalty"),
    (TEMPLATE, TEMPLATE),
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
    ("cache_control", "cache_control"),
    ("speed", "speed"),
    ("inference_geo", "inference_geo"),
    ("container", "container"),
    ("diagnostics", "diagnostics"),
    ("output_config.task_budget", "task_budget"),
    // Gemini
    ("safetySettings", "safety_settings"),
    ("labels", "labels"),
    ("generationConfig.mediaResolution", "media_resolution"),
    ("generationConfig.speechConfig", "speech_config"),
    ("generationConfig.imageConfig", "image_config"),
    ("generationConfig.enableEnhancedCivicAnswers", "enable_enhanced_civic_answers"),
    ("toolConfig.retrievalConfig", "retrieval_config"),
    // Bedrock
    ("guardrailConfig", "guardrail_config"),
    ("performanceConfig", "performance_config"),
    ("promptVariables", "prompt_variables"),
    (ADDITIONAL, "additional_model_request_fields"),
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
    use crate::model::tool::Function;

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
        for quiet in [
            json!({"truncation": "disabled"}),
            json!({"additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2000}, "top_k": 5}}),
            json!({"reasoning": {"mode": "standard", "context": "auto", "effort": "low"}}),
            json!({"priority": null}),
            json!({"raw_prompting": false}),
            json!({"mcp_servers": []}),
        ] {
            let mut dropped = Vec::new();
            note(&extra(Format::Cohere, quiet.clone()), Format::OpenaiChat, &mut dropped);
            assert!(dropped.is_empty(), "{dropped:?}");
            assert!(refuse(&extra(Format::Cohere, quiet.clone()), Format::OpenaiChat, &[]).is_ok(), "{quiet}");
        }
        for (format, store, named) in [
            (Format::OpenaiChat, true, true),
            (Format::OpenaiChat, false, false),
            (Format::OpenaiResponses, true, false),
        ] {
            let mut dropped = Vec::new();
            note(&extra(format, json!({"store": store})), Format::Gemini, &mut dropped);
            assert_eq!(dropped.contains(&"store"), named, "{format:?} {store}");
        }
        let mut many = json!({"future\r\nknob é": 1, "seen": null, "guardrailConfig": {}, "$own": 1, "metadata": 1});
        assert_eq!(unknown(&extra(Format::Cohere, many.clone()), Format::Ollama), ["future__knob__"]);
        assert!(unknown(&extra(Format::Cohere, many.clone()), Format::Cohere).is_empty());
        (0..20).for_each(|n| many[format!("{}{n}", "x".repeat(90))] = 1.into());
        let names = unknown(&extra(Format::Cohere, many), Format::Ollama);
        assert_eq!((names.len(), names.last().map(String::as_str)), (17, Some("5_more")));
        assert!(names.iter().all(|name| name.len() <= 64));
        for (format, asked) in [
            (Format::OpenaiChat, json!({"encoding_format": "base64_int8"})),
            (Format::Cohere, json!({"embedding_types": ["float", "int8"]})),
        ] {
            let refused = refuse_vectors(&extra(format, asked.clone()), Format::Gemini).expect_err("refused");
            assert_eq!(refused.param.as_deref(), Some("encoding_format"));
            assert!(refuse_vectors(&extra(format, asked), format).is_ok());
        }
        assert!(refuse_vectors(&extra(Format::Cohere, json!({"embedding_types": ["float"]})), Format::Gemini).is_ok());
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
            (json!({"mcp_servers": [{"type": "url"}]}), "mcp_servers"),
            (json!({"response_format": {"type": "grammar"}}), "response_format"),
            (json!({"$text": {"format": {"type": "lark"}}}), "response_format"),
        ] {
            let asked = extra(Format::OpenaiChat, asked);
            let error = refuse(&asked, Format::Cohere, &[]).expect_err("refused");
            assert_eq!(error.param.as_deref(), Some(feature));
            assert!(refuse(&asked, Format::OpenaiChat, &[]).is_ok());
            let given = refuse(&asked, Format::Cohere, &["audio", "image"]).is_ok();
            assert_eq!(given, ["audio", "image_output"].contains(&feature));
        }
    }

    #[test]
    fn what_settings_and_functions_hold_that_no_other_wire_has_is_named() {
        let function = Function {
            name: "f".to_owned(),
            description: None,
            parameters: None,
            strict: None,
            custom: false,
            cache: None,
            extra: extra(Format::Gemini, json!({"response": {}})),
        };
        let settings =
            json!({"generationConfig": {"new\nknob": 1, "thinkingConfig": {}, "mediaResolution": "x", "gone": null}});
        let request = Request {
            extra: extra(Format::Gemini, settings),
            tools: vec![Tool::Function(function)],
            ..Request::default()
        };
        assert_eq!(unread(&request, Format::OpenaiChat), ["generationConfig.new_knob", "tools.response"]);
        assert!(unread(&request, Format::Gemini).is_empty());
    }
}
