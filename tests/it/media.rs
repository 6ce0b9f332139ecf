//! Media named by URL: fetched where the target takes bytes only, from where it may, and nothing spent before.

use std::time::{Duration, Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::support::{End, Gateway, Process, Say, Upstream, request};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR and what follows";

fn answer() -> Say {
    Say::json(
        json!({ "candidates": [{ "content": { "role": "model", "parts": [{ "text": "seen" }] }, "finishReason": "STOP" }],
            "usageMetadata": { "promptTokenCount": 3, "candidatesTokenCount": 1 } })
        .to_string(),
    )
}

fn png() -> Say {
    Say::of(200, "application/octet-stream", PNG.to_vec())
}

fn asking(model: &str, urls: &[String]) -> String {
    let parts: Vec<Value> =
        urls.iter().map(|url| json!({ "type": "image_url", "image_url": { "url": url } })).collect();
    json!({ "model": model, "messages": [{ "role": "user", "content": parts }] }).to_string()
}

/// A gateway whose provider takes bytes only, and a host of media that `allow` names.
async fn setting(media: Say, more: &str) -> (Upstream, Upstream, Gateway) {
    let (upstream, host) = (Upstream::saying(answer()).await, Upstream::saying(media).await);
    let gateway = Gateway::start(&format!("{}{more}", upstream.provider("up", "gemini"))).await;
    (upstream, host, gateway)
}

const ALLOW: &str = "[media]\nallow = [\"127.0.0.1\"]\ntimeout = \"2s\"\nmax_size = \"64KiB\"\n";

#[tokio::test]
async fn what_a_target_cannot_take_by_url_it_gets_as_bytes() {
    let (upstream, host, gateway) = setting(png(), ALLOW).await;
    let url = format!("http://{}/cat.png?token=secret", host.addr);
    let headers = [
        ("cookie", "a=b"),
        ("authorization", "Bearer sk-x"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let told = gateway.post_with("/v1/chat/completions", &headers, &asking("up/m", &[url.clone(), url])).await;
    assert_eq!(told.status, 200, "{}", told.text());
    let parts = upstream.last().json()["contents"][0]["parts"].clone();
    let data = json!({ "mimeType": "image/png", "data": BASE64_STANDARD.encode(PNG) });
    assert_eq!((&parts[0]["inlineData"], &parts[1]["inlineData"]), (&data, &data), "{parts}");
    let [heard] = host.heard().try_into().expect("asked once for both");
    assert_eq!((heard.method.as_str(), heard.path.as_str()), ("GET", "/cat.png?token=secret"));
    for name in ["cookie", "authorization", "traceparent", "referer", "x-request-id"] {
        assert_eq!(heard.header(name), None, "{name} does not travel");
    }
}

#[tokio::test]
async fn one_request_fetches_once_for_all_its_attempts() {
    let (sick, good) = (Upstream::saying(Say::error(500, "{}")).await, Upstream::saying(answer()).await);
    let host = Upstream::saying(png()).await;
    let config = format!(
        "{}{}{ALLOW}[models.two]\ntargets = [{{ provider = \"sick\", model = \"m\" }}, {{ provider = \"good\", model = \"m\" }}]\n",
        sick.provider("sick", "gemini"),
        good.provider("good", "gemini"),
    );
    let gateway = Gateway::start(&config).await;
    let told = gateway.chat(&asking("two", &[format!("http://{}/a", host.addr)])).await;
    assert_eq!((told.status, told.header("x-portcullis-attempts")), (200, Some("2")), "{}", told.text());
    assert_eq!((sick.heard().len(), good.heard().len(), host.heard().len()), (1, 1, 1));
    assert_eq!(sick.last().json()["contents"], good.last().json()["contents"]);
}

#[tokio::test]
async fn a_target_that_takes_urls_gets_the_url_and_nobody_else_is_asked() {
    let upstream = Upstream::saying(Say::json(r#"{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}"#)).await;
    let host = Upstream::saying(png()).await;
    let gateway = Gateway::start(&format!("{}{ALLOW}", upstream.provider("up", "openai_chat"))).await;
    let url = format!("http://{}/a.png", host.addr);
    assert_eq!(gateway.chat(&asking("up/m", std::slice::from_ref(&url))).await.status, 200);
    let crossed = json!({ "model": "up/m", "max_tokens": 9, "messages": [{ "role": "user", "content": [
        { "type": "image", "source": { "type": "url", "url": url } }] }] });
    assert_eq!(gateway.post("/v1/messages", &crossed.to_string()).await.status, 200);
    for heard in upstream.heard() {
        assert!(heard.json().to_string().contains(&url), "{}", heard.json());
    }
    assert_eq!(host.heard().len(), 0);
}

#[tokio::test]
async fn text_by_url_is_a_document() {
    let text = "A report.\nIt has two lines, and an umlaut: ü.";
    let (upstream, host, gateway) =
        setting(Say::of(200, "text/plain; charset=utf-8", text.into()).bytewise(), ALLOW).await;
    let body = json!({ "model": "up/m", "max_tokens": 9, "messages": [{ "role": "user", "content": [
        { "type": "document", "source": { "type": "url", "url": format!("http://{}/report.txt", host.addr) } }] }] });
    let told = gateway.post("/v1/messages", &body.to_string()).await;
    assert_eq!(told.status, 200, "{}", told.text());
    let data = upstream.last().json()["contents"][0]["parts"][0]["inlineData"].clone();
    assert_eq!(data, json!({ "mimeType": "text/plain", "data": BASE64_STANDARD.encode(text) }));
}

#[tokio::test]
async fn private_addresses_are_not_asked_unless_they_are_allowed_by_name() {
    let (upstream, host, gateway) = setting(png(), "[media]\nallow = [\"files.internal\"]\n").await;
    let port = host.addr.port();
    for name in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "2130706433", "127.1"]
    {
        let told = gateway.chat(&asking("up/m", &[format!("http://{name}:{port}/latest/meta-data?k=hunter2")])).await;
        let error = told.json()["error"].clone();
        assert_eq!((told.status, &error["code"]), (400, &json!("media_not_allowed")), "{name}: {}", told.text());
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(name) && !message.contains("hunter2") && !message.contains("meta-data"), "{message}");
    }
    assert_eq!((host.heard().len(), upstream.heard().len()), (0, 0), "nobody was asked, nothing was spent");
    // A name that is allowed opens itself and no other; the metadata service stays closed to all.
    let (_, host, gateway) = setting(png(), "[media]\nallow = [\"LOCALHOST\", \"169.254.169.254\"]\n").await;
    let ask = async |name: &str| {
        gateway.chat(&asking("up/m", &[format!("http://{name}:{}/a", host.addr.port())])).await.status
    };
    assert_eq!((ask("localhost").await, ask("127.0.0.1").await, ask("169.254.169.254").await), (200, 400, 400));
    assert_eq!(host.heard().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_had_is_told_with_its_host_and_its_reason() {
    let endless = Say::of(200, "image/png", [PNG, &[0; 40_000]].concat()).end(End::Flood);
    for (say, status, reason) in [
        (Say::of(302, "text/plain", vec![]).header("location", "http://169.254.169.254/"), 400, "redirects"),
        (Say::error(404, "{}"), 400, "answered 404"),
        (Say::of(200, "text/html", b"<!doctype html><p>log in".to_vec()), 400, "no type that can be passed on"),
        (Say::of(200, "image/png", b"%PDF-1.7 in disguise".to_vec()), 400, "application/pdf"),
        (Say::of(200, "image/png", vec![]), 400, "no type"),
        (Say::of(200, "image/png", [PNG, &[0; 70_000]].concat()), 413, "64 KiB"),
        (endless, 413, "64 KiB"),
        (png().header("content-encoding", "gzip"), 400, "compressed"),
        (png().wait(Duration::from_secs(60)), 400, "longer than 2.0 s"),
        (png().end(End::Stall), 400, "longer than 2.0 s"),
    ] {
        let (upstream, host, gateway) = setting(say, ALLOW).await;
        let began = Instant::now();
        let told = gateway.chat(&asking("up/m", &[format!("http://{}/secret-path", host.addr)])).await;
        let text = told.text();
        assert_eq!(told.status, status, "{reason}: {text}");
        assert!(
            text.contains(reason) && text.contains("127.0.0.1") && !text.contains("secret-path"),
            "{reason}: {text}"
        );
        assert!(began.elapsed() < Duration::from_secs(20), "{reason}");
        assert_eq!((upstream.heard().len(), host.heard().len()), (0, 1), "{reason}: asked once, nothing spent");
        let record = gateway.record(1).await;
        assert_eq!((record["cost_usd"].to_string(), record["ledger"].as_array().map(Vec::len)), ("0".into(), Some(0)));
    }
    let (_, _, gateway) = setting(png(), "[media]\nfetch = false\n").await;
    let told = gateway.chat(&asking("up/m", &["https://example.com/a.png".to_owned()])).await;
    assert_eq!(
        (told.status, told.json()["error"]["code"].clone()),
        (400, json!("unsupported_feature")),
        "{}",
        told.text()
    );
}

#[tokio::test]
async fn fetched_bytes_count_as_bodies() {
    let (upstream, host, gateway) = setting(
        Say::of(200, "image/png", [PNG, &[0; 50_000]].concat()),
        &format!("{ALLOW}[server]\nlisten = \"127.0.0.1:0\"\ndrain_delay = \"0s\"\nbody_memory = \"100KiB\"\n"),
    )
    .await;
    let urls: Vec<String> = (0..3).map(|n| format!("http://{}/{n}", host.addr)).collect();
    let told = gateway.chat(&asking("up/m", &urls)).await;
    assert_eq!(told.status, 503, "{}", told.text());
    assert_eq!(upstream.heard().len(), 0);
    let told = gateway.chat(&asking("up/m", &urls[..1])).await;
    assert_eq!(told.status, 200, "what was held is given back: {}", told.text());
    let many: Vec<String> = (0..21).map(|n| format!("http://{}/{n}", host.addr)).collect();
    let told = gateway.chat(&asking("up/m", &many)).await;
    assert_eq!((told.status, told.json()["error"]["code"].clone()), (400, json!("too_many_media")));
}

/// A prompt whose every line has an escape, however many turns it has: at the peak of the process over its peak before, what it
/// takes to read it from its socket included.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_prompt_crosses_formats_in_three_copies() {
    let upstream = Upstream::saying(Say::json(r#"{"id":"x","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"a"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}"#)).await;
    let config = format!("[auth]\nrequired = false\n{}", upstream.provider("up", "anthropic_messages"));
    let mut all = Vec::new();
    for (turns, size) in [(1, 1 << 20), (41, 1 << 20), (1, 10 << 20), (41, 10 << 20)] {
        let process = Process::start(&config, &[]).await;
        let host = process.addr.to_string();
        let headers = [("host", host.as_str()), ("content-type", "application/json")];
        let ask = async |bytes: usize| {
            let text =
                "a line of a prompt, as long as lines are, with a \"word\" in quotes\n".repeat(bytes / 70 / turns);
            let role = |n: usize| if n.is_multiple_of(2) { "user" } else { "assistant" };
            let turn = |n: usize| json!({"role": role(n), "content": format!("{text}{n}.")});
            let messages: Vec<Value> = (0..turns).map(turn).collect();
            let body = json!({"model": "up/m", "messages": messages}).to_string();
            let told = request(process.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
            assert_eq!(told.status, 200, "{}", told.text());
            let sent = upstream.last().json()["messages"].as_array().map(Vec::len);
            assert_eq!(sent, Some(turns));
            body.len()
        };
        ask(1000).await;
        let before = process.peak_memory();
        let body = ask(size).await;
        let copies = (process.peak_memory() - before) as f64 / body as f64;
        println!("{turns} turns, {} MiB: {copies:.2} copies", size >> 20);
        all.push(copies);
    }
    assert!(all.iter().all(|copies| *copies < 3.0), "{all:.2?} copies of the body");
}

/// The body itself and the text in the model, which goes out as it is.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_data_url_crosses_formats_in_three_copies() {
    let upstream = Upstream::saying(Say::json(r#"{"id":"x","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"a"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}"#)).await;
    let config = format!("[auth]\nrequired = false\n{}", upstream.provider("up", "anthropic_messages"));
    let process = Process::start(&config, &[]).await;
    let host = process.addr.to_string();
    let headers = [("host", host.as_str()), ("content-type", "application/json")];
    let ask = async |bytes: usize| {
        let data = BASE64_STANDARD.encode(vec![7u8; bytes * 3 / 4]);
        let body = asking("up/m", &[format!("data:image/png;base64,{data}")]);
        let told = request(process.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
        assert_eq!(told.status, 200, "{}", told.text());
        assert_eq!(upstream.last().json()["messages"][0]["content"][0]["source"]["data"], data.as_str());
    };
    ask(1000).await;
    let before = process.peak_memory();
    const BODY: usize = 10 << 20;
    ask(BODY).await;
    let copies = (process.peak_memory() - before) as f64 / BODY as f64;
    println!("{copies:.2} copies");
    assert!(copies < 3.0, "{copies:.2} copies of the body");
}
