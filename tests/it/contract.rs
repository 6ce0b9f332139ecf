//! A plugin of version 1.0.0 of the contract works for ever: its component was built once, when there was no later version,
//! and has every phase, every import and every kind of change. What it sees and does here is what it always saw and did.

use std::{collections::BTreeSet, path::Path};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::{
    family::Openai,
    support::{Answer, Gateway, Say, Upstream, eventually},
};

const FIRST: &[u8] = include_bytes!("../guests/first/first.wasm");

/// Of the file. It is not built again: a change of this line is a broken promise.
const SUM: &str = "03c44f5c1b3f10842e7a14320db5f265841d67b309144d4cb2974e647fc9abdd";

#[test]
fn the_first_guest_is_the_one_it_always_was() {
    let sum: String = digest(&SHA256, FIRST).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(sum, SUM);
    // No crate lies beside it that somebody could build it from by accident.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/first");
    assert!(!folder.join("Cargo.toml").exists());
}

/// A gateway with two targets behind `pair`, and the first guest with these words in its config.
struct Stand {
    gateway: Gateway,
    one: Upstream,
    two: Upstream,
    outside: Upstream,
}

impl Stand {
    async fn with(words: &[(&str, &str)]) -> Stand {
        let one = Upstream::saying(Say::json(Openai.whole("from one"))).await;
        let two = Upstream::saying(Say::json(Openai.whole("from two"))).await;
        let outside = Upstream::saying(Say::of(200, "text/plain", b"outside".to_vec())).await;
        let mut config = json!({"url": format!("http://{}/ask", outside.addr)});
        for (name, word) in words {
            config[*name] = json!(word);
        }
        let config: Vec<String> =
            config.as_object().expect("a table").iter().map(|(name, word)| format!("{name} = {word}")).collect();
        let targets =
            "[models.pair]\ntargets = [{ provider = \"one\", model = \"a\" }, { provider = \"two\", model = \"b\" }]\n";
        let stage = format!(
            "[[stages]]\nuse = \"plugins/first.wasm\"\ngrant = [\"log\", \"kv\", \"metrics\", \"clock\", \"http:{}\"]\n\
             limits = {{ cpu = \"2s\" }}\nconfig = {{ {} }}\n",
            outside.addr,
            config.join(", ")
        );
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("plugins")).expect("made");
        std::fs::write(dir.path().join("plugins/first.wasm"), FIRST).expect("written");
        let providers = format!("{}{}", one.provider("one", "openai_chat"), two.provider("two", "openai_chat"));
        let gateway = Gateway::in_dir(dir, &format!("{providers}{targets}{stage}")).await;
        Stand { gateway, one, two, outside }
    }

    async fn ask(&self, stream: bool) -> Answer {
        let tool = |name: &str| {
            json!({"type": "function", "function": {
                "name": name, "description": "a tool", "parameters": {"type": "object", "properties": {}},
            }})
        };
        let body = json!({
            "model": "pair", "stream": stream, "temperature": 1.5, "max_tokens": 9, "metadata": {"who": "tests"},
            "tools": [tool("keep"), tool("drop")],
            "messages": [{"role": "system", "content": "be long"}, {"role": "user", "content": "my secret word"}],
        });
        let headers = [("x-first", "seen"), ("x-portcullis-tags", "a=b"), ("authorization", "Bearer never")];
        self.gateway.post_with("/v1/chat/completions", &headers, &body.to_string()).await
    }

    /// The answer's own record.
    async fn record(&self, answer: &Answer) -> Value {
        let path = format!("/api/v1/requests/{}", answer.header("x-request-id").expect("an id"));
        let mut record = Value::Null;
        eventually("the request is settled", async || {
            let found = self.gateway.admin("GET", &path, "").await;
            record = if found.status == 200 { found.json() } else { Value::Null };
            !record.is_null()
        })
        .await;
        record
    }
}

fn notes(record: &Value) -> Vec<&str> {
    let steps = record["trace"].as_array().expect("a trace");
    steps.iter().filter(|step| step["step"] == "note").filter_map(|step| step["text"].as_str()).collect()
}

