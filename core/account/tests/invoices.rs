//! Golden invoices: usage objects as vendors write them, of every shape that costs differently, at the catalogue's prices, and
//! the sum done by hand from the prices that the vendor publishes. A token that is counted twice, or as another kind, or a
//! price that is not the published one, shows in the sum.
//!
//! Prices in USD per million tokens, read in November 2026; one USD per million is a thousand nano-dollars a token.
//!
//! | model | input | cached | written 5 m, 1 h | output | besides | source |
//! |---|---|---|---|---|---|---|
//! | gpt-4o | 2.50 | 1.25 | | 10 | priority × 1.7, batch × 0.5 | developers.openai.com/api/docs/pricing |
//! | gpt-5 | 1.25 | 0.125 | | 10 | priority × 2, flex and batch × 0.5 | the same |
//! | o3 | 2 | 0.50 | | 8 | flex × 0.5 | the same |
//! | gpt-5.4 | 2.50 | 0.25 | | 15 | over 272,000: 5, 0.50, 22.50; priority × 2 | the same |
//! | gpt-audio | 2.50 | | | 10 | sound 32 in, 64 out | the same |
//! | gpt-image-1 | 5 | 1.25 | | 40 | pictures 10 in, 40 out | the same |
//! | whisper-1 | | | | | 0.0001 a second | the same |
//! | claude-sonnet-4-5 | 3 | 0.30 | 3.75, 6 | 15 | over 200,000: 6, 0.60, 7.50, 12, 22.50; batch × 0.5; a search 0.01 | anthropic.com/pricing#api |
//! | claude-opus-4-5 | 5 | 0.50 | 6.25, 10 | 25 | batch × 0.5 | the same |
//! | gemini-2.5-pro | 1.25 | 0.125 | | 10 | over 200,000: 2.50, 0.25, 15; batch × 0.5, cached as usual | ai.google.dev/gemini-api/docs/pricing |
//! | gemini-2.5-flash | 0.30 | 0.03 | | 2.50 | sound in 1 | the same |

use serde_json::{Value, json};

use crate::{
    account::catalog,
    codec::codec,
    model::{Format, ServiceTier, Usage},
};

/// One answer and what it costs.
struct Invoice {
    shape: &'static str,
    row: &'static str,
    model: &'static str,
    format: Format,
    usage: Value,
    /// As the answer names it beside its usage; empty: not at all.
    service: &'static str,
    nano_usd: i64,
}

fn chat(shape: &'static str, model: &'static str, usage: Value, service: &'static str, nano_usd: i64) -> Invoice {
    Invoice { shape, row: "openai", model, format: Format::OpenaiChat, usage, service, nano_usd }
}

fn responses(shape: &'static str, model: &'static str, usage: Value, service: &'static str, nano_usd: i64) -> Invoice {
    Invoice { format: Format::OpenaiResponses, ..chat(shape, model, usage, service, nano_usd) }
}

fn messages(shape: &'static str, model: &'static str, usage: Value, nano_usd: i64) -> Invoice {
    Invoice { shape, row: "anthropic", model, format: Format::AnthropicMessages, usage, service: "", nano_usd }
}

fn gemini(shape: &'static str, model: &'static str, usage: Value, service: &'static str, nano_usd: i64) -> Invoice {
    Invoice { shape, row: "gemini", model, format: Format::Gemini, usage, service, nano_usd }
}

