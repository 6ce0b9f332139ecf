//! Signed tokens at the control plane: whose are taken there, and what their claims permit.

use std::collections::BTreeMap;

use super::*;
use crate::{
    auth::permission::{Actor, Held, Reach},
    config::{Grant, Organisation, Role, User},
};

fn issuer() -> Settings {
    let grants = |names: &[&str]| names.iter().map(|name| Grant::parse(name).unwrap()).collect::<Vec<_>>();
    Settings {
        admin: true,
        roles: Some(BTreeMap::from([
            ("leads".to_owned(), grants(&["admin"])),
            ("platform".to_owned(), grants(&["operator@everything", "viewer@team:it"])),
            ("self-service".to_owned(), grants(&["developer@self"])),
        ])),
        claims: Claims { organisation: Some("org".into()), ..settings().claims },
        ..settings()
    }
}

/// Teams hr and it, the user ada in hr and it, and eve, who is disabled.
fn world(settings: Settings) -> (Table, Signer) {
    let (table, server) = table(settings);
    let signer = Signer::new("one");
    server.shows(&[&signer]);
    let teams = ["hr", "it"].map(|name| (name.to_owned(), Team::default())).into();
    let ada =
        User { teams: vec!["hr".into(), "it".into()], roles: vec![Grant::parse("viewer").unwrap()], ..User::default() };
    let users = [("ada".to_owned(), ada), ("eve".to_owned(), User { disabled: true, ..User::default() })].into();
    let organisations = [("acme".to_owned(), Organisation::default())].into();
    table.set_configured(Configured { organisations: &organisations, teams: &teams, users: &users });
    (table, signer)
}

async fn acts(table: &Table, signer: &Signer, more: Value) -> Result<Actor> {
    table.signed_actor(&signer.sign(&claims(more)), SystemTime::now()).await
}

fn held(role: Role, reach: Reach) -> Held {
    Held { role, reach }
}

#[tokio::test]
async fn a_claim_means_what_the_file_says_and_nothing_else_does() {
    let (table, signer) = world(issuer());
    let hr = || Reach::Team("hr".into());
    for (roles, expected) in [
        (json!(["leads"]), vec![held(Role::Admin, hr())]),
        (
            json!(["platform"]),
            vec![held(Role::Operator, Reach::Everything), held(Role::Viewer, Reach::Team("it".into()))],
        ),
        (json!("leads self-service"), vec![held(Role::Admin, hr()), held(Role::Developer, Reach::User("bob".into()))]),
        // Names of roles are values like others here, and say nothing.
        (json!(["owner", "owner@everything", "admin"]), vec![]),
        (json!([]), vec![]),
        (json!(null), vec![]),
        (json!(7), vec![]),
    ] {
        let actor = acts(&table, &signer, json!({ "sub": "bob", "realm": { "roles": roles } })).await.unwrap();
        assert_eq!(actor.holds.to_vec(), expected, "{roles}");
        assert_eq!(
            (&*actor.name, actor.user.as_deref(), actor.issuer.as_deref()),
            ("user bob (corp)", Some("bob"), Some("corp"))
        );
        assert_eq!(actor.token, None);
    }
}

#[tokio::test]
async fn without_a_meaning_a_value_is_a_role_over_the_own_teams_and_never_over_more() {
    let (table, signer) = world(Settings { roles: None, ..issuer() });
    let actor = acts(
        &table,
        &signer,
        json!({ "sub": "bob", "realm": { "roles": ["owner", "owner@everything", "admin@team:it"] } }),
    )
    .await;
    assert_eq!(actor.unwrap().holds.to_vec(), [held(Role::Owner, Reach::Team("hr".into()))]);
    let nowhere = json!({ "sub": "bob", "team": null, "realm": { "roles": ["owner"] } });
    assert_eq!(
        acts(&table, &signer, nowhere).await.unwrap().holds.to_vec(),
        [held(Role::Owner, Reach::User("bob".into()))]
    );
    let of = |org: &str| json!({ "sub": "bob", "team": null, "org": org, "realm": { "roles": ["viewer"] } });
    let acme = acts(&table, &signer, of("acme")).await.unwrap();
    assert_eq!(acme.holds.to_vec(), [held(Role::Viewer, Reach::Organisation("acme".into()))]);
    assert_eq!(acts(&table, &signer, of("other")).await.unwrap_err().code(), "organisation_unknown");
}

