//! `usageMetadata` ⇄ canonical usage. The prompt count of this wire includes cached tokens but not those of hosted tools;
//! the candidates' count leaves thoughts out.

use serde_json::{Map, Value, json};

use super::wire::GEMINI;
use crate::{
    codec::{draft::Draft, json::as_u64},
    model::{ServiceTier, Units, Usage},
};

pub fn decode(native: &Map<String, Value>) -> Usage {
    let count = |key: &str| native.get(key).and_then(Value::as_number).and_then(as_u64);
    let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    };
    let thoughts = count("thoughtsTokenCount");
    Usage {
        input_tokens: sum(count("promptTokenCount"), count("toolUsePromptTokenCount")),
        output_tokens: sum(count("candidatesTokenCount"), thoughts),
        cache_read_tokens: count("cachedContentTokenCount"),
        cache_write_tokens: None,
        cache_write_1h_tokens: None,
        reasoning_tokens: thoughts,
        input_audio_tokens: modality(native, "promptTokensDetails", "AUDIO"),
        output_audio_tokens: modality(native, "candidatesTokensDetails", "AUDIO"),
        billed: None,
        service_tier: ["trafficType", "serviceTier"]
            .iter()
            .find_map(|key| native.get(*key)?.as_str().map(ServiceTier::named)),
        units: Units {
            input_image_tokens: modality(native, "promptTokensDetails", "IMAGE"),
            output_image_tokens: modality(native, "candidatesTokensDetails", "IMAGE"),
            cache_read_audio_tokens: modality(native, "cacheTokensDetails", "AUDIO"),
            ..Units::default()
        }
        .boxed(),
        native: Some(Box::new((GEMINI, native.clone()))),
    }
}

pub const PROMPT: &str = "promptTokenCount";

/// Do these figures add up by themselves? Others are told in pieces.
pub fn adds_up(native: &Map<String, Value>) -> bool {
    let count = |key: &str| native.get(key).and_then(Value::as_number).and_then(as_u64).unwrap_or(0);
    let parts = [PROMPT, "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"];
    let sum = parts.into_iter().map(count).fold(0, u64::saturating_add);
    sum > 0 && count("totalTokenCount") == sum
}

/// What was told before counts no more. It stays there as nothing, because whoever reads the stream puts its figures together.
pub fn begin_anew(native: &mut Map<String, Value>) {
    for value in native.values_mut() {
        match value {
            Value::Number(_) => *value = 0.into(),
            Value::Array(details) => details.clear(),
            _ => {}
        }
    }
}

fn modality(native: &Map<String, Value>, key: &str, name: &str) -> Option<u64> {
    native
        .get(key)?
        .as_array()?
        .iter()
        .find(|d| d.get("modality").and_then(Value::as_str) == Some(name))?
        .get("tokenCount")?
        .as_number()
        .and_then(as_u64)
}

pub fn told(usage: &Usage) -> Draft<'_> {
    let mut out = Draft::new();
    if let Some((GEMINI, native)) = usage.native.as_deref() {
        out.add(Some(native));
        return out;
    }
    let mut put = |key: &'static str, value: Option<u64>| {
        if let Some(value) = value {
            out.put(key, value);
        }
    };
    put("promptTokenCount", usage.input_tokens);
    put("cachedContentTokenCount", usage.cache_read_tokens);
    put("candidatesTokenCount", usage.output_tokens.map(|o| o.saturating_sub(usage.reasoning_tokens.unwrap_or(0))));
    put("thoughtsTokenCount", usage.reasoning_tokens);
    put("totalTokenCount", usage.total_tokens());
    let units = usage.units();
    for (key, sound, pictures) in [
        ("cacheTokensDetails", units.cache_read_audio_tokens, None),
        ("promptTokensDetails", usage.input_audio_tokens, units.input_image_tokens),
        ("candidatesTokensDetails", usage.output_audio_tokens, units.output_image_tokens),
    ] {
        let details: Vec<Value> = [("AUDIO", sound), ("IMAGE", pictures)]
            .into_iter()
            .filter_map(|(name, tokens)| Some(json!({ "modality": name, "tokenCount": tokens? })))
            .collect();
        if !details.is_empty() {
            out.put(key, Value::Array(details));
        }
    }
    out
}

/// The same as a tree.
pub fn encode(usage: &Usage) -> Value {
    Value::Object(told(usage).tree())
}
