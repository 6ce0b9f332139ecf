//! Tools with free-text input, served by formats that know only functions with JSON arguments.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    family::{Anthropic, Family, Gemini, Openai, events},
    support::{Gateway, Say, Upstream},
};

const TEXT: &str = "ls -l \"π\"\n\tend";

fn asked(stream: bool) -> String {
    json!({
        "model": "up/m", "stream": stream,
        "tools": [
            {"type": "custom", "custom": {"name": "shell", "description": "runs a command"}},
            {"type": "function", "function": {"name": "input", "parameters": {"type": "object"}}},
        ],
        "messages": [{"role": "user", "content": "list"}],
    })
    .to_string()
}

/// Both tools called, the text in pieces where the format has pieces.
fn calls(format: Family, stream: bool) -> Say {
    let (input, other) = (json!({"input": TEXT}), json!({"input": "kept as JSON"}));
    match (format, stream) {
        (Anthropic, false) => Say::json(
            json!({
                "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": null,
                "content": [
                    {"type": "tool_use", "id": "t1", "name": "shell", "input": input},
                    {"type": "tool_use", "id": "t2", "name": "input", "input": other},
                ],
                "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 2},
            })
            .to_string(),
        ),
        (Anthropic, true) => {
            let mut frames = vec![Anthropic.frames(&[])[0].clone()];
            let mut say = |event: Value| {
                frames.push(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type")));
            };
            for (index, (id, name, input)) in [("t1", "shell", input), ("t2", "input", other)].into_iter().enumerate() {
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                say(json!({"type": "content_block_start", "index": index, "content_block": block}));
                let text: Vec<char> = input.to_string().chars().collect();
                for piece in text.chunks(3) {
                    let delta = json!({"type": "input_json_delta", "partial_json": piece.iter().collect::<String>()});
                    say(json!({"type": "content_block_delta", "index": index, "delta": delta}));
                }
                say(json!({"type": "content_block_stop", "index": index}));
            }
            let delta = json!({"stop_reason": "tool_use", "stop_sequence": null});
            say(json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 2}}));
            say(json!({"type": "message_stop"}));
            let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
            Say::frames(&frames, Duration::ZERO)
        }
        _ => {
            let parts = json!([
                {"functionCall": {"name": "shell", "args": input}},
                {"functionCall": {"name": "input", "args": other}},
            ]);
            let answer = json!({
                "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
                "modelVersion": "m", "responseId": "r-1",
            });
            if stream { Say::sse(format!("data: {answer}\n\n")) } else { Say::json(answer.to_string()) }
        }
    }
}

#[tokio::test]
async fn a_call_of_a_free_text_tool_comes_back_as_one() {
    for format in [Anthropic, Gemini] {
        let upstream = Upstream::saying(calls(format, false)).await;
        let gateway = Gateway::start(&upstream.provider("up", format.format())).await;
        let answer = gateway.chat(&asked(false)).await.json();
        let made = &answer["choices"][0]["message"]["tool_calls"];
        assert_eq!((&made[0]["type"], &made[0]["custom"]["name"]), (&"custom".into(), &"shell".into()), "{answer}");
        assert_eq!(made[0]["custom"]["input"], TEXT, "{answer}");
        assert_eq!((&made[1]["type"], &made[1]["function"]["name"]), (&"function".into(), &"input".into()), "{answer}");
        assert!(made[1]["function"]["arguments"].as_str().is_some_and(|a| a.contains("kept as JSON")), "{answer}");

        // The call goes back to the upstream as it came from there.
        let turns = json!([
            {"role": "user", "content": "list"},
            {"role": "assistant", "content": null, "tool_calls": [made[0]]},
            {"role": "tool", "tool_call_id": made[0]["id"], "content": "done"},
        ]);
        let mut again: Value = serde_json::from_str(&asked(false)).expect("JSON");
        again["messages"] = turns;
        assert_eq!(gateway.chat(&again.to_string()).await.status, 200);
        assert!(upstream.last().json().to_string().contains(&json!({"input": TEXT}).to_string()), "{format:?}");
    }
}

#[tokio::test]
async fn a_streamed_call_of_a_free_text_tool_comes_back_as_one() {
    for format in [Anthropic, Gemini] {
        let upstream = Upstream::saying(calls(format, true)).await;
        let gateway = Gateway::start(&upstream.provider("up", format.format())).await;
        let answer = gateway.chat(&asked(true)).await;
        let (mut text, mut arguments, mut pieces) = (String::new(), String::new(), 0);
        for event in events(&answer) {
            for call in event["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
                if let Some(piece) = call["custom"]["input"].as_str().filter(|p| !p.is_empty()) {
                    text.push_str(piece);
                    pieces += 1;
                }
                arguments.push_str(call["function"]["arguments"].as_str().unwrap_or(""));
            }
        }
        assert_eq!(text, TEXT, "{format:?}: {}", answer.text());
        assert!(arguments.contains("kept as JSON"), "{}", answer.text());
        assert!(format == Gemini || pieces > 3, "the text streams: {}", answer.text());
        assert_eq!((Openai.finish(&answer).as_str(), Openai.terminals(&answer)), ("tool_calls", 1));
    }
}
