//! `claude`: Anthropic's messages with betas, blocks of system prompt, cache markers, adaptive thinking and reminders.

use serde_json::{Value, json};

use super::{
    PIXEL, behind, model,
    upstream::{PROOF, TEXT, THOUGHT, read},
};
use crate::{
    family::{Anthropic, FAMILIES, Gemini, Openai, events},
    support::{Answer, Gateway},
};

const BETAS: &str =
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,effort-2025-11-24";

fn tools() -> Vec<Value> {
    let mut tools: Vec<Value> = (0..22)
        .map(|n| {
            json!({
                "name": format!("Tool{n}"),
                "description": format!("Does the work of number {n}.\n\nUsage:\n- never for anything else — \"ever\""),
                "input_schema": {
                    "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
                    "properties": {
                        "mode": {"type": "string", "enum": ["plain", "fancy"], "description": "how"},
                        "edits": {"type": "array", "items": {"type": "object", "properties": {
                            "old": {"type": "string"}, "new": {"type": "string"}}, "required": ["old", "new"]}},
                        "limit": {"type": "number", "exclusiveMinimum": 0},
                    },
                    "required": ["mode"], "additionalProperties": false,
                },
            })
        })
        .collect();
    tools.push(json!({"name": "Read", "description": "Reads a file.", "input_schema": {
        "type": "object", "properties": {"file_path": {"type": "string"}}, "required": ["file_path"]}}));
    tools.push(json!({"name": "Status", "description": "Says how things stand.",
        "input_schema": {"type": "object", "properties": {}}, "cache_control": {"type": "ephemeral", "ttl": "1h"}}));
    tools
}

