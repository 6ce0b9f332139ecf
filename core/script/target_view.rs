//! `target` and `targets`: what a route or an attempt may choose from. `targets` is an ordinary array; the loops that
//! every router writes are methods on it.

use std::sync::Arc;

use rhai::{Array, Dynamic};

use super::{
    convert,
    reference::{Registrar, shared},
};
use crate::pipeline::Candidate;

#[derive(Clone)]
pub struct TargetView(pub Arc<Candidate>);

pub fn register(r: &mut Registrar<'_>) {
    r.kind::<TargetView>(
        "Target",
        "A provider's model with its live figures: `target`, and the elements of `targets`.",
    );
    r.get::<TargetView>("name", "provider/model", |t| Ok(shared(&t.0.name)));
    r.get::<TargetView>("provider", "its provider", |t| Ok(shared(&t.0.provider)));
    r.get::<TargetView>("model", "the model's name there", |t| Ok(shared(&t.0.model)));
    r.get::<TargetView>("healthy", "false: it is resting after failures", |t| Ok(t.0.healthy.into()));
    r.get::<TargetView>("latency_ms", "smoothed time to the first event; () until measured", |t| {
        Ok(t.0.latency.map_or(Dynamic::UNIT, |d| Dynamic::from(d.as_millis() as i64)))
    });
    r.get::<TargetView>("tokens_per_second", "of its streams, smoothed; () until measured", |t| {
        Ok(float(t.0.speed.map(f64::from)))
    });
    r.get::<TargetView>("in_flight", "requests under way to it", |t| Ok(convert::int(t.0.in_flight)));
    r.get::<TargetView>("price_input", "USD per million tokens; () when unknown", |t| Ok(float(t.0.price_input)));
    r.get::<TargetView>("price_output", "USD per million tokens; () when unknown", |t| Ok(float(t.0.price_output)));
    r.get::<TargetView>("quota_left", "requests left; the largest integer without a quota", |t| {
        Ok(convert::int(t.0.quota_left))
    });
    r.get::<TargetView>("quota_resets_in", "seconds; () without a quota", |t| {
        Ok(t.0.quota_resets_in.map_or(Dynamic::UNIT, |d| Dynamic::from(d.as_secs() as i64)))
    });
    r.get::<TargetView>("context_window", "tokens; () when unknown", |t| {
        Ok(t.0.context_window.map_or(Dynamic::UNIT, convert::int))
    });
    r.get::<TargetView>("capabilities", "an array of names: tools, images, …", |t| {
        Ok(t.0.capabilities.iter().map(|c| convert::str(c)).collect::<Array>().into())
    });
    r.get::<TargetView>("region", "where its data is, as gateway.toml states it; () when it does not", |t| {
        Ok(t.0.region.as_ref().map_or(Dynamic::UNIT, shared))
    });
    r.engine.register_fn("to_string", |t: &mut TargetView| t.0.name.to_string());
    r.engine.register_fn("==", |a: TargetView, b: TargetView| a.0.name == b.0.name);
    lists(r);
}

fn lists(r: &mut Registrar<'_>) {
    r.object("targets", "An array of targets in the strategy's order, with `filter`, `map`, `sort`, `some`, `[0]` and all the rest, and:");
    r.tell("targets.healthy()", "those that are healthy and have quota left");
    r.engine.register_fn("healthy", |list: &mut Array| -> Array { kept(list, |t| t.healthy && t.quota_left > 0) });
    r.tell("targets.cheapest()", "the same, cheapest first (input plus output price; unknown prices last)");
    r.engine.register_fn("cheapest", |list: &mut Array| -> Array {
        sorted(list, |t| t.price_input.map(|p| p + t.price_output.unwrap_or(p)))
    });
    r.tell("targets.fastest()", "the same, fastest first (unmeasured ones last)");
    r.engine
        .register_fn("fastest", |list: &mut Array| -> Array { sorted(list, |t| t.latency.map(|d| d.as_secs_f64())) });
    r.tell("targets.idlest()", "the same, the least busy first");
    r.engine.register_fn("idlest", |list: &mut Array| -> Array { sorted(list, |t| Some(t.in_flight as f64)) });
    r.tell("targets.can(name)", "those with a capability: `targets.can(\"images\")`");
    r.engine
        .register_fn("can", |list: &mut Array, what: &str| -> Array { kept(list, |t| t.capabilities.contains(&what)) });
    r.tell("targets.of(provider)", "those of one provider");
    r.engine
        .register_fn("of", |list: &mut Array, provider: &str| -> Array { kept(list, |t| &*t.provider == provider) });
}

fn kept(list: &Array, keep: impl Fn(&Candidate) -> bool) -> Array {
    let fine = |item: &&Dynamic| item.read_lock::<TargetView>().is_some_and(|t| keep(&t.0));
    list.iter().filter(fine).cloned().collect()
}

fn sorted(list: &Array, by: impl Fn(&Candidate) -> Option<f64>) -> Array {
    let key = |item: &Dynamic| item.read_lock::<TargetView>().and_then(|t| by(&t.0)).unwrap_or(f64::INFINITY);
    let mut keyed: Vec<(f64, Dynamic)> = list.iter().map(|item| (key(item), item.clone())).collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    keyed.into_iter().map(|(_, item)| item).collect()
}

fn float(value: Option<f64>) -> Dynamic {
    value.map_or(Dynamic::UNIT, Dynamic::from)
}
