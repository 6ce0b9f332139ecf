//! What every scope may spend and has spent, and what raises it for a while: as the control plane tells it, and what it changes.

use std::{sync::Arc, time::SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::Sees,
    auth::{
        expiry,
        permission::Target,
        table::{Page, Table},
    },
    config::{self, Per, Scope},
    error::{Error, Kind, Result},
    limit::{
        Account, Budgets,
        raise::{NewRaise, Raise},
        usd,
    },
};

/// `{scope, usd, until, reason, per?}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    scope: String,
    /// A number or decimal text, to the digit.
    usd: Value,
    until: String,
    reason: String,
    per: Option<String>,
}

/// A page of all that there are, whoever asks for them at the moment.
pub(super) async fn list(
    budgets: &Budgets,
    table: &Table,
    sees: Option<Sees>,
    (after, limit): (Option<(Scope, Per)>, usize),
) -> Vec<Value> {
    let now = SystemTime::now();
    let funds = {
        let sees = sees.as_deref().map(|sees| sees as &dyn Fn(&Target) -> bool);
        table.funds(budgets.configured().iter(), &Page { after: after.as_ref(), limit, sees })
    };
    let mut rows = Vec::with_capacity(funds.len());
    for ((scope, _), (name, budget)) in &funds {
        rows.push(account(&budgets.peek((scope, name), budget, now).await));
    }
    rows
}

/// One budget in its window.
pub(super) fn account(of: &Account) -> Value {
    let Account { scope, name, budget, window, most, raised, balance, past_soft } = of;
    let soft = budget.soft.map(|part| f64::from(part) / f64::from(config::WHOLE));
    json!({
        "id": format!("{scope}/{}", budget.per.name()),
        "scope": scope.to_string(),
        "name": name,
        "per": budget.per.name(),
        "window": window.id,
        "resets": window.end.map(|end| expiry::show(expiry::to_seconds(end))),
        "usd": number(*most),
        "raised_usd": number(*raised),
        "spent_usd": balance.map(|b| number(b.spent)),
        "reserved_usd": balance.map(|b| number(b.reserved)),
        "left_usd": balance.map(|b| number(b.left)),
        "soft": soft,
        "past_soft": past_soft,
    })
}

pub(super) fn raises(budgets: &Budgets) -> Vec<Value> {
    budgets.raises().list(SystemTime::now()).iter().map(|raise| raised(raise)).collect()
}

pub(super) async fn raise(budgets: Arc<Budgets>, body: &[u8]) -> Result<Value> {
    if body.is_empty() {
        return Err(Error::new(Kind::InvalidRequest, "a JSON body is needed; see /api/openapi.json"));
    }
    let Body { scope, usd, until, reason, per } = serde_json::from_slice(body)
        .map_err(|e| Error::new(Kind::InvalidRequest, format!("the body is not right: {e}")))?;
    let now = SystemTime::now();
    let known = Scope::parse(&scope).ok_or_else(|| {
        let message = format!(
            "{scope:?} is no scope: write its kind and name, as in team:research, key:key_…, user:ana, organisation:acme, \
             model:smart, provider:house or tag:env=prod"
        );
        Error::invalid("scope", message)
    })?;
    if !budgets.knows(&known) {
        return Err(Error::invalid("scope", format!("there is no budget of {scope}; GET /api/v1/budgets lists them")));
    }
    let text = match &usd {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(Error::invalid("usd", "US dollars, as a number or as text (\"2.50\")")),
    };
    let nano_usd = config::usd(&text).map_err(|why| Error::invalid("usd", why))?;
    let per = match per.as_deref() {
        None => None,
        Some(per) => Some(
            Per::named(per)
                .ok_or_else(|| Error::invalid("per", "one of day, week, month, total; leave it out for all"))?,
        ),
    };
    let new = NewRaise {
        scope: known,
        per,
        nano_usd: u64::try_from(nano_usd).unwrap_or(0),
        until: expiry::parse(&until, now).map_err(|message| Error::invalid("until", message))?,
        reason,
    };
    let made = budgets.raises().add(&**budgets.store(), new, now).await?;
    budgets.raise();
    tracing::info!(id = made.id, scope, usd = text, until, "a budget was raised");
    Ok(raised(&made))
}

pub(super) async fn end(budgets: Arc<Budgets>, id: &str) -> Result<Value> {
    let ended = budgets.raises().end(&**budgets.store(), id).await?;
    budgets.raise();
    tracing::info!(id, scope = %ended.scope, "a raise was ended");
    Ok(raised(&ended))
}

fn raised(of: &Raise) -> Value {
    let Raise { id, scope, per, nano_usd, made, until, reason } = of;
    json!({
        "id": id,
        "scope": scope.to_string(),
        "per": per.map(Per::name),
        "usd": number(*nano_usd),
        "made": expiry::show(*made),
        "until": expiry::show(*until),
        "reason": reason,
    })
}

/// Dollars to the digit.
pub(super) fn number(nano: u64) -> Value {
    usd(nano).parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
}
