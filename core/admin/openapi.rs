//! The OpenAPI document of the control plane: paths from the route table, schemas written here.

use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};
use serde_json::{Map, Value, json};

use super::{
    AdminState,
    access::May,
    reply::{self, Reply},
    routes::{Call, Route, TABLE},
    shapes,
};
use crate::{
    account::report::{Dimension, table},
    error::Result,
    model::Units,
};

pub(super) fn document(_state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(ready(Ok(reply::ok(&whole()))))
}

pub(super) fn whole() -> Value {
    let mut paths = Map::new();
    for route in TABLE {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Portcullis admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Lists page with limit and cursor. Every path but /health wants a bearer token: admin.token, or one of /api/v1/tokens, which may do what its roles permit (x-permission). Without admin.token only this machine is served, and its user may do everything.",
        },
        "components": { "schemas": schemas(), "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "security": [{ "token": [] }, {}],
        "paths": paths,
    })
}

fn operation(route: &Route) -> Value {
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let content = |name: &str| match name {
        "Text" => json!({ "text/plain": { "schema": { "type": "string" } } }),
        // All of it at once, as its reader asks.
        "File" => {
            json!({ "application/x-ndjson": { "schema": { "type": "string" } }, "text/csv": { "schema": { "type": "string" } } })
        }
        "UsagePage" => {
            json!({ "application/json": { "schema": schema(name) }, "application/x-ndjson": { "schema": { "type": "string" } },
            "text/csv": { "schema": { "type": "string" } } })
        }
        "Object" => json!({ "application/json": { "schema": { "type": "object" } } }),
        _ => json!({ "application/json": { "schema": schema(name) } }),
    };
    let makes = route.method == http::Method::POST && MADE.contains(&route.answer) && !route.path.contains("{id}");
    let success = if makes { "201" } else { "200" };
    let mut answers = json!({
        success: { "description": "done", "content": content(route.answer) },
        "default": { "description": "an error", "content": content("Error") },
    });
    if route.answer == "Deployed" {
        answers["422"] = json!({ "description": "the files are refused", "content": content(route.answer) });
    }
    if route.path == "/health/ready" {
        answers["503"] = json!({ "description": "not ready", "content": content("Health") });
    }
    let mut parameters: Vec<Value> = route
        .query
        .iter()
        .map(|(name, meaning)| {
            let kind = if matches!(*name, "limit" | "status") { "integer" } else { "string" };
            json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": kind } })
        })
        .collect();
    for name in ["id", "other"].iter().filter(|name| route.path.contains(&format!("{{{name}}}"))) {
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    let mut operation = json!({ "summary": route.summary, "parameters": parameters, "responses": answers });
    if let Some(name) = route.body {
        operation["requestBody"] =
            json!({ "required": !["Rotation", "Word", "MasterRotation"].contains(&name), "content": content(name) });
    }
    match route.may {
        May::Anybody => operation["security"] = json!([]),
        May::Gateway(may) | May::Common(may) | May::Each(may) => operation["x-permission"] = may.name().into(),
    }
    operation
}

fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let time = || json!({ "type": ["string", "null"], "format": "date-time" });
    let page = |of: Value| {
        let next = json!({ "type": ["string", "null"], "description": "null on the last page" });
        object(&["data", "next_cursor"], json!({ "data": { "type": "array", "items": of }, "next_cursor": next }))
    };
    let of = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let models = json!({ "type": ["array", "null"], "items": text(), "description": "names or patterns (provider/*); null: every model" });
    let positive = || json!({ "type": "integer", "minimum": 1 });
    let bounds = closed(
        &[],
        json!({
            "requests_per_minute": positive(), "input_tokens_per_minute": positive(), "output_tokens_per_minute": positive(),
            "tokens_per_minute": positive(), "requests_per_day": positive(), "tokens_per_day": positive(),
            "concurrent": positive(), "shadow": { "type": "boolean", "description": "they only report" },
        }),
    );
    let limits = json!({ "anyOf": [{ "type": "null" }, of("Limits")], "description": "null: no limits of its own" });
    let budget = json!({ "type": ["object", "null"], "properties": {
        "usd": { "type": "number" }, "per": { "enum": ["day", "week", "month", "total"] }, "window": text(), "resets": time(),
        "spent_usd": maybe("number"), "reserved_usd": maybe("number"), "left_usd": maybe("number"),
    } });
    let texts = || json!({ "type": ["array", "null"], "items": text() });
    let terms = json!({
        "models": models, "operations": texts(), "ip_ranges": texts(), "limits": limits,
        "budgets": { "type": ["array", "null"], "items": { "type": "object" }, "description": "each {usd, per}: all of them bind" },
        "defaults": maybe("object"), "caps": maybe("object"),
        "tags": { "type": ["object", "null"], "additionalProperties": text() },
        "priority": { "enum": ["low", "normal", "high", null], "description": "the highest that a request may ask for" },
        "data": { "type": ["string", "object", "null"], "description": "what targets must promise: a region, or {region, retention, train}" },
    });
    let with = |mut fields: Value| {
        for (name, schema) in terms.as_object().into_iter().flatten() {
            fields[name] = schema.clone();
        }
        fields
    };
    let key = json!({
        "id": text(), "name": text(), "team": maybe("string"), "user": maybe("string"), "models": models, "limits": limits,
        "status": { "enum": ["active", "disabled", "expired", "revoked"] },
        "hint": { "type": "string", "description": "the key's last four characters" },
        "created": time(), "expires": time(), "revoked": time(), "former_secret_until": time(),
    });
    let key = with(key);
    let mut key_with_secret = key.clone();
    key_with_secret["key"] = json!({ "type": "string", "description": "the virtual key itself; never shown again" });
    key_with_secret["warnings"] = json!({ "type": "array", "items": text() });
    let error = object(&["code", "message"], json!({ "code": text(), "message": text(), "param": text() }));
    let mut all = json!({
        "Error": object(&["error"], json!({ "error": error })),
        "Health": { "type": "object", "required": ["status"], "properties": { "status": text() } },
        "Key": object(&["id", "name", "status", "hint", "created"], key),
        "KeyWithSecret": object(&["id", "key"], key_with_secret),
        "KeyPage": page(of("Key")),
        "NewKey": closed(&["name"], with(json!({
            "name": text(), "team": maybe("string"), "user": maybe("string"),
            "expires": { "type": ["string", "null"], "description": "30d, 12h, or RFC 3339" },
        }))),
        "Rotation": closed(&[], json!({
            "overlap": { "type": ["string", "null"], "description": "how long the former secret still works (1h); absent: not at all" },
        })),
        "Page": page(json!({ "type": "object" })),
        "Problem": object(&["file", "line", "message"], json!({ "file": text(), "line": { "type": "integer" }, "message": text() })),
        "ConfigStatus": object(&["running", "refused"], json!({
            "running": { "type": "object", "required": ["hash", "stages"], "properties": {
                "hash": text(), "stages": { "type": "array", "items": { "type": "object", "properties": { "use": text() } } },
            } },
            "refused": { "type": ["object", "null"], "properties": {
                "hash": text(), "errors": { "type": "array", "items": of("Problem") },
            } },
        })),
        "StateExport": object(&["path", "rows", "bytes", "created"], json!({
            "path": text(), "rows": { "type": "integer" }, "bytes": { "type": "integer" }, "created": time(),
        })),
        "LedgerRow": object(&["number", "target", "outcome"], json!({
            "number": count(), "target": text(), "outcome": text(), "usage": maybe("object"), "price": text(),
            "cost_usd": maybe("number"), "estimated": { "type": "boolean" }, "took_ms": { "type": "number" },
        })),
        "UsagePage": noted(page(of("UsageRow"))),
        "UsageRow": object(&["requests", "errors", "cost_usd"], with_units(json!({
            "minute": text(), "hour": text(), "day": text(), "month": text(), "cost_usd": { "type": "number" },
            "unknown_costs": { "type": "integer", "description": "attempts of which nobody knows what they cost" },
            "estimated": { "type": "integer", "description": "attempts whose usage no upstream told, or not whole" },
        }))),
        "RequestPage": page(of("RequestRecord")),
        "RequestRecord": object(&["id", "time", "status", "trace"], with_ledger(json!({
            "id": text(), "time": time(), "key_id": maybe("string"), "team": maybe("string"), "operation": text(),
            "format": text(), "model": text(), "target": maybe("string"), "attempts": { "type": "integer" },
            "status": { "type": "integer" }, "error_code": maybe("string"), "stream": { "type": "boolean" },
            "finish_reason": maybe("string"), "usage": maybe("object"), "cost_usd": maybe("number"),
            "duration_ms": { "type": "number" }, "first_event_ms": maybe("number"), "upstream_ms": { "type": "number" },
            "tags": { "type": "object" }, "trace": { "type": "array", "items": { "type": "object" } },
        }))),
    });
    let bound = json!({
        "Explain": object(&[], json!({
            "request": { "type": "object", "description": "a client's body; absent: the whole body is one" },
            "format": text(), "path": { "type": "string", "description": "as a client would call it; instead of format" },
            "model": text(), "stream": { "type": "boolean" }, "key": { "type": "string", "description": "a key's id" },
            "team": text(), "user": text(), "headers": { "type": "object" }, "seed": count(),
        })),
        "Decision": object(&["targets", "candidates", "trace"], json!({
            "targets": { "type": "array", "items": text() }, "asked": text(), "model": text(), "chosen": maybe("array"),
            "status": maybe("integer"), "code": maybe("string"), "message": maybe("string"), "text": maybe("string"),
            "caller": { "type": "object" }, "limits": { "type": "array" }, "budget": maybe("object"),
            "stages": { "type": "array" }, "parked": { "type": "array" }, "notes": { "type": "array" },
            "candidates": { "type": "array", "items": { "type": "object" } }, "cost": maybe("object"),
            "trace": { "type": "array", "items": { "type": "object" } },
        })),
        "KeyChange": closed(&[], with(json!({
            "name": text(), "team": maybe("string"), "user": maybe("string"), "expires": maybe("string"),
            "disabled": { "type": "boolean" },
            "cut": { "type": "boolean", "description": "with disabled: what runs with it ends at once" },
        }))),
        "Limits": bounds,
        "Team": object(&["name"], with(json!({
            "name": text(), "organisation": maybe("string"), "budget": budget, "source": { "enum": ["file", "store"] },
        }))),
        "NewTeam": closed(&["name"], with(json!({ "name": text(), "organisation": maybe("string") }))),
        "TeamChange": closed(&[], with(json!({ "organisation": maybe("string") }))),
        "TeamPage": page(of("Team")),
    });
    let parts = [
        &bound,
        &shapes::deployment(),
        &shapes::experiments(),
        &shapes::people(&terms),
        &shapes::audit(),
        &shapes::secrets(),
        &shapes::money(),
    ];
    for (name, schema) in parts.into_iter().filter_map(Value::as_object).flatten() {
        all[name] = schema.clone();
    }
    all
}

