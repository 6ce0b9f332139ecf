//! Function arguments that arrive in pieces (`partialArgs`): each piece names its place by a JSON path. They are put
//! together here and handed on whole, since other wires want JSON text in order.

use serde_json::{Map, Value};

/// Puts one piece of `partialArgs` in its place. A piece of a string continues the string that stands there.
pub fn apply(args: &mut Value, piece: &Value) {
    let Some(path) = piece.get("jsonPath").and_then(Value::as_str) else { return };
    let value = if let Some(text) = piece.get("stringValue") {
        text.clone()
    } else if let Some(number) = piece.get("numberValue") {
        number.clone()
    } else if let Some(truth) = piece.get("boolValue") {
        truth.clone()
    } else if piece.get("nullValue").is_some() {
        Value::Null
    } else {
        return;
    };
    let Some(slot) = slot(args, path) else { return };
    match (slot, value) {
        (Value::String(so_far), Value::String(more)) => so_far.push_str(&more),
        (slot, value) => *slot = value,
    }
}

/// The place of `$.a.b[0]['c']`, made when it is not there yet.
fn slot<'a>(root: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut at = root;
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    while !rest.is_empty() {
        let (step, after) = step(rest)?;
        rest = after;
        at = match step {
            Step::Key(key) => {
                if !at.is_object() {
                    *at = Value::Object(Map::new());
                }
                at.as_object_mut()?.entry(key).or_insert(Value::Null)
            }
            Step::Index(index) => {
                if !at.is_array() {
                    *at = Value::Array(Vec::new());
                }
                let list = at.as_array_mut()?;
                if index > list.len() + MAX_GAP {
                    return None;
                }
                while list.len() <= index {
                    list.push(Value::Null);
                }
                list.get_mut(index)?
            }
        };
    }
    Some(at)
}

enum Step {
    Key(String),
    Index(usize),
}

fn step(path: &str) -> Option<(Step, &str)> {
    if let Some(rest) = path.strip_prefix("['") {
        let end = rest.find("']")?;
        return Some((Step::Key(rest[..end].to_owned()), &rest[end + 2..]));
    }
    if let Some(rest) = path.strip_prefix('[') {
        let end = rest.find(']')?;
        return Some((Step::Index(rest[..end].parse().ok()?), &rest[end + 1..]));
    }
    let rest = path.strip_prefix('.').unwrap_or(path);
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    (end > 0).then(|| (Step::Key(rest[..end].to_owned()), &rest[end..]))
}

/// An index far beyond the list is a fault, not an order for memory.
const MAX_GAP: usize = 64;
