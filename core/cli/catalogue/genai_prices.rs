//! genai-prices' data.json: providers with models, prices in USD per million tokens as numbers, by tier, by date and by
//! variant.

use serde_json::{Map, Value};

use super::{
    draft::{Draft, Entry, count},
    names,
};

/// `effective`: of prices with a beginning, those that hold on that day.
pub fn read(value: Value, effective: &str) -> Result<Draft, String> {
    let providers = match value {
        Value::Array(providers) => providers,
        Value::Object(mut map) => match map.remove("providers") {
            Some(Value::Array(providers)) => providers,
            _ => return Err("it should be a list of providers".to_owned()),
        },
        _ => return Err("it should be a list of providers".to_owned()),
    };
    let mut draft = Draft::default();
    for provider in &providers {
        let id = provider["id"].as_str().unwrap_or("");
        for model in provider["models"].as_array().into_iter().flatten() {
            draft.entries += 1;
            one(id, model, effective, &mut draft);
        }
    }
    Ok(draft)
}

fn one(provider: &str, value: &Value, effective: &str, draft: &mut Draft) {
    let id = value["id"].as_str().unwrap_or("");
    let name = format!("{provider}/{id}");
    let providers = names::rows(provider, id);
    if providers.is_empty() {
        *draft.elsewhere.entry(provider.to_owned()).or_default() += 1;
        return;
    }
    let mut models: Vec<String> = Vec::new();
    for called in std::iter::once(id).chain(equals(&value["match"])) {
        match names::model(called) {
            Some(model) if !models.contains(&model) => models.push(model),
            Some(_) => {}
            None => return draft.refuse(&name, "its name cannot be one"),
        }
    }
    let mut entry = Entry { name: name.clone(), providers, models, ..Entry::default() };
    match count(&value["context_window"]) {
        Ok(n) => entry.context = n,
        Err(why) => return draft.refuse(&name, format!("context_window: {why}")),
    }
    let prices = match holding(&value["prices"], effective) {
        Ok(prices) => prices,
        Err(why) => return draft.refuse(&name, why),
    };
    if let Err(why) = prices.map_or(Ok(()), |prices| priced(prices, None, &mut entry, draft)) {
        return draft.refuse(&name, why);
    }
    for variant in value["price_variants"].as_array().into_iter().flatten() {
        let service = match service(&variant["when"]) {
            Some(service) => service,
            None => {
                draft.odd(&format!("price_variants when {}", variant["when"]), &name);
                continue;
            }
        };
        let read = holding(&variant["prices"], effective)
            .and_then(|prices| prices.map_or(Ok(()), |prices| priced(prices, service, &mut entry, draft)));
        if let Err(why) = read {
            return draft.refuse(&name, why);
        }
    }
    draft.take(entry);
}

/// Names that a match rule states whole; the rest of its rules this catalogue has its own way for.
fn equals(rule: &Value) -> Vec<&str> {
    let any = rule["or"].as_array().into_iter().flatten().flat_map(equals);
    rule["equals"].as_str().into_iter().chain(any).collect()
}

/// The usual service is `Some(None)`.
fn service(when: &Value) -> Option<Option<&'static str>> {
    let when = when.as_object().filter(|when| when.len() == 1)?;
    let (key, word) = when.iter().next()?;
    Some(match (key.as_str(), word.as_str()?) {
        ("processing", "batch") => Some("batch"),
        ("service_tier", "flex") => Some("flex"),
        ("service_tier", "priority") => Some("priority"),
        ("service_tier" | "speed", "fast") => Some("fast"),
        ("service_tier", "default") => None,
        _ => return None,
    })
}

/// Of several, the last that has begun. Prices that change with the hour cannot be stated here.
fn holding<'v>(prices: &'v Value, effective: &str) -> Result<Option<&'v Map<String, Value>>, String> {
    let list = match prices {
        Value::Object(prices) => return Ok(Some(prices)),
        Value::Array(list) => list,
        _ => return Ok(None),
    };
    let mut found: Option<(&str, &Map<String, Value>)> = None;
    for conditional in list {
        let constraint = &conditional["constraint"];
        if !constraint["start_time"].is_null() {
            return Err("its price changes with the hour".to_owned());
        }
        let start = constraint["start_date"].as_str().unwrap_or("");
        let Some(prices) = conditional["prices"].as_object() else { continue };
        if start <= effective && found.is_none_or(|(known, _)| known <= start) {
            found = Some((start, prices));
        }
    }
    Ok(found.map(|(_, prices)| prices))
}

fn priced(
    prices: &Map<String, Value>,
    service: Option<&'static str>,
    entry: &mut Entry,
    draft: &mut Draft,
) -> Result<(), String> {
    for (word, value) in prices {
        let Some((_, key, shift)) = KEYS.iter().find(|(known, ..)| known == word) else {
            if !value.is_null() {
                draft.odd(word, &entry.name);
            }
            continue;
        };
        let number = |value: &Value| match value {
            Value::Number(n) => Ok(n.clone()),
            // Decimal text, as some versions write it.
            Value::String(text) => serde_json::from_str(text).map_err(|_| format!("{word}: {text:?} is no price")),
            other => Err(format!("{word}: {other} is no price")),
        };
        match value {
            Value::Null => {}
            Value::Object(tiered) => {
                let base = number(tiered.get("base").unwrap_or(&Value::Null))?;
                entry.price(key, service, 0, &base, *shift).map_err(|why| format!("{word}: {why}"))?;
                for tier in tiered.get("tiers").and_then(Value::as_array).into_iter().flatten() {
                    let above = count(&tier["start"])?.ok_or_else(|| format!("{word}: a tier without a start"))?;
                    let price = number(&tier["price"])?;
                    entry.price(key, service, above, &price, *shift).map_err(|why| format!("{word}: {why}"))?;
                }
            }
            plain => entry.price(key, service, 0, &number(plain)?, *shift).map_err(|why| format!("{word}: {why}"))?,
        }
    }
    Ok(())
}

/// Their word, ours, and the power of ten between.
const KEYS: [(&str, &str, i32); 14] = [
    ("input_mtok", "input", 0),
    ("output_mtok", "output", 0),
    ("cache_read_mtok", "cache_read", 0),
    ("cache_write_mtok", "cache_write", 0),
    ("cache_write_1h_mtok", "cache_write_1h", 0),
    ("input_audio_mtok", "input_audio", 0),
    ("output_audio_mtok", "output_audio", 0),
    ("input_image_mtok", "input_image", 0),
    ("output_image_mtok", "output_image", 0),
    ("output_reasoning_mtok", "reasoning", 0),
    ("input_mchars", "characters", 0),
    ("requests_kcount", "request", -3),
    ("web_searches_kcount", "per_search", -3),
    ("cache_write_5m_mtok", "cache_write", 0),
];
