//! Golden invoices of what a usage object does not count: searches of the web that OpenAI and Gemini run by themselves, and what
//! Claude costs more within the United States. By every way that an answer is read, and the sums done by hand from the vendors'
//! prices (see `invoices.rs`).
//!
//! | what | USD | source |
//! |---|---|---|
//! | a call of `web_search` that searches | 0.01 | developers.openai.com/api/docs/pricing |
//! | a query of Gemini 3 | 0.014 | ai.google.dev/gemini-api/docs/pricing |
//! | an answer of Gemini 2.5 with any query | 0.035 | the same |
//! | `inference_geo = "us"`, from Opus 4.6 on | × 1.1 for all tokens | platform.claude.com/docs/en/manage-claude/data-residency |

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    account::{catalog, price::Rates},
    codec::{Dialect, codec, glance::glance, lane::Lane},
    config::{PriceService, PriceSheet, Prices},
    model::{Event, Format, Operation, ServiceTier, Usage},
};

fn rates(row: &str, model: &str) -> Rates {
    catalog::rates(row, model).map_or_else(|| panic!("{row}/{model} has a price"), |rates| (*rates).clone())
}

/// Whole answers, and each as a stream: read by the codec, at a glance, through the model and in the lane.
fn costs(rates: &Rates, format: Format, whole: &Value, stream: &str) -> Vec<Option<i64>> {
    let body = whole.to_string();
    let read = codec(format).decode_response(body.as_bytes()).unwrap().usage.unwrap();
    let glanced = glance(format, Operation::Chat, body.as_bytes(), true).unwrap().usage.unwrap();
    let mut all = vec![rates.cost(&read), rates.cost(&glanced)];
    for size in [1, 7, stream.len()] {
        let mut decoder = codec(format).stream_decoder(&Dialect::of("m"), 1 << 20);
        let (mut events, mut usage) = (Vec::new(), Usage::default());
        for piece in stream.as_bytes().chunks(size) {
            decoder.push(piece, &mut events).unwrap();
        }
        decoder.finish(&mut events).unwrap();
        for event in events {
            if let Event::Usage(told) = event {
                usage.merge(&told);
            }
        }
        all.push(rates.cost(&usage));
        let mut lane = Lane::new(format, &Dialect::of("m"), false, 1 << 20).counting_searches(true);
        let mut out = Vec::new();
        for piece in stream.as_bytes().chunks(size) {
            lane.push(Bytes::copy_from_slice(piece), &mut out).unwrap();
        }
        lane.finish(&mut out).unwrap();
        assert_eq!(out.concat(), stream.as_bytes(), "it goes on as it came");
        all.push(rates.cost(lane.usage().unwrap()));
    }
    all
}

fn event(value: &Value) -> String {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap())
}

fn call(id: &str, action: Option<Value>, status: &str) -> Value {
    let mut call = json!({ "type": "web_search_call", "id": id, "status": status });
    if let Some(action) = action {
        call["action"] = action;
    }
    call
}

