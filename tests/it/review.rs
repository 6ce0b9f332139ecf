//! The edges between steps: ends of streams, clocks, what is counted, bodies that say a thing twice.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::{
    family::{Anthropic, FAMILIES, Openai},
    support::{End, Gateway, Say, Upstream, begin, parse},
};

const QUESTION: &str = r#"{"model":"up/m","messages":[{"role":"user","content":"x"}]}"#;

fn frames(pieces: &[&str], pause: Duration) -> Say {
    let frames = Openai.frames(pieces);
    Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), pause)
}

async fn house(say: Say, config: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let gateway = Gateway::start(&format!("{}{config}", upstream.provider("up", "openai_chat"))).await;
    (upstream, gateway)
}

#[tokio::test]
async fn an_upstream_that_dies_or_stays_after_its_terminal_has_answered() {
    for end in [End::Cut, End::Stall] {
        let (_upstream, gateway) = house(frames(&["whole"], Duration::from_millis(5)).end(end), "").await;
        for client in FAMILIES {
            let answer = client.ask(&gateway, "up/m", true).await;
            assert_eq!(client.text(&answer), "whole", "{}", answer.text());
            assert!(client.stream_errors(&answer).is_empty() && answer.complete, "{client:?} {end:?}");
        }
        assert_eq!(gateway.record(3).await["error_code"], json!(null));
    }
}

#[tokio::test]
async fn the_first_event_may_take_longer_than_the_idle_timeout() {
    let mut say = frames(&["late"], Duration::ZERO);
    say.chunks[0].0 = Duration::from_millis(700);
    let (_upstream, gateway) = house(say, "timeouts = { idle = \"200ms\", first_event = \"20s\" }\n").await;
    for client in FAMILIES {
        let answer = client.ask(&gateway, "up/m", true).await;
        assert_eq!(client.text(&answer), "late", "{}", answer.text());
    }
}

