//! Conversations of the Responses format: kept by the gateway, gone on from at whatever provider, of one tenant alone.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    family::Openai,
    support::{Answer, End, Gateway, Process, Say, Upstream, request},
};

const WHOLE: &str = r#"{ "id":"resp_up1","object":"response","created_at":1790000000,"status":"completed","model":"gpt-x","output":[{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":"gAAAAAseal"},{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"tide"}]}],"usage":{"input_tokens":11,"output_tokens":7,"total_tokens":18} }"#;

async fn begun(gateway: &Gateway, body: Value) -> String {
    let answer = gateway.post("/v1/conversations", &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

async fn items(gateway: &Gateway, id: &str) -> Vec<Value> {
    let answer = gateway.get(&format!("/v1/conversations/{id}/items?order=asc&limit=100")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].as_array().expect("a list").clone()
}

/// What a list of items says, as (role or type, text).
fn said(items: &[Value]) -> Vec<(String, String)> {
    let one = |item: &Value| {
        let who = item["role"].as_str().or(item["type"].as_str()).unwrap_or_default();
        (who.to_owned(), item["content"][0]["text"].as_str().unwrap_or_default().to_owned())
    };
    items.iter().map(one).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(who, text)| ((*who).to_owned(), (*text).to_owned())).collect()
}

async fn ask(gateway: &Gateway, body: Value) -> Answer {
    gateway.post("/v1/responses", &body.to_string()).await
}

#[tokio::test]
async fn it_goes_on_at_whatever_provider_and_keeps_what_was_said() {
    let first = Upstream::saying(Say::json(WHOLE)).await;
    let second = Upstream::saying(Say::json(Openai.whole("noon"))).await;
    let gateway = Gateway::start(&format!(
        "{}{}",
        first.provider("one", "openai_responses"),
        second.provider("two", "openai_chat")
    ))
    .await;
    let system = json!({"role": "system", "content": "be short"});
    let id = begun(&gateway, json!({"items": [system], "metadata": {"topic": "tides"}})).await;
    let answer = ask(&gateway, json!({"model": "one/gpt-x", "input": "when?", "conversation": id})).await;
    assert_eq!(answer.text(), WHOLE, "the answer is the upstream's own");
    let heard = first.last().json();
    assert_eq!((heard.get("conversation"), &heard["store"]), (None, &json!(false)));
    assert_eq!(heard["input"].as_array().map(Vec::len), Some(2), "{heard}");
    // Not to be found by its id, and part of the conversation all the same.
    let answer =
        ask(&gateway, json!({"model": "two/m", "input": "and then?", "conversation": {"id": id}, "store": false}))
            .await;
    let told = answer.json();
    assert_eq!((answer.status, &told["conversation"]), (200, &json!({"id": id})), "{told}");
    assert_eq!(gateway.get(&format!("/v1/responses/{}", told["id"].as_str().unwrap())).await.status, 404);
    let heard: Vec<Value> =
        second.last().json()["messages"].as_array().unwrap().iter().map(|m| m["content"].clone()).collect();
    assert_eq!(heard, [json!("be short"), json!("when?"), json!("tide"), json!("and then?")]);
    // A stream, and the first provider gets its own thought again.
    let streamed = json!({"model": "mock", "input": "streamed", "conversation": id, "stream": true});
    let text = ask(&gateway, streamed).await.text();
    assert!(text.contains("response.completed"), "{text}");
    ask(&gateway, json!({"model": "one/gpt-x", "input": "why?", "conversation": id})).await;
    assert!(first.last().json()["input"].as_array().unwrap().iter().any(|i| i["encrypted_content"] == "gAAAAAseal"));
    let kept = items(&gateway, &id).await;
    let expected = pairs(&[
        ("system", "be short"),
        ("user", "when?"),
        ("reasoning", ""),
        ("assistant", "tide"),
        ("user", "and then?"),
        ("assistant", "noon"),
        ("user", "streamed"),
        ("assistant", "mock/mock heard: streamed"),
        ("user", "why?"),
        ("reasoning", ""),
        ("assistant", "tide"),
    ]);
    assert_eq!(said(&kept), expected);
    let ids: std::collections::HashSet<&str> = kept.iter().map(|item| item["id"].as_str().expect("an id")).collect();
    assert_eq!(ids.len(), kept.len(), "each has an id of its own");
    let shown = gateway.get(&format!("/v1/conversations/{id}")).await.json();
    assert_eq!((&shown["object"], &shown["metadata"]), (&json!("conversation"), &json!({"topic": "tides"})));
    // What fails adds nothing.
    first.always(Say::error(500, "{}"));
    assert!(ask(&gateway, json!({"model": "one/gpt-x", "input": "lost", "conversation": id})).await.status >= 500);
    second.then(Say::sse("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half\"}}]}\n\n").end(End::Cut));
    ask(&gateway, json!({"model": "two/m", "input": "lost", "conversation": id, "stream": true})).await;
    assert_eq!(items(&gateway, &id).await.len(), expected.len());
}

#[tokio::test]
async fn its_items_are_read_added_and_taken_out_one_by_one() {
    let gateway = Gateway::start("").await;
    let id = begun(&gateway, json!({})).await;
    let path = format!("/v1/conversations/{id}");
    let call = json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_mine"});
    let output = json!({"type": "function_call_output", "call_id": "c1", "output": "done"});
    let message = json!({"role": "assistant", "content": "I will look"});
    let added = gateway.post(&format!("{path}/items"), &json!({"items": [message, call, output]}).to_string()).await;
    let list = added.json();
    assert_eq!((added.status, &list["object"], &list["data"][1]["id"]), (200, &json!("list"), &json!("fc_mine")));
    assert_eq!(list["data"][0]["content"], json!([{"type": "output_text", "text": "I will look", "annotations": []}]));
    let page = gateway.get(&format!("{path}/items?limit=2")).await.json();
    let kinds: Vec<&str> = page["data"].as_array().unwrap().iter().map(|i| i["type"].as_str().unwrap()).collect();
    assert_eq!((kinds, &page["has_more"]), (vec!["function_call_output", "function_call"], &json!(true)));
    let last = page["last_id"].as_str().unwrap();
    let rest = gateway.get(&format!("{path}/items?after={last}")).await.json();
    assert_eq!((&rest["data"][0]["type"], &rest["has_more"]), (&json!("message"), &json!(false)));
    assert_eq!(gateway.get(&format!("{path}/items/fc_mine")).await.json()["name"], "f");
    let gone = request(gateway.addr, "DELETE", &format!("{path}/items/fc_mine"), &[], b"").await;
    assert_eq!((gone.status, gone.json()["id"].as_str()), (200, Some(id.as_str())));
    let none = gateway.get(&format!("{path}/items/fc_mine")).await;
    assert_eq!((none.status, Openai.error(&none).code.as_str()), (404, "item_not_found"));
    assert_eq!(items(&gateway, &id).await.len(), 2);
    let changed = gateway.post(&path, r#"{"metadata":{"a":"b"}}"#).await.json();
    assert_eq!(changed["metadata"], json!({"a": "b"}));
    let gone = request(gateway.addr, "DELETE", &path, &[], b"").await.json();
    assert_eq!((&gone["object"], &gone["deleted"]), (&json!("conversation.deleted"), &json!(true)));
    for answer in [
        gateway.get(&path).await,
        gateway.post(&format!("{path}/items"), r#"{"items":[]}"#).await,
        ask(&gateway, json!({"model": "mock", "input": "x", "conversation": id})).await,
    ] {
        assert_eq!((answer.status, Openai.error(&answer).code.as_str()), (404, "conversation_not_found"));
    }
}

#[tokio::test]
async fn what_is_added_at_the_same_time_is_all_there() {
    let gateway = Gateway::start("").await;
    let id = begun(&gateway, json!({})).await;
    let path = format!("/v1/conversations/{id}/items");
    let add = async |n: usize| {
        let body = json!({"items": [{"role": "user", "content": format!("number {n}")}]});
        gateway.post(&path, &body.to_string()).await.status
    };
    let answered = async |n: usize| {
        ask(&gateway, json!({"model": "mock", "input": format!("asked {n}"), "conversation": id})).await.status
    };
    let (added, asked) = tokio::join!(join_all((0..20).map(add)), join_all((0..10).map(answered)));
    assert!(added.into_iter().chain(asked).all(|status| status == 200));
    let all = said(&items(&gateway, &id).await);
    assert_eq!(all.len(), 40);
    for n in 0..20 {
        assert!(all.contains(&("user".to_owned(), format!("number {n}"))), "{n}");
    }
    // An answer stands behind its question.
    for n in 0..10 {
        let at = all.iter().position(|(_, text)| *text == format!("asked {n}")).expect("the question");
        assert_eq!(all[at + 1].1, format!("mock/mock heard: asked {n}"));
    }
}

#[tokio::test]
async fn bad_input_is_told_by_its_place() {
    let gateway = Gateway::start("").await;
    let id = begun(&gateway, json!({"items": [{"role": "user", "content": "kept"}]})).await;
    let many: Vec<Value> = (0..21).map(|n| json!({"role": "user", "content": n.to_string()})).collect();
    let path = format!("/v1/conversations/{id}");
    let long = "k".repeat(65);
    for (path, body, param) in [
        ("/v1/conversations".to_owned(), json!({"items": many}), "items"),
        ("/v1/conversations".to_owned(), json!({"items": "x"}), "items"),
        ("/v1/conversations".to_owned(), json!({"items": [7]}), "items[0]"),
        ("/v1/conversations".to_owned(), json!({"items": [{"content": "x"}]}), "items[0].role"),
        (
            "/v1/conversations".to_owned(),
            json!({"items": [{"type": "item_reference", "id": "msg_1"}]}),
            "item_reference",
        ),
        ("/v1/conversations".to_owned(), json!({"metadata": {"a": 1}}), "metadata"),
        (path.clone(), json!({"metadata": {long: "b"}}), "metadata"),
        (format!("{path}/items"), json!({}), "items"),
        ("/v1/responses".to_owned(), json!({"model": "mock", "input": "x", "conversation": 7}), "conversation"),
        ("/v1/responses".to_owned(), json!({"model": "mock", "input": "x", "conversation": {}}), "conversation.id"),
        (
            "/v1/responses".to_owned(),
            json!({"model": "mock", "input": "x", "conversation": id, "previous_response_id": "resp_1"}),
            "conversation",
        ),
    ] {
        let answer = gateway.post(&path, &body.to_string()).await;
        let told = answer.json();
        assert_eq!((answer.status, told["error"]["param"].as_str()), (400, Some(param)), "{path} {body}: {told}");
    }
    for (method, path) in [("GET", "/nothing"), ("GET", "/items/a/b"), ("DELETE", "/items"), ("POST", "/items/a")] {
        let answer = request(gateway.addr, method, &format!("/v1/conversations/{id}{path}"), &[], b"").await;
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
    }
    assert_eq!(items(&gateway, &id).await.len(), 1, "nothing of it was added");
}

#[tokio::test]
async fn it_belongs_to_its_team_and_outlives_a_kill() {
    let config = "[store]\nkind = \"sled\"\npath = \"data\"\n[auth]\nrequired = true\n[teams.red]\n[teams.blue]\n";
    let mut gateway = Process::start(config, &[]).await;
    let mut keys = Vec::new();
    for team in ["red", "red", "blue"] {
        let made = gateway.admin("POST", "/api/v1/keys", &json!({"name": team, "team": team}).to_string()).await;
        keys.push(format!("Bearer {}", made.json()["key"].as_str().expect("a key")));
    }
    let call = async |gateway: &Process, who: usize, method: &str, path: &str, body: &str| {
        let headers = [("authorization", keys[who].as_str()), ("content-type", "application/json")];
        request(gateway.addr, method, path, &headers, body.as_bytes()).await
    };
    let made = call(&gateway, 0, "POST", "/v1/conversations", "{}").await.json();
    let id = made["id"].as_str().expect("an id").to_owned();
    let body = json!({"model": "mock", "input": "the secret of the house", "conversation": id}).to_string();
    assert_eq!(call(&gateway, 1, "POST", "/v1/responses", &body).await.status, 200, "another key of the team");
    gateway.kill_and_restart().await;
    let path = format!("/v1/conversations/{id}");
    for (method, below, body) in [
        ("GET", "", ""),
        ("POST", "", "{}"),
        ("DELETE", "", ""),
        ("GET", "/items", ""),
        ("POST", "/items", r#"{"items":[{"role":"user","content":"x"}]}"#),
    ] {
        let answer = call(&gateway, 2, method, &format!("{path}{below}"), body).await;
        assert_eq!(answer.status, 404, "{method} {below}");
    }
    assert_eq!(call(&gateway, 2, "POST", "/v1/responses", &body).await.status, 404);
    let list = call(&gateway, 0, "GET", &format!("{path}/items?order=asc"), "").await.json();
    let expected =
        pairs(&[("user", "the secret of the house"), ("assistant", "mock/mock heard: the secret of the house")]);
    assert_eq!(said(list["data"].as_array().expect("items")), expected);
    for file in std::fs::read_dir(gateway.path().join("data/responses")).expect("the folder").flatten() {
        let bytes = std::fs::read(file.path()).expect("a file");
        assert!(memchr::memmem::find(&bytes, b"secret of the house").is_none(), "it can be read on the disk");
    }
}
