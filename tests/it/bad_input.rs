//! Bad input, case by case, in all three client formats: a status that SDKs expect, the family's own shape, a message
//! that says what to do, and a gateway that goes on.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    family::{Anthropic, FAMILIES, Family, Gemini, Openai},
    support::{Answer, End, Gateway, Say, Upstream, eventually, request},
};

async fn post(gateway: &Gateway, family: Family, body: &[u8]) -> Answer {
    request(gateway.addr, "POST", &family.path("mock", false), &[("content-type", "application/json")], body).await
}

/// The status and code, with a message that holds all of these words.
#[track_caller]
fn told(family: Family, answer: &Answer, status: u16, code: &str, words: &[&str]) {
    let error = family.error(answer);
    assert_eq!((answer.status, error.code.as_str()), (status, code), "{family:?}: {}", answer.text());
    let kind = match (family, status) {
        (Openai, 408 | 504) => "timeout",
        (Openai, 413) => "request_too_large",
        (Openai, 400..500) => "invalid_request_error",
        (Anthropic, 404) => "not_found_error",
        (Anthropic, 504) => "timeout_error",
        (Anthropic, 400..500) => "invalid_request_error",
        (Gemini, 404) => "NOT_FOUND",
        (Gemini, 405) => "UNIMPLEMENTED",
        (Gemini, 504) => "DEADLINE_EXCEEDED",
        (Gemini, _) => "INVALID_ARGUMENT",
        _ => &error.kind,
    };
    assert_eq!(error.kind, kind, "{}", answer.text());
    for word in words {
        assert!(error.message.contains(word), "{family:?}: no {word:?} in {:?}", error.message);
    }
    assert!(answer.header("x-request-id").is_some());
}

#[tokio::test]
async fn an_unknown_path_is_a_404_in_the_familys_shape() {
    let gateway = Gateway::start("").await;
    for (family, path) in [
        (Openai, "/v1/nothing"),
        (Openai, "/"),
        (Openai, "/v1/chat/completions/"),
        (Openai, "//v1/chat/completions"),
        (Anthropic, "/v1/messages/nothing"),
        (Anthropic, "/anthropic/v1/nothing"),
        (Gemini, "/v1beta/nothing"),
        (Gemini, "/v1beta/models/mock:nothing"),
        (Gemini, "/gemini/v1beta/models/"),
    ] {
        let answer = gateway.post(path, "{}").await;
        told(family, &answer, 404, "not_found", &[]);
    }
}

#[tokio::test]
async fn a_wrong_method_is_a_405_that_names_the_right_one() {
    let gateway = Gateway::start("").await;
    for family in FAMILIES {
        for method in ["GET", "PUT", "DELETE", "PATCH"] {
            let answer = request(gateway.addr, method, &family.path("mock", false), &[], b"").await;
            told(family, &answer, 405, "method_not_allowed", &["POST"]);
            assert_eq!(answer.header("allow"), Some("POST"));
        }
    }
}

#[tokio::test]
async fn an_unknown_model_is_a_404_that_says_how_to_name_one() {
    let gateway = Gateway::start("").await;
    for family in FAMILIES {
        for stream in [false, true] {
            let answer = family.ask(&gateway, "no-such-model", stream).await;
            told(family, &answer, 404, "model_not_found", &["no-such-model", "mock/<model>"]);
        }
        told(family, &family.ask(&gateway, "mocc", false).await, 404, "model_not_found", &["did you mean `mock`"]);
    }
}

#[tokio::test]
async fn a_missing_model_is_a_400_that_names_the_field() {
    let gateway = Gateway::start("").await;
    for family in [Openai, Anthropic] {
        for body in [
            "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
            "{\"model\":\"\",\"messages\":[]}",
            "{\"model\":null}",
            "{\"model\":7}",
        ] {
            let answer = post(&gateway, family, body.as_bytes()).await;
            told(family, &answer, 400, "invalid_request", &["model"]);
        }
    }
}

#[tokio::test]
async fn wrong_json_is_a_400_that_tells_the_place() {
    let gateway = Gateway::start("").await;
    for family in FAMILIES {
        for (body, place) in [
            ("", "line 1, column 1"),
            ("nonsense", "line 1, column 1"),
            ("[]", "line 1, column 1"),
            ("{\"model\": \"mock\",\n  \"x\": nope}", "line 2, column 8"),
            ("{\"model\": \"mock\",\n\n \"x\": 1,}", "line 3, column 9"),
            ("{\"model\": \"mock\"} more", "line 1, column 19"),
            ("{\"model\": \"mock\", \"x\": 01}", "line 1"),
            ("{\"model\": \"mock\", \"x\": \"never ends", "line 1"),
            ("{\"model\": 'mock'}", "line 1, column 11"),
        ] {
            let answer = post(&gateway, family, body.as_bytes()).await;
            told(family, &answer, 400, "invalid_json", &["not valid JSON", place]);
        }
    }
}

