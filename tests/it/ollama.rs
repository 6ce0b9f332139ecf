//! Ollama's native format as upstream: a JSON value a line, arguments as objects, calls without ids, errors inside a stream.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, Family, events},
    support::{End, Gateway, Say, Upstream},
};

fn line(message: Value, more: Value) -> String {
    let mut line = json!({"model": "m", "created_at": "2026-11-02T10:00:00Z", "message": message, "done": false});
    line.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    format!("{line}\n")
}

fn last() -> Value {
    json!({"done": true, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2})
}

fn lines() -> Vec<String> {
    let said = |text: &str| json!({"role": "assistant", "content": text});
    vec![line(said("hel"), json!({})), line(said("lo"), json!({})), line(said(""), last())]
}

fn ndjson(lines: &[String]) -> Say {
    Say::of(200, "application/x-ndjson", lines.concat().into_bytes())
}

async fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::start(&upstream.provider("local", "ollama")).await
}

#[tokio::test]
async fn clients_of_every_family_read_its_answers() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let whole = line(json!({"role": "assistant", "content": "hello"}), last());
    for (n, family) in FAMILIES.into_iter().enumerate() {
        upstream.then(Say::json(whole.clone())).then(ndjson(&lines())).then(ndjson(&lines()).bytewise());
        let answer = family.ask(&gateway, "local/m", false).await;
        assert_eq!((answer.status, family.text(&answer).as_str()), (200, "hello"), "{family:?} {}", answer.text());
        let heard = upstream.last();
        assert_eq!((heard.path.as_str(), &heard.json()["stream"]), ("/v1/chat", &json!(false)), "{family:?}");
        for _ in 0..2 {
            let answer = family.ask(&gateway, "local/m", true).await;
            let told = (answer.status, family.text(&answer), family.terminals(&answer));
            assert_eq!(told, (200, "hello".to_owned(), 1), "{family:?} {}", answer.text());
        }
        assert_eq!(upstream.last().header("accept"), Some("application/x-ndjson"));
        let record = gateway.record(3 * n + 3).await;
        assert_eq!((&record["usage"]["input_tokens"], &record["usage"]["output_tokens"]), (&json!(3), &json!(2)));
    }
}

#[tokio::test]
async fn calls_get_ids_that_their_results_come_back_with() {
    let call = r#"{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":1.50}}}]}"#;
    let call: Value = serde_json::from_str(call).expect("JSON");
    let upstream = Upstream::saying(ndjson(&[line(call, json!({})), line(json!({"content": ""}), last())])).await;
    let gateway = gateway(&upstream).await;
    let ask = async |messages: Value| {
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
        gateway
            .chat(&json!({"model": "local/m", "stream": true, "messages": messages, "tools": tools}).to_string())
            .await
    };
    let question = json!({"role": "user", "content": "x"});
    let answer = ask(json!([question])).await;
    let told = events(&answer);
    let call = told.iter().find_map(|e| e.pointer("/choices/0/delta/tool_calls/0")).expect("a call").clone();
    assert!(call["id"].as_str().is_some_and(|id| !id.is_empty()), "{call}");
    assert_eq!(Family::Openai.finish(&answer), "tool_calls");
    let arguments: String = told
        .iter()
        .filter_map(|e| e.pointer("/choices/0/delta/tool_calls/0/function/arguments").and_then(Value::as_str))
        .collect();
    assert_eq!(arguments, "{\"a\":1.50}", "numbers as they were written");
    let mine = json!({"role": "assistant", "tool_calls": [{"id": call["id"], "type": "function", "function": {"name": "f", "arguments": arguments}}]});
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "done"});
    ask(json!([question, mine, result])).await;
    let heard = upstream.last().json();
    assert_eq!(heard["messages"][1]["tool_calls"][0]["function"]["arguments"].to_string(), "{\"a\":1.50}");
    assert_eq!((&heard["messages"][2]["tool_name"], &heard["messages"][2]["tool_call_id"]), (&json!("f"), &call["id"]));
}

