//! `codex`: responses that nobody stores, with sealed reasoning, free-text tools, calls in parallel and its own ids.

use serde_json::{Value, json};

use super::{
    PIXEL, behind, model,
    upstream::{PROOF, TEXT, THOUGHT, read},
};
use crate::{
    family::{Anthropic, FAMILIES, Gemini, Openai, events},
    support::{Answer, Gateway},
};

const PATCH: &str = "*** Begin Patch\n*** Update File: a.rs\n-\told \"π\"\n+\tnew\n*** End Patch\n";

fn function(name: &str, properties: Value) -> Value {
    let parameters = json!({"type": "object", "properties": properties, "required": [], "additionalProperties": false});
    let description = format!("Does {name}.\n\nDefaults to nothing — ever.");
    json!({"type": "function", "name": name, "description": description, "strict": false, "parameters": parameters})
}

/// All of them, as other formats list them.
fn flat() -> Vec<Value> {
    let mut tools: Vec<Value> = (0..12)
        .map(|n| {
            let properties = json!({"cmd": {"type": "string", "description": "what"}, "limit": {"type": "number"},
                "plan": {"type": "array", "items": {"type": "object", "properties": {"step": {"type": "string"}},
                    "required": ["step"], "additionalProperties": false}}});
            function(&format!("tool_{n}"), properties)
        })
        .collect();
    tools.push(function("Read", json!({"file_path": {"type": "string"}})));
    tools.push(function("Status", json!({})));
    tools.push(json!({"type": "custom", "name": "apply_patch", "description": "Edits files.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/s"}}));
    tools
}

/// One of them stands in a namespace.
fn tools() -> Vec<Value> {
    let inside = |tool: Value| {
        if tool["name"] != "Status" {
            return tool;
        }
        json!({"type": "namespace", "name": "house", "description": "The house.", "tools": [tool]})
    };
    flat().into_iter().map(inside).collect()
}

fn message(id: &str, role: &str, kind: &str, text: &str) -> Value {
    json!({"type": "message", "id": id, "role": role, "content": [{"type": kind, "text": text}]})
}

/// The second request of a turn: its calls are done.
fn session(model: &str) -> Value {
    let long = "You are a coding agent running in a terminal. ".repeat(200);
    json!({
        "model": model, "stream": true, "store": false, "tool_choice": "auto", "parallel_tool_calls": true,
        "reasoning": {"effort": "high", "summary": "auto"}, "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2-key", "client_metadata": {"thread_id": "01a2", "turn_id": "01a3"},
        "tools": tools(),
        "input": [
            message("msg_1", "developer", "input_text", &long),
            message("msg_2", "developer", "input_text", "<skills>none</skills>"),
            message("msg_3", "user", "input_text", "<environment_context>\n  <shell>bash</shell>\n</environment_context>"),
            message("msg_4", "user", "input_text", "mend the build"),
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "First I look around."}],
                "encrypted_content": "gAAAAABelsewhere=="},
            {"type": "message", "id": "msg_5", "role": "assistant", "phase": "commentary",
                "content": [{"type": "output_text", "text": "I look around first.", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "call_a", "name": "tool_3", "arguments": "{\"cmd\":\"ls\",\"limit\":1.0}"},
            {"type": "function_call", "id": "fc_2", "call_id": "call_b", "name": "tool_3", "arguments": "{\"plan\":[]}"},
            {"type": "custom_tool_call", "id": "ct_1", "call_id": "call_c", "name": "apply_patch", "input": PATCH},
            {"type": "function_call", "id": "fc_3", "call_id": "call_d", "name": "Status", "namespace": "house", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_a", "output": "plain result"},
            {"type": "function_call_output", "call_id": "call_b", "output": "exit code 1: failed"},
            {"type": "custom_tool_call_output", "call_id": "call_c", "output": "patched"},
            {"type": "function_call_output", "call_id": "call_d", "output": [
                {"type": "input_text", "text": "seen here:"},
                {"type": "input_image", "image_url": format!("data:image/png;base64,{PIXEL}"), "detail": "auto"},
            ]},
        ],
    })
}

