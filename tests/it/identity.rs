//! Who is who and who may do what, through the real gateway: organisations, teams, users, keys, tokens of the admin API, and
//! the table of permissions walked over every route of the control plane.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use crate::{
    keys::{folder, run, text},
    support::{Answer, Gateway, Say, Upstream, request},
};

const CLOSED: &str = "[auth]\nrequired = true\n";

/// A request to the admin plane with this token.
async fn ask(gateway: &Gateway, token: Option<&str>, method: &str, path: &str, body: &Value) -> Answer {
    let (host, bearer) = (gateway.admin.to_string(), format!("Bearer {}", token.unwrap_or_default()));
    let mut headers = vec![("host", host.as_str()), ("content-type", "application/json")];
    if token.is_some() {
        headers.push(("authorization", &bearer));
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request(gateway.admin, method, path, &headers, body.as_bytes()).await
}

/// The same as the owner, who must succeed.
async fn own(gateway: &Gateway, method: &str, path: &str, body: Value) -> Value {
    let answer = ask(gateway, None, method, path, &body).await;
    assert!(answer.status < 300, "{method} {path} {body}: {} {}", answer.status, answer.text());
    answer.json()
}

async fn token(gateway: &Gateway, body: Value) -> String {
    own(gateway, "POST", "/api/v1/tokens", body).await["token"].as_str().expect("a token").to_owned()
}

async fn chat(gateway: &Gateway, key: &str, model: &str, more: Value) -> Answer {
    let mut body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let bearer = format!("Bearer {key}");
    gateway.post_with("/v1/chat/completions", &[("authorization", &bearer)], &body.to_string()).await
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_key_is_bound_by_all_its_scopes_and_by_changes_at_once() {
    let upstream = Upstream::saying(Say::json(crate::family::Openai.whole("x"))).await;
    let gateway = Gateway::start(&format!("{CLOSED}{}", upstream.provider("up", "openai_chat"))).await;
    own(&gateway, "POST", "/api/v1/organisations", json!({ "name": "acme", "tags": { "bill": "acme" } })).await;
    let team = json!({ "name": "lab", "organisation": "acme", "models": ["up/*"], "caps": { "max_tokens": 50, "temperature": [0, 1] } });
    own(&gateway, "POST", "/api/v1/teams", team).await;
    own(
        &gateway,
        "POST",
        "/api/v1/users",
        json!({ "name": "ada", "teams": ["lab"], "operations": ["chat"], "defaults": { "top_p": 0.5 } }),
    )
    .await;
    let body = json!({ "name": "k", "user": "ada", "models": ["up/a", "mock"], "tags": { "app": "x" }, "ip_ranges": ["127.0.0.0/8"] });
    let (id, key) = gateway.key(&body.to_string()).await;

    let answer = chat(&gateway, &key, "up/a", json!({ "max_tokens": 500, "temperature": 1.5 })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-portcullis-capped-params"), Some("max_tokens,temperature"));
    let sent = upstream.last().json();
    assert_eq!(
        (sent["max_tokens"].as_u64(), sent["temperature"].as_f64(), sent["top_p"].as_f64()),
        (Some(50), Some(1.0), Some(0.5))
    );
    let answer = chat(&gateway, &key, "up/a", json!({})).await;
    assert_eq!(
        (answer.header("x-portcullis-capped-params"), upstream.last().json()["max_tokens"].as_u64()),
        (None, Some(50))
    );
    let record = gateway.record(2).await;
    assert_eq!((&record["team"], &record["tags"]), (&json!("lab"), &json!({ "app": "x", "bill": "acme" })));

    // Each list by itself: `mock` is on the key's, and not on the team's.
    for (model, code_of) in [("mock", "model_not_allowed"), ("up/b", "model_not_allowed")] {
        let answer = chat(&gateway, &key, model, json!({})).await;
        assert_eq!((answer.status, code(&answer)), (403, code_of.to_owned()), "{model}");
    }
    let bearer = format!("Bearer {key}");
    let vectors =
        gateway.post_with("/v1/embeddings", &[("authorization", &bearer)], r#"{"model":"up/a","input":"x"}"#).await;
    assert_eq!((vectors.status, code(&vectors)), (403, "operation_not_allowed".to_owned()));
    own(&gateway, "PATCH", "/api/v1/organisations/acme", json!({ "models": ["other/*"] })).await;
    assert_eq!(chat(&gateway, &key, "up/a", json!({})).await.status, 403);
    own(&gateway, "PATCH", "/api/v1/organisations/acme", json!({ "models": null })).await;
    own(&gateway, "PATCH", &format!("/api/v1/keys/{id}"), json!({ "ip_ranges": ["10.0.0.0/8"] })).await;
    let far = chat(&gateway, &key, "up/a", json!({})).await;
    assert_eq!((far.status, code(&far)), (403, "address_not_allowed".to_owned()));
    own(&gateway, "PATCH", &format!("/api/v1/keys/{id}"), json!({ "ip_ranges": null })).await;
    own(&gateway, "PATCH", "/api/v1/users/ada", json!({ "disabled": true })).await;
    assert_eq!(code(&chat(&gateway, &key, "up/a", json!({})).await), "user_disabled");
    own(&gateway, "PATCH", "/api/v1/users/ada", json!({ "disabled": false, "roles": ["viewer"] })).await;
    let viewer = chat(&gateway, &key, "up/a", json!({})).await;
    assert!(code(&viewer) == "not_permitted" && viewer.text().contains("models.call"), "{}", viewer.text());
    own(&gateway, "PATCH", "/api/v1/users/ada", json!({ "roles": [] })).await;
    assert_eq!(chat(&gateway, &key, "up/a", json!({})).await.status, 200);

    let explained = own(
        &gateway,
        "POST",
        "/api/v1/explain",
        json!({ "request": { "model": "up/a", "messages": [{ "role": "user", "content": "x" }] }, "key": id }),
    )
    .await;
    let caller = &explained["caller"];
    assert_eq!(
        (&caller["organisation"], &caller["team"], &caller["user"], &caller["key"]),
        (&json!("acme"), &json!("lab"), &json!("ada"), &json!(id))
    );
    assert_eq!((&caller["models"], &caller["team_models"]), (&json!(["up/a", "mock"]), &json!(["up/*"])));
}

#[tokio::test]
async fn scripts_see_who_calls() {
    let script = "fn request(request, context) {\n    return respond(`${context.user} ${context.team} ${context.roles} ${context.tags.app}`);\n}\n";
    let config = format!(
        "{CLOSED}[teams.lab]\ntags = {{ app = \"x\" }}\n[users.ada]\nteams = [\"lab\"]\nroles = [\"developer\"]\n"
    );
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    let (_, key) = gateway.key(r#"{"name":"k","user":"ada"}"#).await;
    let answer = chat(&gateway, &key, "mock", json!({})).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], r#"ada lab ["developer"] x"#, "{}", answer.text());
}

#[tokio::test]
async fn the_file_wins_and_a_change_of_it_binds_keys() {
    let config = |models: &str| {
        format!("{CLOSED}[organisations.acme]\nmodels = [{models}]\n[teams.lab]\norganisation = \"acme\"\n")
    };
    let gateway = Gateway::start(&config("\"mock\"")).await;
    let (_, key) = gateway.key(r#"{"name":"k","team":"lab"}"#).await;
    assert_eq!(chat(&gateway, &key, "mock", json!({})).await.status, 200);
    let refused = ask(&gateway, None, "PATCH", "/api/v1/teams/lab", &json!({ "models": ["x"] })).await;
    assert!(refused.status == 409 && refused.text().contains("[teams.lab]"), "{}", refused.text());
    assert_eq!(ask(&gateway, None, "DELETE", "/api/v1/organisations/acme", &Value::Null).await.status, 409);
    let team = own(&gateway, "GET", "/api/v1/teams/lab", Value::Null).await;
    assert_eq!((&team["source"], &team["organisation"]), (&json!("file"), &json!("acme")));
    gateway.rewrite(&config("\"mock/other\""));
    crate::support::eventually("the file is taken up", async || {
        chat(&gateway, &key, "mock", json!({})).await.status == 403
    })
    .await;
}

#[test]
fn mistakes_in_the_file_are_told_with_their_lines() {
    let toml = r#"[organisations.acme]
models = ["openai/*"]
[teams.lab]
organisation = "acm"
operations = ["chatt"]
ip_ranges = ["10.0.0.1/8"]
caps = { temperature = [1.0, 0.5] }
[users.ada]
teams = ["labs"]
roles = ["admin@team:none", "root"]
[auth.jwt.a]
issuer = "https://a"
audience = []
jwks = "http://a.example/keys"
[auth.jwt.b]
issuer = "https://b"
audience = "x"
jwks = "https://b.example/keys"
algorithms = ["HS256", "none"]
[auth.jwt.c]
issuer = "https://c"
audience = "x"
jwks = "https://c.example/keys"
secret = "env:SECRET"
"#;
    let checked = run(folder(toml).path(), &["check", "--json"]);
    let report: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    let told: Vec<String> = report["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|e| format!("{}: {}", e["line"], e["message"].as_str().unwrap_or_default()))
        .collect();
    for (line, word) in [
        (2, "openai"),
        (4, "did you mean `acme`"),
        (5, "did you mean `chat`"),
        (6, "10.0.0.0/8"),
        (7, "lowest and the highest"),
        (9, "did you mean `lab`"),
        (10, "no [teams.none]"),
        (10, "there is no role \"root\""),
        (13, "audience"),
        (14, "https"),
        (19, "needs a `secret`"),
        (19, "\"none\" is not taken"),
        (24, "public keys and a secret"),
    ] {
        assert!(
            told.iter().any(|t| t.starts_with(&format!("{line}: ")) && t.contains(word)),
            "{line} {word}: {told:#?}"
        );
    }
    assert_eq!(checked.status.code(), Some(78));
}

#[test]
fn people_and_tokens_from_the_command_line_on_a_stopped_store() {
    let folder = folder("[teams.filed]\nmodels = [\"mock\"]\n");
    let ok = |args: &[&str]| {
        let output = run(folder.path(), args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let fails = |args: &[&str]| {
        let output = run(folder.path(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output.stdout));
        text(&output.stderr)
    };
    assert!(ok(&["organisations", "list"]).contains("no organisations yet"));
    ok(&["organisations", "create", "acme", "--budget", "500/month"]);
    ok(&["teams", "create", "lab", "--organisation", "acme", "--models", "mock/*,mock", "--rpm", "60"]);
    ok(&["users", "create", "ada", "--teams", "lab", "--roles", "developer", "--email", "ada@example.com"]);
    ok(&["service-accounts", "create", "ci", "--teams", "lab"]);
    let teams = ok(&["teams", "list"]);
    assert!(
        teams.contains("lab") && teams.contains("store") && teams.contains("filed") && teams.contains("file"),
        "{teams}"
    );
    assert!(!ok(&["users", "list"]).contains("ci") && ok(&["service-accounts", "list"]).contains("ci"));
    assert!(fails(&["users", "create", "ada"]).contains("already"));
    assert!(fails(&["users", "create", "x", "--roles", "king"]).contains("there is no role"));
    assert!(fails(&["teams", "delete", "lab"]).contains("user ada"));
    assert!(fails(&["teams", "change", "filed", "--models", "a"]).contains("gateway.toml"));
    let made = ok(&["keys", "create", "--name", "k", "--user", "ada", "--tags", "a=b", "--max-tokens", "9", "--quiet"]);
    assert!(made.starts_with("sk-pc-"));
    let list: Value = serde_json::from_str(&ok(&["keys", "list", "--tag", "a=b", "--json"])).expect("JSON");
    let key = &list["data"][0];
    assert_eq!((&key["team"], &key["user"], &key["caps"]), (&json!("lab"), &json!("ada"), &json!({ "max_tokens": 9 })));
    let id = key["id"].as_str().expect("an id");
    assert!(ok(&["keys", "disable", id, "--cut"]).contains("disabled"));
    assert!(ok(&["keys", "enable", id]).contains("active"));
    assert!(ok(&["keys", "change", id, "--clear", "caps", "--name", "other"]).contains("other"));
    assert!(fails(&["keys", "change", id, "--rpm", "0"]).contains("limits"));
    let token =
        ok(&["tokens", "create", "--name", "fin", "--role", "billing", "--team", "lab", "--expires", "30d", "-q"]);
    assert!(token.starts_with("sk-pca-"), "{token}");
    assert!(fails(&["tokens", "create", "--role", "billing", "--team", "none"]).contains("there is no team"));
    assert!(ok(&["tokens", "list"]).contains("billing"));
    assert!(fails(&["users", "delete", "ada"]).contains("has 1 keys"));
    assert!(ok(&["users", "delete", "ada", "--revoke-keys"]).contains("1 keys revoked"));
    let data = std::fs::read(folder.path().join("data/sled/db")).expect("the store");
    let held = |secret: &str| data.windows(20).any(|w| w == &secret.trim().as_bytes()[10..30]);
    assert!(!held(&token) && !held(&made), "only hashes are stored");
}

/// What the walk needs: a team of its own with a user, a key and a token in it, and the same of others.
struct World {
    gateway: Gateway,
    /// By kind of thing: the one that is the actor's scope's, and the foreign one.
    things: BTreeMap<&'static str, [String; 2]>,
    made: AtomicUsize,
}

impl World {
    async fn new() -> World {
        World::with("", &[]).await
    }

    async fn with(more: &str, files: &[(&str, &str)]) -> World {
        let gateway = Gateway::with(&format!("{CLOSED}{more}"), files).await;
        let mut things: BTreeMap<&str, [String; 2]> = BTreeMap::new();
        let mut made: Vec<[String; 6]> = Vec::new();
        for side in ["in", "out"] {
            let (organisation, team, user, robot) =
                (format!("org-{side}"), format!("team-{side}"), format!("user-{side}"), format!("bot-{side}"));
            own(&gateway, "POST", "/api/v1/organisations", json!({ "name": organisation })).await;
            own(&gateway, "POST", "/api/v1/teams", json!({ "name": team, "organisation": organisation })).await;
            own(&gateway, "POST", "/api/v1/users", json!({ "name": user, "teams": [team] })).await;
            own(&gateway, "POST", "/api/v1/service-accounts", json!({ "name": robot, "teams": [team] })).await;
            let key = own(&gateway, "POST", "/api/v1/keys", json!({ "name": side, "team": team, "user": user })).await;
            let token =
                own(&gateway, "POST", "/api/v1/tokens", json!({ "name": side, "role": "viewer", "team": team })).await;
            let id = |value: &Value| value["id"].as_str().expect("an id").to_owned();
            made.push([organisation, team, user, robot, id(&key), id(&token)]);
        }
        for (n, kind) in
            ["organisations", "teams", "users", "service-accounts", "keys", "tokens"].into_iter().enumerate()
        {
            things.insert(kind, [made[0][n].clone(), made[1][n].clone()]);
        }
        World { gateway, things, made: AtomicUsize::default() }
    }
}

impl World {
    /// What somebody makes of one side, with a name that nobody had.
    fn new_thing(&self, kind: &str, role: &str, foreign: bool) -> Value {
        let side = if foreign { "out" } else { "in" };
        let name = format!("new-{role}-{side}-{}", self.made.fetch_add(1, Ordering::Relaxed));
        match kind {
            "users" | "service-accounts" => {
                json!({ "name": name, "teams": [format!("team-{side}")], "roles": ["developer"] })
            }
            "tokens" => json!({ "name": name, "role": role, "team": format!("team-{side}") }),
            "teams" => json!({ "name": name, "organisation": format!("org-{side}") }),
            "organisations" => json!({ "name": name }),
            _ => json!({ "name": name, "team": format!("team-{side}") }),
        }
    }
}

/// It makes a thing that will be somebody's.
fn creates(method: &str, path: &str) -> bool {
    let of = ["organisations", "teams", "users", "service-accounts", "keys", "tokens"];
    method == "POST" && path.strip_prefix("/api/v1/").is_some_and(|kind| of.contains(&kind))
}

/// Permissions over things that belong to somebody; all others are over the whole gateway, or anybody's.
const OWNED: [&str; 12] = [
    "organisations.read",
    "organisations.change",
    "teams.read",
    "teams.change",
    "users.read",
    "users.change",
    "keys.read",
    "keys.create",
    "keys.change",
    "keys.revoke",
    "tokens.read",
    "tokens.revoke",
];

/// Every operation of the control plane, by every role: over everything, over the own team, over a foreign one.
#[tokio::test]
async fn every_admin_operation_is_walked_by_every_role() {
    let world = World::new().await;
    walk(&world, async |role| {
        [
            token(&world.gateway, json!({ "name": role, "role": role })).await,
            token(&world.gateway, json!({ "name": role, "role": role, "team": "team-in" })).await,
        ]
    })
    .await;
}

/// The same by users with signed tokens of an issuer: the scope is what the file says of a claim, or the team that it names.
#[tokio::test]
async fn every_admin_operation_is_walked_by_every_role_of_a_signed_token() {
    let roles = ["viewer", "billing", "developer", "operator", "admin", "owner"];
    let meanings = roles.map(|role| format!("everywhere-{role} = \"{role}@everything\"\nteam-{role} = \"{role}\"\n"));
    let issuer = format!(
        "[auth.jwt.staff]\nissuer = \"https://id.example\"\naudience = \"portcullis-admin\"\nsecret = \"file:shared\"\n\
         admin = true\nclaims = {{ team = \"team\", roles = \"groups\" }}\n[auth.jwt.staff.roles]\n{}",
        meanings.concat()
    );
    let world = World::with(&issuer, &[("shared", SHARED)]).await;
    walk(&world, async |role| {
        let (everything, team) = (format!("everywhere-{role}"), format!("team-{role}"));
        [
            signed(json!({ "sub": format!("x-{everything}"), "groups": [everything] })),
            signed(json!({ "sub": format!("x-{team}"), "groups": [team], "team": "team-in" })),
        ]
    })
    .await;
    // Who has no group, or one that means nothing, may nothing at all.
    for claims in [json!({}), json!({ "groups": ["owner"] }), json!({ "groups": [], "team": "team-in" })] {
        let answer = ask(&world.gateway, Some(&signed(claims)), "GET", "/api/v1/models", &Value::Null).await;
        assert_eq!((answer.status, code(&answer)), (403, "not_permitted".to_owned()), "{}", answer.text());
    }
    let told = own(&world.gateway, "GET", "/api/v1/audit?limit=500", Value::Null).await;
    let by_user = told["data"].as_array().expect("rows").iter().filter(|row| row["actor"]["kind"] == "user");
    let names: Vec<&str> = by_user.filter_map(|row| row["actor"]["name"].as_str()).collect();
    assert!(
        !names.is_empty() && names.iter().all(|name| name.starts_with("user x-") && name.ends_with(" (staff)")),
        "{names:?}"
    );
}

const SHARED: &str = "0123456789abcdef0123456789abcdef";

/// By an issuer that has a secret; of a user whom nobody knows.
fn signed(more: Value) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let mut claims =
        json!({ "iss": "https://id.example", "aud": "portcullis-admin", "sub": "nobody", "exp": now + 3_600 });
    claims.as_object_mut().expect("claims").extend(more.as_object().cloned().unwrap_or_default());
    let text = [B64.encode(r#"{"alg":"HS256"}"#), B64.encode(claims.to_string())].join(".");
    let key = EncodingKey::from_secret(SHARED.as_bytes());
    let signature = crypto::sign(text.as_bytes(), &key, Algorithm::HS256).expect("signed");
    format!("{text}.{signature}")
}

/// `credentials`: of a role, over everything and over the team on this side.
async fn walk(world: &World, credentials: impl AsyncFn(&str) -> [String; 2]) {
    let gateway = &world.gateway;
    let document = own(gateway, "GET", "/api/openapi.json", Value::Null).await;
    let table = own(gateway, "GET", "/api/v1/permissions", Value::Null).await;
    let cells: BTreeMap<&str, &Value> = table["data"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (row["permission"].as_str().expect("a name"), &row["roles"]))
        .collect();
    let (mut walked, mut seen) = (0, BTreeSet::new());
    for role in ["viewer", "billing", "developer", "operator", "admin", "owner"] {
        let [everything, team] = credentials(role).await;
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let Some(permission) = operation["x-permission"].as_str() else {
                    assert!(path.starts_with("/health/"), "{method} {path} has no permission");
                    continue;
                };
                seen.insert(permission.to_owned());
                let cell = cells[permission][role].as_str().expect("a cell");
                let kind = path.strip_prefix("/api/v1/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
                let things = world.things.get(kind).filter(|_| path.contains("{id}"));
                // What would end the things that others are walked with is asked with what nobody has.
                let destroys = method == "delete" || path.ends_with("/rotate");
                for foreign in [false, true] {
                    let id = things.map_or("none", |ids| &ids[usize::from(foreign)]);
                    let at = path.replace("{id}", id).replace("{other}", "none");
                    let body = || match (method.as_str(), kind) {
                        ("patch", _) => json!({}),
                        ("post", "explain") => json!({ "model": "mock", "messages": [] }),
                        ("post", _) if creates("POST", path) => world.new_thing(kind, role, foreign),
                        ("post", _) => json!({ "name": " ", "team": if foreign { "team-out" } else { "team-in" } }),
                        _ => Value::Null,
                    };
                    let bodies = [body(), body()];
                    let method = method.to_uppercase();
                    let what = format!("{role} {permission} {method} {at}");
                    if !(destroys && things.is_some() && cell != "no") {
                        let answer = ask(gateway, Some(&everything), &method, &at, &bodies[0]).await;
                        let allowed = answer.status != 403;
                        assert_ne!(answer.status, 401, "{what}");
                        assert_eq!(
                            allowed,
                            cell == "all" || (cell == "own" && things.is_none() && method == "GET"),
                            "{what} over everything: {} {}",
                            answer.status,
                            answer.text()
                        );
                        assert!(allowed || answer.text().contains(permission), "{what}: {}", answer.text());
                        walked += 1;
                    }
                    let owned = OWNED.contains(&permission) && things.is_some();
                    if destroys && owned && cell == "all" && !foreign {
                        continue;
                    }
                    let answer = ask(gateway, Some(&team), &method, &at, &bodies[1]).await;
                    walked += 1;
                    if cell == "no" {
                        assert_eq!(answer.status, 403, "{what}: {}", answer.text());
                    } else if owned && foreign {
                        assert_eq!(answer.status, 403, "{what} is foreign: {}", answer.text());
                    } else if creates(&method, path) {
                        // A team's holder makes things of the own team alone; no team, and no organisation.
                        let own = cell == "all"
                            && !foreign
                            && ["keys", "users", "service-accounts", "tokens"].contains(&kind);
                        if own {
                            assert_eq!(answer.status, 201, "{what}: {}", answer.text());
                        } else {
                            assert_eq!(answer.status, 403, "{what}: {}", answer.text());
                        }
                    } else if owned && method == "GET" && cell == "all" && kind != "organisations" {
                        assert_eq!(answer.status, 200, "{what} is its own: {}", answer.text());
                    } else if owned && method == "PATCH" && kind == "keys" && cell == "all" {
                        // Nothing was named, so nothing is changed; but it may be.
                        assert_eq!(answer.status, 400, "{what} is its own: {}", answer.text());
                    } else if ["config.", "metrics.", "state.", "secrets.", "audit."]
                        .iter()
                        .any(|p| permission.starts_with(p))
                    {
                        assert_eq!(answer.status, 403, "{what} is the whole gateway's: {}", answer.text());
                    }
                }
            }
        }
    }
    assert!(walked > 600, "{walked}");
    for permission in OWNED {
        assert!(seen.contains(permission), "{permission} has no route");
    }
    // The things are still there: nothing was changed by whoever may not.
    for (kind, ids) in &world.things {
        let method = own(gateway, "GET", &format!("/api/v1/{kind}/{}", ids[1]), Value::Null).await;
        assert!(method["status"].as_str().is_none_or(|status| status == "active"), "{kind}: {method}");
    }
}

#[tokio::test]
async fn lists_show_what_the_actor_may_see() {
    let world = World::new().await;
    let gateway = &world.gateway;
    let team = token(gateway, json!({ "name": "t", "role": "viewer", "team": "team-in" })).await;
    let user = token(gateway, json!({ "name": "u", "user": "user-in" })).await;
    let names = async |token: &str, kind: &str| {
        let answer = ask(gateway, Some(token), "GET", &format!("/api/v1/{kind}"), &Value::Null).await;
        assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
        let rows = answer.json()["data"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| row["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&team, "teams").await, ["team-in"]);
    assert_eq!(names(&team, "users").await, ["user-in"]);
    assert_eq!(names(&team, "service-accounts").await, ["bot-in"]);
    assert_eq!(names(&team, "keys").await, ["in"]);
    assert_eq!(names(&team, "organisations").await, [""; 0]);
    assert_eq!(names(&user, "keys").await, ["in"], "his own");
    assert_eq!(names(&user, "users").await, ["user-in"]);

    // Requests and sums of them, too.
    for side in ["in", "out"] {
        let key = own(gateway, "POST", "/api/v1/keys", json!({ "name": "x", "team": format!("team-{side}") })).await;
        assert_eq!(chat(gateway, key["key"].as_str().expect("a key"), "mock", json!({})).await.status, 200);
    }
    gateway.record(2).await;
    let rows = async |token: &str, path: &str| {
        let answer = ask(gateway, Some(token), "GET", path, &Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["data"].as_array().cloned().unwrap_or_default()
    };
    let seen = rows(&team, "/api/v1/requests").await;
    assert!(seen.len() == 1 && seen[0]["team"] == "team-in", "{seen:?}");
    assert!(rows(&user, "/api/v1/requests").await.is_empty(), "a developer sees his own");
    let id = {
        let all = own(gateway, "GET", "/api/v1/requests?team=team-out", Value::Null).await;
        all["data"][0]["id"].as_str().expect("an id").to_owned()
    };
    assert_eq!(ask(gateway, Some(&team), "GET", &format!("/api/v1/requests/{id}"), &Value::Null).await.status, 403);
    let sums = rows(&team, "/api/v1/usage?group_by=team").await;
    assert!(sums.len() == 1 && sums[0]["team"] == "team-in", "{sums:?}");
    // Budgets of the own team, of its users and of its keys; and raises of them.
    for side in ["in", "out"] {
        let terms = json!({ "budget": { "usd": 5, "per": "total" } });
        for path in [format!("teams/team-{side}"), format!("users/user-{side}"), format!("organisations/org-{side}")] {
            own(gateway, "PATCH", &format!("/api/v1/{path}"), terms.clone()).await;
        }
        let new = json!({ "name": "y", "user": format!("user-{side}"), "budget": { "usd": 5, "per": "total" } });
        let key = own(gateway, "POST", "/api/v1/keys", new).await;
        assert_eq!(chat(gateway, key["key"].as_str().expect("a key"), "mock", json!({})).await.status, 200);
        let raise = json!({ "scope": format!("user:user-{side}"), "usd": 1, "until": "1h", "reason": "x" });
        own(gateway, "POST", "/api/v1/budgets/raise", raise).await;
    }
    assert_eq!(own(gateway, "GET", "/api/v1/budgets", Value::Null).await["data"].as_array().expect("rows").len(), 8);
    let scopes = async |token: &str, path: &str| {
        let rows = rows(token, path).await;
        rows.iter().map(|row| row["scope"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let budgets = scopes(&team, "/api/v1/budgets").await;
    assert!(budgets.len() == 3 && budgets.iter().all(|scope| !scope.ends_with("-out")), "{budgets:?}");
    assert!(
        budgets.contains(&"team:team-in".to_owned()) && budgets.contains(&"user:user-in".to_owned()),
        "{budgets:?}"
    );
    assert_eq!(scopes(&team, "/api/v1/budgets/raises").await, ["user:user-in"]);
    let outside = token(gateway, json!({ "name": "o", "role": "admin", "organisation": "org-out" })).await;
    let budgets = scopes(&outside, "/api/v1/budgets").await;
    assert!(budgets.len() == 4 && budgets.iter().all(|scope| !scope.ends_with("-in")), "{budgets:?}");
    let whoami = ask(gateway, Some(&user), "GET", "/api/v1/whoami", &Value::Null).await.json();
    assert_eq!((&whoami["user"], &whoami["roles"][0]["role"]), (&json!("user-in"), &json!("developer")));
}

#[tokio::test]
async fn with_an_admin_token_its_holder_is_the_owner_and_scoped_tokens_come_in_beside() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("token"), "the owner's word").expect("written");
    let config = format!("{CLOSED}[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"file:token\"\n");
    let gateway = Gateway::in_dir(dir, &config).await;
    let get = async |token: Option<&str>, path: &str| ask(&gateway, token, "GET", path, &Value::Null).await;
    assert_eq!(get(None, "/api/v1/keys").await.status, 401);
    assert_eq!(get(Some("another word"), "/api/v1/keys").await.status, 401);
    let made = ask(
        &gateway,
        Some("the owner's word"),
        "POST",
        "/api/v1/tokens",
        &json!({ "name": "v", "role": "viewer", "expires": "1h" }),
    )
    .await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let token = made["token"].as_str().expect("a token");
    assert_eq!(get(Some(token), "/api/v1/keys").await.status, 200);
    let refused = ask(&gateway, Some(token), "POST", "/api/v1/keys", &json!({ "name": "k" })).await;
    assert!(refused.status == 403 && refused.text().contains("keys.create"), "{}", refused.text());
    // It is no key, and a key is no token.
    let answer = chat(&gateway, token, "mock", json!({})).await;
    assert!(answer.status == 401 && answer.text().contains("admin API"), "{}", answer.text());
    let id = made["id"].as_str().expect("an id");
    let revoked =
        ask(&gateway, Some("the owner's word"), "DELETE", &format!("/api/v1/tokens/{id}"), &Value::Null).await;
    assert_eq!(revoked.json()["status"], "revoked");
    assert_eq!(get(Some(token), "/api/v1/keys").await.status, 401);
    assert_eq!(get(Some(&format!("sk-pca-{}", "A".repeat(43))), "/api/v1/keys").await.status, 401);
}

#[tokio::test]
async fn a_plus_in_a_path_is_a_plus() {
    let gateway = Gateway::start("").await;
    assert_eq!(gateway.admin("POST", "/api/v1/teams", r#"{"name": "r+d"}"#).await.status, 201);
    for path in ["/api/v1/teams/r+d", "/api/v1/teams/r%2Bd"] {
        assert_eq!(gateway.admin("GET", path, "").await.json()["name"], "r+d", "{path}");
    }
}
