//! Responses that are made in the background: where the upstream does that, for their tenant alone, charged once.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Say, Upstream, eventually, request};

const CLOSED: &str = "[auth]\nrequired = true\n[teams.red]\nbudget = { usd = 5, per = \"month\" }\n[teams.blue]\n";
/// A nano-dollar a token in, two out.
const PRICED: &str = "[[pricing]]\nmodel = \"up/gpt-x\"\ninput = \"0.001\"\noutput = \"0.002\"\n";
/// Nobody looks but who asks.
const QUIET: &str = "[server]\nlisten = \"127.0.0.1:0\"\nbatch_look = \"1h\"\n";

fn told(status: &str, usage: Value) -> Say {
    told_of("resp_upstream", status, usage)
}

fn told_of(id: &str, status: &str, usage: Value) -> Say {
    let output = if status == "completed" {
        json!([{"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "annotations": [], "text": "high tide"}]}])
    } else {
        json!([])
    };
    Say::json(
        json!({"id": id, "object": "response", "created_at": 1_790_000_000, "status": status, "background": true,
            "model": "gpt-x-2026", "output": output, "usage": usage, "error": null})
        .to_string(),
    )
}

fn used() -> Value {
    json!({"input_tokens": 1000, "output_tokens": 400, "total_tokens": 1400})
}

fn provider(upstream: &Upstream) -> String {
    format!("{}offers = [\"background\"]\n", upstream.provider("up", "openai_responses"))
}

struct Caller<'a>(&'a Gateway, String);

impl<'a> Caller<'a> {
    async fn new(gateway: &'a Gateway, key: Value) -> Caller<'a> {
        let (_, key) = gateway.key(&key.to_string()).await;
        Caller(gateway, format!("Bearer {key}"))
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let headers = [("authorization", self.1.as_str()), ("content-type", "application/json")];
        request(self.0.addr, method, path, &headers, body.as_bytes()).await
    }

    /// Begins one, and gives its path.
    async fn begins(&self, upstream: &Upstream) -> String {
        upstream.then(told("queued", Value::Null));
        let answer = self.ask("POST", "/v1/responses", &body("up/gpt-x", json!({}))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        format!("/v1/responses/{}", answer.json()["id"].as_str().expect("an id"))
    }
}

fn body(model: &str, more: Value) -> String {
    let mut body = json!({"model": model, "input": "when is high tide?", "background": true});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body.to_string()
}

/// Rows of the ledger that charge something that is over.
async fn charges(gateway: &Gateway) -> Vec<Value> {
    let told = gateway.admin("GET", "/api/v1/requests?limit=500", "").await.json();
    let all = told["data"]
        .as_array()
        .expect("requests")
        .iter()
        .flat_map(|r| r["ledger"].as_array().cloned().unwrap_or_default());
    all.filter(|row| row["outcome"] == "batch").collect()
}

async fn spent(gateway: &Gateway) -> String {
    let teams = gateway.admin("GET", "/api/v1/teams", "").await.json();
    let team = teams["data"].as_array().expect("teams").iter().find(|t| t["name"] == "red").expect("red").clone();
    team["budget"]["spent_usd"].to_string()
}

#[tokio::test]
async fn it_runs_at_its_upstream_for_its_tenant_and_is_charged_once() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&format!("{QUIET}{CLOSED}{PRICED}{}", provider(&upstream))).await;
    // A key that may use an alias alone may ask for what it began.
    let red = Caller::new(&gateway, json!({"name": "red", "team": "red", "models": ["up/gpt-x"]})).await;
    let blue = Caller::new(&gateway, json!({"name": "blue", "team": "blue"})).await;
    let path = red.begins(&upstream).await;
    assert!(!path.contains("upstream"), "{path}");
    let sent = upstream.last().json();
    assert_eq!(
        (&sent["background"], &sent["model"], sent.get("store")),
        (&json!(true), &json!("gpt-x"), None),
        "{sent}"
    );
    // Others do not learn that it is there, whatever they do.
    let asked = upstream.heard().len();
    for (method, rest) in [("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")] {
        let answer = blue.ask(method, &format!("{path}{rest}"), "").await;
        assert_eq!(answer.status, 404, "{method} {rest}: {}", answer.text());
    }
    assert_eq!(upstream.heard().len(), asked, "nothing of it reached the provider");
    // While it runs nothing is owed, and it cannot be made away with.
    upstream.always(told("in_progress", Value::Null));
    let answer = red.ask("GET", &path, "").await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("in_progress")), "{}", answer.text());
    assert!(path.ends_with(answer.json()["id"].as_str().expect("an id")) && !answer.text().contains("resp_upstream"));
    assert_eq!(
        (upstream.last().method.as_str(), upstream.last().path.as_str()),
        ("GET", "/v1/responses/resp_upstream")
    );
    let early = red.ask("DELETE", &path, "").await;
    assert_eq!((early.status, early.json()["error"]["code"].as_str()), (400, Some("response_in_progress")));
    assert!(charges(&gateway).await.is_empty());
    // Many see its end at once.
    upstream.always(told("completed", used()));
    let seen = futures_util::future::join_all((0..8).map(|_| red.ask("GET", &path, ""))).await;
    for answer in seen {
        assert_eq!((answer.status, &answer.json()["output"][0]["content"][0]["text"]), (200, &json!("high tide")));
    }
    eventually("it is charged", async || !charges(&gateway).await.is_empty()).await;
    red.ask("GET", &path, "").await;
    eventually("its team's budget has it", async || spent(&gateway).await == "0.0000018").await;
    let [row] = charges(&gateway).await.try_into().expect("charged once");
    assert_eq!(
        (row["target"].as_str(), row["usage"]["output_tokens"].as_u64()),
        (Some("up/gpt-x"), Some(400)),
        "{row}"
    );
    // Its items, and its end.
    upstream.always(Say::json(r#"{"object":"list","data":[{"id":"msg_0","type":"message"}]}"#));
    assert_eq!(red.ask("GET", &format!("{path}/input_items"), "").await.json()["data"][0]["id"], "msg_0");
    assert_eq!(upstream.last().path, "/v1/responses/resp_upstream/input_items");
    upstream.always(Say::json(r#"{"id":"resp_upstream","object":"response","deleted":true}"#));
    let gone = red.ask("DELETE", &path, "").await;
    assert_eq!((gone.status, &gone.json()["deleted"], upstream.last().method.as_str()), (200, &json!(true), "DELETE"));
    assert!(!gone.text().contains("resp_upstream"), "{}", gone.text());
    assert_eq!(charges(&gateway).await.len(), 1);
}

#[tokio::test]
async fn one_that_is_cancelled_or_fails_ends_at_its_upstream() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&format!("{QUIET}{CLOSED}{PRICED}{}", provider(&upstream))).await;
    let red = Caller::new(&gateway, json!({"name": "red", "team": "red"})).await;
    let path = red.begins(&upstream).await;
    upstream.always(told("cancelled", used()));
    let answer = red.ask("POST", &format!("{path}/cancel"), "").await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("cancelled")), "{}", answer.text());
    assert_eq!(
        (upstream.last().method.as_str(), upstream.last().path.as_str()),
        ("POST", "/v1/responses/resp_upstream/cancel")
    );
    eventually("what it used is charged", async || charges(&gateway).await.len() == 1).await;
    // One that failed and used nothing costs nothing, and can go.
    upstream.then(told_of("resp_two", "queued", Value::Null));
    let answer = red.ask("POST", "/v1/responses", &body("up/gpt-x", json!({}))).await;
    let second = format!("/v1/responses/{}", answer.json()["id"].as_str().expect("an id"));
    upstream.always(told_of("resp_two", "failed", Value::Null));
    let answer = red.ask("GET", &second, "").await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("failed")), "{}", answer.text());
    upstream.always(Say::json(r#"{"id":"resp_two","object":"response","deleted":true}"#));
    assert_eq!(red.ask("DELETE", &second, "").await.status, 200);
    assert_eq!(charges(&gateway).await.len(), 1);
    // What its upstream has forgotten.
    upstream.always(Say::error(
        404,
        r#"{"error":{"message":"Response with id 'resp_upstream' not found.","type":"invalid_request_error"}}"#,
    ));
    let answer = red.ask("GET", &path, "").await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (404, Some("response_not_found")));
    assert!(!answer.text().contains("resp_upstream"), "{}", answer.text());
}

