//! LiteLLM's config.yaml. A finding a field; what no line here takes up is told as not carried.

use serde_json::{Map, Value};

use super::{
    draft::{CACHE, Draft, Model, Target, leaves, seconds},
    upstreams::{Upstream, env_for, knows_its_place, plain_env, plain_url, row_of, usual_env},
};
use crate::cli::catalogue::{Entry, litellm_price};

pub fn read(value: &Value) -> Result<Draft, String> {
    let Value::Object(file) = value else { return Err("it should be a table with model_list".to_owned()) };
    let mut draft = Draft::default();
    for (n, entry) in file.get("model_list").and_then(Value::as_array).into_iter().flatten().enumerate() {
        deployment(&mut draft, entry, &format!("model_list[{n}]"));
    }
    for (section, value) in file {
        match (section.as_str(), value) {
            ("model_list", Value::Array(_)) => {}
            ("router_settings" | "litellm_settings", Value::Object(settings)) => {
                for (key, value) in settings {
                    setting(&mut draft, &format!("{section}.{key}"), key, value);
                }
            }
            ("general_settings", Value::Object(settings)) => {
                for (key, value) in settings {
                    let why = match key.as_str() {
                        "master_key" => {
                            "callers get virtual keys: `portcullis keys create`; the admin API has `admin.token`"
                        }
                        "database_url" | "store_model_in_db" => "keys and records live in the gateway's own store",
                        "alerting" | "alerting_threshold" | "alert_types" => {
                            "budgets tell `alerts.webhook`, other alerts are made of /metrics"
                        }
                        "max_parallel_requests" => "limits are of teams and keys: `teams.NAME.limits.concurrent`",
                        "global_max_parallel_requests" => "that is `overload.max_in_flight`",
                        _ => NO_SETTING,
                    };
                    each(&mut draft, value, &format!("general_settings.{key}"), why);
                }
            }
            // Values here are secrets as often as not: only their names are told.
            ("environment_variables", Value::Object(variables)) => {
                for key in variables.keys() {
                    draft.dropped(format!("environment_variables.{key}"), "set it in the gateway's environment");
                }
            }
            (section, value) => each(&mut draft, value, section, NO_SETTING),
        }
    }
    draft.finish();
    if draft.models.is_empty() && draft.upstreams.is_empty() {
        return Err("there is no model_list in it that could be carried over".to_owned());
    }
    Ok(draft)
}

fn each(draft: &mut Draft, value: &Value, path: &str, why: &str) {
    let mut fields = Vec::new();
    leaves(value, path, &mut fields);
    fields.into_iter().for_each(|field| draft.dropped(field, why));
}

/// One entry of model_list.
fn deployment(draft: &mut Draft, entry: &Value, at: &str) {
    let (name, params) = (entry["model_name"].as_str().unwrap_or("").trim(), &entry["litellm_params"]);
    let (Some(called), Value::Object(params)) = (params["model"].as_str(), params) else {
        return draft.dropped(at, "it has no litellm_params.model");
    };
    let word = params.get("custom_llm_provider").and_then(Value::as_str);
    let (prefix, model) = match (word, called.split_once('/')) {
        (Some(word), Some((prefix, rest))) if prefix == word => (word, rest),
        (Some(word), _) => (word, called),
        (None, Some((prefix, rest))) => (prefix, rest),
        (None, None) => ("openai", called),
    };
    // Ways to ask that are part of the name there.
    let model =
        ["converse/", "invoke/", "responses/", "chat/"].iter().find_map(|way| model.strip_prefix(way)).unwrap_or(model);
    let Some(provider) = provider(draft, prefix, model, params, at) else { return };
    draft.carried(format!("{at}.litellm_params.model"), format!("{provider}/{model}"));
    let wild = model.contains('*') || name.contains('*');
    if wild {
        let same = name == called && provider == prefix;
        let text = format!("every model of it is asked for as {provider}/MODEL");
        let field = format!("{at}.model_name");
        if same { draft.carried(field, text) } else { draft.changed(field, text) }
    } else if name.is_empty() {
        draft.dropped(format!("{at}.model_name"), format!("it has none; ask for {provider}/{model}"));
    } else {
        alias(draft, name, &provider, model, params, at);
    }
    for (key, value) in params {
        knob(draft, key, value, &format!("{at}.litellm_params.{key}"), wild);
    }
    prices(draft, entry, params, &format!("{provider}/{model}"), at);
    for (key, value) in entry.as_object().into_iter().flatten() {
        if !["model_name", "litellm_params", "model_info"].contains(&key.as_str()) {
            each(draft, value, &format!("{at}.{key}"), NO_SETTING);
        }
    }
}