/// Two searches are charged: a page that was opened and one that was looked through are not, nor one that failed.
#[test]
fn searches_that_openai_runs_are_charged_by_the_call() {
    let search = |query: &str| Some(json!({ "type": "search", "query": query, "queries": [query] }));
    let calls = [
        call("ws_1", search("a"), "completed"),
        call("ws_2", Some(json!({ "type": "open_page", "url": "https://example.com" })), "completed"),
        call(
            "ws_3",
            Some(json!({ "type": "find_in_page", "url": "https://example.com", "pattern": "x" })),
            "completed",
        ),
        call("ws_4", search("b"), "failed"),
        // An older one says nothing of what it did.
        call("ws_5", None, "completed"),
    ];
    let message = json!({ "type": "message", "id": "msg_x", "role": "assistant", "status": "completed",
        "content": [{ "type": "output_text", "text": "I ran a \"web_search_call\".", "annotations": [] }] });
    let usage = json!({ "input_tokens": 5_000, "input_tokens_details": { "cached_tokens": 4_000 }, "output_tokens": 900,
        "output_tokens_details": { "reasoning_tokens": 640 }, "total_tokens": 5_900 });
    let response = |status: &str, output: &[Value], usage: &Value| {
        json!({ "id": "resp_x", "object": "response", "created_at": 1, "model": "m", "status": status, "output": output,
            "usage": usage, "tools": [{ "type": "web_search" }] })
    };
    let output = [&calls[..], std::slice::from_ref(&message)].concat();
    let mut stream =
        event(&json!({ "type": "response.created", "response": response("in_progress", &[], &Value::Null) }));
    for (at, item) in output.iter().enumerate() {
        let mut begun = item.clone();
        begun["status"] = "in_progress".into();
        if item["type"] == "message" {
            begun["content"] = json!([]);
        }
        begun.as_object_mut().unwrap().shift_remove("action");
        stream += &event(&json!({ "type": "response.output_item.added", "output_index": at, "item": begun }));
        if item["type"] == "message" {
            let place = json!({ "output_index": at, "item_id": "msg_x", "content_index": 0 });
            let text = item["content"][0]["text"].clone();
            let told = [
                json!({ "type": "response.content_part.added", "part": { "type": "output_text", "text": "", "annotations": [] } }),
                json!({ "type": "response.output_text.delta", "delta": text }),
                json!({ "type": "response.output_text.done", "text": text }),
                json!({ "type": "response.content_part.done", "part": item["content"][0] }),
            ];
            for mut told in told {
                told.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
                stream += &event(&told);
            }
        }
        stream += &event(&json!({ "type": "response.output_item.done", "output_index": at, "item": item }));
    }
    stream += &event(&json!({ "type": "response.completed", "response": response("completed", &output, &usage) }));
    let whole = response("completed", &output, &usage);
    let tokens = 1_000 * 1_250 + 4_000 * 125 + 900 * 10_000;
    for cost in costs(&rates("openai", "gpt-5"), Format::OpenaiResponses, &whole, &stream) {
        assert_eq!(cost, Some(tokens + 2 * 10_000_000));
    }
    // Whoever has no price for them is not asked to look: the words in a text are none.
    let none = response("completed", std::slice::from_ref(&message), &usage);
    let seen = glance(Format::OpenaiResponses, Operation::Chat, none.to_string().as_bytes(), true).unwrap();
    assert_eq!(rates("openai", "gpt-5").cost(&seen.usage.unwrap()), Some(tokens));
}

/// The same query counts once however often it is told, an empty one never.
#[test]
fn searches_that_gemini_runs_are_charged_by_the_query_or_by_the_answer() {
    let usage = |output: u64| json!({ "promptTokenCount": 100, "candidatesTokenCount": output, "totalTokenCount": 100 + output });
    let chunk = |text: &str, queries: &[&str], finish: Option<&str>, output: u64| {
        let mut candidate = json!({ "index": 0, "content": { "role": "model", "parts": [{ "text": text }] } });
        if !queries.is_empty() {
            candidate["groundingMetadata"] = json!({ "webSearchQueries": queries, "groundingChunks": [] });
        }
        if let Some(finish) = finish {
            candidate["finishReason"] = finish.into();
        }
        json!({ "candidates": [candidate], "usageMetadata": usage(output), "modelVersion": "m", "responseId": "r" })
    };
    let whole = chunk("abcd", &["one", "", "two", "one"], Some("STOP"), 50);
    let last = [("d", &["", "two"][..], Some("STOP"))];
    let streams = [
        // In the middle, and again at the end; only in the middle; only at the end.
        [("a", &[][..], None), ("b", &["one", "two"][..], None), ("c", &[][..], None), last[0]].to_vec(),
        [
            ("a", &[][..], None),
            ("b", &["one", "two"][..], None),
            ("c", &["one"][..], None),
            ("d", &[][..], Some("STOP")),
        ]
        .to_vec(),
        [("a", &[][..], None), ("d", &["two", "one"][..], Some("STOP"))].to_vec(),
    ];
    for frames in streams {
        let count = frames.len() as u64;
        let told = frames.iter().enumerate().map(|(at, (text, queries, finish))| {
            let output = if at as u64 + 1 == count { 50 } else { at as u64 + 1 };
            format!("data: {}\n\n", chunk(text, queries, *finish, output))
        });
        let stream: String = told.collect();
        // 1 and 8 USD a million tokens here: what is asked is the search.
        for (model, search) in [("gemini-3-flash-preview", 2 * 14_000_000), ("gemini-2.5-flash", 35_000_000)] {
            let rates = rates("gemini", model);
            let plain = Usage { input_tokens: Some(100), output_tokens: Some(50), ..Usage::default() };
            let tokens = rates.cost(&plain).unwrap();
            for cost in costs(&rates, Format::Gemini, &whole, &stream) {
                assert_eq!(cost, Some(tokens + search), "{model}: {stream}");
            }
        }
    }
}