fn invoices() -> Vec<Invoice> {
    vec![
        // Cached tokens stand inside the prompt's, reasoning inside the completion's.
        chat(
            "plain",
            "gpt-4o-2024-08-06",
            json!({ "prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100 }),
            "",
            1_000 * 2_500 + 100 * 10_000,
        ),
        chat(
            "cached",
            "gpt-4o",
            json!({ "prompt_tokens": 1_976, "completion_tokens": 300, "total_tokens": 2_276,
                "prompt_tokens_details": { "cached_tokens": 1_024, "audio_tokens": 0 },
                "completion_tokens_details": { "reasoning_tokens": 0, "accepted_prediction_tokens": 0 } }),
            "default",
            952 * 2_500 + 1_024 * 1_250 + 300 * 10_000,
        ),
        chat(
            "reasoning",
            "o3",
            json!({ "prompt_tokens": 75, "completion_tokens": 1_186, "total_tokens": 1_261,
                "completion_tokens_details": { "reasoning_tokens": 1_024 } }),
            "",
            75 * 2_000 + 1_186 * 8_000,
        ),
        chat(
            "audio",
            "gpt-audio",
            json!({ "prompt_tokens": 120, "completion_tokens": 90, "total_tokens": 210,
                "prompt_tokens_details": { "audio_tokens": 100, "text_tokens": 20 },
                "completion_tokens_details": { "audio_tokens": 70, "text_tokens": 20 } }),
            "",
            20 * 2_500 + 100 * 32_000 + 20 * 10_000 + 70 * 64_000,
        ),
        chat(
            "at the tier's edge",
            "gpt-5.4",
            json!({ "prompt_tokens": 272_000, "completion_tokens": 10, "total_tokens": 272_010 }),
            "",
            272_000 * 2_500 + 10 * 15_000,
        ),
        chat(
            "over the tier's edge, cached",
            "gpt-5.4",
            json!({ "prompt_tokens": 272_001, "completion_tokens": 10, "total_tokens": 272_011,
                "prompt_tokens_details": { "cached_tokens": 272_000 } }),
            "",
            5_000 + 272_000 * 500 + 10 * 22_500,
        ),
        chat(
            "priority",
            "gpt-4o",
            json!({ "prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100,
                "prompt_tokens_details": { "cached_tokens": 400 } }),
            "priority",
            600 * 4_250 + 400 * 2_125 + 100 * 17_000,
        ),
        chat(
            "priority over the tier's edge",
            "gpt-5.4",
            json!({ "prompt_tokens": 300_000, "completion_tokens": 10, "total_tokens": 300_010 }),
            "priority",
            300_000 * 10_000 + 10 * 45_000,
        ),
        chat(
            "batch",
            "gpt-4o",
            json!({ "prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100 }),
            "batch",
            1_000 * 1_250 + 100 * 5_000,
        ),
        responses(
            "flex, cached, reasoning",
            "gpt-5",
            json!({ "input_tokens": 5_000, "input_tokens_details": { "cached_tokens": 4_000 }, "output_tokens": 900,
                "output_tokens_details": { "reasoning_tokens": 640 }, "total_tokens": 5_900 }),
            "flex",
            // 1,000 × 0.625 + 4,000 × 0.0625 + 900 × 5.
            625_000 + 250_000 + 4_500_000,
        ),
        responses(
            "a fraction of a nano-dollar, rounded once",
            "gpt-5-mini",
            json!({ "input_tokens": 3, "input_tokens_details": { "cached_tokens": 1 }, "output_tokens": 1,
                "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 4 }),
            "flex",
            // 2 × 125 + 12.5 + 1,000 = 1,262.5.
            1_263,
        ),
        // Here the input leaves out what was cached.
        messages(
            "cached for five minutes and for an hour",
            "claude-sonnet-4-5-20250929",
            json!({ "input_tokens": 3, "output_tokens": 50, "cache_read_input_tokens": 5_000, "cache_creation_input_tokens": 300,
                "cache_creation": { "ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100 }, "service_tier": "standard" }),
            3 * 3_000 + 200 * 3_750 + 100 * 6_000 + 5_000 * 300 + 50 * 15_000,
        ),
        messages(
            "written, without saying for how long",
            "claude-opus-4-5",
            json!({ "input_tokens": 10, "output_tokens": 20, "cache_creation_input_tokens": 1_000 }),
            10 * 5_000 + 1_000 * 6_250 + 20 * 25_000,
        ),
        messages(
            "thinking",
            "claude-opus-4-5",
            json!({ "input_tokens": 100, "output_tokens": 900, "output_tokens_details": { "thinking_tokens": 700 } }),
            100 * 5_000 + 900 * 25_000,
        ),
        // The vendor's own example of a search: 10 USD for a thousand of them.
        messages(
            "web search",
            "claude-sonnet-4-5",
            json!({ "input_tokens": 105, "output_tokens": 6_039, "cache_read_input_tokens": 7_123,
                "cache_creation_input_tokens": 7_345, "server_tool_use": { "web_search_requests": 1 } }),
            105 * 3_000 + 7_123 * 300 + 7_345 * 3_750 + 6_039 * 15_000 + 10_000_000,
        ),
        // A batch costs half, and a search in it what it always does.
        messages(
            "batch with searches",
            "claude-sonnet-4-5",
            json!({ "input_tokens": 100, "output_tokens": 40, "service_tier": "batch",
                "server_tool_use": { "web_search_requests": 2 } }),
            50 * 3_000 + 20 * 15_000 + 20_000_000,
        ),
        // What was cached counts for the tier.
        messages(
            "over 200,000",
            "claude-sonnet-4-5",
            json!({ "input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": 200_000 }),
            6_000 + 200_000 * 600 + 22_500,
        ),
        messages(
            "at 200,000",
            "claude-sonnet-4-5",
            json!({ "input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": 199_999 }),
            3_000 + 199_999 * 300 + 15_000,
        ),
        // Thoughts stand beside the candidates' tokens, and cached ones inside the prompt's.
        gemini(
            "cached, thoughts",
            "gemini-2.5-pro",
            json!({ "promptTokenCount": 340, "cachedContentTokenCount": 40, "candidatesTokenCount": 100,
                "thoughtsTokenCount": 900, "totalTokenCount": 1_340 }),
            "",
            300 * 1_250 + 40 * 125 + 1_000 * 10_000,
        ),
        gemini(
            "over 200,000, cached",
            "gemini-2.5-pro",
            json!({ "promptTokenCount": 200_001, "cachedContentTokenCount": 100_000, "candidatesTokenCount": 10,
                "totalTokenCount": 200_011 }),
            "",
            100_001 * 2_500 + 100_000 * 250 + 10 * 15_000,
        ),
        gemini(
            "audio",
            "gemini-2.5-flash",
            json!({ "promptTokenCount": 50, "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": 10 },
                { "modality": "AUDIO", "tokenCount": 40 }], "candidatesTokenCount": 8, "totalTokenCount": 58 }),
            "",
            10 * 300 + 40 * 1_000 + 8 * 2_500,
        ),
        gemini(
            "tools that it ran",
            "gemini-2.5-flash",
            json!({ "promptTokenCount": 50, "toolUsePromptTokenCount": 200, "candidatesTokenCount": 8,
                "totalTokenCount": 258 }),
            "",
            250 * 300 + 8 * 2_500,
        ),
        gemini(
            "batch, cached",
            "gemini-2.5-pro",
            json!({ "promptTokenCount": 1_000, "cachedContentTokenCount": 400, "candidatesTokenCount": 100,
                "totalTokenCount": 1_100 }),
            "batch",
            600 * 625 + 400 * 125 + 100 * 5_000,
        ),
        gemini(
            "batch over 200,000",
            "gemini-2.5-pro",
            json!({ "promptTokenCount": 200_001, "cachedContentTokenCount": 1, "candidatesTokenCount": 100,
                "totalTokenCount": 200_101 }),
            "batch",
            200_000 * 1_250 + 250 + 100 * 7_500,
        ),
    ]
}

/// A whole answer of that format, around its usage.
fn answer(format: Format, usage: &Value) -> Value {
    match format {
        Format::OpenaiChat => json!({ "id": "x", "object": "chat.completion", "model": "m", "usage": usage,
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": "a" }, "finish_reason": "stop" }] }),
        Format::OpenaiResponses => json!({ "id": "resp_x", "object": "response", "model": "m", "status": "completed",
            "usage": usage, "output": [{ "type": "message", "id": "msg_x", "role": "assistant", "status": "completed",
                "content": [{ "type": "output_text", "text": "a", "annotations": [] }] }] }),
        Format::AnthropicMessages => json!({ "id": "x", "type": "message", "role": "assistant", "model": "m",
            "content": [{ "type": "text", "text": "a" }], "stop_reason": "end_turn", "usage": usage }),
        _ => {
            json!({ "candidates": [{ "content": { "role": "model", "parts": [{ "text": "a" }] }, "finishReason": "STOP" }],
            "usageMetadata": usage })
        }
    }
}

#[test]
fn every_shape_of_usage_costs_what_its_vendor_publishes() {
    for Invoice { shape, row, model, format, usage, service, nano_usd } in invoices() {
        let body = answer(format, &usage).to_string();
        let mut usage = codec(format).decode_response(body.as_bytes()).unwrap().usage.unwrap();
        if !service.is_empty() {
            usage.service_tier = Some(ServiceTier::named(service));
        }
        let rates = catalog::rates(row, model).unwrap_or_else(|| panic!("{row}/{model} has a price"));
        assert_eq!(rates.cost(&usage), Some(nano_usd), "{row}/{model}, {shape}: {usage:?}");
    }
}

#[test]
fn what_is_counted_in_pieces_costs_what_its_vendor_publishes() {
    let cost = |model: &str, change: &dyn Fn(&mut Usage)| {
        let mut usage = Usage::default();
        change(&mut usage);
        catalog::rates("openai", model).unwrap().cost(&usage)
    };
    let minute = |usage: &mut Usage| usage.units_mut().input_audio_ms = Some(61_500);
    assert_eq!(cost("whisper-1", &minute), Some(6_150_000), "61.5 s × 0.0001");
    let drawn = |usage: &mut Usage| {
        (usage.input_tokens, usage.output_tokens) = (Some(250), Some(4_160));
        (usage.units_mut().input_image_tokens, usage.units_mut().output_image_tokens) = (Some(200), Some(4_160));
    };
    assert_eq!(cost("gpt-image-1", &drawn), Some(50 * 5_000 + 200 * 10_000 + 4_160 * 40_000));
}