fn alias(draft: &mut Draft, name: &str, provider: &str, model: &str, params: &Map<String, Value>, at: &str) {
    let hidden = name.split_once('/').is_some_and(|(head, _)| row_of(head, "").is_some() || head == provider);
    let public = if hidden { name.replace('/', "-") } else { name.to_owned() };
    let field = format!("{at}.model_name");
    match hidden {
        true if name == format!("{provider}/{model}") => {
            return draft.carried(field, format!("{name} is the name of that target already"));
        }
        true => draft.changed(field, format!("models.{public}: a name like a provider's would hide its models")),
        false => draft.carried(field, format!("models.{public}")),
    }
    let number = |key: &str| params.get(key).and_then(|v| v.as_f64().or_else(|| v.as_str()?.parse().ok()));
    let weight =
        number("weight").map_or(1, |w| if w > 0.0 && w < 1.0 { (w * 1000.0).round() as u64 } else { w.round() as u64 });
    let target = Target {
        provider: provider.to_owned(),
        model: model.to_owned(),
        weight: weight.min(1_000_000),
        order: number("order").map_or(0, |n| n.max(0.0) as u64),
        concurrency: params.get("max_parallel_requests").and_then(places),
    };
    let known = draft.models.entry(public).or_insert_with(|| Model { weighted: true, ..Model::default() });
    known.whole = known.whole.take().or(params.get("timeout").and_then(seconds));
    known.first_event = known.first_event.take().or(params.get("stream_timeout").and_then(seconds));
    let retries = params.get("max_retries").or(params.get("num_retries")).and_then(Value::as_u64);
    known.retries = known.retries.or(retries);
    if !known.targets.contains(&target) {
        known.targets.push(target);
    }
}

/// The provider that a deployment asks, made if it is new.
fn provider(draft: &mut Draft, prefix: &str, model: &str, params: &Map<String, Value>, at: &str) -> Option<String> {
    let text = |key: &str| params.get(key).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
    let field = |key: &str| format!("{at}.litellm_params.{key}");
    let base = text("api_base").or(text("base_url"));
    // With an address of its own it is a server that speaks like that vendor.
    let own = prefix == "openai" && base.is_some();
    let row = if own { None } else { row_of(prefix, model) };
    let mut upstream = Upstream { row, ..Upstream::default() };
    if row.is_none() && base.is_none() {
        let why = format!("there is no provider {prefix:?} here; one that speaks OpenAI's format needs an api_base");
        draft.dropped(format!("{at}.litellm_params.model"), why);
        return None;
    }
    if let Some(base) = base {
        let resource =
            base.strip_prefix("https://").and_then(|r| r.trim_end_matches('/').strip_suffix(".openai.azure.com"));
        match (resource.filter(|r| !r.contains(['.', '/'])), plain_url(base)) {
            (Some(resource), _) if row.is_some_and(|row| row.starts_with("azure")) => {
                upstream.places.push(("resource", resource.to_owned()));
                draft.carried(field("api_base"), format!("resource = {resource:?}"));
            }
            (_, Some(url)) => {
                let url = if row.is_none() && !url[8..].contains('/') { format!("{url}/v1") } else { url };
                draft.carried(field("api_base"), "base_url, which ends with the version here");
                upstream.base_url = Some(url);
            }
            _ => {
                upstream.base_url = Some("https://name.invalid/v1".to_owned());
                draft.changed(field("api_base"), "base_url is a placeholder: write the address itself there");
            }
        }
    }
    for (key, place) in [
        ("aws_region_name", "region"),
        ("vertex_project", "project"),
        ("vertex_location", "location"),
        ("api_version", "api_version"),
    ] {
        let Some(value) = text(key) else { continue };
        let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !value.starts_with('-');
        match (plain, place) {
            (true, "api_version") if row != Some("azure") => {
                draft.dropped(field(key), "this provider's paths need none")
            }
            (true, "api_version") => {
                draft.dropped(field(key), "Azure's v1 path needs none; `row = \"azure-legacy\"` takes it")
            }
            (true, place) => {
                upstream.places.push((place, value.to_owned()));
                draft.carried(field(key), place);
            }
            (false, place) => draft.changed(field(key), format!("write it as `{place}` of the provider")),
        }
    }
    proof(draft, &mut upstream, prefix, params, at);
    let lacks = row.is_some_and(|row| !knows_its_place(row)) && upstream.base_url.is_none();
    if lacks && !upstream.places.iter().any(|(key, _)| ["resource", "region", "project"].contains(key)) {
        upstream.base_url = Some("https://name.invalid/v1".to_owned());
        draft.changed(at, format!("{prefix} needs an address: base_url is a placeholder"));
    }
    let wanted =
        row.map_or_else(|| if prefix == "openai" { "house".to_owned() } else { prefix.to_owned() }, str::to_owned);
    Some(draft.upstream(&wanted, upstream))
}

