//! A stream that breaks after output goes on at another target, where its format allows that: the client sees one stream with one
//! end, and both attempts are accounted. Where it does not, the stream ends with its error.

use std::time::Duration;

use serde_json::Value;

use crate::{
    family::{Anthropic, Family, Gemini, Openai},
    support::{Answer, End, Gateway, Say, Upstream},
};

/// Upstreams `a` and `b` of these formats behind the alias `both`, whose streams may go on.
async fn pair(families: [Family; 2], says: [Say; 2], more: &str) -> ([Upstream; 2], Gateway) {
    let [a, b] = says;
    let (a, b) = (Upstream::saying(a).await, Upstream::saying(b).await);
    let targets = "targets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]";
    let config = format!(
        "{}{}[models.both]\n{targets}\nretries = 0\nresume = true\n{more}",
        a.provider("a", families[0].format()),
        b.provider("b", families[1].format())
    );
    ([a, b], Gateway::start(&config).await)
}

/// A stream of these pieces that ends so before its last frames.
fn broken(family: Family, pieces: &[&str], end: End) -> Say {
    // Of one family the last piece brings the end with it.
    let frames = family.frames(&[pieces, &["never sent"]].concat());
    let kept: Vec<&str> = frames.iter().take(family.lead() + pieces.len()).map(String::as_str).collect();
    Say::frames(&kept, Duration::ZERO).end(end)
}

fn rest(family: Family, pieces: &[&str]) -> Say {
    Say::sse(family.frames(pieces).concat())
}

async fn rows(gateway: &Gateway) -> Vec<Value> {
    let record = gateway.record(1).await;
    let id = record["id"].as_str().expect("an id").to_owned();
    let whole = gateway.admin("GET", &format!("/api/v1/requests/{id}"), "").await.json();
    whole["ledger"].as_array().cloned().unwrap_or_else(|| panic!("rows: {whole}"))
}

fn one_stream(family: Family, answer: &Answer, text: &str) {
    assert_eq!((answer.status, family.text(answer).as_str()), (200, text), "{}", answer.text());
    assert_eq!((family.terminals(answer), family.stream_errors(answer).len()), (1, 0), "{}", answer.text());
}

/// The last turn that the upstream got.
fn begun(family: Family, body: &Value) -> String {
    match family {
        Gemini => body["contents"].as_array().and_then(|all| all.last()).map(|turn| {
            assert_eq!(turn["role"], "model", "{body}");
            turn["parts"][0]["text"].as_str().unwrap_or_default().to_owned()
        }),
        _ => body["messages"].as_array().and_then(|all| all.last()).map(|turn| {
            assert_eq!(turn["role"], "assistant", "{body}");
            let content = &turn["content"];
            content.as_str().or(content[0]["text"].as_str()).unwrap_or_default().to_owned()
        }),
    }
    .unwrap_or_else(|| panic!("{body}"))
}

#[tokio::test]
async fn a_stream_that_breaks_off_goes_on_at_the_next_target_as_one_stream() {
    for upstream in [Anthropic, Gemini] {
        for client in [Openai, Anthropic, Gemini] {
            let says = [broken(upstream, &["One ", "two "], End::Cut), rest(upstream, &["three ", "four"])];
            let (upstreams, gateway) = pair([upstream, upstream], says, "").await;
            let answer = client.ask(&gateway, "both", true).await;
            one_stream(client, &answer, "One two three four");
            assert_eq!(begun(upstream, &upstreams[1].last().json()), "One two", "{client:?}");
            let rows = rows(&gateway).await;
            let told: Vec<_> = rows.iter().map(|row| (row["target"].as_str(), row["outcome"].as_str())).collect();
            assert_eq!(told, [(Some("a/m"), Some("upstream_disconnected")), (Some("b/m"), Some("ok"))], "{rows:?}");
            assert!(rows.iter().all(|row| row["usage"].is_object()), "both are accounted: {rows:?}");
        }
    }
}

