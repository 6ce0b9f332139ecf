//! Items of an answer that say no more than most do: a message of plain texts, a call of a function. Read without a tree. With one
//! field more, or one that says something, an item is none for here. Knows only how they are written.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// What such an item says.
pub enum Plain {
    Message { id: Option<String>, texts: Vec<String> },
    Call { id: Option<String>, call_id: String, name: String, arguments: String },
}

/// `None`: it says more, or is no item.
pub fn read(item: &str) -> Option<Plain> {
    let Item { id, kind, _status: _, _role: _, content, call_id, name, arguments } = serde_json::from_str(item).ok()?;
    match (&*kind, content, call_id, name, arguments) {
        ("message", Some(content), None, None, None) => {
            let text = |part: Text<'_>| part.is_plain().then(|| part.text.into_owned());
            Some(Plain::Message { id, texts: content.into_iter().map(text).collect::<Option<_>>()? })
        }
        ("function_call", None, Some(call_id), Some(name), Some(arguments)) => {
            Some(Plain::Call { id, call_id, name, arguments })
        }
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    id: Option<String>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(rename = "role")]
    _role: Option<IgnoredAny>,
    #[serde(borrow)]
    content: Option<Vec<Text<'a>>>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
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

impl Text<'_> {
    fn is_plain(&self) -> bool {
        self.kind == "output_text" && self.annotations.is_empty() && self.logprobs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::item::Items;

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
            let written = serde_json::value::to_raw_value(&item).expect("JSON");
            read += usize::from(super::read(written.get()).is_some());
            let (mut short, mut long) = (Items::default(), Items::default());
            let ends = (short.read_written(&&*written, "output[0]"), long.read(item.clone(), "output[0]"));
            assert_eq!(ends.0.is_ok(), ends.1.is_ok(), "{item}");
            assert_eq!((short.parts, short.logprobs, short.called), (long.parts, long.logprobs, long.called), "{item}");
        }
        assert_eq!(read, 5);
    }
}
