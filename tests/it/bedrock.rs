//! Amazon's Converse format at the gateway's edge: as client and as upstream, whole and as an event stream, with every other
//! family on the other side.

use std::time::Duration;

use portcullis::codec::eventstream::{Decoder, Said, write};
use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, Family},
    support::{End, Gateway, Say, Upstream},
};

const MODEL: &str = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";

fn frames(list: &[(&str, Value)]) -> Vec<Vec<u8>> {
    let frame = |(name, payload): &(&str, Value)| {
        let mut out = Vec::new();
        let said = if name.ends_with("Exception") { Said::Exception } else { Said::Event };
        write(said, name, payload.to_string().as_bytes(), &mut out);
        out
    };
    list.iter().map(frame).collect()
}

fn answer() -> Vec<(&'static str, Value)> {
    vec![
        ("messageStart", json!({"role": "assistant", "p": "abcdefghij"})),
        ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": "hel"}, "p": "a"})),
        ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": "lo"}, "p": "abc"})),
        ("contentBlockStop", json!({"contentBlockIndex": 0})),
        ("messageStop", json!({"stopReason": "end_turn"})),
        (
            "metadata",
            json!({"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, "metrics": {"latencyMs": 9}}),
        ),
    ]
}

fn stream() -> Say {
    Say::of(200, "application/vnd.amazon.eventstream", frames(&answer()).concat())
}

fn whole() -> Say {
    Say::json(
        json!({
            "output": {"message": {"role": "assistant", "content": [{"text": "hello"}]}}, "stopReason": "end_turn",
            "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, "metrics": {"latencyMs": 9},
        })
        .to_string(),
    )
}

fn body() -> String {
    json!({"messages": [{"role": "user", "content": [{"text": "hello"}]}]}).to_string()
}

fn read(bytes: &[u8]) -> Vec<(Said, String, Value)> {
    let mut out = Vec::new();
    let mut decoder = Decoder::new(1 << 20);
    decoder
        .push(bytes, |frame| {
            out.push((frame.said, frame.name, serde_json::from_slice(&frame.payload).expect("JSON")));
            Ok(())
        })
        .expect("frames");
    decoder.finish().expect("whole frames");
    out
}

fn text(frames: &[(Said, String, Value)]) -> String {
    frames.iter().filter_map(|(_, _, payload)| payload["delta"]["text"].as_str()).collect()
}

/// An alias, so that the model's own name with its colon stands in the path.
async fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::start(&upstream.provider("aws", "bedrock_converse")).await
}

#[tokio::test]
async fn the_model_in_the_path_may_be_encoded_or_plain_and_hold_slashes() {
    let upstream = Upstream::saying(whole()).await;
    let gateway = gateway(&upstream).await;
    for path in [
        "/model/aws%2Fus.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse",
        "/model/aws/us.anthropic.claude-sonnet-4-5-20250929-v1:0/converse",
        "/bedrock/model/aws%2Fus.anthropic.claude-sonnet-4-5-20250929-v1:0/converse",
    ] {
        let answer = gateway.post(path, &body()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(upstream.last().path, "/v1/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse");
        assert_eq!(answer.body, whole().chunks[0].1, "as it came");
    }
    let arn = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123";
    let answer = gateway.post(&format!("/model/aws/{arn}/converse-stream"), &body()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        upstream.last().path,
        "/v1/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Aapplication-inference-profile%2Fabc123/converse-stream"
    );
}

#[tokio::test]
async fn a_stream_of_the_same_format_passes_byte_for_byte_however_it_is_cut() {
    for say in [stream(), stream().bytewise()] {
        let upstream = Upstream::saying(say).await;
        let gateway = gateway(&upstream).await;
        let answer = gateway.post(&format!("/model/aws/{MODEL}/converse-stream"), &body()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/vnd.amazon.eventstream"));
        assert!(answer.header("x-amzn-requestid").is_some());
        assert_eq!(answer.body, frames(&self::answer()).concat());
        assert_eq!(upstream.last().header("accept"), Some("application/vnd.amazon.eventstream"));
        let record = gateway.record(1).await;
        assert_eq!(
            (&record["usage"]["input_tokens"], &record["usage"]["output_tokens"]),
            (&json!(3), &json!(2)),
            "{record}"
        );
    }
}

#[tokio::test]
async fn clients_of_every_family_read_its_answers() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    for family in FAMILIES {
        upstream.then(whole()).then(stream()).then(stream().bytewise());
        let answer = family.ask(&gateway, &format!("aws/{MODEL}"), false).await;
        assert_eq!(answer.status, 200, "{family:?} {}", answer.text());
        assert_eq!(family.text(&answer), "hello", "{family:?}");
        let heard = upstream.last();
        assert_eq!(heard.json()["messages"], json!([{"role": "user", "content": [{"text": "hello"}]}]), "{family:?}");
        for _ in 0..2 {
            let answer = family.ask(&gateway, &format!("aws/{MODEL}"), true).await;
            assert_eq!(answer.status, 200, "{family:?} {}", answer.text());
            assert_eq!(family.text(&answer), "hello", "{family:?}");
            assert_eq!(family.terminals(&answer), 1, "{family:?}");
        }
    }
}

#[tokio::test]
async fn its_clients_read_answers_of_every_family() {
    for family in FAMILIES {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(&upstream.provider("up", family.format())).await;
        upstream.then(Say::json(family.whole("hello")));
        let answer = gateway.post("/model/up%2Fm/converse", &body()).await;
        assert_eq!(answer.status, 200, "{family:?} {}", answer.text());
        assert_eq!(answer.json()["output"]["message"]["content"], json!([{"text": "hello"}]), "{family:?}");
        assert_eq!(
            answer.json()["usage"],
            json!({"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}),
            "{family:?}"
        );
        upstream.then(Say::sse(family.frames(&["hel", "lo"]).concat()));
        let answer = gateway.post("/model/up%2Fm/converse-stream", &body()).await;
        assert_eq!(answer.status, 200, "{family:?} {}", answer.text());
        let told = read(&answer.body);
        assert_eq!(text(&told), "hello", "{family:?}");
        let names: Vec<&str> = told.iter().map(|(_, name, _)| name.as_str()).collect();
        assert_eq!((names[0], &names[names.len() - 2..]), ("messageStart", ["messageStop", "metadata"].as_slice()));
    }
}

#[tokio::test]
async fn damaged_and_cut_streams_never_end_well() {
    let all = frames(&answer());
    let good = all[..3].concat();
    let mut damaged = all.concat();
    let inside = good.len() + 20;
    damaged[inside] ^= 1;
    let in_prelude = all.concat()[..good.len() + 9].to_vec();
    for (what, bytes, end) in [
        ("a wrong checksum", damaged, End::Clean),
        ("an end inside the prelude", in_prelude, End::Clean),
        ("an end between frames", good.clone(), End::Clean),
        ("a connection that died", good.clone(), End::Cut),
    ] {
        let mut say = Say::of(200, "application/vnd.amazon.eventstream", bytes[..good.len()].to_vec()).end(end);
        // Once output has gone out, no other status can be told.
        say.chunks.push((Duration::from_millis(60), bytes[good.len()..].to_vec()));
        let upstream = Upstream::saying(say).await;
        let gateway = gateway(&upstream).await;
        let answer = gateway.post(&format!("/model/aws/{MODEL}/converse-stream"), &body()).await;
        let told = read(&answer.body);
        assert_eq!(text(&told), "hello", "{what}: what came before it");
        let (said, name, _) = told.last().expect("a frame");
        assert_eq!((*said, name.as_str()), (Said::Exception, "internalServerException"), "{what}");
        for family in FAMILIES {
            let answer = family.ask(&gateway, &format!("aws/{MODEL}"), true).await;
            assert_eq!(family.terminals(&answer), 0, "{what}: {family:?} {}", answer.text());
        }
    }
}

#[tokio::test]
async fn an_exception_before_any_output_is_an_error_with_its_status() {
    let list = [answer()[0].clone(), ("throttlingException", json!({"message": "Too many requests"}))];
    let upstream = Upstream::saying(Say::of(200, "application/vnd.amazon.eventstream", frames(&list).concat())).await;
    let gateway = gateway(&upstream).await;
    let answer = gateway.post(&format!("/model/aws/{MODEL}/converse-stream"), &body()).await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (429, Some("ThrottlingException")));
    let answer = Family::Openai.ask(&gateway, &format!("aws/{MODEL}"), true).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
}

#[tokio::test]
async fn an_exception_inside_a_stream_reaches_each_family_as_its_own() {
    let mut list = answer();
    list.truncate(3);
    list.push(("modelStreamErrorException", json!({"message": "it broke", "originalStatusCode": 500})));
    let all = frames(&list);
    let mut say = Say::of(200, "application/vnd.amazon.eventstream", all[..3].concat());
    say.chunks.push((Duration::from_millis(60), all[3].clone()));
    let upstream = Upstream::saying(say).await;
    let gateway = gateway(&upstream).await;
    for family in FAMILIES {
        let answer = family.ask(&gateway, &format!("aws/{MODEL}"), true).await;
        assert_eq!(answer.status, 200);
        assert_eq!(family.stream_errors(&answer).len(), 1, "{family:?} {}", answer.text());
        assert!(answer.text().contains("it broke") && family.terminals(&answer) == 0, "{family:?} {}", answer.text());
    }
}

#[tokio::test]
async fn refusals_have_the_shape_that_its_sdks_raise() {
    let upstream = Upstream::saying(
        Say::error(400, r#"{"message":"blank text"}"#).header("x-amzn-errortype", "ValidationException:http://x/"),
    )
    .await;
    let mut config = upstream.provider("aws", "bedrock_converse");
    config.push_str("[auth]\nrequired = true\n");
    let gateway = Gateway::start(&config).await;
    let (_, key) = gateway.key(r#"{"name":"a"}"#).await;
    let bearer = format!("Bearer {key}");
    let path = format!("/model/aws/{MODEL}/converse");
    let answer = gateway.post_with(&path, &[("authorization", &bearer)], &body()).await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (400, Some("ValidationException")));
    assert_eq!(answer.json(), json!({"message": "blank text"}));
    assert!(answer.header("x-amzn-requestid").is_some());
    // A signature is not a key of ours: what to do instead is told.
    let signed =
        "AWS4-HMAC-SHA256 Credential=AKIA/20261101/eu-west-1/bedrock/aws4_request, SignedHeaders=host, Signature=00";
    let answer = gateway.post_with(&path, &[("authorization", signed)], &body()).await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (401, Some("AccessDeniedException")));
    assert!(
        answer.json()["message"].as_str().is_some_and(|m| m.contains("AWS_BEARER_TOKEN_BEDROCK")),
        "{}",
        answer.text()
    );
    let answer = gateway.post_with("/model/none/converse", &[("authorization", &bearer)], &body()).await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (404, Some("ResourceNotFoundException")));
    let answer = gateway.post_with(&path, &[("authorization", &bearer)], "{").await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (400, Some("ValidationException")));
}

#[tokio::test]
async fn embeddings_are_asked_of_the_models_own_interface() {
    let upstream = Upstream::saying(Say::json(r#"{"embedding":[0.5,-1],"inputTextTokenCount":3}"#)).await;
    let gateway = gateway(&upstream).await;
    let ask = json!({"model": "aws/amazon.titan-embed-text-v2:0", "input": "hello", "encoding_format": "float"});
    let answer = gateway.post("/v1/embeddings", &ask.to_string()).await;
    assert_eq!(
        (answer.status, &answer.json()["data"][0]["embedding"]),
        (200, &json!([0.5, -1.0])),
        "{}",
        answer.text()
    );
    assert_eq!(answer.json()["usage"]["prompt_tokens"], 3);
    let heard = upstream.last();
    assert_eq!(heard.path, "/v1/model/amazon.titan-embed-text-v2%3A0/invoke");
    assert_eq!(heard.json(), json!({"inputText": "hello"}));
}

#[tokio::test]
async fn what_only_it_can_do_is_named_when_another_answers() {
    let upstream = Upstream::saying(Say::json(Family::Openai.whole("hello"))).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let body = json!({
        "messages": [{"role": "user", "content": [{"text": "hello"}]}],
        "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
    });
    let answer = gateway.post("/model/up%2Fm/converse", &body.to_string()).await;
    assert_eq!(answer.header("x-portcullis-dropped-params"), Some("guardrail_config"), "{}", answer.text());
}

#[tokio::test]
async fn the_mock_speaks_it() {
    let gateway = Gateway::start("").await;
    let answer = gateway.post("/model/mock/converse", &body()).await;
    assert_eq!(answer.json()["output"]["message"]["content"][0]["text"], "mock/mock heard: hello", "{}", answer.text());
    let answer = gateway.post("/model/mock%2Fany/converse-stream", &body()).await;
    assert_eq!(text(&read(&answer.body)), "mock/any heard: hello");
}

#[tokio::test]
async fn a_held_stream_is_kept_alive_by_events_that_readers_pass_over() {
    let mut say = stream();
    say.chunks = frames(&answer()).into_iter().map(|frame| (Duration::from_millis(150), frame)).collect();
    let upstream = Upstream::saying(say).await;
    let often = "[server]\nlisten = \"127.0.0.1:0\"\nkeep_alive = \"100ms\"\n";
    let config = format!("{often}{}", upstream.provider("aws", "bedrock_converse"));
    let script = "const STREAM = \"whole\";\nfn response(response, context) { response.text = response.text + \"!\"; }";
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    let answer = gateway.post(&format!("/model/aws/{MODEL}/converse-stream"), &body()).await;
    let told = read(&answer.body);
    assert_eq!(text(&told), "hello!");
    let pings = told.iter().filter(|(said, name, _)| *said == Said::Event && name == "ping").count();
    assert!(pings >= 2, "{pings} keep-alives");
}

#[tokio::test]
async fn an_older_model_answers_in_a_schema_by_a_tool_that_stands_in() {
    const OLDER: &str = "aws/anthropic.claude-3-5-haiku-20241022-v1:0";
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&upstream.provider("aws", "bedrock_converse")).await;
    let asked = |stream: bool| {
        json!({"model": OLDER, "stream": stream, "messages": [{"role": "user", "content": "count"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}})
        .to_string()
    };
    let content = json!([{"toolUse": {"toolUseId": "t1", "name": "portcullis_answer", "input": {"a": 7}}}]);
    upstream.then(Say::json(
        json!({"output": {"message": {"role": "assistant", "content": content}}, "stopReason": "tool_use",
            "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, "metrics": {"latencyMs": 9}})
        .to_string(),
    ));
    let answer = gateway.chat(&asked(false)).await;
    let choice = &answer.json()["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap_or_default().replace(' ', "");
    assert_eq!((text.as_str(), &choice["finish_reason"]), ("{\"a\":7}", &json!("stop")), "{}", answer.text());
    let sent = upstream.last().json();
    assert_eq!(sent["toolConfig"]["toolChoice"]["tool"]["name"], "portcullis_answer", "{sent}");

    let start = json!({"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t1", "name": "portcullis_answer"}}});
    let piece = |text: &str| json!({"contentBlockIndex": 0, "delta": {"toolUse": {"input": text}}});
    let list = [
        ("messageStart", json!({"role": "assistant"})),
        ("contentBlockStart", start),
        ("contentBlockDelta", piece("{\"a\"")),
        ("contentBlockDelta", piece(":7}")),
        ("contentBlockStop", json!({"contentBlockIndex": 0})),
        ("messageStop", json!({"stopReason": "tool_use"})),
        (
            "metadata",
            json!({"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, "metrics": {"latencyMs": 9}}),
        ),
    ];
    upstream.then(Say::of(200, "application/vnd.amazon.eventstream", frames(&list).concat()));
    let answer = gateway.chat(&asked(true)).await;
    let Family::Openai = FAMILIES[0] else { panic!("the first family is OpenAI's") };
    assert_eq!(
        (FAMILIES[0].text(&answer).as_str(), FAMILIES[0].finish(&answer).as_str()),
        ("{\"a\":7}", "stop"),
        "{}",
        answer.text()
    );
}