#[tokio::test]
async fn a_known_user_is_held_to_its_teams_and_a_disabled_one_to_nothing() {
    let (table, signer) = world(issuer());
    let lead = |sub: &str, team: Value| json!({ "sub": sub, "team": team, "realm": { "roles": ["leads"] } });
    let reaches = async |claims: Value| {
        let actor = acts(&table, &signer, claims).await.map_err(|error| error.code().to_owned())?;
        Ok::<_, String>(actor.holds.iter().map(|held| held.reach.clone()).collect::<Vec<_>>())
    };
    let team = |name: &str| Reach::Team(name.into());
    assert_eq!(reaches(lead("ada", json!("it"))).await, Ok(vec![team("it")]), "no more than the token names");
    assert_eq!(reaches(lead("ada", json!(null))).await, Ok(vec![team("hr"), team("it")]));
    assert_eq!(reaches(lead("ada", json!(["nowhere"]))).await, Err("team_unknown".to_owned()));
    assert_eq!(reaches(lead("eve", json!(null))).await, Err("user_disabled".to_owned()));
    // An issuer that says nothing of roles: what the gateway's own users were given, and strangers nothing.
    let silent = Settings { roles: None, claims: Claims { roles: None, ..issuer().claims }, ..issuer() };
    let (table, signer) = world(silent);
    let ada = acts(&table, &signer, json!({ "team": "hr", "realm": { "roles": ["owner"] } })).await.unwrap();
    assert_eq!(ada.holds.to_vec(), [held(Role::Viewer, team("hr"))]);
    assert!(acts(&table, &signer, json!({ "sub": "bob" })).await.unwrap().holds.is_empty());
}

#[tokio::test]
async fn what_is_refused_of_callers_is_refused_there_and_so_are_issuers_that_were_not_let_in() {
    let (table, signer) = world(issuer());
    let now = crate::auth::expiry::to_seconds(SystemTime::now());
    for more in [
        json!({ "exp": null }),
        json!({ "exp": now - 61 }),
        json!({ "aud": "elsewhere" }),
        json!({ "aud": null }),
        json!({ "iss": "https://evil.example" }),
        json!({ "sub": null }),
    ] {
        assert_eq!(acts(&table, &signer, more.clone()).await.unwrap_err().status(), 401, "{more}");
    }
    let all = claims(json!({ "realm": { "roles": ["platform"] } }));
    let public = signer.jwk.to_string();
    let confused = Signer {
        key: EncodingKey::from_secret(public.as_bytes()),
        algorithm: Algorithm::HS256,
        kid: "one",
        jwk: Value::Null,
    };
    let forged = Signer::new("one");
    for token in [
        confused.sign_as(&json!({ "alg": "HS256", "kid": "one" }), &all),
        forged.sign(&all),
        signer.sign_as(&json!({ "alg": "none", "kid": "one" }), &all),
        format!("{}.{}.", B64.encode(r#"{"alg":"none"}"#), B64.encode(all.to_string())),
        "eyJ".to_owned(),
    ] {
        assert_eq!(table.signed_actor(&token, SystemTime::now()).await.unwrap_err().status(), 401, "{token}");
    }
    assert!(table.signed_actor(&signer.sign(&all), SystemTime::now()).await.is_ok());
    // The same token, of an issuer for calls alone: refused before its keys are asked for.
    let (table, server) = self::table(Settings { admin: false, ..issuer() });
    server.shows(&[&signer]);
    let error = table.signed_actor(&signer.sign(&all), SystemTime::now()).await.unwrap_err();
    assert!(error.status() == 401 && error.message.contains("auth.jwt.corp.admin"), "{error}");
    assert_eq!(server.asked.load(Ordering::SeqCst), 0);
}