fn claude(usage: &Value) -> (Value, String) {
    let whole = json!({ "id": "x", "type": "message", "role": "assistant", "model": "m",
        "content": [{ "type": "text", "text": "a" }], "stop_reason": "end_turn", "usage": usage });
    let (mut begin, mut end) = (usage.clone(), json!({}));
    for name in ["output_tokens", "server_tool_use"] {
        if let Some(told) = begin.as_object_mut().unwrap().shift_remove(name) {
            end[name] = told;
        }
    }
    begin["output_tokens"] = 1.into();
    let message = json!({ "id": "x", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": begin });
    let stream = [
        json!({ "type": "message_start", "message": message }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "a" } }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null }, "usage": end }),
        json!({ "type": "message_stop" }),
    ];
    (whole, stream.iter().map(event).collect())
}

#[test]
fn claude_within_the_united_states_costs_a_tenth_more_and_a_search_what_it_always_does() {
    let usage = |geo: Value, more: Value| {
        let mut usage = json!({ "input_tokens": 100, "output_tokens": 40, "cache_read_input_tokens": 1_000,
            "cache_creation_input_tokens": 30,
            "cache_creation": { "ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10 },
            "service_tier": "standard", "server_tool_use": { "web_search_requests": 1 }, "inference_geo": geo });
        usage.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        usage
    };
    // 4, 0.20, 5, 8 and 20 USD a million; fast is twice that.
    let tokens = 100 * 4_000 + 1_000 * 200 + 20 * 5_000 + 10 * 8_000 + 40 * 20_000;
    let cases = [
        (usage("us".into(), json!({})), tokens * 11 / 10),
        (usage("us".into(), json!({ "speed": "fast" })), 2 * tokens * 11 / 10),
        (usage("us".into(), json!({ "service_tier": "batch" })), tokens * 11 / 20),
        (usage("global".into(), json!({})), tokens),
        (usage("not_available".into(), json!({ "speed": "fast" })), 2 * tokens),
    ];
    for (usage, nano) in cases {
        let (whole, stream) = claude(&usage);
        for cost in costs(&rates("anthropic", "claude-opus-5-5"), Format::AnthropicMessages, &whole, &stream) {
            assert_eq!(cost, Some(nano + 10_000_000), "{usage}");
        }
    }
    // An older model has no such price, and the vendor refuses to be asked for it.
    let (whole, stream) = claude(&usage("us".into(), json!({})));
    let older = 100 * 5_000 + 1_000 * 500 + 20 * 6_250 + 10 * 10_000 + 40 * 25_000;
    for cost in costs(&rates("anthropic", "claude-opus-4-5"), Format::AnthropicMessages, &whole, &stream) {
        assert_eq!(cost, Some(older + 10_000_000));
    }
}

/// Of a place and a service only one may have a price of its own: that one holds.
#[test]
fn a_service_within_a_country_costs_what_is_known_of_either() {
    let service = |service: ServiceTier, factor: i64| PriceService {
        service,
        factor: Some(factor * 100_000_000),
        prices: Prices::default(),
        tiers: Vec::new(),
    };
    let cost = |services: &[PriceService], tier: ServiceTier| {
        let prices = Prices { input: Some(1_000_000_000), ..Prices::default() };
        let rates = Rates::new(&PriceSheet { prices, tiers: Vec::new(), services: services.to_vec() });
        rates.cost(&Usage { input_tokens: Some(1_000), service_tier: Some(tier), ..Usage::default() })
    };
    let (us, fast) = (service(ServiceTier::Us, 11), service(ServiceTier::Fast, 20));
    let both = [us.clone(), fast.clone()];
    assert_eq!(cost(&both, ServiceTier::UsFast), Some(2_200_000));
    assert_eq!(cost(&both, ServiceTier::UsBatch), Some(1_100_000));
    assert_eq!(cost(&[fast], ServiceTier::UsFast), Some(2_000_000));
    assert_eq!(cost(&[us], ServiceTier::UsFast), Some(1_100_000));
    assert_eq!(cost(&[], ServiceTier::Us), Some(1_000_000));
}
