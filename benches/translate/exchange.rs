//! One exchange that every format can say, as each format's own encoder writes it.

use portcullis::{
    codec::{ClientView, Dialect, codec},
    model::{
        Choice, Event, Finish, FinishReason, Format, Message, Part, Request, Response, Role, Sampling, Tool, ToolCall,
        ToolKind, ToolResult, Usage, fold::unfold, tool::Function,
    },
};
use serde_json::{Value, json};

pub fn request(format: Format) -> Vec<u8> {
    let encoded = codec(format).encode_request(&canonical(), &Dialect::of("bench-model")).unwrap();
    Value::Object(encoded.body).to_string().into_bytes()
}

pub fn answer(format: Format) -> Vec<u8> {
    codec(format).encode_response(&said(), &super::view()).unwrap()
}

/// The answer's text word by word, its arguments in pieces.
pub fn stream(format: Format) -> Vec<u8> {
    let mut encoder = codec(format).stream_encoder(&ClientView { include_usage: true, ..super::view() });
    let mut out = Vec::new();
    for event in unfold(&said()).into_iter().filter(|e| *e != Event::End) {
        match event {
            Event::Delta { choice, index, delta: portcullis::model::Delta::Text(text) } => {
                for piece in text.split_inclusive(' ') {
                    let delta = portcullis::model::Delta::Text(piece.to_owned());
                    encoder.push(&Event::Delta { choice, index, delta }, &mut out);
                }
            }
            event => encoder.push(&event, &mut out),
        }
    }
    encoder.finish(&mut out);
    out
}

fn canonical() -> Request {
    let mut messages = vec![Message::text(Role::System, TEXT)];
    for turn in 0..3 {
        messages.push(Message::text(Role::User, format!("{TEXT} And what of number {turn}?")));
        messages.push(Message::text(Role::Assistant, TEXT));
    }
    messages.push(Message::text(Role::User, "What is the weather in Oslo and in Rome?"));
    messages.push(Message::new(Role::Assistant, vec![call("call_abcdefg1", "Oslo"), call("call_abcdefg2", "Rome")]));
    for (id, text) in [("call_abcdefg1", "rain, 4 degrees"), ("call_abcdefg2", "sun, 19 degrees")] {
        messages.push(Message::new(Role::Tool, vec![result(id, text)]));
    }
    Request {
        model: "bench-model".to_owned(),
        stream: true,
        messages,
        tools: ["weather", "search", "calculate", "translate"].map(tool).to_vec(),
        sampling: Sampling { temperature: Some(0.5), ..Sampling::default() },
        max_tokens: Some(1000),
        ..Request::default()
    }
}

fn said() -> Response {
    let text = TEXT.repeat(2);
    Response {
        id: "answer-1".to_owned(),
        model: "bench-model".to_owned(),
        created: Some(1_790_000_000),
        choices: vec![Choice {
            index: 0,
            parts: vec![Part::text(text), call("call_abcdefg3", "Oslo and the long fjord that lies before it")],
            finish: Some(Finish::new(FinishReason::ToolCalls, "tool_calls")),
            ..Choice::default()
        }],
        usage: Some(Usage { input_tokens: Some(500), output_tokens: Some(200), ..Usage::default() }),
        ..Response::default()
    }
}

fn call(id: &str, city: &str) -> Part {
    Part::ToolCall(ToolCall {
        id: id.to_owned(),
        name: "weather".to_owned(),
        kind: ToolKind::Function,
        arguments: json!({"city": city}).to_string(),
        signature: None,
        cache: None,
        extra: Default::default(),
    })
}

fn result(id: &str, text: &str) -> Part {
    Part::ToolResult(ToolResult {
        call_id: id.to_owned(),
        name: Some("weather".to_owned()),
        kind: ToolKind::Function,
        parts: vec![Part::text(text)],
        object: None,
        is_error: None,
        cache: None,
        extra: Default::default(),
    })
}

fn tool(name: &str) -> Tool {
    Tool::Function(Function {
        name: name.to_owned(),
        description: Some(format!("{name}: {TEXT}")),
        parameters: Some(json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "where"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}
            },
            "required": ["city"]
        })),
        strict: None,
        custom: false,
        cache: None,
        extra: Default::default(),
    })
}

const TEXT: &str = "The tide comes twice a day, and with it come the boats that wait outside the bar for water enough to \
    cross. Who lives by it learns to read the moon before the clock, and to leave a supper half eaten when the bell \
    rings. It is said that the old harbour master could tell the hour by the smell of the mud alone. ";
