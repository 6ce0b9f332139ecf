//! Models at the clouds: what exactly leaves the gateway for AWS, Google and Microsoft (address, proof, body), what becomes of
//! the answers, and how tokens are come by, kept and renewed. Token servers are scripted like upstreams.

use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use base64::{Engine, prelude::BASE64_STANDARD};
use portcullis::codec::eventstream::{self, Said};
use serde_json::{Value, json};

use crate::support::{End, Gateway, Heard, Say, Upstream, eventually};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const AWS: &str = r#"aws = { access_key_id = "file:id", secret_access_key = "file:secret" }"#;
const CLAUDE: &str = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";
const ANSWER: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5-20250929","content":[{"type":"text","text":"Hello"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":3}}"#;
const GEMINI: &str = r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"Hello"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":2,"totalTokenCount":6},"modelVersion":"gemini-2.5-pro"}"#;
const OPENAI: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4.1","choices":[{"index":0,"message":{"role":"assistant","content":"Hello","refusal":null},"finish_reason":"stop","logprobs":null}],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}"#;

fn provider(name: &str, row: &str, upstream: &Upstream, prefix: &str, more: &str) -> String {
    format!("[providers.{name}]\nrow = \"{row}\"\nbase_url = \"http://{}{prefix}\"\n{more}\n", upstream.addr)
}

async fn with_aws(config: &str) -> Gateway {
    Gateway::with(config, &[("id", "AKIDEXAMPLE\n"), ("secret", SECRET)]).await
}

/// Computes Signature Version 4 anew from what was heard, and compares.
fn proves(heard: &Heard, service: &str, region: &str, body_matters: bool) {
    let proof = heard.header("authorization").expect("a signature");
    let field = |name: &str| {
        let rest = proof.split_once(&format!("{name}=")).expect("a field").1;
        rest.split(',').next().unwrap().trim().to_owned()
    };
    let date = heard.header("x-amz-date").expect("a date");
    let scope = format!("{}/{region}/{service}/aws4_request", &date[..8]);
    assert_eq!(field("Credential"), format!("AKIDEXAMPLE/{scope}"));
    let (path, query) = heard.path.split_once('?').unwrap_or((&heard.path, ""));
    // Encoded once more than it travels.
    let path = path.replace('%', "%25");
    let names = field("SignedHeaders");
    assert!(names.split(';').any(|n| n == "host") && names.split(';').any(|n| n == "content-type"), "{names}");
    let headers: String =
        names.split(';').map(|n| format!("{n}:{}\n", heard.header(n).expect("signed and sent").trim())).collect();
    let body: &[u8] = if body_matters { &heard.body } else { b"" };
    let hash = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let canonical = format!("{}\n{path}\n{query}\n{headers}\n{names}\n{}", heard.method, hash(body));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(canonical.as_bytes()));
    let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let key = [region, service, "aws4_request"]
        .iter()
        .fold(mac(format!("AWS4{SECRET}").as_bytes(), &date[..8]), |key, part| mac(key.as_ref(), part));
    assert_eq!(field("Signature"), hex(mac(key.as_ref(), &text).as_ref()), "the signature of {}", heard.path);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Events as `invoke-with-response-stream` sends them.
fn framed(events: &[Value]) -> Say {
    let mut body = Vec::new();
    for event in events {
        let chunk = json!({"bytes": BASE64_STANDARD.encode(event.to_string()), "p": "abc"});
        eventstream::write(Said::Event, "chunk", chunk.to_string().as_bytes(), &mut body);
    }
    Say::of(200, eventstream::CONTENT_TYPE, body)
}

fn story() -> Vec<Value> {
    vec![
        json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929", "content": [], "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 9, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Grüße, "}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Welt"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 7}}),
        json!({"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 9, "outputTokenCount": 7}}),
    ]
}