#[tokio::test]
async fn bad_utf8_is_a_400_that_tells_the_place() {
    let gateway = Gateway::start("").await;
    for family in FAMILIES {
        let mut body = family.body("mock", false, "broken here").into_bytes();
        let at = body.windows(6).position(|w| w == b"broken").expect("there");
        body[at] = 0xff;
        let answer = post(&gateway, family, &body).await;
        told(family, &answer, 400, "invalid_json", &["UTF-8", &format!("column {}", at + 1)]);
    }
}

#[tokio::test]
async fn json_two_hundred_levels_deep_is_a_400() {
    let gateway = Gateway::start("").await;
    for family in FAMILIES {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{{\"model\":\"mock\",\"x\":{}1{}}}", open.repeat(200), close.repeat(200));
            told(family, &post(&gateway, family, deep.as_bytes()).await, 400, "json_too_deep", &["126"]);
        }
        let wide = format!("{{\"model\":\"mock\",\"x\":{}", "[".repeat(1_000_000));
        told(family, &post(&gateway, family, wide.as_bytes()).await, 400, "json_too_deep", &[]);
    }
}

#[tokio::test]
async fn a_routing_field_given_twice_is_a_400_that_names_it() {
    let gateway = Gateway::start("").await;
    for (family, field) in [
        (Openai, "model"),
        (Openai, "stream"),
        (Openai, "messages"),
        (Anthropic, "model"),
        (Anthropic, "max_tokens"),
        (Gemini, "contents"),
    ] {
        let body = family.body("mock", false, "x");
        let twice = body.replacen('{', &format!("{{\"{field}\":1,"), 1);
        told(family, &post(&gateway, family, twice.as_bytes()).await, 400, "duplicate_field", &[field, "twice"]);
    }
    // Some servers read keys in any case, and take the last.
    for key in ["Model", "MESSAGES", "meſſages", "max_toKens"] {
        let body = Openai.body("mock", false, "x").replacen('{', &format!("{{\"{key}\":\"other\","), 1);
        told(Openai, &post(&gateway, Openai, body.as_bytes()).await, 400, "invalid_json", &["small letters"]);
    }
    let escaped = r#"{"model":"mock","mod\u0065l":"other","messages":[]}"#;
    told(Openai, &post(&gateway, Openai, escaped.as_bytes()).await, 400, "invalid_json", &["escapes"]);
}

#[tokio::test]
async fn missing_messages_are_a_400_that_names_them() {
    let upstreams: Vec<Upstream> = futures_util::future::join_all(FAMILIES.map(|_| Upstream::start())).await;
    let config: String = FAMILIES.iter().zip(&upstreams).map(|(f, u)| u.provider(f.format(), f.format())).collect();
    let gateway = Gateway::start(&config).await;
    for family in FAMILIES {
        for format in FAMILIES.into_iter().filter(|f| *f != family) {
            let model = format!("{}/m", format.format());
            let body = match family {
                Gemini => json!({}),
                _ => json!({"model": model, "max_tokens": 5}),
            };
            let field = if family == Gemini { "contents" } else { "messages" };
            let answer = gateway.post(&family.path(&model, false), &body.to_string()).await;
            told(family, &answer, 400, "invalid_request", &[field]);
        }
    }
    assert!(upstreams.iter().all(|u| u.heard().is_empty()));
}

#[tokio::test]
async fn fields_of_a_wrong_type_are_a_400_that_names_them() {
    let upstreams: Vec<Upstream> = futures_util::future::join_all(FAMILIES.map(|_| Upstream::start())).await;
    let config: String = FAMILIES.iter().zip(&upstreams).map(|(f, u)| u.provider(f.format(), f.format())).collect();
    let gateway = Gateway::start(&config).await;
    let cases: [(Family, &str, &str); 16] = [
        (Openai, "messages", "{\"messages\":\"hello\"}"),
        (Openai, "messages[0]", "{\"messages\":[7]}"),
        (Openai, "role", "{\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}"),
        (Openai, "content", "{\"messages\":[{\"role\":\"user\",\"content\":7}]}"),
        (Openai, "temperature", "{\"temperature\":\"hot\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"),
        (Openai, "tools", "{\"tools\":\"all\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"),
        (Openai, "stream", "{\"stream\":\"yes\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"),
        (Openai, "max_tokens", "{\"max_tokens\":-4,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"),
        (Anthropic, "messages", "{\"max_tokens\":5,\"messages\":{}}"),
        (Anthropic, "max_tokens", "{\"max_tokens\":\"many\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"),
        (
            Anthropic,
            "content",
            "{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":7}]}]}",
        ),
        (Anthropic, "role", "{\"max_tokens\":5,\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}"),
        (Anthropic, "tools", "{\"max_tokens\":5,\"tools\":7,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"),
        (Gemini, "contents", "{\"contents\":7}"),
        (Gemini, "parts", "{\"contents\":[{\"parts\":7}]}"),
        (
            Gemini,
            "temperature",
            "{\"contents\":[{\"parts\":[{\"text\":\"x\"}]}],\"generationConfig\":{\"temperature\":\"hot\"}}",
        ),
    ];
    for (family, field, body) in cases {
        for format in FAMILIES.into_iter().filter(|f| *f != family) {
            let model = format!("{}/m", format.format());
            let body = if family == Gemini {
                body.to_owned()
            } else {
                body.replacen('{', &format!("{{\"model\":\"{model}\","), 1)
            };
            let answer = gateway.post(&family.path(&model, false), &body).await;
            let error = family.error(&answer);
            assert_eq!(answer.status, 400, "{family:?} {body}: {}", answer.text());
            assert!(error.message.contains(field) || answer.text().contains(field), "{body}: {}", answer.text());
        }
    }
    assert!(upstreams.iter().all(|u| u.heard().is_empty()));
}

