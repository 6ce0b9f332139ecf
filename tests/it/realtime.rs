//! Realtime sessions: a WebSocket on each side, under the same keys, limits and records as everything else.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use crate::support::{Answer, Gateway, eventually, parse, read_until};

fn head(path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head + "\r\n"
}

/// The walks' way to a session: what was answered to the handshake, a 101 told as the 200 that it stands for.
pub async fn handshake(addr: SocketAddr, model: &str, key: Option<&str>) -> Answer {
    let bearer = format!("Bearer {}", key.unwrap_or_default());
    let headers: &[_] = if key.is_some() { &[("authorization", bearer.as_str())] } else { &[] };
    let mut socket = TcpStream::connect(addr).await.expect("connect");
    let head = head(&format!("/v1/realtime?model={model}"), headers);
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut raw = read_until(&mut socket, "\r\n\r\n").await;
    if !raw.starts_with(b"HTTP/1.1 101") {
        // An error's body has a length.
        let stated = parse(&raw).header("content-length").and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        while parse(&raw).body.len() < stated {
            let mut piece = [0; 4096];
            let n = socket.read(&mut piece).await.expect("bytes");
            raw.extend_from_slice(&piece[..n]);
        }
        return parse(&raw);
    }
    Answer { status: 200, ..parse(&raw) }
}

type Client = WebSocketStream<TcpStream>;

