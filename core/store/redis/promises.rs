//! What this Redis can promise, as far as it tells: whether what it acknowledged outlives its machine, and whether it may throw
//! rows away by itself. Only looks, and says what it found.

use ::redis::Value;

use super::{ROWS, link::Link, scripts::bytes};
use crate::store::{Result, StoreError};

/// Sentences for the operator.
pub(super) async fn look(link: &Link) -> Vec<String> {
    let mut out = Vec::new();
    match (setting(link, "appendonly").await, setting(link, "appendfsync").await) {
        (Some(on), _) if on != "yes" => out.push(format!(
            "{} keeps no append-only file: when it ends, changes since its last snapshot are lost, revocations among them; set \
             appendonly yes and appendfsync always",
            link.at
        )),
        (Some(_), Some(when)) if when != "always" => out.push(format!(
            "{} writes its append-only file {}: a power cut there loses the last changes although they were acknowledged; \
             appendfsync always loses none",
            link.at,
            if when == "everysec" { "once a second" } else { "when the system likes" }
        )),
        (Some(_), _) => {}
        (None, _) => out.push(format!(
            "{} does not tell whether its data outlive a restart (CONFIG GET is not allowed): see that appendonly is yes and \
             appendfsync always there",
            link.at
        )),
    }
    out
}

/// Rows and counters that vanish by themselves are keys that nobody revoked and budgets that nobody raised.
pub(super) async fn refuse_eviction(link: &Link) -> Result<()> {
    let (Some(policy), Some(most)) = (setting(link, "maxmemory-policy").await, setting(link, "maxmemory").await) else {
        return Ok(());
    };
    if policy == "noeviction" || most == "0" {
        return Ok(());
    }
    let why = format!(
        "when its memory is full it throws away what it likes (maxmemory-policy {policy}), keys and budgets among it: set \
         maxmemory-policy noeviction there"
    );
    Err(StoreError::Shared { at: link.at.clone(), why })
}

/// One that is too old for what the scripts do. What does not tell is tried.
pub(super) async fn refuse_age(link: &Link) -> Result<()> {
    let mut command = ::redis::cmd("INFO");
    command.arg("server");
    let Ok(answer) = link.call(command, ROWS).await else { return Ok(()) };
    let text = bytes(&answer).map(String::from_utf8_lossy).unwrap_or_default();
    let Some(version) = text.lines().find_map(|line| line.strip_prefix("redis_version:")) else { return Ok(()) };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => {
            let why = format!("it is version {version}: 6.2 is the oldest that does what is needed");
            Err(StoreError::Shared { at: link.at.clone(), why })
        }
        _ => Ok(()),
    }
}

async fn setting(link: &Link, name: &str) -> Option<String> {
    let mut command = ::redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    match link.call(command, ROWS).await.ok()? {
        Value::Array(items) => String::from_utf8(bytes(items.get(1)?)?.to_vec()).ok(),
        Value::Map(items) => String::from_utf8(bytes(&items.first()?.1)?.to_vec()).ok(),
        _ => None,
    }
}

/// Has COPY, and replicates what scripts did instead of scripts.
const OLDEST: (u32, u32) = (6, 2);
