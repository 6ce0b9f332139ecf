//! Promises 1, 3, 8, 14 and 26 to 29, from outside.

use std::{collections::HashSet, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    family::{Anthropic, FAMILIES, Family, Gemini, Openai},
    support::{Answer, Gateway, Process, Say, Upstream, begin, eventually, parse, read_rest, request},
};

const KEY: &str = "sk-provider-key-of-the-operator";

fn keyed(upstream: &Upstream, name: &str, family: Family) -> String {
    let auth = match family {
        Openai => "bearer",
        Anthropic => "x-api-key",
        Gemini => "x-goog-api-key",
    };
    let open = upstream.provider(name, family.format());
    open.replace("auth = \"none\"\n", &format!("auth = \"{auth}\"\nkey = \"file:up.key\"\n"))
}

// 1

#[tokio::test]
async fn no_word_of_the_caller_leads_the_key_to_another_host() {
    for family in FAMILIES {
        let (own, thief) = (Upstream::saying(Say::json(family.whole("x"))).await, Upstream::start().await);
        let gateway = Gateway::with(&keyed(&own, "up", family), &[("up.key", KEY)]).await;
        let there = format!("http://{}", thief.addr);
        let at = thief.addr.to_string();
        let body = family.body("up/m", false, "x");
        let body = body.replacen('{', &format!("{{\"api_base\":\"{there}\",\"base_url\":\"{there}/v1\",\"endpoint\":\"{there}\",\"provider\":{{\"base_url\":\"{there}\"}},"), 1);
        for (name, value) in [
            ("host", at.as_str()),
            ("x-forwarded-host", &at),
            ("forwarded", &format!("host={at}")),
            ("x-base-url", &there),
            ("x-portcullis-base-url", &there),
            ("x-original-url", &there),
        ] {
            let answer = gateway.post_with(&family.path("up/m", false), &[(name, value)], &body).await;
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            let heard = own.last();
            assert!(heard.headers.iter().any(|(_, v)| v.contains(KEY)), "{:?}", heard.headers);
            assert_eq!(heard.header("host"), Some(own.addr.to_string().as_str()));
        }
        assert!(thief.heard().is_empty());
    }
}

#[tokio::test]
async fn an_absolute_request_line_does_not_lead_elsewhere() {
    let (own, thief) = (Upstream::saying(Say::json(Openai.whole("x"))).await, Upstream::start().await);
    let gateway = Gateway::with(&keyed(&own, "up", Openai), &[("up.key", KEY)]).await;
    let path = format!("http://{}/v1/chat/completions", thief.addr);
    let answer = gateway.post(&path, &Openai.body("up/m", false, "x")).await;
    assert!(answer.status == 200 || answer.status >= 400, "{}", answer.text());
    assert!(thief.heard().is_empty());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for family in FAMILIES {
        for status in [301, 302, 303, 307, 308] {
            let thief = Upstream::saying(Say::json(family.whole("stolen"))).await;
            let there = format!("http://{}/v1/chat/completions", thief.addr);
            let own =
                Upstream::saying(Say::of(status, "text/html", b"moved".to_vec()).header("location", &there)).await;
            let gateway = Gateway::with(&keyed(&own, "up", family), &[("up.key", KEY)]).await;
            let answer = family.ask(&gateway, "up/m", false).await;
            assert_eq!(answer.status, 502, "{status}: {}", answer.text());
            assert!(family.error(&answer).message.contains("base_url"), "{}", answer.text());
            assert!(thief.heard().is_empty() && !answer.text().contains(&there));
        }
    }
}

// 3

#[tokio::test]
async fn a_models_name_is_one_segment_of_an_upstream_url_or_refused() {
    let upstream = Upstream::saying(Say::json(Gemini.whole("x"))).await;
    let gateway = Gateway::start(&upstream.provider("up", "gemini")).await;
    let ask = async |model: &str| gateway.post("/v1/chat/completions", &Openai.body(model, false, "x")).await;
    for (model, segment) in [
        ("up/a/../b", "a%2F..%2Fb"),
        ("up/%2e%2e", "%252e%252e"),
        ("up/m?x=y", "m%3Fx%3Dy"),
        ("up/m#f", "m%23f"),
        ("up/m:generateContent", "m%3AgenerateContent"),
        ("up/...", "..."),
        ("up/ß m", "%C3%9F%20m"),
        ("up/\\..\\b", "%5C..%5Cb"),
        ("up/http://evil/", "http%3A%2F%2Fevil%2F"),
    ] {
        let answer = ask(model).await;
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        assert_eq!(upstream.last().path, format!("/v1beta/models/{segment}:generateContent"), "{model}");
    }
    let count = upstream.heard().len();
    for model in [
        "up/..",
        "up/.",
        "up/",
        "up/a\nb",
        "up/a\r\nx: y",
        "up/a\0b",
        "up/\u{85}",
        "..",
        "",
        &format!("up/{}", "x".repeat(5000)),
    ] {
        let answer = ask(model).await;
        assert!(matches!(answer.status, 400 | 404), "{model:?}: {} {}", answer.status, answer.text());
        Openai.error(&answer);
    }
    assert_eq!(upstream.heard().len(), count, "none of these was sent");
}

