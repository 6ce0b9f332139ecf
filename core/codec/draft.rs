//! An object on its way to the wire: its fields in order, most of them lent by the answer that it says. Nothing is copied or hashed for
//! it, as a tree would be. Only for writing: nobody looks into one.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{tape::Tape, written};

/// So few fields that looking through them is cheaper than a table.
#[derive(Default)]
pub struct Draft<'a> {
    fields: Vec<(Cow<'a, str>, Said<'a>)>,
}

pub enum Said<'a> {
    Null,
    Text(Cow<'a, str>),
    Number(u64),
    /// Boxed: a tree is larger than all the others.
    Tree(Box<Value>),
    Lent(&'a Value),
    /// JSON as it is written.
    Raw(&'a str),
    List(Vec<Said<'a>>),
    Object(Draft<'a>),
}

impl<'a> Draft<'a> {
    pub fn new() -> Self {
        Draft { fields: Vec::with_capacity(8) }
    }

    pub fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|(name, _)| name == key)
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Adds a field, or says another value of one that is there.
    pub fn put(&mut self, key: impl Into<Cow<'a, str>>, said: impl Into<Said<'a>>) {
        let (key, said) = (key.into(), said.into());
        match self.fields.iter_mut().find(|(name, _)| *name == key) {
            Some(field) => field.1 = said,
            None => self.fields.push((key, said)),
        }
    }

    /// Nothing is said of an empty list.
    pub fn put_list(&mut self, key: &'static str, list: Vec<Said<'a>>) {
        if !list.is_empty() {
            self.put(key, list);
        }
    }

    /// Those of `more` that are not there.
    pub fn add(&mut self, more: Option<&'a Map<String, Value>>) {
        for (key, value) in more.into_iter().flatten() {
            if self.fields.iter().all(|(name, _)| name != key) {
                self.fields.push((Cow::Borrowed(key), Said::Lent(value)));
            }
        }
    }

    /// The same of those whose names begin with `prefix`, without it.
    pub fn add_behind(&mut self, prefix: &str, more: Option<&'a Map<String, Value>>) {
        for (key, value) in more.into_iter().flatten() {
            if let Some(key) = key.strip_prefix(prefix)
                && self.fields.iter().all(|(name, _)| name != key)
            {
                self.fields.push((Cow::Borrowed(key), Said::Lent(value)));
            }
        }
    }

    /// Those of `more` that are not there and are no notes.
    pub fn add_plain(&mut self, more: Option<&'a Map<String, Value>>) {
        for (key, value) in more.into_iter().flatten().filter(|(key, _)| !key.starts_with('$')) {
            if self.fields.iter().all(|(name, _)| name != key) {
                self.fields.push((Cow::Borrowed(key), Said::Lent(value)));
            }
        }
    }

    /// The same, of what nobody else keeps.
    pub fn fill(&mut self, more: Map<String, Value>) {
        for (key, value) in more {
            if !self.has(&key) {
                self.fields.push((Cow::Owned(key), value.into()));
            }
        }
    }

    /// What was put together as a tree.
    pub fn take(&mut self, more: &mut Map<String, Value>) {
        for (key, value) in std::mem::take(more) {
            self.put(key, value);
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ROOM + self.room());
        self.write(&mut out);
        out
    }

    /// For who puts it together further.
    pub fn tree(self) -> Map<String, Value> {
        self.fields.into_iter().map(|(key, said)| (key.into_owned(), said.tree())).collect()
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (n, (key, said)) in self.fields.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            written::text(key, out);
            out.push(b':');
            said.write(out);
        }
        out.push(b'}');
    }

    /// Bytes of its texts.
    fn room(&self) -> usize {
        self.fields.iter().map(|(_, said)| said.room()).sum()
    }
}

impl Said<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Said::Null => out.extend_from_slice(b"null"),
            Said::Text(text) => written::text(text, out),
            Said::Number(number) => written::number(*number, out),
            Said::Tree(value) => written::value(value, out),
            Said::Lent(value) => written::value(value, out),
            Said::Raw(raw) => out.extend_from_slice(raw.as_bytes()),
            Said::Object(object) => object.write(out),
            Said::List(list) => {
                out.push(b'[');
                for (n, said) in list.iter().enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    said.write(out);
                }
                out.push(b']');
            }
        }
    }

    fn tree(self) -> Value {
        match self {
            Said::Null => Value::Null,
            Said::Text(text) => Value::String(text.into_owned()),
            Said::Number(number) => number.into(),
            Said::Tree(value) => *value,
            Said::Lent(value) => value.clone(),
            Said::Raw(raw) => serde_json::from_str(raw).unwrap_or_default(),
            Said::List(list) => Value::Array(list.into_iter().map(Said::tree).collect()),
            Said::Object(object) => Value::Object(object.tree()),
        }
    }

    fn room(&self) -> usize {
        match self {
            Said::Text(text) => text.len(),
            Said::Lent(Value::String(text)) => text.len(),
            Said::Raw(raw) => raw.len(),
            Said::List(list) => list.iter().map(Said::room).sum(),
            Said::Object(object) => object.room(),
            _ => 0,
        }
    }
}

