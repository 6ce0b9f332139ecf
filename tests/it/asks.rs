//! Questions that stages ask of models on their own, in the running gateway: answered, metered to the caller, bounded in
//! number and time, broken off with their request; and what is built on them: long input in pieces.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};

use crate::{
    family::{Family, Openai},
    support::{Answer, Gateway, Say, Upstream, begin, eventually},
};

const ASKS: &str = "fn request(request, context) {
    let verdict = ask(\"judge/m\", \"Is this about tides? \" + request.last_user_text);
    context.note(\"verdict: \" + verdict);
    if verdict == \"no\" { return reject(400, \"off topic\"); }
}";

/// An upstream `a` that answers callers, and `judge`, that answers scripts.
struct House {
    a: Upstream,
    judge: Upstream,
    gateway: Gateway,
}

async fn house(script: &str, grant: &str, more: &str) -> House {
    let (a, judge) = (Upstream::start().await, Upstream::start().await);
    a.always(Say::json(Openai.whole("fine")));
    let providers = [a.provider("a", "openai_chat"), judge.provider("judge", "openai_chat")].concat();
    let stages = format!("[[stages]]\nuse = \"scripts/a.rhai\"\ngrant = [{grant}]\n");
    let gateway = Gateway::with(&format!("{providers}{stages}{more}"), &[("scripts/a.rhai", script)]).await;
    House { a, judge, gateway }
}

fn says(text: &str) -> Say {
    Say::json(Openai.whole(text))
}

fn body(text: &str) -> String {
    json!({"model": "a/m", "messages": [{"role": "user", "content": text}]}).to_string()
}

fn noted(record: &Value) -> Vec<String> {
    let steps = record["trace"].as_array().cloned().unwrap_or_default();
    steps.iter().filter(|s| s["step"] == "note").filter_map(|s| s["text"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_script_asks_a_model_and_decides_by_its_answer() {
    let house = house(ASKS, "\"ask\"", "").await;
    house.judge.then(says("yes")).then(says("no"));
    let answer = house.gateway.chat(&body("When is high water?")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let refused = house.gateway.chat(&body("Tell me a joke")).await;
    assert_eq!((refused.status, refused.json()["error"]["message"].as_str()), (400, Some("off topic")));
    assert_eq!(house.a.heard().len(), 1);
    let heard = house.judge.heard()[0].json();
    assert_eq!(heard["messages"][0]["content"], "Is this about tides? When is high water?");
    assert_eq!((heard["model"].as_str(), heard["temperature"].as_f64()), (Some("m"), Some(0.0)));
    assert!(heard.get("stream").is_none_or(|s| s == false), "{heard}");
    // The question is a request of its own, and the trace of the caller's names it.
    let id = answer.header("x-request-id").expect("an id");
    let rows = rows(&house.gateway, 4).await;
    let notes = noted(row(&rows, id));
    let told = notes.iter().find(|n| n.starts_with("judge/m answered in")).expect("the question in the trace");
    assert!(notes.contains(&"verdict: yes".to_owned()), "{notes:?}");
    let asked = row(&rows, told.rsplit(' ').next().expect("an id"));
    assert_eq!((asked["status"].as_u64(), asked["target"].as_str()), (Some(200), Some("judge/m")), "{asked}");
    assert_eq!(asked["tags"]["asked_by"], "scripts/a.rhai", "{asked}");
    assert_eq!(asked["tags"]["asked_for"], id);
}

#[tokio::test]
async fn a_question_is_charged_to_the_callers_budget_and_counts_as_a_request() {
    let (a, judge) = (Upstream::start().await, Upstream::saying(says("yes")).await);
    a.always(Say::json(Openai.whole("fine")));
    let price = "[[pricing]]\nmodel = \"judge/m\"\ninput = 1000000\noutput = 1000000\n[[pricing]]\nmodel = \"a/m\"\ninput = 0\noutput = 0\n";
    let config = format!(
        "[auth]\nrequired = true\n[teams.research]\nbudget = {{ usd = 10000, per = \"month\" }}\nlimits = {{ requests_per_minute = 4, concurrent = 1 }}\n\
         {price}{}{}[[stages]]\nuse = \"scripts/a.rhai\"\ngrant = [\"ask\"]\n",
        a.provider("a", "openai_chat"),
        judge.provider("judge", "openai_chat"),
    );
    let script = "fn request(request, context) { ask(\"judge/m\", #{ prompt: \"?\", max_tokens: 5 }); return; }";
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    let (_, key) = gateway.key("{\"name\": \"ada\", \"team\": \"research\"}").await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    for expected in [200, 200, 429] {
        // One place is enough for both: the question needs none of its own. Two requests make four a minute.
        let answer = gateway.post_with("/v1/chat/completions", &headers, &body("hi")).await;
        assert_eq!(answer.status, expected, "{}", answer.text());
    }
    let spent =
        async || gateway.admin("GET", "/api/v1/teams", "").await.json()["data"][0]["budget"]["spent_usd"].as_f64();
    // Three tokens in and two out at a dollar each, twice.
    eventually("both questions are charged", async || spent().await == Some(10.0)).await;
}

#[tokio::test]
async fn a_question_goes_where_the_runtime_of_its_request_says_whatever_came_since() {
    let (old, new) = (Upstream::saying(says("old")).await, Upstream::saying(says("new")).await);
    let (began, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = held(Openai.frames(&["one ", "two"]), began.clone(), goes_on.clone()).await;
    let config = |judge: &str| {
        format!(
            "{}{}{}[models.judge]\ntargets = [{{ provider = \"{judge}\", model = \"m\" }}]\n\
             [[stages]]\nuse = \"scripts/a.rhai\"\ngrant = [\"ask\"]\n",
            format_args!("[providers.a]\nbase_url = \"http://{slow}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n"),
            old.provider("old", "openai_chat"),
            new.provider("new", "openai_chat"),
        )
    };
    let script = "fn event(event, context) {\n  if event.text != () && event.text.contains(\"two\") { return #{ text: ask(\"judge\", \"?\") }; }\n}";
    let gateway = Gateway::with(&config("old"), &[("scripts/a.rhai", script)]).await;
    let hash = async || gateway.admin("GET", "/api/v1/config/status", "").await.json()["running"]["hash"].clone();
    let before = hash().await;
    let body = json!({"model": "a/m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let asking = gateway.chat(&body);
    let changing = async {
        began.notified().await;
        gateway.rewrite(&config("new"));
        eventually("the configuration is another", async || hash().await != before).await;
        goes_on.notify_one();
    };
    let (answer, ()) = tokio::join!(asking, changing);
    assert!(answer.text().contains("one ") && answer.text().contains("old"), "{}", answer.text());
    assert_eq!((old.heard().len(), new.heard().len()), (1, 0));
    goes_on.notify_one();
    assert!(gateway.chat(&body).await.text().contains("new"));
}

/// An upstream that begins each answer, says so, and goes on when it is told to.
async fn held(frames: Vec<String>, began: Arc<Notify>, goes_on: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut heard = [0; 64 << 10];
            let _ = socket.read(&mut heard).await;
            let (first, rest) = frames.split_at(2);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            let _ = socket.write_all(format!("{head}{}", first.concat()).as_bytes()).await;
            began.notify_one();
            goes_on.notified().await;
            let _ = socket.write_all(rest.concat().as_bytes()).await;
        }
    });
    addr
}

#[tokio::test]
async fn without_the_grant_a_script_that_asks_does_not_go_live() {
    let answers = |grant: &str| {
        let stages = format!("[[stages]]\nuse = \"scripts/a.rhai\"\n{grant}");
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("scripts")).expect("a folder");
        std::fs::write(dir.path().join("scripts/a.rhai"), ASKS).expect("written");
        std::fs::write(dir.path().join("gateway.toml"), stages).expect("written");
        dir
    };
    let told = async |grant: &str| {
        let dir = answers(grant);
        portcullis::cli::serve::Running::start(&dir.path().join("gateway.toml")).await.err().map(|e| e.to_string())
    };
    let refusal = told("").await.expect("refused");
    assert!(refusal.contains("scripts/a.rhai:2: it asks models, which it is not granted"), "{refusal}");
    let refusal = told("grant = [\"ask:\"]\n").await.expect("refused");
    assert!(refusal.contains("names no model"), "{refusal}");
}

#[tokio::test]
async fn a_grant_by_name_opens_that_model_and_no_other() {
    let script = "fn request(request, context) { context.note(ask(request.metadata.who, \"?\")); }";
    let (a, judge) = (Upstream::start().await, Upstream::saying(says("yes")).await);
    a.always(Say::json(Openai.whole("fine")));
    let config = format!(
        "[auth]\nrequired = true\n{}{}[[stages]]\nuse = \"scripts/a.rhai\"\ngrant = [\"ask:judge/m\"]\n",
        a.provider("a", "openai_chat"),
        judge.provider("judge", "openai_chat"),
    );
    let gateway = Gateway::with(&config, &[("scripts/a.rhai", script)]).await;
    // A caller who may not use the judge directly.
    let (_, key) = gateway.key("{\"name\": \"ada\", \"models\": [\"a/*\"]}").await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let ask = async |who: &str| {
        let body = json!({"model": "a/m", "metadata": {"who": who}, "messages": [{"role": "user", "content": "hi"}]});
        gateway.post_with("/v1/chat/completions", &headers, &body.to_string()).await.status
    };
    assert_eq!(ask("judge/m").await, 200);
    assert_eq!(ask("a/m").await, 500);
    let direct =
        json!({"model": "judge/m", "metadata": {"who": "judge/m"}, "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(gateway.post_with("/v1/chat/completions", &headers, &direct.to_string()).await.status, 403);
    // The stage's two questions, and nothing of the caller's own.
    assert_eq!(judge.heard().len(), 2);
}

#[tokio::test]
async fn questions_are_bounded_in_number_and_time_and_can_be_caught() {
    let script = "fn request(request, context) {
        let n = 0;
        try { loop { ask(\"judge/m\", \"?\"); n += 1; } } catch (e) { context.note(`asked ${n}`); }
    }";
    let house = house(script, "\"ask\"", "limits = { asks = 3, ask_wait = \"300ms\" }\n").await;
    house.judge.always(says("yes"));
    assert_eq!(house.gateway.chat(&body("hi")).await.status, 200);
    assert_eq!(house.judge.heard().len(), 3);
    house.judge.always(says("late").wait(Duration::from_secs(60)));
    let answer = house.gateway.chat(&body("hi")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let rows = rows(&house.gateway, 6).await;
    let notes: Vec<String> = rows.iter().flat_map(noted).collect();
    assert!(notes.contains(&"asked 3".to_owned()) && notes.contains(&"asked 0".to_owned()), "{notes:?}");
    assert!(rows.iter().any(|r| r["error_code"] == "upstream_timeout"), "{rows:?}");
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_question_with_it() {
    let house = house(ASKS, "\"ask\"", "").await;
    house.judge.always(says("yes").wait(Duration::from_secs(60)));
    let text = body("hi");
    let headers = [("content-type", "application/json")];
    let socket = begin(house.gateway.addr, "POST", "/v1/chat/completions", &headers, text.as_bytes()).await;
    house.judge.hears(1).await;
    drop(socket);
    house.judge.is_cancelled(1).await;
    let rows = rows(&house.gateway, 1).await;
    assert!(rows.iter().all(|r| r["status"] != 200), "{rows:?}");
}

#[tokio::test]
async fn stages_do_not_see_questions_and_a_question_leads_to_no_other() {
    // It would ask for ever if it met itself.
    let script = "fn request(request, context) { context.note(ask(\"a/m\", \"again?\")); }";
    let house = house(script, "\"ask\"", "").await;
    assert_eq!(house.gateway.chat(&body("hi")).await.status, 200);
    assert_eq!(house.a.heard().len(), 2);
}

#[tokio::test]
async fn a_whole_streamed_answer_is_judged_by_another_model() {
    let script = "const STREAM = \"whole\";
        fn response(response, context) {
            let mark = ask(\"judge/m\", #{ prompt: response.text, schema: #{ type: \"object\" } });
            if mark.good != true { return next(\"not good enough\"); }
        }";
    let house = house(
        script,
        "\"ask:judge/*\"",
        "[models.both]\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"a\", model = \"n\" }]\n",
    )
    .await;
    house.judge.then(says("{\"good\": false}")).then(says("```json\n{\"good\": true}\n```"));
    house.a.then(Say::sse(Openai.frames(&["po", "or"]).concat())).then(Say::sse(Openai.frames(&["fi", "ne"]).concat()));
    let answer = Openai.ask(&house.gateway, "both", true).await;
    assert_eq!(Openai.text(&answer), "fine", "{}", answer.text());
    let heard = house.judge.heard();
    assert_eq!(heard[0].json()["messages"][0]["content"], "poor");
    assert_eq!(heard[0].json()["response_format"]["type"], "json_schema");
}

#[tokio::test]
async fn nearness_to_examples_is_asked_of_an_embeddings_model_and_kept() {
    let script = "fn request(request, context) {
        let near = embed_similarity(request.last_user_text, #{ code: [\"a bug\", \"a loop\"], essay: [\"a poem\"] });
        context.note(`${near.code > 0.99} ${near.essay < 0.1}`);
    }";
    let house = house(script, "\"ask\"", "config = { embeddings = \"judge/e\" }\n").await;
    let vectors = |list: &[[f64; 2]]| {
        let data: Vec<Value> =
            list.iter().enumerate().map(|(n, v)| json!({"object": "embedding", "index": n, "embedding": v})).collect();
        Say::json(
            json!({"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 4, "total_tokens": 4}})
                .to_string(),
        )
    };
    house.judge.then(vectors(&[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])).then(vectors(&[[1.0, 0.0]]));
    assert_eq!(house.gateway.chat(&body("this is broken")).await.status, 200);
    assert_eq!(house.gateway.chat(&body("this too")).await.status, 200);
    let heard: Vec<Value> = house.judge.heard().iter().map(|h| h.json()["input"].clone()).collect();
    assert_eq!(heard, [json!(["this is broken", "a bug", "a loop", "a poem"]), json!(["this too"])]);
    let rows = rows(&house.gateway, 4).await;
    assert_eq!(rows.iter().flat_map(noted).filter(|n| n == "true true").count(), 2, "{rows:?}");
    assert_eq!(rows.iter().filter(|r| r["operation"] == "embeddings").count(), 2);
}

/// The records, once there are so many.
async fn rows(gateway: &Gateway, count: usize) -> Vec<Value> {
    let mut rows = Vec::new();
    eventually("the requests are settled", async || {
        rows = gateway.admin("GET", "/api/v1/requests?limit=200", "").await.json()["data"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        rows.len() >= count
    })
    .await;
    rows
}

fn row<'a>(rows: &'a [Value], id: &str) -> &'a Value {
    rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no {id} in {rows:?}"))
}

// long input

/// Sentences that are each 12 tokens or so.
fn long_text(sentences: usize) -> String {
    (0..sentences).map(|n| format!("Fact {n} of the long report is that it rained. ")).collect()
}

fn long_house(settings: &str) -> String {
    format!(
        "[models.long]\ntargets = [{{ provider = \"a\", model = \"m\" }}]\nlong_input = {{ mode = \"map_reduce\", {settings} }}\n"
    )
}

async fn long_gateway(settings: &str) -> (Upstream, Upstream, Gateway) {
    let (a, reader) = (Upstream::start().await, Upstream::start().await);
    let providers = [a.provider("a", "openai_chat"), reader.provider("reader", "openai_chat")].concat();
    let gateway = Gateway::start(&format!("{providers}{}", long_house(settings))).await;
    (a, reader, gateway)
}

#[tokio::test]
async fn a_long_text_is_read_in_pieces_and_their_notes_are_answered_from() {
    let (a, reader, gateway) =
        long_gateway("chunk_tokens = 200, model = \"reader/r\", instruction = \"Be exact.\"").await;
    reader.always(says("it rained"));
    for family in [Openai, Family::Anthropic] {
        for stream in [false, true] {
            let before = (a.heard().len(), reader.heard().len());
            a.always(if stream { Say::sse(Openai.frames(&["much", " rain"]).concat()) } else { says("much rain") });
            let question = format!("Summarize this. {}", long_text(50));
            let answer = gateway.post(&family.path("long", stream), &family.body("long", stream, &question)).await;
            assert_eq!(family.text(&answer), "much rain", "{family:?} {stream}: {}", answer.text());
            let pieces = reader.heard().len() - before.1;
            assert!((3..=6).contains(&pieces), "{pieces}");
            assert_eq!(a.heard().len() - before.0, 1);
            let heard = a.last().json();
            let text = heard["messages"][0]["content"].as_str().expect("text").to_owned();
            assert!(
                text.contains(&format!("read in {pieces} parts"))
                    && text.contains("<notes part=\"1\">\nit rained\n</notes>"),
                "{text}"
            );
            assert!(!text.contains("Fact 3 "), "{text}");
        }
    }
    let heard = reader.heard()[0].json();
    let told = heard["messages"][0]["content"].as_str().expect("text");
    assert!(told.starts_with("Be exact.") && told.contains("part 1 of") && told.contains("Summarize this."), "{told}");
    // All of the text was read, in order, by somebody.
    let pieces: usize = reader.heard().len() / 4;
    let read: Vec<String> = reader.heard()[..pieces]
        .iter()
        .map(|h| h.json()["messages"][1]["content"].as_str().expect("text").to_owned())
        .collect();
    for n in 0..50 {
        assert_eq!(read.iter().filter(|piece| piece.contains(&format!("Fact {n} of"))).count(), 1, "{n}");
    }
}

#[tokio::test]
async fn a_short_text_costs_nothing_and_too_long_a_one_is_refused() {
    let (a, reader, gateway) = long_gateway("chunk_tokens = 200, model = \"reader/r\", most_chunks = 2").await;
    a.always(says("fine"));
    let ask = async |text: &str| gateway.chat(&Openai.body("long", false, text)).await;
    assert_eq!(ask("hello").await.status, 200);
    let refused = ask(&long_text(100)).await;
    assert_eq!(refused.status, 413, "{}", refused.text());
    assert_eq!((a.heard().len(), reader.heard().len()), (1, 0));
}

#[tokio::test]
async fn pieces_can_be_merged_by_a_template_and_one_that_fails_fails_the_request() {
    let (a, reader, gateway) =
        long_gateway("chunk_tokens = 200, model = \"reader/r\", parallel = 1, template = \"{n}: {part}\\n\"").await;
    reader.then(says("one")).then(says("two")).always(says("more"));
    let body = Openai.body("long", false, &long_text(40));
    let answer = gateway.chat(&body).await;
    assert!(Openai.text(&answer).starts_with("1: one\n2: two\n3: more\n"), "{}", answer.text());
    assert_eq!(a.heard().len(), 0);
    reader.always(Say::error(400, "{\"error\": {\"message\": \"no\"}}"));
    assert_eq!(gateway.chat(&body).await.status, 400);
}

#[tokio::test]
async fn what_each_piece_costs_is_a_record_of_its_own() {
    let (a, _, gateway) = long_gateway("chunk_tokens = 200").await;
    a.always(says("fine"));
    let answer = gateway.chat(&Openai.body("long", false, &long_text(40))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let heard = a.heard().len();
    assert!(heard > 3, "{heard}");
    let rows = rows(&gateway, heard).await;
    let id = answer.header("x-request-id").expect("an id");
    assert_eq!(
        rows.iter().filter(|r| r["tags"]["asked_for"] == id && r["tags"]["asked_by"] == "long_input").count(),
        heard - 1
    );
    assert!(noted(row(&rows, id)).iter().any(|n| n.contains("pieces of 200 tokens, read by long")));
}

#[tokio::test]
async fn a_stream_may_begin_at_once_and_tell_of_each_piece() {
    let (a, reader, gateway) =
        long_gateway("chunk_tokens = 200, model = \"reader/r\", parallel = 2, progress = true").await;
    reader.always(says("it rained"));
    for family in [Openai, Family::Anthropic] {
        a.always(Say::sse(Openai.frames(&["much", " rain"]).concat()));
        let answer = gateway.post(&family.path("long", true), &family.body("long", true, &long_text(50))).await;
        assert_eq!((answer.status, answer.complete), (200, true), "{}", answer.text());
        let text = answer.text();
        let comments: Vec<&str> = text.lines().filter(|line| line.starts_with(": read")).collect();
        let count = comments.len();
        assert!((3..=6).contains(&count), "{text}");
        assert_eq!(
            (comments[0], comments[count - 1]),
            (&*format!(": read 1 of {count} parts"), &*format!(": read {count} of {count} parts"))
        );
        let frames: String = text.split_inclusive("\n\n").filter(|frame| !frame.starts_with(':')).collect();
        assert_eq!(family.text(&Answer { body: frames.into_bytes(), ..answer }), "much rain", "{family:?}");
    }
    // A client that leaves meanwhile breaks the reading off; what fails is told within the stream.
    reader.always(Say::error(400, "{\"error\": {\"message\": \"no\"}}"));
    let failed = gateway.post(&Openai.path("long", true), &Openai.body("long", true, &long_text(50))).await;
    assert!(
        failed.status == 200 && failed.text().contains("\"error\"") && !failed.text().contains("[DONE]"),
        "{}",
        failed.text()
    );
    reader.always(says("late").wait(Duration::from_secs(60)));
    let before = reader.heard().len();
    let body = Openai.body("long", true, &long_text(50));
    let socket =
        begin(gateway.addr, "POST", "/v1/chat/completions", &[("content-type", "application/json")], body.as_bytes())
            .await;
    reader.hears(before + 2).await;
    drop(socket);
    reader.is_cancelled(2).await;
    // Short requests begin when their answer does.
    a.always(Say::error(400, "{\"error\": {\"message\": \"no\"}}"));
    assert_eq!(Openai.ask(&gateway, "long", true).await.status, 400);
}

// prompt templates

const SUPPORT: &str =
    "[[version]]\nname = \"1\"\nsystem = \"You answer for {{ company }}.\"\nuser = \"{{ question }}\"\n";

#[tokio::test]
async fn a_prompt_by_name_is_filled_in_and_a_saved_one_follows() {
    let a = Upstream::saying(says("fine")).await;
    let gateway = Gateway::with(&a.provider("a", "openai_chat"), &[("prompts/support.toml", SUPPORT)]).await;
    let prompt = json!({"id": "support", "variables": {"company": "Tides", "question": "Why?"}});
    let ask = async |path: &str, mut body: Value| {
        body["prompt"] = prompt.clone();
        gateway.post(path, &body.to_string()).await
    };
    let turns = || a.last().json()["messages"].as_array().cloned().unwrap_or_default();
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": "a/m"})),
        ("/v1/responses", json!({"model": "a/m"})),
        ("/v1/messages", json!({"model": "a/m", "max_tokens": 9})),
        ("/v1beta/models/a/m:generateContent", json!({})),
    ] {
        let answer = ask(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let turns = turns();
        assert_eq!(
            (turns[0]["content"].as_str(), turns[1]["content"].as_str()),
            (Some("You answer for Tides."), Some("Why?")),
            "{path}"
        );
        assert!(a.last().json().get("prompt").is_none());
    }
    let missing = gateway.chat(&json!({"model": "a/m", "prompt": {"id": "support"}}).to_string()).await;
    assert_eq!(missing.status, 400);
    assert!(missing.text().contains("needs the variables company, question"), "{}", missing.text());
    // A mistake changes nothing, a sound file follows.
    gateway.write("prompts/support.toml", "[[version]]\nname = \"1\"\n");
    eventually("the change is refused", async || {
        gateway.admin("GET", "/api/v1/config/status", "").await.text().contains("prompts/support.toml")
    })
    .await;
    assert_eq!(ask("/v1/chat/completions", json!({"model": "a/m"})).await.status, 200);
    gateway.write("prompts/support.toml", &SUPPORT.replace("You answer", "You speak"));
    eventually("the new words are in force", async || {
        ask("/v1/chat/completions", json!({"model": "a/m"})).await;
        turns()[0]["content"] == "You speak for Tides."
    })
    .await;
}

#[tokio::test]
async fn prompts_belong_to_a_version_and_go_back_with_it() {
    let a = Upstream::saying(says("fine")).await;
    let gateway = Gateway::with(&a.provider("a", "openai_chat"), &[("prompts/support.toml", SUPPORT)]).await;
    let prompt = json!({"id": "support", "variables": {"company": "Tides", "question": "Why?"}});
    let body = json!({"model": "a/m", "prompt": prompt}).to_string();
    let words = async || {
        gateway.chat(&body).await;
        a.last().json()["messages"][0]["content"].clone()
    };
    assert_eq!(words().await, "You answer for Tides.");
    gateway.write("prompts/support.toml", &SUPPORT.replace("You answer", "You speak"));
    eventually("the new words are in force", async || words().await == "You speak for Tides.").await;
    let answer = gateway.admin("POST", "/api/v1/versions/v1/rollback", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(words().await, "You answer for Tides.");
}