#[tokio::test]
async fn a_feature_that_a_target_lacks_is_a_400_before_anything_is_sent() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&upstream.provider("up", "anthropic_messages")).await;
    let body = json!({"model": "up/m", "n": 3, "messages": [{"role": "user", "content": "x"}]}).to_string();
    let answer = gateway.chat(&body).await;
    told(Openai, &answer, 400, "unsupported_feature", &["n"]);
    assert!(upstream.heard().is_empty());
}

/// What is odd in ways that have no test of their own.
fn odd(family: Family) -> Vec<Value> {
    let message = json!({"role": "user", "content": "x"});
    let mut bodies: Vec<Value> = match family {
        Gemini => [json!(null), json!([]), json!([null]), json!([[]]), json!([{}]), json!("x")]
            .into_iter()
            .map(|contents| json!({"contents": contents}))
            .collect(),
        _ => [json!(null), json!([]), json!([null]), json!([[]]), json!([{}]), json!([{"role": "user"}]), json!("x")]
            .into_iter()
            .map(|messages| json!({"messages": messages}))
            .collect(),
    };
    let parts = match family {
        Openai => vec![
            json!({"role": "user", "content": [null]}),
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,***"}}]}),
            json!({"role": "user", "content": [{"type": "image_url"}]}),
            json!({"role": "tool", "content": "no call"}),
            json!({"role": "assistant", "tool_calls": [{}]}),
        ],
        Anthropic => vec![
            json!({"role": "user", "content": [null]}),
            json!({"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": 7}}]}),
            json!({"role": "user", "content": [{"type": "tool_result"}]}),
            json!({"role": "assistant", "content": [{"type": "tool_use", "id": 7}]}),
        ],
        Gemini => vec![
            json!({"role": "user", "parts": [null]}),
            json!({"role": "user", "parts": [{}]}),
            json!({"role": "king", "parts": [{"text": "x"}]}),
            json!({"role": "user", "parts": [{"inlineData": {"data": 7}}]}),
            json!({"role": "user", "parts": [{"functionResponse": {}}]}),
        ],
    };
    let list = if family == Gemini { "contents" } else { "messages" };
    bodies.extend(parts.into_iter().map(|part| json!({list: [part]})));
    for (knob, value) in [
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(1e300)),
        ("tools", json!([null])),
        ("tools", json!({"a": 1})),
        ("tool_choice", json!(7)),
        ("stop", json!(7)),
        ("stop_sequences", json!("x")),
        ("n", json!(0)),
        ("metadata", json!([])),
        ("response_format", json!("json")),
        ("thinking", json!(true)),
        ("generationConfig", json!([])),
        ("safetySettings", json!("none")),
        ("system", json!({"a": 1})),
        ("systemInstruction", json!(7)),
    ] {
        let good = if family == Gemini { json!({"role": "user", "parts": [{"text": "x"}]}) } else { message.clone() };
        bodies.push(json!({list: [good], knob: value}));
    }
    bodies
}

