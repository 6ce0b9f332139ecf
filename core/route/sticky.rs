//! Sessions and keys that keep to a target, so that its provider's prompt cache stays warm: what a request's session is, and
//! rendezvous hashing. Each session ranks all targets by a hash of both, so one that is lost moves its own sessions only, and
//! several gateways agree without a word. Remembers nothing.

use http::HeaderMap;

use crate::{
    codec::document::Document,
    context::{Context, session_of},
};

/// What ties a request to others of its caller; `None`: it says nothing of a session.
pub fn session(cx: &Context, document: &Document, client: &HeaderMap) -> Option<u64> {
    let tenant = cx.principal.tenant();
    let of = |id: &str| (!id.is_empty()).then(|| stick(tenant, id));
    let header = session_of(client).and_then(|value| value.to_str().ok());
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

/// Where a session's target stands among targets with these lots: the one of those that are `near` which wins its draw. Who would not
/// win anyway is not asked whether it is near.
pub fn rendezvous(stick: u64, lots: impl Iterator<Item = u64>, near: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut best, mut most) = (None, 0);
    for (at, lot) in lots.enumerate() {
        // As `unit` has it, in whole numbers.
        let draw = (mix(stick ^ lot) >> 11) + 1;
        if draw > most && near(at) {
            (best, most) = (Some(at), draw);
        }
    }
    best
}

/// The same in proportion to their weights; who has none wins nothing.
pub fn weighted(stick: u64, all: impl Iterator<Item = (u64, u32)>) -> Option<usize> {
    let (mut best, mut least) = (None, f64::INFINITY);
    for (at, (lot, weight)) in all.enumerate() {
        let draw = unit(mix(stick ^ lot));
        // The first of several clocks that run at these speeds; no logarithm is nearer to zero than this.
        let speed = f64::from(weight);
        if weight == 0 || 1.0 - draw >= least * speed {
            continue;
        }
        let time = -draw.ln() / speed;
        if time < least || best.is_none() {
            (best, least) = (Some(at), time);
        }
    }
    best
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
