//! Organisations, teams, users and tokens in the store: what binds a key through them, who may change them, and what is
//! refused.

use serde_json::{Value, json};

use super::*;
use crate::{
    auth::{
        directory::Sort,
        identities::Thing,
        permission::{Actor, Operation, Reach, Target, permits},
        tokens::NewToken,
    },
    config::{Configured, Role, Scope, User},
    model::Operation as Asked,
};

fn owner() -> Actor {
    Actor::owner("test")
}

async fn make(keys: &Keys, thing: Thing, body: Value) {
    keys.create_identity(thing, body, &owner()).await.unwrap();
}

/// acme with research and hr, and ada in both.
async fn acme() -> Arc<Keys> {
    let keys = keys().await;
    make(&keys, Thing::Organisation, json!({ "name": "acme", "models": ["openai/*"], "tags": { "bill": "acme" } }))
        .await;
    make(
        &keys,
        Thing::Team,
        json!({ "name": "research", "organisation": "acme", "limits": { "requests_per_minute": 5 } }),
    )
    .await;
    make(&keys, Thing::Team, json!({ "name": "hr", "organisation": "acme" })).await;
    make(&keys, Thing::User, json!({ "name": "ada", "teams": ["research", "hr"], "models": ["*/gpt*"] })).await;
    keys
}

fn refused<T: std::fmt::Debug>(result: Result<T>) -> (u16, String) {
    let error = result.unwrap_err();
    (error.status(), format!("{} {}", error.param.clone().unwrap_or_default(), error.message))
}

#[tokio::test]
async fn a_key_is_bound_by_organisation_team_user_and_itself() {
    let keys = acme().await;
    let body =
        json!({ "models": ["openai/gpt-4*"], "limits": { "concurrent": 2 }, "tags": { "bill": "own", "app": "x" } });
    let mut terms = terms::TermsRow::default();
    terms.take(&mut body.as_object().unwrap().clone()).unwrap();
    let new = NewKey { team: Some("research".into()), user: Some("ada".into()), terms, ..named("k") };
    let (info, secret) = keys.create(new).await.unwrap();
    let caller = who(&keys, secret.expose()).unwrap();
    assert_eq!(
        (caller.organisation.as_deref(), caller.team.as_deref(), caller.user.as_deref()),
        (Some("acme"), Some("research"), Some("ada"))
    );
    assert!(caller.may_use("openai/gpt-4o"));
    for not in ["openai/gpt-3", "azure/gpt-4o", "openai/o1"] {
        assert!(!caller.may_use(not), "{not}: all lists must name it");
    }
    let scopes: Vec<&str> = caller.rules.iter().map(|rule| rule.scope.kind()).collect();
    assert_eq!(scopes, ["key", "team"]);
    assert_eq!(caller.rules[0].scope, Scope::Key(info.id.as_str().into()));
    let mut tags: Vec<String> = caller.tags().map(|(name, value)| format!("{name}={value}")).collect();
    tags.dedup();
    assert_eq!(tags, ["app=x", "bill=own", "bill=acme"], "the key's own first");

    // A change binds the next request.
    keys.change_identity(Thing::Organisation, "acme", json!({ "models": ["anthropic/*"] }), &owner()).await.unwrap();
    assert!(!who(&keys, secret.expose()).unwrap().may_use("openai/gpt-4o"));
    keys.change_identity(Thing::Organisation, "acme", json!({ "models": null }), &owner()).await.unwrap();
    assert!(who(&keys, secret.expose()).unwrap().may_use("openai/gpt-4o"));
    keys.change_identity(Thing::User, "ada", json!({ "disabled": true }), &owner()).await.unwrap();
    let denied = who(&keys, secret.expose()).unwrap().admits(Asked::Chat, None).unwrap_err();
    assert_eq!((denied.status(), denied.code()), (403, "user_disabled"));
}

