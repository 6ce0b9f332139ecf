//! An object of a body, taken apart field by field: what is known is taken, what is left is kept as `Extra`, and every error names
//! the path of the field at fault. It is a tree, or stands on a tape and is read as far as somebody asks.

use std::{borrow::Cow, cell::OnceCell};

use serde_json::{Map, Value};

use super::{
    json::{as_i64, as_u64, missing, wrong_type},
    tape::Node,
};
use crate::{
    error::Result,
    model::{Extra, Format},
};

/// An object being taken apart. Taken fields leave nothing behind; explicit nulls count as absent. It is a tree already, or stands
/// on a tape: then only what is asked for is read.
pub struct Fields<'t> {
    inner: Inner<'t>,
    path: String,
}

enum Inner<'t> {
    Tree(Map<String, Value>),
    /// So few, nearly always, that looking through them is cheaper than a table.
    Read(Vec<Member<'t>>),
}

struct Member<'t> {
    key: Cow<'t, str>,
    /// `None`: it was taken, or put there.
    node: Option<Node<'t>>,
    /// What was put there, or looked at.
    tree: OnceCell<Box<Value>>,
}

impl Member<'_> {
    fn peek(&self) -> Option<&Value> {
        match self.node {
            Some(node) if node.is_null() => None,
            Some(node) => Some(self.tree.get_or_init(|| Box::new(node.tree()))),
            None => self.tree.get().map(Box::as_ref).filter(|v| !v.is_null()),
        }
    }

    fn take(&mut self) -> Option<Value> {
        let (node, tree) = (self.node.take(), self.tree.take());
        tree.map(|tree| *tree).or_else(|| node.map(Node::tree)).filter(|v| !v.is_null())
    }
}

/// A value that is a tree, or stands on a tape.
pub enum Item<'t> {
    Tree(Value),
    Read(Node<'t>),
}

impl From<Value> for Item<'_> {
    fn from(value: Value) -> Self {
        Item::Tree(value)
    }
}

impl<'t> From<Node<'t>> for Item<'t> {
    fn from(node: Node<'t>) -> Self {
        Item::Read(node)
    }
}

impl<'t> Item<'t> {
    pub fn tree(self) -> Value {
        match self {
            Item::Tree(value) => value,
            Item::Read(node) => node.tree(),
        }
    }

    pub fn is_null(&self) -> bool {
        match self {
            Item::Tree(value) => value.is_null(),
            Item::Read(node) => node.is_null(),
        }
    }

    pub fn is_object(&self) -> bool {
        match self {
            Item::Tree(value) => value.is_object(),
            Item::Read(node) => node.is_object(),
        }
    }

    /// As JSON: as it came, if it was read.
    pub fn written(&self) -> Cow<'t, str> {
        match self {
            Item::Tree(value) => value.to_string().into(),
            Item::Read(node) => node.raw().into(),
        }
    }

    /// All that it says, if it is a text.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Item::Tree(value) => value.as_str().map(Cow::Borrowed),
            Item::Read(node) => node.text(),
        }
    }

    /// A member that is a text.
    pub fn word(&self, key: &str) -> Option<Cow<'_, str>> {
        match self {
            Item::Tree(value) => value.get(key)?.as_str().map(Cow::Borrowed),
            Item::Read(node) => node.member(key)?.text(),
        }
    }

    pub fn has(&self, key: &str) -> bool {
        match self {
            Item::Tree(value) => value.get(key).is_some(),
            Item::Read(node) => node.member(key).is_some(),
        }
    }

    /// The text itself; what is none comes back.
    pub fn string(self) -> std::result::Result<String, Item<'t>> {
        match self {
            Item::Tree(Value::String(text)) => Ok(text),
            Item::Read(node) => node.text().map(Cow::into_owned).ok_or(Item::Read(node)),
            other => Err(other),
        }
    }

    /// A whole number of 0 or more.
    pub fn whole(&self) -> Option<u64> {
        match self {
            Item::Tree(value) => value.as_number().and_then(as_u64),
            Item::Read(node) => node.whole().or_else(|| node.tree().as_number().and_then(as_u64)),
        }
    }

    /// A whole number.
    pub fn signed(&self) -> Option<i64> {
        match self {
            Item::Tree(value) => value.as_number().and_then(as_i64),
            Item::Read(node) => match node.whole() {
                Some(number) => i64::try_from(number).ok(),
                None => node.tree().as_number().and_then(as_i64),
            },
        }
    }

    /// Those of a list; what is none comes back.
    pub fn items(self) -> std::result::Result<Vec<Item<'t>>, Item<'t>> {
        match self {
            Item::Tree(Value::Array(list)) => Ok(list.into_iter().map(Item::Tree).collect()),
            Item::Read(node) => node.items().map(|items| items.map(Item::Read).collect()).ok_or(Item::Read(node)),
            other => Err(other),
        }
    }
}

