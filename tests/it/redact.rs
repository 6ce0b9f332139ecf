//! The `redact` plugin through the real gateway: what the upstream hears, what the caller reads, and that a value split over
//! events is treated like a whole one (promise 19). The component is the committed one.

use serde_json::{Value, json};

use super::support::{Answer, Gateway, Say, Upstream};

/// A value of each kind, and the placeholder that it gets in a request of its own.
const VALUES: [(&str, &str); 10] = [
    ("bob.o'hara+x@mail.example.co.uk", "[EMAIL_1]"),
    ("müller@bücher.example", "[EMAIL_1]"),
    ("+49 (0) 30 901820", "[PHONE_1]"),
    ("212-555-0199", "[PHONE_1]"),
    ("4111 1111 1111 1111", "[CARD_1]"),
    ("GB82 WEST 1234 5698 7654 32", "[IBAN_1]"),
    ("192.168.17.4", "[IP_1]"),
    ("2001:db8::8a2e:370:7334", "[IP_1]"),
    ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "[KEY_1]"),
    ("-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----", "[KEY_1]"),
];

/// The gateway with the plugin, before one upstream of this format.
async fn gateway(upstream: &Upstream, format: &str, config: &str) -> Gateway {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("plugins")).expect("a folder");
    let component = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/redact/redact.wasm");
    std::fs::copy(component, dir.path().join("plugins/redact.wasm")).expect("the component");
    // Room for a busy machine: what is tested here is not the limit.
    let stage = format!(
        "[[stages]]\nuse = \"plugins/redact.wasm\"\nlimits = {{ cpu = \"2s\" }}\nconfig = {{ {config} }}\n{}",
        upstream.provider("up", format)
    );
    Gateway::in_dir(dir, &stage).await
}

fn says(content: &str) -> Say {
    let message = json!({"role": "assistant", "content": content});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    Say::json(json!({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice]}).to_string())
}