#[tokio::test]
async fn a_models_name_in_a_path_is_as_harmless() {
    let upstream = Upstream::saying(Say::json(Gemini.whole("x"))).await;
    let gateway = Gateway::start(&upstream.provider("up", "gemini")).await;
    for (path, segment) in
        [("up/a%2F..%2Fb", "a%2F..%2Fb"), ("up%2Fm%3Fx=y", "m%3Fx%3Dy"), ("up/%252e%252e", "%252e%252e")]
    {
        let answer =
            gateway.post(&format!("/v1beta/models/{path}:generateContent"), &Gemini.body("", false, "x")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(upstream.last().path, format!("/v1beta/models/{segment}:generateContent"));
    }
    let count = upstream.heard().len();
    for path in ["up/%2e%2e", "up/..", "up%2F%2E%2e", "up/a%0d%0ab", "up/%00", "%2e%2e/up"] {
        let answer =
            gateway.post(&format!("/v1beta/models/{path}:generateContent"), &Gemini.body("", false, "x")).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {} {}", answer.status, answer.text());
        Gemini.error(&answer);
    }
    assert_eq!(upstream.heard().len(), count, "none of these was sent");
}

// 8

#[tokio::test]
async fn ids_are_the_gateways_own_and_unique() {
    let gateway = Gateway::start("").await;
    let mut seen = HashSet::new();
    for _ in 0..20 {
        for family in FAMILIES {
            let headers = [("x-request-id", "mine"), ("request-id", "mine"), ("x-portcullis-request-id", "mine")];
            let answer =
                gateway.post_with(&family.path("mock", false), &headers, &family.body("mock", false, "x")).await;
            let id = answer.header("x-request-id").expect("an id").to_owned();
            assert!(id.starts_with("req_") && id.len() == 36, "{id}");
            assert!(seen.insert(id), "an id came twice");
        }
    }
}

#[tokio::test]
async fn the_upstreams_own_id_is_passed_on_beside_ours() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x")).header("x-request-id", "theirs")).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let answer = Openai.ask(&gateway, "up/m", false).await;
    assert_eq!(answer.header("x-upstream-request-id"), Some("theirs"));
    assert_ne!(answer.header("x-request-id"), Some("theirs"));
}

// 14