impl<'t> Fields<'t> {
    /// `path` is where this object stands in the body; empty at the top.
    pub fn new(value: impl Into<Item<'t>>, path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        match value.into() {
            Item::Tree(Value::Object(map)) => Ok(Fields { inner: Inner::Tree(map), path }),
            Item::Read(node) if node.is_object() => Ok(Fields { inner: Inner::of(node), path }),
            other => Err(wrong_type(&path, "an object", &other.tree())),
        }
    }

    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { [&self.path, ".", key].concat() }
    }

    pub fn own_path(&self) -> &str {
        &self.path
    }

    /// Any value that is present and not null.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        match &mut self.inner {
            Inner::Tree(map) => map.get_mut(key).map(Value::take).filter(|v| !v.is_null()),
            Inner::Read(members) => members.iter_mut().find(|m| m.key == key)?.take(),
        }
    }

    /// The same, as far as it was read.
    pub fn item(&mut self, key: &str) -> Option<Item<'t>> {
        if let Inner::Read(members) = &mut self.inner {
            let member = members.iter_mut().find(|m| m.key == key)?;
            if member.tree.get().is_none() {
                return member.node.take().filter(|node| !node.is_null()).map(Item::Read);
            }
        }
        self.take(key).map(Item::Tree)
    }

    /// Takes what says nothing new.
    pub fn skip(&mut self, key: &str) {
        drop(self.item(key));
    }

    /// Does it stand on a tape? Then `sift` has seen what nobody looked at before.
    pub fn is_read(&self) -> bool {
        matches!(self.inner, Inner::Read(_))
    }

    /// Takes what was not read yet and this finds, by its key and as it is written.
    pub fn sift(&mut self, mut finds: impl FnMut(&str, &str) -> bool) {
        if let Inner::Read(members) = &mut self.inner {
            for member in members {
                member.node = member.node.filter(|node| !finds(&member.key, node.raw()));
            }
        }
    }

    /// The first of several spellings (`maxOutputTokens`, `max_output_tokens`).
    pub fn take_any(&mut self, keys: &[&str]) -> Option<Value> {
        keys.iter().find_map(|k| self.take(k))
    }

    /// Puts a value back, for `rest` to find.
    pub fn put(&mut self, key: &str, value: Value) {
        match &mut self.inner {
            Inner::Tree(map) => {
                map.insert(key.to_owned(), value);
            }
            Inner::Read(members) => match members.iter_mut().find(|m| m.key == key) {
                Some(member) => (member.node, member.tree) = (None, Box::new(value).into()),
                None => members.push(Member { key: key.to_owned().into(), node: None, tree: Box::new(value).into() }),
            },
        }
    }

    pub fn peek(&self, key: &str) -> Option<&Value> {
        match &self.inner {
            Inner::Tree(map) => map.get(key).filter(|v| !v.is_null()),
            Inner::Read(members) => members.iter().find(|m| m.key == key)?.peek(),
        }
    }

    pub fn peek_str(&self, key: &str) -> Option<&str> {
        if let Inner::Read(members) = &self.inner
            && let Some(Cow::Borrowed(text)) = members.iter().find(|m| m.key == key)?.node.and_then(Node::text)
        {
            return Some(text);
        }
        self.peek(key).and_then(Value::as_str)
    }

    pub fn string(&mut self, key: &str) -> Result<Option<String>> {
        match self.item(key).map(Item::string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(other)) => Err(wrong_type(&self.path(key), "a string", &other.tree())),
        }
    }

    pub fn required_string(&mut self, key: &str) -> Result<String> {
        self.string(key)?.ok_or_else(|| missing(&self.path(key)))
    }

    pub fn bool(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(wrong_type(&self.path(key), "a boolean", &other)),
        }
    }

    pub fn u64(&mut self, key: &str) -> Result<Option<u64>> {
        match self.item(key) {
            None => Ok(None),
            Some(item) => match item.whole() {
                Some(number) => Ok(Some(number)),
                None => Err(wrong_type(&self.path(key), "a whole number of 0 or more", &item.tree())),
            },
        }
    }

    pub fn i64(&mut self, key: &str) -> Result<Option<i64>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(n)) if as_i64(&n).is_some() => Ok(as_i64(&n)),
            Some(other) => Err(wrong_type(&self.path(key), "a whole number", &other)),
        }
    }

    pub fn f64(&mut self, key: &str) -> Result<Option<f64>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(n)) if n.as_f64().is_some_and(f64::is_finite) => Ok(n.as_f64()),
            Some(other) => Err(wrong_type(&self.path(key), "a number", &other)),
        }
    }

    pub fn array(&mut self, key: &str) -> Result<Option<Vec<Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(a)) => Ok(Some(a)),
            Some(other) => Err(wrong_type(&self.path(key), "an array", &other)),
        }
    }

    /// The same, each as far as it was read.
    pub fn items(&mut self, key: &str) -> Result<Option<Vec<Item<'t>>>> {
        let items = self.item(key).map(Item::items).transpose();
        items.map_err(|other| wrong_type(&self.path(key), "an array", &other.tree()))
    }

    pub fn object(&mut self, key: &str) -> Result<Option<Fields<'t>>> {
        let path = self.path(key);
        self.item(key).map(|v| Fields::new(v, path)).transpose()
    }

    /// An object as it is written.
    pub fn written(&mut self, key: &str) -> Result<Option<Cow<'t, str>>> {
        match self.item(key) {
            Some(item) if !item.is_object() => Err(wrong_type(&self.path(key), "an object", &item.tree())),
            item => Ok(item.map(|item| item.written())),
        }
    }

    pub fn map(&mut self, key: &str) -> Result<Option<Map<String, Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(m)) => Ok(Some(m)),
            Some(other) => Err(wrong_type(&self.path(key), "an object", &other)),
        }
    }

    /// What nobody asked for.
    pub fn rest(self, format: Format) -> Extra {
        Extra::new(format, self.rest_map())
    }

    pub fn rest_map(self) -> Map<String, Value> {
        match self.inner {
            Inner::Tree(mut map) => {
                map.retain(|_, v| !v.is_null());
                map
            }
            Inner::Read(members) => {
                let mut map = Map::new();
                for mut member in members {
                    if let Some(value) = member.take() {
                        map.insert(member.key.into_owned(), value);
                    }
                }
                map
            }
        }
    }
}

