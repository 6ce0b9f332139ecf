//! Promises 2 and 5: every route asks who calls, in its own family's words, and keys are taken wherever SDKs put them.

use portcullis::{
    endpoint::{Endpoint, TABLE},
    model::{Format, Operation},
};
use serde_json::{Value, json};

use crate::{
    family::{Anthropic, FAMILIES, Family, Gemini, Openai, Refusal},
    support::{Answer, Gateway, Say, Upstream, eventually, request},
};

/// A row's path for a model, and a body that it would take.
fn asked(row: &Endpoint, model: &str, things: &Things) -> (String, String) {
    let path = row.path.replace("{model}", model);
    let path = match row.operation {
        // The passthrough's model stands in its body, as the provider knows it.
        Operation::Passthrough => "/providers/mock/chat/completions".to_owned(),
        Operation::Stored => path.replace("{rest}", "items").replace("{id}", "resp_none"),
        Operation::OneBatch | Operation::CancelBatch => path.replace("{id}", &things.batch),
        _ => path.replace("{id}", &things.file),
    };
    let body = match (row.format, row.operation) {
        _ if row.method == "GET" || row.method == "DELETE" => Value::Null,
        (_, Operation::CancelBatch | Operation::Stored) => Value::Null,
        (_, Operation::Passthrough) => {
            let model = model.strip_prefix("mock/").unwrap_or(model);
            json!({"model": model, "messages": [{"role": "user", "content": "x"}]})
        }
        (_, Operation::Rerank) => json!({"model": model, "query": "q", "documents": ["a", "b"]}),
        (_, Operation::Moderations) => json!({"model": model, "input": "x"}),
        (_, Operation::GenerateImage) => json!({"model": model, "prompt": "x"}),
        (_, Operation::Speech) => json!({"model": model, "input": "x", "voice": "v"}),
        (_, Operation::CreateBatch) => {
            json!({"input_file_id": things.file, "endpoint": "/v1/chat/completions", "completion_window": "24h"})
        }
        (_, Operation::UploadFile) => return (path, form(&[("purpose", "batch"), ("provider", "mock")])),
        (_, Operation::EditImage | Operation::VaryImage | Operation::Transcription | Operation::Translation) => {
            return (path, form(&[("model", model), ("prompt", "x")]));
        }
        (Format::Gemini, Operation::Embeddings) if row.path.contains("batch") => {
            json!({"requests": [{"model": format!("models/{model}"), "content": {"parts": [{"text": "x"}]}}]})
        }
        (Format::Gemini, Operation::Embeddings) => json!({"content": {"parts": [{"text": "x"}]}}),
        (Format::Gemini, _) => json!({"contents": [{"role": "user", "parts": [{"text": "x"}]}]}),
        (Format::BedrockConverse, _) => json!({"messages": [{"role": "user", "content": [{"text": "x"}]}]}),
        (Format::Cohere, Operation::Embeddings) => {
            json!({"model": model, "texts": ["x"], "input_type": "search_query"})
        }
        _ if row.path == "/v1/completions" => json!({"model": model, "prompt": "x"}),
        (Format::OpenaiResponses, _) => json!({"model": model, "input": "x"}),
        (_, Operation::Embeddings) => json!({"model": model, "input": "x"}),
        _ => json!({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
    };
    (path, if body.is_null() { String::new() } else { body.to_string() })
}

/// A form with these fields and a small file behind them.
pub fn form(fields: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in fields {
        out.push_str(&format!("--b1\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"));
    }
    out.push_str("--b1\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n");
    out.push_str("content-type: application/octet-stream\r\n\r\n{\"a\": 1}\r\n--b1--\r\n");
    out
}

pub const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=b1");

/// Ids that rows about one thing need.
pub struct Things {
    file: String,
    batch: String,
}

impl Things {
    pub fn none() -> Things {
        Things { file: "file-none".to_owned(), batch: "batch_none".to_owned() }
    }

    /// Two requests; ids of nothing for a key that may not make them.
    pub async fn of(gateway: &Gateway, key: Option<&str>) -> Things {
        let bearer = format!("Bearer {}", key.unwrap_or_default());
        let mut headers = vec![("authorization", bearer.as_str()), FORM];
        if key.is_none() {
            headers.remove(0);
        }
        let id =
            |answer: &Answer| serde_json::from_slice::<Value>(&answer.body).ok()?["id"].as_str().map(str::to_owned);
        let body = form(&[("purpose", "batch"), ("provider", "mock")]);
        let file = request(gateway.addr, "POST", "/v1/files", &headers, body.as_bytes()).await;
        let file = id(&file).unwrap_or_else(|| "file-none".to_owned());
        headers.pop();
        let body = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
        let batch = request(gateway.addr, "POST", "/v1/batches", &headers, body.to_string().as_bytes()).await;
        Things { batch: id(&batch).unwrap_or_else(|| "batch_none".to_owned()), file }
    }
}

/// Its path names a thing that must be there.
fn names_a_thing(row: &Endpoint) -> bool {
    row.path.contains("{id}") && row.operation != Operation::Passthrough
}

fn family(row: &Endpoint) -> Family {
    match row.format {
        Format::AnthropicMessages => Anthropic,
        Format::Gemini => Gemini,
        _ => Openai,
    }
}

/// Two families have no word for an error but the status, and what we say.
pub fn refusal(row: &Endpoint, answer: &Answer) -> Refusal {
    if !matches!(row.format, Format::BedrockConverse | Format::Cohere) {
        return family(row).error(answer);
    }
    let value = answer.json();
    let text = |key: &str| value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned();
    let kind = answer.header("x-amzn-errortype").unwrap_or_default().to_owned();
    assert_eq!(kind.is_empty(), row.format == Format::Cohere, "{value}");
    Refusal { message: text("message"), code: text("code"), kind }
}

pub async fn walk(gateway: &Gateway, row: &Endpoint, model: &str, key: Option<&str>) -> Answer {
    let needed = names_a_thing(row) || row.operation == Operation::CreateBatch;
    let things = if needed { Things::of(gateway, key).await } else { Things::none() };
    walk_on(gateway, row, model, key, &things).await
}

pub async fn walk_on(gateway: &Gateway, row: &Endpoint, model: &str, key: Option<&str>, things: &Things) -> Answer {
    if row.operation == Operation::Realtime {
        return crate::realtime::handshake(gateway.addr, model, key).await;
    }
    let (path, body) = asked(row, model, things);
    let bearer = format!("Bearer {}", key.unwrap_or_default());
    let mut headers = vec![if body.starts_with("--") { FORM } else { ("content-type", "application/json") }];
    if key.is_some() {
        headers.push(("authorization", &bearer));
    }
    let method = if row.method == "*" { "POST" } else { row.method };
    request(gateway.addr, method, &path, &headers, body.as_bytes()).await
}

async fn closed() -> Gateway {
    Gateway::start("[auth]\nrequired = true\n").await
}

fn families() -> impl Iterator<Item = (&'static Endpoint, Family)> {
    TABLE.iter().map(|row| (row, family(row)))
}

/// Anybody may begin one.
pub const CONVERSATIONS: &str = "/v1/conversations";

/// When the table grows, so must what these walks know of it.
#[test]
fn the_walk_knows_every_row_of_the_table() {
    for row in TABLE {
        let known = matches!(
            row.operation,
            Operation::Chat
                | Operation::Embeddings
                | Operation::CountTokens
                | Operation::Compact
                | Operation::ListModels
                | Operation::OneModel
                | Operation::Stored
        ) || row.operation.is_opaque();
        assert!(
            known && matches!(row.method, "GET" | "POST" | "DELETE" | "*"),
            "{row:?} is new: teach `asked` about it"
        );
    }
}

#[tokio::test]
async fn every_route_refuses_a_caller_without_a_key() {
    let gateway = closed().await;
    for (row, _) in families() {
        let answer = walk(&gateway, row, "mock", None).await;
        let error = refusal(row, &answer);
        assert_eq!((answer.status, error.code.as_str()), (401, "key_missing"), "{} {}", row.method, row.path);
        assert!(error.message.contains("sk-pc-"), "{}", error.message);
    }
}

#[tokio::test]
async fn every_route_refuses_a_revoked_key_from_the_next_request_on() {
    let gateway = closed().await;
    let (id, key) = gateway.key(r#"{"name":"k"}"#).await;
    for (row, _) in families() {
        let answer = walk(&gateway, row, "mock", Some(&key)).await;
        // Nothing of that id is kept.
        let wanted = if row.operation == Operation::Stored && row.path != CONVERSATIONS { 404 } else { 200 };
        assert_eq!(answer.status, wanted, "{} {}: {}", row.method, row.path, answer.text());
    }
    assert!(gateway.admin("DELETE", &format!("/api/v1/keys/{id}"), "").await.status < 300);
    for (row, _) in families() {
        let answer = walk(&gateway, row, "mock", Some(&key)).await;
        let error = refusal(row, &answer);
        assert_eq!((answer.status, error.code.as_str()), (401, "key_revoked"), "{} {}", row.method, row.path);
    }
}

#[tokio::test]
async fn every_route_that_names_a_model_refuses_one_that_the_key_may_not_use() {
    let gateway = closed().await;
    let (_, key) = gateway.key(r#"{"name":"k","models":["mock/mine"]}"#).await;
    let lists = [Operation::ListModels, Operation::Stored, Operation::ListFiles, Operation::ListBatches];
    for (row, _) in families().filter(|(row, _)| !lists.contains(&row.operation) && !names_a_thing(row)) {
        if row.operation == Operation::CreateBatch {
            // Without a file there is no batch, and files are for keys that may use all of a provider.
            assert_eq!(walk(&gateway, row, "mock/mine", Some(&key)).await.status, 404);
            continue;
        }
        if row.operation == Operation::UploadFile {
            let error = refusal(row, &walk(&gateway, row, "mock/mine", Some(&key)).await);
            assert_eq!(error.code, "model_not_allowed", "{}", error.message);
            continue;
        }
        assert_eq!(walk(&gateway, row, "mock/mine", Some(&key)).await.status, 200, "{} {}", row.method, row.path);
        let answer = walk(&gateway, row, "mock/other", Some(&key)).await;
        let error = refusal(row, &answer);
        // Reading about a model that is not yours is the same as reading about none.
        let wanted =
            if row.operation == Operation::OneModel { (404, "model_not_found") } else { (403, "model_not_allowed") };
        assert_eq!((answer.status, error.code.as_str()), wanted, "{} {}", row.method, row.path);
    }
}

#[tokio::test]
async fn every_route_is_recorded_once_with_its_key() {
    let gateway = closed().await;
    let (id, key) = gateway.key(r#"{"name":"k"}"#).await;
    let things = Things::of(&gateway, Some(&key)).await;
    for (count, (row, _)) in families().enumerate() {
        let answer = walk_on(&gateway, row, "mock", Some(&key), &things).await;
        let record = gateway.record(count + 3).await;
        assert_eq!(record["id"].as_str(), answer.header("x-request-id"), "{} {}", row.method, row.path);
        assert_eq!(record["key_id"].as_str(), Some(id.as_str()));
    }
}

#[tokio::test]
async fn routes_answer_under_their_familys_prefix_too_and_ask_for_the_key_there() {
    let gateway = closed().await;
    for (row, family) in families() {
        let prefix = match (row.format, family) {
            (Format::BedrockConverse, _) => "/bedrock",
            (Format::Cohere, _) => "/cohere",
            (_, Openai) => "/openai",
            (_, Anthropic) => "/anthropic",
            (_, Gemini) => "/gemini",
        };
        let (path, body) = asked(row, "mock", &Things::none());
        let method = if row.method == "*" { "POST" } else { row.method };
        let answer = request(gateway.addr, method, &format!("{prefix}{path}"), &[], body.as_bytes()).await;
        assert_eq!(answer.status, 401, "{prefix}{path}");
        refusal(row, &answer);
    }
}

#[tokio::test]
async fn every_route_that_names_a_model_passes_the_stages() {
    let script = "fn request(request, context) { return reject(451, \"seen \" + request.operation + \" of \" + request.model); }";
    let gateway = Gateway::with("", &[("scripts/a.rhai", script)]).await;
    for (row, _) in families().filter(|(row, _)| matches!(row.method, "POST" | "*")) {
        // Nothing can be uploaded here that these could be about.
        if matches!(row.operation, Operation::CreateBatch | Operation::CancelBatch | Operation::Stored) {
            continue;
        }
        let answer = walk(&gateway, row, "mock/mine", None).await;
        let model = if row.operation == Operation::UploadFile { "*" } else { "mine" };
        let said = format!("seen {} of mock/{model}", row.operation.name());
        assert_eq!((answer.status, refusal(row, &answer).message), (451, said), "{}", row.path);
    }
}

// 5

#[tokio::test]
async fn a_key_is_taken_from_all_five_places() {
    let gateway = closed().await;
    let (_, key) = gateway.key(r#"{"name":"k"}"#).await;
    let bearer = format!("Bearer {key}");
    for family in FAMILIES {
        let (path, body) = (family.path("mock", false), family.body("mock", false, "x"));
        for (name, value) in [
            ("authorization", bearer.as_str()),
            ("authorization", &bearer.replace("Bearer", "bearer")),
            ("x-api-key", &key),
            ("x-goog-api-key", &key),
            ("api-key", &key),
        ] {
            let answer = gateway.post_with(&path, &[(name, value)], &body).await;
            assert_eq!(answer.status, 200, "{family:?} {name}: {}", answer.text());
        }
        let answer = gateway.post(&format!("{path}?key={key}"), &body).await;
        assert_eq!(answer.status, 200, "{family:?} ?key=: {}", answer.text());
    }
}

#[tokio::test]
async fn among_several_credentials_the_virtual_key_counts() {
    let gateway = closed().await;
    let (_, key) = gateway.key(r#"{"name":"k"}"#).await;
    let headers = [("authorization", "Bearer sk-ant-other"), ("x-api-key", key.as_str())];
    assert_eq!(gateway.post_with("/v1/messages", &headers, &Anthropic.body("mock", false, "x")).await.status, 200);
}

#[tokio::test]
async fn what_is_no_key_of_ours_is_refused_without_being_repeated() {
    let gateway = closed().await;
    let (_, key) = gateway.key(r#"{"name":"k"}"#).await;
    let longer = format!("{key}A");
    let other = format!("sk-pc-{}", "A".repeat(43));
    let odd = format!("{}!", &key[..48]);
    for wrong in [&key[..48], &longer, &other, &odd, "sk-pc-", "sk-proj-real-openai-key", "x", "' OR 1=1", "sk-pc-é"] {
        for family in FAMILIES {
            let answer = gateway
                .post_with(&family.path("mock", false), &[("x-api-key", wrong)], &family.body("mock", false, "x"))
                .await;
            assert_eq!(answer.status, 401, "{wrong}: {}", answer.text());
            let error = family.error(&answer);
            assert!(wrong.len() < 8 || !error.message.contains(wrong), "{}", error.message);
        }
    }
}

#[tokio::test]
async fn an_empty_credential_is_refused() {
    let gateway = closed().await;
    for header in [("authorization", "Bearer "), ("authorization", "Basic dTpw"), ("x-api-key", "")] {
        let answer = gateway.post_with("/v1/chat/completions", &[header], &Openai.body("mock", false, "x")).await;
        assert_eq!(answer.status, 401, "{header:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn an_expired_key_is_refused_by_name() {
    let gateway = closed().await;
    let (_, key) = gateway.key(r#"{"name":"k","expires":"1s"}"#).await;
    for family in FAMILIES {
        let ask = async || {
            gateway
                .post_with(&family.path("mock", false), &[("x-api-key", &key)], &family.body("mock", false, "x"))
                .await
        };
        eventually("the key expires", async || ask().await.status == 401).await;
        let error = family.error(&ask().await);
        assert!(error.code == "key_expired" && error.message.contains("operator"), "{}", error.message);
    }
}

#[tokio::test]
async fn an_open_gateway_still_refuses_a_virtual_key_that_is_not_good() {
    let gateway = Gateway::start("").await;
    let unknown = format!("sk-pc-{}", "A".repeat(43));
    for (key, status) in [("", 200), ("sk-any-sdk-default", 200), (unknown.as_str(), 401), ("sk-pc-short", 401)] {
        let headers: &[(&str, &str)] = if key.is_empty() { &[] } else { &[("x-api-key", key)] };
        let answer = gateway.post_with("/v1/chat/completions", headers, &Openai.body("mock", false, "x")).await;
        assert_eq!(answer.status, status, "{key}: {}", answer.text());
    }
}

#[tokio::test]
async fn an_open_gateway_serves_no_web_page_from_elsewhere() {
    let gateway = Gateway::start("").await;
    let (_, key) = gateway.key("{\"name\": \"page\"}").await;
    for (name, value, status) in [
        ("origin", "https://evil.example", 403),
        // A page without a name, and a name that was made to point here.
        ("origin", "null", 403),
        ("origin", "http://rebound.example:8080", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("origin", "http://localhost:3000", 200),
        ("origin", "http://[::1]:3000", 200),
        ("origin", "vscode-webview://panel", 200),
        ("sec-fetch-site", "same-origin", 200),
    ] {
        for family in FAMILIES {
            let body = family.body("mock", false, "x");
            let headers = [(name, value), ("content-type", "text/plain")];
            let answer = gateway.post_with(&family.path("mock", false), &headers, &body).await;
            assert_eq!(answer.status, status, "{name}: {value}: {}", answer.text());
            if status == 403 {
                assert_eq!(family.error(&answer).code, "local_only");
            }
        }
        let headers = [(name, value), ("x-api-key", key.as_str())];
        let answer = gateway.post_with("/v1/chat/completions", &headers, &Openai.body("mock", false, "x")).await;
        assert_eq!(answer.status, 200, "a page that has a key may use it: {}", answer.text());
    }
}

#[tokio::test]
async fn an_open_gateway_starts_on_loopback_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "[server]\nlisten = \"0.0.0.0:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\nkind = \"memory\"\n[auth]\nrequired = false\n";
    std::fs::write(dir.path().join("gateway.toml"), config).expect("written");
    let started = portcullis::cli::serve::Running::start(&dir.path().join("gateway.toml")).await;
    assert!(started.err().is_some_and(|e| e.to_string().contains("opens the gateway")), "it says why");
}

#[tokio::test]
async fn nobody_is_asked_upstream_before_the_key_is_known() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let gateway = Gateway::start(&format!("[auth]\nrequired = true\n{}", upstream.provider("up", "openai_chat"))).await;
    for family in FAMILIES {
        assert_eq!(family.ask(&gateway, "up/m", false).await.status, 401);
    }
    assert!(upstream.heard().is_empty());
}

#[tokio::test]
async fn probes_want_no_key_and_may_ask_for_the_head_alone() {
    let gateway = Gateway::start("[auth]\nrequired = true\n").await;
    for path in ["/health/live", "/health/ready"] {
        for port in [gateway.addr, gateway.admin] {
            let own = port.to_string();
            let head = request(port, "HEAD", path, &[("host", own.as_str())], b"").await;
            assert!(head.status == 200 && head.body.is_empty(), "{path}: {}", head.status);
        }
    }
}