#[tokio::test]
async fn neither_keys_nor_prompts_are_in_logs_errors_metrics_or_admin_answers() {
    let prompt = "the-prompt-nobody-may-read";
    let upstream = Upstream::start().await;
    let script = "fn request(request, context) { if request.model == \"up/throws\" { throw request.last_user_text; } if request.model == \"up/index\" { let x = #{}; x[request.last_user_text].foo.bar; } }";
    let config =
        format!("[auth]\nrequired = true\n{}timeouts = {{ whole = \"1s\" }}\n", keyed(&upstream, "up", Openai));
    let gateway = Process::start(&config, &[("up.key", KEY), ("scripts/a.rhai", script)]).await;
    let host = gateway.admin.to_string();
    let admin = async |method: &str, path: &str, body: &str| {
        request(gateway.admin, method, path, &[("host", &host), ("content-type", "application/json")], body.as_bytes())
            .await
    };
    let key = admin("POST", "/api/v1/keys", "{\"name\":\"k\"}").await.json()["key"].as_str().expect("a key").to_owned();
    let says = || {
        vec![
            Say::json(Openai.whole("fine")),
            Say::error(401, &format!("{{\"error\":{{\"message\":\"Incorrect API key provided: {KEY}\"}}}}")),
            Say::error(403, &format!("no, {KEY}")),
            Say::error(500, &format!("{{\"error\":{{\"message\":\"panic at {prompt} with {KEY}\"}}}}")),
            Say::of(200, "text/html", format!("<html>{prompt} {KEY}</html>").into_bytes()),
            Say::json("").wait(Duration::from_secs(60)),
        ]
    };
    let mut answers: Vec<Answer> = Vec::new();
    let bearer = format!("Bearer {key}");
    for family in FAMILIES {
        for stream in [false, true] {
            for (at, say) in says().into_iter().enumerate() {
                upstream.always(say);
                // A key that was refused rests: each case has a model and, for a while, a provider of its own.
                let model = format!("up/m{at}");
                let headers = [("authorization", bearer.as_str())];
                answers.push(
                    request(
                        gateway.addr,
                        "POST",
                        &family.path(&model, stream),
                        &headers,
                        family.body(&model, stream, prompt).as_bytes(),
                    )
                    .await,
                );
            }
            for model in ["up/throws", "up/index"] {
                let headers = [("authorization", bearer.as_str())];
                answers.push(
                    request(
                        gateway.addr,
                        "POST",
                        &family.path(model, stream),
                        &headers,
                        family.body(model, stream, prompt).as_bytes(),
                    )
                    .await,
                );
            }
        }
        let path = format!("{}{}key={key}", family.path("up/m0", false), "?");
        answers.push(request(gateway.addr, "POST", &path, &[], format!("{{\"{prompt}\": nonsense").as_bytes()).await);
    }
    let count = answers.len();
    let listed = async || admin("GET", "/api/v1/requests?limit=200", "").await;
    eventually("all are settled", async || listed().await.json()["data"].as_array().is_some_and(|d| d.len() >= count))
        .await;
    eventually("there is a log to search", async || gateway.log().contains("\"status\":200")).await;
    let mut seen = vec![("the log".to_owned(), gateway.log())];
    seen.push(("metrics".to_owned(), gateway.metrics().await));
    for path in [
        "/api/v1/requests?limit=200",
        "/api/v1/keys",
        "/api/v1/providers",
        "/api/v1/models",
        "/api/v1/config/status",
        "/api/v1/audit?limit=500",
        "/api/v1/audit/export",
        "/health/ready",
    ] {
        seen.push((path.to_owned(), admin("GET", path, "").await.text()));
    }
    for answer in &answers {
        seen.push((format!("an answer with {}", answer.status), format!("{:?} {}", answer.headers, answer.text())));
    }
    for (place, text) in &seen {
        for secret in [KEY, key.as_str(), prompt] {
            let leak = text.find(secret).map(|at| text[at.saturating_sub(200)..].chars().take(400).collect::<String>());
            assert!(leak.is_none(), "{secret} is in {place}: {}", leak.unwrap_or_default());
        }
    }
}

#[tokio::test]
async fn each_request_is_logged_once() {
    let upstream = Upstream::saying(Say::error(500, "{}")).await;
    let gateway = Process::start(&upstream.provider("up", "openai_chat"), &[]).await;
    let mut ids = Vec::new();
    for family in FAMILIES {
        for model in ["up/m", "mock", "nobody"] {
            let body = family.body(model, false, "x");
            let answer = request(gateway.addr, "POST", &family.path(model, false), &[], body.as_bytes()).await;
            ids.push(answer.header("x-request-id").expect("an id").to_owned());
        }
        let answer = request(gateway.addr, "POST", &family.path("m", false), &[], b"{").await;
        ids.push(answer.header("x-request-id").expect("an id").to_owned());
    }
    let lines =
        |id: &str| gateway.log().lines().filter(|l| l.contains(id) && l.contains("\"message\":\"request\"")).count();
    eventually("every request is in the log", async || ids.iter().all(|id| lines(id) > 0)).await;
    assert!(ids.iter().all(|id| lines(id) == 1), "{}", gateway.log());
}

// 26

#[tokio::test]
async fn half_a_head_is_cut_after_the_header_timeout() {
    let gateway = Gateway::start("[server]\nlisten = \"127.0.0.1:0\"\nheader_timeout = \"1s\"\n").await;
    for begun in ["", "POST /v1/chat", "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut socket = tokio::net::TcpStream::connect(gateway.addr).await.expect("connect");
        socket.write_all(begun.as_bytes()).await.expect("sent");
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "the connection that said {begun:?} was closed");
        assert!(rest.is_empty() || parse(&rest).status == 408, "{}", String::from_utf8_lossy(&rest));
    }
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The kinds and payloads of the frames in these bytes.
fn frames(mut raw: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = raw {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(payload) = rest.get(..length) else { break };
        found.push((*kind, payload.to_vec()));
        raw = &rest[length..];
    }
    found
}