#[tokio::test]
async fn a_stream_that_is_held_back_has_the_time_of_a_whole_answer() {
    let upstream = Upstream::saying(frames(&["a"; 100], Duration::from_millis(100))).await;
    let config = format!("{}timeouts = {{ whole = \"600ms\" }}\n", upstream.provider("up", "openai_chat"));
    let script = "const STREAM = \"whole\";\nfn response(response, context) {}";
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    let began = Instant::now();
    let answer = Anthropic.ask(&gateway, "up/m", true).await;
    assert_eq!((answer.status, Anthropic.error(&answer).code.as_str()), (504, "upstream_timeout"));
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Slow by nature: keep-alives start after 15 s.
#[tokio::test]
async fn a_stream_that_is_held_back_for_long_is_kept_alive_and_delivered_even_when_found_wanting() {
    let (a, b) = (Upstream::saying(frames(&["poor"; 17], Duration::from_secs(1))).await, Upstream::start().await);
    let config = format!(
        "{}{}[models.both]\ntargets = [{{ provider = \"a\", model = \"m\" }}, {{ provider = \"b\", model = \"m\" }}]\n",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat")
    );
    let script = "const STREAM = \"whole\";\nfn response(response, context) { return next(\"poor\"); }";
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    let body = Openai.body("both", true, "x");
    let mut socket = begin(gateway.addr, "POST", &Openai.path("both", true), &[], body.as_bytes()).await;
    let began = Instant::now();
    let mut raw = vec![0; 1];
    socket.read_exact(&mut raw).await.expect("a head, before the answer is whole");
    assert!((14..19).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    socket.read_to_end(&mut raw).await.expect("the rest");
    let answer = parse(&raw);
    assert!(answer.text().starts_with(": keep-alive\n\n"), "{}", answer.text());
    assert_eq!(Openai.text(&answer), "poor".repeat(17), "{}", answer.text());
    assert!(b.heard().is_empty());
    assert_eq!(gateway.record(1).await["tags"]["quality_unmet"], "true");
}

#[tokio::test]
async fn answers_that_cannot_be_read_are_one_failed_attempt_each_and_eject_their_target() {
    let (upstream, gateway) = house(Say::of(200, "text/html", b"<html>oops".to_vec()), "").await;
    for _ in 0..5 {
        assert_eq!(gateway.chat(QUESTION).await.status, 502);
    }
    let record = gateway.record(5).await;
    let attempts = record["trace"].as_array().expect("a trace").iter().filter(|s| s["step"] == "attempt").count();
    assert_eq!((attempts, &record["attempts"]), (1, &json!(1)), "{record}");
    let answer = gateway.chat(QUESTION).await;
    assert_eq!((answer.status, upstream.heard().len()), (503, 5), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn an_error_inside_a_success_is_an_error_and_another_target_is_tried() {
    let sick = Upstream::saying(Say::json(r#"{"error":{"message":"busy","code":503}}"#)).await;
    let well = Upstream::saying(Say::json(Openai.whole("well"))).await;
    let config = format!(
        "{}{}[models.both]\ntargets = [{{ provider = \"sick\", model = \"m\" }}, {{ provider = \"well\", model = \"m\" }}]\n",
        sick.provider("sick", "openai_chat"),
        well.provider("well", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    for client in FAMILIES {
        let answer = client.ask(&gateway, "both", false).await;
        assert_eq!(client.text(&answer), "well", "{}", answer.text());
        assert_eq!(client.ask(&gateway, "sick/m", false).await.status, 503);
    }
}

#[tokio::test]
async fn a_record_sums_what_all_attempts_used() {
    let (upstream, gateway) = house(Say::json(Openai.whole("poor")), "").await;
    drop(gateway);
    let config = format!(
        "{}[models.twice]\ntargets = [{{ provider = \"up\", model = \"a\" }}, {{ provider = \"up\", model = \"b\" }}]\n",
        upstream.provider("up", "openai_chat")
    );
    let script = "const STREAM = \"whole\";\nfn response(response, context) { return next(\"poor\"); }";
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    assert_eq!(Openai.text(&Openai.ask(&gateway, "twice", false).await), "poor");
    let usage = &gateway.record(1).await["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(6), &json!(4)), "{usage}");
}

#[tokio::test]
async fn a_field_that_is_written_twice_cannot_pass_by_a_stage() {
    let upstream = Upstream::saying(Say::json(Openai.whole("hi"))).await;
    let script = "fn request(request, context) { request.temperature = 0.25; }";
    let gateway = Gateway::with(&upstream.provider("up", "openai_chat"), &[("scripts/a.rhai", script)]).await;
    let body =
        r#"{"temperature":2,"model":"up/m","messages":[{"role":"user","content":"x"}],"temperature":1.5,"own":[1.0]}"#;
    assert_eq!(gateway.chat(body).await.status, 200);
    let heard = String::from_utf8(upstream.last().body).expect("text");
    assert_eq!(heard.matches("temperature").count(), 1, "{heard}");
    assert!(heard.contains(r#""temperature":0.25"#) && heard.contains(r#""own":[1.0]"#), "{heard}");
}

#[tokio::test]
async fn counts_of_tokens_take_no_parameters_of_a_team() {
    let upstream = Upstream::saying(Say::json(r#"{"input_tokens":7}"#)).await;
    let config = format!(
        "{}[auth]\nrequired = true\n[teams.t.defaults]\ntemperature = 0.5\nmax_tokens = 99\n",
        upstream.provider("up", "anthropic_messages")
    );
    let gateway = Gateway::start(&config).await;
    let (_, key) = gateway.key(r#"{"name": "k", "team": "t"}"#).await;
    let body = r#"{"model":"up/m","messages":[{"role":"user","content":"x"}]}"#;
    let answer = gateway.post_with("/v1/messages/count_tokens", &[("x-api-key", &key)], body).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"input_tokens":7}"#));
    assert_eq!(upstream.last().json(), json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}));
}

#[tokio::test]
async fn texts_to_embed_name_the_model_that_their_path_names() {
    let upstream = Upstream::saying(Say::json(r#"{"embeddings":[{"values":[0.5]}]}"#)).await;
    let config = format!(
        "{}[models.alias]\ntargets = [{{ provider = \"up\", model = \"real\" }}]\n",
        upstream.provider("up", "gemini")
    );
    let gateway = Gateway::start(&config).await;
    let body = r#"{"requests":[{"model":"models/alias","content":{"parts":[{"text":"x"}]}}]}"#;
    let answer = gateway.post("/v1beta/models/alias:batchEmbedContents", body).await;
    assert_eq!(answer.json()["embeddings"][0]["values"], json!([0.5]), "{}", answer.text());
    let heard = upstream.last();
    assert_eq!(heard.path, "/v1beta/models/real:batchEmbedContents");
    assert_eq!(heard.json()["requests"][0]["model"], "models/real");
}

#[tokio::test]
async fn a_name_that_is_no_name_is_not_sent_back_at_its_length() {
    let (_upstream, gateway) = house(Say::json("{}"), "").await;
    let body = QUESTION.replace("up/m", &"m".repeat(100_000));
    let answer = gateway.chat(&body).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.header("x-portcullis-model").is_some_and(|name| name.len() <= 512));
}

#[tokio::test]
async fn a_text_does_not_stand_in_for_a_vector() {
    let upstream = Upstream::start().await;
    let script = "fn request(request, context) { return respond(\"no\"); }";
    let gateway = Gateway::with(&upstream.provider("up", "openai_chat"), &[("scripts/a.rhai", script)]).await;
    let answer = gateway.post("/v1/embeddings", r#"{"model":"up/m","input":"x"}"#).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (500, &json!("stage_failed")), "{}", answer.text());
}

#[tokio::test]
async fn a_page_that_refuses_does_not_reach_the_client() {
    for family in FAMILIES {
        let upstream = Upstream::saying(Say::of(413, "text/html", b"<html>too large</html>".to_vec())).await;
        let gateway = Gateway::start(&upstream.provider("up", family.format())).await;
        let answer = family.ask(&gateway, "up/m", false).await;
        assert_eq!((answer.status, answer.text().contains("html")), (413, false), "{family:?} {}", answer.text());
        assert!(!family.error(&answer).message.is_empty());
    }
}

#[tokio::test]
async fn comments_without_end_before_the_first_output_are_an_error_not_memory() {
    let say = Say::of(200, "text/event-stream", b": working\n\n".repeat(20_000)).end(End::Flood);
    let (upstream, gateway) = house(say, "").await;
    for client in [Openai, Anthropic] {
        let answer = client.ask(&gateway, "up/m", true).await;
        assert_eq!((answer.status, client.error(&answer).code.as_str()), (502, "upstream_failed"));
    }
    upstream.is_cancelled(2).await;
}
