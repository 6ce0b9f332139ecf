use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::AsDer,
    rsa::{KeyPair, KeySize},
    signature::{self, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};

use super::*;
use crate::config::{AwsLogin, AwsRole, EntraLogin, GoogleLogin, Login};

/// Answers in order, and what was asked.
struct World {
    answers: Mutex<Vec<(u16, String)>>,
    asked: Mutex<Vec<Ask>>,
    files: Vec<(PathBuf, String)>,
}

impl World {
    fn saying(answers: &[(u16, Value)]) -> World {
        let answers = answers
            .iter()
            .rev()
            .map(|(status, body)| (*status, body.as_str().map_or_else(|| body.to_string(), str::to_owned)));
        World { answers: Mutex::new(answers.collect()), asked: Mutex::default(), files: Vec::new() }
    }

    fn file(mut self, path: &str, text: &str) -> World {
        self.files.push((path.into(), text.to_owned()));
        self
    }

    fn asked(&self) -> Vec<Ask> {
        self.asked.lock().unwrap().clone()
    }
}

impl Outside for World {
    fn send(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, String>> {
        self.asked.lock().unwrap().push(ask);
        let next = self.answers.lock().unwrap().pop();
        Box::pin(async move {
            let (status, body) = next.ok_or("nobody answers")?;
            Ok(Answer { status, body: body.into() })
        })
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        let found = self.files.iter().find(|(p, _)| p == path);
        found.map(|(_, text)| text.clone()).ok_or_else(|| "is not there".to_owned())
    }

    fn now(&self) -> std::time::SystemTime {
        at("2026-11-26T01:02:03Z")
    }
}

fn at(moment: &str) -> std::time::SystemTime {
    moment.parse::<jiff::Timestamp>().unwrap().into()
}

fn granted(source: &Source, world: &World) -> Result<Granted> {
    let mut future = Box::pin(source.grant(world));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(outcome) => outcome,
        std::task::Poll::Pending => panic!("the world answers at once"),
    }
}

fn bearer_of(granted: &Granted) -> String {
    match &granted.identity {
        Identity::Header(name, value) => {
            assert_eq!(*name, AUTHORIZATION);
            assert!(value.is_sensitive());
            value.to_str().unwrap().to_owned()
        }
        Identity::Aws(_) => panic!("not a bearer token"),
    }
}

fn form(ask: &Ask) -> std::collections::BTreeMap<String, String> {
    assert_eq!(ask.headers[CONTENT_TYPE], "application/x-www-form-urlencoded");
    url::form_urlencoded::parse(&ask.body).into_owned().collect()
}

fn keys(session: Option<&str>) -> AwsKeys {
    let session = session.map(Secret::new);
    AwsKeys::new(
        &Secret::new("AKIDEXAMPLE"),
        &Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        session.as_ref(),
    )
}

fn signed(
    keys: &AwsKeys,
    service: &'static str,
    (method, url): (&str, &str),
    headers: HeaderMap,
    body: &[Bytes],
    now: &str,
) -> HeaderMap {
    let scope = Scope { service, region: "us-east-1".to_owned() };
    let mut request = Unsigned { method: method.parse().unwrap(), url: url.parse().unwrap(), headers, body };
    sigv4::sign(keys, &scope, &mut request, at(now)).unwrap();
    request.headers
}

/// `get-vanilla` and `post-vanilla` of the test suite that AWS publishes for Signature Version 4.
#[test]
fn signs_as_the_published_suite_says() {
    for (method, signature) in [
        ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ] {
        let url = (method, "https://example.amazonaws.com/");
        let headers = signed(&keys(None), "service", url, HeaderMap::new(), &[], "2015-08-30T12:36:00Z");
        let expected = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature={signature}"
        );
        assert_eq!(headers[AUTHORIZATION], expected.as_str());
        assert_eq!(headers["x-amz-date"], "20150830T123600Z");
        assert!(headers[AUTHORIZATION].is_sensitive());
    }
}