#[tokio::test]
async fn http2_states_its_limits_and_ends_a_flood_of_resets() {
    let gateway = Gateway::start("").await;
    let mut socket = tokio::net::TcpStream::connect(gateway.addr).await.expect("connect");
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    socket.write_all(&frame(4, 0, 0, b"")).await.expect("sent");
    // POST, http, /, and an authority.
    let head = b"\x83\x86\x84\x01\x07gateway";
    let flood: Vec<u8> = (0..5000u32)
        .flat_map(|n| [frame(1, 4, 2 * n + 1, head), frame(3, 0, 2 * n + 1, &8u32.to_be_bytes())].concat())
        .collect();
    // It may be cut off while it still sends.
    let _ = socket.write_all(&flood).await;
    let mut raw = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut raw)).await;
    assert!(read.is_ok(), "the connection of a flood is closed");
    let told = frames(&raw);
    let settings = told.iter().find(|(kind, payload)| *kind == 4 && !payload.is_empty()).expect("settings");
    for limit in [3u8, 6] {
        assert!(settings.1.chunks(6).any(|s| s[..2] == [0, limit]), "limit {limit} is stated: {settings:?}");
    }
    let calm = told.iter().any(|(kind, payload)| *kind == 7 && payload[4..8] == [0, 0, 0, 11]);
    assert!(calm, "ENHANCE_YOUR_CALM");
    assert_eq!(Openai.ask(&gateway, "mock", false).await.status, 200, "others are served");
}

#[tokio::test]
async fn a_body_that_crawls_is_a_408_in_the_callers_format() {
    let gateway = Gateway::start("").await;
    let slow = async |family: Family| {
        let head = [("content-length", "1000")];
        let mut socket = begin(gateway.addr, "POST", &family.path("mock", false), &head, b"{\"model\":").await;
        let answer = read_rest(&mut socket, Vec::new()).await;
        assert_eq!((answer.status, family.error(&answer).code.as_str()), (408, "request_timeout"), "{}", answer.text());
    };
    futures_util::future::join_all(FAMILIES.map(slow)).await;
}

// 27

const SMALL: &str = "[server]\nlisten = \"127.0.0.1:0\"\nmax_body = \"2KiB\"\n";

#[tokio::test]
async fn a_body_over_the_limit_is_a_413_with_and_without_a_length() {
    let gateway = Gateway::start(SMALL).await;
    for family in FAMILIES {
        let (path, body) = (family.path("mock", false), family.body("mock", false, &"x".repeat(4000)));
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let with = gateway.post(&path, &body).await;
        let without = gateway.post_with(&path, &[("transfer-encoding", "chunked")], &chunked).await;
        for answer in [with, without] {
            let error = family.error(&answer);
            assert_eq!((answer.status, error.code.as_str()), (413, "request_too_large"));
            assert!(error.message.contains("2048") && error.message.contains("max_body"), "{}", error.message);
        }
        assert_eq!(gateway.post(&path, &family.body("mock", false, &"x".repeat(1000))).await.status, 200);
    }
}

#[tokio::test]
async fn an_announced_length_is_refused_before_the_body_comes() {
    let gateway = Gateway::start(SMALL).await;
    for family in FAMILIES {
        let head = [("content-length", "99999999999")];
        let mut socket = begin(gateway.addr, "POST", &family.path("mock", false), &head, b"").await;
        let answer = read_rest(&mut socket, Vec::new()).await;
        assert_eq!((answer.status, family.error(&answer).code.as_str()), (413, "request_too_large"));
    }
}