#[tokio::test]
async fn operations_addresses_and_caps_are_looked_at_only_where_somebody_has_them() {
    let keys = keys().await;
    let made = async |body: Value| {
        let mut terms = terms::TermsRow::default();
        terms.take(&mut body.as_object().unwrap().clone()).unwrap();
        let (_, secret) = keys.create(NewKey { terms, ..named("k") }).await.unwrap();
        who(&keys, secret.expose()).unwrap()
    };
    let plain = made(json!({ "models": ["a"], "limits": { "concurrent": 1 } })).await;
    assert!(plain.terms.is_empty() && plain.admits(Asked::Realtime, "1.2.3.4".parse().ok()).is_ok());

    let chat = made(json!({ "operations": ["chat", "embeddings"] })).await;
    assert!(chat.admits(Asked::Chat, None).is_ok());
    assert_eq!(chat.admits(Asked::Rerank, None).unwrap_err().code(), "operation_not_allowed");

    let near = made(json!({ "ip_ranges": ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1"] })).await;
    for (address, allowed) in [
        ("10.9.8.7", true),
        ("11.0.0.1", false),
        ("2001:db8::5", true),
        ("::ffff:10.1.1.1", true),
        ("127.0.0.2", false),
    ] {
        assert_eq!(near.admits(Asked::Chat, address.parse().ok()).is_ok(), allowed, "{address}");
    }
    let capped = made(json!({ "caps": { "max_tokens": 100, "temperature": [0, 1] } })).await;
    assert_eq!(capped.caps().max_tokens, Some(100));
    assert!(capped.admits(Asked::Chat, None).is_ok());
    assert_eq!(capped.admits(Asked::Passthrough, None).unwrap_err().status(), 403, "it could not be held");
}

#[tokio::test]
async fn bad_input_is_refused_with_its_field_and_changes_nothing() {
    let keys = acme().await;
    let before = keys.identities(Thing::User, &owner()).await.unwrap().len();
    for (body, field) in [
        (json!({ "name": "ada" }), "name"),
        (json!({ "name": " x" }), "name"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": "a\nb" }), "name"),
        (json!({ "name": "x", "teams": ["none"] }), "teams[0]"),
        (json!({ "name": "x", "teams": ["hr", "hr"] }), "teams[1]"),
        (json!({ "name": "x", "roles": ["root"] }), "roles"),
        (json!({ "name": "x", "roles": ["admin@team:none"] }), "roles[0]"),
        (json!({ "name": "x", "organisation": "acme", "teams": ["hr"] }), "organisation"),
        (json!({ "name": "x", "email": "nobody" }), "email"),
        (json!({ "name": "x", "models": [] }), "models"),
        (json!({ "name": "x", "limits": { "requests_per_minute": -1 } }), "limits"),
        (json!({ "name": "x", "limits": { "requests_per_minute": 0 } }), "limits.requests_per_minute"),
        (json!({ "name": "x", "budget": { "usd": -5, "per": "month" } }), "budget.usd"),
        (json!({ "name": "x", "budget": { "usd": 5, "per": "year" } }), "budget.per"),
        (json!({ "name": "x", "budget": [{ "usd": 5, "per": "day" }, { "per": "month" }] }), "budget[1].usd"),
        (json!({ "name": "x", "budget": [{ "usd": 5, "per": "day" }, { "usd": 6, "per": "day" }] }), "budget[1].per"),
        (json!({ "name": "x", "budgets": [{ "usd": -5, "per": "month" }] }), "budgets[0].usd"),
        (json!({ "name": "x", "budgets": [{ "usd": 5 }] }), "budgets[0].per"),
        (json!({ "name": "x", "budgets": "50/month" }), "budgets"),
        (json!({ "name": "x", "ip_ranges": ["10.0.0.1/8"] }), "ip_ranges[0]"),
        (json!({ "name": "x", "ip_ranges": [] }), "ip_ranges"),
        (json!({ "name": "x", "operations": ["chatt"] }), "operations[0]"),
        (json!({ "name": "x", "defaults": { "temperature": 9 } }), "defaults.temperature"),
        (json!({ "name": "x", "caps": { "max_tokens": 0 } }), "caps.max_tokens"),
        (json!({ "name": "x", "caps": { "temperature": [1, 0] } }), "caps.temperature"),
        (json!({ "name": "x", "tags": { "a,b": "c" } }), "tags"),
        (json!({ "name": "x", "priority": "highest" }), "priority"),
        (json!({ "name": "x", "modles": ["a"] }), "modles"),
    ] {
        let error = keys.create_identity(Thing::User, body.clone(), &owner()).await.unwrap_err();
        assert_eq!(error.param.as_deref(), Some(field), "{body}: {}", error.message);
        assert!(matches!(error.status(), 400 | 409), "{body}");
    }
    assert_eq!(keys.identities(Thing::User, &owner()).await.unwrap().len(), before);
    let stranger = NewKey { user: Some("bob".into()), ..named("k") };
    assert!(refused(keys.create(stranger).await).1.contains("no user"));
    let which = NewKey { user: Some("ada".into()), ..named("k") };
    assert!(refused(keys.create(which).await).1.contains("several teams"));
    let other = NewKey { user: Some("ada".into()), team: Some("it".into()), ..named("k") };
    assert!(refused(keys.create(other).await).1.contains("not in the team it"));
}

#[tokio::test]
async fn what_others_belong_to_is_not_deleted_and_keys_go_only_when_asked() {
    let keys = acme().await;
    let (status, why) = refused(keys.delete_identity(Thing::Organisation, "acme", true, &owner()).await);
    assert!(status == 409 && why.contains("team hr") && why.contains("team research"), "{why}");
    assert!(refused(keys.delete_identity(Thing::Team, "hr", true, &owner()).await).1.contains("user ada"));
    let new = NewKey { user: Some("ada".into()), team: Some("hr".into()), ..named("k") };
    let (_, secret) = keys.create(new).await.unwrap();
    let (status, why) = refused(keys.delete_identity(Thing::User, "ada", false, &owner()).await);
    assert!(status == 409 && why.contains("1 keys"), "{why}");
    assert!(who(&keys, secret.expose()).is_ok(), "nothing changed");
    let gone = keys.delete_identity(Thing::User, "ada", true, &owner()).await.unwrap();
    assert_eq!((&gone["deleted"], &gone["revoked_keys"]), (&json!(true), &json!(1)));
    assert_eq!(code(who(&keys, secret.expose())), "key_revoked");
    for (thing, name) in [(Thing::Team, "hr"), (Thing::Team, "research"), (Thing::Organisation, "acme")] {
        keys.delete_identity(thing, name, false, &owner()).await.unwrap();
    }
    assert!(keys.table().directory().all(Sort::Team).is_empty());
}

#[tokio::test]
async fn the_file_wins_and_says_so() {
    let keys = acme().await;
    let file = teams(&[("research", &["mock"]), ("ops", &["mock"])]);
    keys.table().set_configured(&file);
    let rows = keys.identities(Thing::Team, &owner()).await.unwrap();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!((&row("research")["source"], &row("research")["shadowed"]), (&json!("file"), &json!(true)));
    assert_eq!((&row("ops")["source"], &row("ops")["shadowed"]), (&json!("file"), &json!(false)));
    assert_eq!((&row("hr")["source"], &row("research")["models"]), (&json!("store"), &json!(["mock"])));
    let change = keys.change_identity(Thing::Team, "research", json!({ "models": ["a"] }), &owner()).await;
    let (status, why) = refused(change);
    assert!(status == 409 && why.contains("gateway.toml") && why.contains("[teams.research]"), "{why}");
    let again = keys.create_identity(Thing::Team, json!({ "name": "ops" }), &owner()).await;
    assert!(refused(again).1.contains("gateway.toml"));
    keys.table().set_configured(&BTreeMap::new());
    let rows = keys.identities(Thing::Team, &owner()).await.unwrap();
    assert!(rows.iter().any(|row| row["name"] == "research" && row["source"] == "store"), "the store's is back");
}

#[tokio::test]
async fn nobody_raises_himself_and_nobody_gives_more_than_he_has() {
    let keys = acme().await;
    make(&keys, Thing::User, json!({ "name": "boss", "teams": ["hr"], "roles": ["admin"] })).await;
    make(&keys, Thing::User, json!({ "name": "root", "teams": ["hr"], "roles": ["owner@everything"] })).await;
    let boss = keys.table().directory().actor("boss").unwrap();
    let change = async |name: &str, body: Value| keys.change_identity(Thing::User, name, body, &boss).await;
    assert!(refused(change("boss", json!({ "roles": ["owner"] })).await).1.contains("himself"));
    assert!(refused(change("boss", json!({ "teams": ["hr", "research"] })).await).0 == 403);
    assert!(refused(change("root", json!({ "models": ["a"] })).await).1.contains("cannot give the role owner"));
    assert_eq!(refused(change("ada", json!({ "models": ["a"] })).await).0, 403, "ada is in another team too");
    let make_user = async |body: Value| keys.create_identity(Thing::User, body, &boss).await;
    assert!(make_user(json!({ "name": "eve", "teams": ["hr"], "roles": ["viewer"] })).await.is_ok());
    for body in [
        json!({ "name": "x", "teams": ["hr"], "roles": ["owner"] }),
        json!({ "name": "x", "teams": ["research"] }),
        json!({ "name": "x", "teams": ["hr"], "roles": ["viewer@everything"] }),
        json!({ "name": "x", "teams": ["hr"], "roles": ["viewer@team:research"] }),
        json!({ "name": "x", "roles": ["viewer@team:hr"] }),
    ] {
        assert_eq!(refused(make_user(body.clone()).await).0, 403, "{body}");
    }
    // What binds a team is not changed by its own admin.
    let own = keys.change_identity(Thing::Team, "hr", json!({ "limits": null, "models": null }), &boss).await;
    assert_eq!(refused(own).0, 403);
}

#[tokio::test]
async fn a_token_may_what_its_roles_say_and_never_more_than_its_user() {
    let keys = acme().await;
    let token = |body: Value| NewToken::read(body.as_object().unwrap().clone(), SystemTime::now()).unwrap();
    let (row, secret) =
        keys.create_token(token(json!({ "name": "fin", "role": "billing", "team": "hr" })), &owner()).await.unwrap();
    assert!(secret.expose().starts_with("sk-pca-") && secret.expose().len() == 50);
    assert!(!row.to_string().contains(&secret.expose()[..46]), "an answer's row never shows it");
    let actor = keys.actor(secret.expose(), SystemTime::now()).unwrap();
    let lies = |team: &str| keys.table().directory().lies(&Reach::Team(team.into()));
    assert!(permits(&actor, Operation::ReadUsage, &lies("hr")).is_ok());
    assert!(permits(&actor, Operation::ReadUsage, &lies("research")).is_err());
    assert!(permits(&actor, Operation::CreateKeys, &lies("hr")).is_err());
    let more = keys.create_token(token(json!({ "name": "x", "role": "owner" })), &actor).await;
    assert_eq!(refused(more).0, 403);

    make(&keys, Thing::ServiceAccount, json!({ "name": "ci", "teams": ["hr"], "roles": ["admin"] })).await;
    let (_, ci) = keys.create_token(token(json!({ "name": "ci", "user": "ci" })), &owner()).await.unwrap();
    let acts = |operation| {
        let actor = keys.actor(ci.expose(), SystemTime::now()).unwrap();
        permits(&actor, operation, &lies("hr")).is_ok()
    };
    assert!(acts(Operation::CreateKeys));
    keys.change_identity(Thing::ServiceAccount, "ci", json!({ "roles": ["viewer"] }), &owner()).await.unwrap();
    assert!(acts(Operation::ReadKeys) && !acts(Operation::CreateKeys), "it follows its user at once");
    keys.change_identity(Thing::ServiceAccount, "ci", json!({ "disabled": true }), &owner()).await.unwrap();
    assert_eq!(keys.actor(ci.expose(), SystemTime::now()).unwrap_err().code(), "user_disabled");

    let id = row["id"].as_str().unwrap();
    keys.revoke_token(id).await.unwrap();
    assert_eq!(keys.actor(secret.expose(), SystemTime::now()).unwrap_err().code(), "token_revoked");
    let (_, short) =
        keys.create_token(token(json!({ "name": "s", "role": "viewer", "expires": "1h" })), &owner()).await.unwrap();
    let later = SystemTime::now() + Duration::from_secs(3_700);
    assert_eq!(keys.actor(short.expose(), later).unwrap_err().code(), "token_expired");
    assert_eq!(keys.actor("sk-pca-nothing", later).unwrap_err().status(), 401);
    for (body, field) in [
        (json!({ "name": "x" }), "roles"),
        (json!({ "name": "x", "role": "king" }), "roles[0]"),
        (json!({ "name": "x", "role": "viewer", "team": "none" }), "team"),
        (json!({ "name": "x", "role": "viewer", "team": "hr", "user": "ada" }), "team"),
        (json!({ "name": "x", "role": "viewer@self" }), "roles[0]"),
    ] {
        let error = keys.create_token(token(body.clone()), &owner()).await.unwrap_err();
        assert_eq!(error.param.as_deref(), Some(field), "{body}");
    }
    let past = NewToken::read(
        json!({ "name": "x", "role": "viewer", "expires": "2020-01-01" }).as_object().unwrap().clone(),
        SystemTime::now(),
    );
    assert_eq!(past.unwrap_err().param.as_deref(), Some("expires"));
}

#[tokio::test]
async fn a_second_gateway_on_the_store_takes_changes_up() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let (one, _) = (keys_on(store.clone()).await, ());
    // A memory store has no master key on disk: the second one hashes with the same.
    let two = Keys {
        table: Arc::new(one.table().twin()),
        store: store.clone(),
        revisions: crate::auth::revision::Revisions::open(store.clone()).await.unwrap(),
        unwritten: Default::default(),
        changes: std::sync::Mutex::new(None),
    };
    let told = [(store::Table::Identities, "t/hr")];
    let (info, secret) = one.create(NewKey { team: Some("hr".into()), ..named("a") }).await.unwrap();
    make(&one, Thing::Team, json!({ "name": "hr", "models": ["mock"] })).await;
    assert_eq!(code(who(&two, secret.expose())), "invalid_api_key");
    let row = |table: store::Table, key: &str| (table, key.as_bytes().to_vec());
    let told = told.map(|(table, key)| row(table, key));
    two.refresh(&[&told[..], &[row(store::Table::Keys, &info.id)]].concat()).await.unwrap();
    let caller = who(&two, secret.expose()).unwrap();
    assert!(caller.may_use("mock") && !caller.may_use("other"));
    // Both change the same store: no change is lost.
    let (second, other) = two.create(named("b")).await.unwrap();
    one.revoke(&info.id, false).await.unwrap();
    one.revoke(&second.id, false).await.unwrap();
    two.refresh(&[row(store::Table::Keys, &info.id), row(store::Table::Keys, &second.id)]).await.unwrap();
    assert_eq!(code(who(&two, secret.expose())), "key_revoked");
    assert_eq!(code(who(&two, other.expose())), "key_revoked");
    let revision = store.read(store::Table::Meta, crate::auth::revision::REVISION).await.unwrap().unwrap();
    assert_eq!(revision, b"5");
}

#[tokio::test]
async fn what_runs_with_a_key_hears_that_it_is_cut_and_nobody_else_does() {
    let keys = keys().await;
    let (first, a) = keys.create(named("a")).await.unwrap();
    let (_, b) = keys.create(named("b")).await.unwrap();
    let (mine, other) = (who(&keys, a.expose()).unwrap(), who(&keys, b.expose()).unwrap());
    let wait = async |caller: Arc<Principal>| {
        let (mut cut, mut watch) = (std::pin::pin!(caller.is_cut()), cut::Watch::of(&caller));
        watch.over(cut.as_mut(), std::future::pending::<()>()).await.unwrap_err().code().to_owned()
    };
    let running = tokio::spawn(wait(mine.clone()));
    let waits = tokio::spawn(wait(other.clone()));
    tokio::task::yield_now().await;
    keys.revoke(&first.id, false).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!running.is_finished(), "a revocation alone lets what runs end by itself");
    keys.revoke(&first.id, true).await.unwrap();
    assert_eq!(running.await.unwrap(), "key_revoked");
    assert!(!waits.is_finished() && mine.was_cut() && !other.was_cut());
    // Whoever begins to wait just now hears it too.
    assert_eq!(wait(mine).await, "key_revoked");
    waits.abort();
}

#[tokio::test]
async fn a_disabled_key_comes_back() {
    let keys = keys().await;
    let (info, secret) = keys.create(named("a")).await.unwrap();
    let change = async |body: Value| keys.change(&info.id, body.as_object().unwrap().clone()).await;
    change(json!({ "disabled": true, "cut": true })).await.unwrap();
    assert_eq!(code(who(&keys, secret.expose())), "key_disabled");
    let shown = change(json!({ "disabled": false })).await.unwrap();
    assert_eq!(shown.status, "active");
    assert!(!who(&keys, secret.expose()).unwrap().was_cut());
    assert!(change(json!({})).await.is_err() && change(json!({ "cut": true })).await.is_err());
    assert!(refused(change(json!({ "colour": 1 })).await).1.contains("colour"));
    assert!(refused(change(json!({ "expires": "2020-01-01" })).await).1.contains("in the past"));
}

#[test]
fn file_users_and_their_roles_bind_keys_too() {
    let users = BTreeMap::from([(
        "ada".to_owned(),
        User { roles: vec![crate::config::Grant::parse("viewer").unwrap()], ..User::default() },
    )]);
    let none = BTreeMap::new();
    let who = Configured { users: &users, ..Configured::from(&none) };
    let directory = directory::Directory::configured(who);
    let mut principal = Principal { user: Some("ada".into()), ..Principal::default() };
    directory.bind(&mut principal);
    let denied = principal.admits(Asked::Chat, None).unwrap_err();
    assert!(denied.status() == 403 && denied.message.contains("models.call"), "{}", denied.message);
    assert_eq!(*principal.roles, ["viewer"]);
    assert_eq!(directory.actor("ada").unwrap().holds[0].role, Role::Viewer);
    assert!(permits(&directory.actor("ada").unwrap(), Operation::ReadKeys, &Target::Gateway).is_err());
}