/// Known answers of botocore 1.43 for the same request: a model's id with an encoded colon, the body in pieces, headers that
/// are not part of the proof.
#[test]
fn signs_a_bedrock_call_as_botocore_does() {
    let body = r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}]}"#;
    let (first, second) = body.split_at(20);
    let pieces = [Bytes::from_static(first.as_bytes()), Bytes::new(), Bytes::from_static(second.as_bytes())];
    let url =
        "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse";
    for (session, names, signature) in [
        (None, "content-type;host;x-amz-date", "c15e2a50e946d4b6ff43cf9183f309afb5683786380fe59fddd7769ab818e318"),
        (
            Some("SESSIONTOKEN"),
            "content-type;host;x-amz-date;x-amz-security-token",
            "d888c0c43fb089ba3077018d645e3fba3ab6945d8e885c7218efca0a69927179",
        ),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("accept-encoding", HeaderValue::from_static("identity"));
        headers.insert("traceparent", HeaderValue::from_static("00-1-2-01"));
        let headers = signed(&keys(session), "bedrock", ("POST", url), headers, &pieces, "2026-11-26T01:02:03Z");
        let expected = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261126/us-east-1/bedrock/aws4_request, SignedHeaders={names}, \
             Signature={signature}"
        );
        assert_eq!(headers[AUTHORIZATION], expected.as_str());
        assert_eq!(headers.get("x-amz-security-token").map(|v| v.to_str().unwrap()), session);
    }
}

#[test]
fn any_change_of_what_is_proven_changes_the_signature() {
    let url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/m/converse";
    let sign = |method: &str, url: &str, body: &'static str, now: &str| {
        let body = [Bytes::from_static(body.as_bytes())];
        let headers = signed(&keys(None), "bedrock", (method, url), HeaderMap::new(), &body, now);
        headers[AUTHORIZATION].to_str().unwrap().to_owned()
    };
    let now = "2026-11-26T01:02:03Z";
    let base = sign("POST", url, "{}", now);
    assert_eq!(base, sign("POST", url, "{}", now));
    for other in [
        sign("PUT", url, "{}", now),
        sign("POST", &url.replace("/m/", "/n/"), "{}", now),
        sign("POST", &format!("{url}?a=b"), "{}", now),
        sign("POST", &url.replace("us-east-1", "us-east-2"), "{}", now),
        sign("POST", url, "{ }", now),
        sign("POST", url, "{}", "2026-11-26T01:02:04Z"),
    ] {
        assert_ne!(base, other);
    }
}

/// A key of our own, in the shape of the file that the console hands out.
fn account(pair: &KeyPair) -> Value {
    let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(pair).unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines(der.as_ref()));
    json!({
        "type": "service_account", "project_id": "p", "private_key_id": "kid-1", "private_key": pem,
        "client_email": "gate@p.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
    })
}

fn lines(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect::<Vec<_>>().join("\n")
}

fn google(document: &Value, token_url: Option<&str>) -> Result<Source, String> {
    let credentials = Some(Secret::new(document.to_string()));
    let login = Login::Google(GoogleLogin { credentials, token_url: token_url.map(str::to_owned) });
    Source::of(&login, None, None)
}