#[tokio::test]
async fn a_stall_and_a_stream_without_its_end_go_on_too() {
    for end in [End::Stall, End::Clean] {
        let says = [broken(Anthropic, &["One ", "two"], end), rest(Anthropic, &[" three"])];
        let (upstreams, gateway) = pair([Anthropic, Anthropic], says, "timeouts = { idle = \"1s\" }\n").await;
        one_stream(Openai, &Openai.ask(&gateway, "both", true).await, "One two three");
        assert_eq!(upstreams[1].heard().len(), 1);
    }
}

#[tokio::test]
async fn what_a_provider_says_in_its_stream_is_a_break_as_well() {
    let mut says = broken(Anthropic, &["One "], End::Clean);
    says.chunks.push((Duration::ZERO, Anthropic.error_frame().as_bytes().to_vec()));
    let (_upstreams, gateway) = pair([Anthropic, Anthropic], [says, rest(Anthropic, &["two"])], "").await;
    one_stream(Anthropic, &Anthropic.ask(&gateway, "both", true).await, "One two");
}

#[tokio::test]
async fn a_format_that_cannot_go_on_ends_with_its_error() {
    let says = [broken(Openai, &["One "], End::Cut), rest(Openai, &["two"])];
    let (upstreams, gateway) = pair([Openai, Openai], says, "").await;
    let answer = Openai.ask(&gateway, "both", true).await;
    assert_eq!((Openai.terminals(&answer), Openai.stream_errors(&answer).len()), (0, 1), "{}", answer.text());
    assert_eq!((Openai.text(&answer).as_str(), upstreams[1].heard().len()), ("One ", 0));
    // But an answer of any format can be gone on with by one that can.
    let says = [broken(Openai, &["One "], End::Cut), rest(Gemini, &["two"])];
    let (_upstreams, gateway) = pair([Openai, Gemini], says, "").await;
    one_stream(Openai, &Openai.ask(&gateway, "both", true).await, "One two");
}

#[tokio::test]
async fn when_the_second_fails_as_well_the_client_hears_one_error_and_no_end() {
    let says = [broken(Anthropic, &["One "], End::Cut), Say::error(500, "{}")];
    let (upstreams, gateway) = pair([Anthropic, Anthropic], says, "").await;
    let answer = Openai.ask(&gateway, "both", true).await;
    assert_eq!((Openai.terminals(&answer), Openai.stream_errors(&answer).len()), (0, 1), "{}", answer.text());
    assert_eq!((Openai.text(&answer).as_str(), upstreams[1].heard().len()), ("One ", 1));
    assert_eq!(rows(&gateway).await.len(), 2);
}

#[tokio::test]
async fn an_answer_with_more_than_plain_text_is_not_gone_on_with() {
    let start = r#"event: message_start
data: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}}

"#;
    let thinks = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\n";
    let calls = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}}\n\n";
    for part in [thinks, calls] {
        let says = [Say::frames(&[start, part], Duration::ZERO).end(End::Cut), rest(Anthropic, &["two"])];
        let (upstreams, gateway) = pair([Anthropic, Anthropic], says, "").await;
        let answer = Anthropic.ask(&gateway, "both", true).await;
        assert_eq!((answer.status, Anthropic.stream_errors(&answer).len()), (200, 1), "{}", answer.text());
        assert_eq!(upstreams[1].heard().len(), 0);
    }
}

#[tokio::test]
async fn without_resume_a_broken_stream_ends_with_its_error() {
    let (upstream, other) = (
        Upstream::saying(broken(Anthropic, &["One "], End::Cut)).await,
        Upstream::saying(rest(Anthropic, &["two"])).await,
    );
    let targets =
        "[models.both]\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
    let gateway = Gateway::start(&format!(
        "{}{}{targets}",
        upstream.provider("a", "anthropic_messages"),
        other.provider("b", "anthropic_messages")
    ))
    .await;
    let answer = Anthropic.ask(&gateway, "both", true).await;
    assert_eq!((Anthropic.terminals(&answer), Anthropic.stream_errors(&answer).len()), (0, 1), "{}", answer.text());
    assert_eq!(other.heard().len(), 0);
}

