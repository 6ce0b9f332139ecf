//! Odd shapes on the wire: connections that are reused or closed at the wrong moment, answers as a JSON array, models
//! named inside bodies, memory for bodies, and the counters that tell of it all.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    family::{Anthropic, FAMILIES, Gemini, Openai},
    support::{End, Gateway, Process, Say, Upstream, begin, eventually, read_rest, read_until, request},
};

async fn pair(say: Say, format: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let gateway = Gateway::start(&upstream.provider("up", format)).await;
    (upstream, gateway)
}

// connections

#[tokio::test]
async fn an_upstream_that_closes_between_requests_costs_no_request() {
    let (upstream, gateway) = pair(Say::json(Openai.whole("x")).end(End::Close), "openai_chat").await;
    for _ in 0..20 {
        for family in FAMILIES {
            let answer = family.ask(&gateway, "up/m", false).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    assert_eq!(upstream.heard().len(), 60, "and none was sent twice");
}

#[tokio::test]
async fn bytes_behind_an_answer_never_become_the_next_ones_answer() {
    let (_upstream, gateway) = pair(Say::json(Openai.whole("x")).end(End::Extra), "openai_chat").await;
    for _ in 0..20 {
        for family in FAMILIES {
            let answer = family.ask(&gateway, "up/m", false).await;
            assert_eq!((answer.status, family.text(&answer).as_str()), (200, "x"), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn the_rest_of_an_answer_that_was_left_reaches_nobody_else() {
    let (upstream, gateway) = pair(Say::json(Openai.whole("fresh")), "openai_chat").await;
    for round in 1..=5 {
        let frames = Openai.frames(&["early", "stale"]);
        let mut say = Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), Duration::ZERO);
        say.chunks[2].0 = Duration::from_millis(200);
        upstream.then(say);
        let body = Openai.body("up/m", true, "x");
        let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
        read_until(&mut socket, "early").await;
        drop(socket);
        upstream.is_cancelled(round).await;
        assert_eq!(Openai.text(&Openai.ask(&gateway, "up/m", false).await), "fresh");
    }
}

#[tokio::test]
async fn one_client_connection_carries_request_after_request_errors_included() {
    let gateway = Gateway::start("[server]\nlisten = \"127.0.0.1:0\"\nmax_body = \"4KiB\"\n").await;
    let mut socket = tokio::net::TcpStream::connect(gateway.addr).await.expect("connect");
    for body in [
        Openai.body("mock", false, "x"),
        "nonsense".to_owned(),
        Openai.body("none", false, "x"),
        Openai.body("mock", false, "y"),
    ] {
        let head =
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        socket.write_all(head.as_bytes()).await.expect("sent");
        let raw = read_until(&mut socket, "}}").await;
        assert!(raw.starts_with(b"HTTP/1.1 "), "{}", String::from_utf8_lossy(&raw));
    }
}

#[tokio::test]
async fn a_refusal_is_heard_by_a_client_that_is_still_sending() {
    let gateway = Gateway::start("[auth]\nrequired = true\n").await;
    for family in FAMILIES {
        let body = family.body("mock", false, &"x".repeat(8 << 20));
        let answer = gateway.post(&family.path("mock", false), &body).await;
        assert_eq!((answer.status, family.error(&answer).code.as_str()), (401, "key_missing"));
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let gateway = Gateway::start("").await;
    let body = Openai.body("mock", false, "x");
    let length = body.len().to_string();
    let headers = [("expect", "100-continue"), ("content-length", length.as_str())];
    let mut socket = begin(gateway.addr, "POST", "/v1/chat/completions", &headers, b"").await;
    read_until(&mut socket, "100 Continue\r\n\r\n").await;
    socket.write_all(body.as_bytes()).await.expect("sent");
    assert_eq!(read_rest(&mut socket, Vec::new()).await.status, 200);
}

#[tokio::test]
async fn lengths_that_contradict_each_other_are_refused() {
    let (upstream, gateway) = pair(Say::json(Openai.whole("x")), "openai_chat").await;
    let body = Openai.body("up/m", false, "x");
    let length = body.len().to_string();
    let answer =
        gateway.post_with("/v1/chat/completions", &[("content-length", &length), ("content-length", "5")], &body).await;
    assert_eq!(answer.status, 400);
    assert!(upstream.heard().is_empty());
}

#[tokio::test]
async fn bodies_share_a_bounded_memory_and_give_it_back() {
    let upstream = Upstream::saying(Say::json("").wait(Duration::from_secs(60))).await;
    let server = "[server]\nlisten = \"127.0.0.1:0\"\nmax_body = \"64KiB\"\nbody_memory = \"64KiB\"\n";
    let gateway = Gateway::start(&format!("{server}{}", upstream.provider("up", "openai_chat"))).await;
    let big = Openai.body("up/m", false, &"x".repeat(40_000));
    let held = begin(gateway.addr, "POST", "/v1/chat/completions", &[], big.as_bytes()).await;
    upstream.hears(1).await;
    for family in FAMILIES {
        let answer = gateway.post(&family.path("mock", false), &family.body("mock", false, &"x".repeat(40_000))).await;
        assert_eq!((answer.status, family.error(&answer).code.as_str()), (503, "overloaded"), "{}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    drop(held);
    upstream.is_cancelled(1).await;
    eventually("the memory is free again", async || {
        gateway.post("/v1/chat/completions", &Openai.body("mock", false, &"x".repeat(40_000))).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn many_clients_at_once_each_get_their_own_answer() {
    let gateway = Gateway::start("").await;
    let ask = async |n: usize| {
        let family = FAMILIES[n % 3];
        let word = format!("word{n}");
        let text = format!("[mock: text={word}]");
        let answer = gateway
            .post(&family.path("mock", n.is_multiple_of(2)), &family.body("mock", n.is_multiple_of(2), &text))
            .await;
        assert_eq!(family.text(&answer), word, "{}", answer.text());
    };
    futures_util::future::join_all((0..200).map(ask)).await;
}

// Gemini's stream as a JSON array

const ARRAY: &str = "/v1beta/models/up/m:streamGenerateContent";

fn texts(answer: &str) -> String {
    let list: Value = serde_json::from_str(answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
    let list = list.as_array().unwrap_or_else(|| panic!("no array: {answer}"));
    list.iter().filter_map(|c| c.pointer("/candidates/0/content/parts/0/text").and_then(Value::as_str)).collect()
}

#[tokio::test]
async fn a_stream_without_alt_sse_is_one_valid_json_array() {
    for format in FAMILIES {
        let (_upstream, gateway) =
            pair(Say::sse(format.frames(&["so ", "it is"]).concat()).bytewise(), format.format()).await;
        let answer = gateway.post(ARRAY, &Gemini.body("", true, "x")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert_eq!(texts(&answer.text()), "so it is", "{format:?}");
    }
}

#[tokio::test]
async fn an_array_that_breaks_off_ends_with_the_error_and_stays_valid() {
    for format in FAMILIES {
        let frames = format.frames(&["some", "never"]);
        let frames: Vec<&str> = frames.iter().take(format.lead() + 1).map(String::as_str).collect();
        let (_upstream, gateway) = pair(Say::frames(&frames, Duration::ZERO).end(End::Cut), format.format()).await;
        let answer = gateway.post(ARRAY, &Gemini.body("", true, "x")).await;
        assert_eq!(texts(&answer.text()), "some", "{format:?}");
        let last = answer.json().as_array().and_then(|l| l.last().cloned()).expect("an element");
        assert!(last["error"]["code"].is_number(), "{last}");
    }
}

#[tokio::test]
async fn an_array_of_a_whole_answer_is_an_array_too() {
    let script = "fn request(request, context) { return respond(\"made\"); }";
    let gateway = Gateway::with("", &[("scripts/a.rhai", script)]).await;
    let answer = gateway.post("/v1beta/models/mock:streamGenerateContent", &Gemini.body("", true, "x")).await;
    assert_eq!(texts(&answer.text()), "made");
}

// models named inside bodies

#[tokio::test]
async fn the_model_inside_a_gemini_body_follows_the_path() {
    let (upstream, gateway) = pair(Say::json(Gemini.whole("x")), "gemini").await;
    let body =
        json!({"model": "models/up/other", "contents": [{"role": "user", "parts": [{"text": "x"}]}]}).to_string();
    let answer = gateway.post("/v1beta/models/up/m:generateContent", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        (upstream.last().path.as_str(), &upstream.last().json()["model"]),
        ("/v1beta/models/m:generateContent", &json!("models/m"))
    );
}

#[tokio::test]
async fn models_inside_a_batch_of_embeddings_follow_the_path() {
    let (upstream, gateway) =
        pair(Say::json("{\"embeddings\":[{\"values\":[0.5]},{\"values\":[0.25]}]}"), "gemini").await;
    let one = |model: &str| json!({"model": model, "content": {"parts": [{"text": "x"}]}});
    let body = json!({"requests": [one("models/up/e"), one("models/up/other")]}).to_string();
    let answer = gateway.post("/v1beta/models/up/e:batchEmbedContents", &body).await;
    if answer.status == 200 {
        let heard = upstream.last().json();
        assert!(heard["requests"].as_array().expect("requests").iter().all(|r| r["model"] == "models/e"), "{heard}");
    } else {
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(upstream.heard().is_empty());
    }
    let alike = json!({"requests": [one("models/up/e"), one("models/up/e")]}).to_string();
    let answer = gateway.post("/v1beta/models/up/e:batchEmbedContents", &alike).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let heard = upstream.last().json();
    assert!(heard["requests"].as_array().expect("requests").iter().all(|r| r["model"] == "models/e"), "{heard}");
}

#[tokio::test]
async fn the_model_inside_a_count_follows_the_path() {
    let (upstream, gateway) = pair(Say::json("{\"totalTokens\":5}"), "gemini").await;
    let inner = json!({"model": "models/up/other", "contents": [{"role": "user", "parts": [{"text": "x"}]}]});
    let body = json!({"generateContentRequest": inner}).to_string();
    let answer = gateway.post("/v1beta/models/up/m:countTokens", &body).await;
    assert_eq!((answer.status, &answer.json()["totalTokens"]), (200, &json!(5)), "{}", answer.text());
    let heard = upstream.last();
    assert_eq!(
        (heard.path.as_str(), &heard.json()["generateContentRequest"]["model"]),
        ("/v1beta/models/m:countTokens", &json!("models/m"))
    );
}

// embeddings and counts

#[tokio::test]
async fn embeddings_cross_the_formats_and_fail_over() {
    let vectors = [
        (
            Openai,
            "{\"object\":\"list\",\"model\":\"e\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[0.5,-0.25]}],\"usage\":{\"prompt_tokens\":2,\"total_tokens\":2}}",
        ),
        (Gemini, "{\"embeddings\":[{\"values\":[0.5,-0.25]}]}"),
    ];
    for (format, vector) in vectors {
        let (dead, well) = (Upstream::saying(Say::error(500, "{}")).await, Upstream::saying(Say::json(vector)).await);
        let alias =
            "[models.e]\ntargets = [{ provider = \"dead\", model = \"e\" }, { provider = \"well\", model = \"e\" }]\n";
        let gateway = Gateway::start(
            &[dead.provider("dead", format.format()), well.provider("well", format.format()), alias.into()].concat(),
        )
        .await;
        let answer = gateway.post("/v1/embeddings", "{\"model\":\"e\",\"input\":\"x\"}").await;
        assert_eq!(answer.json()["data"][0]["embedding"], json!([0.5, -0.25]), "{}", answer.text());
        let answer =
            gateway.post("/v1beta/models/e:embedContent", "{\"content\":{\"parts\":[{\"text\":\"x\"}]}}").await;
        assert_eq!(answer.json()["embedding"]["values"], json!([0.5, -0.25]), "{}", answer.text());
        assert_eq!((dead.heard().len(), answer.header("x-portcullis-attempts")), (2, Some("2")));
    }
}

#[tokio::test]
async fn tokens_are_counted_here_where_the_upstream_cannot_and_marked_so() {
    let (upstream, gateway) = pair(Say::error(404, "{}"), "openai_chat").await;
    let answer = gateway.post("/v1/messages/count_tokens", &Anthropic.body("up/m", false, "some words to count")).await;
    assert!(answer.json()["input_tokens"].as_u64().is_some_and(|n| n > 0), "{}", answer.text());
    assert_eq!(answer.header("x-portcullis-estimated"), Some("true"));
    let answer = gateway.post("/v1beta/models/up/m:countTokens", &Gemini.body("", false, "some words to count")).await;
    assert!(answer.json()["totalTokens"].as_u64().is_some_and(|n| n > 0), "{}", answer.text());
    assert!(upstream.heard().is_empty());
}

// counters

#[tokio::test]
async fn the_record_and_the_counters_tell_what_happened() {
    for format in FAMILIES {
        for client in FAMILIES {
            for stream in [false, true] {
                let say =
                    if stream { Say::sse(format.frames(&["x", "y"]).concat()) } else { Say::json(format.whole("x")) };
                let (_upstream, gateway) = pair(say, format.format()).await;
                client.ask(&gateway, "up/m", stream).await;
                let record = gateway.record(1).await;
                let case = format!("{client:?} of {format:?}, {stream}: {record}");
                assert_eq!(
                    (record["status"].as_u64(), record["stream"].as_bool()),
                    (Some(200), Some(stream)),
                    "{case}"
                );
                assert_eq!((record["target"].as_str(), record["attempts"].as_u64()), (Some("up/m"), Some(1)), "{case}");
                assert_eq!(record["finish_reason"], "stop", "{case}");
                if !(stream && format == Openai) {
                    assert_eq!(
                        (record["usage"]["input_tokens"].as_u64(), record["usage"]["output_tokens"].as_u64()),
                        (Some(3), Some(2)),
                        "{case}"
                    );
                }
                assert_eq!(record["first_event_ms"].is_number(), stream, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn metrics_count_requests_attempts_and_tokens() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    upstream.then(Say::error(500, "{}"));
    let alias = "[models.m]\ntargets = [{ provider = \"up\", model = \"m\" }]\nretries = 0\n";
    let gateway = Process::start(&[upstream.provider("up", "openai_chat"), alias.into()].concat(), &[]).await;
    for family in FAMILIES {
        for model in ["m", "none"] {
            let body = family.body(model, false, "x");
            request(gateway.addr, "POST", &family.path(model, false), &[], body.as_bytes()).await;
        }
    }
    let value = async |wanted: &[&str]| -> f64 {
        let text = gateway.metrics().await;
        let lines = text.lines().filter(|l| wanted.iter().all(|w| l.contains(w)));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    eventually("all six are counted", async || value(&["portcullis_requests_total"]).await == 6.0).await;
    assert_eq!(
        value(&["portcullis_requests_total", "route=\"m\"", "status_class=\"2xx\"", "provider=\"up\""]).await,
        2.0
    );
    assert_eq!(value(&["portcullis_requests_total", "route=\"m\"", "status_class=\"5xx\""]).await, 1.0);
    assert_eq!(value(&["portcullis_requests_total", "status_class=\"4xx\""]).await, 3.0);
    assert_eq!(value(&["portcullis_upstream_attempts_total", "outcome=\"ok\""]).await, 2.0);
    assert_eq!(value(&["portcullis_upstream_attempts_total", "outcome=\"upstream_failed\""]).await, 1.0);
    assert_eq!(value(&["portcullis_tokens_total", "direction=\"input\""]).await, 6.0);
}

#[tokio::test]
async fn an_error_under_a_good_status_is_a_failure_and_another_target_is_tried() {
    let alias =
        "[models.m]\ntargets = [{ provider = \"dead\", model = \"m\" }, { provider = \"well\", model = \"m\" }]\n";
    for format in FAMILIES {
        for said in [format.error_body(500, "broken inside"), "{}".to_owned()] {
            for client in FAMILIES {
                let dead = Upstream::saying(Say::json(said.clone())).await;
                let well = Upstream::saying(Say::json(format.whole("well"))).await;
                let all =
                    [dead.provider("dead", format.format()), well.provider("well", format.format()), alias.into()];
                let gateway = Gateway::start(&all.concat()).await;
                assert_eq!(client.text(&client.ask(&gateway, "m", false).await), "well", "{client:?} of {format:?}");
                assert_eq!(client.ask(&gateway, "dead/m", false).await.status, 502, "{client:?} of {format:?}");
            }
        }
    }
}

/// It counts against the target's health like any other failure.
#[tokio::test]
async fn a_target_that_sends_errors_under_a_good_status_rests_too() {
    let (_upstream, gateway) = pair(Say::json(Openai.error_body(500, "broken inside")), "openai_chat").await;
    // Each is tried twice, until the fifth failure.
    for _ in 0..3 {
        assert_eq!(Openai.ask(&gateway, "up/m", false).await.status, 502);
    }
    assert_eq!(Openai.ask(&gateway, "up/m", false).await.status, 503);
}

#[tokio::test]
async fn a_list_of_requests_given_twice_is_refused() {
    let (upstream, gateway) = pair(Say::json("{}"), "gemini").await;
    let list = "[{\"model\":\"models/up/other\",\"content\":{\"parts\":[{\"text\":\"x\"}]}}]";
    let body = format!("{{\"requests\":{list},\"requests\":{list}}}");
    let answer = gateway.post("/v1beta/models/up/e:batchEmbedContents", &body).await;
    assert_eq!((answer.status, Gemini.error(&answer).code.as_str()), (400, "duplicate_field"));
    assert!(upstream.heard().is_empty());
}

// upstreams that hardly speak HTTP

#[tokio::test]
async fn an_upstream_that_breaks_http_is_a_502() {
    let body = Openai.whole("x");
    let chunk = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let raws = [
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: -1\r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\n{body}"),
        format!("{chunk}zz\r\n{body}\r\n0\r\n\r\n"),
        format!("{chunk}{:x}\r\n{body}", body.len()),
        format!("HTTP/1.1 200 OK\r\nx-much: {}\r\n\r\n", "y".repeat(2 << 20)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-many: y\r\n".repeat(20_000)),
        String::new(),
    ];
    for (at, raw) in raws.iter().enumerate() {
        let (_upstream, gateway) = pair(Say::raw(raw.as_str()), "openai_chat").await;
        for family in FAMILIES {
            let answer = family.ask(&gateway, "up/m", at % 2 == 0).await;
            assert_eq!(answer.status, 502, "{at}: {}", answer.text());
            family.error(&answer);
        }
    }
}

#[tokio::test]
async fn older_and_chattier_upstreams_are_understood() {
    let body = Openai.whole("x");
    let raws = [
        format!("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n{body}"),
        format!(
            "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!("HTTP/1.1 200\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
    ];
    for raw in raws {
        let (_upstream, gateway) = pair(Say::raw(raw.as_str()), "openai_chat").await;
        for family in FAMILIES {
            let answer = family.ask(&gateway, "up/m", false).await;
            assert_eq!(family.text(&answer), "x", "{raw}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_stream_whose_chunks_break_is_an_error_event() {
    let frames = Openai.frames(&["some", "thing"]);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let seen = frames[..2].concat();
    let (_upstream, gateway) =
        pair(Say::raw(format!("{head}{:x}\r\n{seen}\r\nzz\r\n", seen.len())), "openai_chat").await;
    for family in FAMILIES {
        let answer = family.ask(&gateway, "up/m", true).await;
        let errors = family.stream_errors(&answer);
        assert_eq!(
            (family.text(&answer).as_str(), errors.len(), family.terminals(&answer)),
            ("some", 1, 0),
            "{}",
            answer.text()
        );
    }
}

// tags

#[tokio::test]
async fn tags_of_the_caller_stand_in_the_record_and_are_bounded() {
    let gateway = Gateway::start("").await;
    let much =
        format!("project=tides,{}", (0..500).map(|n| format!("k{n}={}", "v".repeat(20))).collect::<Vec<_>>().join(","));
    for (count, tags) in ["project=tides, stage = two ", &much, "project=tides,=x,nonsense,,"].into_iter().enumerate() {
        let answer = gateway
            .post_with("/v1/chat/completions", &[("x-portcullis-tags", tags)], &Openai.body("mock", false, "x"))
            .await;
        assert_eq!(answer.status, 200);
        let record = gateway.record(count + 1).await;
        assert!(
            record["tags"]["project"] == "tides" && record["tags"].as_object().is_some_and(|t| t.len() <= 64),
            "{record}"
        );
    }
}
