//! `usageMetadata` ⇄ canonical usage. The prompt count of this wire includes cached tokens but not those of hosted tools;
//! the candidates' count leaves thoughts out.

use serde_json::{Map, Value, json};

use super::wire::GEMINI;
use crate::{
    codec::{
        draft::Draft,
        figures::{self, Figure, figures},
        json::{Item, as_u64},
        tape::Tape,
    },
    model::{ServiceTier, Units, Usage},
};

/// Reads a usage object.
pub fn decode(object: Item) -> Usage {
    figures::usage(GEMINI, object.written(), read)
}

fn read(object: &[u8]) -> Option<Usage> {
    let (mut prompt, mut tools, mut answer, mut thoughts, mut cached) = (None, None, None, None, None);
    let (mut sound, mut spoken, mut traffic, mut service) = (None, None, None, None);
    let mut units = Units::default();
    figures(object, |outer, key, figure| {
        if !outer.is_empty() {
            return;
        }
        match key {
            b"promptTokenCount" => prompt = figure.whole(),
            b"toolUsePromptTokenCount" => tools = figure.whole(),
            b"candidatesTokenCount" => answer = figure.whole(),
            b"thoughtsTokenCount" => thoughts = figure.whole(),
            b"cachedContentTokenCount" => cached = figure.whole(),
            b"promptTokensDetails" => [sound, units.input_image_tokens] = details(figure),
            b"candidatesTokensDetails" => [spoken, units.output_image_tokens] = details(figure),
            b"cacheTokensDetails" => [units.cache_read_audio_tokens, _] = details(figure),
            b"trafficType" => traffic = figure.word().map(ServiceTier::named),
            b"serviceTier" => service = figure.word().map(ServiceTier::named),
            _ => {}
        }
    })?;
    let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    };
    Some(Usage {
        input_tokens: sum(prompt, tools),
        output_tokens: sum(answer, thoughts),
        cache_read_tokens: cached,
        cache_write_tokens: None,
        cache_write_1h_tokens: None,
        reasoning_tokens: thoughts,
        input_audio_tokens: sound,
        output_audio_tokens: spoken,
        billed: None,
        service_tier: traffic.or(service),
        units: units.boxed(),
        native: None,
    })
}

/// Tokens of sound and of pictures.
fn details(list: Figure<'_>) -> [Option<u64>; 2] {
    let mut out = [None; 2];
    let Figure::Other(list) = list else { return out };
    let Some(tape) = Tape::read(list) else { return out };
    for detail in tape.root().items().into_iter().flatten() {
        let place = match detail.member("modality").map(|modality| modality.raw()) {
            Some("\"AUDIO\"") => &mut out[0],
            Some("\"IMAGE\"") => &mut out[1],
            _ => continue,
        };
        // The first of a kind counts.
        *place = place.or_else(|| Item::Read(detail.member("tokenCount")?).whole());
    }
    out
}

/// What an answer told of its usage so far, chunk by chunk: the object as it is written.
#[derive(Debug, Default)]
pub struct Told(Option<String>);

impl Told {
    pub fn is_empty(&self) -> bool {
        !self.0.as_deref().is_some_and(figures::tells)
    }

    /// What all of it says, with what the next chunk tells.
    pub fn add(&mut self, more: Option<Item>) -> Usage {
        let more = more.map(|more| more.written().into_owned());
        let all = match (self.0.take(), more) {
            (known, None) => known.unwrap_or_default(),
            (None, Some(more)) => more,
            (Some(known), Some(more)) if says_as_much(&more, &known) => more,
            (Some(known), Some(more)) => joined(&known, &more),
        };
        let usage = figures::usage(GEMINI, all.as_str().into(), read);
        self.0 = Some(all);
        usage
    }
}

/// Does it say something of each field that was told, and of no other? Then it is all that counts.
fn says_as_much(more: &str, known: &str) -> bool {
    let (Some(more), Some(known)) = (Tape::read(more.as_bytes()), Tape::read(known.as_bytes())) else { return false };
    let said = more.root().members().map(|(key, value)| (!value.is_null()).then_some(key));
    said.eq(known.root().members().map(|(key, _)| Some(key)))
}

/// Later figures replace earlier ones.
fn joined(known: &str, more: &str) -> String {
    let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let (mut known, mut more) = (object(known), object(more));
    more.retain(|_, value| !value.is_null());
    // The prompt has grown by what a tool of the vendor's gave: another count begins.
    if adds_up(&more) && more.get(PROMPT) != known.get(PROMPT) {
        begin_anew(&mut known);
    }
    known.extend(more);
    Value::Object(known).to_string()
}

const PROMPT: &str = "promptTokenCount";

/// Do these figures add up by themselves? Others are told in pieces.
fn adds_up(native: &Map<String, Value>) -> bool {
    let count = |key: &str| native.get(key).and_then(Value::as_number).and_then(as_u64).unwrap_or(0);
    let parts = [PROMPT, "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"];
    let sum = parts.into_iter().map(count).fold(0, u64::saturating_add);
    sum > 0 && count("totalTokenCount") == sum
}

/// What was told before counts no more. It stays there as nothing, because whoever reads the stream puts its figures together.
fn begin_anew(native: &mut Map<String, Value>) {
    for value in native.values_mut() {
        match value {
            Value::Number(_) => *value = 0.into(),
            Value::Array(details) => details.clear(),
            _ => {}
        }
    }
}

pub fn told(usage: &Usage) -> Draft<'_> {
    let mut out = Draft::new();
    if let Some(mut native) = usage.native_of(GEMINI) {
        native.retain(|_, value| !value.is_null());
        out.take(&mut native);
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
        let told =
            [("AUDIO", sound), ("IMAGE", pictures)].into_iter().filter_map(|(name, tokens)| Some((name, tokens?)));
        out.put_list(
            key,
            told.map(|(name, tokens)| json!({ "modality": name, "tokenCount": tokens }).into()).collect(),
        );
    }
    out
}
