//! Callers with signed tokens of an issuer, through the real gateway: an issuer whose server is scripted, tokens that are good,
//! expired, forged and confused, and how often the issuer is asked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use jsonwebtoken::{Algorithm, EncodingKey, crypto, jwk::Jwk};
use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Say, Upstream, eventually};

/// An RSA key, and how its issuer shows it.
struct Signer {
    key: EncodingKey,
    kid: String,
    jwk: Value,
}

impl Signer {
    fn new(kid: &str) -> Signer {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der: Pkcs8V1Der<'_> = pair.as_der().expect("its form");
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..(at + 64).min(text.len())]).collect();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a key");
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).expect("a public key")).expect("JSON");
        jwk["kid"] = kid.into();
        jwk["use"] = "sig".into();
        Signer { key, kid: kid.to_owned(), jwk }
    }

    fn sign(&self, claims: &Value) -> String {
        signed(&json!({ "alg": "RS256", "kid": self.kid }), claims, &self.key, Algorithm::RS256)
    }
}

fn signed(header: &Value, claims: &Value, key: &EncodingKey, algorithm: Algorithm) -> String {
    let text = [B64.encode(header.to_string()), B64.encode(claims.to_string())].join(".");
    let signature = crypto::sign(text.as_bytes(), key, algorithm).expect("signed");
    format!("{text}.{signature}")
}

fn shown(signers: &[&Signer]) -> Say {
    Say::json(json!({ "keys": signers.iter().map(|s| s.jwk.clone()).collect::<Vec<_>>() }).to_string())
}

fn claims(more: Value) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now").as_secs();
    let mut all =
        json!({ "iss": "https://id.example", "aud": "portcullis", "sub": "ada", "exp": now + 600, "groups": ["lab"] });
    for (name, value) in more.as_object().expect("claims") {
        match value {
            Value::Null => drop(all.as_object_mut().expect("claims").remove(name)),
            value => all[name] = value.clone(),
        }
    }
    all
}

async fn gateway(issuer: &Upstream, more: &str) -> Gateway {
    Gateway::start(&format!(
        "[auth]\nrequired = true\n[auth.jwt.corp]\nissuer = \"https://id.example\"\naudience = \"portcullis\"\n\
         jwks = \"http://{}/keys\"\nclaims = {{ team = \"groups\", tags = {{ dept = \"department\" }} }}\n{more}\n\
         [teams.lab]\nmodels = [\"mock\"]\n",
        issuer.addr
    ))
    .await
}

