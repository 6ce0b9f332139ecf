//! The OpenAPI document of the control plane: paths from the route table, schemas written here.

use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};
use serde_json::{Map, Value, json};

use super::{
    AdminState,
    access::May,
    reply::{self, Reply},
    routes::{Call, Route, TABLE},
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
    let parts = [&bound, &deployment(), &people(&terms), &audit(), &secrets(), &money()];
    for (name, schema) in parts.into_iter().filter_map(Value::as_object).flatten() {
        all[name] = schema.clone();
    }
    all
}

/// Of organisations, users and tokens. `terms`: what binds each of them.
fn people(terms: &Value) -> Value {
    let text = || json!({ "type": "string" });
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let texts = || json!({ "type": ["array", "null"], "items": text() });
    let with = |mut fields: Value| {
        for (name, schema) in terms.as_object().into_iter().flatten() {
            fields[name] = schema.clone();
        }
        fields
    };
    let page = |name: &str| {
        let of = json!({ "$ref": format!("#/components/schemas/{name}") });
        object(&["data"], json!({ "data": { "type": "array", "items": of }, "next_cursor": maybe("string") }))
    };
    let user = |more: Value| {
        let mut fields = with(json!({
            "organisation": maybe("string"), "teams": texts(), "email": maybe("string"), "disabled": { "type": "boolean" },
            "roles": { "type": "array", "items": text(), "description": "developer, admin@team:NAME, viewer@everything" },
        }));
        for (name, schema) in more.as_object().into_iter().flatten() {
            fields[name] = schema.clone();
        }
        fields
    };
    let source = json!({ "enum": ["file", "store"] });
    let token = json!({
        "id": text(), "name": text(), "user": maybe("string"), "roles": texts(), "team": maybe("string"),
        "organisation": maybe("string"), "status": { "enum": ["active", "expired", "revoked"] }, "hint": text(),
        "created": text(), "expires": maybe("string"), "revoked": maybe("string"), "by": maybe("string"),
    });
    let mut with_secret = token.clone();
    with_secret["token"] = json!({ "type": "string", "description": "the token itself; never shown again" });
    json!({
        "Organisation": object(&["name"], with(json!({ "name": text(), "source": source }))),
        "OrganisationPage": page("Organisation"),
        "NewOrganisation": closed(&["name"], with(json!({ "name": text() }))),
        "OrganisationChange": closed(&[], with(json!({}))),
        "User": object(&["name"], user(json!({ "name": text(), "source": source }))),
        "UserPage": page("User"),
        "NewUser": closed(&["name"], user(json!({ "name": text() }))),
        "UserChange": closed(&[], user(json!({}))),
        "Token": object(&["id", "name", "roles", "status"], token),
        "TokenWithSecret": object(&["id", "token"], with_secret),
        "TokenPage": page("Token"),
        "NewToken": closed(&["name"], json!({
            "name": text(), "user": maybe("string"), "team": maybe("string"), "organisation": maybe("string"),
            "roles": texts(), "role": maybe("string"),
            "expires": { "type": ["string", "null"], "description": "30d, 12h, or RFC 3339" },
        })),
        "Actor": object(&["name", "roles", "permissions"], json!({
            "name": text(), "user": maybe("string"), "token": maybe("string"),
            "roles": { "type": "array", "items": { "type": "object" } },
            "permissions": { "type": "array", "items": text() },
        })),
    })
}

/// Of budgets and their raises.
fn money() -> Value {
    let text = || json!({ "type": "string" });
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let usd = || json!({ "type": "number" });
    let scope = || json!({ "type": "string", "description": "its kind and name, as in team:research" });
    let time = || json!({ "type": "string", "format": "date-time" });
    let page = |of: &str| {
        let items = json!({ "$ref": format!("#/components/schemas/{of}") });
        let data = json!({ "data": { "type": "array", "items": items }, "next_cursor": maybe("string") });
        object(&["data", "next_cursor"], data)
    };
    let raise = json!({
        "id": text(), "scope": scope(), "per": maybe("string"), "usd": usd(), "made": time(), "until": time(),
        "reason": text(),
    });
    json!({
        "Budget": object(&["id", "scope", "per", "usd"], json!({
            "id": text(), "scope": scope(), "name": text(), "per": { "enum": ["day", "week", "month", "total"] },
            "window": text(), "resets": maybe("string"), "usd": usd(), "raised_usd": usd(),
            "spent_usd": maybe("number"), "reserved_usd": maybe("number"), "left_usd": maybe("number"),
            "soft": maybe("number"), "past_soft": { "type": "boolean" },
        })),
        "BudgetPage": page("Budget"),
        "NewRaise": closed(&["scope", "usd", "until", "reason"], json!({
            "scope": scope(), "usd": { "description": "US dollars, as a number or as text" },
            "until": { "type": "string", "description": "12h, 3d, or RFC 3339" }, "reason": text(),
            "per": { "enum": ["day", "week", "month", "total", null], "description": "that budget alone; absent: each of the scope" },
        })),
        "Raise": object(&["id", "scope", "usd", "until", "reason"], raise),
        "RaisePage": page("Raise"),
    })
}

