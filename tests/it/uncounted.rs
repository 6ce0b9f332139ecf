//! Promises 6 and 8 where an upstream tells little: what is charged of an answer that nobody counted, or not to its end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    family::{Anthropic, FAMILIES, Openai},
    support::{End, Gateway, Say, Upstream, begin, eventually, read_rest, read_until},
};

/// A cent a token of output.
const PRICE: &str = "[[pricing]]\nmodel = \"up/*\"\ninput = 0\noutput = 10000\n";

/// Three words and 23 bytes: six tokens.
const SAID: &str = "four and five and six..";

fn uncounted(mut answer: Value) -> String {
    answer.as_object_mut().expect("an object").remove("usage");
    answer.to_string()
}

fn row(record: &Value) -> (u64, bool) {
    let row = &record["ledger"][0];
    (row["usage"]["output_tokens"].as_u64().unwrap_or_else(|| panic!("{record}")), row["estimated"] == true)
}

/// By its text, as a stream is, and not by the JSON around it.
#[tokio::test]
async fn a_whole_answer_that_nobody_counted_costs_what_it_says_and_never_more_than_was_asked_for() {
    let whole: Value = serde_json::from_str(&Openai.whole(SAID)).expect("JSON");
    let upstream = Upstream::saying(Say::json(uncounted(whole))).await;
    let gateway = Gateway::start(&format!("{PRICE}{}", upstream.provider("up", "openai_chat"))).await;
    let mut asked = 0;
    for family in FAMILIES {
        for (most, tokens) in [(None, 6), (Some(100), 6), (Some(2), 2)] {
            let mut body: Value = serde_json::from_str(&family.body("up/m", false, "hello")).expect("JSON");
            match (most, body.get("contents")) {
                (Some(most), Some(_)) => body["generationConfig"] = json!({"maxOutputTokens": most}),
                (Some(most), None) => body["max_tokens"] = most.into(),
                _ => {}
            }
            let answer = gateway.post_with(&family.path("up/m", false), &[], &body.to_string()).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            asked += 1;
            let record = gateway.record(asked).await;
            assert_eq!(row(&record), (tokens, true), "{family:?} {most:?}: {record}");
            let cost = record["cost_usd"].as_f64().expect("a cost");
            assert!((cost - tokens as f64 / 100.0).abs() < 1e-9, "{family:?}: {record}");
        }
    }
}

/// The upstream's last word counts, however the stream ends after it.
#[tokio::test]
async fn what_an_upstream_counted_holds_for_all_that_had_come_by_then() {
    let chunk = |delta: Value, more: Value| {
        let mut chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up-1",
            "choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
        more.as_object().into_iter().flatten().for_each(|(key, value)| chunk[key] = value.clone());
        format!("data: {chunk}\n\n")
    };
    let usage =
        |tokens: u64| json!({"usage": {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3}});
    let last = |tokens: u64| {
        let mut more = usage(tokens);
        more["choices"] = json!([]);
        chunk(Value::Null, more)
    };
    let text = |text: &str| chunk(json!({"content": text}), json!({}));
    let stop = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let hundred: Vec<String> = (0..100).map(|n| text(&format!("word{n} "))).collect();
    let told: Vec<String> = [&hundred[..], &[chunk(json!({}), stop), last(20)]].concat();
    let running = [chunk(json!({"content": "one "}), usage(1)), chunk(json!({"content": "two "}), usage(2))];
    // Which frames are the longer ones, those with a count or those with text, shifts what is guessed of the text.
    let long = "x".repeat(395) + " last";
    let behind: Vec<String> = [&running[..], &[text(&long), text(&long)]].concat();
    // What stands at the beginning is no count of what comes.
    let early: Vec<String> = [&[chunk(json!({"role": "assistant"}), usage(1))][..], &hundred[..10]].concat();
    let all = "word0 word1 word2 word3 word4 word5 word6 word7 word8 word9 ".len() as u64;
    for (what, frames, end, seen, expected) in [
        ("counted, and the client leaves", &told, End::Stall, "\"completion_tokens\":20", (20..=20, false)),
        ("counted, and no terminal", &told, End::Clean, "", (20..=20, false)),
        ("counted with each chunk, but for the last two", &behind, End::Stall, " last\"", (160..=202, true)),
        ("counted at the beginning", &early, End::Stall, "word9", (all.div_ceil(4)..=all.div_ceil(4), true)),
    ] {
        for script in ["", "const STREAM = \"window\"; const WINDOW = 8; fn event(event, context) { }"] {
            let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
            let upstream = Upstream::saying(Say::frames(&frames, Duration::ZERO).end(end)).await;
            let config = format!("{PRICE}{}", upstream.provider("up", "openai_chat"));
            let files = [("scripts/look.rhai", script)];
            let gateway = Gateway::with(&config, &files[..usize::from(!script.is_empty())]).await;
            let mut body: Value = serde_json::from_str(&Openai.body("up/m", true, "hello")).expect("JSON");
            body["stream_options"] = json!({"include_usage": true});
            let path = Openai.path("up/m", true);
            let mut socket = begin(gateway.addr, "POST", &path, &[], body.to_string().as_bytes()).await;
            if seen.is_empty() {
                read_rest(&mut socket, Vec::new()).await;
            } else {
                // A stage with a window holds the end back.
                read_until(&mut socket, if script.is_empty() { seen } else { "data:" }).await;
                // The second of two equal pieces may follow.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            drop(socket);
            let record = gateway.record(1).await;
            let (tokens, estimated) = row(&record);
            assert!(expected.0.contains(&tokens) && estimated == expected.1, "{what}, {script:?}: {record}");
        }
    }
}

#[tokio::test]
async fn a_count_at_the_beginning_of_a_message_is_not_what_a_stream_costs_that_ends_early() {
    let frames = Anthropic.frames(&["four tokens of text "; 30]);
    let frames: Vec<&str> = frames[..Anthropic.lead() + 21].iter().map(String::as_str).collect();
    let upstream = Upstream::saying(Say::frames(&frames, Duration::ZERO).end(End::Cut)).await;
    let gateway = Gateway::start(&format!("{PRICE}{}", upstream.provider("up", "anthropic_messages"))).await;
    let body = Anthropic.body("up/m", true, "hello");
    let mut socket = begin(gateway.addr, "POST", &Anthropic.path("up/m", true), &[], body.as_bytes()).await;
    read_rest(&mut socket, Vec::new()).await;
    eventually("it is recorded", async || !gateway.record(1).await.is_null()).await;
    let (tokens, estimated) = row(&gateway.record(1).await);
    assert!(estimated && (100..120).contains(&tokens), "{tokens}");
}
