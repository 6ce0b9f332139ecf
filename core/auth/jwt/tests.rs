//! Signed tokens: which are taken, which are refused and why, and how often an issuer is asked for its keys.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::json;

use super::*;
use crate::{
    auth::Table,
    config::{Configured, Secret, Team, jwt::Claims},
};

mod admin;

/// A signing key, and how its issuer shows it.
struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    kid: &'static str,
    jwk: Value,
}

impl Signer {
    /// Of P-256.
    fn new(kid: &'static str) -> Signer {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
        let random = aws_lc_rs::rand::SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        let point = pair.public_key().as_ref();
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256",
            "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..65]),
        });
        Signer { key: EncodingKey::from_ec_der(pkcs8.as_ref()), algorithm: Algorithm::ES256, kid, jwk }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" }), claims)
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let signed = [B64.encode(header.to_string()), B64.encode(claims.to_string())].join(".");
        let signature = crypto::sign(signed.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{signed}.{signature}")
    }
}

/// An issuer's server.
#[derive(Default)]
struct Server {
    keys: Mutex<Option<Value>>,
    asked: AtomicUsize,
}

impl Server {
    fn shows(&self, signers: &[&Signer]) {
        let keys: Vec<&Value> = signers.iter().map(|signer| &signer.jwk).collect();
        *self.keys.lock().unwrap() = Some(json!({ "keys": keys }));
    }
}

impl Outside for Server {
    fn keys(&self, _: Url, _: bool) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let keys = self.keys.lock().unwrap().clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            keys.map(|keys| keys.to_string().into_bytes()).ok_or_else(|| "it is down".to_owned())
        })
    }
}

fn settings() -> Settings {
    Settings {
        name: "corp".into(),
        issuer: "https://id.example".into(),
        audience: vec!["portcullis".into()],
        algorithms: crate::config::jwt::ASYMMETRIC.map(str::to_owned).to_vec(),
        proof: Proof::Fetched { url: "https://id.example/keys".parse().unwrap(), private: false },
        leeway: Duration::from_secs(60),
        refresh: Duration::from_secs(600),
        stale: Duration::from_secs(3_600),
        required: vec![],
        claims: Claims {
            user: "sub".into(),
            team: Some("team".into()),
            organisation: None,
            roles: Some("realm.roles".into()),
            tags: vec![("dept".into(), "department".into())],
        },
        team: None,
        roles: None,
        admin: false,
    }
}

fn table(settings: Settings) -> (Table, Arc<Server>) {
    let (table, server) = (Table::new(&[7; 32]), Arc::new(Server::default()));
    table.issuers().configure(&[settings]);
    table.issuers().ask_through(server.clone());
    let teams = std::collections::BTreeMap::from([(
        "hr".to_owned(),
        Team { models: Some(vec!["mock".to_owned()]), ..Team::default() },
    )]);
    table.set_configured(Configured::from(&teams));
    (table, server)
}

fn claims(more: Value) -> Value {
    let now = crate::auth::expiry::to_seconds(SystemTime::now());
    let mut all = json!({
        "iss": "https://id.example", "aud": ["other", "portcullis"], "sub": "ada", "exp": now + 300, "team": "hr",
        "realm": { "roles": ["developer", "chemist"] }, "department": "r=d",
    });
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
            value => all[name] = value.clone(),
        }
    }
    all
}

async fn refused(table: &Table, token: &str) -> (u16, String) {
    let error = table.verify(token, SystemTime::now()).await.map(|who| who.key_id.clone()).unwrap_err();
    (error.status(), format!("{}: {}", error.code(), error.message))
}