async fn send(gateway: &Gateway, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("originator", "codex_exec"), ("session-id", "01a2")];
    let answer = gateway.post_with("/v1/responses", &headers, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

#[tokio::test]
async fn every_upstream_hears_all_of_a_codex_session() {
    for family in FAMILIES {
        let (upstream, gateway) = behind(family).await;
        let answer = send(&gateway, &session(&format!("up/{}", model(family)))).await;
        let body = upstream.last().json();
        let heard = read(family, &body);

        // What a developer says first is the system's word.
        for wanted in ["running in a terminal", "<skills>none</skills>"] {
            assert!(heard.system.contains(wanted), "{family:?}: {}", heard.system);
        }
        let names: Vec<_> = heard.tools.iter().map(|(name, ..)| name.clone()).collect();
        let declared: Vec<_> = flat().iter().map(|t| t["name"].as_str().expect("a name").to_owned()).collect();
        if family == Openai {
            // Free-text tools are another kind there, and keep their kind.
            assert!(body["tools"].to_string().contains("\"custom\":{\"name\":\"apply_patch\""), "{}", body["tools"]);
            assert_eq!(names[..14], declared[..14]);
            let grammar = json!({"syntax": "lark", "definition": "start: /.+/s"});
            assert_eq!(body["tools"][14]["custom"]["format"], json!({"type": "grammar", "grammar": grammar}));
        } else {
            assert_eq!(names, declared, "{family:?}");
            let dropped = answer.header("x-portcullis-dropped-params");
            assert!(dropped.is_some_and(|names| names.contains("tools.format")), "{dropped:?}");
        }
        for ((_, description, shape), own) in heard.tools.iter().zip(&flat()).take(14) {
            assert_eq!(description, own["description"].as_str().expect("a description"), "{family:?}");
            let keys = |v: &Value| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
            assert_eq!(keys(&shape["properties"]), keys(&own["parameters"]["properties"]), "{family:?}");
        }

        let patch = json!({"input": PATCH});
        let calls: Vec<_> = heard.calls.iter().map(|(_, name, arguments)| (name.as_str(), arguments)).collect();
        let wanted = [
            ("tool_3", &json!({"cmd": "ls", "limit": 1.0})),
            ("tool_3", &json!({"plan": []})),
            ("apply_patch", &patch),
            ("Status", &json!({})),
        ];
        assert_eq!(calls, wanted, "{family:?}");
        if family != Gemini {
            let ids: Vec<_> = heard.calls.iter().map(|(id, ..)| id.as_str()).collect();
            assert_eq!(ids, ["call_a", "call_b", "call_c", "call_d"], "{family:?}");
        }
        let results: Vec<_> = heard.results.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(results, ["tool_3", "tool_3", "apply_patch", "Status"], "{family:?}");
        for ((_, text), wanted) in
            heard.results.iter().zip(["plain result", "exit code 1: failed", "patched", "seen here:"])
        {
            assert!(text.contains(wanted), "{family:?}: {text}");
        }
        assert_eq!(heard.media, [PIXEL], "{family:?}");
        let users = heard.users.concat();
        for wanted in ["<shell>bash</shell>", "mend the build"] {
            assert_eq!(users.matches(wanted).count(), 1, "{family:?}: {users}");
        }
        assert!(heard.answers.concat().contains("I look around first."), "{family:?}: {:?}", heard.answers);
        assert!(!body.to_string().contains("gAAAAABelsewhere"), "{family:?}: sealed by another vendor");
    }
}

#[tokio::test]
async fn knobs_of_a_codex_session_arrive_in_each_upstreams_words() {
    for family in FAMILIES {
        let (upstream, gateway) = behind(family).await;
        let answer = send(&gateway, &session(&format!("up/{}", model(family)))).await;
        let body = upstream.last().json();
        match family {
            Openai => {
                assert_eq!((&body["reasoning_effort"], &body["parallel_tool_calls"]), (&"high".into(), &true.into()));
                assert_eq!(body["stream_options"]["include_usage"], true);
            }
            Anthropic => {
                assert!(body["max_tokens"].as_u64() > Some(1000), "{body}");
                // The tool loop began at another vendor: with a budget for thinking this model would refuse it.
                assert!(body["thinking"].is_null(), "{body}");
                let dropped = answer.header("x-portcullis-dropped-params");
                assert!(dropped.is_some_and(|names| names.contains("reasoning_effort")), "{dropped:?}");
            }
            Gemini => assert_eq!(body["generationConfig"]["thinkingConfig"]["includeThoughts"], true, "{body}"),
        }
    }
}

#[tokio::test]
async fn codex_gets_reasoning_text_calls_and_usage_from_every_upstream() {
    for family in FAMILIES {
        let (upstream, gateway) = behind(family).await;
        let mut asked = session(&format!("up/{}", model(family)));
        let answer = send(&gateway, &asked).await;
        let events = events(&answer);
        assert_eq!(events[0]["type"], "response.created", "{family:?}");
        let end = events.last().expect("an end");
        assert_eq!((&end["type"], &end["response"]["status"]), (&"response.completed".into(), &"completed".into()));
        let numbers: Vec<_> = events.iter().map(|e| e["sequence_number"].as_u64().expect("a number")).collect();
        assert!(numbers.windows(2).all(|w| w[0] < w[1]), "{family:?}: {numbers:?}");

        // It reads items from their own events and nothing else.
        let items: Vec<_> =
            events.iter().filter(|e| e["type"] == "response.output_item.done").map(|e| e["item"].clone()).collect();
        assert_eq!(end["response"]["output"], json!(items), "{family:?}");
        let kinds: Vec<_> = items.iter().map(|i| i["type"].as_str().expect("a type")).collect();
        assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"], "{family:?}: {}", answer.text());
        assert!(items[0].to_string().contains(THOUGHT), "{family:?}: {}", items[0]);
        assert_eq!(items[1]["content"][0]["text"], TEXT, "{family:?}");
        let arguments = |at: usize| -> Value {
            serde_json::from_str(items[at]["arguments"].as_str().expect("a string")).expect("arguments are JSON")
        };
        assert_eq!((&items[2]["name"], arguments(2)), (&"Read".into(), json!({"file_path": "a.rs"})), "{family:?}");
        assert_eq!((&items[3]["name"], arguments(3)), (&"Status".into(), json!({})), "{family:?}");
        assert_ne!(items[2]["call_id"], items[3]["call_id"], "{family:?}");
        assert_eq!((items[2].get("namespace"), &items[3]["namespace"]), (None, &"house".into()), "{family:?}");
        let usage = &end["response"]["usage"];
        let counts = [
            &usage["input_tokens"],
            &usage["input_tokens_details"]["cached_tokens"],
            &usage["output_tokens"],
            &usage["output_tokens_details"]["reasoning_tokens"],
            &usage["total_tokens"],
        ];
        assert_eq!(counts.map(Value::as_u64), [900, 700, 60, 20, 960].map(Some), "{family:?}: {usage}");

        // It stores nothing: the next turn brings all back, and the upstream finds its own proof where it put it.
        let input = asked["input"].as_array_mut().expect("items");
        input.extend(items.iter().cloned());
        input.extend(items[2..].iter().map(|call| {
            json!({"type": "function_call_output", "call_id": call["call_id"], "output": format!("{} done", call["name"])})
        }));
        send(&gateway, &asked).await;
        let body = upstream.last().json();
        let heard = read(family, &body);
        assert_eq!(heard.calls[4..].iter().map(|c| c.1.as_str()).collect::<Vec<_>>(), ["Read", "Status"]);
        assert_eq!(heard.results.len(), 6, "{family:?}");
        let proofs = body.to_string().matches(PROOF).count();
        assert_eq!(proofs, usize::from(family != Openai), "{family:?}: {body}");
    }
}
