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
//! | claude-opus-5-5 | 4 | 0.20 | 5, 8 | 20 | fast × 2 | the same, and platform.claude.com/docs/en/build-with-claude/fast-mode |
//! | gemini-2.5-pro | 1.25 | 0.125 | | 10 | over 200,000: 2.50, 0.25, 15; batch × 0.5, cached as usual | ai.google.dev/gemini-api/docs/pricing |
//! | gemini-2.5-flash | 0.30 | 0.03 | | 2.50 | sound in 1, cached 0.10 | the same |

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    account::{catalog, price::Rates},
    codec::{Dialect, codec, lane::Lane, opaque},
    config::{PriceSheet, Prices},
    model::{Event, Format, ServiceTier, Usage},
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
        // The answer says how fast it was; a search costs what it always does.
        messages(
            "fast, cached and written",
            "claude-opus-5-5",
            json!({ "input_tokens": 100, "output_tokens": 40, "cache_read_input_tokens": 1_000, "cache_creation_input_tokens": 30,
                "cache_creation": { "ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10 },
                "service_tier": "standard", "speed": "fast", "server_tool_use": { "web_search_requests": 1 } }),
            100 * 8_000 + 1_000 * 400 + 20 * 10_000 + 10 * 16_000 + 40 * 40_000 + 10_000_000,
        ),
        messages(
            "asked to be fast, and was not",
            "claude-opus-5-5",
            json!({ "input_tokens": 100, "output_tokens": 40, "service_tier": "standard", "speed": "standard" }),
            100 * 4_000 + 40 * 20_000,
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
        // Sound that was cached stands among the cached tokens and among the sound.
        gemini(
            "audio, cached",
            "gemini-2.5-flash",
            json!({ "promptTokenCount": 1_000, "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": 200 },
                { "modality": "AUDIO", "tokenCount": 800 }], "cachedContentTokenCount": 600,
                "cacheTokensDetails": [{ "modality": "TEXT", "tokenCount": 100 }, { "modality": "AUDIO", "tokenCount": 500 }],
                "candidatesTokenCount": 8, "totalTokenCount": 1_008 }),
            "",
            100 * 300 + 300 * 1_000 + 100 * 30 + 500 * 100 + 8 * 2_500,
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

/// The same usage as a stream tells it: in pieces, at the beginning, at the end, or on every frame.
fn stream(format: Format, usage: &Value) -> String {
    let data = |value: Value| format!("data: {value}\n\n");
    let event = |value: Value| format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap());
    match format {
        Format::OpenaiChat => {
            let chunk = |delta: Value, finish: Value| {
                data(json!({ "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "usage": null,
                    "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] }))
            };
            let last = json!({ "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage });
            let said = chunk(json!({ "role": "assistant", "content": "a" }), Value::Null);
            let more = chunk(json!({ "content": "b" }), Value::Null);
            [said, more, chunk(json!({}), "stop".into()), data(last), "data: [DONE]\n\n".to_owned()].concat()
        }
        Format::OpenaiResponses => {
            let message = |content: Value| json!({ "type": "message", "id": "msg_x", "role": "assistant", "status": "completed", "content": content });
            let text = json!({ "type": "output_text", "text": "a", "annotations": [] });
            let response = |status: &str, output: Value, usage: &Value| json!({ "id": "resp_x", "object": "response", "created_at": 1, "model": "m", "status": status, "output": output, "usage": usage });
            let place = json!({ "output_index": 0, "item_id": "msg_x", "content_index": 0 });
            let at = |mut value: Value| {
                for (name, of) in place.as_object().unwrap() {
                    value[name] = of.clone();
                }
                event(value)
            };
            [
                event(json!({ "type": "response.created", "response": response("in_progress", json!([]), &Value::Null) })),
                event(json!({ "type": "response.output_item.added", "output_index": 0, "item": message(json!([])) })),
                at(json!({ "type": "response.content_part.added", "part": { "type": "output_text", "text": "", "annotations": [] } })),
                at(json!({ "type": "response.output_text.delta", "delta": "a" })),
                at(json!({ "type": "response.output_text.done", "text": "a" })),
                at(json!({ "type": "response.content_part.done", "part": text })),
                event(json!({ "type": "response.output_item.done", "output_index": 0, "item": message(json!([text])) })),
                event(json!({ "type": "response.completed", "response": response("completed", json!([message(json!([text]))]), usage) })),
            ]
            .concat()
        }
        Format::AnthropicMessages => {
            // What was read stands at the beginning; what was written, and searched for, at the end.
            let (mut begin, mut end) = (usage.clone(), json!({}));
            for name in ["output_tokens", "output_tokens_details", "server_tool_use"] {
                if let Some(told) = begin.as_object_mut().unwrap().remove(name) {
                    end[name] = told;
                }
            }
            begin["output_tokens"] = 1.into();
            [
                event(json!({ "type": "message_start", "message": { "id": "x", "type": "message", "role": "assistant", "model": "m",
                    "content": [], "stop_reason": null, "stop_sequence": null, "usage": begin } })),
                event(json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } })),
                event(json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "a" } })),
                event(json!({ "type": "content_block_stop", "index": 0 })),
                event(json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null }, "usage": end })),
                event(json!({ "type": "message_stop" })),
            ]
            .concat()
        }
        _ => {
            // On every frame, and growing.
            let mut early = usage.clone();
            early["candidatesTokenCount"] = 1.into();
            early.as_object_mut().unwrap().remove("thoughtsTokenCount");
            let frame = |text: &str, finish: Value, usage: &Value| {
                data(
                    json!({ "candidates": [{ "index": 0, "content": { "role": "model", "parts": [{ "text": text }] }, "finishReason": finish }],
                    "usageMetadata": usage }),
                )
            };
            let plain = |text: &str| {
                data(
                    json!({ "candidates": [{ "index": 0, "content": { "role": "model", "parts": [{ "text": text }] } }],
                    "usageMetadata": early }),
                )
            };
            [plain("a"), plain("b"), plain("c"), frame("d", "STOP".into(), usage)].concat()
        }
    }
}