#[tokio::test]
async fn streams_that_fail_or_are_cut_never_end_well() {
    let all = lines();
    let error = "{\"error\":\"llama runner process has terminated\"}\n".to_owned();
    for (what, rest, end) in [
        ("an error line", error.as_str(), End::Clean),
        ("half a line", "{\"model\":\"m\",\"message\":{\"con", End::Clean),
        ("no last line", "\n", End::Clean),
        ("a connection that died", "\n", End::Cut),
    ] {
        let mut say = ndjson(&all[..2]).end(end);
        say.chunks.push((Duration::from_millis(60), rest.as_bytes().to_vec()));
        let upstream = Upstream::saying(say).await;
        let gateway = gateway(&upstream).await;
        for family in FAMILIES {
            let answer = family.ask(&gateway, "local/m", true).await;
            assert_eq!(family.text(&answer), "hello", "{what} {family:?} {}", answer.text());
            assert_eq!(family.stream_errors(&answer).len(), 1, "{what} {family:?} {}", answer.text());
            assert_eq!(family.terminals(&answer), 0, "{what} {family:?}");
        }
    }
    let upstream = Upstream::saying(ndjson(&[error])).await;
    let gateway = gateway(&upstream).await;
    let answer = Family::Openai.ask(&gateway, "local/m", true).await;
    assert_eq!(answer.status, 502, "before any output the status is still free: {}", answer.text());
}

#[tokio::test]
async fn embeddings_come_from_its_native_path() {
    let upstream =
        Upstream::saying(Say::json(r#"{"model":"nomic","embeddings":[[0.25,-1]],"prompt_eval_count":3}"#)).await;
    let gateway = gateway(&upstream).await;
    let ask = json!({"model": "local/nomic", "input": ["hello"], "encoding_format": "float"});
    let answer = gateway.post("/v1/embeddings", &ask.to_string()).await;
    assert_eq!(
        (answer.status, &answer.json()["data"][0]["embedding"]),
        (200, &json!([0.25, -1.0])),
        "{}",
        answer.text()
    );
    assert_eq!(upstream.last().path, "/v1/embed");
}

#[tokio::test]
async fn what_the_server_cannot_do_is_refused_before_it_is_asked() {
    let upstream = Upstream::saying(Say::json("{}")).await;
    let gateway = gateway(&upstream).await;
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let ask = json!({"model": "local/m", "messages": [{"role": "user", "content": "x"}], "tools": tools, "n": 2});
    let answer = gateway.chat(&ask.to_string()).await;
    assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("n")), "{}", answer.text());
    assert!(upstream.heard().is_empty());
}

#[tokio::test]
async fn a_forced_call_comes_back_as_one_in_every_family() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let said = |text: &str| line(json!({"role": "assistant", "content": text}), json!({}));
    let pieces = [
        said("{\"portcullis_"),
        said("tool\": \"f\", \"argum"),
        said("ents\": {\"a\": 1}}"),
        line(json!({"role": "assistant", "content": ""}), last()),
    ];
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}});
    for stream in [false, true] {
        let whole = line(
            json!({"role": "assistant", "content": "{\"portcullis_tool\": \"f\", \"arguments\": {\"a\": 1}}"}),
            last(),
        );
        upstream.then(if stream { ndjson(&pieces) } else { Say::json(whole) });
        let body = json!({"model": "local/m", "stream": stream, "tools": [tool], "tool_choice": "required",
            "messages": [{"role": "user", "content": "go"}]});
        let answer = gateway.chat(&body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            upstream.last().json()["format"]["anyOf"][0]["properties"]["arguments"]["properties"]["a"]["type"],
            "integer"
        );
        let (mut name, mut arguments, mut finish) = (String::new(), String::new(), String::new());
        let chunks = if stream { events(&answer) } else { vec![answer.json()] };
        for chunk in chunks {
            let choice = &chunk["choices"][0];
            let said = if stream { &choice["delta"] } else { &choice["message"] };
            assert!(said["content"].as_str().unwrap_or_default().is_empty(), "{said}");
            let call = &said["tool_calls"][0]["function"];
            name.push_str(call["name"].as_str().unwrap_or_default());
            arguments.push_str(call["arguments"].as_str().unwrap_or_default());
            finish.push_str(choice["finish_reason"].as_str().unwrap_or_default());
        }
        assert_eq!((name.as_str(), arguments.as_str(), finish.as_str()), ("f", "{\"a\":1}", "tool_calls"));
    }
}