fn ask(text: &str) -> Value {
    json!({"model": "up/m", "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn the_upstream_hears_placeholders_and_the_caller_reads_values() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, "openai_chat", "").await;
    for (value, name) in VALUES {
        upstream.then(says(&format!("so {name}.")));
        let answer = gateway.chat(&ask(&format!("it is {value}, and {value} again")).to_string()).await;
        assert_eq!(upstream.last().json()["messages"][0]["content"], format!("it is {name}, and {name} again"));
        assert_eq!(answer.json()["choices"][0]["message"]["content"], format!("so {value}."));
    }
}

#[tokio::test]
async fn where_nothing_was_hidden_the_answer_passes_as_it_came() {
    // Bytes that no encoder would write so: they show whether a stream went through the model.
    let piece = |content: &str| {
        format!(
            "data: {{\"odd\" : 1, \"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
             \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let end = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
               \"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let upstream = Upstream::saying(Say::sse(format!("{}{end}", piece("so [EMAIL_1]")))).await;
    let gateway = gateway(&upstream, "openai_chat", "").await;
    let stream = async |text: &str| {
        let mut body = ask(text);
        body["stream"] = true.into();
        gateway.chat(&body.to_string()).await.text()
    };
    let clean = stream("what are tides?").await;
    assert!(clean.contains("\"odd\" : 1") && clean.contains("so [EMAIL_1]"), "{clean}");
    // With something to restore it is read, and restored.
    let restored = stream("I am ann@example.com").await;
    assert!(!restored.contains("\"odd\" : 1") && restored.contains("ann@example.com"), "{restored}");
}

#[tokio::test]
async fn every_string_of_a_request_is_masked_wherever_it_stands() {
    let upstream = Upstream::saying(says("done")).await;
    let gateway = gateway(&upstream, "openai_chat", "").await;
    let arguments = r#"{"to": "bob@example.com", "note": "line\nbob@example.com", "card": 4111111111111111}"#;
    let body = json!({
        "model": "up/m",
        "user": "bob@example.com",
        "metadata": {"who": "bob@example.com"},
        "x_unknown": {"deep": ["bob@example.com"]},
        "messages": [
            {"role": "system", "content": "You work for bob@example.com"},
            {"role": "user", "name": "bob", "content": [{"type": "text", "text": "I am bob@example.com"}]},
            {"role": "assistant", "content": null, "reasoning_content": "it is bob@example.com", "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "mail", "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": "t1", "content": "sent to bob@example.com"},
        ],
        "tools": [{"type": "function", "function": {"name": "mail", "description": "mails bob@example.com",
            "parameters": {"type": "object", "properties": {"to": {"type": "string", "default": "bob@example.com"}}}}}],
    });
    let answer = gateway.chat(&body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let heard = upstream.last();
    let text = String::from_utf8_lossy(&heard.body).into_owned();
    assert!(!text.contains("bob@example") && !text.contains("41111111"), "{text}");
    let arguments = heard.json()["messages"][2]["tool_calls"][0]["function"]["arguments"].clone();
    let arguments: Value = serde_json::from_str(arguments.as_str().expect("text")).expect("still JSON");
    assert_eq!(arguments, json!({"to": "[EMAIL_1]", "note": "line\n[EMAIL_1]", "card": "[CARD_1]"}));
    // Not in the record either; what was done is.
    let record = gateway.record(1).await;
    let id = record["id"].as_str().expect("an id").to_owned();
    let record = gateway.admin("GET", &format!("/api/v1/requests/{id}"), "").await.text();
    assert!(!record.contains("bob@example") && !record.contains("4111"), "{record}");
    assert!(record.contains("masked: email x1 card x1"), "{record}");
}

/// Whichever of them an upstream takes: a key that stands twice goes on as it was seen.
#[tokio::test]
async fn no_second_key_and_no_template_carries_a_value_past() {
    let secret = "bob.smith@example.com";
    for (format, path, bodies) in [
        (
            "openai_chat",
            "/v1/chat/completions",
            [
                r#"{"model":"up/m","messages":[{"role":"user","content":"SECRET","content":"x"}]}"#,
                r#"{"model":"up/m","messages":[{"role":"user","content":[{"type":"text","text":"SECRET","text":"x"}]}]}"#,
                r#"{"model":"up/m","metadata":{"a":"SECRET","a":"x"},"messages":[{"role":"user","content":"x"}]}"#,
            ],
        ),
        (
            "openai_responses",
            "/v1/responses",
            [
                r#"{"model":"up/m","input":"x","prompt":{"id":"pmpt_1","variables":{"a":"SECRET"}}}"#,
                r#"{"model":"up/m","input":[{"role":"user","content":"SECRET","content":"x"}]}"#,
                r#"{"model":"up/m","input":"SECRET","stream":true,"prompt":{"id":"pmpt_1","variables":{"a":"SECRET"}}}"#,
            ],
        ),
    ] {
        let upstream = Upstream::saying(Say::error(400, "{}")).await;
        let gateway = gateway(&upstream, format, "").await;
        for body in bodies {
            let before = upstream.heard().len();
            gateway.post(path, &body.replace("SECRET", secret)).await;
            assert!(upstream.heard().len() > before, "{body}");
            let heard = String::from_utf8_lossy(&upstream.last().body).into_owned();
            assert!(!heard.contains(secret), "{body}: {heard}");
        }
    }
}

#[tokio::test]
async fn texts_to_embed_are_masked() {
    let upstream = Upstream::saying(Say::json(
        r#"{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":[0.1]}]}"#,
    ))
    .await;
    let gateway = gateway(&upstream, "openai_chat", "").await;
    let body = json!({"model": "up/m", "input": ["I am bob@example.com"]});
    let answer = gateway.post("/v1/embeddings", &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.last().json()["input"], json!(["I am [EMAIL_1]"]));
}

/// Where a piece of a streamed answer stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Text,
    Reasoning,
    Arguments,
}

impl Place {
    fn delta(self, piece: &str) -> Value {
        match self {
            Place::Text => json!({"content": piece}),
            Place::Reasoning => json!({"reasoning_content": piece}),
            Place::Arguments => json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}),
        }
    }

    fn of(self, delta: &Value) -> Option<&str> {
        match self {
            Place::Text => delta["content"].as_str(),
            Place::Reasoning => delta["reasoning_content"].as_str(),
            Place::Arguments => delta["tool_calls"][0]["function"]["arguments"].as_str(),
        }
    }
}

/// Streams each way to cut `text` into two and three as a choice of its own, and gives what the caller reads of each.
async fn each_split(gateway: &Gateway, upstream: &Upstream, asked: &str, place: Place, text: &str) -> Vec<String> {
    let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut ways = Vec::new();
    for (n, one) in cuts.iter().enumerate() {
        ways.push(vec![&text[..*one], &text[*one..]]);
        ways.extend(cuts[n..].iter().map(|two| vec![&text[..*one], &text[*one..*two], &text[*two..]]));
    }
    let mut read = Vec::new();
    for ways in ways.chunks(100) {
        upstream.then(stream(place, ways));
        let mut body = ask(asked);
        body["stream"] = json!(true);
        body["n"] = json!(ways.len());
        let answer = gateway.chat(&body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        read.extend(joined(&answer, place, ways.len()));
    }
    read
}

fn chunk(index: usize, delta: Value, finish: Value) -> String {
    let choice = json!({"index": index, "delta": delta, "finish_reason": finish});
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]});
    format!("data: {chunk}\n\n")
}

fn stream(place: Place, ways: &[Vec<&str>]) -> Say {
    let mut all = String::new();
    // All begin, then all go on, as a provider that answers in parallel does.
    let longest = ways.iter().map(Vec::len).max().unwrap_or(0);
    for n in 0..longest {
        for (index, way) in ways.iter().enumerate() {
            if n == 0 && place == Place::Arguments {
                let call = json!({"index": 0, "id": format!("t{index}"), "type": "function",
                    "function": {"name": "f", "arguments": ""}});
                all += &chunk(index, json!({"role": "assistant", "tool_calls": [call]}), Value::Null);
            }
            if let Some(piece) = way.get(n) {
                all += &chunk(index, place.delta(piece), Value::Null);
            }
        }
    }
    for index in 0..ways.len() {
        let reason = if place == Place::Arguments { "tool_calls" } else { "stop" };
        all += &chunk(index, json!({}), json!(reason));
    }
    Say::sse(all + "data: [DONE]\n\n")
}

fn joined(answer: &Answer, place: Place, choices: usize) -> Vec<String> {
    let mut read = vec![String::new(); choices];
    for line in answer.text().lines().filter_map(|l| l.strip_prefix("data: ")).filter(|l| *l != "[DONE]") {
        let chunk: Value = serde_json::from_str(line).expect("a chunk");
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            let index = choice["index"].as_u64().expect("an index") as usize;
            read[index].push_str(place.of(&choice["delta"]).unwrap_or(""));
        }
    }
    read
}

