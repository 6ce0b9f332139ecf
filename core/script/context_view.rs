//! `context`: who calls, when, which attempt; what the stages of one request share; the script's own small memory.

use std::{
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use rhai::{Array, Dynamic, Map, NativeCallContext};

use super::{
    convert,
    desk::{Desk, Fail, fail},
    engine::line_of,
    reference::{Registrar, shared},
    request_view::json,
};
use crate::{
    context::{Context, Step},
    pipeline::{
        effects::{MAX_NOTE, MAX_NOTES, MAX_VARS},
        kv::Space,
    },
};

#[derive(Clone)]
pub struct ContextView(pub Arc<Desk>);

/// `context.vars`
#[derive(Clone)]
struct Vars(Arc<Desk>);

/// `context.kv`
#[derive(Clone)]
struct KvView(Arc<Desk>);

pub fn register(r: &mut Registrar<'_>) {
    r.kind::<ContextView>("Context", "What is known about the request beside its content.");
    fact(r, "id", "the request's id", |cx| shared(&cx.id));
    fact(r, "key", "the virtual key's name; empty on an open gateway", |cx| shared(&cx.principal.key_name));
    fact(r, "key_id", "the virtual key's id", |cx| shared(&cx.principal.key_id));
    fact(r, "team", "the caller's team, or ()", |cx| cx.principal.team.as_ref().map_or(Dynamic::UNIT, shared));
    fact(r, "user", "the caller's user, or ()", |cx| cx.principal.user.as_ref().map_or(Dynamic::UNIT, shared));
    fact(r, "roles", "an array of names", |cx| {
        cx.principal.roles.iter().map(|role| role.as_str().into()).collect::<Array>().into()
    });
    fact(r, "tags", "the caller's `x-portcullis-tags` as a map", |cx| {
        cx.tags.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect::<Map>().into()
    });
    fact(r, "now", "when the request came in: 2026-01-01T00:00:00Z", |cx| now(cx).into());
    fact(r, "unix", "the same in seconds since 1970", |cx| unix(cx).into());
    fact(r, "attempt", "1 for the first attempt", |cx| i64::from(cx.attempt).into());
    r.get::<ContextView>("config", "this stage's `config` table in gateway.toml, as a map", |v| {
        Ok(convert::from_json(&serde_json::Value::Object(v.0.config.clone())))
    });
    r.tell("may_use(name)", "may this caller use a model by this name?");
    r.engine.register_fn("may_use", |v: &mut ContextView, name: &str| v.0.cx(|cx| cx.principal.may_use(name)));
    r.tell("note(text)", "writes a line into the decision trace (64 a stage, 500 bytes each)");
    r.engine.register_fn("note", |at: NativeCallContext, v: &mut ContextView, text: &str| note(&v.0, &at, text));
    r.engine.register_fn("note", |at: NativeCallContext, v: &mut ContextView, value: Dynamic| {
        note(&v.0, &at, &value.to_string())
    });
    r.tell(
        "metric(name, value)",
        "adds to a histogram `portcullis_script_metric` with labels stage and name (100 names)",
    );
    r.engine.register_fn("metric", |v: &mut ContextView, name: &str, value: f64| metric(&v.0, name, value));
    r.engine.register_fn("metric", |v: &mut ContextView, name: &str, value: i64| metric(&v.0, name, value as f64));
    r.tell(
        "choose(array), choose(weights)",
        "one of them by chance; the same request seed makes the same choice. `choose(#{ a: 0.9, b: 0.1 })` gives \"b\" once in ten times",
    );
    r.engine.register_fn("choose", |v: &mut ContextView, list: Array| choose(&v.0, &list));
    r.engine.register_fn("choose", |v: &mut ContextView, weights: Map| weighted(&weights, turn(&v.0)));
    r.tell(
        "choose(array, by), choose(weights, by)",
        "the same for ever for the same text: `choose(#{ a: 0.9, b: 0.1 }, context.key_id)` sticks to a key, `request.session` to a session. Where a share grows, those who had it keep it",
    );
    r.engine.register_fn("choose", |v: &mut ContextView, list: Array, by: &str| -> Dynamic {
        let at = fastrand::Rng::with_seed(seed_of(&v.0.stage, by)).usize(..list.len().max(1));
        list.get(at).cloned().unwrap_or(Dynamic::UNIT)
    });
    r.engine.register_fn("choose", |v: &mut ContextView, weights: Map, by: &str| {
        weighted(&weights, fastrand::Rng::with_seed(seed_of(&v.0.stage, by)))
    });
    vars(r);
    kv(r);
}

fn fact(
    r: &mut Registrar<'_>,
    name: &'static str,
    text: &'static str,
    f: impl Fn(&Context) -> Dynamic + Send + Sync + 'static,
) {
    r.get::<ContextView>(name, text, move |v| v.0.cx(|cx| f(cx)));
}

fn now(cx: &Context) -> String {
    jiff::Timestamp::try_from(cx.now).map_or_else(|_| String::new(), |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn unix(cx: &Context) -> i64 {
    cx.now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

fn note(desk: &Desk, at: &NativeCallContext, text: &str) -> Result<(), Fail> {
    note_at(desk, line_of(at.call_position()), text)
}

/// The same for what has no place in the script.
pub fn note_at(desk: &Desk, line: u32, text: &str) -> Result<(), Fail> {
    let stage = desk.stage.clone();
    let text = text[..text.floor_char_boundary(MAX_NOTE)].to_owned();
    desk.with(|lent| {
        lent.notes += 1;
        match &mut lent.cx {
            Some(cx) if lent.notes <= MAX_NOTES => cx.trace.push(Step::Note { stage, line, text }),
            _ => {}
        }
    });
    Ok(())
}

fn metric(desk: &Desk, name: &str, value: f64) -> Result<(), Fail> {
    desk.effects.metric("portcullis_script_metric", &desk.stage, name, value).map_err(fail)
}

fn choose(desk: &Desk, list: &Array) -> Result<Dynamic, Fail> {
    if list.is_empty() {
        return Ok(Dynamic::UNIT);
    }
    let at = turn(desk).usize(..list.len());
    Ok(list[at].clone())
}

/// The dice of this choice: of the request's seed, and another for each choice of a request.
fn turn(desk: &Desk) -> fastrand::Rng {
    let (seed, turn) = desk.with(|lent| {
        lent.choices += 1;
        (lent.cx.as_ref().map_or(0, |cx| cx.seed), lent.choices)
    });
    fastrand::Rng::with_seed(seed ^ turn.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Of a stage and a text, the same on every machine and for ever (FNV-1a).
fn seed_of(stage: &str, by: &str) -> u64 {
    let bytes = stage.bytes().chain([0]).chain(by.bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// A name by its share of all weights. Names stand in order, so a share that grows keeps whom it had.
fn weighted(weights: &Map, mut dice: fastrand::Rng) -> Result<Dynamic, Fail> {
    let wrong = || fail("choose(#{ name: weight, … }) takes weights from 0, not all of them 0");
    let weight = |value: &Dynamic| convert::number(value).filter(|w| *w >= 0.0).ok_or_else(wrong);
    let all: f64 = weights.values().map(weight).sum::<Result<f64, Fail>>()?;
    if !(all.is_finite() && all > 0.0) {
        return Err(wrong());
    }
    let mut point = dice.f64() * all;
    let mut last = Dynamic::UNIT;
    for (name, value) in weights {
        let weight = weight(value)?;
        if weight > 0.0 {
            last = convert::str(name);
            if point < weight {
                break;
            }
            point -= weight;
        }
    }
    Ok(last)
}

fn vars(r: &mut Registrar<'_>) {
    r.object(
        "context.vars",
        "Values that the stages of one request share: `context.vars.score = 3`. () when not set. Plain values only.",
    );
    r.engine.register_type_with_name::<Vars>("Vars");
    r.part("Context", "vars", |v: &ContextView| Vars(v.0.clone()));
    r.tell("vars.name, vars[\"name\"]", "can be read and set (256 names)");
    r.engine.register_indexer_get(|v: &mut Vars, name: &str| -> Result<Dynamic, Fail> {
        v.0.cx(|cx| cx.vars.get(name).map_or(Dynamic::UNIT, convert::from_json))
    });
    r.engine.register_indexer_set(|v: &mut Vars, name: &str, value: Dynamic| -> Result<(), Fail> {
        let value = json("context.vars", &value)?;
        v.0.cx(|cx| {
            if cx.vars.len() >= MAX_VARS && !cx.vars.contains_key(name) {
                return Err(fail(format!("context.vars may have {MAX_VARS} names")));
            }
            cx.vars.insert(name.to_owned(), value);
            Ok(())
        })?
    });
    r.tell("vars.contains(name)", "is it set?");
    r.engine.register_fn("contains", |v: &mut Vars, name: &str| -> Result<bool, Fail> {
        v.0.cx(|cx| cx.vars.contains_key(name))
    });
    r.tell("vars.keys()", "the names that are set");
    r.engine.register_fn("keys", |v: &mut Vars| -> Result<Array, Fail> {
        v.0.cx(|cx| cx.vars.keys().map(|k| k.as_str().into()).collect())
    });
}

fn kv(r: &mut Registrar<'_>) {
    r.object(
        "context.kv",
        "This node's memory per stage and tenant (10,000 entries, the oldest make room): for hints, not for limits. Values up to 1 KiB are written down some seconds later (512 KiB a tenant) and are there again after a restart; larger ones are not.",
    );
    r.engine.register_type_with_name::<KvView>("Kv");
    r.part("Context", "kv", |v: &ContextView| KvView(v.0.clone()));
    r.tell("kv.get(key)", "the value, or ()");
    r.engine.register_fn("get", |v: &mut KvView, key: &str| -> Result<Dynamic, Fail> {
        space(&v.0, |space, now| space.get(key, now).map_or(Dynamic::UNIT, convert::from_json))
    });
    r.tell("kv.set(key, value), kv.set(key, value, seconds)", "keeps it, for ever or for so long");
    r.engine.register_fn("set", |v: &mut KvView, key: &str, value: Dynamic| set(&v.0, key, &value, None));
    r.engine.register_fn("set", |v: &mut KvView, key: &str, value: Dynamic, seconds: i64| {
        set(&v.0, key, &value, Some(ttl(seconds)?))
    });
    r.tell(
        "kv.incr(key), kv.incr(key, by), kv.incr(key, by, seconds)",
        "adds and gives the sum; a new entry lasts so long",
    );
    r.engine.register_fn("incr", |v: &mut KvView, key: &str| incr(&v.0, key, 1, None));
    r.engine.register_fn("incr", |v: &mut KvView, key: &str, by: i64| incr(&v.0, key, by, None));
    r.engine.register_fn("incr", |v: &mut KvView, key: &str, by: i64, seconds: i64| {
        incr(&v.0, key, by, Some(ttl(seconds)?))
    });
    r.tell("kv.remove(key)", "forgets it");
    r.engine.register_fn("remove", |v: &mut KvView, key: &str| -> Result<(), Fail> {
        space(&v.0, |space, _| space.remove(key))
    });
}

fn space<T>(desk: &Desk, f: impl FnOnce(&mut Space, Instant) -> T) -> Result<T, Fail> {
    let tenant = desk.cx(|cx| cx.principal.tenant().to_owned())?;
    Ok(desk.effects.kv.space(&desk.stage, &tenant, |space| f(space, crate::clock::now())))
}

fn set(desk: &Desk, key: &str, value: &Dynamic, ttl: Option<Duration>) -> Result<(), Fail> {
    let value = json("context.kv", value)?;
    space(desk, |space, now| space.set(key, value, ttl, now))?.map_err(fail)
}

fn incr(desk: &Desk, key: &str, by: i64, ttl: Option<Duration>) -> Result<i64, Fail> {
    space(desk, |space, now| space.incr(key, by, ttl, now))?.map_err(fail)
}

fn ttl(seconds: i64) -> Result<Duration, Fail> {
    match u64::try_from(seconds) {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err(fail("a time to live is a number of seconds above 0")),
    }
}