/// Of versions and rollouts.
fn deployment() -> Value {
    let text = || json!({ "type": "string" });
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let version = json!({ "$ref": "#/components/schemas/Version" });
    json!({
        "Word": closed(&[], json!({ "author": maybe("string"), "note": maybe("string") })),
        "Version": object(&["id", "hash", "state"], json!({
            "id": text(), "hash": text(),
            "state": { "enum": ["shadow", "canary", "live", "former", "reverted", "aborted", "superseded"] },
            "cause": { "enum": ["start", "files", "reload", "rollback"] },
            "author": maybe("string"), "note": maybe("string"), "created": text(), "live": maybe("string"),
            "ended": maybe("string"), "reason": maybe("string"), "was": maybe("string"), "rollback_of": maybe("string"),
            "files": count(), "bytes": count(), "gateway": text(),
            "kept": { "type": "boolean", "description": "its files are here: it can be returned to" },
            "contents": { "type": "array", "items": { "type": "object" } },
            "pinned": maybe("object"), "durable": { "type": "boolean" },
        })),
        "VersionPage": object(&["data"], json!({
            "data": { "type": "array", "items": version }, "next_cursor": maybe("string"),
        })),
        "VersionDiff": object(&["from", "to", "summary", "files"], json!({
            "from": text(), "to": text(),
            "summary": { "type": "object", "properties": {
                "stages": { "type": "object" }, "targets": { "type": "array" }, "prices": { "type": "array" },
                "other": { "type": "array", "items": text() },
            } },
            "files": { "type": "array", "items": object(&["file", "change"], json!({
                "file": text(), "change": { "enum": ["added", "removed", "changed"] }, "diff": maybe("string"),
                "bytes": { "type": "array" },
            })) },
            "cut": { "type": "boolean", "description": "the differences were too long to be shown whole" },
        })),
        "Rollout": object(&["running", "rollout"], json!({
            "running": maybe("object"), "rollout": maybe("object"), "reverted": maybe("object"),
        })),
        "Deployed": object(&["outcome"], json!({
            "outcome": { "enum": ["unchanged", "live", "rollout", "pinned", "reverted", "refused", "aborted"] },
            "version": { "anyOf": [version, { "type": "null" }] }, "message": maybe("string"),
            "errors": { "type": "array", "items": { "$ref": "#/components/schemas/Problem" } },
        })),
    })
}

/// Of secrets in the store.
fn secrets() -> Value {
    let text = || json!({ "type": "string" });
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let info = json!({ "$ref": "#/components/schemas/SecretInfo" });
    json!({
        "SecretInfo": object(&["name", "version", "changed", "hint"], json!({
            "name": text(), "version": count(), "changed": text(),
            "hint": { "type": "string", "description": "a keyed hash: equal for equal secrets" },
        })),
        "SecretPage": object(&["data"], json!({
            "data": { "type": "array", "items": info }, "next_cursor": maybe("string"),
        })),
        "NewSecret": closed(&["value"], json!({ "value": { "type": "string", "writeOnly": true } })),
        "MasterRotation": closed(&[], json!({
            "to": { "type": ["string", "null"], "description": "file:PATH or env:NAME; absent: a new one in the data directory" },
            "finish": { "type": "boolean" },
        })),
        "Keyring": object(&["keys", "former_masters"], json!({ "keys": count(), "former_masters": count() })),
    })
}

/// Of the audit log.
fn audit() -> Value {
    let text = || json!({ "type": "string" });
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let row = json!({ "$ref": "#/components/schemas/AuditRow" });
    json!({
        "AuditRow": object(&["seq", "node", "time", "actor", "action", "outcome", "prev", "mac"], json!({
            "seq": count(), "node": text(), "time": text(),
            "actor": { "type": "object", "properties": {
                "kind": { "enum": ["owner", "local", "token", "key", "system", "unknown"] },
                "id": maybe("string"), "name": maybe("string"), "role": maybe("string"),
            } },
            "from": { "type": "object", "properties": { "peer": maybe("string"), "agent": maybe("string") } },
            "action": text(), "object": maybe("string"),
            "outcome": { "enum": ["intended", "done", "refused", "failed"] }, "code": maybe("string"),
            "of": { "type": ["integer", "null"], "description": "the row that said intended" },
            "count": { "type": ["integer", "null"], "description": "how often, where several are one row" },
            "before": {}, "after": {},
            "prev": { "type": "string", "description": "SHA-256 of the row before, as it is exported" },
            "mac": { "type": "string", "description": "HMAC-SHA256 of the row without this member" },
        })),
        "AuditPage": object(&["data"], json!({
            "data": { "type": "array", "items": row }, "next_cursor": maybe("string"),
        })),
        "AuditVerdict": object(&["whole"], json!({
            "whole": { "type": "boolean" },
            "chains": { "type": "array", "items": { "type": "object" } },
            "broken": { "type": "object", "properties": {
                "node": text(), "seq": count(), "fault": { "enum": ["changed", "missing", "reordered", "truncated"] },
                "why": text(),
            } },
        })),
    })
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

fn count() -> Value {
    json!({ "type": "integer" })
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties })
}

fn closed(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}
