//! Ids in the answers about files and batches: sealed on their way to the client, everywhere they stand. Knows the shapes of
//! these answers, nothing else of them.

use serde_json::{Map, Value};

use crate::{
    error::Result,
    seal::{Seals, Tenant, Thing},
};

/// One file or batch as its provider describes it.
pub fn seal(
    seals: &Seals,
    thing: Thing,
    tenant: Tenant<'_>,
    provider: &str,
    answer: &mut Map<String, Value>,
) -> Result<()> {
    let files: &[&str] = match thing {
        Thing::Batch => &["input_file_id", "output_file_id", "error_file_id"],
        _ => &[],
    };
    let fields = files.iter().map(|name| (*name, Thing::File)).chain([("id", thing)]);
    for (name, thing) in fields {
        if let Some(Value::String(id)) = answer.get_mut(name).filter(|v| v.as_str().is_some_and(|s| !s.is_empty())) {
            *id = seals.seal(thing, tenant, provider, id)?;
        }
    }
    Ok(())
}