/// The third request of a session: one round of calls is done.
fn session(model: &str) -> Value {
    let long = "You are an agent working with the user toward their goals. ".repeat(200);
    json!({
        "model": model, "max_tokens": 32000, "stream": true,
        "system": [
            {"type": "text", "text": "x-billing: cc_version=2.1; cc_entrypoint=cli;"},
            {"type": "text", "text": "You are a coding agent.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": long, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        "tools": tools(),
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "<system-reminder>\nToday is Thursday.\n</system-reminder>"},
                {"type": "text", "text": "mend the build", "cache_control": {"type": "ephemeral"}},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "First I look around.", "signature": "b2xkIHByb29m"},
                {"type": "text", "text": "I look around first."},
                {"type": "tool_use", "id": "toolu_a", "name": "Tool3", "input": {"mode": "plain", "limit": 1.0}},
                {"type": "tool_use", "id": "toolu_b", "name": "Tool3", "input": {"mode": "fancy", "edits": []}},
                {"type": "tool_use", "id": "toolu_c", "name": "Status", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_a", "content": "plain result"},
                {"type": "tool_result", "tool_use_id": "toolu_b", "is_error": true,
                    "content": [{"type": "text", "text": "fancy failed"}]},
                {"type": "tool_result", "tool_use_id": "toolu_c", "content": [
                    {"type": "text", "text": "seen here:"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                ]},
                {"type": "text", "text": "<system-reminder>\nBe brief.\n</system-reminder>",
                    "cache_control": {"type": "ephemeral"}},
            ]},
        ],
        "metadata": {"user_id": "{\"device_id\":\"d\",\"session_id\":\"s\"}"},
        "thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    })
}

async fn send(gateway: &Gateway, body: &Value) -> Answer {
    let headers =
        [("content-type", "application/json"), ("anthropic-version", "2023-06-01"), ("anthropic-beta", BETAS)];
    let answer = gateway.post_with("/v1/messages?beta=true", &headers, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

/// The content blocks that a client puts together from the stream.
fn blocks(answer: &Answer) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    let append = |to: &mut Value, more: &Value| {
        let text = format!("{}{}", to.as_str().unwrap_or_default(), more.as_str().unwrap_or_default());
        *to = text.into();
    };
    for event in events(answer) {
        let at = event["index"].as_u64().unwrap_or_default() as usize;
        match event["type"].as_str().expect("a type") {
            "content_block_start" => {
                assert_eq!(at, blocks.len(), "blocks come in order: {event}");
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                let (block, delta) = (&mut blocks[at], &event["delta"]);
                match delta["type"].as_str().expect("a type") {
                    "text_delta" => append(&mut block["text"], &delta["text"]),
                    "thinking_delta" => append(&mut block["thinking"], &delta["thinking"]),
                    "signature_delta" => append(&mut block["signature"], &delta["signature"]),
                    "input_json_delta" => append(&mut block["partial"], &delta["partial_json"]),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" if blocks[at]["type"] == "tool_use" => {
                let partial = blocks[at].as_object_mut().expect("a block").remove("partial").unwrap_or_default();
                let partial = partial.as_str().filter(|p| !p.is_empty()).unwrap_or("{}");
                blocks[at]["input"] = serde_json::from_str(partial).expect("arguments are JSON");
            }
            _ => {}
        }
    }
    blocks
}

#[tokio::test]
async fn every_upstream_hears_all_of_a_claude_session() {
    for family in FAMILIES {
        let (upstream, gateway) = behind(family).await;
        let asked = session(&format!("up/{}", model(family)));
        send(&gateway, &asked).await;
        let body = upstream.last().json();
        let heard = read(family, &body);

        for block in asked["system"].as_array().expect("blocks") {
            assert!(heard.system.contains(block["text"].as_str().expect("a text")), "{family:?}: {}", heard.system);
        }
        let declared: Vec<_> = tools()
            .iter()
            .map(|t| (t["name"].clone(), t["description"].clone(), t["input_schema"]["properties"].clone()))
            .collect();
        let got: Vec<_> = heard.tools.iter().map(|(n, d, s)| (json!(n), json!(d), s["properties"].clone())).collect();
        for ((name, description, properties), (own, told, shape)) in got.iter().zip(&declared) {
            assert_eq!((name, description), (own, told), "{family:?}");
            let keys = |v: &Value| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
            assert_eq!(keys(properties), keys(shape), "{family:?} {name}");
        }
        assert_eq!(got.len(), declared.len(), "{family:?}");

        let calls: Vec<_> = heard.calls.iter().map(|(_, name, arguments)| (name.as_str(), arguments.clone())).collect();
        assert_eq!(
            calls,
            [
                ("Tool3", json!({"mode": "plain", "limit": 1.0})),
                ("Tool3", json!({"mode": "fancy", "edits": []})),
                ("Status", json!({})),
            ],
            "{family:?}"
        );
        if family != Gemini {
            let ids: Vec<_> = heard.calls.iter().map(|(id, ..)| id.as_str()).collect();
            assert_eq!(ids, ["toolu_a", "toolu_b", "toolu_c"], "{family:?}");
        }
        let results: Vec<_> = heard.results.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(results, ["Tool3", "Tool3", "Status"], "{family:?}");
        for ((_, text), wanted) in heard.results.iter().zip(["plain result", "fancy failed", "seen here:"]) {
            assert!(text.contains(wanted), "{family:?}: {text}");
        }
        assert_eq!(heard.media, [PIXEL], "{family:?}");
        let users = heard.users.concat();
        for wanted in ["Today is Thursday.", "mend the build", "Be brief."] {
            assert_eq!(users.matches(wanted).count(), 1, "{family:?}: {users}");
        }
        assert!(heard.answers.concat().contains("I look around first."), "{family:?}: {:?}", heard.answers);
    }
}

#[tokio::test]
async fn knobs_of_a_claude_session_arrive_in_each_upstreams_words() {
    for family in FAMILIES {
        let (upstream, gateway) = behind(family).await;
        send(&gateway, &session(&format!("up/{}", model(family)))).await;
        let body = upstream.last().json();
        match family {
            Openai => {
                assert_eq!((&body["reasoning_effort"], &body["stream"]), (&"high".into(), &true.into()));
                assert_eq!(body["stream_options"]["include_usage"], true);
                let bound = [&body["max_completion_tokens"], &body["max_tokens"]];
                assert!(bound.contains(&&json!(32000)), "{body}");
            }
            Anthropic => {
                let mut own = session(model(family));
                own["model"] = body["model"].clone();
                assert_eq!(body, own, "its own format gets all as it came");
                assert_eq!(upstream.last().header("anthropic-beta"), Some(BETAS));
            }
            Gemini => {
                let config = &body["generationConfig"];
                assert_eq!(config["maxOutputTokens"], 32000);
                assert_eq!(config["thinkingConfig"]["includeThoughts"], true, "{config}");
            }
        }
    }
}

#[tokio::test]
async fn claude_gets_thinking_text_calls_and_usage_from_every_upstream() {
    for family in FAMILIES {
        let (upstream, gateway) = behind(family).await;
        let mut asked = session(&format!("up/{}", model(family)));
        let answer = send(&gateway, &asked).await;
        let got = blocks(&answer);
        let kinds: Vec<_> = got.iter().map(|b| b["type"].as_str().expect("a type")).collect();
        assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"], "{family:?}: {}", answer.text());
        assert_eq!((&got[0]["thinking"], &got[1]["text"]), (&THOUGHT.into(), &TEXT.into()), "{family:?}");
        assert_eq!((&got[2]["name"], &got[2]["input"]), (&"Read".into(), &json!({"file_path": "a.rs"})), "{family:?}");
        assert_eq!((&got[3]["name"], &got[3]["input"]), (&"Status".into(), &json!({})), "{family:?}");
        assert_ne!(got[2]["id"], got[3]["id"], "{family:?}");
        let end = events(&answer).into_iter().find(|e| e["type"] == "message_delta").expect("an end");
        assert_eq!(end["delta"]["stop_reason"], "tool_use", "{family:?}");
        let usage = &end["usage"];
        assert_eq!(usage["output_tokens"], 60, "{family:?}: {usage}");
        let start = events(&answer).swap_remove(0)["message"]["usage"].clone();
        let told = |name: &str| [&usage[name], &start[name]].into_iter().find_map(Value::as_u64);
        let input =
            (usage["input_tokens"].as_u64().or(start["input_tokens"].as_u64()), told("cache_read_input_tokens"));
        assert_eq!(input, (Some(200), Some(700)), "{family:?}: {start} {usage}");

        // The client sends back what it got, and the upstream finds its own proof where it put it.
        let results: Vec<_> = got[2..]
            .iter()
            .map(|b| json!({"type": "tool_result", "tool_use_id": b["id"], "content": format!("{} done", b["name"])}))
            .collect();
        let messages = asked["messages"].as_array_mut().expect("messages");
        messages.push(json!({"role": "assistant", "content": got}));
        messages.push(json!({"role": "user", "content": results}));
        send(&gateway, &asked).await;
        let body = upstream.last().json();
        let heard = read(family, &body);
        assert_eq!(heard.calls[3..].iter().map(|c| c.1.as_str()).collect::<Vec<_>>(), ["Read", "Status"]);
        assert_eq!(heard.results.len(), 5, "{family:?}");
        let proofs = body.to_string().matches(PROOF).count();
        assert_eq!(proofs, usize::from(family != Openai), "{family:?}: {body}");
        if family == Gemini {
            let signed = body.pointer("/contents/3/parts").and_then(Value::as_array).expect("parts");
            let call = signed.iter().find(|p| p["functionCall"]["name"] == "Read").expect("the call");
            assert_eq!(call["thoughtSignature"], PROOF, "{body}");
            assert!(!body.to_string().contains("b2xkIHByb29m"), "a proof of another vendor");
        }
    }
}