/// The path of a list's element.
pub fn nth(path: &str, at: usize) -> String {
    let mut out = String::with_capacity(path.len() + 8);
    out.push_str(path);
    out.push('[');
    // Few lists are longer, and this is made for each element.
    match u8::try_from(at) {
        Ok(digit @ 0..10) => out.push(char::from(b'0' + digit)),
        _ => out.push_str(&at.to_string()),
    }
    out.push(']');
    out
}

impl<'t> Inner<'t> {
    fn of(object: Node<'t>) -> Self {
        let mut members: Vec<Member<'t>> = Vec::with_capacity(object.most_members().min(MOST_MEMBERS));
        // A bit for each length and ends: two keys that are the same have the same one.
        let mut seen = 0u128;
        for (key, node) in object.members() {
            let end = |byte: Option<&u8>| u32::from(byte.copied().unwrap_or(0));
            let (first, last) = (end(key.as_bytes().first()), end(key.as_bytes().last()));
            let bit = 1 << ((key.len() as u32 * 37 + first * 101 + last * 29) % 128);
            // Of one that is there twice the last word counts. What has very many is a table.
            let known = seen & bit != 0 && members.iter().any(|m| m.key == key);
            if known || members.len() == MOST_MEMBERS {
                return Inner::Tree(if let Value::Object(map) = object.tree() { map } else { Map::new() });
            }
            seen |= bit;
            members.push(Member { key: Cow::Borrowed(key), node: Some(node), tree: OnceCell::new() });
        }
        Inner::Read(members)
    }
}

/// More are looked up in a table.
const MOST_MEMBERS: usize = 64;