#[tokio::test]
async fn it_sees_what_it_always_saw_and_its_changes_arrive() {
    let stand = Stand::with(&[("stream", "whole")]).await;
    let answer = stand.ask(false).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Its order of targets is the other way round, and its text is in the answer.
    assert_eq!(Openai.text(&answer), "FROM TWO");
    assert!(stand.one.heard().is_empty());
    let heard = stand.two.last();
    assert_eq!(heard.header("x-by"), Some("first"));
    let sent = heard.json();
    assert_eq!(sent["temperature"].as_f64(), Some(0.5), "{sent}");
    assert_eq!((sent["top_p"].as_f64(), sent["max_tokens"].as_u64()), (Some(0.25), Some(77)), "{sent}");
    assert_eq!(sent["messages"][0]["content"], "be brief");
    assert_eq!(sent["messages"][1]["content"], "my [hidden] word");
    assert_eq!(sent["tools"].as_array().map(Vec::len), Some(1));
    assert_eq!(sent["metadata"], json!({"who": "tests", "first": "was here"}));
    assert_eq!(stand.outside.last().header("x-first"), Some("1"));
    let record = stand.record(&answer).await;
    let seen: BTreeSet<&str> = notes(&record).into_iter().collect();
    for note in [
        "caller true 0 (None, None, [], [(\"a\", \"b\")]) may=true",
        "var Ok(()) Some(\"{\\\"a\\\":1}\") None",
        "facts Some(\"request\") None",
        "config true None",
        "kv Ok(()) Some(\"value\") Ok(2) None",
        "clock true",
        "http 200 outside",
        "attempt two/b 1",
    ] {
        assert!(seen.contains(note), "{note} is not in {seen:#?}");
    }
    let request = seen.iter().find(|note| note.starts_with("request ")).expect("a note of the request");
    for word in [
        "request pair chat openai_chat streamed=false tokens>0=true tools=true media=false",
        "header=Some(\"seen\") last=\"my secret word\" t=Some(1.5) p=None max=Some(9)",
        "metadata=[(\"who\", \"tests\")]",
        "unread=[]",
    ] {
        assert!(request.contains(word), "{word} is not in {request}");
    }
    assert!(seen.iter().any(|note| note.starts_with("route one/a = one/a true")), "{seen:#?}");
    assert!(seen.iter().any(|note| note.starts_with("response up-1 two/b usage=true")), "{seen:#?}");
    assert_eq!(record["tags"]["first.saw"], "chat openai_chat pair 200 true", "{record}");
}

#[tokio::test]
async fn it_changes_streams_event_by_event_in_a_window_and_whole() {
    for (stream, event, expected) in [
        ("event", "", "FROM TWO"),
        ("event", "replace", "<from>< two>"),
        ("event", "drop", ""),
        ("window", "", "FROM TWO"),
        ("whole", "", "FROM TWO"),
        ("observe", "", "from two"),
    ] {
        let stand = Stand::with(&[("stream", stream), ("event", event)]).await;
        stand.two.always(Say::sse(Openai.frames(&["from", " two"]).concat()));
        let answer = stand.ask(true).await;
        assert_eq!((answer.status, answer.complete), (200, true), "{stream} {event}: {}", answer.text());
        let words: String = answer
            .text()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(words, expected, "{stream} {event}: {}", answer.text());
    }
}

/// A word of its config, and what the caller gets.
#[tokio::test]
async fn its_other_verdicts_mean_what_they_always_meant() {
    for (phase, verdict, status, word) in [
        ("request", "respond", 200, "an answer of its own"),
        ("request", "reject", 418, "not this request (first)"),
        ("request", "other", 500, "stage_failed"),
        ("request", "other-edit", 500, "stage_failed"),
        ("request", "messages", 200, "FROM TWO"),
        ("route", "reject", 418, "no such way (first)"),
        ("route", "other", 500, "stage_failed"),
        ("route", "stay", 200, "FROM ONE"),
        ("attempt", "skip", 418, "no target of this model"),
        ("attempt", "reject", 418, "not to this one (first)"),
        ("attempt", "other", 500, "stage_failed"),
        ("response", "next", 200, "from one"),
        ("response", "reject", 418, "not this answer (first)"),
        ("response", "other", 500, "stage_failed"),
        ("response", "parts", 200, "all new"),
    ] {
        let stand = Stand::with(&[("stream", "whole"), (phase, verdict)]).await;
        let answer = stand.ask(false).await;
        assert_eq!(answer.status, status, "{phase} {verdict}: {}", answer.text());
        assert!(answer.text().contains(word), "{phase} {verdict}: {}", answer.text());
    }
    let stand = Stand::with(&[("request", "model")]).await;
    let answer = stand.ask(false).await;
    assert_eq!(answer.header("x-portcullis-target"), Some("mock/changed"), "{}", answer.text());
    let stand = Stand::with(&[("request", "reject"), ("error", "respond")]).await;
    assert_eq!(Openai.text(&stand.ask(false).await), "never mind");
    let stand = Stand::with(&[("request", "reject"), ("error", "stay")]).await;
    assert_eq!(stand.ask(false).await.status, 451);
}

#[tokio::test]
async fn it_is_pooled_when_it_may_be() {
    let stand = Stand::with(&[("stream", "whole")]).await;
    let config = std::fs::read_to_string(stand.gateway.dir.path().join("gateway.toml")).expect("read");
    stand.gateway.write("gateway.toml", &config.replace("[[stages]]\n", "[[stages]]\nisolation = \"pooled\"\n"));
    eventually("the change is live", async || {
        let status = stand.gateway.admin("GET", "/api/v1/config/status", "").await.json();
        assert!(status["refused"].is_null(), "{status}");
        // An instance lives on: it has counted no events, but the answer is still its own.
        Openai.text(&stand.ask(false).await) == "FROM TWO"
    })
    .await;
}