/// By every way that usage is read: the whole answer, its usage object without a tree, a stream through the model, and one that
/// goes by as it came.
#[test]
fn every_way_of_reading_usage_costs_the_same() {
    for Invoice { shape, row, model, format, usage, service, nano_usd } in invoices() {
        let rates = catalog::rates(row, model).unwrap();
        let cost = |mut usage: Usage| {
            if !service.is_empty() {
                usage.service_tier = Some(ServiceTier::named(service));
            }
            rates.cost(&usage)
        };
        // Without a tree it may be passed on to the slow way, and never be something else.
        if let Some(quick) = codec(format).read_usage(usage.to_string().as_bytes()) {
            assert_eq!(cost(quick), Some(nano_usd), "{shape}: without a tree");
        }
        let stream = stream(format, &usage);
        for size in [1, 7, stream.len()] {
            let mut decoder = codec(format).stream_decoder(&Dialect::of(model), 1 << 20);
            let (mut events, mut all) = (Vec::new(), Usage::default());
            for piece in stream.as_bytes().chunks(size) {
                decoder.push(piece, &mut events).unwrap();
            }
            decoder.finish(&mut events).unwrap();
            for event in events {
                if let Event::Usage(told) = event {
                    all.merge(&told);
                }
            }
            assert_eq!(cost(all), Some(nano_usd), "{shape}: a stream in pieces of {size}");
            let (mut lane, mut out) = (Lane::new(format, &Dialect::of(model), false, 1 << 20), Vec::new());
            for piece in stream.as_bytes().chunks(size) {
                lane.push(Bytes::copy_from_slice(piece), &mut out).unwrap();
            }
            lane.finish(&mut out).unwrap();
            let told = lane.usage().cloned().unwrap();
            assert_eq!(cost(told), Some(nano_usd), "{shape}: a stream as it came, in pieces of {size}");
        }
    }
}

/// A session's answer, whose cached tokens are told by kind: USD 4 a million of text, 32 of sound, 0.40 of either cached, 16 and 64 out
/// (gpt-realtime, developers.openai.com/api/docs/pricing).
#[test]
fn sound_that_was_cached_in_a_session_is_counted_once() {
    let cents = |n: i64| Some(n * 10_000_000);
    let prices = Prices {
        input: cents(400),
        cache_read: cents(40),
        input_audio: cents(3_200),
        output: cents(1_600),
        output_audio: cents(6_400),
        ..Prices::default()
    };
    let rates = Rates::new(&PriceSheet { prices, ..PriceSheet::default() });
    let told = json!({ "total_tokens": 1_200, "input_tokens": 1_000, "output_tokens": 200,
        "input_token_details": { "text_tokens": 400, "audio_tokens": 600, "cached_tokens": 500,
            "cached_tokens_details": { "text_tokens": 100, "audio_tokens": 400 } },
        "output_token_details": { "text_tokens": 50, "audio_tokens": 150 } });
    let usage = opaque::figures(&told);
    assert_eq!(rates.cost(&usage), Some(300 * 4_000 + 200 * 32_000 + 500 * 400 + 50 * 16_000 + 150 * 64_000));
    // Whoever says nothing of kinds is taken at his word.
    let mut silent = told;
    silent["input_token_details"].as_object_mut().unwrap().remove("cached_tokens_details");
    let usage = opaque::figures(&silent);
    assert_eq!(rates.cost(&usage), Some(500 * 400 + 500 * 32_000 + 50 * 16_000 + 150 * 64_000));
}