#[tokio::test]
async fn a_placeholder_split_over_events_is_restored_like_a_whole_one() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, "openai_chat", "").await;
    for place in [Place::Text, Place::Reasoning, Place::Arguments] {
        for (value, name) in VALUES {
            let (text, expected) = match place {
                Place::Arguments => (json!({"v": format!("a {name}")}), json!({"v": format!("a {value}")})),
                _ => (json!(format!("so {name}!")), json!(format!("so {value}!"))),
            };
            let text =
                if place == Place::Arguments { text.to_string() } else { text.as_str().expect("text").to_owned() };
            for read in each_split(&gateway, &upstream, &format!("it is {value}"), place, &text).await {
                match place {
                    Place::Arguments => {
                        let read: Value = serde_json::from_str(&read).unwrap_or_else(|e| panic!("{read}: {e}"));
                        assert_eq!(read, expected, "{value}");
                    }
                    _ => assert_eq!(json!(read), expected, "{place:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_value_split_over_events_is_masked_like_a_whole_one() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, "openai_chat", "mode = \"mask\"").await;
    for (value, name) in VALUES {
        let text = format!("so {value}!");
        upstream.then(says(&text));
        let whole = gateway.chat(&ask("who?").to_string()).await.json();
        assert_eq!(whole["choices"][0]["message"]["content"], format!("so {name}!"));
        for place in [Place::Text, Place::Reasoning] {
            for (n, read) in each_split(&gateway, &upstream, "who?", place, &text).await.iter().enumerate() {
                // The ways of one stream share a map: equal values have equal names.
                assert_eq!(*read, format!("so {name}!"), "{value} {place:?} way {n}");
            }
        }
        let text = json!({"n": 3, "v": value}).to_string();
        for read in each_split(&gateway, &upstream, "who?", Place::Arguments, &text).await {
            assert_eq!(read, json!({"n": 3, "v": name}).to_string(), "{value}");
        }
    }
}

/// Each way to cut `text` in two as a choice of its own, with a delta of another kind between the pieces.
fn parted(place: Place, other: &Value, text: &str) -> (Say, usize) {
    let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut all = String::new();
    for (index, cut) in cuts.iter().enumerate() {
        all += &chunk(index, place.delta(&text[..*cut]), Value::Null);
        all += &chunk(index, other.clone(), Value::Null);
        all += &chunk(index, place.delta(&text[*cut..]), Value::Null);
        all += &chunk(index, json!({}), json!("stop"));
    }
    (Say::sse(all + "data: [DONE]\n\n"), cuts.len())
}

fn a_call() -> Value {
    let function = json!({"name": "f", "arguments": "{}"});
    json!({"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": function}]})
}

#[tokio::test]
async fn a_value_is_found_whatever_stands_between_its_pieces() {
    let upstream = Upstream::start().await;
    for config in ["", "mode = \"mask\""] {
        let gateway = gateway(&upstream, "openai_chat", config).await;
        for (value, name) in VALUES {
            let (from, to) = if config.is_empty() { (name, value) } else { (value, name) };
            for (place, other) in [
                (Place::Text, a_call()),
                (Place::Text, json!({"reasoning_content": "hm"})),
                (Place::Text, json!({"refusal": "no"})),
                (Place::Reasoning, json!({"content": "well"})),
                (Place::Reasoning, a_call()),
            ] {
                let (say, choices) = parted(place, &other, &format!("so {from}!"));
                upstream.then(say);
                // What was hidden of the request is restored; masked it has the same name.
                let mut body = ask(&format!("it is {value}"));
                body["stream"] = json!(true);
                body["n"] = json!(choices);
                let answer = gateway.chat(&body.to_string()).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                for (way, read) in joined(&answer, place, choices).iter().enumerate() {
                    assert_eq!(*read, format!("so {to}!"), "{config} {place:?} {other} way {way}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_client_of_blocks_reads_a_value_that_a_call_cut() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, "openai_chat", "").await;
    let text = "so [EMAIL_1]!";
    for cut in 0..=text.len() {
        let deltas = [Place::Text.delta(&text[..cut]), a_call(), Place::Text.delta(&text[cut..])];
        let chunks: String = deltas.into_iter().map(|delta| chunk(0, delta, Value::Null)).collect();
        upstream
            .then(Say::sse([chunks.as_str(), &chunk(0, json!({}), json!("tool_calls")), "data: [DONE]\n\n"].concat()));
        let turn = json!({"role": "user", "content": "I am bob@example.com"});
        let body = json!({"model": "up/m", "max_tokens": 9, "stream": true, "messages": [turn]});
        let answer = gateway.post("/v1/messages", &body.to_string()).await.text();
        let (mut read, mut open, mut calls) = (String::new(), None, 0);
        for line in answer.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let event: Value = serde_json::from_str(line).expect("an event");
            match event["type"].as_str() {
                Some("content_block_start") => {
                    assert_eq!(open.replace(event["index"].clone()), None, "{answer}");
                    calls += usize::from(event["content_block"]["type"] == "tool_use");
                }
                Some("content_block_delta") => {
                    assert_eq!(open.as_ref(), Some(&event["index"]), "{answer}");
                    read.push_str(event["delta"]["text"].as_str().unwrap_or(""));
                }
                Some("content_block_stop") => assert_eq!(open.take().as_ref(), Some(&event["index"]), "{answer}"),
                _ => {}
            }
        }
        assert_eq!((read.as_str(), calls, open), ("so bob@example.com!", 1, None), "cut at {cut}: {answer}");
    }
}

#[tokio::test]
async fn a_text_of_the_callers_own_is_never_restored() {
    let upstream = Upstream::saying(says("[EMAIL_1] and [EMAIL_2] and [CARD_1]")).await;
    let gateway = gateway(&upstream, "openai_chat", "").await;
    let answer = gateway.chat(&ask("what does [EMAIL_1] mean? I am bob@example.com").to_string()).await;
    assert_eq!(upstream.last().json()["messages"][0]["content"], "what does [EMAIL_1] mean? I am [EMAIL_2]");
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "[EMAIL_1] and bob@example.com and [CARD_1]");
    // Nor somebody else's: another request knows nothing of it.
    let answer = gateway.chat(&ask("and now?").to_string()).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "[EMAIL_1] and [EMAIL_2] and [CARD_1]");
}

#[tokio::test]
async fn what_is_denied_or_cannot_be_scanned_is_refused() {
    let upstream = Upstream::saying(says("fine")).await;
    let gateway = gateway(&upstream, "openai_chat", "deny = [\"card\"], unscanned = \"deny\"").await;
    let answer = gateway.chat(&ask("4111111111111111").to_string()).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("content_refused")));
    assert!(!answer.text().contains("4111"), "{}", answer.text());
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}});
    let body = json!({"model": "up/m", "messages": [{"role": "user", "content": [image]}]});
    let answer = gateway.chat(&body.to_string()).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("content_refused")), "{}", answer.text());
    assert!(upstream.heard().is_empty());
}