#[test]
fn a_service_account_signs_its_claim_and_gets_a_token() {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let source = google(&account(&pair), None).unwrap();
    let world = World::saying(&[(200, json!({"access_token": "ya29.x", "expires_in": 3599, "token_type": "Bearer"}))]);
    let granted = granted(&source, &world).unwrap();
    assert_eq!((bearer_of(&granted).as_str(), granted.lifetime), ("Bearer ya29.x", Duration::from_secs(3599)));
    let asked = world.asked().remove(0);
    assert_eq!((asked.url.to_string().as_str(), asked.reach), ("https://oauth2.googleapis.com/token", Reach::Host));
    let fields = form(&asked);
    assert_eq!(fields["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let jwt = &fields["assertion"];
    let (message, proof) = jwt.rsplit_once('.').unwrap();
    let public = UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    public.verify(message.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(proof).unwrap()).unwrap();
    let part = |n: usize| -> Value {
        let part = jwt.split('.').nth(n).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    assert_eq!((&part(0)["alg"], &part(0)["kid"]), (&json!("RS256"), &json!("kid-1")));
    let now = world.now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(
        part(1),
        json!({
            "iss": "gate@p.iam.gserviceaccount.com", "scope": "https://www.googleapis.com/auth/cloud-platform",
            "aud": "https://oauth2.googleapis.com/token", "iat": now, "exp": now + 3600,
        })
    );
    assert!(!format!("{source:?}").contains("PRIVATE"), "no secret in debug output");
}

#[test]
fn googles_other_files_lead_to_tokens_too() {
    let user = json!({"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"});
    let world = World::saying(&[(200, json!({"access_token": "u", "expires_in": "60"}))]);
    let got = granted(&google(&user, None).unwrap(), &world).unwrap();
    assert_eq!((bearer_of(&got).as_str(), got.lifetime), ("Bearer u", Duration::from_secs(60)));
    let fields = form(&world.asked()[0]);
    assert_eq!((fields["grant_type"].as_str(), fields["refresh_token"].as_str()), ("refresh_token", "r"));

    // A cluster's token in a JSON file, exchanged, then as another account.
    let external = json!({
        "type": "external_account", "audience": "//iam.googleapis.com/pool", "token_url": "https://sts.googleapis.com/v1/token",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a:generateAccessToken",
        "credential_source": {"file": "token.json", "format": {"type": "json", "subject_token_field_name": "id_token"}},
    });
    let world = World::saying(&[
        (200, json!({"access_token": "federated", "expires_in": 3600})),
        (200, json!({"accessToken": "as-a", "expireTime": "2026-11-26T01:32:03Z"})),
    ])
    .file("token.json", r#"{"id_token": "subject"}"#);
    let got = granted(&google(&external, None).unwrap(), &world).unwrap();
    assert_eq!((bearer_of(&got).as_str(), got.lifetime), ("Bearer as-a", Duration::from_secs(1800)));
    let asked = world.asked();
    let fields = form(&asked[0]);
    assert_eq!(fields["subject_token"], "subject");
    assert_eq!(fields["audience"], "//iam.googleapis.com/pool");
    assert_eq!(asked[1].url.host(), Some("iamcredentials.googleapis.com"));
    assert_eq!(asked[1].headers[AUTHORIZATION], "Bearer federated");

    // The subject's token from an address with headers.
    let mut from_url = external.clone();
    from_url["credential_source"] =
        json!({"url": "https://tokens.example/x", "headers": {"Authorization": "bearer gh"}});
    from_url["service_account_impersonation_url"] = Value::Null;
    let world = World::saying(&[(200, json!("subject-2\n")), (200, json!({"access_token": "t", "expires_in": 10}))]);
    granted(&google(&from_url, None).unwrap(), &world).unwrap();
    assert_eq!(world.asked()[0].headers[AUTHORIZATION], "bearer gh");
    assert_eq!(form(&world.asked()[1])["subject_token"], "subject-2");

    // The machine's own account.
    let machine = Source::of(&Login::Google(GoogleLogin::default()), None, None).unwrap();
    let world = World::saying(&[(200, json!({"access_token": "m", "expires_in": 600}))]);
    assert_eq!(bearer_of(&granted(&machine, &world).unwrap()), "Bearer m");
    let asked = world.asked().remove(0);
    assert_eq!((asked.url.host(), asked.reach), (Some("169.254.169.254"), Reach::Machine));
    assert_eq!(asked.headers["metadata-flavor"], "Google");
}

#[test]
fn a_secret_of_googles_goes_to_google_only() {
    let user = |url: &str| json!({"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r", "token_uri": url});
    for url in [
        "https://evil.example/token",
        "http://oauth2.googleapis.com/token",
        "https://googleapis.com.evil.example/",
        "https://evilgoogleapis.com/",
        "nonsense",
    ] {
        let error = google(&user(url), None).unwrap_err();
        assert!(error.contains("googleapis.com"), "{error}");
    }
    let mine = google(&user("https://evil.example/token"), Some("http://127.0.0.1:9/token")).unwrap();
    let world = World::saying(&[(200, json!({"access_token": "t"}))]);
    granted(&mine, &world).unwrap();
    assert_eq!(world.asked()[0].url.to_string(), "http://127.0.0.1:9/token");
    for (document, says) in [
        (
            json!({"type": "external_account", "audience": "a", "subject_token_type": "t", "credential_source": {"executable": {}}}),
            "programs",
        ),
        (json!({"type": "gdch_service_account"}), "gdch_service_account"),
        (json!({"type": "service_account", "private_key": "x", "client_email": "e"}), "private_key"),
        (json!({"type": "authorized_user"}), "client_id"),
        (json!("text"), "type"),
    ] {
        let error = google(&document, None).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn entra_gives_a_token_for_a_secret_a_file_or_the_machine() {
    let login = |secret: Option<&str>, file: Option<&str>, client: Option<&str>| {
        let login = EntraLogin {
            tenant: Some("contoso.onmicrosoft.com".to_owned()),
            client_id: client.map(str::to_owned),
            client_secret: secret.map(Secret::new),
            token_file: file.map(PathBuf::from),
            ..EntraLogin::default()
        };
        Source::of(&Login::Entra(login), None, Some("https://cognitiveservices.azure.com/.default"))
    };
    let good =
        || World::saying(&[(200, json!({"access_token": "eyJ", "expires_in": 3599}))]).file("/run/token", "fed\n");
    let world = good();
    assert_eq!(bearer_of(&granted(&login(Some("s3"), None, Some("app")).unwrap(), &world).unwrap()), "Bearer eyJ");
    let asked = world.asked().remove(0);
    assert_eq!(asked.url.to_string(), "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token");
    let fields = form(&asked);
    assert_eq!(
        (fields["grant_type"].as_str(), fields["client_secret"].as_str(), fields["scope"].as_str()),
        ("client_credentials", "s3", "https://cognitiveservices.azure.com/.default")
    );
    let world = good();
    granted(&login(None, Some("/run/token"), Some("app")).unwrap(), &world).unwrap();
    let fields = form(&world.asked()[0]);
    assert_eq!((fields["client_assertion"].as_str(), fields.get("client_secret")), ("fed", None));
    let world = good();
    granted(&login(None, None, None).unwrap(), &world).unwrap();
    let asked = world.asked().remove(0);
    assert_eq!((asked.url.host(), asked.reach), (Some("169.254.169.254"), Reach::Machine));
    assert!(asked.url.query().unwrap().contains("resource=https%3A%2F%2Fcognitiveservices.azure.com"));
    assert!(login(Some("s"), None, None).unwrap_err().contains("client_id"));
    let evil = EntraLogin {
        tenant: Some("../evil".to_owned()),
        client_id: Some("a".to_owned()),
        client_secret: Some(Secret::new("s")),
        ..EntraLogin::default()
    };
    assert!(Source::of(&Login::Entra(evil), None, Some("s")).unwrap_err().contains("tenant"));
}

#[test]
fn a_role_of_aws_gives_keys_that_sign() {
    let source = |role: AwsRole| Source::of(&Login::Aws(AwsLogin::Role(role)), Some("eu-west-1"), None).unwrap();
    let is_aws = |granted: &Granted| matches!(granted.identity, Identity::Aws(_));
    let web = source(AwsRole::WebIdentity {
        arn: "arn:aws:iam::1:role/gate".to_owned(),
        session: None,
        file: "/run/token".into(),
        token_url: None,
    });
    let xml = "<R><Credentials><AccessKeyId>AK</AccessKeyId><SecretAccessKey>S+/=</SecretAccessKey>\
               <SessionToken>T</SessionToken><Expiration>2026-11-26T02:02:03Z</Expiration></Credentials></R>";
    let world = World::saying(&[(200, json!(xml))]).file("/run/token", "jwt\n");
    let got = granted(&web, &world).unwrap();
    assert_eq!((is_aws(&got), got.lifetime), (true, Duration::from_secs(3600)));
    assert_eq!(world.asked()[0].url.to_string(), "https://sts.eu-west-1.amazonaws.com/");
    assert_eq!(form(&world.asked()[0])["WebIdentityToken"], "jwt");

    let json_keys =
        json!({"AccessKeyId": "AK", "SecretAccessKey": "S", "Token": "T", "Expiration": "2026-11-26T01:12:03Z"});
    let container = source(AwsRole::Container {
        url: "http://169.254.170.2/v2/x".to_owned(),
        token: Some(Secret::new("auth")),
        token_file: None,
    });
    let world = World::saying(&[(200, json_keys.clone())]);
    assert_eq!(granted(&container, &world).unwrap().lifetime, Duration::from_secs(600));
    assert_eq!(world.asked()[0].headers[AUTHORIZATION], "auth");

    let instance = source(AwsRole::Instance { token_url: None });
    let world = World::saying(&[(200, json!("session")), (200, json!("gate-role\n")), (200, json_keys)]);
    assert!(is_aws(&granted(&instance, &world).unwrap()));
    let asked = world.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].url.path()), ("PUT", "/latest/api/token"));
    assert_eq!(asked[2].url.path(), "/latest/meta-data/iam/security-credentials/gate-role");
    assert_eq!(asked[2].headers["x-aws-ec2-metadata-token"], "session");
    // A name that could be more than a name is not followed.
    let world = World::saying(&[(200, json!("session")), (200, json!("../../x")), (200, json!({}))]);
    assert!(granted(&instance, &world).unwrap_err().message.contains("no role"));
}

#[test]
fn another_role_is_taken_on_with_a_signed_call() {
    let xml = "<Credentials><AccessKeyId>AK2</AccessKeyId><SecretAccessKey>S2</SecretAccessKey>\
               <SessionToken>T2</SessionToken><Expiration>2026-11-26T01:32:03Z</Expiration></Credentials>";
    let assume = |base: AwsLogin| {
        let role = AwsRole::Assume {
            base: Box::new(base),
            arn: "arn:aws:iam::2:role/models".to_owned(),
            session: None,
            external_id: Some("xyz".to_owned()),
            token_url: None,
        };
        Source::of(&Login::Aws(AwsLogin::Role(role)), Some("us-east-1"), None).unwrap()
    };
    let own = AwsLogin::Keys { id: Secret::new("AKIDEXAMPLE"), secret: Secret::new("s"), session: None };
    let world = World::saying(&[(200, json!(xml))]);
    assert_eq!(granted(&assume(own.clone()), &world).unwrap().lifetime, Duration::from_secs(1800));
    let asked = world.asked().remove(0);
    assert_eq!(asked.url.to_string(), "https://sts.us-east-1.amazonaws.com/");
    let proof = asked.headers[AUTHORIZATION].to_str().unwrap();
    assert!(proof.contains("Credential=AKIDEXAMPLE/20261126/us-east-1/sts/aws4_request"), "{proof}");
    let fields = form(&asked);
    assert_eq!((fields["Action"].as_str(), fields["ExternalId"].as_str()), ("AssumeRole", "xyz"));
    // The machine's role takes on another one.
    let keys = json!({"AccessKeyId": "MACHINE", "SecretAccessKey": "S", "Token": "T"});
    let world = World::saying(&[(200, json!("session")), (200, json!("gate")), (200, keys), (200, json!(xml))]);
    let from_machine = assume(AwsLogin::Role(AwsRole::Instance { token_url: None }));
    granted(&from_machine, &world).unwrap();
    assert!(world.asked()[3].headers[AUTHORIZATION].to_str().unwrap().contains("Credential=MACHINE/"));
    assert_ne!(from_machine.print(), assume(own).print(), "each has a token of its own");
}

#[test]
fn a_refused_login_says_what_to_look_at_and_holds_no_secret() {
    let login = EntraLogin {
        tenant: Some("t".to_owned()),
        client_id: Some("app".to_owned()),
        client_secret: Some(Secret::new("very-secret")),
        ..EntraLogin::default()
    };
    let source = Source::of(&Login::Entra(login), None, Some("scope")).unwrap();
    for (status, body, says) in [
        (401, json!({"error": "invalid_client", "error_description": "very-secret is wrong"}), "(invalid_client)"),
        (400, json!({"error": {"status": "INVALID_ARGUMENT"}}), "(INVALID_ARGUMENT)"),
        (500, json!("<html>very-secret</html>"), "status 500"),
        (200, json!({"no": "token"}), "without a token"),
        (200, json!("<html>"), "not JSON"),
        (200, json!({"access_token": "line\nbreak"}), "cannot be used"),
    ] {
        let error = granted(&source, &World::saying(&[(status, body)])).unwrap_err();
        assert_eq!((error.status(), error.code()), (502, "upstream_auth_error"));
        assert!(error.message.contains(says), "{}", error.message);
        assert!(!error.message.contains("very-secret"), "{}", error.message);
    }
    let error = granted(&source, &World::saying(&[])).unwrap_err();
    assert!(error.message.contains("cannot be reached"), "{}", error.message);
}