#[tokio::test]
async fn a_token_becomes_a_caller_with_its_claims() {
    let (table, server) = table(settings());
    let signer = Signer::new("one");
    server.shows(&[&signer]);
    let token = signer.sign(&claims(json!({})));
    assert!(table.authenticate(Some(&token), SystemTime::now()).is_err(), "it was not checked yet");
    let who = table.verify(&token, SystemTime::now()).await.unwrap();
    assert_eq!((who.user.as_deref(), who.team.as_deref(), &*who.key_name), (Some("ada"), Some("hr"), "ada"));
    assert!(who.key_id.starts_with("jwt_") && who.may_use("mock") && !who.may_use("other"));
    assert_eq!(*who.roles, ["developer", "chemist"], "scripts see all of them");
    assert_eq!(who.tags().collect::<Vec<_>>(), [&("dept".to_owned(), "rd".to_owned())]);
    assert!(who.admits(crate::model::Operation::Chat, None).is_ok());
    let known = table.authenticate(Some(&token), SystemTime::now()).unwrap();
    assert!(Arc::ptr_eq(&who, &known), "known by its whole hash");
    let mut other = token.clone();
    other.pop();
    assert!(table.authenticate(Some(&other), SystemTime::now()).is_err(), "and by nothing less");
    let later = SystemTime::now() + Duration::from_secs(361);
    assert!(table.authenticate(Some(&token), later).is_err(), "until it ends");
    assert_eq!(server.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn wrong_tokens_are_refused_and_say_why() {
    let (table, server) = table(Settings { required: vec!["department".into()], ..settings() });
    let signer = Signer::new("one");
    server.shows(&[&signer]);
    let now = crate::auth::expiry::to_seconds(SystemTime::now());
    for (more, word) in [
        (json!({ "exp": null }), "exp"),
        (json!({ "exp": now - 61 }), "token_expired"),
        (json!({ "exp": "soon" }), "exp"),
        (json!({ "nbf": now + 120 }), "not in force yet"),
        (json!({ "aud": "elsewhere" }), "another audience"),
        (json!({ "aud": null }), "another audience"),
        (json!({ "iss": "https://evil.example" }), "issuer"),
        (json!({ "sub": null }), "lacks the claim sub"),
        (json!({ "sub": 5 }), "lacks the claim sub"),
        (json!({ "department": null }), "lacks the claim department"),
    ] {
        let (status, why) = refused(&table, &signer.sign(&claims(more.clone()))).await;
        assert!(status == 401 && why.contains(word), "{more}: {why}");
    }
    // Within the leeway it is taken.
    assert!(table.verify(&signer.sign(&claims(json!({ "exp": now - 30 }))), SystemTime::now()).await.is_ok());
    let good = signer.sign(&claims(json!({})));
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let forged = B64.encode(claims(json!({ "sub": "root" })).to_string());
    for bad in [
        format!("{head}.{forged}.{signature}"),
        format!("{head}.{body}."),
        format!("{head}.{body}"),
        format!("{head}.{body}.{signature}.x"),
        format!("{head}.{body}.{}", &signature[1..]),
        "eyJhbGciOiJIUzI1NiJ9".to_owned(),
    ] {
        assert_eq!(refused(&table, &bad).await.0, 401, "{bad}");
    }
}

#[tokio::test]
async fn confused_algorithms_are_refused() {
    let (table, server) = table(settings());
    let signer = Signer::new("one");
    let secret_in_public = json!({ "kty": "oct", "kid": "shared", "k": B64.encode([9; 32]) });
    *server.keys.lock().unwrap() = Some(json!({ "keys": [signer.jwk, secret_in_public] }));
    let all = claims(json!({}));
    // Signed with the public key as if it were a secret.
    let public = signer.jwk.to_string();
    for (key, kid) in [(public.as_bytes(), "one"), (&[9; 32][..], "shared")] {
        let hmac = Signer { key: EncodingKey::from_secret(key), algorithm: Algorithm::HS256, kid, jwk: Value::Null };
        let (status, why) = refused(&table, &hmac.sign_as(&json!({ "alg": "HS256", "kid": kid }), &all)).await;
        assert!(status == 401 && why.contains("algorithm"), "{why}");
    }
    for algorithm in ["none", "None", "RS256", "ES384", "EdDSA", "HS256", ""] {
        let token = signer.sign_as(&json!({ "alg": algorithm, "kid": "one" }), &all);
        assert_eq!(refused(&table, &token).await.0, 401, "{algorithm}");
    }
    let unsigned = format!("{}.{}.", B64.encode(r#"{"alg":"none"}"#), B64.encode(all.to_string()));
    assert_eq!(refused(&table, &unsigned).await.0, 401);
    let critical = signer.sign_as(&json!({ "alg": "ES256", "kid": "one", "crit": ["b64"], "b64": false }), &all);
    assert!(refused(&table, &critical).await.1.contains("crit"));
    // An issuer with a secret takes nothing else.
    let secret = Settings {
        proof: Proof::Secret(Secret::new("0123456789abcdef0123456789abcdef")),
        algorithms: vec!["HS256".into()],
        ..settings()
    };
    let (table, _) = self::table(secret);
    let hmac = Signer {
        key: EncodingKey::from_secret(b"0123456789abcdef0123456789abcdef"),
        algorithm: Algorithm::HS256,
        kid: "x",
        jwk: Value::Null,
    };
    assert!(table.verify(&hmac.sign_as(&json!({ "alg": "HS256" }), &all), SystemTime::now()).await.is_ok());
    assert_eq!(refused(&table, &signer.sign(&all)).await.0, 401);
}

#[tokio::test]
async fn a_storm_of_unknown_keys_makes_one_fetch_and_a_rotation_is_found() {
    let (table, server) = table(settings());
    let table = Arc::new(table);
    let (old, new, foreign) = (Signer::new("old"), Signer::new("new"), Signer::new("foreign"));
    server.shows(&[&old]);
    // Nobody has the keys yet: all wait for one fetch.
    let first = old.sign(&claims(json!({})));
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (table, token) = (table.clone(), first.clone());
            tokio::spawn(async move { table.verify(&token, SystemTime::now()).await.is_ok() })
        })
        .collect();
    for waits in waiting {
        assert!(waits.await.unwrap());
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 1);
    server.shows(&[&old, &new]);
    assert!(table.verify(&new.sign(&claims(json!({}))), SystemTime::now()).await.is_ok(), "a rotation");
    assert_eq!(server.asked.load(Ordering::SeqCst), 2);
    for n in 0..100 {
        let token = foreign.sign(&claims(json!({ "sub": format!("u{n}") })));
        assert_eq!(refused(&table, &token).await.0, 401);
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 2, "an unknown key is asked for once in a while");
}

#[tokio::test]
async fn keys_hold_while_the_issuer_is_down_and_none_is_no_leave() {
    let (table, server) = table(settings());
    let signer = Signer::new("one");
    let token = signer.sign(&claims(json!({})));
    let (status, why) = refused(&table, &token).await;
    assert!(status == 503 && why.contains("issuer_unreachable"), "{why}");
    // It rests for a moment after a failure; another table asks at once.
    let (table, server) = (drop(server), self::table(settings())).1;
    server.shows(&[&signer]);
    assert!(table.verify(&token, SystemTime::now()).await.is_ok());
    *server.keys.lock().unwrap() = None;
    let other = signer.sign(&claims(json!({ "sub": "bob" })));
    assert!(table.verify(&other, SystemTime::now()).await.is_ok(), "the keys at hand hold");
}

#[tokio::test]
async fn teams_and_roles_of_a_token_must_be_known() {
    let (table, server) = table(settings());
    let signer = Signer::new("one");
    server.shows(&[&signer]);
    let chat = crate::model::Operation::Chat;
    let admitted = async |more: Value| {
        let who = table.verify(&signer.sign(&claims(more)), SystemTime::now()).await.unwrap();
        who.admits(chat, None).map_err(|error| format!("{} {}", error.code(), error.message))
    };
    assert!(admitted(json!({ "team": "nowhere" })).await.unwrap_err().contains("team_unknown"));
    assert!(admitted(json!({ "team": ["nowhere", "hr"] })).await.is_ok(), "the first that is known");
    assert!(admitted(json!({ "team": null })).await.is_ok());
    assert!(admitted(json!({ "realm": { "roles": ["viewer"] } })).await.unwrap_err().contains("models.call"));
    assert!(admitted(json!({ "realm": { "roles": ["chemist"] } })).await.unwrap_err().contains("not_permitted"));
    assert!(admitted(json!({ "realm": {} })).await.is_err(), "no role is none");
    // Who is who changes: what was known of a token is read anew.
    let token = signer.sign(&claims(json!({})));
    assert!(table.verify(&token, SystemTime::now()).await.unwrap().may_use("mock"));
    table.set_configured(&std::collections::BTreeMap::new());
    assert!(table.authenticate(Some(&token), SystemTime::now()).is_err());
    assert!(table.verify(&token, SystemTime::now()).await.unwrap().admits(chat, None).is_err());
}