#[tokio::test]
async fn whatever_is_odd_is_answered_in_shape_and_counted_once() {
    let upstreams: Vec<Upstream> =
        futures_util::future::join_all(FAMILIES.map(|f| Upstream::saying(Say::json(f.whole("fine"))))).await;
    let config: String = FAMILIES.iter().zip(&upstreams).map(|(f, u)| u.provider(f.format(), f.format())).collect();
    let gateway = Gateway::start(&config).await;
    let mut count = 0;
    for family in FAMILIES {
        for format in FAMILIES {
            for mut body in odd(family) {
                let model = format!("{}/m", format.format());
                if family != Gemini {
                    body["model"] = model.clone().into();
                    let bound = body.get("max_tokens").is_none() && family == Anthropic;
                    if bound {
                        body["max_tokens"] = 5.into();
                    }
                }
                let answer = gateway.post(&family.path(&model, false), &body.to_string()).await;
                count += 1;
                if answer.status == 200 {
                    continue;
                }
                let error = family.error(&answer);
                assert!((400..500).contains(&answer.status), "{family:?} to {format:?}, {body}: {}", answer.text());
                assert!(error.message.len() > 10, "{body}: {}", answer.text());
            }
        }
    }
    eventually("each is recorded once", async || {
        let rows = gateway.admin("GET", "/api/v1/requests?limit=500", "").await.json();
        rows["data"].as_array().is_some_and(|rows| rows.len() == count)
    })
    .await;
}

// upstreams

async fn up(say: Say, format: Family) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let limits = "[server]\nlisten = \"127.0.0.1:0\"\nmax_event = \"256KiB\"\n";
    let timeouts = "timeouts = { whole = \"300ms\", first_event = \"300ms\", idle = \"300ms\" }\n";
    let gateway = Gateway::start(&format!("{}{timeouts}{limits}", upstream.provider("up", format.format()))).await;
    (upstream, gateway)
}

#[tokio::test]
async fn an_upstreams_refusal_keeps_its_words_in_the_callers_shape() {
    for family in FAMILIES {
        for format in FAMILIES.into_iter().filter(|f| *f != family) {
            let (_upstream, gateway) =
                up(Say::error(400, &format.error_body(400, "the prompt is too long")), format).await;
            for stream in [false, true] {
                let answer = family.ask(&gateway, "up/m", stream).await;
                let error = family.error(&answer);
                assert_eq!(
                    (answer.status, error.message.as_str()),
                    (400, "the prompt is too long"),
                    "{family:?} of {format:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_upstream_that_dies_or_sends_nonsense_is_a_502() {
    let says = [
        Say::of(200, "text/html", b"<html><b>secret-page</b></html>".to_vec()),
        Say::of(500, "text/html", b"<html><b>secret-page</b></html>".to_vec()),
        Say::of(200, "application/json", b"{\"secret-page\":".to_vec()),
        Say::of(200, "application/json", Vec::new()),
        Say::of(200, "application/json", b"null".to_vec()),
        Say::of(200, "application/json", b"[1,2,3]".to_vec()),
        Say::of(200, "application/json", vec![0xff; 20]),
        Say::of(200, "text/event-stream", Vec::new()),
        Say::of(200, "text/event-stream", b"data: secret-page\n\n".to_vec()),
        Say::of(200, "text/event-stream", b"\xff\xfe\n\n".to_vec()),
        Say::of(204, "text/plain", Vec::new()),
        Say::json("{\"id\":").end(End::Cut),
        Say::json("").end(End::Cut),
    ];
    for family in FAMILIES {
        for format in FAMILIES {
            for (at, say) in says.iter().enumerate() {
                let (_upstream, gateway) = up(say.clone(), format).await;
                for stream in [false, true] {
                    let answer = family.ask(&gateway, "up/m", stream).await;
                    assert_eq!(answer.status, 502, "{at}: {family:?} of {format:?}, {stream}: {}", answer.text());
                    let error = family.error(&answer);
                    assert!(error.message.len() > 10 && !answer.text().contains("secret-page"), "{}", answer.text());
                }
            }
        }
    }
}

#[tokio::test]
async fn an_upstream_that_hangs_is_a_504() {
    for family in FAMILIES {
        for say in [
            Say::json("").wait(Duration::from_secs(60)),
            Say::json("{").end(End::Stall),
            Say::sse(": hi\n\n").end(End::Stall),
        ] {
            let (_upstream, gateway) = up(say, Openai).await;
            for stream in [false, true] {
                told(family, &family.ask(&gateway, "up/m", stream).await, 504, "upstream_timeout", &["timeouts"]);
            }
        }
    }
}

#[tokio::test]
async fn after_all_of_it_the_gateway_is_as_before() {
    let gateway = Gateway::start("").await;
    let mut count = 0;
    for body in ["", "{", "{\"model\":\"mock\"}", "{\"model\":\"none\",\"messages\":[]}", "[]"] {
        for family in FAMILIES {
            post(&gateway, family, body.as_bytes()).await;
            count += 1;
        }
    }
    for family in FAMILIES {
        assert_eq!(family.ask(&gateway, "mock", false).await.status, 200);
        count += 1;
    }
    gateway.record(count).await;
    let rows = gateway.admin("GET", "/api/v1/requests", "").await.json()["data"].as_array().expect("rows").len();
    assert_eq!(rows, count, "one record a request");
}
