//! What providers grant and what is left of it, as the control plane tells it. Changes nothing.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::budgets::number;
use crate::{
    auth::expiry,
    config::Unit,
    quota::{Quotas, Row},
};

pub(super) fn list(quotas: &Quotas) -> Vec<Value> {
    quotas.rows().iter().map(shown).collect()
}

fn shown(row: &Row) -> Value {
    let Row { whose, model, unit, per, bound, left, started, returns, closed, opens_in } = row;
    let show = |at: &Option<SystemTime>| at.map(|at| expiry::show(expiry::to_seconds(at)));
    // Dollars as dollars, everything else as it is counted.
    let figure = |of: u64| if *unit == Some(Unit::Usd) { json!(number(of)) } else { json!(of) };
    let counted = unit.map(|_| ());
    let id = [Some(whose.to_string()), model.as_deref().map(str::to_owned), unit.map(|u| u.name().to_owned())];
    let id: Vec<String> = id.into_iter().flatten().chain(unit.map(|_| per.clone())).collect();
    json!({
        "id": id.join("/"),
        "scope": whose.to_string(),
        "model": model,
        "unit": unit.map(Unit::name),
        "per": counted.map(|()| per),
        "bound": counted.map(|()| figure(*bound)),
        "used": counted.map(|()| figure(bound.saturating_sub(*left))),
        "left": counted.map(|()| figure(*left)),
        "began": show(started),
        "resets": show(returns),
        "closed_until": show(closed),
        "open": opens_in.is_none(),
        "opens_in": opens_in.map_or(0, |wait| wait.as_secs_f64().ceil() as u64),
    })
}