/// A call's arguments as the object that they are: as they are written, where that is JSON in one line.
pub fn input(arguments: &str) -> Option<Said<'_>> {
    let arguments = arguments.trim();
    let plain = memchr::memchr2(b'\n', b'\r', arguments.as_bytes()).is_none();
    (plain && Tape::read(arguments.as_bytes())?.root().is_object()).then_some(Said::Raw(arguments))
}

impl<'a> From<&'a str> for Said<'a> {
    fn from(text: &'a str) -> Self {
        Said::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Said<'_> {
    fn from(text: String) -> Self {
        Said::Text(Cow::Owned(text))
    }
}

impl From<u64> for Said<'_> {
    fn from(number: u64) -> Self {
        Said::Number(number)
    }
}

impl From<Value> for Said<'_> {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Said::Null,
            Value::String(text) => Said::Text(Cow::Owned(text)),
            other => Said::Tree(Box::new(other)),
        }
    }
}

impl<'a> From<Draft<'a>> for Said<'a> {
    fn from(object: Draft<'a>) -> Self {
        Said::Object(object)
    }
}

impl<'a> From<Vec<Said<'a>>> for Said<'a> {
    fn from(list: Vec<Said<'a>>) -> Self {
        Said::List(list)
    }
}

impl<'a> From<Option<&'a str>> for Said<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Said::Null, Said::from)
    }
}

/// Most objects need more beside their texts.
const ROOM: usize = 512;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_draft_is_written_as_its_tree_would_be() {
        let more = json!({"a": 9, "later": [1.50, null], "text": "ü\n"});
        let mut draft = Draft::new();
        draft.put("a", "first");
        draft.put("n", u64::MAX);
        draft.put("none", None::<&str>);
        draft.put("a", "second \"quoted\"".to_owned());
        let mut inner = Draft::new();
        inner.add(more.as_object());
        draft.put("list", vec![Said::from(inner), Said::from(json!({"x": true})), Said::Raw("{\"as\": 1.0}")]);
        draft.add(more.as_object());
        let told: Value = serde_json::from_slice(&draft.bytes()).expect("JSON");
        assert_eq!(Value::Object(draft.tree()).to_string(), told.to_string());
        let tree = json!({"a": "second \"quoted\"", "n": u64::MAX, "none": null, "list": [more, {"x": true}], "later": more["later"], "text": "ü\n"});
        let mut tree = tree;
        tree["list"].as_array_mut().expect("a list").push(serde_json::from_str("{\"as\":1.0}").expect("JSON"));
        assert_eq!(told.to_string(), tree.to_string());
    }

    #[test]
    fn arguments_pass_as_they_are_written_only_where_they_are_an_object_in_one_line() {
        for (arguments, passes) in [
            (" {\"a\": 1.0} ", true),
            ("{}", true),
            ("{\"a\":1", false),
            ("[1]", false),
            ("", false),
            ("{\"a\":\n1}", false),
        ] {
            assert_eq!(input(arguments).is_some(), passes, "{arguments}");
        }
    }
}
