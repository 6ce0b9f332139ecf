//! Items of an answer that say no more than most do: a message of plain texts, a call of a function. Read without a tree. With one
//! field more, or one that says something, an item is none for here. Knows only how they are written.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::codec::tape::Node;

/// What such an item says.
pub enum Plain {
    Message { id: Option<String>, texts: Vec<String> },
    Call { id: Option<String>, call_id: String, name: String, arguments: String },
}

/// `None`: it says more, or is no item.
pub fn read(item: Node<'_>) -> Option<Plain> {
    let (mut kind, mut id, mut texts) = (None, None, None);
    let (mut call_id, mut name, mut arguments) = (None, None, None);
    for (key, value) in item.members() {
        let twice = match key {
            "type" => kind.replace(value.text()?).is_some(),
            "status" | "role" => false,
            "id" => id.replace(if value.is_null() { None } else { Some(value.text()?.into_owned()) }).is_some(),
            "content" => texts.replace(value.items()?.map(plain_text).collect::<Option<Vec<_>>>()?).is_some(),
            "call_id" => call_id.replace(value.text()?.into_owned()).is_some(),
            "name" => name.replace(value.text()?.into_owned()).is_some(),
            "arguments" => arguments.replace(value.text()?.into_owned()).is_some(),
            _ => return None,
        };
        if twice {
            return None;
        }
    }
    let id = id.flatten();
    match (kind.as_deref()?, texts, call_id, name, arguments) {
        ("message", Some(texts), None, None, None) => Some(Plain::Message { id, texts }),
        ("function_call", None, Some(call_id), Some(name), Some(arguments)) => {
            Some(Plain::Call { id, call_id, name, arguments })
        }
        _ => None,
    }
}

/// What a part says that is a text and nothing more.
fn plain_text(part: Node<'_>) -> Option<String> {
    let (mut kind, mut text) = (false, None);
    for (key, value) in part.members() {
        let plain = match key {
            "type" => !std::mem::replace(&mut kind, true) && value.raw() == "\"output_text\"",
            "text" => text.replace(value.text()?).is_none(),
            "annotations" | "logprobs" => value.items()?.next().is_none(),
            _ => false,
        };
        if !plain {
            return None;
        }
    }
    text.filter(|_| kind).map(Cow::into_owned)
}

/// A part of a message. With a field more it would say something more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub text: Cow<'a, str>,
    #[serde(borrow, default)]
    pub annotations: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    pub logprobs: Vec<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::item::Items;
    use crate::codec::tape::Tape;

    #[test]
    fn an_item_that_is_read_without_a_tree_says_what_its_tree_says() {
        let text = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
        let call = |arguments: Value| json!({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": arguments});
        let mut read = 0;
        for item in [
            json!({"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text("a \"b\"\n")]}),
            json!({"type": "message", "role": "assistant", "content": [text("a"), text("")]}),
            json!({"type": "message", "id": null, "content": []}),
            json!({"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "a", "annotations": [], "own": 1.50}]}),
            json!({"id": "msg_1", "type": "message", "content": [{"type": "refusal", "refusal": "no"}]}),
            json!({"id": "msg_1", "type": "message", "own": 1.50, "content": [text("a")]}),
            json!({"type": "message", "content": [{"type": "output_text", "text": "a", "annotations": [{"type": "url_citation", "url": "u"}]}]}),
            json!({"type": "message", "content": "a"}),
            json!({"type": "message"}),
            call(json!("{\"a\": \"b\"}")),
            call(json!("")),
            call(json!({"a": 1})),
            json!({"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}", "status": "completed", "namespace": "n"}),
            json!({"type": "function_call", "name": "f", "arguments": "{}"}),
            json!({"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}),
            json!({"type": "reasoning", "id": "rs_1", "summary": []}),
            json!({"id": "x"}),
            json!(7),
        ] {
            let written = item.to_string();
            let tape = Tape::read(written.as_bytes()).expect("JSON");
            read += usize::from(super::read(tape.root()).is_some());
            let (mut short, mut long) = (Items::default(), Items::default());
            let path = || "output[0]".to_owned();
            let ends = (short.read_item(tape.root().into(), path), long.read(item.clone(), "output[0]"));
            assert_eq!(ends.0.is_ok(), ends.1.is_ok(), "{item}");
            assert_eq!((short.parts, short.logprobs, short.called), (long.parts, long.logprobs, long.called), "{item}");
        }
        assert_eq!(read, 5);
    }
}
