//! Streams that a stage holds back, and `log` hooks that take their time: what clients hear meanwhile, and that nobody
//! waits for another's.

use std::time::Duration;

use crate::{
    family::{Anthropic, FAMILIES, Family, Gemini, Openai},
    support::{End, Gateway, Process, Say, Upstream, begin, eventually, read_rest, read_until, request},
};

const OFTEN: &str = "[server]\nlisten = \"127.0.0.1:0\"\nkeep_alive = \"100ms\"\n";
const WHOLE: &str =
    "const STREAM = \"whole\";\nfn response(response, context) { response.text = response.text + \"!\"; }";
const WINDOW: &str = "const STREAM = \"window\";\nconst WINDOW = 4096;\nfn event(event, context) { if event.kind == \"text\" { event.text = event.text; } }";

/// What a keep-alive looks like in the client's format.
fn sign(family: Family) -> &'static str {
    match family {
        Openai => ": keep-alive\n\n",
        Anthropic => "event: ping\n",
        Gemini => "\n",
    }
}

async fn house(script: &str, say: Say) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let config = format!("{OFTEN}{}", upstream.provider("a", "openai_chat"));
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    (upstream, gateway)
}

fn slow(end: End) -> Say {
    let mut frames = Openai.frames(&["one ", "two ", "three ", "four ", "five ", "six"]);
    if end != End::Clean {
        frames.truncate(6);
    }
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    Say::frames(&frames, Duration::from_millis(150)).end(end)
}

#[tokio::test]
async fn a_held_stream_is_kept_alive_in_every_format() {
    for (script, text) in [(WHOLE, "one two three four five six!"), (WINDOW, "one two three four five six")] {
        let ask = async |family: Family| {
            let (upstream, gateway) = house(script, slow(End::Clean)).await;
            let body = family.body("a/m", true, "x");
            let mut socket = begin(gateway.addr, "POST", &family.path("a/m", true), &[], body.as_bytes()).await;
            let head = read_until(&mut socket, "\r\n\r\n").await;
            assert!(upstream.sent() < slow(End::Clean).chunks.iter().map(|c| c.1.len()).sum(), "before the end");
            let answer = read_rest(&mut socket, head).await;
            let told = answer.text();
            let signs = match family {
                Gemini => told.bytes().take_while(|b| *b == b'\n').count(),
                _ => told.matches(sign(family)).count(),
            };
            assert!(answer.status == 200 && signs >= 3, "{family:?}, {signs} keep-alives: {told}");
            assert_eq!((family.text(&answer).as_str(), family.terminals(&answer)), (text, 1), "{family:?}: {told}");
            assert!(answer.complete && family.stream_errors(&answer).is_empty(), "{told}");
        };
        futures_util::future::join_all(FAMILIES.map(ask)).await;
    }
}

#[tokio::test]
async fn a_held_array_is_kept_alive_by_white_space_and_stays_valid() {
    let (_upstream, gateway) = house(WHOLE, slow(End::Clean)).await;
    let path = "/v1beta/models/a/m:streamGenerateContent";
    let answer = gateway.post(path, &Gemini.body("", true, "x")).await;
    assert!(answer.text().starts_with("\n\n"), "{}", answer.text());
    let texts: Vec<_> = answer.json().as_array().expect("an array").clone();
    assert!(texts.iter().any(|c| c.to_string().contains("one two three four five six!")), "{texts:?}");
}

/// The first keep-alive is the commit: nothing fails over after it.
#[tokio::test]
async fn a_held_stream_that_dies_after_a_keep_alive_is_an_error_event() {
    let ask = async |family: Family| {
        let (upstream, gateway) = house(WHOLE, slow(End::Cut)).await;
        let answer = family.ask(&gateway, "a/m", true).await;
        let errors = family.stream_errors(&answer);
        assert_eq!((answer.status, errors.len(), family.terminals(&answer)), (200, 1, 0), "{}", answer.text());
        assert_eq!(upstream.heard().len(), 1);
    };
    futures_util::future::join_all(FAMILIES.map(ask)).await;
}

// log hooks

const STAGE: &str = "[[stages]]\nuse = \"scripts/log.rhai\"\nonly = { models = [\"mock/slow\"] }\nlimits = { operations = 1000000000 }\n";
const ENDLESS: &str = "fn log(record, context) { loop { } }";

#[tokio::test]
async fn slow_log_hooks_keep_no_record_back_beyond_three_seconds() {
    let gateway = Process::start(STAGE, &[("scripts/log.rhai", ENDLESS)]).await;
    let host = gateway.admin.to_string();
    let ask = async |model: &str| {
        let body = Openai.body(model, false, "x");
        let answer = request(gateway.addr, "POST", "/v1/chat/completions", &[], body.as_bytes()).await;
        answer.header("x-request-id").expect("an id").to_owned()
    };
    // Ten seconds of hooks, one after another.
    let slow = futures_util::future::join_all((0..200).map(|_| ask("mock/slow"))).await;
    let quick = ask("mock/quick").await;
    let rows =
        async || request(gateway.admin, "GET", "/api/v1/requests?limit=500", &[("host", &host)], b"").await.text();
    let all = async {
        loop {
            let rows = rows().await;
            if rows.contains(&quick) && slow.iter().all(|id| rows.contains(id)) {
                break rows;
            }
        }
    };
    let rows = tokio::time::timeout(Duration::from_secs(3), all).await.expect("settled within three seconds");
    assert!(rows.contains("\"phase\":\"log\""), "some hooks ran");
    let left_out = rows.matches("log hooks of this request were left out").count();
    assert!(left_out > 0);
    let counted = format!("portcullis_log_hooks_left_out_total {left_out}\n");
    eventually("those left out are counted", async || gateway.metrics().await.contains(&counted)).await;
}