async fn connect(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> (Answer, Client) {
    let mut socket = TcpStream::connect(gateway.addr).await.expect("connect");
    socket.write_all(head(path, headers).as_bytes()).await.expect("sent");
    let raw = read_until(&mut socket, "\r\n\r\n").await;
    let end = raw.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let client = WebSocketStream::from_partially_read(socket, raw[end..].to_vec(), Role::Client, None).await;
    (parse(&raw[..end]), client)
}

async fn next(client: &mut Client) -> Value {
    let message = tokio::time::timeout(Duration::from_secs(5), client.next()).await.expect("a message in time");
    let text = message.expect("a message").expect("no error").into_text().expect("text");
    serde_json::from_str(&text).expect("JSON")
}

/// How it was closed: the code.
async fn closed(client: &mut Client) -> Option<u16> {
    loop {
        match tokio::time::timeout(Duration::from_secs(10), client.next()).await.expect("an end in time") {
            Some(Ok(Message::Close(frame))) => return frame.map(|f| f.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

/// What an upstream heard: heads, messages, and how many sessions are over.
#[derive(Default)]
struct Heard {
    heads: Vec<(String, Vec<(String, String)>)>,
    messages: Vec<String>,
    over: usize,
}

/// An upstream that says `says` first and then echoes.
#[allow(clippy::result_large_err, reason = "the shape that the library asks of a handshake's callback")]
async fn upstream(says: &'static [&'static str]) -> (String, Arc<Mutex<Heard>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    let heard = Arc::<Mutex<Heard>>::default();
    let all = heard.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let heard = all.clone();
            tokio::spawn(async move {
                let mut seen = (String::new(), Vec::new());
                let note = |request: &Request, response: Response| {
                    seen.0 = request.uri().to_string();
                    let text = |v: &http::HeaderValue| v.to_str().unwrap_or_default().to_owned();
                    seen.1 = request.headers().iter().map(|(n, v)| (n.to_string(), text(v))).collect();
                    Ok(response)
                };
                let mut socket = accept_hdr_async(socket, note).await.expect("a handshake");
                heard.lock().await.heads.push(seen);
                for text in says {
                    socket.send(Message::text(*text)).await.expect("sent");
                }
                while let Some(Ok(message)) = socket.next().await {
                    if let Message::Text(text) = &message {
                        heard.lock().await.messages.push(text.to_string());
                        let _ = socket.send(message).await;
                    }
                }
                heard.lock().await.over += 1;
            });
        }
    });
    let provider = format!(
        "[providers.up]\nbase_url = \"http://{addr}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\noffers = [\"realtime\"]\n"
    );
    (provider, heard)
}

const DONE: &str = r#"{"type":"response.done","response":{"usage":{"input_tokens":7,"output_tokens":3,"input_token_details":{"audio_tokens":5}}}}"#;

#[tokio::test]
async fn messages_pass_both_ways_and_usage_is_counted() {
    let (provider, heard) = upstream(&[DONE, DONE]).await;
    let gateway = Gateway::start(&provider).await;
    let (answer, mut client) =
        connect(&gateway, "/v1/realtime?model=up/voice", &[("openai-beta", "realtime=v1")]).await;
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
    assert_eq!(answer.header("x-portcullis-target"), Some("up/voice"));
    assert_eq!(next(&mut client).await["type"], "response.done");
    next(&mut client).await;
    client.send(Message::text(r#"{"type":"response.create"}"#)).await.expect("sent");
    assert_eq!(next(&mut client).await["type"], "response.create");
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    client.close(Some(goodbye)).await.expect("closed");
    assert_eq!(closed(&mut client).await, Some(1000), "a goodbye is answered");
    let record = gateway.record(1).await;
    assert_eq!((record["operation"].as_str(), record["status"].as_u64()), (Some("realtime"), Some(101)), "{record}");
    let usage = if record["usage"].is_object() { &record["usage"] } else { &record["attempts"][0]["usage"] };
    assert_eq!((usage["input_tokens"].as_u64(), usage["output_tokens"].as_u64()), (Some(14), Some(6)), "{record}");
    let heard = heard.lock().await;
    assert_eq!(heard.heads[0].0, "/v1/realtime?model=voice");
    assert_eq!(heard.messages, [r#"{"type":"response.create"}"#]);
}

#[tokio::test]
async fn a_browsers_key_is_a_subprotocol_and_goes_no_further() {
    let (provider, heard) = upstream(&[]).await;
    let gateway = Gateway::start(&format!("[auth]\nrequired = true\n{provider}")).await;
    let (id, key) = gateway.key(r#"{"name":"k"}"#).await;
    let offered = format!("realtime, openai-insecure-api-key.{key}, openai-beta.realtime-v1");
    let headers = [("sec-websocket-protocol", offered.as_str()), ("cookie", "a=b")];
    let (answer, mut client) = connect(&gateway, "/v1/realtime?model=up/voice", &headers).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("realtime")));
    client.send(Message::text("{}")).await.expect("sent");
    assert_eq!(next(&mut client).await, json!({}));
    {
        let heard = heard.lock().await;
        let (_, headers) = &heard.heads[0];
        assert!(!headers.iter().any(|(n, v)| n == "cookie" || v.contains(&key)), "{headers:?}");
        assert!(headers.iter().any(|(n, v)| n == "openai-beta" && v == "realtime=v1"), "{headers:?}");
    }
    // A key that is revoked ends its sessions.
    assert!(gateway.admin("DELETE", &format!("/api/v1/keys/{id}"), "").await.status < 300);
    assert_eq!(closed(&mut client).await, Some(1008));
    assert_eq!(gateway.record(1).await["error_code"].as_str(), Some("key_revoked"));
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_upstream_session_with_it() {
    let (provider, heard) = upstream(&[]).await;
    let config = format!("{provider}[auth]\nrequired = true\n[teams.t]\nlimits = {{ concurrent = 1 }}\n");
    let gateway = Gateway::start(&config).await;
    let (_, key) = gateway.key(r#"{"name":"k","team":"t"}"#).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let (answer, client) = connect(&gateway, "/v1/realtime?model=up/voice", &headers).await;
    assert_eq!(answer.status, 101);
    // The session holds the only place.
    let (second, _) = connect(&gateway, "/v1/realtime?model=up/voice", &headers).await;
    assert_eq!(second.status, 429);
    drop(client);
    eventually("the upstream session is over", async || heard.lock().await.over == 1).await;
    eventually("the place is free", async || {
        connect(&gateway, "/v1/realtime?model=up/voice", &headers).await.0.status == 101
    })
    .await;
}

#[tokio::test]
async fn a_session_in_which_nobody_speaks_is_closed() {
    let (provider, heard) = upstream(&[]).await;
    let gateway = Gateway::start(&format!("{provider}timeouts = {{ idle = \"200ms\" }}\n")).await;
    let (_, mut client) = connect(&gateway, "/v1/realtime?model=up/voice", &[]).await;
    assert_eq!(closed(&mut client).await, Some(1008));
    eventually("the upstream session is over", async || heard.lock().await.over == 1).await;
    assert_eq!(gateway.record(1).await["error_code"].as_str(), Some("idle"));
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_session() {
    let (provider, heard) = upstream(&[]).await;
    let config = format!("[server]\nlisten = \"127.0.0.1:0\"\nmax_event = \"64KiB\"\n{provider}");
    let gateway = Gateway::start(&config).await;
    let (_, mut client) = connect(&gateway, "/v1/realtime?model=up/voice", &[]).await;
    let _ = client.send(Message::text("x".repeat(100_000))).await;
    eventually("the upstream session is over", async || heard.lock().await.over == 1).await;
    assert!(heard.lock().await.messages.is_empty());
    assert_eq!(gateway.record(1).await["error_code"].as_str(), Some("request_too_large"));
}

#[tokio::test]
async fn what_is_no_handshake_or_no_model_is_refused_before_anything_is_opened() {
    let (provider, heard) = upstream(&[]).await;
    let gateway = Gateway::start(&provider).await;
    let plain = gateway.get("/v1/realtime?model=up/voice").await;
    assert_eq!((plain.status, plain.json()["error"]["code"].as_str()), (426, Some("upgrade_required")));
    let (answer, _) = connect(&gateway, "/v1/realtime", &[]).await;
    assert_eq!(answer.status, 400);
    let (answer, _) = connect(&gateway, "/v1/realtime?model=none/x", &[]).await;
    assert_eq!(answer.status, 404);
    assert!(heard.lock().await.heads.is_empty());
}

#[tokio::test]
async fn the_mock_speaks_too() {
    let gateway = Gateway::start("").await;
    let (answer, mut client) = connect(&gateway, "/v1/realtime?model=mock", &[]).await;
    assert_eq!(answer.status, 101);
    assert_eq!(next(&mut client).await["type"], "session.created");
    client.send(Message::text(r#"{"type":"response.create"}"#)).await.expect("sent");
    assert_eq!(next(&mut client).await["type"], "response.created");
    assert!(next(&mut client).await["delta"].as_str().is_some_and(|t| t.contains("mock heard")));
    assert_eq!(next(&mut client).await["response"]["usage"]["output_tokens"], 4);
    client.close(None).await.expect("closed");
    assert_eq!(gateway.record(1).await["target"].as_str(), Some("mock/mock"));
}

const GUARD: &str = "fn request(request, context) {
    for at in 0..request.messages.len() {
        let text = request.messages[at].text;
        if text.contains(\"forbidden\") { return reject(403, \"that is not talked about\"); }
        if text.contains(\"secret\") { text.replace(\"secret\", \"[hidden]\"); request.messages[at].text = text; }
    }
}";

#[tokio::test]
async fn what_a_client_writes_passes_the_request_stages_message_by_message() {
    let (provider, heard) = upstream(&[]).await;
    let gateway = Gateway::with(&provider, &[("scripts/guard.rhai", GUARD)]).await;
    let (answer, mut client) = connect(&gateway, "/v1/realtime?model=up/voice", &[]).await;
    assert_eq!(answer.status, 101);
    let item = |text: &str| {
        json!({"type": "conversation.item.create", "event_id": "e1", "item": {"type": "message", "role": "user",
            "content": [{"type": "input_text", "text": text}]}})
    };
    let mut expected = Vec::new();
    let sound = r#"{"type":"input_audio_buffer.append", "audio":"c2VjcmV0"}"#;
    for (said, arrives) in [
        (item("hello").to_string(), item("hello").to_string()),
        (item("the secret word").to_string(), item("the [hidden] word").to_string()),
        (
            r#"{"type":"session.update","session":{"instructions":"keep the secret"}}"#.to_owned(),
            r#"{"type":"session.update","session":{"instructions":"keep the [hidden]"}}"#.to_owned(),
        ),
        (
            r#"{"type":"response.create","response":{"instructions":"a \u0073ecret"}}"#.to_owned(),
            r#"{"type":"response.create","response":{"instructions":"a [hidden]"}}"#.to_owned(),
        ),
        (sound.to_owned(), sound.to_owned()),
        // What stands twice is read once.
        (
            r#"{"type":"x","item":{"text":"secret"},"item":{"text":"fine"}}"#.to_owned(),
            r#"{"type":"x","item":{"text":"fine"}}"#.to_owned(),
        ),
    ] {
        client.send(Message::text(said)).await.expect("sent");
        let echoed = next(&mut client).await;
        assert_eq!(echoed, serde_json::from_str::<Value>(&arrives).expect("JSON"));
        expected.push(arrives);
    }
    // Refused: told to the client, kept from the upstream, and the session goes on.
    for (said, code, event) in [
        (item("a forbidden thing").to_string(), "policy_rejected", json!("e1")),
        ("no json".to_owned(), "", Value::Null),
    ] {
        client.send(Message::text(said)).await.expect("sent");
        let error = next(&mut client).await;
        assert_eq!((&error["type"], &error["error"]["event_id"]), (&json!("error"), &event), "{error}");
        assert!(!error["error"]["message"].as_str().unwrap_or_default().is_empty(), "{error}");
        assert!(code.is_empty() || error["error"]["message"] == "that is not talked about", "{error}");
    }
    client.send(Message::text(item("on we go").to_string())).await.expect("sent");
    assert_eq!(next(&mut client).await, item("on we go"));
    expected.push(item("on we go").to_string());
    assert_eq!(heard.lock().await.messages, expected);
    client.close(None).await.expect("closed");
    let record = gateway.record(1).await;
    assert_eq!(record["status"], 101, "{record}");
}

/// An upstream that answers each `response.create` with the events in it, and notes what else it hears.
async fn model() -> (String, Arc<Mutex<Heard>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    let heard = Arc::<Mutex<Heard>>::default();
    let all = heard.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let heard = all.clone();
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
                while let Some(Ok(message)) = socket.next().await {
                    let Message::Text(text) = message else { continue };
                    let event: Value = serde_json::from_str(&text).expect("JSON");
                    if event["type"] == "say" {
                        for said in event["events"].as_array().expect("events") {
                            socket.send(Message::text(said.to_string())).await.expect("sent");
                        }
                    } else {
                        heard.lock().await.messages.push(text.to_string());
                    }
                }
            });
        }
    });
    let provider = format!(
        "[providers.up]\nbase_url = \"http://{addr}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\noffers = [\"realtime\"]\n"
    );
    (provider, heard)
}

/// A spoken or written answer in pieces, as the vendor tells it: the same words stand in five places.
fn answer(id: &str, pieces: &[&str]) -> Vec<Value> {
    let (item, whole) = (format!("item_{id}"), pieces.concat());
    let message = |content: Value| json!({"id": item, "type": "message", "role": "assistant", "content": content});
    let mut events = vec![
        json!({"type": "response.created", "response": {"id": id, "output": []}}),
        json!({"type": "response.output_item.added", "response_id": id, "item": message(json!([]))}),
        json!({"type": "conversation.item.added", "item": message(json!([]))}),
        json!({"type": "response.content_part.added", "response_id": id, "item_id": item, "content_index": 0, "part": {"type": "text", "text": ""}}),
    ];
    events.extend(pieces.iter().map(|piece| {
        json!({"type": "response.output_text.delta", "response_id": id, "item_id": item, "content_index": 0, "delta": piece})
    }));
    let told = message(json!([{"type": "output_text", "text": whole}]));
    events.extend([
        json!({"type": "response.output_text.done", "response_id": id, "item_id": item, "content_index": 0, "text": whole}),
        json!({"type": "response.content_part.done", "response_id": id, "item_id": item, "content_index": 0, "part": {"type": "text", "text": whole}}),
        json!({"type": "conversation.item.done", "item": told}),
        json!({"type": "response.output_item.done", "response_id": id, "item": told}),
        json!({"type": "response.done", "response": {"id": id, "status": "completed", "output": [told], "usage": {"input_tokens": 1, "output_tokens": 1}}}),
    ]);
    events
}

async fn say(client: &mut Client, events: &[Value]) {
    client.send(Message::text(json!({"type": "say", "events": events}).to_string())).await.expect("sent");
}

/// Events up to the end of an answer.
async fn until_done(client: &mut Client) -> Vec<Value> {
    let mut out = Vec::new();
    loop {
        out.push(next(client).await);
        if out.last().is_some_and(|event| event["type"] == "response.done") {
            return out;
        }
    }
}

fn deltas(events: &[Value]) -> String {
    let mine = events.iter().filter(|e| e["type"].as_str().is_some_and(|t| t.ends_with(".delta")));
    mine.map(|e| e["delta"].as_str().expect("a text")).collect()
}

const HIDE: &str = "fn event(event, context) { if event.kind == \"text\" && event.text.contains(\"secret\") { \
    let text = event.text; text.replace(\"secret\", \"[hidden]\"); event.text = text; } }";
const REFUSE: &str = "const STREAM = \"whole\"; fn response(response, context) { \
    if response.text.contains(\"forbidden\") { return reject(403, \"not that\"); } \
    if response.tool_calls.len() > 0 && response.tool_calls[0].arguments.x == \"forbidden\" { return reject(403, \"not that call\"); } }";

#[tokio::test]
async fn what_a_model_says_passes_the_stages_wherever_it_stands() {
    let (provider, _) = model().await;
    let window = "[[stages]]\nuse = \"scripts/hide.rhai\"\nstream = \"window\"\n";
    let gateway = Gateway::with(&format!("{provider}{window}"), &[("scripts/hide.rhai", HIDE)]).await;
    let (_, mut client) = connect(&gateway, "/v1/realtime?model=up/voice", &[]).await;
    let said = answer("r1", &["the se", "cr", "et word, said", " twice: secret"]);
    say(&mut client, &said).await;
    let events = until_done(&mut client).await;
    let clean = "the [hidden] word, said twice: [hidden]";
    assert_eq!(deltas(&events), clean, "{events:?}");
    let whole: Vec<&Value> =
        events.iter().filter(|e| e["type"].as_str().is_some_and(|t| t.ends_with(".done"))).collect();
    assert_eq!(whole.len(), 5, "{events:?}");
    for event in whole {
        let text = event.to_string();
        assert!(text.contains(clean) && !text.contains("secret"), "{text}");
    }
    // Asked for again it is what it was then, and words that were in no answer are looked at for themselves.
    let item = |id: &str, text: &str| json!({"type": "conversation.item.retrieved", "item": {"id": id, "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}});
    say(&mut client, &[item("item_r1", "the secret word"), item("other", "a secret")]).await;
    assert_eq!(next(&mut client).await["item"]["content"][0]["text"], clean);
    assert_eq!(next(&mut client).await["item"]["content"][0]["text"], "a [hidden]");
    // An upstream that tells no pieces.
    let mut silent = answer("r2", &["a secret"]);
    silent.retain(|event| event["type"] != "response.output_text.delta");
    say(&mut client, &silent).await;
    let events = until_done(&mut client).await;
    assert!(!json!(events).to_string().contains("secret"), "{events:?}");
    assert_eq!(events.last().expect("an end")["response"]["output"][0]["content"][0]["text"], "a [hidden]");
    // What nobody looks at passes.
    let other = json!({"type": "rate_limits.updated", "rate_limits": []});
    say(&mut client, std::slice::from_ref(&other)).await;
    assert_eq!(next(&mut client).await, other);
}

#[tokio::test]
async fn an_answer_that_is_refused_never_arrives_and_the_session_goes_on() {
    let (provider, heard) = model().await;
    let gateway = Gateway::with(&provider, &[("scripts/guard.rhai", REFUSE)]).await;
    let (answered, mut client) = connect(&gateway, "/v1/realtime?model=up/voice", &[]).await;
    assert_eq!(answered.status, 101);
    say(&mut client, &answer("r1", &["a forbid", "den thing"])).await;
    let events = until_done(&mut client).await;
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().expect("a type")).collect();
    // That there is an item is no secret.
    assert_eq!(kinds, ["response.created", "conversation.item.added", "error", "response.done"]);
    assert_eq!(events[2]["error"]["message"], "not that");
    let end = &events[3]["response"];
    assert_eq!(
        (&end["status"], &end["output"], &end["usage"]["output_tokens"]),
        (&json!("incomplete"), &json!([]), &json!(1))
    );
    assert!(!json!(events).to_string().contains("forbid"), "{events:?}");
    // A call's arguments are looked at, too.
    let call =
        json!({"id": "i", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"x\":\"forbidden\"}"});
    let calling = [
        json!({"type": "response.created", "response": {"id": "r2"}}),
        json!({"type": "response.function_call_arguments.delta", "response_id": "r2", "item_id": "i", "call_id": "c", "delta": "{\"x\":\"forbid"}),
        json!({"type": "response.function_call_arguments.delta", "response_id": "r2", "item_id": "i", "call_id": "c", "delta": "den\"}"}),
        json!({"type": "response.output_item.done", "response_id": "r2", "item": call}),
        json!({"type": "response.done", "response": {"id": "r2", "output": [call]}}),
    ];
    say(&mut client, &calling).await;
    let events = until_done(&mut client).await;
    assert!(!json!(events).to_string().contains("forbid"), "{events:?}");
    assert_eq!(events[1]["error"]["message"], "not that call");
    // Sound cannot be looked at: where a stage must see all it is refused, and its answer cancelled.
    let sound = json!({"type": "response.output_audio.delta", "response_id": "r3", "item_id": "i", "delta": "AAAA"});
    say(&mut client, &[json!({"type": "response.created", "response": {"id": "r3"}}), sound.clone(), sound]).await;
    assert_eq!(next(&mut client).await["type"], "response.created");
    let error = next(&mut client).await;
    assert!(
        error["error"]["message"].as_str().is_some_and(|m| m.contains("scripts/guard.rhai") && m.contains("on_error")),
        "{error}"
    );
    eventually("the answer is cancelled", async || heard.lock().await.messages.len() == 1).await;
    let cancel: Value = serde_json::from_str(&heard.lock().await.messages[0]).expect("JSON");
    assert_eq!((&cancel["type"], &cancel["response_id"]), (&json!("response.cancel"), &json!("r3")));
    // And on it goes.
    let fine = answer("r4", &["all ", "fine"]);
    say(&mut client, &fine).await;
    let events = until_done(&mut client).await;
    assert_eq!(deltas(&events), "all fine");
    assert_eq!(events.last(), fine.last());
}

#[tokio::test]
async fn sound_passes_a_stage_that_may_be_left_out_and_the_record_says_so() {
    let (provider, _) = model().await;
    let skipping = "[[stages]]\nuse = \"scripts/guard.rhai\"\non_error = \"skip\"\n";
    let gateway = Gateway::with(&format!("{provider}{skipping}"), &[("scripts/guard.rhai", REFUSE)]).await;
    let (_, mut client) = connect(&gateway, "/v1/realtime?model=up/voice", &[]).await;
    let sound =
        json!({"type": "response.output_audio.delta", "response_id": "r1", "item_id": "item_r1", "delta": "AAAA"});
    let mut said = answer("r1", &["fine"]);
    said.insert(5, sound.clone());
    say(&mut client, &said).await;
    let events = until_done(&mut client).await;
    assert_eq!((deltas(&events).as_str(), events.contains(&sound)), ("fineAAAA", true), "{events:?}");
    // Its words are looked at all the same.
    say(&mut client, &answer("r2", &["forbidden"])).await;
    let events = until_done(&mut client).await;
    assert!(events.iter().any(|event| event["type"] == "error") && deltas(&events).is_empty(), "{events:?}");
    client.close(None).await.expect("closed");
    let record = gateway.record(1).await.to_string();
    assert!(record.contains("which no stage looked at"), "{record}");
}

#[tokio::test]
async fn sessions_have_the_drains_time_and_are_told_when_it_is_over() {
    let (provider, heard) = upstream(&[DONE]).await;
    let config = format!("[server]\nlisten = \"127.0.0.1:0\"\ndrain_delay = \"0s\"\ndrain = \"3s\"\n{provider}");
    let dir = tempfile::tempdir().expect("a folder");
    let store = format!("[store]\nkind = \"sled\"\npath = {:?}\n", dir.path().join("data"));
    let gateway = Gateway::start(&format!("{store}{config}")).await;
    let (answer, mut client) = connect(&gateway, "/v1/realtime?model=up/voice", &[]).await;
    assert_eq!(answer.status, 101);
    next(&mut client).await;
    let began = std::time::Instant::now();
    let stopping = tokio::spawn(gateway.stop());
    // It still lives while others drain.
    client.send(Message::text("{}")).await.expect("sent");
    assert_eq!(next(&mut client).await, json!({}));
    assert_eq!(closed(&mut client).await, Some(1001));
    stopping.await.expect("stopped");
    assert!(began.elapsed() >= Duration::from_secs(3), "it had its time");
    eventually("the upstream's side is over, too", async || heard.lock().await.over == 1).await;
    // What it used was settled before the process could end.
    let patient = config.replace("\"3s\"", "\"300s\"");
    let gateway = Gateway::start(&format!("{store}{patient}")).await;
    let record = gateway.record(1).await;
    assert_eq!(
        (record["error_code"].as_str(), record["usage"]["input_tokens"].as_u64()),
        (Some("gateway_stopped"), Some(7))
    );
    // A session that ends by itself lets the gateway go at once.
    let (_, mut client) = connect(&gateway, "/v1/realtime?model=mock", &[]).await;
    let stopping = tokio::spawn(gateway.stop());
    client.close(None).await.expect("closed");
    tokio::time::timeout(Duration::from_secs(120), stopping)
        .await
        .expect("long before the drain ends")
        .expect("stopped");
}

#[tokio::test]
async fn a_session_runs_over_tls_on_both_sides() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let authority = {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        rcgen::CertifiedIssuer::self_signed(params, key).expect("an authority")
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let cert = rcgen::CertificateParams::new(names).expect("parameters").signed_by(&key, &authority).expect("signed");
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let server =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![der(&cert.pem())], private);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server.expect("a server's side")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("addr").port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        let stream = acceptor.accept(socket).await.expect("TLS");
        let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                let _ = socket.send(message).await;
            }
        }
    });
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n[providers.up]\nbase_url = \"https://localhost:{port}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\nca = \"ca.pem\"\noffers = [\"realtime\"]\n"
    );
    let files = [("cert.pem", cert.pem()), ("key.pem", key.serialize_pem()), ("ca.pem", authority.pem())];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::with(&config, &files).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(&authority.pem())).expect("an authority");
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let socket = TcpStream::connect(gateway.addr).await.expect("connect");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, socket).await.expect("TLS");
    let address = "wss://localhost/v1/realtime?model=up/voice";
    let (mut client, answer) = tokio_tungstenite::client_async(address, stream).await.expect("a session");
    assert_eq!(answer.status(), 101);
    client.send(Message::text(r#"{"type":"response.create"}"#)).await.expect("sent");
    let echoed = tokio::time::timeout(Duration::from_secs(10), client.next()).await.expect("in time");
    assert_eq!(
        echoed.expect("a message").expect("no error").into_text().expect("text"),
        r#"{"type":"response.create"}"#
    );
    client.close(None).await.expect("closed");
}

#[test]
fn check_names_the_stages_that_keep_sessions_away() {
    use crate::keys::{folder, run, text};
    let provider = "[providers.up]\nbase_url = \"http://127.0.0.1:9/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n";
    let guard = "const STREAM = \"whole\"; fn response(response, context) { if response.text == \"x\" { return reject(403, \"no\"); } }";
    let checked = |toml: &str, args: &[&str]| {
        let place = folder(toml);
        std::fs::create_dir(place.path().join("scripts")).expect("a folder");
        std::fs::write(place.path().join("scripts/guard.rhai"), guard).expect("a script");
        text(&run(place.path(), args).stdout)
    };
    let offering = format!("{provider}offers = [\"realtime\"]\n");
    let told = checked(&offering, &["check"]);
    assert!(told.contains("note: scripts/guard.rhai looks at answers: in realtime sessions"), "{told}");
    let told: Value = serde_json::from_str(&checked(&offering, &["check", "--json"])).expect("JSON");
    assert!(told["notes"][0].as_str().is_some_and(|note| note.starts_with("scripts/guard.rhai")), "{told}");
    // Nobody to have sessions with, or a stage that may be left out: nothing to tell.
    let skipping = format!("{offering}[[stages]]\nuse = \"scripts/guard.rhai\"\non_error = \"skip\"\n");
    for quiet in [provider, &skipping] {
        let told = checked(quiet, &["check"]);
        assert!(told.contains("is in order") && !told.contains("looks at answers"), "{told}");
    }
}

#[tokio::test]
async fn an_answer_that_is_broken_off_is_charged_for_what_its_upstream_says_it_used() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr");
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        let mut socket = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
        socket.send(Message::text(r#"{"type":"response.created","response":{}}"#)).await.expect("sent");
        while let Some(Ok(message)) = socket.next().await {
            if message.to_text().is_ok_and(|text| text.contains("response.cancel")) {
                socket.send(Message::text(r#"{"type":"response.output_text.done"}"#)).await.expect("sent");
                socket.send(Message::text(DONE)).await.expect("sent");
            }
        }
    });
    let provider = format!(
        "[providers.up]\nbase_url = \"http://{addr}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\noffers = [\"realtime\"]\n"
    );
    let gateway = Gateway::start(&provider).await;
    let (_, mut client) = connect(&gateway, "/v1/realtime?model=up/voice", &[]).await;
    assert_eq!(next(&mut client).await["type"], "response.created");
    drop(client);
    let record = gateway.record(1).await;
    assert_eq!(
        (record["usage"]["input_tokens"].as_u64(), record["usage"]["output_tokens"].as_u64()),
        (Some(7), Some(3))
    );
}