/// A report may have something to say of itself.
fn noted(mut page: Value) -> Value {
    page["properties"]["note"] = json!({ "type": "string", "description": "how exact the oldest part of it is" });
    page
}

/// Beside the other fields, of which the macro takes no more.
/// What is counted besides tokens; a row has those that were used.
fn with_units(mut properties: Value) -> Value {
    for figure in table::figures().chain(Units::default().named().map(|(unit, _)| unit)) {
        if properties[figure].is_null() {
            properties[figure] = count();
        }
    }
    for dimension in Dimension::ALL {
        properties[dimension.name()] = json!({ "type": ["string", "null"] });
    }
    properties
}

fn with_ledger(mut fields: Value) -> Value {
    for name in ["user", "organisation"] {
        fields[name] = json!({ "type": "string" });
    }
    fields["cost_unknown"] = json!({ "type": "boolean", "description": "something was used that cost_usd leaves out" });
    fields["ledger"] = json!({ "type": "array", "items": { "$ref": "#/components/schemas/LedgerRow" } });
    fields
}

/// Answered with 201 by who makes one.
const MADE: [&str; 5] = ["KeyWithSecret", "TokenWithSecret", "Organisation", "Team", "User"];

pub(super) fn count() -> Value {
    json!({ "type": "integer" })
}

pub(super) fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties })
}

pub(super) fn closed(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}