#[tokio::test]
async fn what_was_not_scanned_is_recorded() {
    let upstream = Upstream::saying(says("fine")).await;
    let gateway = gateway(&upstream, "openai_chat", "").await;
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}});
    let body = json!({"model": "up/m", "messages": [{"role": "user", "content": [image]}]});
    assert_eq!(gateway.chat(&body.to_string()).await.status, 200);
    let id = gateway.record(1).await["id"].as_str().expect("an id").to_owned();
    let record = gateway.admin("GET", &format!("/api/v1/requests/{id}"), "").await.text();
    assert!(record.contains("unscanned: image at messages[0].parts[0]"), "{record}");
}

#[tokio::test]
async fn signed_reasoning_goes_back_as_the_model_had_signed_it() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, "anthropic_messages", "").await;
    let thinking =
        json!({"type": "thinking", "thinking": "I mail [EMAIL_1]; not eve@example.com", "signature": "c2ln"});
    let message = |content: Value| {
        json!({"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
            "content": content, "usage": {"input_tokens": 1, "output_tokens": 1}})
    };
    upstream.then(Say::json(message(json!([thinking, {"type": "text", "text": "done, [EMAIL_1]"}])).to_string()));
    upstream.then(Say::json(message(json!([{"type": "text", "text": "bye"}])).to_string()));
    let turn = json!({"role": "user", "content": "mail bob@example.com"});
    let body = json!({"model": "up/m", "max_tokens": 9, "messages": [turn]});
    let answer = gateway.post("/v1/messages", &body.to_string()).await.json();
    assert_eq!(answer["content"][0]["thinking"], "I mail bob@example.com; not eve@example.com", "{answer}");
    assert_eq!(answer["content"][0]["signature"], "c2ln");
    assert_eq!(answer["content"][1]["text"], "done, bob@example.com");
    let body = json!({"model": "up/m", "max_tokens": 9, "messages": [
        turn, {"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "thanks"}]});
    assert_eq!(gateway.post("/v1/messages", &body.to_string()).await.status, 200);
    assert_eq!(upstream.last().json()["messages"][1]["content"][0], thinking);
    let id = gateway.record(2).await["id"].as_str().expect("an id").to_owned();
    let record = gateway.admin("GET", &format!("/api/v1/requests/{id}"), "").await.text();
    assert!(record.contains("unscanned: signed reasoning at messages[1].parts[0]"), "{record}");
}
