//! An upstream of an agent: a turn that it says in each format, and what it heard, read without the codecs' help.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    family::{Anthropic, Family, Gemini, Openai},
    support::Say,
};

pub const THOUGHT: &str = "Both files are short, so I read them at once.";
pub const TEXT: &str = "I will read both.";
/// What each format proves its thinking with.
pub const PROOF: &str = "c2lnbmVkIGJ5IHRoZSB1cHN0cmVhbQ==";

/// A streamed turn: thinking, text, and two calls of one tool, of which the second has no arguments.
pub fn turn(family: Family) -> Say {
    let frames = match family {
        Openai => openai(),
        Anthropic => anthropic(),
        Gemini => gemini(),
    };
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    Say::frames(&frames, Duration::ZERO)
}

fn openai() -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        json!({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})
    };
    let call = |index: u64, head: Option<(&str, &str)>, arguments: &str| {
        let mut call = json!({"index": index, "function": {"arguments": arguments}});
        if let Some((id, name)) = head {
            call["id"] = id.into();
            call["type"] = "function".into();
            call["function"]["name"] = name.into();
        }
        json!({"tool_calls": [call]})
    };
    let usage = json!({
        "prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960,
        "prompt_tokens_details": {"cached_tokens": 700}, "completion_tokens_details": {"reasoning_tokens": 20},
    });
    let mut last = chunk(json!({}), "tool_calls".into());
    last["choices"][0]["delta"] = json!({});
    let chunks = [
        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
        chunk(json!({"reasoning_content": &THOUGHT[..10]}), Value::Null),
        chunk(json!({"reasoning_content": &THOUGHT[10..]}), Value::Null),
        chunk(json!({"content": &TEXT[..6]}), Value::Null),
        chunk(json!({"content": &TEXT[6..]}), Value::Null),
        chunk(call(0, Some(("call_one", "Read")), ""), Value::Null),
        chunk(call(0, None, "{\"file_path\":"), Value::Null),
        chunk(call(0, None, "\"a.rs\"}"), Value::Null),
        chunk(call(1, Some(("call_two", "Status")), ""), Value::Null),
        last,
        json!({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage}),
    ];
    chunks.iter().map(|c| format!("data: {c}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect()
}

fn anthropic() -> Vec<String> {
    let usage = json!({"input_tokens": 200, "cache_read_input_tokens": 700, "cache_creation_input_tokens": 0, "output_tokens": 1});
    let start =
        |index: u64, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let delta = |index: u64, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let stop = |index: u64| json!({"type": "content_block_stop", "index": index});
    let events = [
        json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
            "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage}}),
        start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        json!({"type": "ping"}),
        delta(0, json!({"type": "thinking_delta", "thinking": &THOUGHT[..10]})),
        delta(0, json!({"type": "thinking_delta", "thinking": &THOUGHT[10..]})),
        delta(0, json!({"type": "signature_delta", "signature": PROOF})),
        stop(0),
        start(1, json!({"type": "text", "text": ""})),
        delta(1, json!({"type": "text_delta", "text": TEXT})),
        stop(1),
        start(2, json!({"type": "tool_use", "id": "toolu_one", "name": "Read", "input": {}})),
        delta(2, json!({"type": "input_json_delta", "partial_json": ""})),
        delta(2, json!({"type": "input_json_delta", "partial_json": "{\"file_path\":"})),
        delta(2, json!({"type": "input_json_delta", "partial_json": "\"a.rs\"}"})),
        stop(2),
        start(3, json!({"type": "tool_use", "id": "toolu_two", "name": "Status", "input": {}})),
        delta(3, json!({"type": "input_json_delta", "partial_json": ""})),
        stop(3),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null},
            "usage": {"output_tokens": 60, "output_tokens_details": {"thinking_tokens": 20}}}),
        json!({"type": "message_stop"}),
    ];
    events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().expect("a type"))).collect()
}

fn gemini() -> Vec<String> {
    let chunk = |parts: Value, finish: Option<&str>| {
        let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
        if let Some(finish) = finish {
            candidate["finishReason"] = finish.into();
        }
        json!({"candidates": [candidate], "modelVersion": "m", "responseId": "r-1", "usageMetadata": {
            "promptTokenCount": 900, "cachedContentTokenCount": 700, "candidatesTokenCount": 40, "thoughtsTokenCount": 20,
            "totalTokenCount": 960}})
    };
    let chunks = [
        chunk(json!([{"text": &THOUGHT[..10], "thought": true}]), None),
        chunk(json!([{"text": &THOUGHT[10..], "thought": true}]), None),
        chunk(json!([{"text": TEXT}]), None),
        // Two calls in one chunk; only the first is signed.
        chunk(
            json!([
                {"functionCall": {"name": "Read", "args": {"file_path": "a.rs"}}, "thoughtSignature": PROOF},
                {"functionCall": {"name": "Status", "args": {}}},
            ]),
            Some("STOP"),
        ),
    ];
    chunks.iter().map(|c| format!("data: {c}\n\n")).collect()
}

