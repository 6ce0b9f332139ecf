//! Shapes of the control plane's newer things, for the OpenAPI document: organisations, users and tokens, budgets, versions,
//! secrets, the audit log.

use serde_json::{Value, json};

use super::openapi::{closed, count, object};

/// Of organisations, users and tokens. `terms`: what binds each of them.
pub(super) fn people(terms: &Value) -> Value {
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
    let cut = || json!({ "type": "boolean", "description": "with disabled: what runs with its keys ends at once" });
    let source = json!({ "enum": ["file", "store"] });
    let token = json!({
        "id": text(), "name": text(), "user": maybe("string"), "roles": texts(), "team": maybe("string"),
        "organisation": maybe("string"), "status": { "enum": ["active", "expired", "revoked"] }, "hint": text(),
        "created": text(), "expires": maybe("string"), "revoked": maybe("string"), "by": maybe("string"),
    });
    let mut with_secret = token.clone();
    with_secret["token"] = json!({ "type": "string", "description": "the token itself; never shown again" });
    json!({
        "Organisation": object(&["name"], with(json!({
            "name": text(), "source": source, "disabled": { "type": "boolean" },
        }))),
        "OrganisationPage": page("Organisation"),
        "NewOrganisation": closed(&["name"], with(json!({ "name": text(), "disabled": { "type": "boolean" }, "cut": cut() }))),
        "OrganisationChange": closed(&[], with(json!({ "disabled": { "type": "boolean" }, "cut": cut() }))),
        "User": object(&["name"], user(json!({ "name": text(), "source": source }))),
        "UserPage": page("User"),
        "NewUser": closed(&["name"], user(json!({ "name": text(), "cut": cut() }))),
        "UserChange": closed(&[], user(json!({ "cut": cut() }))),
        "Token": object(&["id", "name", "roles", "status"], token),
        "TokenWithSecret": object(&["id", "token"], with_secret),
        "TokenPage": page("Token"),
        "NewToken": closed(&["name"], json!({
            "name": text(), "user": maybe("string"), "team": maybe("string"), "organisation": maybe("string"),
            "roles": texts(), "role": maybe("string"),
            "expires": { "type": ["string", "null"], "description": "30d, 12h, or RFC 3339" },
        })),
        "Actor": object(&["name", "roles", "permissions"], json!({
            "name": text(), "user": maybe("string"), "token": maybe("string"), "issuer": maybe("string"),
            "roles": { "type": "array", "items": { "type": "object" } },
            "permissions": { "type": "array", "items": text() },
        })),
    })
}

/// Of budgets and their raises.
pub(super) fn money() -> Value {
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
        "Quota": object(&["id", "scope", "open", "opens_in"], json!({
            "id": text(), "scope": { "type": "string", "description": "target:PROVIDER/MODEL, or provider_key:PROVIDER#HASH" },
            "model": maybe("string"), "unit": { "enum": ["requests", "input_tokens", "output_tokens", "tokens", "usd", null] },
            "per": maybe("string"), "bound": maybe("number"), "used": maybe("number"), "left": maybe("number"),
            "began": maybe("string"), "resets": maybe("string"),
            "closed_until": { "type": ["string", "null"], "description": "its provider said to wait" },
            "open": { "type": "boolean" }, "opens_in": { "type": "integer", "description": "seconds" },
        })),
        "QuotaPage": page("Quota"),
        "NewRaise": closed(&["scope", "usd", "until", "reason"], json!({
            "scope": scope(), "usd": { "description": "US dollars, as a number or as text" },
            "until": { "type": "string", "description": "12h, 3d, or RFC 3339" }, "reason": text(),
            "per": { "enum": ["day", "week", "month", "total", null], "description": "that budget alone; absent: each of the scope" },
        })),
        "Rerate": closed(&["from"], json!({
            "from": { "type": "string", "description": "a time or a day, UTC" },
            "to": { "type": ["string", "null"], "description": "absent: now" },
        })),
        "Rerated": object(&["hours", "requests", "left", "next"], json!({
            "hours": count(), "requests": count(),
            "left": { "type": "integer", "description": "requests that stay as they were charged: their sums were not found" },
            "next": { "type": ["string", "null"], "description": "not done yet: ask again from here on" },
        })),
        "Raise": object(&["id", "scope", "usd", "until", "reason"], raise),
        "RaisePage": page("Raise"),
    })
}

/// Of experiments.
pub(super) fn experiments() -> Value {
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let times = || {
        object(
            &["count"],
            json!({
                "count": count(), "p50": maybe("number"), "p90": maybe("number"), "p95": maybe("number"), "p99": maybe("number"),
            }),
        )
    };
    let arm = json!({
        "arm": { "type": "string" }, "to": maybe("string"), "share": { "type": "number" },
        "requests": count(), "errors": count(), "error_rate": maybe("number"), "refused": count(), "left": count(),
        "elsewhere": { "type": "integer", "description": "answered by none of the arm's own targets" },
        "attempts": count(), "codes": { "type": "object" }, "latency_ms": times(), "first_event_ms": times(),
        "cost_usd": { "type": "number" }, "cost_each_usd": maybe("number"), "cost_unknown": count(),
        "input_tokens": count(), "output_tokens": count(),
        "quality": object(&["next", "unmet", "notes"], json!({
            "next": count(), "unmet": count(), "notes": { "type": "object" },
        })),
        "since": maybe("string"), "until": maybe("string"),
        "left_out": { "type": "object", "description": "of a mirror: copies that were not sent, by the reason" },
    });
    let row = object(
        &["model", "arms"],
        json!({
            "model": { "type": "string" }, "by": { "enum": ["request", "session", "key", "user", null] },
            "arms": { "type": "array", "items": { "$ref": "#/components/schemas/Arm" } },
            "mirror": { "anyOf": [{ "$ref": "#/components/schemas/Arm" }, { "type": "null" }] },
        }),
    );
    json!({
        "Arm": object(&["requests", "errors", "quality"], arm),
        "Experiment": row,
        "ExperimentPage": object(&["data"], json!({
            "data": { "type": "array", "items": { "$ref": "#/components/schemas/Experiment" } }, "next_cursor": maybe("string"),
        })),
    })
}

/// Of versions and rollouts.
pub(super) fn deployment() -> Value {
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
pub(super) fn secrets() -> Value {
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
pub(super) fn audit() -> Value {
    let text = || json!({ "type": "string" });
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let row = json!({ "$ref": "#/components/schemas/AuditRow" });
    json!({
        "AuditRow": object(&["seq", "node", "time", "actor", "action", "outcome", "prev", "mac"], json!({
            "seq": count(), "node": text(), "time": text(),
            "actor": { "type": "object", "properties": {
                "kind": { "enum": ["owner", "local", "token", "user", "key", "system", "unknown"] },
                "id": maybe("string"), "name": maybe("string"), "role": maybe("string"),
            } },
            "from": { "type": "object", "properties": { "peer": maybe("string"), "agent": maybe("string") } },
            "action": text(), "object": maybe("string"),
            "outcome": { "enum": ["intended", "done", "refused", "failed", "unknown"] }, "code": maybe("string"),
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