async fn chat(gateway: &Gateway, token: &str, model: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] }).to_string();
    gateway.post_with("/v1/chat/completions", &[("authorization", &bearer)], &body).await
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_signed_token_calls_as_its_user_and_is_bound_by_its_team() {
    let signer = Signer::new("one");
    let issuer = Upstream::saying(shown(&[&signer])).await;
    let gateway = gateway(&issuer, "").await;
    let token = signer.sign(&claims(json!({ "department": "physics" })));
    for _ in 0..3 {
        let answer = chat(&gateway, &token, "mock").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(issuer.heard().len(), 1, "it is known by its hash");
    let refused = chat(&gateway, &token, "mock/other").await;
    assert_eq!((refused.status, code(&refused)), (403, "model_not_allowed".to_owned()));
    let record = gateway.record(4).await;
    assert_eq!((&record["team"], &record["tags"]["dept"]), (&json!("lab"), &json!("physics")));
    assert!(record["key_id"].as_str().is_some_and(|id| id.starts_with("jwt_")), "{record}");
    assert!(!record.to_string().contains(&token[..40]), "a token is not kept");
    // Virtual keys go on as before.
    let (_, key) = gateway.key(r#"{"name":"k"}"#).await;
    assert_eq!(chat(&gateway, &key, "mock").await.status, 200);
    // Two users without a team are two tenants, and one user is the same each time.
    let ids = async |sub: &str| {
        let token = signer.sign(&claims(json!({ "sub": sub, "groups": null })));
        let answer = chat(&gateway, &token, "mock").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let request = answer.header("x-request-id").expect("an id").to_owned();
        let mut id = String::new();
        eventually("it is settled", async || {
            let row = gateway.admin("GET", &format!("/api/v1/requests/{request}"), "").await;
            if row.status == 200 {
                assert!(row.json()["team"].is_null());
                id = row.json()["key_id"].as_str().unwrap_or_default().to_owned();
            }
            row.status == 200
        })
        .await;
        id
    };
    let (bob, eve) = (ids("bob").await, ids("eve").await);
    assert_ne!(bob, eve);
}

#[tokio::test]
async fn tokens_that_are_not_good_are_refused_and_say_why() {
    let signer = Signer::new("one");
    let issuer = Upstream::saying(shown(&[&signer])).await;
    let gateway = gateway(&issuer, "required = [\"department\"]").await;
    let all = claims(json!({ "department": "x" }));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now").as_secs();
    assert_eq!(chat(&gateway, &signer.sign(&all), "mock").await.status, 200);
    for (more, what) in [
        (json!({ "exp": now - 3_600 }), "token_expired"),
        (json!({ "exp": null }), "exp"),
        (json!({ "aud": "elsewhere" }), "audience"),
        (json!({ "iss": "https://evil.example" }), "issuer"),
        (json!({ "nbf": now + 3_600 }), "in force"),
        (json!({ "sub": null }), "sub"),
        (json!({ "department": null }), "department"),
    ] {
        let mut claims = claims(json!({ "department": "x" }));
        for (name, value) in more.as_object().expect("claims") {
            match value {
                Value::Null => drop(claims.as_object_mut().expect("claims").remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        let answer = chat(&gateway, &signer.sign(&claims), "mock").await;
        assert!(answer.status == 401 && answer.text().contains(what), "{more}: {} {}", answer.status, answer.text());
    }
    // The public key as the secret of an HMAC: the oldest confusion.
    let public = signer.jwk["n"].as_str().expect("n");
    let modulus = B64.decode(public).expect("bytes");
    for secret in [public.as_bytes(), &modulus, signer.jwk.to_string().as_bytes()] {
        let header = json!({ "alg": "HS256", "kid": "one", "typ": "JWT" });
        let forged = signed(&header, &all, &EncodingKey::from_secret(secret), Algorithm::HS256);
        let answer = chat(&gateway, &forged, "mock").await;
        assert_eq!((answer.status, code(&answer)), (401, "invalid_token".to_owned()), "{}", answer.text());
    }
    let unsigned = format!("{}.{}.", B64.encode(r#"{"alg":"none","typ":"JWT"}"#), B64.encode(all.to_string()));
    assert_eq!(chat(&gateway, &unsigned, "mock").await.status, 401);
    let stranger = Signer::new("one");
    assert_eq!(chat(&gateway, &stranger.sign(&all), "mock").await.status, 401, "another key of the same id");
    let team = chat(&gateway, &signer.sign(&claims(json!({ "department": "x", "groups": ["nowhere"] }))), "mock").await;
    assert_eq!((team.status, code(&team)), (403, "team_unknown".to_owned()));
}

#[tokio::test]
async fn a_rotation_is_found_and_a_storm_of_unknown_keys_makes_one_fetch() {
    let (old, new, foreign) = (Signer::new("old"), Signer::new("new"), Signer::new("foreign"));
    let issuer = Upstream::saying(shown(&[&old])).await;
    let gateway = std::sync::Arc::new(gateway(&issuer, "").await);
    assert_eq!(chat(&gateway, &old.sign(&claims(json!({}))), "mock").await.status, 200);
    issuer.always(shown(&[&old, &new]).wait(Duration::from_millis(50)));
    let storm: Vec<_> = (0..40)
        .map(|n| {
            let gateway = gateway.clone();
            let token = new.sign(&claims(json!({ "sub": format!("u{n}") })));
            tokio::spawn(async move { chat(&gateway, &token, "mock").await.status })
        })
        .collect();
    for caller in storm {
        assert_eq!(caller.await.expect("answered"), 200);
    }
    assert_eq!(issuer.heard().len(), 2, "one fetch for all who missed the new key");
    for n in 0..40 {
        let token = foreign.sign(&claims(json!({ "sub": format!("x{n}") })));
        assert_eq!(chat(&gateway, &token, "mock").await.status, 401);
    }
    assert_eq!(issuer.heard().len(), 2, "and none for keys that are not there");
}

#[tokio::test]
async fn without_the_issuers_keys_nobody_comes_in_and_those_at_hand_hold() {
    let signer = Signer::new("one");
    let issuer = Upstream::start().await;
    issuer.always(Say::error(500, "down"));
    let gateway = gateway(&issuer, "").await;
    let refused = chat(&gateway, &signer.sign(&claims(json!({}))), "mock").await;
    assert_eq!((refused.status, code(&refused)), (503, "issuer_unreachable".to_owned()), "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    issuer.always(shown(&[&signer]));
    eventually("the issuer is asked again", async || {
        chat(&gateway, &signer.sign(&claims(json!({}))), "mock").await.status == 200
    })
    .await;
    issuer.always(Say::error(500, "down"));
    let other = signer.sign(&claims(json!({ "sub": "bob" })));
    assert_eq!(chat(&gateway, &other, "mock").await.status, 200);
}

/// At the control plane: the issuer's own keys, for who was let in, with what the file says of their groups.
#[tokio::test]
async fn a_signed_token_administers_what_its_claims_permit_and_only_where_the_file_lets_it_in() {
    let signer = Signer::new("one");
    let issuer = Upstream::saying(shown(&[&signer])).await;
    let config = |admin: &str| {
        format!(
            "[auth]\nrequired = true\n[auth.jwt.corp]\nissuer = \"https://id.example\"\naudience = \"portcullis\"\n\
             jwks = \"http://{}/keys\"\nclaims = {{ team = \"groups\", roles = \"department\" }}\n{admin}\
             [auth.jwt.corp.roles]\nleads = \"admin\"\nops = [\"operator@everything\", \"billing\"]\n[teams.lab]\n[teams.other]\n",
            issuer.addr
        )
    };
    let gateway = Gateway::start(&config("")).await;
    let ask = async |token: &str, method: &str, path: &str, body: &str| {
        let (host, bearer) = (gateway.admin.to_string(), format!("Bearer {token}"));
        let headers = [("host", host.as_str()), ("authorization", &bearer), ("content-type", "application/json")];
        crate::support::request(gateway.admin, method, path, &headers, body.as_bytes()).await
    };
    let lead = signer.sign(&claims(json!({ "department": "leads" })));
    let refused = ask(&lead, "GET", "/api/v1/whoami", "").await;
    assert!(refused.status == 401 && refused.text().contains("auth.jwt.corp.admin"), "{}", refused.text());
    assert_eq!(issuer.heard().len(), 0, "nobody was asked for its sake");
    gateway.rewrite(&config("admin = true\n"));
    eventually("it is let in", async || ask(&lead, "GET", "/api/v1/whoami", "").await.status == 200).await;
    let who = ask(&lead, "GET", "/api/v1/whoami", "").await.json();
    assert_eq!(
        (&who["name"], &who["issuer"], &who["roles"]),
        (&json!("user ada (corp)"), &json!("corp"), &json!([{ "role": "admin", "over": "team", "name": "lab" }])),
        "{who}"
    );
    let key = |team: &str| format!("{{\"name\":\"k\",\"team\":\"{team}\"}}");
    assert_eq!(ask(&lead, "POST", "/api/v1/keys", &key("lab")).await.status, 201);
    assert_eq!(ask(&lead, "POST", "/api/v1/keys", &key("other")).await.status, 403);
    assert_eq!(ask(&lead, "POST", "/api/v1/config/reload", "").await.status, 403);
    let ops = signer.sign(&claims(json!({ "sub": "olga", "department": "ops" })));
    assert_eq!(ask(&ops, "POST", "/api/v1/config/reload", "").await.status, 200);
    // It gives away no more than it holds.
    let more = r#"{"name":"t","role":"owner"}"#;
    assert_eq!(ask(&ops, "POST", "/api/v1/tokens", more).await.status, 403);
    let log = gateway.admin("GET", "/api/v1/audit?actor=user&action=keys.create", "").await.json();
    let row = &log["data"][0];
    assert_eq!(
        (&row["actor"]["kind"], &row["actor"]["id"], &row["actor"]["role"]),
        (&json!("user"), &json!("ada"), &json!("admin")),
        "{log}"
    );
    // Nothing of what a forger may try.
    let all = claims(json!({ "department": "ops" }));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now").as_secs();
    let public = signer.jwk["n"].as_str().expect("n").to_owned();
    for token in [
        signed(
            &json!({ "alg": "HS256", "kid": "one" }),
            &all,
            &EncodingKey::from_secret(public.as_bytes()),
            Algorithm::HS256,
        ),
        format!("{}.{}.", B64.encode(r#"{"alg":"none"}"#), B64.encode(all.to_string())),
        Signer::new("one").sign(&all),
        signer.sign(&claims(json!({ "department": "ops", "exp": now - 3_600 }))),
        signer.sign(&claims(json!({ "department": "ops", "aud": "elsewhere" }))),
        signer.sign(&claims(json!({ "department": "ops", "exp": null }))),
    ] {
        let answer = ask(&token, "GET", "/api/v1/whoami", "").await;
        assert_eq!(answer.status, 401, "{}", answer.text());
    }
    let idle = ask(&signer.sign(&claims(json!({ "department": "owner" }))), "GET", "/api/v1/models", "").await;
    assert_eq!((idle.status, code(&idle)), (403, "not_permitted".to_owned()), "{}", idle.text());
}
