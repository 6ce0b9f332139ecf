//! models.dev's api.json: providers by id, models by id, prices in USD per million tokens, limits and what goes in and out.

use serde_json::{Map, Value};

use super::{
    draft::{Draft, Entry, count},
    names,
};

pub fn read(value: Value) -> Result<Draft, String> {
    let Value::Object(providers) = value else { return Err("it should be one object, a provider a key".to_owned()) };
    let mut draft = Draft::default();
    for (provider, value) in &providers {
        for (id, model) in value["models"].as_object().into_iter().flatten() {
            draft.entries += 1;
            one(provider, id, model, &mut draft);
        }
    }
    Ok(draft)
}

fn one(provider: &str, id: &str, value: &Value, draft: &mut Draft) {
    let name = format!("{provider}/{id}");
    let providers = names::rows(provider, id);
    if providers.is_empty() {
        *draft.elsewhere.entry(provider.to_owned()).or_default() += 1;
        return;
    }
    let Some(model) = names::model(id) else { return draft.refuse(&name, "its name cannot be one") };
    let mut entry = Entry { name: name.clone(), providers, models: vec![model], ..Entry::default() };
    let limits = count(&value["limit"]["context"]).and_then(|context| Ok((context, count(&value["limit"]["output"])?)));
    match limits {
        Ok((context, output)) => (entry.context, entry.output_limit) = (context, output),
        Err(why) => return draft.refuse(&name, format!("limit: {why}")),
    }
    for (flag, feature) in [("tool_call", "tools"), ("reasoning", "reasoning"), ("structured_output", "json_schema")] {
        match value[flag].as_bool() {
            Some(true) => entry.feature(feature),
            // Whether an answer can be bound to a schema is often not known, and then told so.
            Some(false) if feature != "json_schema" => entry.lack(feature),
            _ => {}
        }
    }
    if value["temperature"].as_bool() == Some(false) {
        entry.lack("sampling");
    }
    if let Some(modalities) = value["modalities"]["input"].as_array() {
        for (word, feature) in [("image", "images"), ("pdf", "documents"), ("audio", "audio"), ("video", "video")] {
            match modalities.iter().any(|modality| modality == word) {
                true => entry.feature(feature),
                // Documents are read by models of which only pictures are told.
                false if feature != "documents" => entry.lack(feature),
                false => {}
            }
        }
    }
    if let Some(cost) = value["cost"].as_object()
        && let Err(why) = priced(cost, 0, &mut entry, draft)
    {
        return draft.refuse(&name, why);
    }
    draft.take(entry);
}

fn priced(cost: &Map<String, Value>, above: u64, entry: &mut Entry, draft: &mut Draft) -> Result<(), String> {
    for (word, value) in cost {
        if let (Some(key), Value::Number(price)) = (KEYS.iter().find(|key| *key == word), value) {
            entry.price(key, None, above, price, 0).map_err(|why| format!("cost.{word}: {why}"))?;
            continue;
        }
        match (word.as_str(), value) {
            (_, Value::Null) => {}
            // `context_over_200k`.
            (over, Value::Object(more)) if over.starts_with("context_over_") && above == 0 => {
                let size = over.trim_start_matches("context_over_");
                let thousands = size.strip_suffix('k').and_then(|n| n.parse::<u64>().ok()?.checked_mul(1000));
                let above = thousands.ok_or_else(|| format!("cost.{over}: which size?"))?;
                priced(more, above, entry, draft)?;
            }
            ("tiers", Value::Array(tiers)) => {
                for tier in tiers {
                    let above = count(&tier["tier"]["size"]).map_err(|why| format!("cost.tiers: {why}"))?;
                    let (Some(above), Some("context"), Some(tier)) =
                        (above, tier["tier"]["type"].as_str(), tier.as_object())
                    else {
                        draft.odd("cost.tiers", &entry.name);
                        continue;
                    };
                    let mut prices = tier.clone();
                    prices.remove("tier");
                    priced(&prices, above, entry, draft)?;
                }
            }
            (word, Value::String(text)) if KEYS.contains(&word) => {
                return Err(format!("cost.{word}: {text:?} is no price"));
            }
            (word, _) => draft.odd(&format!("cost.{word}"), &entry.name),
        }
    }
    Ok(())
}

/// The same words as ours.
const KEYS: [&str; 7] = ["input", "output", "cache_read", "cache_write", "reasoning", "input_audio", "output_audio"];