#[tokio::test]
async fn an_endless_body_is_refused_at_the_limit() {
    let gateway = Gateway::start(SMALL).await;
    let mut socket = begin(gateway.addr, "POST", "/v1/messages", &[("transfer-encoding", "chunked")], b"").await;
    let piece = format!("400\r\n{}\r\n", "x".repeat(1024));
    for _ in 0..64 {
        if socket.write_all(piece.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = read_rest(&mut socket, Vec::new()).await;
    assert_eq!((answer.status, Anthropic.error(&answer).code.as_str()), (413, "request_too_large"));
}

async fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    async_compression::tokio::bufread::GzipEncoder::new(plain).read_to_end(&mut packed).await.expect("packed");
    packed
}

#[tokio::test]
async fn a_compressed_body_is_unpacked_and_a_bomb_is_a_413() {
    let gateway = Gateway::start("").await;
    let bomb = gzip(&vec![b' '; 64 << 20]).await;
    assert!(bomb.len() < 128 << 10);
    for family in FAMILIES {
        let path = family.path("mock", false);
        let packed = gzip(family.body("mock", false, "x").as_bytes()).await;
        let coded = [("content-encoding", "gzip")];
        let answer = request(gateway.addr, "POST", &path, &coded, &packed).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = request(gateway.addr, "POST", &path, &coded, &bomb).await;
        assert_eq!((answer.status, family.error(&answer).code.as_str()), (413, "request_too_large"));
    }
}

#[tokio::test]
async fn an_unknown_or_damaged_encoding_is_told() {
    let gateway = Gateway::start("").await;
    for family in FAMILIES {
        let (path, body) = (family.path("mock", false), family.body("mock", false, "x"));
        for (coding, status) in [("compress", 415), ("gzip, gzip", 415), ("gzip", 400), ("identity", 200)] {
            let answer = gateway.post_with(&path, &[("content-encoding", coding)], &body).await;
            assert_eq!(answer.status, status, "{coding}: {}", answer.text());
            if status != 200 {
                assert!(family.error(&answer).message.len() > 20);
            }
        }
    }
}

// 28

#[tokio::test]
async fn numbers_survive_as_they_were_written() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let numbers = "\"a\":1.0e2,\"b\":12345678901234567890123,\"c\":0.10,\"d\":-0.0,\"e\":1E400";
    let tools = format!(
        "[{{\"type\":\"function\",\"function\":{{\"name\":\"f\",\"parameters\":{{\"type\":\"object\",\"default\":{{{numbers}}}}}}}}}]"
    );
    let body = format!(
        "{{\"model\":\"up/m\",\"own\":{{{numbers}}},\"tools\":{tools},\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}]}}"
    );
    assert_eq!(gateway.chat(&body).await.status, 200);
    assert_eq!(upstream.last().body, body.replace("up/m", "m").into_bytes());
}

#[tokio::test]
async fn numbers_survive_a_translation() {
    for family in FAMILIES {
        let upstream = Upstream::saying(Say::json(family.whole("x"))).await;
        let gateway = Gateway::start(&upstream.provider("up", family.format())).await;
        let body = r#"{"model":"up/m","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"x":{"type":"integer","maximum":12345678901234567890123,"minimum":1.50}}}}}],"messages":[{"role":"user","content":"x"}]}"#;
        let answer = gateway.chat(body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let heard = String::from_utf8(upstream.last().body).expect("text");
        assert!(heard.contains("12345678901234567890123") && heard.contains("1.50"), "{family:?}: {heard}");
    }
}

// 29

#[tokio::test]
async fn hop_by_hop_fields_cookies_and_credentials_stay_here() {
    for client in FAMILIES {
        for format in FAMILIES {
            let upstream = Upstream::saying(Say::json(format.whole("x"))).await;
            let gateway = Gateway::with(&keyed(&upstream, "up", format), &[("up.key", KEY)]).await;
            let hidden = [
                ("authorization", "Bearer hidden"),
                ("x-api-key", "hidden"),
                ("x-goog-api-key", "hidden"),
                ("api-key", "hidden"),
                ("cookie", "hidden"),
                ("proxy-authorization", "hidden"),
                ("te", "trailers"),
                ("trailer", "hidden"),
                ("keep-alive", "hidden"),
                ("x-forwarded-for", "hidden"),
                ("x-real-ip", "hidden"),
                ("forwarded", "for=hidden"),
                ("x-own-header", "hidden"),
                ("accept-encoding", "hidden"),
                ("user-agent", "hidden"),
                ("x-portcullis-tags", "a=hidden"),
            ];
            let answer =
                gateway.post_with(&client.path("up/m", false), &hidden, &client.body("up/m", false, "x")).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let heard = upstream.last();
            let leaks: Vec<_> = heard
                .headers
                .iter()
                .filter(|(n, v)| v.contains("hidden") || matches!(n.as_str(), "te" | "trailer"))
                .collect();
            assert!(leaks.is_empty(), "{client:?} to {format:?}: {leaks:?}");
            assert_eq!(heard.header("accept-encoding"), Some("identity"));
            assert_eq!(heard.headers.iter().filter(|(_, v)| v.contains(KEY)).count(), 1);
        }
    }
}

#[tokio::test]
async fn cookies_of_an_upstream_stay_there() {
    let say = Say::json(Openai.whole("x"))
        .header("set-cookie", "a=b")
        .header("x-internal", "secret")
        .header("server", "theirs");
    let upstream = Upstream::saying(say).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let answer = Openai.ask(&gateway, "up/m", false).await;
    assert!(answer.header("set-cookie").is_none() && answer.header("x-internal").is_none(), "{:?}", answer.headers);
}
