//! The scripts that Redis runs for us, each one step for everybody: their texts, how they are called, and how answers are
//! taken apart. All names that one of them touches lie in one slot of a cluster, because the prefix is a hash tag.

use ::redis::{Cmd, Value};

use super::link::Once;

/// A script.
pub(super) struct Lua {
    pub name: &'static str,
    text: &'static str,
    hash: String,
}

impl Lua {
    fn new(name: &'static str, text: &'static str) -> Lua {
        Lua { name, text, hash: ::redis::Script::new(text).get_hash().to_owned() }
    }

    /// By its hash, and with its text for a server that does not know it yet.
    pub fn command(&self, keys: &[&[u8]], args: &[&[u8]]) -> (Cmd, Cmd) {
        let build = |verb: &str, what: &str| {
            let mut command = ::redis::cmd(verb);
            command.arg(what).arg(keys.len());
            keys.iter().chain(args).for_each(|arg| {
                command.arg(*arg);
            });
            command
        };
        (build("EVALSHA", &self.hash), build("EVAL", self.text))
    }
}

/// An answer's text at `at`.
pub(super) fn text(value: &Value, at: usize) -> Option<String> {
    String::from_utf8(bytes(item(value, at)?)?.to_vec()).ok()
}

/// A number at `at`, as an integer or as text.
pub(super) fn number(value: &Value, at: usize) -> Option<u64> {
    match item(value, at)? {
        Value::Int(n) => u64::try_from(*n).ok(),
        other => std::str::from_utf8(bytes(other)?).ok()?.parse().ok(),
    }
}

pub(super) fn item(value: &Value, at: usize) -> Option<&Value> {
    match value {
        Value::Array(items) => items.get(at),
        _ => None,
    }
}

pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// What is under a prefix, of this form.
pub(super) const LAYOUT: &str = "1";

pub(super) static HELLO: Once = Once::new(|| Lua::new("hello", include_str!("hello.lua")));
pub(super) static BEGIN: Once = Once::new(|| Lua::new("begin", include_str!("begin.lua")));
pub(super) static WRITE: Once = Once::new(|| Lua::new("write", include_str!("write.lua")));
pub(super) static SCAN: Once = Once::new(|| Lua::new("scan", include_str!("scan.lua")));
pub(super) static SINCE: Once = Once::new(|| Lua::new("since", include_str!("since.lua")));
pub(super) static COPY: Once = Once::new(|| Lua::new("copy", include_str!("copy.lua")));
pub(super) static PROMOTE: Once = Once::new(|| Lua::new("promote", include_str!("promote.lua")));
pub(super) static TAKE: Once = Once::new(|| Lua::new("take", include_str!("take.lua")));
pub(super) static SETTLE: Once = Once::new(|| Lua::new("settle", include_str!("settle.lua")));
pub(super) static RENEW: Once = Once::new(|| Lua::new("renew", include_str!("renew.lua")));
pub(super) static KEEP: Once = Once::new(|| Lua::new("keep", include_str!("keep.lua")));
pub(super) static EMPTY: Once = Once::new(|| Lua::new("empty", include_str!("empty.lua")));
