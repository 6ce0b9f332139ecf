//! The same small chat in each client format: how it is asked, how an upstream of that format answers, and how its
//! answers, streams and errors are read. Written apart from the codecs, so that both cannot be wrong alike.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    Openai,
    Anthropic,
    Gemini,
}

pub use Family::{Anthropic, Gemini, Openai};

pub const FAMILIES: [Family; 3] = [Openai, Anthropic, Gemini];

/// An error as its client sees it.
#[derive(Debug)]
pub struct Refusal {
    pub message: String,
    /// Ours.
    pub code: String,
    /// The family's word.
    pub kind: String,
}

impl Family {
    pub fn format(self) -> &'static str {
        match self {
            Openai => "openai_chat",
            Anthropic => "anthropic_messages",
            Gemini => "gemini",
        }
    }

    pub fn path(self, model: &str, stream: bool) -> String {
        match self {
            Openai => "/v1/chat/completions".to_owned(),
            Anthropic => "/v1/messages".to_owned(),
            Gemini if stream => format!("/v1beta/models/{model}:streamGenerateContent?alt=sse"),
            Gemini => format!("/v1beta/models/{model}:generateContent"),
        }
    }

    pub fn body(self, model: &str, stream: bool, text: &str) -> String {
        match self {
            Openai => json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}),
            Anthropic => json!({
                "model": model, "stream": stream, "max_tokens": 100, "messages": [{"role": "user", "content": text}],
            }),
            Gemini => json!({"contents": [{"role": "user", "parts": [{"text": text}]}]}),
        }
        .to_string()
    }

    pub async fn ask(self, gateway: &Gateway, model: &str, stream: bool) -> Answer {
        gateway.post(&self.path(model, stream), &self.body(model, stream, "hello")).await
    }

    /// An upstream's whole answer.
    pub fn whole(self, text: &str) -> String {
        match self {
            Openai => json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "up-1",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            }),
            Anthropic => json!({
                "id": "msg_1", "type": "message", "role": "assistant", "model": "up-1",
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
                "usage": {"input_tokens": 3, "output_tokens": 2},
            }),
            Gemini => json!({
                "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}],
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
                "modelVersion": "up-1", "responseId": "r-1",
            }),
        }
        .to_string()
    }

    /// An upstream's stream: one frame a piece, and what stands before and after.
    pub fn frames(self, pieces: &[&str]) -> Vec<String> {
        let mut out = Vec::new();
        match self {
            Openai => {
                let chunk = |delta: Value, finish: Value| {
                    let chunk = json!({
                        "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up-1",
                        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
                    });
                    format!("data: {chunk}\n\n")
                };
                out.push(chunk(json!({"role": "assistant", "content": ""}), Value::Null));
                out.extend(pieces.iter().map(|p| chunk(json!({"content": p}), Value::Null)));
                out.push(chunk(json!({}), "stop".into()));
                out.push("data: [DONE]\n\n".to_owned());
            }
            Anthropic => {
                let mut event = |value: Value| {
                    out.push(format!("event: {}\ndata: {value}\n\n", value["type"].as_str().expect("a type")));
                };
                event(json!({"type": "message_start", "message": {
                    "id": "msg_1", "type": "message", "role": "assistant", "model": "up-1", "content": [],
                    "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 3, "output_tokens": 1},
                }}));
                event(
                    json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
                );
                for piece in pieces {
                    let delta = json!({"type": "text_delta", "text": piece});
                    event(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
                }
                event(json!({"type": "content_block_stop", "index": 0}));
                let delta = json!({"stop_reason": "end_turn", "stop_sequence": null});
                event(json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 2}}));
                event(json!({"type": "message_stop"}));
            }
            Gemini => {
                let chunk = |text: &str, end: bool| {
                    let mut candidate = json!({"content": {"role": "model", "parts": [{"text": text}]}, "index": 0});
                    if end {
                        candidate["finishReason"] = "STOP".into();
                    }
                    let usage = json!({"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5});
                    let chunk = json!({
                        "candidates": [candidate], "usageMetadata": usage, "modelVersion": "up-1", "responseId": "r-1",
                    });
                    format!("data: {chunk}\n\n")
                };
                let last = pieces.len().saturating_sub(1);
                out.extend(pieces.iter().enumerate().map(|(n, p)| chunk(p, n == last)));
            }
        }
        out
    }

    /// How many of `frames` stand before the first piece.
    pub fn lead(self) -> usize {
        match self {
            Openai => 1,
            Anthropic => 2,
            Gemini => 0,
        }
    }

    /// An error event inside an upstream's stream.
    pub fn error_frame(self) -> &'static str {
        match self {
            Openai => {
                "data: {\"error\":{\"message\":\"gone wrong\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n"
            }
            Anthropic => {
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"gone wrong\"}}\n\n"
            }
            Gemini => "data: {\"error\":{\"code\":500,\"message\":\"gone wrong\",\"status\":\"INTERNAL\"}}\n\n",
        }
    }

    /// An upstream's refusal.
    pub fn error_body(self, status: u16, message: &str) -> String {
        match self {
            Openai => json!({"error": {"message": message, "type": "x", "param": null, "code": null}}),
            Anthropic => json!({"type": "error", "error": {"type": "x", "message": message}}),
            Gemini => json!({"error": {"code": status, "message": message, "status": "X"}}),
        }
        .to_string()
    }

    /// The text of an answer, whole or streamed.
    pub fn text(self, answer: &Answer) -> String {
        let pick =
            |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let parts = |value: &Value| -> String {
            let parts = value.pointer("/candidates/0/content/parts").and_then(Value::as_array).cloned();
            parts.unwrap_or_default().iter().map(|p| pick(p, "/text")).collect()
        };
        if !streamed(answer) {
            let value = answer.json();
            return match self {
                Openai => pick(&value, "/choices/0/message/content"),
                Anthropic => {
                    let blocks = value["content"].as_array().cloned().unwrap_or_default();
                    blocks.iter().map(|b| pick(b, "/text")).collect()
                }
                Gemini => parts(&value),
            };
        }
        let events = events(answer);
        match self {
            Openai => events.iter().map(|e| pick(e, "/choices/0/delta/content")).collect(),
            Anthropic => events.iter().map(|e| pick(e, "/delta/text")).collect(),
            Gemini => events.iter().map(parts).collect(),
        }
    }

    /// The family's word for how the answer ended; empty when it did not.
    pub fn finish(self, answer: &Answer) -> String {
        let (whole, stream) = match self {
            Openai => ("/choices/0/finish_reason", "/choices/0/finish_reason"),
            Anthropic => ("/stop_reason", "/delta/stop_reason"),
            Gemini => ("/candidates/0/finishReason", "/candidates/0/finishReason"),
        };
        let pick = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        if !streamed(answer) {
            return pick(&answer.json(), whole).unwrap_or_default();
        }
        events(answer).iter().filter_map(|e| pick(e, stream)).next_back().unwrap_or_default()
    }

    /// `content_filter` in the family's word.
    pub fn filtered(self) -> &'static str {
        match self {
            Openai => "content_filter",
            Anthropic => "refusal",
            Gemini => "SAFETY",
        }
    }

    /// How many terminals a stream has: `[DONE]`, `message_stop`, or the last frame's finish reason.
    pub fn terminals(self, answer: &Answer) -> usize {
        match self {
            Openai => answer.text().matches("data: [DONE]").count(),
            Anthropic => answer.text().matches("event: message_stop").count(),
            Gemini => answer.text().matches("\"finishReason\"").count(),
        }
    }

    /// Error events in a stream, in the family's shape.
    pub fn stream_errors(self, answer: &Answer) -> Vec<Refusal> {
        let mut found = Vec::new();
        for event in events(answer).iter().filter(|e| e.get("error").is_some_and(|e| !e.is_null())) {
            if self == Anthropic {
                assert!(answer.text().contains("event: error\n"), "{}", answer.text());
            }
            found.push(self.shape(event));
        }
        found
    }

    /// A refusal's body, with its shape checked in every point that an SDK reads.
    pub fn error(self, answer: &Answer) -> Refusal {
        assert!(answer.status >= 400, "{} {}", answer.status, answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let value = answer.json();
        match self {
            Openai => {}
            Anthropic => assert_eq!(value["request_id"].as_str(), answer.header("x-request-id"), "{value}"),
            Gemini => assert_eq!(value["error"]["code"], answer.status, "{value}"),
        }
        self.shape(&value)
    }

    fn shape(self, value: &Value) -> Refusal {
        let text = |pointer: &str| {
            let found = value.pointer(pointer).and_then(Value::as_str);
            found.unwrap_or_else(|| panic!("{self:?}: no {pointer} in {value}")).to_owned()
        };
        match self {
            Openai => {
                let keys: Vec<&str> =
                    value["error"].as_object().expect("an object").keys().map(String::as_str).collect();
                assert_eq!(keys, ["message", "type", "param", "code"], "{value}");
                Refusal { message: text("/error/message"), code: text("/error/code"), kind: text("/error/type") }
            }
            Anthropic => {
                assert_eq!(value["type"], "error", "{value}");
                let code = text("/error/details/error_code");
                Refusal { message: text("/error/message"), code, kind: text("/error/type") }
            }
            Gemini => {
                let details = value.pointer("/error/details").and_then(Value::as_array).cloned().unwrap_or_default();
                let ours = details.iter().find(|d| d["domain"] == "portcullis");
                let code =
                    ours.unwrap_or_else(|| panic!("no ErrorInfo in {value}"))["reason"].as_str().expect("a reason");
                Refusal { message: text("/error/message"), code: code.to_owned(), kind: text("/error/status") }
            }
        }
    }
}

pub fn streamed(answer: &Answer) -> bool {
    answer.header("content-type").is_some_and(|t| t.starts_with("text/event-stream"))
}

/// The JSON of each event of a stream.
pub fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text().replace("\r\n", "\n");
    let frames = text.split("\n\n");
    let data =
        frames.map(|f| f.lines().filter_map(|l| l.strip_prefix("data:")).map(str::trim_start).collect::<Vec<_>>());
    data.filter_map(|lines| serde_json::from_str(&lines.join("\n")).ok()).collect()
}
