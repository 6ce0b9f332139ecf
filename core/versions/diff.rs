//! What differs between two versions: file by file, as people read differences of source, behind a summary. What stands under
//! a name that sounds like a credential's is never shown.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::{Value, json};
use similar::TextDiff;

use super::{Row, Versions, summary};
use crate::config::{Content, content::CONFIG, masked};

/// `{summary, files: [{file, change, diff}], cut}`; the labels name the two sides.
pub fn compare(from: (&str, &Content), to: (&str, &Content)) -> Value {
    let names: BTreeSet<&String> = from.1.files.keys().chain(to.1.files.keys()).collect();
    let (mut files, mut left, mut cut) = (Vec::new(), MOST, false);
    for name in names {
        let (old, new) = (from.1.files.get(name), to.1.files.get(name));
        let change = match (old, new) {
            (Some(old), Some(new)) if old == new => continue,
            (None, _) => "added",
            (_, None) => "removed",
            (Some(_), Some(_)) => "changed",
        };
        let mut text = lines(name, (from.0, old), (to.0, new));
        if let Some(text) = &mut text
            && text.len() > left
        {
            text.truncate(text.floor_char_boundary(left));
            cut = true;
        }
        left -= text.as_ref().map_or(0, String::len);
        let size = |file: Option<&Arc<[u8]>>| file.map(|bytes| bytes.len());
        files.push(json!({ "file": name, "change": change, "bytes": [size(old), size(new)], "diff": text }));
    }
    json!({ "summary": summary::of(from.1, to.1), "files": files, "cut": cut })
}

/// A unified diff; `None` for a file that is no text.
fn lines(name: &str, old: (&str, Option<&Arc<[u8]>>), new: (&str, Option<&Arc<[u8]>>)) -> Option<String> {
    let text = |file: Option<&Arc<[u8]>>| match file {
        None => Some(String::new()),
        Some(bytes) => shown(name, bytes),
    };
    let (before, after) = (text(old.1)?, text(new.1)?);
    if before == after && old.1.is_some() && new.1.is_some() {
        return Some(HIDDEN.to_owned());
    }
    let label = |side: &str, there: bool| if there { format!("{side}/{name}") } else { "/dev/null".to_owned() };
    let (from, to) = (label(old.0, old.1.is_some()), label(new.0, new.1.is_some()));
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&before, &after);
    Some(diff.unified_diff().context_radius(3).header(&from, &to).to_string())
}

/// A file's text as it may be shown; `None`: it is none.
pub fn shown(name: &str, bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok().filter(|_| !name.ends_with(".wasm"))?;
    Some(if name == CONFIG { masked(text) } else { text.to_owned() })
}

/// A row with its files; where they are not kept, `missing` says why.
pub fn show(versions: &Versions, row: &Row) -> Value {
    let content = versions.content(row);
    let mut answer = row.json(content.is_ok());
    match content {
        Ok(content) => {
            let listed = content.files.iter().map(|(name, bytes)| json!({ "file": name, "bytes": bytes.len() }));
            answer["contents"] = listed.collect();
        }
        Err(error) => answer["missing"] = json!(error.message),
    }
    answer
}

/// In place of a difference that nobody may see.
const HIDDEN: &str = "only values differ that may be credentials: they are not shown\n";
/// Bytes of all differences together.
const MOST: usize = 1 << 20;
/// For one file: then the rest counts as replaced.
const PATIENCE: Duration = Duration::from_millis(500);
