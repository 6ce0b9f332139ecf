//! Sessions and keys that keep to a target, so that its provider's prompt cache stays warm: what a request's session is, and
//! rendezvous hashing. Each session ranks all targets by a hash of both, so one that is lost moves its own sessions only, and
//! several gateways agree without a word. Remembers nothing.

use http::HeaderMap;

use super::Target;
use crate::{
    codec::document::Document,
    context::{Context, SESSION_HEADERS},
};

/// What ties a request to others of its caller; `None`: it says nothing of a session.
pub fn session(cx: &Context, document: &Document, client: &HeaderMap) -> Option<u64> {
    let tenant = cx.principal.tenant();
    let of = |id: &str| (!id.is_empty()).then(|| stick(tenant, id));
    let header = SESSION_HEADERS.iter().find_map(|name| client.get(*name)).and_then(|value| value.to_str().ok());
    let tag = || cx.tags.iter().find(|(name, _)| name == "session").map(|(_, id)| id.as_str());
    if let Some(found) = header.or_else(tag).and_then(of) {
        return Some(found);
    }
    let text = |name: &str| document.field(name)?.as_str().and_then(of);
    let metadata = || {
        let metadata = document.field("metadata")?;
        ["session_id", "conversation_id", "user_id"].iter().find_map(|key| metadata.get(key)?.as_str().and_then(of))
    };
    text("prompt_cache_key").or_else(metadata).or_else(|| text("user"))
}

/// A caller's key; `None`: there is none.
pub fn key(cx: &Context) -> Option<u64> {
    let id = &*cx.principal.key_id;
    (!id.is_empty()).then(|| stick("", id))
}

/// Of a name within a tenant.
pub fn stick(tenant: &str, id: &str) -> u64 {
    mix(hash(id, hash(tenant, SEED) ^ SEED))
}

/// Of a target's name.
pub fn lot(name: &str) -> u64 {
    mix(hash(name, SEED))
}

/// Where a session's target stands among `targets`: the one that wins its draw, in proportion to the weights.
pub fn rendezvous<'t>(stick: u64, targets: impl Iterator<Item = (usize, &'t Target, u32)>) -> Option<usize> {
    let race = |(at, target, weight): (usize, &Target, u32)| {
        let draw = unit(mix(stick ^ target.lot));
        // The first of several clocks that run at these speeds.
        (weight > 0).then(|| (at, -draw.ln() / f64::from(weight)))
    };
    targets.filter_map(race).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

/// FNV-1a: short texts, and the same in every version and on every machine.
fn hash(text: &str, seed: u64) -> u64 {
    text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The last step of SplitMix64: neighbours end far apart.
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Above 0, at most 1.
pub fn unit(bits: u64) -> f64 {
    ((bits >> 11) + 1) as f64 / (1u64 << 53) as f64
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;