#[tokio::test]
async fn a_stream_that_becomes_slow_goes_on_at_a_faster_target() {
    let pieces = vec!["word "; 40];
    let mut slow = broken(Anthropic, &pieces, End::Stall);
    let last = slow.chunks.len() - 1;
    slow.chunks[last].0 = Duration::from_secs(30);
    let more = "min_speed = { tokens_per_second = 20, over = \"1s\" }\n";
    let (upstreams, gateway) = pair([Anthropic, Anthropic], [slow, rest(Anthropic, &["end"])], more).await;
    let answer = Openai.ask(&gateway, "both", true).await;
    one_stream(Openai, &answer, &format!("{}end", "word ".repeat(39)));
    upstreams[0].is_cancelled(1).await;
}

#[tokio::test]
async fn stages_see_one_answer_and_every_attempt() {
    let script = r#"const STREAM = "event"; fn attempt(target, request, context) { context.note("asks " + target.name); } fn event(event, context) { if event.kind == "text" { return #{ kind: "text", part: event.part, text: event.text.to_upper() }; } }"#;
    let (a, b) = (
        Upstream::saying(broken(Anthropic, &["one "], End::Cut)).await,
        Upstream::saying(rest(Anthropic, &["two"])).await,
    );
    let targets = "[models.both]\nresume = true\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
    let config = format!("{}{}{targets}", a.provider("a", "anthropic_messages"), b.provider("b", "anthropic_messages"));
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    one_stream(Openai, &Openai.ask(&gateway, "both", true).await, "ONE TWO");
    let record = gateway.record(1).await;
    let id = record["id"].as_str().expect("an id").to_owned();
    let whole = gateway.admin("GET", &format!("/api/v1/requests/{id}"), "").await.text();
    assert!(whole.contains("asks a/m") && whole.contains("asks b/m") && whole.contains("goes on after"), "{whole}");
}

/// A row of the catalogue whose provider goes on with a last turn that has this field.
#[tokio::test]
async fn a_provider_that_takes_a_begun_answer_by_a_field_of_its_own_goes_on_with_it() {
    for (row, field, path, pieces) in [
        ("deepseek", "prefix", "/v1/beta/chat/completions", &[" three"][..]),
        ("moonshot", "partial", "/v1/chat/completions", &[" three"]),
        // It says again what it was given.
        ("mistral", "prefix", "/v1/chat/completions", &["One ", "two three"]),
    ] {
        let a = Upstream::saying(broken(Openai, &["One ", "two"], End::Cut)).await;
        let b = Upstream::saying(rest(Openai, pieces)).await;
        let targets = "targets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]";
        let gateway = Gateway::start(&format!(
            "{}[providers.b]\nrow = \"{row}\"\nbase_url = \"http://{}/v1\"\nauth = \"none\"\n[models.both]\n{targets}\nretries = 0\nresume = true\n",
            a.provider("a", "openai_chat"),
            b.addr
        ))
        .await;
        for client in [Openai, Anthropic] {
            a.always(broken(Openai, &["One ", "two"], End::Cut));
            one_stream(client, &client.ask(&gateway, "both", true).await, "One two three");
            let heard = b.last();
            let body = heard.json();
            assert_eq!(begun(Openai, &body), "One two", "{row}");
            let last = body["messages"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
            assert_eq!((&last[field], heard.path.as_str()), (&Value::Bool(true), path), "{row}: {body}");
        }
        // An answer that was not begun goes where all do.
        assert_eq!(Openai.ask(&gateway, "b/m", true).await.status, 200);
        assert_eq!(b.last().path, "/v1/chat/completions", "{row}");
    }
}

#[tokio::test]
async fn while_another_target_is_asked_the_client_hears_that_its_connection_lives() {
    let says = [broken(Anthropic, &["One "], End::Cut), rest(Anthropic, &["two"]).wait(Duration::from_secs(4))];
    let (_upstreams, gateway) = pair([Anthropic, Anthropic], says, "[server]\nkeep_alive = \"1s\"\n").await;
    let answer = Openai.ask(&gateway, "both", true).await;
    one_stream(Openai, &answer, "One two");
    let text = answer.text();
    let (before, after) = text.split_once("One ").expect("the first stream's text");
    assert!(!before.contains(": keep-alive"), "{text}");
    let gap = after.split("two").next().unwrap_or_default();
    assert!(gap.matches("\n: ").count() >= 1, "{text}");
}
