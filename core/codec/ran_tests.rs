//! Code that one family's provider ran, told to the clients of the others, whole and as a stream.

use serde_json::{Value, json};

use super::*;
use crate::{
    codec::ClientView,
    model::fold::{Fold, unfold},
};

fn gemini() -> Response {
    let parts = json!([
        {"text": "I count. "},
        {"executableCode": {"language": "PYTHON", "code": "print(1)\n", "id": "a1"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1\n", "id": "a1"}},
        {"executableCode": {"language": "PYTHON", "code": "boom()"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_FAILED", "output": "NameError"}},
        {"text": "One."},
    ]);
    let body =
        json!({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}]});
    codec(Format::Gemini).decode_response(body.to_string().as_bytes()).expect("an answer")
}

/// The same, as its newest models sign such parts.
fn signed() -> Response {
    let mut signed = gemini();
    for part in &mut signed.choices[0].parts {
        if let Part::Native { value, .. } = part
            && value.get("executableCode").is_some()
        {
            value["thoughtSignature"] = "c2lnbmVk".into();
        }
    }
    signed
}

fn view() -> ClientView {
    ClientView { model: "m".into(), request_id: "req_1".into(), ..ClientView::default() }
}

fn told(mut response: Response, to: Format) -> Value {
    translate(&mut response, to);
    serde_json::from_slice(&codec(to).encode_response(&response, &view()).expect("written")).expect("JSON")
}

#[test]
fn an_answers_code_is_told_in_the_clients_own_blocks() {
    let anthropic = told(gemini(), Format::AnthropicMessages);
    let kinds: Vec<&str> =
        anthropic["content"].as_array().expect("blocks").iter().map(|b| b["type"].as_str().expect("a type")).collect();
    let pair = ["server_tool_use", "code_execution_tool_result"];
    assert_eq!(kinds, [&["text"], &pair[..], &pair[..], &["text"]].concat());
    assert_eq!(
        anthropic["content"][1],
        json!({"type": "server_tool_use", "id": "srvtoolu_a1", "name": "code_execution", "input": {"code": "print(1)\n"}})
    );
    assert_eq!(
        anthropic["content"][2],
        json!({"type": "code_execution_tool_result", "tool_use_id": "srvtoolu_a1", "content": {"type": "code_execution_result",
            "stdout": "1\n", "stderr": "", "return_code": 0, "content": []}})
    );
    assert_eq!(anthropic["content"][4]["content"]["return_code"], 1);
    assert_eq!(anthropic["content"][4]["tool_use_id"], anthropic["content"][3]["id"]);

    let responses = told(gemini(), Format::OpenaiResponses);
    let items = responses["output"].as_array().expect("items");
    let kinds: Vec<&str> = items.iter().map(|i| i["type"].as_str().expect("a type")).collect();
    assert_eq!(kinds, ["message", "code_interpreter_call", "code_interpreter_call", "message"]);
    assert_eq!(
        (&items[1]["code"], &items[1]["outputs"]),
        (&json!("print(1)\n"), &json!([{"type": "logs", "logs": "1\n"}]))
    );
    assert_eq!((&items[2]["status"], items[1]["id"] != items[2]["id"]), (&json!("failed"), true));

    // A client whose format has no such blocks is told beside the answer, as before.
    let chat = told(gemini(), Format::OpenaiChat);
    assert_eq!(chat["choices"][0]["message"]["content"], "I count. One.");
    assert!(chat.to_string().contains("executableCode"), "{chat}");
    assert_eq!(gemini(), {
        let mut same = gemini();
        translate(&mut same, Format::Gemini);
        same
    });
}

#[test]
fn a_signature_of_code_stands_before_the_clients_own_blocks() {
    let anthropic = told(signed(), Format::AnthropicMessages);
    let sealed = json!({"type": "redacted_thinking", "data": "pc1:gemini:c2lnbmVk"});
    assert_eq!((&anthropic["content"][1], &anthropic["content"][4]), (&sealed, &sealed));
    assert_eq!(anthropic["content"][2]["type"], "server_tool_use");
    let responses = told(signed(), Format::OpenaiResponses);
    assert_eq!(responses["output"][1]["encrypted_content"], "pc1:gemini:c2lnbmVk", "{responses}");
    assert_eq!(responses["output"][2]["type"], "code_interpreter_call");
}

#[test]
fn each_family_reads_what_another_one_was_told() {
    let original: Vec<Ran> = gemini().choices[0].parts.iter().flat_map(of).collect();
    for to in [Format::AnthropicMessages, Format::OpenaiResponses, Format::Gemini] {
        let again: Vec<Ran> = native(&original, to).iter().flat_map(of).collect();
        let plain = |ran: &[Ran]| text(ran);
        assert_eq!(plain(&again), plain(&original), "{to:?}");
    }
    let nova = [
        json!({"toolUse": {"toolUseId": "t1", "name": "nova_code_interpreter", "type": "server_tool_use", "input": {"snippet": "2*2"}}}),
        json!({"toolResult": {"toolUseId": "t1", "type": "nova_code_interpreter_result", "status": "success",
            "content": [{"json": {"stdOut": "4", "stdErr": "", "exitCode": 0, "isError": false}}]}}),
    ];
    let body = json!({"output": {"message": {"role": "assistant", "content": nova}}, "stopReason": "end_turn"});
    let response = codec(Format::BedrockConverse).decode_response(body.to_string().as_bytes()).expect("an answer");
    let items = told(response, Format::OpenaiResponses);
    assert_eq!((&items["output"][0]["code"], &items["output"][0]["outputs"][0]["logs"]), (&json!("2*2"), &json!("4")));
}

/// Its events, each in bytes of its own.
struct Told(Vec<Event>);

impl StreamDecoder for Told {
    fn push(&mut self, _: &[u8], out: &mut Vec<Event>) -> Result<()> {
        out.extend((!self.0.is_empty()).then(|| self.0.remove(0)));
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        out.append(&mut self.0);
        Ok(())
    }
}

#[test]
fn a_stream_folds_to_the_same_answer() {
    for to in [Format::AnthropicMessages, Format::OpenaiResponses, Format::Cohere, Format::OpenaiChat] {
        let mut whole = signed();
        translate(&mut whole, to);
        let events = unfold(&signed());
        let count = events.len();
        let (mut decoder, mut out) = (restored(to, Box::new(Told(events))), Vec::new());
        (0..count).for_each(|_| decoder.push(b"x", &mut out).expect("events"));
        decoder.finish(&mut out).expect("an end");
        let mut fold = Fold::default();
        out.into_iter().for_each(|event| fold.push(event));
        assert_eq!(fold.finish().choices, whole.choices, "{to:?}");
    }
}