#[tokio::test]
async fn claude_on_bedrock_gets_a_signed_call_and_a_body_in_its_own_words() {
    let upstream = Upstream::saying(Say::json(ANSWER)).await;
    let row = provider("aws", "bedrock-anthropic", &upstream, "", &format!("region = \"us-east-1\"\n{AWS}"));
    let gateway = with_aws(&row).await;
    let body = format!(
        r#"{{"model":"aws/{CLAUDE}","max_tokens":100,"temperature":1.0,"messages":[{{"role":"user","content":"hi"}}],"stream":false,"metadata":{{"user_id":"u"}}}}"#
    );
    let betas = "context-1m-2025-08-07, files-api-2025-04-14,computer-use-2025-01-24";
    let headers = [("anthropic-version", "2023-06-01"), ("anthropic-beta", betas)];
    let answer = gateway.post_with("/v1/messages", &headers, &body).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER), "as it came");
    assert_eq!(answer.header("x-portcullis-dropped-params"), Some("anthropic-beta"));
    let heard = upstream.last();
    assert_eq!(heard.path, "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke");
    proves(&heard, "bedrock", "us-east-1", true);
    assert_eq!((heard.header("anthropic-version"), heard.header("anthropic-beta")), (None, None));
    assert_eq!(
        heard.json(),
        json!({
            "max_tokens": 100, "temperature": 1.0, "messages": [{"role": "user", "content": "hi"}],
            "metadata": {"user_id": "u"}, "anthropic_version": "bedrock-2023-05-31",
            "anthropic_beta": ["context-1m-2025-08-07", "computer-use-2025-01-24"],
        })
    );
    assert!(String::from_utf8_lossy(&heard.body).contains("1.0"), "numbers as they were written");
    // From another format the same.
    let answer =
        gateway.chat(&format!(r#"{{"model":"aws/{CLAUDE}","messages":[{{"role":"user","content":"hi"}}]}}"#)).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "Hello");
    let heard = upstream.last();
    proves(&heard, "bedrock", "us-east-1", true);
    let body = heard.json();
    assert_eq!(body["anthropic_version"], "bedrock-2023-05-31");
    assert!(body.get("model").is_none() && body.get("stream").is_none() && body["max_tokens"].is_u64(), "{body}");
}

#[tokio::test]
async fn a_stream_in_awss_frames_reaches_clients_as_the_format_it_holds() {
    let upstream = Upstream::saying(framed(&story()).bytewise()).await;
    let row = provider("aws", "bedrock-anthropic", &upstream, "", &format!("region = \"us-east-1\"\n{AWS}"));
    let gateway = with_aws(&row).await;
    let ask = |extra: &str| {
        format!(r#"{{"model":"aws/{CLAUDE}","stream":true,"messages":[{{"role":"user","content":"hi"}}]{extra}}}"#)
    };
    let answer = gateway.post("/v1/messages", &ask(r#","max_tokens":9"#)).await;
    let expected: String =
        story().iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap())).collect();
    assert_eq!(answer.header("content-type").map(|t| t.starts_with("text/event-stream")), Some(true));
    assert_eq!(answer.text(), expected);
    let heard = upstream.last();
    assert_eq!(heard.path, "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke-with-response-stream");
    proves(&heard, "bedrock", "us-east-1", true);
    assert!(heard.json().get("stream").is_none());
    let record = gateway.record(1).await;
    assert_eq!(
        (&record["usage"]["input_tokens"], &record["usage"]["output_tokens"]),
        (&json!(9), &json!(7)),
        "{record}"
    );
    let answer = gateway.chat(&ask("")).await.text();
    assert!(answer.contains("Grüße, ") && answer.contains("Welt") && answer.ends_with("data: [DONE]\n\n"), "{answer}");
}

#[tokio::test]
async fn a_framed_stream_that_fails_or_dies_ends_as_an_error() {
    let upstream = Upstream::start().await;
    let row = provider("aws", "bedrock-anthropic", &upstream, "", &format!("region = \"us-east-1\"\n{AWS}"));
    let gateway =
        with_aws(&format!("{row}[models.m]\nretries = 0\ntargets = [{{ provider = \"aws\", model = \"m\" }}]\n")).await;
    let body = r#"{"model":"m","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    let (story, exception) = (story(), r#"{"message":"Too many requests"}"#);
    let throttled = || {
        let mut frame = Vec::new();
        eventstream::write(Said::Exception, "throttlingException", exception.as_bytes(), &mut frame);
        frame
    };
    // Output first, so that there is no way back, and a moment later these bytes.
    let then = |rest: Vec<u8>| {
        let mut say = framed(&story[..4]);
        say.chunks.push((Duration::from_millis(50), rest));
        say
    };
    upstream.then(then(throttled()));
    let text = gateway.post("/v1/messages", body).await.text();
    assert!(text.contains("Welt") && text.contains("event: error") && text.contains("rate_limit_error"), "{text}");
    assert!(!text.contains("message_stop"), "{text}");
    // Before any output it is a real status.
    upstream.then(Say::of(200, eventstream::CONTENT_TYPE, throttled()));
    assert_eq!(gateway.post("/v1/messages", body).await.status, 429);
    // Cut inside a frame, damaged, or ended without its terminal.
    let rest = framed(&story[4..]).chunks.remove(0).1;
    let mut damaged = rest.clone();
    damaged[60] ^= 1;
    let cut = rest[..rest.len() - 10].to_vec();
    for say in [then(damaged), then(cut.clone()), then(cut).end(End::Cut), then(Vec::new())] {
        upstream.then(say);
        let text = gateway.post("/v1/messages", body).await.text();
        assert!(text.contains("event: error") && !text.contains("message_stop"), "{text}");
    }
}

#[tokio::test]
async fn bedrock_says_no_in_its_own_shape_and_the_client_reads_its_own() {
    let upstream = Upstream::start().await;
    let row = provider("aws", "bedrock-anthropic", &upstream, "", &format!("region = \"us-east-1\"\n{AWS}"));
    let gateway =
        with_aws(&format!("{row}[models.m]\nretries = 0\ntargets = [{{ provider = \"aws\", model = \"m\" }}]\n")).await;
    let body = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    for (status, kind, expected, word) in [
        (400, "ValidationException", 400, "invalid_request_error"),
        (429, "ThrottlingException", 429, "rate_limit_error"),
        (403, "AccessDeniedException", 502, "api_error"),
        (503, "ServiceUnavailableException", 503, "overloaded_error"),
    ] {
        let said = r#"{"message":"in AWS's words"}"#;
        upstream.then(Say::error(status, said).header("x-amzn-errortype", kind).header("x-amzn-requestid", "r-1"));
        let answer = gateway.post("/v1/messages", body).await;
        let json = answer.json();
        assert_eq!(
            (answer.status, &json["type"], &json["error"]["type"]),
            (expected, &json!("error"), &json!(word)),
            "{json}"
        );
    }
}

#[tokio::test]
async fn converse_on_bedrock_is_signed_whole_and_streamed() {
    let answer = r#"{"metrics":{"latencyMs":5},"output":{"message":{"role":"assistant","content":[{"text":"Hello"}]}},"stopReason":"end_turn","usage":{"inputTokens":4,"outputTokens":2,"totalTokens":6}}"#;
    let upstream = Upstream::saying(Say::json(answer)).await;
    let row = provider("aws", "bedrock", &upstream, "", &format!("region = \"ap-south-1\"\n{AWS}"));
    let gateway = with_aws(&row).await;
    let body = r#"{"model":"aws/amazon.nova-pro-v1:0","messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(gateway.chat(body).await.json()["choices"][0]["message"]["content"], "Hello");
    let heard = upstream.last();
    assert_eq!(heard.path, "/model/amazon.nova-pro-v1%3A0/converse");
    proves(&heard, "bedrock", "ap-south-1", true);
    // In its own format the caller's bytes are what is signed.
    let own = r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}],"inferenceConfig":{"temperature":1.0}}"#;
    assert_eq!(gateway.post("/model/aws%2Fus.amazon.nova-pro-v1:0/converse", own).await.text(), answer);
    let heard = upstream.last();
    assert_eq!(
        (heard.path.as_str(), heard.body.as_slice()),
        ("/model/us.amazon.nova-pro-v1%3A0/converse", own.as_bytes())
    );
    proves(&heard, "bedrock", "ap-south-1", true);
    let mut stream = Vec::new();
    for (name, payload) in [
        ("messageStart", r#"{"role":"assistant"}"#),
        ("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"Hello"}}"#),
        ("contentBlockStop", r#"{"contentBlockIndex":0}"#),
        ("messageStop", r#"{"stopReason":"end_turn"}"#),
        ("metadata", r#"{"usage":{"inputTokens":4,"outputTokens":2,"totalTokens":6},"metrics":{"latencyMs":5}}"#),
    ] {
        eventstream::write(Said::Event, name, payload.as_bytes(), &mut stream);
    }
    upstream.then(Say::of(200, eventstream::CONTENT_TYPE, stream).bytewise());
    let streamed = gateway.chat(&body.replace("\"messages\"", "\"stream\":true,\"messages\"")).await.text();
    assert!(streamed.contains("Hello") && streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    let heard = upstream.last();
    assert_eq!(heard.path, "/model/amazon.nova-pro-v1%3A0/converse-stream");
    proves(&heard, "bedrock", "ap-south-1", true);
    // Wrong credentials are the operator's business, told without AWS's own words about them.
    let said = r#"{"message":"The security token included in the request is invalid."}"#;
    upstream.always(Say::error(403, said).header("x-amzn-errortype", "UnrecognizedClientException"));
    let refused = gateway.chat(body).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (502, &json!("upstream_auth_error")));
    assert!(!refused.text().contains("security token"), "{}", refused.text());
}

#[tokio::test]
async fn a_bedrock_api_key_is_a_bearer_token_and_the_newer_address_speaks_plain_messages() {
    let upstream = Upstream::saying(Say::json(ANSWER)).await;
    let keyed = provider("keyed", "bedrock-anthropic", &upstream, "", "region = \"us-east-1\"\nkey = \"file:id\"");
    let mantle =
        provider("mantle", "bedrock-mantle", &upstream, "/anthropic/v1", &format!("region = \"eu-west-1\"\n{AWS}"));
    let gateway = with_aws(&format!("{keyed}{mantle}")).await;
    let body = r#"{"model":"keyed/m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(gateway.post("/v1/messages", body).await.status, 200);
    let heard = upstream.last();
    assert_eq!((heard.header("authorization"), heard.header("x-amz-date")), (Some("Bearer AKIDEXAMPLE"), None));
    assert_eq!(
        gateway.post("/v1/messages", &body.replace("keyed/m", "mantle/anthropic.claude-opus-4-8")).await.status,
        200
    );
    let heard = upstream.last();
    assert_eq!(heard.path, "/anthropic/v1/messages");
    proves(&heard, "bedrock-mantle", "eu-west-1", true);
    assert_eq!(heard.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(heard.json()["model"], "anthropic.claude-opus-4-8");
}

/// A token server whose tokens are numbered.
fn token(number: u32, seconds: u32) -> Say {
    Say::json(
        json!({"access_token": format!("token-{number}"), "expires_in": seconds, "token_type": "Bearer"}).to_string(),
    )
}

fn vertex(upstream: &Upstream, tokens: &Upstream) -> (String, [(&'static str, &'static str); 1]) {
    let login =
        format!("google = {{ credentials = \"file:user.json\", token_url = \"http://{}/token\" }}", tokens.addr);
    let prefix = "/v1/projects/acme/locations/global/publishers";
    let gemini = provider("vertex", "vertex", upstream, &format!("{prefix}/google"), &login);
    let claude = provider("vc", "vertex-anthropic", upstream, &format!("{prefix}/anthropic"), &login);
    let user = r#"{"type":"authorized_user","client_id":"c","client_secret":"s3cret","refresh_token":"r"}"#;
    (format!("{gemini}{claude}"), [("user.json", user)])
}

#[tokio::test]
async fn gemini_on_vertex_is_called_with_googles_token_fetched_once_for_all() {
    let (upstream, tokens) = (Upstream::saying(Say::json(GEMINI)).await, Upstream::start().await);
    tokens.then(token(1, 3600).wait(Duration::from_millis(200)));
    let (config, files) = vertex(&upstream, &tokens);
    let gateway = Gateway::with(&config, &files).await;
    let body = r#"{"model":"vertex/gemini-2.5-pro","messages":[{"role":"user","content":"hi"}]}"#;
    let answers = futures_util::future::join_all((0..12).map(|_| gateway.chat(body))).await;
    assert!(answers.iter().all(|a| a.status == 200), "{answers:?}");
    assert_eq!(tokens.heard().len(), 1, "twelve at once share one token");
    let asked = String::from_utf8(tokens.last().body).unwrap();
    assert!(asked.contains("grant_type=refresh_token") && asked.contains("client_secret=s3cret"), "{asked}");
    let heard = upstream.last();
    assert_eq!(
        heard.path,
        "/v1/projects/acme/locations/global/publishers/google/models/gemini-2.5-pro:generateContent"
    );
    assert_eq!((heard.header("authorization"), heard.header("x-goog-api-key")), (Some("Bearer token-1"), None));
    upstream.then(Say::sse(format!("data: {GEMINI}\n\n")));
    let streamed = gateway.chat(&body.replace("\"messages\"", "\"stream\":true,\"messages\"")).await;
    assert!(streamed.text().ends_with("data: [DONE]\n\n"), "{}", streamed.text());
    assert!(upstream.last().path.ends_with("/models/gemini-2.5-pro:streamGenerateContent?alt=sse"));
    // A reload with the same credentials keeps the token.
    gateway.rewrite(&format!("{config}[models.again]\ntargets = [{{ provider = \"vertex\", model = \"g\" }}]\n"));
    eventually("the change is live", async || {
        gateway.chat(&body.replace("vertex/gemini-2.5-pro", "again")).await.status == 200
    })
    .await;
    assert_eq!(tokens.heard().len(), 1);
}

#[tokio::test]
async fn claude_on_vertex_is_called_raw() {
    let (upstream, tokens) = (Upstream::saying(Say::json(ANSWER)).await, Upstream::saying(token(1, 3600)).await);
    let (config, files) = vertex(&upstream, &tokens);
    let gateway = Gateway::with(&config, &files).await;
    let body =
        r#"{"model":"vc/claude-sonnet-4-5@20250929","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    let headers = [("anthropic-beta", "context-1m-2025-08-07"), ("anthropic-version", "2023-06-01")];
    let answer = gateway.post_with("/v1/messages", &headers, body).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER));
    let heard = upstream.last();
    let base = "/v1/projects/acme/locations/global/publishers/anthropic/models";
    assert_eq!(heard.path, format!("{base}/claude-sonnet-4-5%4020250929:rawPredict"));
    assert_eq!(heard.header("authorization"), Some("Bearer token-1"));
    assert_eq!(heard.header("anthropic-beta"), Some("context-1m-2025-08-07"), "here betas stay a header");
    assert_eq!(
        heard.json(),
        json!({"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "anthropic_version": "vertex-2023-10-16"})
    );
    let events: String =
        story().iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap())).collect();
    upstream.then(Say::sse(events.clone()));
    let streamed = gateway.post("/v1/messages", &body.replace("\"messages\"", "\"stream\":true,\"messages\"")).await;
    assert_eq!(streamed.text(), events);
    let heard = upstream.last();
    assert_eq!(heard.path, format!("{base}/claude-sonnet-4-5%4020250929:streamRawPredict"));
    // Here the body keeps it: the two ways differ in more than their path.
    assert!(heard.json().get("model").is_none());
    upstream.then(Say::json(r#"{"input_tokens":11}"#));
    let counted = gateway.post("/v1/messages/count_tokens", body).await;
    assert_eq!(counted.json()["input_tokens"], 11);
    let heard = upstream.last();
    assert_eq!(heard.path, format!("{base}/count-tokens:rawPredict"));
    assert_eq!(heard.json()["model"], "claude-sonnet-4-5@20250929");
    // Google's own refusals come in Google's shape.
    let said = r#"[{"error":{"code":429,"message":"Quota exceeded","status":"RESOURCE_EXHAUSTED"}}]"#;
    upstream.always(Say::error(429, said));
    let answer = gateway.post("/v1/messages", body).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["type"]),
        (429, &json!("rate_limit_error")),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn a_token_is_renewed_ahead_of_its_end_and_nobody_waits_for_it() {
    let (upstream, tokens) = (Upstream::saying(Say::json(GEMINI)).await, Upstream::start().await);
    // It is used for 3.6 s, and from 3 s on a new one is asked for, which takes longer than any request here may.
    tokens.then(token(1, 4)).then(token(2, 3600).wait(Duration::from_millis(400)));
    let (config, files) = vertex(&upstream, &tokens);
    let gateway = Gateway::with(&config, &files).await;
    let body = r#"{"model":"vertex/gemini-2.5-pro","messages":[{"role":"user","content":"hi"}]}"#;
    let mut slowest = Duration::ZERO;
    eventually("the new token is used", async || {
        let first = tokens.heard().is_empty();
        let began = std::time::Instant::now();
        assert_eq!(gateway.chat(body).await.status, 200);
        slowest = if first { slowest } else { slowest.max(began.elapsed()) };
        upstream.last().header("authorization") == Some("Bearer token-2")
    })
    .await;
    assert_eq!(tokens.heard().len(), 2);
    assert!(slowest < Duration::from_millis(400), "a request waited {slowest:?}");
}

#[tokio::test]
async fn a_login_that_fails_is_a_clear_502_and_is_not_tried_by_every_request() {
    let upstream = Upstream::saying(Say::json(OPENAI)).await;
    let tokens = Upstream::saying(Say::error(401, r#"{"error":"invalid_client","error_description":"s3cret"}"#)).await;
    let login = format!(
        "entra = {{ tenant = \"t\", client_id = \"app\", client_secret = \"file:secret\", token_url = \"http://{}/t\" }}",
        tokens.addr
    );
    let gateway = with_aws(&provider("az", "azure", &upstream, "/openai/v1", &login)).await;
    let body = r#"{"model":"az/gpt","messages":[{"role":"user","content":"hi"}]}"#;
    for _ in 0..3 {
        let answer = gateway.chat(body).await;
        let json = answer.json();
        assert_eq!((answer.status, &json["error"]["code"]), (502, &json!("upstream_auth_error")), "{json}");
        let message = json["error"]["message"].as_str().unwrap();
        assert!(message.contains("(invalid_client)") && message.contains("operator"), "{message}");
        assert!(!message.contains("s3cret") && !message.contains(SECRET), "{message}");
    }
    assert_eq!((tokens.heard().len(), upstream.heard().len()), (1, 0));
    // Nothing that was wrong stays: once it rests no more, the next request logs in.
    tokens.always(token(7, 3600));
    eventually("it works again", async || gateway.chat(body).await.status == 200).await;
    assert_eq!(upstream.last().header("authorization"), Some("Bearer token-7"));
}

#[tokio::test]
async fn azure_answers_at_both_of_its_addresses() {
    let (upstream, tokens) = (Upstream::saying(Say::json(OPENAI)).await, Upstream::saying(token(1, 3600)).await);
    let login = format!(
        "entra = {{ tenant = \"t\", client_id = \"app\", client_secret = \"file:secret\", token_url = \"http://{}/t\" }}",
        tokens.addr
    );
    let v1 = provider("v1", "azure", &upstream, "/openai/v1", &login);
    let legacy = provider(
        "old",
        "azure-legacy",
        &upstream,
        "/openai",
        "key = \"file:id\"\napi_version = \"2025-04-01-preview\"",
    );
    let claude = provider("foundry", "azure-anthropic", &upstream, "/anthropic/v1", "key = \"file:id\"");
    let gateway = with_aws(&format!("{v1}{legacy}{claude}")).await;
    let body = r#"{"model":"v1/my gpt","messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(gateway.chat(body).await.text(), OPENAI);
    let heard = upstream.last();
    assert_eq!(
        (heard.path.as_str(), heard.header("authorization")),
        ("/openai/v1/chat/completions", Some("Bearer token-1"))
    );
    assert_eq!(heard.json()["model"], "my gpt");
    let asked = String::from_utf8(tokens.last().body).unwrap();
    assert!(asked.contains("scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default"), "{asked}");
    assert_eq!(gateway.chat(&body.replace("v1/my gpt", "old/my gpt/../x")).await.text(), OPENAI);
    let heard = upstream.last();
    assert_eq!(
        heard.path, "/openai/deployments/my%20gpt%2F..%2Fx/chat/completions?api-version=2025-04-01-preview",
        "a name stays one segment"
    );
    assert_eq!((heard.header("api-key"), heard.header("authorization")), (Some("AKIDEXAMPLE"), None));
    let vectors = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}],"model":"e","usage":{"prompt_tokens":1,"total_tokens":1}}"#;
    upstream.then(Say::json(vectors));
    assert_eq!(gateway.post("/v1/embeddings", r#"{"model":"old/e","input":"x"}"#).await.status, 200);
    assert!(upstream.last().path.starts_with("/openai/deployments/e/embeddings?api-version="));
    upstream.then(Say::json(ANSWER));
    let body = r#"{"model":"foundry/claude-opus-4-8","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(gateway.post("/v1/messages", body).await.text(), ANSWER);
    let heard = upstream.last();
    assert_eq!(
        (heard.path.as_str(), heard.header("anthropic-version")),
        ("/anthropic/v1/messages", Some("2023-06-01"))
    );
    assert_eq!(
        (heard.header("x-api-key"), heard.json()["model"].as_str()),
        (Some("AKIDEXAMPLE"), Some("claude-opus-4-8"))
    );
}

#[tokio::test]
async fn azures_filter_results_and_its_refusals_arrive() {
    let upstream = Upstream::start().await;
    let gateway = with_aws(&provider("az", "azure", &upstream, "/openai/v1", "key = \"file:id\"")).await;
    let head = r#"data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}"#;
    let text = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt","choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"},"finish_reason":null}]}"#;
    let end = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let usage = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}"#;
    let stream = format!("{head}\n\n{text}\n\n{end}\n\n{usage}\n\ndata: [DONE]\n\n");
    upstream.then(Say::sse(stream.clone()));
    let body = r#"{"model":"az/gpt","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(gateway.chat(body).await.text(), stream, "the first chunk has no choices, and goes through");
    upstream.then(Say::sse(stream));
    let claude = r#"{"model":"az/gpt","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    let answer = gateway.post("/v1/messages", claude).await.text();
    assert!(answer.contains("Hello") && answer.contains("message_stop"), "{answer}");
    let refusal = r#"{"error":{"message":"The response was filtered","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true,"severity":"high"}}}}}"#;
    upstream.always(Say::error(400, refusal));
    let answer = gateway.chat(&body.replace("\"stream\":true,\"stream_options\":{\"include_usage\":true},", "")).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("content_filter")), "{}", answer.text());
    let answer = gateway.post("/v1/messages", &claude.replace("\"stream\":true,", "")).await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (400, &json!("invalid_request_error")));
}