#[tokio::test]
async fn nobody_asks_and_it_is_charged_all_the_same() {
    let upstream = Upstream::start().await;
    let looking = QUIET.replace("1h", "100ms");
    let gateway = Gateway::start(&format!("{looking}{CLOSED}{PRICED}{}", provider(&upstream))).await;
    let red = Caller::new(&gateway, json!({"name": "red", "team": "red"})).await;
    upstream.always(told("in_progress", Value::Null));
    red.begins(&upstream).await;
    let asked = upstream.heard().len();
    eventually("it is asked for while it runs", async || upstream.heard().len() > asked + 1).await;
    assert!(charges(&gateway).await.is_empty());
    upstream.always(told("completed", used()));
    eventually("it is charged", async || charges(&gateway).await.len() == 1).await;
    eventually("its team's budget has it", async || spent(&gateway).await == "0.0000018").await;
}

#[tokio::test]
async fn where_nobody_makes_it_or_a_stage_would_not_see_it_it_is_refused_before_anything_is_spent() {
    let (upstream, other) = (Upstream::start().await, Upstream::start().await);
    let config = format!(
        "{}{}[models.both]\ntargets = [{{ provider = \"chat\", model = \"m\" }}, {{ provider = \"up\", model = \"gpt-x\" }}]\n",
        provider(&upstream),
        other.provider("chat", "openai_chat"),
    );
    let gateway = Gateway::start(&config).await;
    for (model, more, param) in [
        ("chat/m", json!({}), "background"),
        ("mock", json!({}), "background"),
        ("up/gpt-x", json!({"stream": true}), "stream"),
        ("up/gpt-x", json!({"store": false}), "store"),
        ("up/gpt-x", json!({"conversation": "conv_1"}), "conversation"),
    ] {
        let answer = gateway.post("/v1/responses", &body(model, more.clone())).await;
        assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some(param)), "{model} {more}");
    }
    assert_eq!((upstream.heard().len(), other.heard().len()), (0, 0));
    // The first target that has it.
    upstream.then(told("queued", Value::Null));
    let answer = gateway.post("/v1/responses", &body("both", json!({}))).await;
    assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("up/gpt-x")), "{}", answer.text());
    assert_eq!(other.heard().len(), 0);
    // An answer that no stage would see.
    let script = "const STREAM = \"whole\";\nfn response(response, context) {}\n";
    let guarded = Gateway::with(&provider(&upstream), &[("scripts/10-look.rhai", script)]).await;
    let answer = guarded.post("/v1/responses", &body("up/gpt-x", json!({}))).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["param"].as_str()),
        (400, Some("background")),
        "{}",
        answer.text()
    );
    assert!(answer.text().contains("stage"), "{}", answer.text());
    assert_eq!(upstream.heard().len(), 1);
}
