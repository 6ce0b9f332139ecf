//! Files that a request names: their sealed ids become those of the provider that has them, and it goes to that one alone. What
//! this caller does not own stays as it is, and is no file to any provider.

use super::{Seals, Tenant, Thing};
use crate::{
    codec::document::Document,
    error::{Error, Result},
};

/// Errors (400): the files lie at several providers.
pub fn bring_home(document: &mut Document, seals: &Seals, tenant: Tenant<'_>) -> Result<()> {
    let bytes = document.bytes();
    let (mut out, mut from) = (Vec::with_capacity(bytes.len()), 0);
    let mut home: Option<String> = None;
    for at in memchr::memmem::find_iter(bytes, BEGINNING).filter(|at| is_file_id(&bytes[..*at])) {
        let start = at + 1;
        let Some(length) = memchr::memchr(b'"', &bytes[start..]) else { break };
        let Ok(sealed) = std::str::from_utf8(&bytes[start..start + length]) else { continue };
        let Ok(opened) = seals.open(Thing::File, tenant, sealed) else { continue };
        if let Some(other) = home.as_ref().filter(|home| **home != opened.target) {
            let text = format!(
                "the files that it names lie at `{other}` and at `{}`: upload all of them to one provider",
                opened.target
            );
            return Err(Error::invalid("file_id", text));
        }
        let quoted = serde_json::Value::from(opened.id).to_string();
        out.extend_from_slice(&bytes[from..at]);
        out.extend_from_slice(quoted.as_bytes());
        from = start + length + 1;
        home = Some(opened.target);
    }
    let Some(home) = home else { return Ok(()) };
    out.extend_from_slice(&bytes[from..]);
    document.brought_home(out.into(), &home)
}

/// Does this end with the key of an id?
fn is_file_id(before: &[u8]) -> bool {
    before.trim_ascii_end().strip_suffix(b":").is_some_and(|key| key.trim_ascii_end().ends_with(b"\"file_id\""))
}

/// A text that may be a file's id.
const BEGINNING: &[u8] = b"\"file-";
