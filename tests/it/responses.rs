//! OpenAI Responses through the gateway: the same format as it came, every other one translated, and what is kept for a
//! conversation's next turn.

#![allow(clippy::disallowed_methods, reason = "the environment tells tests what they may skip")]

use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, Openai},
    state::Disk,
    support::{Answer, Gateway, Process, Say, Upstream, eventually, request},
};

/// Spacing and order of keys are the upstream's own.
const WHOLE: &str = r#"{ "id":"resp_up1","object":"response","created_at":1790000000,"status":"completed","model":"gpt-x","output":[{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":"gAAAAAseal"},{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"tide"}]}],"usage":{"input_tokens":11,"input_tokens_details":{"cached_tokens":2},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":4},"total_tokens":18},"store":false,"own":1.50 }"#;

fn frames() -> Vec<String> {
    let head = r#"{"id":"resp_up2","object":"response","created_at":1790000000,"status":"in_progress","model":"gpt-x","output":[]}"#;
    let item = r#"{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"high tide"}]}"#;
    let done = head
        .replace("in_progress", "completed")
        .replace("[]", &format!("[{item}]"))
        .replace(r#""object""#, r#""usage":{"input_tokens":11,"output_tokens":7,"total_tokens":18},"object""#);
    let place = r#""item_id":"msg_1","output_index":0,"content_index":0"#;
    let empty = r#"{"type":"output_text","annotations":[],"logprobs":[],"text":""}"#;
    let events = [
        ("created", format!(r#""response":{head}"#)),
        ("in_progress", format!(r#""response":{head}"#)),
        (
            "output_item.added",
            r#""output_index":0,"item":{"id":"msg_1","type":"message","status":"in_progress","role":"assistant","content":[]}"#
                .to_owned(),
        ),
        ("content_part.added", format!(r#"{place},"part":{empty}"#)),
        ("output_text.delta", format!(r#"{place},"delta":"high ","logprobs":[],"obfuscation":"x1"#)+"\""),
        ("output_text.delta", format!(r#"{place},"delta":"tide","logprobs":[]"#)),
        ("output_text.done", format!(r#"{place},"text":"high tide","logprobs":[]"#)),
        ("content_part.done", format!(r#"{place},"part":{}"#, empty.replace(r#""text":"""#, r#""text":"high tide""#))),
        ("output_item.done", format!(r#""output_index":0,"item":{item}"#)),
        ("completed", format!(r#""response":{done}"#)),
    ];
    let frame = |(at, (name, fields)): (usize, &(&str, String))| {
        format!("event: response.{name}\ndata: {{\"type\":\"response.{name}\",\"sequence_number\":{at},{fields}}}\n\n")
    };
    events.iter().enumerate().map(frame).collect()
}

fn stream() -> String {
    frames().concat()
}

fn body(model: &str, stream: bool) -> String {
    json!({"model": model, "input": "when?", "stream": stream, "store": false}).to_string()
}

async fn pair(say: Say, format: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let gateway = Gateway::start(&upstream.provider("up", format)).await;
    (upstream, gateway)
}

fn events(answer: &Answer) -> Vec<Value> {
    answer
        .text()
        .lines()
        .filter_map(|l| l.strip_prefix("data: "))
        .filter(|l| *l != "[DONE]")
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn text_of(response: &Value) -> String {
    let items = response["output"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .flat_map(|i| i["content"].as_array().cloned().unwrap_or_default())
        .map(|c| c["text"].as_str().unwrap_or("").to_owned())
        .collect()
}

#[tokio::test]
async fn the_same_format_goes_through_byte_for_byte_whole_and_streamed_at_any_chunking() {
    let (upstream, gateway) = pair(Say::json(WHOLE), "openai_responses").await;
    let asked = r#"{ "model" : "up/gpt-x","input":[{"role":"user","content":"when?"}],"store":false,"own":1.50 }"#;
    let answer = gateway.post("/v1/responses", asked).await;
    assert_eq!((answer.status, answer.text()), (200, WHOLE.to_owned()));
    let heard = upstream.last();
    assert_eq!(heard.path, "/v1/responses");
    assert_eq!(String::from_utf8_lossy(&heard.body), asked.replace("up/gpt-x", "gpt-x"));
    let record = gateway.record(1).await;
    assert_eq!(
        (record["usage"]["input_tokens"].as_u64(), record["usage"]["output_tokens"].as_u64()),
        (Some(11), Some(7))
    );
    for say in [Say::sse(stream()), Say::sse(stream()).bytewise()] {
        upstream.then(say);
        let answer = gateway.post("/v1/responses", &body("up/gpt-x", true)).await;
        assert_eq!((answer.status, answer.text()), (200, stream()));
    }
    let record = gateway.record(3).await;
    assert_eq!(record["usage"]["output_tokens"].as_u64(), Some(7));
    assert_eq!(record["finish_reason"], "stop");
}

#[tokio::test]
async fn a_provider_that_speaks_both_is_spoken_to_in_the_clients_own_format() {
    let upstream = Upstream::saying(Say::json(WHOLE)).await;
    let gateway = Gateway::start(&format!(
        "[providers.house]\nrow = \"vllm\"\nbase_url = \"http://{}/v1\"\nauth = \"none\"\n",
        upstream.addr
    ))
    .await;
    let answer = gateway.post("/v1/responses", &body("house/m", false)).await;
    assert_eq!((answer.text(), upstream.last().path.as_str()), (WHOLE.to_owned(), "/v1/responses"));
    upstream.then(Say::json(Openai.whole("chat")));
    let answer = Openai.ask(&gateway, "house/m", false).await;
    assert_eq!((Openai.text(&answer).as_str(), upstream.last().path.as_str()), ("chat", "/v1/chat/completions"));
    // The body of a stream asks for no chunk that only the other format has.
    upstream.then(Say::sse(stream()));
    assert_eq!(gateway.post("/v1/responses", &body("house/m", true)).await.text(), stream());
    assert_eq!(upstream.last().json().get("stream_options"), None);
}

#[tokio::test]
async fn every_family_answers_a_responses_client_and_is_answered_by_a_responses_upstream() {
    for family in FAMILIES {
        let (upstream, gateway) = pair(Say::json(family.whole("hello there")), family.format()).await;
        let answer = gateway.post("/v1/responses", &body("up/m", false)).await;
        assert_eq!(answer.status, 200, "{family:?}: {}", answer.text());
        let response = answer.json();
        assert_eq!((text_of(&response).as_str(), &response["status"]), ("hello there", &json!("completed")));
        assert!(response["id"].as_str().unwrap().starts_with("resp_"));
        assert_eq!(response["store"], false, "what was asked comes back");
        let frames = family.frames(&["hello ", "there"]);
        upstream.then(Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), std::time::Duration::ZERO));
        let answer = gateway.post("/v1/responses", &body("up/m", true)).await;
        let told = events(&answer);
        assert_eq!(told.last().unwrap()["type"], "response.completed", "{family:?}: {}", answer.text());
        assert_eq!(text_of(&told.last().unwrap()["response"]), "hello there");
        let numbers: Vec<u64> = told.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
        assert!(numbers.iter().enumerate().all(|(at, n)| at as u64 == *n), "{numbers:?}");

        let (upstream, gateway) = pair(Say::json(WHOLE), "openai_responses").await;
        assert_eq!(family.text(&family.ask(&gateway, "up/m", false).await), "tide");
        let heard = upstream.last().json();
        assert_eq!(heard["store"], false, "nobody asked the vendor to keep it");
        upstream.then(Say::sse(stream()));
        assert_eq!(family.text(&family.ask(&gateway, "up/m", true).await), "high tide");
    }
}

#[tokio::test]
async fn errors_come_in_the_formats_own_shape_and_with_their_status() {
    let refusal = r#"{"error":{"message":"too long","type":"invalid_request_error","param":"input","code":"context_length_exceeded"}}"#;
    let (_upstream, gateway) = pair(Say::error(400, refusal), "openai_responses").await;
    let answer = gateway.post("/v1/responses", &body("up/m", false)).await;
    assert_eq!((answer.status, answer.text()), (400, refusal.to_owned()));
    for (say, status) in [
        (Say::json(r#"{"id":"r","status":"failed","error":{"code":"server_error","message":"no"},"output":[]}"#), 502),
        (Say::sse("event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"no\"}\n\n"), 502),
        (Say::sse(frames()[..4].concat()), 502),
        (Say::json("{}"), 502),
    ] {
        let (_upstream, gateway) = pair(say, "openai_responses").await;
        let answer = gateway.post("/v1/responses", &body("up/m", true)).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
    let answer = request(gateway.addr, "GET", "/v1/responses", &upgrade, b"").await;
    assert_eq!(answer.status, 405);
    assert!(Openai.error(&answer).message.contains("WebSocket"), "{}", answer.text());
}

#[tokio::test]
async fn a_stream_that_dies_after_its_first_output_ends_in_an_error_event() {
    let say = Say::frames(&frames().iter().map(String::as_str).collect::<Vec<_>>()[..6], std::time::Duration::ZERO);
    let (_upstream, gateway) = pair(say.end(crate::support::End::Cut), "openai_responses").await;
    let answer = gateway.post("/v1/responses", &body("up/m", true)).await;
    let told = events(&answer);
    assert_eq!(told.last().unwrap()["type"], "error", "{}", answer.text());
    let numbers: Vec<u64> = told.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..7).collect::<Vec<_>>(), "the error is counted on from the events that went by");
    assert!(told.iter().all(|e| e["type"] != "response.completed"));
}

#[tokio::test]
async fn tokens_are_counted_by_the_upstream_that_can() {
    let (upstream, gateway) =
        pair(Say::json(r#"{"object":"response.input_tokens","input_tokens":11}"#), "openai_responses").await;
    let answer = gateway.post("/v1/responses/input_tokens", &body("up/m", false)).await;
    assert_eq!(answer.json()["input_tokens"], 11);
    assert_eq!(upstream.last().path, "/v1/responses/input_tokens");
    let (_upstream, gateway) = pair(Say::json("{}"), "openai_chat").await;
    let answer = gateway.post("/v1/responses/input_tokens", &body("up/m", false)).await;
    assert_eq!(answer.header("x-portcullis-estimated"), Some("true"));
    assert_eq!(answer.json()["object"], "response.input_tokens");
}

#[tokio::test]
async fn a_conversation_goes_on_from_what_was_stored_at_whatever_provider() {
    let first = Upstream::saying(Say::json(WHOLE)).await;
    let second = Upstream::saying(Say::json(Openai.whole("noon"))).await;
    let gateway = Gateway::start(&format!(
        "{}{}",
        first.provider("one", "openai_responses"),
        second.provider("two", "openai_chat")
    ))
    .await;
    let asked = json!({"model": "one/gpt-x", "input": "when?", "reasoning": {"effort": "low"}}).to_string();
    let answer = gateway.post("/v1/responses", &asked).await;
    assert_eq!(answer.text(), WHOLE, "the answer is the upstream's own");
    let heard = first.last().json();
    assert_eq!((&heard["store"], &heard["include"]), (&json!(false), &json!(["reasoning.encrypted_content"])));
    let next = json!({"model": "two/m", "input": "and then?", "previous_response_id": "resp_up1"}).to_string();
    let answer = gateway.post("/v1/responses", &next).await;
    let turn = answer.json();
    assert_eq!((answer.status, &turn["previous_response_id"]), (200, &json!("resp_up1")), "{}", answer.text());
    let said: Vec<Value> =
        second.last().json()["messages"].as_array().unwrap().iter().map(|m| m["content"].clone()).collect();
    assert_eq!(said, [json!("when?"), json!("tide"), json!("and then?")]);
    // And back to the first, which gets its own sealed thought again.
    let id = turn["id"].as_str().unwrap();
    let next = json!({"model": "one/gpt-x", "input": "why?", "previous_response_id": id}).to_string();
    assert_eq!(gateway.post("/v1/responses", &next).await.status, 200);
    let heard = first.last().json();
    assert_eq!(heard.get("previous_response_id"), None);
    let input = heard["input"].as_array().unwrap();
    assert!(input.iter().any(|i| i["encrypted_content"] == "gAAAAAseal"), "{heard}");
    assert_eq!(input.iter().filter(|i| i["role"] == "user").count(), 3, "{heard}");

    let read = gateway.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(read.json(), turn);
    let items = gateway.get(&format!("/v1/responses/{id}/input_items?order=asc")).await.json();
    assert_eq!(items["data"].as_array().unwrap().len(), 4, "{items}");
    let cancel = gateway.post(&format!("/v1/responses/{id}/cancel"), "").await;
    assert_eq!((cancel.status, Openai.error(&cancel).code.as_str()), (400, "response_not_cancellable"));
    let gone = request(gateway.addr, "DELETE", &format!("/v1/responses/{id}"), &[], b"").await;
    assert_eq!(gone.json()["deleted"], true);
    for answer in [gateway.get(&format!("/v1/responses/{id}")).await, gateway.post("/v1/responses", &next).await] {
        assert_eq!((answer.status, Openai.error(&answer).code.as_str()), (404, "response_not_found"));
    }
}

#[tokio::test]
async fn items_of_kept_answers_may_be_named_and_are_nobody_elses() {
    let first = Upstream::saying(Say::json(WHOLE)).await;
    let second = Upstream::saying(Say::json(Openai.whole("noon"))).await;
    let gateway = Gateway::start(&format!(
        "[auth]\nrequired = true\n{}{}",
        first.provider("one", "openai_responses"),
        second.provider("two", "openai_chat")
    ))
    .await;
    let (_, mine) = gateway.key(r#"{"name":"a"}"#).await;
    let (_, theirs) = gateway.key(r#"{"name":"b"}"#).await;
    let post = async |key: &str, body: &str| {
        gateway.post_with("/v1/responses", &[("authorization", &format!("Bearer {key}"))], body).await
    };
    let asked = json!({"model": "one/gpt-x", "input": "when?", "reasoning": {"effort": "low"}}).to_string();
    assert_eq!(post(&mine, &asked).await.text(), WHOLE);
    let naming = |model: &str| {
        json!({"model": model, "input": [
            {"role": "user", "content": "when?"},
            {"type": "item_reference", "id": "rs_1"},
            {"type": "item_reference", "id": "msg_1"},
            {"role": "user", "content": "and then?"},
        ]})
        .to_string()
    };
    // At the same upstream, which keeps nothing, and at one that knows no such thing.
    assert_eq!(post(&mine, &naming("one/gpt-x")).await.status, 200);
    let input = first.last().json()["input"].clone();
    assert_eq!(input[1]["encrypted_content"], "gAAAAAseal", "{input}");
    assert_eq!((&input[2]["content"][0]["text"], input.as_array().unwrap().len()), (&json!("tide"), 4), "{input}");
    assert_eq!(post(&mine, &naming("two/m")).await.status, 200);
    let said: Vec<Value> =
        second.last().json()["messages"].as_array().unwrap().iter().map(|m| m["content"].clone()).collect();
    assert_eq!(said, [json!("when?"), json!("tide"), json!("and then?")]);
    // Nobody else's, however it is written.
    for body in [naming("one/gpt-x"), naming("one/gpt-x").replace("item_reference", "item\\u005freference")] {
        let other = post(&theirs, &body).await;
        assert_eq!((other.status, Openai.error(&other).code.as_str()), (404, "item_not_found"), "{body}");
    }
    let heard = first.heard().len();
    let gone =
        request(gateway.addr, "DELETE", "/v1/responses/resp_up1", &[("authorization", &format!("Bearer {mine}"))], b"")
            .await;
    assert_eq!(gone.status, 200);
    assert_eq!(post(&mine, &naming("one/gpt-x")).await.status, 404, "it is gone with its answer");
    assert_eq!(first.heard().len(), heard);
}

#[tokio::test]
async fn streams_are_stored_when_they_end_well_and_nothing_is_that_was_not_to_be() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_responses")).await;
    let asked = json!({"model": "up/m", "input": "x", "stream": true}).to_string();
    upstream.then(Say::sse(stream()).bytewise());
    assert_eq!(gateway.post("/v1/responses", &asked).await.text(), stream());
    assert_eq!(text_of(&gateway.get("/v1/responses/resp_up2").await.json()), "high tide");
    let gone = request(gateway.addr, "DELETE", "/v1/responses/resp_up2", &[], b"").await;
    assert_eq!(gone.status, 200);
    let all = frames();
    let cut = Say::frames(&all.iter().map(String::as_str).collect::<Vec<_>>()[..8], std::time::Duration::ZERO);
    upstream.then(cut.end(crate::support::End::Cut));
    gateway.post("/v1/responses", &asked).await;
    upstream.then(Say::sse(stream()));
    gateway.post("/v1/responses", &body("up/m", true)).await;
    assert_eq!(gateway.get("/v1/responses/resp_up2").await.status, 404);
    // A stream that is translated is told under the id that it is kept under.
    let mock = gateway
        .post("/v1/messages", r#"{"model":"mock","max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#)
        .await;
    assert_eq!(mock.status, 200);
    let answer = gateway.post("/v1/responses", r#"{"model":"mock","input":"x","stream":true}"#).await;
    let last = events(&answer).pop().unwrap();
    let id = last["response"]["id"].as_str().unwrap().to_owned();
    assert_eq!(gateway.get(&format!("/v1/responses/{id}")).await.json(), last["response"]);
}

#[tokio::test]
async fn another_tenant_finds_nothing_and_what_is_not_offered_is_refused() {
    let gateway = Gateway::start("[auth]\nrequired = true\n").await;
    let (_, mine) = gateway.key(r#"{"name":"a"}"#).await;
    let (_, theirs) = gateway.key(r#"{"name":"b"}"#).await;
    let bearer = |key: &str| format!("Bearer {key}");
    let (mine, theirs) = (bearer(&mine), bearer(&theirs));
    let post = async |key: &str, body: &str| gateway.post_with("/v1/responses", &[("authorization", key)], body).await;
    let answer = post(&mine, r#"{"model":"mock","input":"secret"}"#).await;
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let next = json!({"model": "mock", "input": "and?", "previous_response_id": id}).to_string();
    let other = post(&theirs, &next).await;
    assert_eq!((other.status, Openai.error(&other).code.as_str()), (404, "response_not_found"));
    for (method, path) in [("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")] {
        let path = format!("/v1/responses/{id}{path}");
        let answer = request(gateway.addr, method, &path, &[("authorization", theirs.as_str())], b"").await;
        assert_eq!(answer.status, 404, "{method} {path}");
    }
    assert_eq!(post(&mine, &next).await.status, 200);
}

#[tokio::test]
async fn legacy_completions_are_answered_by_chat_models_of_every_family() {
    for family in FAMILIES {
        let upstream = Upstream::saying(Say::json(family.whole("once upon"))).await;
        let config = format!("{}offers = []\n", upstream.provider("up", family.format()));
        let gateway = Gateway::start(&config).await;
        let asked = json!({"model": "up/m", "prompt": "Tell", "max_tokens": 20}).to_string();
        let answer = gateway.post("/v1/completions", &asked).await;
        assert_eq!(
            (answer.status, &answer.json()["choices"][0]["text"]),
            (200, &json!("once upon")),
            "{}",
            answer.text()
        );
        let frames = family.frames(&["once ", "upon"]);
        upstream.then(Say::frames(&frames.iter().map(String::as_str).collect::<Vec<_>>(), std::time::Duration::ZERO));
        let asked = json!({"model": "up/m", "prompt": "Tell", "max_tokens": 20, "stream": true}).to_string();
        let answer = gateway.post("/v1/completions", &asked).await;
        let text: String =
            events(&answer).iter().filter_map(|e| e["choices"][0]["text"].as_str().map(str::to_owned)).collect();
        assert_eq!(text, "once upon", "{}", answer.text());
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
    }
    let gateway = Gateway::start("").await;
    let answer = gateway.post("/v1/completions", r#"{"model":"mock","prompt":"x","echo":true}"#).await;
    assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("echo")));
}

/// A gateway with keys, whose store is on the disk.
const DURABLE: &str = "[store]\nkind = \"sled\"\npath = \"data\"\n[auth]\nrequired = true\n[teams.red]\n[teams.blue]\n";

/// A caller of a gateway that runs as a process of its own.
struct Caller(String);

impl Caller {
    async fn new(gateway: &Process, team: &str) -> Caller {
        let made = gateway.admin("POST", "/api/v1/keys", &json!({"name": team, "team": team}).to_string()).await;
        Caller(format!("Bearer {}", made.json()["key"].as_str().expect("a key")))
    }

    async fn ask(&self, gateway: &Process, method: &str, path: &str, body: &str) -> Answer {
        let headers = [("authorization", self.0.as_str()), ("content-type", "application/json")];
        request(gateway.addr, method, path, &headers, body.as_bytes()).await
    }

    /// The id of a stored answer.
    async fn store(&self, gateway: &Process, input: &str, stream: bool) -> String {
        let body = json!({"model": "mock", "input": input, "stream": stream}).to_string();
        let answer = self.ask(gateway, "POST", "/v1/responses", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = |response: &Value| response["id"].as_str().expect("an id").to_owned();
        if stream { id(&events(&answer).pop().expect("events")["response"]) } else { id(&answer.json()) }
    }

    async fn follow(&self, gateway: &Process, id: &str) -> u16 {
        let body = json!({"model": "mock", "input": "and?", "previous_response_id": id, "store": false}).to_string();
        self.ask(gateway, "POST", "/v1/responses", &body).await.status
    }
}

/// All bytes of kept answers.
fn kept(gateway: &Process) -> Vec<u8> {
    let folder = gateway.path().join("data/responses");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| std::fs::read(file.path()).ok()).flatten().collect()
}

#[tokio::test]
async fn a_delivered_answer_is_followed_up_after_a_kill_and_a_deleted_one_stays_deleted() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some_and(|v| v == "1") { 20 } else { 3 };
    let mut gateway = Process::start(DURABLE, &[]).await;
    let (red, blue) = (Caller::new(&gateway, "red").await, Caller::new(&gateway, "blue").await);
    let (mut alive, mut dead) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let gone = red.store(&gateway, "burn after reading", false).await;
        let deleted = red.ask(&gateway, "DELETE", &format!("/v1/responses/{gone}"), "").await;
        assert_eq!(deleted.json()["deleted"], true);
        dead.push(gone);
        alive.push(red.store(&gateway, "the secret of the house", round % 2 == 1).await);
        // No pause: what was delivered has been written.
        gateway.kill_and_restart().await;
        for id in &alive {
            assert_eq!(red.follow(&gateway, id).await, 200, "round {round}");
            assert_eq!(blue.follow(&gateway, id).await, 404, "round {round}");
            assert_eq!(blue.ask(&gateway, "DELETE", &format!("/v1/responses/{id}"), "").await.status, 404);
        }
        for id in &dead {
            assert_eq!(red.follow(&gateway, id).await, 404, "round {round}");
            assert_eq!(red.ask(&gateway, "GET", &format!("/v1/responses/{id}"), "").await.status, 404);
        }
    }
    let items = red.ask(&gateway, "GET", &format!("/v1/responses/{}/input_items", alive[0]), "").await.json();
    assert_eq!(items["data"][0]["content"][0]["text"], "the secret of the house", "{items}");
    let bytes = kept(&gateway);
    assert!(bytes.len() > 500, "{}", bytes.len());
    for word in ["secret", "burn", "resp_", "mock"] {
        assert!(memchr::memmem::find(&bytes, word.as_bytes()).is_none(), "`{word}` can be read on the disk");
    }
    // A clean restart, too.
    gateway.restart().await;
    assert_eq!((red.follow(&gateway, &alive[0]).await, red.follow(&gateway, &dead[0]).await), (200, 404));
}

#[tokio::test]
async fn answers_are_kept_in_memory_alone_when_that_is_wanted() {
    let mut gateway = Process::start(&format!("{DURABLE}[responses]\npersist = false\n"), &[]).await;
    let red = Caller::new(&gateway, "red").await;
    let id = red.store(&gateway, "hello", false).await;
    assert_eq!(red.follow(&gateway, &id).await, 200);
    gateway.kill_and_restart().await;
    assert_eq!(red.follow(&gateway, &id).await, 404);
    assert!(kept(&gateway).is_empty());
}

#[tokio::test]
async fn what_is_too_old_is_gone_from_the_disk() {
    let gateway = Process::start(&format!("{DURABLE}[responses]\nkeep = \"1s\"\n"), &[]).await;
    let red = Caller::new(&gateway, "red").await;
    let id = red.store(&gateway, "hello", false).await;
    eventually("the answer is too old", async || red.follow(&gateway, &id).await == 404).await;
    eventually("its bytes are gone", async || kept(&gateway).is_empty()).await;
}

#[tokio::test]
async fn a_full_disk_fails_no_request_and_what_follows_is_kept_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let _disk = match Disk::mount(&data, "24m") {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    let config = DURABLE.replace("\"data\"", &format!("{:?}", data.to_str().expect("a path")));
    let mut gateway = Process::start(&config, &[]).await;
    let red = Caller::new(&gateway, "red").await;
    let before = red.store(&gateway, "before", false).await;
    Disk::fill(&data);
    // It does not get shorter, so that no page has room for it.
    let mut state = 7u64;
    let mut letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + (state >> 60) as u8)
    };
    let noise: String = (0..100_000).map(&mut letter).collect();
    let during = red.store(&gateway, &noise, false).await;
    assert_eq!(red.follow(&gateway, &during).await, 200, "from memory");
    let told = gateway.metrics().await;
    assert!(told.contains("portcullis_responses_unwritten_total 1"), "{told}");
    let warning = "answers that are to be kept cannot be written";
    eventually("the log says so", async || gateway.log().contains(warning)).await;
    std::fs::remove_file(data.join("ballast")).expect("room");
    let after = red.store(&gateway, "after", false).await;
    gateway.kill_and_restart().await;
    assert_eq!(red.follow(&gateway, &before).await, 200);
    assert_eq!(red.follow(&gateway, &during).await, 404, "it was in memory alone");
    assert_eq!(red.follow(&gateway, &after).await, 200);
}

const COMPACTED: &str = r#"{ "id":"resp_c1","object":"response.compaction","created_at":1790000000,"output":[{"type":"message","role":"user","content":[{"type":"input_text","text":"when?"}]},{"type":"compaction","id":"cmp_1","encrypted_content":"gAAAAAc"}],"usage":{"input_tokens":90,"output_tokens":12,"total_tokens":102},"own":1.50 }"#;

#[tokio::test]
async fn a_conversation_is_compacted_by_an_upstream_that_can_and_refused_at_others() {
    let able = Upstream::saying(Say::json(WHOLE)).await;
    let unable = Upstream::saying(Say::json("{}")).await;
    let priced = "[[pricing]]\nmodel = \"up/*\"\ninput = 1\noutput = 2\n";
    let config = format!(
        "{}offers = [\"compaction\"]\n{}{priced}",
        able.provider("up", "openai_responses"),
        unable.provider("other", "openai_responses")
    );
    let hide = "fn request(request, context) { if request.last_user_text == \"secret\" { request.messages[0].text = \"hidden\"; } }";
    let gateway = Gateway::with(&config, &[("scripts/hide.rhai", hide)]).await;
    // What was stored here is put in front, and the caller's own bytes go on where nothing has to change.
    let answer = gateway.post("/v1/responses", r#"{"model":"up/m","input":"when?"}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    able.always(Say::json(COMPACTED));
    let asked = r#"{"model":"up/m", "input":[{"role":"user","content":"when?"}],"instructions":"be short","tools":[],"own":1.50}"#;
    let answer = gateway.post("/v1/responses/compact", asked).await;
    assert_eq!((answer.status, answer.text()), (200, COMPACTED.to_owned()));
    let heard = able.last();
    assert_eq!(heard.path, "/v1/responses/compact");
    assert_eq!(String::from_utf8_lossy(&heard.body), asked.replace("up/m", "m"));
    let record = gateway.record(2).await;
    assert_eq!((record["operation"].as_str(), record["cost_usd"].to_string()), (Some("compaction"), "0.000114".into()));
    let asked = r#"{"model":"up/m","previous_response_id":"resp_up1"}"#;
    assert_eq!(gateway.post("/v1/responses/compact", asked).await.status, 200);
    let body = able.last().json();
    assert_eq!(body["input"].as_array().map(Vec::len), Some(3), "{body}");
    assert!(body.get("previous_response_id").is_none() && body.get("store").is_none(), "{body}");
    // It is no answer that is kept.
    assert_eq!(gateway.get("/v1/responses/resp_c1").await.status, 404);
    // Stages see the conversation.
    gateway.post("/v1/responses/compact", r#"{"model":"up/m","input":"secret","temperature":0.5}"#).await;
    let body = able.last().json();
    assert!(body.to_string().contains("hidden") && !body.to_string().contains("secret"), "{body}");
    assert!(body.get("temperature").is_none() && body.get("stream").is_none(), "{body}");
    // Where it cannot be done it is refused before anything is sent.
    let answer = gateway.post("/v1/responses/compact", r#"{"model":"other/m","input":"x"}"#).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["param"].as_str()),
        (400, Some("compaction")),
        "{}",
        answer.text()
    );
    assert!(unable.heard().is_empty());
    able.always(Say::json(r#"{"id":"x"}"#));
    assert_eq!(gateway.post("/v1/responses/compact", r#"{"model":"up/m","input":"x"}"#).await.status, 502);
}
