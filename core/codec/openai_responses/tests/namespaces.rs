//! Tools in namespaces: among the others for other formats, back in their place for this one.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    codec::{
        ClientView, Codec, Dialect, Inbound, anthropic_messages::AnthropicMessages, openai_chat::OpenaiChat,
        openai_responses::OpenaiResponses,
    },
    model::{Choice, Event, Extra, Part, Request, Response, Tool, ToolCall, ToolKind, fold},
};

fn function(name: &str) -> Value {
    json!({"type": "function", "name": name, "description": "d", "strict": false, "parameters": {"type": "object"}})
}

fn body() -> Value {
    let agents = json!({"type": "namespace", "name": "agents", "description": "helpers", "tools": [function("spawn"), function("wait")]});
    let clocks = json!({"type": "namespace", "name": "clocks", "tools": [function("now")]});
    json!({"model": "m", "input": "x", "tools": [function("ls"), agents, clocks, function("cat")]})
}

fn decode(body: &Value) -> Request {
    OpenaiResponses.decode_request(body.to_string().as_bytes(), Inbound::default()).unwrap()
}

fn names(tools: &Value, pointer: &str) -> Vec<String> {
    let tools = tools.as_array().unwrap().iter();
    tools.map(|t| t.pointer(pointer).unwrap().as_str().unwrap().to_owned()).collect()
}

#[test]
fn other_formats_get_the_functions_of_namespaces_among_the_others() {
    let request = decode(&body());
    let chat = OpenaiChat.encode_request(&request, &Dialect::of("m")).unwrap().body;
    assert_eq!(names(&chat["tools"], "/function/name"), ["ls", "spawn", "wait", "now", "cat"]);
    let messages = AnthropicMessages.encode_request(&request, &Dialect::of("m")).unwrap().body;
    assert_eq!(names(&messages["tools"], "/name"), ["ls", "spawn", "wait", "now", "cat"]);
    for told in [&chat["tools"], &messages["tools"]] {
        assert!(!told.to_string().contains("namespace"), "{told}");
    }
}

#[test]
fn an_upstream_of_this_format_gets_its_namespaces_back() {
    let body = body();
    let written = OpenaiResponses.encode_request(&decode(&body), &Dialect::of("m")).unwrap().body;
    assert_eq!(written["tools"], body["tools"]);
}

#[test]
fn names_that_clash_stay_with_their_vendor() {
    for clash in [json!([function("spawn")]), json!([{"type": "namespace", "name": "b", "tools": [function("spawn")]}])]
    {
        let mut body = body();
        body["tools"].as_array_mut().unwrap().extend(clash.as_array().unwrap().clone());
        let request = decode(&body);
        assert!(
            request.tools.iter().any(|t| matches!(t, Tool::Hosted { kind, .. } if kind == "namespace")),
            "{request:?}"
        );
        let refused = OpenaiChat.encode_request(&request, &Dialect::of("m")).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("namespace"));
        let written = OpenaiResponses.encode_request(&request, &Dialect::of("m")).unwrap().body;
        assert_eq!(written["tools"], body["tools"]);
    }
}

#[test]
fn a_call_is_told_with_its_namespace() {
    let call = |id: &str, name: &str| {
        Part::ToolCall(ToolCall {
            id: id.to_owned(),
            name: name.to_owned(),
            kind: ToolKind::Function,
            arguments: "{}".to_owned(),
            signature: None,
            cache: None,
            extra: Extra::default(),
        })
    };
    let parts = vec![call("c1", "wait"), call("c2", "cat"), call("c3", "now"), call("c4", "unheard")];
    let choices = vec![Choice { parts, ..Choice::default() }];
    let answer = Response { id: "r".to_owned(), model: "m".to_owned(), choices, ..Response::default() };
    let echo = body().as_object().cloned().map(Arc::new);
    let view = ClientView { request_id: "req_1".to_owned(), echo, ..ClientView::default() };
    let whole: Value = serde_json::from_slice(&OpenaiResponses.encode_response(&answer, &view).unwrap()).unwrap();

    let (mut encoder, mut bytes) = (OpenaiResponses.stream_encoder(&view), Vec::new());
    fold::unfold(&answer).iter().filter(|e| !matches!(e, Event::End)).for_each(|e| encoder.push(e, &mut bytes));
    encoder.finish(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let last = text.lines().filter_map(|l| l.strip_prefix("data: ")).rfind(|l| *l != "[DONE]").unwrap();
    let streamed: Value = serde_json::from_str(last).unwrap();

    for output in [&whole["output"], &streamed["response"]["output"]] {
        let told: Vec<_> =
            output.as_array().unwrap().iter().map(|i| i.get("namespace").and_then(Value::as_str)).collect();
        assert_eq!(told, [Some("agents"), None, Some("clocks"), None], "{output:#}");
    }
}
