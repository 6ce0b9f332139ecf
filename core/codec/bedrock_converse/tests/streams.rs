//! Streams both ways: their end, damage, odd payloads, blocks one after the other.

use serde_json::json;

use super::*;
use crate::{
    error::Kind,
    model::{Delta, Extra, Finish, FinishReason, PartStart, ToolKind},
};

fn stream() -> Vec<u8> {
    frames(&[
        ("messageStart", json!({"role": "assistant", "p": "abc"})),
        ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": "hé"}})),
        ("ping", json!({})),
        ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": "llo"}})),
        ("contentBlockStop", json!({"contentBlockIndex": 0})),
        ("messageStop", json!({"stopReason": "end_turn"})),
        ("metadata", json!({"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}})),
    ])
}

#[test]
fn figures_come_behind_the_finish_and_end_the_stream() {
    let events = events(&[&stream()]).expect("a stream");
    assert_eq!(events.last(), Some(&Event::End));
    let at = |find: &dyn Fn(&Event) -> bool| events.iter().position(find).expect("there");
    assert!(at(&|e| matches!(e, Event::Finish { .. })) < at(&|e| matches!(e, Event::Usage(_))));
    let response = fold(events);
    assert_eq!(response.text(), "héllo");
    assert_eq!(response.usage.and_then(|u| u.total_tokens()), Some(5));
}

#[test]
fn a_stream_is_whole_only_once_it_told_its_end() {
    let bytes = stream();
    let stop = frames(&[("metadata", json!({"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}}))]);
    let whole = bytes.len() - stop.len();
    for at in 0..=bytes.len() {
        let result = events(&[&bytes[..at]]);
        // Without its figures an answer is whole all the same; half a frame is not.
        assert_eq!(result.is_ok(), at == whole || at == bytes.len(), "cut at {at}");
        assert!(result.err().is_none_or(|e| e.kind == Kind::Upstream));
    }
}

#[test]
fn damage_is_an_upstreams_fault_and_never_a_clean_end() {
    let bytes = stream();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x20;
        assert_eq!(events(&[&damaged]).expect_err("damaged").kind, Kind::Upstream, "byte {at}");
    }
}

#[test]
fn odd_payloads_are_an_upstreams_fault_and_do_not_panic() {
    for (name, payload) in [
        ("contentBlockDelta", json!({"delta": {"text": "no index"}})),
        ("contentBlockDelta", json!({"contentBlockIndex": -1, "delta": {"text": "x"}})),
        ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"toolUse": {"input": "{}"}}})),
        ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": 7}})),
        ("contentBlockStart", json!({"contentBlockIndex": 0, "start": {"toolUse": {"name": "x"}}})),
        ("messageStop", json!({})),
        ("metadata", json!([])),
        ("metadata", json!({"usage": "much"})),
    ] {
        let error = events(&[&frames(&[(name, payload.clone())])]).expect_err("odd");
        assert_eq!(error.kind, Kind::Upstream, "{name} {payload}");
    }
    let image = frames(&[
        ("contentBlockStart", json!({"contentBlockIndex": 0, "start": {"image": {"format": "png"}}})),
        ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"image": {"source": {"bytes": "*"}}}})),
    ]);
    assert_eq!(events(&[&image]).expect_err("no base64").kind, Kind::Upstream);
}

#[test]
fn what_is_held_until_it_is_whole_has_a_bound() {
    let mut list = vec![(
        "contentBlockStart",
        json!({"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "a", "name": "b", "type": "server_tool_use"}}}),
    )];
    let piece = json!({"contentBlockIndex": 0, "delta": {"toolUse": {"input": "x".repeat(400)}}});
    list.extend(vec![("contentBlockDelta", piece); 4]);
    let mut decoder = BedrockConverse.stream_decoder(&Dialect::of("m"), 1000);
    assert_eq!(decoder.push(&frames(&list), &mut Vec::new()).expect_err("too much").kind, Kind::Upstream);
}

#[test]
fn interleaved_calls_become_blocks_one_after_the_other() {
    let call = |index| PartStart::ToolCall {
        id: format!("c{index}"),
        name: "f".to_owned(),
        kind: ToolKind::Function,
        signature: None,
        extra: Extra::default(),
    };
    let begin = |index| Event::PartStart { choice: 0, index, part: call(index) };
    let piece = |index, text: &str| Event::Delta { choice: 0, index, delta: Delta::Text(text.to_owned()) };
    let told = streamed(&[begin(0), begin(1), piece(1, "{\"b\":2}"), piece(0, "{\"a\":"), piece(0, "1}")]);
    let names: Vec<(&str, u64)> = told
        .iter()
        .filter_map(|(name, payload)| Some((name.as_str(), payload["contentBlockIndex"].as_u64()?)))
        .collect();
    let (start, delta, stop) = ("contentBlockStart", "contentBlockDelta", "contentBlockStop");
    assert_eq!(names, [(start, 0), (delta, 0), (delta, 0), (stop, 0), (start, 1), (delta, 1), (stop, 1)]);
}

#[test]
fn every_block_and_delta_has_one_member() {
    let mut out = Vec::new();
    for case in ["reasoning", "citations", "hosted_tools", "parallel_calls", "image_answer"] {
        let path = format!("{}/tests/golden/bedrock_converse/{case}/response.json", env!("CARGO_MANIFEST_DIR"));
        let response = BedrockConverse.decode_response(&std::fs::read(path).expect("a golden")).expect("an answer");
        out.extend(streamed(&crate::model::fold::unfold(&response)));
    }
    for (name, payload) in out {
        for key in ["start", "delta"] {
            // The vendor's own clients refuse a union of more than one member.
            let members = payload.get(key).and_then(Value::as_object).map(|o| o.len());
            assert!(members.is_none_or(|n| n == 1), "{name} {payload}");
        }
    }
}

#[test]
fn a_stream_has_an_end_with_figures_even_when_nothing_was_told() {
    let told = streamed(&[]);
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["messageStart", "messageStop", "metadata"]);
    assert_eq!(told[2].1["usage"], json!({"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}));
    let finish = Finish::new(FinishReason::Length, "length");
    let told = streamed(&[Event::Finish { choice: 0, finish }]);
    assert_eq!(told[1].1["stopReason"], "max_tokens");
}

#[test]
fn a_keep_alive_is_an_event_that_readers_pass_over() {
    let mut encoder = BedrockConverse.stream_encoder(&view());
    let mut bytes = Vec::new();
    encoder.keep_alive(&mut bytes);
    encoder.finish(&mut bytes);
    let response = fold(events(&[&bytes]).expect("a stream"));
    assert!(response.choices[0].parts.is_empty());
}

#[test]
fn a_turn_that_ends_with_calls_ends_with_calls_whatever_its_word() {
    let call = json!({"toolUseId": "t", "name": "f"});
    let bytes = frames(&[
        ("contentBlockStart", json!({"contentBlockIndex": 0, "start": {"toolUse": call}})),
        ("contentBlockStop", json!({"contentBlockIndex": 0})),
        ("messageStop", json!({"stopReason": "end_turn"})),
    ]);
    let streamed = fold(events(&[&bytes]).expect("a stream"));
    let whole = json!({"output": {"message": {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}]}},
        "stopReason": "end_turn"});
    let whole = BedrockConverse.decode_response(whole.to_string().as_bytes()).expect("an answer");
    for response in [streamed, whole] {
        let finish = response.choices[0].finish.as_ref().expect("a finish");
        assert_eq!((finish.reason, finish.raw.as_str()), (FinishReason::ToolCalls, "end_turn"));
    }
}