/// A request as an upstream of its format understands it.
#[derive(Debug, Default)]
pub struct Session {
    pub system: String,
    pub tools: Vec<(String, String, Value)>,
    pub users: Vec<String>,
    pub answers: Vec<String>,
    /// (id, name, arguments); no id in formats without.
    pub calls: Vec<(String, String, Value)>,
    /// (name of the call, text), in order.
    pub results: Vec<(String, String)>,
    /// Base64.
    pub media: Vec<String>,
}

pub fn read(family: Family, body: &Value) -> Session {
    let mut session = Session::default();
    match family {
        Openai => session.openai(body),
        Anthropic => session.anthropic(body),
        Gemini => session.gemini(body),
    }
    session
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Session {
    fn call_of(&self, id: &str) -> String {
        let call = self.calls.iter().find(|(known, ..)| known == id);
        call.unwrap_or_else(|| panic!("a result of {id}, which nobody called")).1.clone()
    }

    fn openai(&mut self, body: &Value) {
        for tool in list(&body["tools"]) {
            let function = &tool["function"];
            self.tools.push((text(&function["name"]), text(&function["description"]), function["parameters"].clone()));
        }
        for message in list(&body["messages"]) {
            let said: String = match &message["content"] {
                Value::String(text) => text.clone(),
                parts => list(parts).map(|p| text(&p["text"]) + "\n").collect(),
            };
            for part in list(&message["content"]) {
                let url = text(&part["image_url"]["url"]);
                self.media.extend(url.split_once("base64,").map(|(_, data)| data.to_owned()));
            }
            match text(&message["role"]).as_str() {
                "system" | "developer" => self.system += &said,
                "user" => self.users.push(said),
                "tool" => self.results.push((self.call_of(&text(&message["tool_call_id"])), said)),
                _ => {
                    self.answers.push(said);
                    for call in list(&message["tool_calls"]) {
                        let function = &call["function"];
                        let (name, arguments) = match &call["custom"] {
                            Value::Null => (
                                text(&function["name"]),
                                serde_json::from_str(&text(&function["arguments"])).expect("arguments are JSON"),
                            ),
                            custom => (text(&custom["name"]), json!({"input": custom["input"]})),
                        };
                        self.calls.push((text(&call["id"]), name, arguments));
                    }
                }
            }
        }
    }

    fn anthropic(&mut self, body: &Value) {
        self.system = list(&body["system"]).map(|b| text(&b["text"])).collect();
        for tool in list(&body["tools"]) {
            self.tools.push((text(&tool["name"]), text(&tool["description"]), tool["input_schema"].clone()));
        }
        for message in list(&body["messages"]) {
            let user = message["role"] == "user";
            let mut said = message["content"].as_str().unwrap_or_default().to_owned();
            for block in list(&message["content"]) {
                match text(&block["type"]).as_str() {
                    "text" => said += &text(&block["text"]),
                    "tool_use" => self.calls.push((text(&block["id"]), text(&block["name"]), block["input"].clone())),
                    "image" => self.media.push(text(&block["source"]["data"])),
                    "tool_result" => {
                        let mut told = block["content"].as_str().unwrap_or_default().to_owned();
                        for part in list(&block["content"]) {
                            told += &text(&part["text"]);
                            self.media.extend(part["source"]["data"].as_str().map(str::to_owned));
                        }
                        self.results.push((self.call_of(&text(&block["tool_use_id"])), told));
                    }
                    _ => {}
                }
            }
            if user { self.users.push(said) } else { self.answers.push(said) }
        }
    }

    fn gemini(&mut self, body: &Value) {
        self.system = list(&body["systemInstruction"]["parts"]).map(|p| text(&p["text"])).collect();
        for tool in list(&body["tools"]).flat_map(|t| list(&t["functionDeclarations"])) {
            let schema = [&tool["parametersJsonSchema"], &tool["parameters"]].into_iter().find(|s| !s.is_null());
            self.tools.push((text(&tool["name"]), text(&tool["description"]), schema.cloned().unwrap_or_default()));
        }
        for content in list(&body["contents"]) {
            let mut said = String::new();
            for part in list(&content["parts"]) {
                if part["thought"] != true {
                    said += part["text"].as_str().unwrap_or_default();
                }
                let media = |part: &Value| part["inlineData"]["data"].as_str().map(str::to_owned);
                self.media.extend(media(part));
                if let Some(call) = part["functionCall"].as_object() {
                    self.calls.push((text(&call["name"]), text(&call["name"]), call["args"].clone()));
                }
                if let Some(result) = part["functionResponse"].as_object() {
                    self.results.push((text(&result["name"]), result["response"].to_string()));
                    let parts = result.get("parts").into_iter().flat_map(list);
                    self.media.extend(parts.filter_map(media));
                }
            }
            if content["role"] == "model" { self.answers.push(said) } else { self.users.push(said) }
        }
    }
}