/// Keys become references; a secret itself is told by nobody.
fn proof(draft: &mut Draft, upstream: &mut Upstream, prefix: &str, params: &Map<String, Value>, at: &str) {
    let field = |key: &str| format!("{at}.litellm_params.{key}");
    let aws = [
        ("aws_access_key_id", "access_key_id", "AWS_ACCESS_KEY_ID"),
        ("aws_secret_access_key", "secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        ("aws_session_token", "session_token", "AWS_SESSION_TOKEN"),
    ];
    let mut variables = Vec::new();
    for (key, ours, usual) in aws {
        let Some(value) = params.get(key).and_then(Value::as_str) else { continue };
        variables.push((ours, reference(draft, value, usual, &field(key))));
    }
    let paired = ["access_key_id", "secret_access_key"].iter().all(|k| variables.iter().any(|(ours, _)| ours == k));
    let row = upstream.row.unwrap_or("");
    if row.starts_with("bedrock") {
        upstream.login = Some(("aws", if paired { variables } else { Vec::new() }));
        return;
    }
    if row.starts_with("vertex") {
        upstream.login = Some(("google", Vec::new()));
        if params.contains_key("vertex_credentials") {
            draft.changed(field("vertex_credentials"), "name its file: `google = { credentials = \"file:PATH\" }`");
        }
        return;
    }
    if let Some(value) = params.get("api_key").and_then(Value::as_str).map(str::trim) {
        // What own servers are given because a client insists on something.
        let nothing = ["", "none", "null", "fake-key", "anything", "dummy", "empty", "sk-1234"];
        if upstream.row.is_none() && nothing.contains(&value.to_ascii_lowercase().as_str()) {
            return draft.changed(field("api_key"), "a stand-in: auth = \"none\"");
        }
        let usual = upstream.row.and_then(usual_env).map(str::to_owned);
        let taken: Vec<&str> = draft.upstreams.iter().filter_map(|(_, u)| u.env.as_deref()).collect();
        let usual = usual.filter(|usual| !taken.contains(&usual.as_str())).unwrap_or_else(|| env_for(prefix, &taken));
        upstream.env = Some(reference(draft, value, &usual, &field("api_key")));
    } else if let Some(usual) = upstream.row.and_then(usual_env) {
        upstream.env = Some(usual.to_owned());
    }
}

fn reference(draft: &mut Draft, value: &str, usual: &str, field: &str) -> String {
    match value.strip_prefix("os.environ/").filter(|name| plain_env(name)) {
        Some(name) => {
            draft.carried(field, format!("env:{name}"));
            name.to_owned()
        }
        None => {
            draft.changed(field, format!("secrets do not stand in the file: set the variable {usual}"));
            usual.to_owned()
        }
    }
}

/// A parameter of a deployment that is no part of its address.
fn knob(draft: &mut Draft, key: &str, value: &Value, field: &str, wild: bool) {
    match key {
        "model"
        | "api_key"
        | "api_base"
        | "base_url"
        | "custom_llm_provider"
        | "aws_region_name"
        | "vertex_project"
        | "vertex_location"
        | "api_version"
        | "aws_access_key_id"
        | "aws_secret_access_key"
        | "aws_session_token"
        | "vertex_credentials" => {}
        "weight" | "order" | "max_retries" | "num_retries" | "timeout" | "stream_timeout" if wild => {
            draft.dropped(field, "it is of an alias here, and a wildcard has none");
        }
        "weight" => draft.carried(field, "weight"),
        "order" => draft.carried(field, "the lowest order is the targets, the rest is failover"),
        "timeout" if seconds(value).is_some() => draft.carried(field, "timeouts.whole"),
        "stream_timeout" if seconds(value).is_some() => draft.carried(field, "timeouts.first_event"),
        "max_retries" | "num_retries" if value.as_u64().is_some() => draft.carried(field, "retries, three at most"),
        "rpm" | "tpm" => {
            let text = "what a provider grants is its target's `quota`, what callers may ask `teams.NAME.limits`; a target that answers 429 is passed over";
            draft.dropped(field, text);
        }
        "max_parallel_requests" if !wild && places(value).is_some() => draft.carried(field, "concurrency"),
        key if key.contains("cost") => {}
        "temperature" | "top_p" | "max_tokens" | "seed" | "stop" | "presence_penalty" | "frequency_penalty" => {
            draft.dropped(field, "parameters that callers start from are of a team: `teams.NAME.defaults`");
        }
        "extra_headers" | "headers" => {
            draft.dropped(field, "headers are of a provider: `providers.NAME.headers`, without secrets")
        }
        _ => each(draft, value, field, NO_SETTING),
    }
}

/// A number of calls at a time.
fn places(value: &Value) -> Option<u64> {
    value.as_u64().filter(|places| (1..=1_000_000).contains(places))
}

fn prices(draft: &mut Draft, entry: &Value, params: &Map<String, Value>, target: &str, at: &str) {
    let mut priced = Entry::default();
    let info = entry["model_info"].as_object();
    for (section, key, value) in
        info.into_iter().flatten().map(|(key, value)| ("model_info", key, value)).chain(
            params.iter().filter(|(key, _)| key.contains("cost")).map(|(key, value)| ("litellm_params", key, value)),
        )
    {
        let field = format!("{at}.{section}.{key}");
        let number = match value {
            Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
            other => other.clone(),
        };
        match (litellm_price(&mut priced, key, &number), key.as_str()) {
            (Some(Ok(())), _) => draft.carried(field, "[[pricing]]"),
            (Some(Err(why)), _) => draft.dropped(field, why),
            (None, "mode" | "id") => draft.dropped(field, "not needed: the request says it"),
            (None, "base_model") => {
                draft.dropped(field, "prices go by the model's own name: write a [[pricing]] for another")
            }
            (None, _) => each(draft, value, &field, NO_SETTING),
        }
    }
    let sheet = priced.sheet();
    if sheet.has_price() {
        draft.pricing.insert(target.to_owned(), sheet);
    }
}

/// router_settings and litellm_settings share most of their words.
fn setting(draft: &mut Draft, field: &str, key: &str, value: &Value) {
    match key {
        "routing_strategy" => match value.as_str().unwrap_or("") {
            "simple-shuffle" => draft.carried(field, "strategy = \"weighted\""),
            other => match STRATEGIES.iter().find(|(theirs, _)| *theirs == other) {
                Some((_, strategy)) => {
                    draft.models.values_mut().for_each(|model| model.strategy = Some(strategy));
                    draft.carried(field, format!("strategy = \"{strategy}\""));
                }
                None => {
                    let text =
                        format!("strategy = \"weighted\": there is no {other} yet; targets that fail are passed over");
                    draft.changed(field, text);
                }
            },
        },
        "fallbacks" | "context_window_fallbacks" | "content_policy_fallbacks" => fallbacks(draft, field, key, value),
        "default_fallbacks" => {
            let next: Vec<String> =
                value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            for (name, model) in &mut draft.models {
                let more: Vec<String> =
                    next.iter().filter(|n| *n != name && !model.failover.contains(n)).cloned().collect();
                if !next.contains(name) {
                    model.failover.extend(more);
                }
            }
            draft.carried(field, "failover of every other model");
        }
        "model_group_alias" => {
            for (name, of) in value.as_object().into_iter().flatten() {
                let of = of.as_str().or_else(|| of["model"].as_str()).unwrap_or("");
                let field = format!("{field}.{name}");
                match draft.models.get(of).cloned() {
                    Some(model) if !name.contains('*') && !name.contains('/') => {
                        draft.models.insert(name.clone(), model);
                        draft.carried(field, format!("models.{name}, the same targets as {of}"));
                    }
                    _ => draft.dropped(field, "it leads to no model of this file"),
                }
            }
        }
        "num_retries" | "max_retries" => match value.as_u64() {
            Some(retries) => {
                draft.models.values_mut().for_each(|model| model.retries = model.retries.or(Some(retries)));
                draft.carried(field, "retries of each model, three at most");
            }
            None => draft.dropped(field, "it is not a number"),
        },
        "timeout" | "request_timeout" | "stream_timeout" => match seconds(value) {
            Some(span) => {
                for model in draft.models.values_mut() {
                    let place = if key == "stream_timeout" { &mut model.first_event } else { &mut model.whole };
                    place.get_or_insert_with(|| span.clone());
                }
                draft.carried(field, "timeouts of each model");
            }
            None => draft.dropped(field, "it is not a time"),
        },
        "drop_params" => match value.as_bool() {
            Some(true) => draft.carried(field, "that is how it is: what a target cannot take is dropped and named"),
            _ => {
                draft.models.values_mut().for_each(|model| model.strict = true);
                draft.carried(field, "strict = true");
            }
        },
        "cache" | "cache_params" | "cache_responses" => each(draft, value, field, CACHE),
        "allowed_fails" | "cooldown_time" | "retry_policy" | "allowed_fails_policy" => {
            each(
                draft,
                value,
                field,
                "a target that fails is passed over and tried again by rules of the gateway's own",
            );
        }
        "callbacks" | "success_callback" | "failure_callback" | "service_callback" => {
            each(draft, value, field, "records, metrics and `log` hooks of scripts and plugins stand in for them");
        }
        "max_budget" | "budget_duration" => draft.dropped(field, "budgets are of teams: `teams.NAME.budget`"),
        key if key.starts_with("redis_") => {
            draft.dropped(
                field,
                "state lives in the gateway's own store; several share one with `store.kind = \"redis\"`",
            );
        }
        "set_verbose" | "json_logs" => draft.dropped(field, "the log is JSON lines; PORTCULLIS_LOG sets its level"),
        _ => each(draft, value, field, NO_SETTING),
    }
}

fn fallbacks(draft: &mut Draft, field: &str, key: &str, value: &Value) {
    for (name, next) in value.as_array().into_iter().flatten().filter_map(Value::as_object).flatten() {
        let field = format!("{field}.{name}");
        let Some(model) = draft.models.get_mut(name) else {
            draft.dropped(field, "there is no such model");
            continue;
        };
        let (list, ours) = match key {
            "context_window_fallbacks" => (&mut model.context_failover, "context_failover"),
            "content_policy_fallbacks" => (&mut model.content_failover, "content_failover"),
            _ => (&mut model.failover, "failover"),
        };
        list.extend(next.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
        draft.carried(field, ours);
    }
}

const NO_SETTING: &str = "there is no such setting here";
/// Its words for choices among deployments, and ours.
const STRATEGIES: [(&str, &str); 3] =
    [("latency-based-routing", "least_latency"), ("least-busy", "least_busy"), ("cost-based-routing", "least_cost")];
