//! Prices that depend on more than tokens: the service that answered, what was searched, and a catalogue file.

use serde_json::json;

use crate::support::{Gateway, Say, Upstream, eventually};

const PRICES: &str = "[[pricing]]\nmodel = \"up/*\"\ninput = \"2\"\noutput = \"4\"\nper_search = \"0.01\"\n\
                      services = { flex = { factor = \"0.5\" }, priority = { input = \"3\", output = \"6\" } }\n";

fn whole(more: serde_json::Value) -> Say {
    let mut answer = json!({ "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "a" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100 } });
    for (key, value) in more.as_object().unwrap() {
        answer[key] = value.clone();
    }
    Say::json(answer.to_string())
}

fn stream(tier: &str) -> Say {
    Say::sse(format!(
        "data: {{\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",{tier}\"choices\":[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"a\"}},\"finish_reason\":null}}]}}\n\n\
         data: {{\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",{tier}\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n\
         data: {{\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",{tier}\"choices\":[],\"usage\":{{\"prompt_tokens\":1000,\"completion_tokens\":100,\"total_tokens\":1100}}}}\n\n\
         data: [DONE]\n\n"
    ))
}

async fn gateway(upstream: &Upstream, more: &str) -> Gateway {
    Gateway::start(&format!("{}{more}", upstream.provider("up", "openai_chat"))).await
}

fn chat(more: &str) -> String {
    format!(r#"{{"model":"up/m","messages":[{{"role":"user","content":"hi"}}]{more}}}"#)
}

#[tokio::test]
async fn the_service_that_answered_has_its_price_and_the_one_asked_for_where_the_answer_names_none() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, PRICES).await;
    let (usual, flex, priority) = ("0.0024", "0.0012", "0.0036");
    let mut count = 0;
    for (asked, answered, cost) in [
        ("", "", usual),
        ("", "\"service_tier\":\"flex\",", flex),
        (",\"service_tier\":\"flex\"", "\"service_tier\":\"default\",", usual),
        (",\"service_tier\":\"auto\"", "\"service_tier\":\"priority\",", priority),
        (",\"service_tier\":\"flex\"", "", flex),
        ("", "\"service_tier\":\"scale\",", usual),
    ] {
        let tier = serde_json::from_str(&format!("{{{}}}", answered.trim_end_matches(','))).unwrap();
        upstream.then(whole(tier)).then(stream(answered));
        let told = gateway.chat(&chat(asked)).await;
        assert_eq!(told.header("x-portcullis-cost-usd"), Some(cost), "{asked} {answered}");
        // Same bytes as a stream through the lane, then whole and streamed for a client of another family.
        gateway.chat(&chat(&format!("{asked},\"stream\":true"))).await;
        count += 2;
        assert_eq!(gateway.record(count).await["cost_usd"].to_string(), cost, "streamed {asked} {answered}");
        if asked.is_empty() {
            let tier = serde_json::from_str(&format!("{{{}}}", answered.trim_end_matches(','))).unwrap();
            upstream.then(whole(tier)).then(stream(answered));
            for stream in ["", ",\"stream\":true"] {
                let body = chat(&format!("{stream},\"max_tokens\":50"));
                let told = gateway.post("/v1/messages", &body).await;
                assert_eq!(told.status, 200, "{body} {}", told.text());
                count += 1;
                assert_eq!(gateway.record(count).await["cost_usd"].to_string(), cost, "crossed {answered}");
            }
        }
    }
    let record = gateway.record(count).await;
    assert_eq!(record["ledger"][0]["usage"]["service_tier"], "other", "{record}");
}

#[tokio::test]
async fn searches_are_charged_beside_tokens_and_counted_everywhere() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, PRICES).await;
    upstream.then(whole(json!({ "usage": { "prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100,
        "server_tool_use": { "web_search_requests": 3 } } })));
    assert_eq!(gateway.chat(&chat("")).await.header("x-portcullis-cost-usd"), Some("0.0324"));
    let record = gateway.record(1).await;
    assert_eq!(record["ledger"][0]["usage"]["web_searches"], 3, "{record}");
    let usage = gateway.admin("GET", "/api/v1/usage", "").await.json();
    assert_eq!(
        (&usage["data"][0]["web_searches"], usage["data"][0]["cost_usd"].to_string()),
        (&json!(3), "0.0324".into())
    );
}

#[tokio::test]
async fn a_catalogue_file_prices_what_nobody_else_does_and_is_taken_up_while_running() {
    let file = |input: &str| {
        format!(
            "source = \"by hand\"\n[[price]]\nprovider = \"openai\"\nmodels = [\"gpt-9\", \"gpt-4o\"]\ninput = \"{input}\"\n\
             output = \"0\"\ncontext = 4242\noutput_limit = 77\n"
        )
    };
    let upstream = Upstream::saying(whole(json!({}))).await;
    let url = upstream.provider("openai", "openai_chat");
    let config = format!(
        "{url}row = \"openai\"\n[catalogue]\nfile = \"catalogue.toml\"\n[[pricing]]\nmodel = \"openai/own\"\ninput = 9\noutput = 0\n"
    );
    let gateway = Gateway::with(&config, &[("catalogue.toml", &file("3"))]).await;
    let cost = async |model: &str| {
        let told = gateway.chat(&chat("").replace("up/m", model)).await;
        assert_eq!(told.status, 200, "{}", told.text());
        told.header("x-portcullis-cost-usd").map(str::to_owned)
    };
    assert_eq!(cost("openai/gpt-9").await.as_deref(), Some("0.003"));
    assert_eq!(cost("openai/gpt-9-2026-01-01").await.as_deref(), Some("0.003"), "a build of it");
    assert_eq!(cost("openai/gpt-4o").await.as_deref(), Some("0.003"), "before the built-in price");
    assert_eq!(cost("openai/own").await.as_deref(), Some("0.009"), "behind an own one");
    assert_eq!(
        cost("openai/gpt-4o-mini").await.as_deref(),
        Some("0.00021"),
        "the built-in one where the file says nothing"
    );
    gateway.write("catalogue.toml", &file("5"));
    eventually("the new price", async || cost("openai/gpt-9").await.as_deref() == Some("0.005")).await;
    gateway.write("catalogue.toml", &file("-5"));
    let refused = async || gateway.admin("GET", "/api/v1/config/status", "").await.json()["refused"].clone();
    eventually("the refusal", async || !refused().await.is_null()).await;
    let error = refused().await["errors"][0].clone();
    assert_eq!((&error["file"], &error["line"]), (&json!("catalogue.toml"), &json!(2)), "{error}");
    assert!(error["message"].as_str().unwrap().starts_with("openai/gpt-9: `input`"), "{error}");
    assert_eq!(cost("openai/gpt-9").await.as_deref(), Some("0.005"), "what ran goes on");
}

const NIGHT: &str = "fn price(usage, model, context) {\n\
                     let input = if context.service == \"flex\" { \"1\" } else { \"2\" };\n\
                     [[usage.input_tokens - usage.cache_read_tokens, input], [usage.output_tokens, if model == \"m\" { 4 } else { 40 }]]\n\
                     }\nconst VECTORS = [#{ usage: #{ input_tokens: 1000, output_tokens: 100 }, model: \"m\", cost: \"0.0024\" }];\n";

#[tokio::test]
async fn a_script_makes_the_price_and_one_that_does_not_prove_itself_changes_nothing() {
    let upstream = Upstream::saying(whole(json!({}))).await;
    let config = format!(
        "{}[[pricing]]\nmodel = \"up/*\"\nscript = \"scripts/prices/night.rhai\"\n",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Gateway::with(&config, &[("scripts/prices/night.rhai", NIGHT)]).await;
    let cost = async |body: &str| gateway.chat(body).await.header("x-portcullis-cost-usd").map(str::to_owned);
    assert_eq!(cost(&chat("")).await.as_deref(), Some("0.0024"));
    assert_eq!(cost(&chat("").replace("up/m", "up/n")).await.as_deref(), Some("0.006"));
    assert_eq!(cost(&chat(",\"service_tier\":\"flex\"")).await.as_deref(), Some("0.0014"));
    let version = gateway.record(3).await["ledger"][0]["price"].clone();
    // A price that its vectors contradict is a mistake like any other: what ran goes on.
    gateway.write("scripts/prices/night.rhai", &NIGHT.replace("else { \"2\" }", "else { \"3\" }"));
    let refused = async || gateway.admin("GET", "/api/v1/config/status", "").await.json()["refused"].clone();
    eventually("the refusal", async || !refused().await.is_null()).await;
    let error = refused().await["errors"][0].clone();
    assert_eq!((&error["file"], &error["line"]), (&json!("scripts/prices/night.rhai"), &json!(5)), "{error}");
    assert!(error["message"].as_str().unwrap().contains("expected 0.0024 USD, and price() gives 0.0034"), "{error}");
    assert_eq!(cost(&chat("")).await.as_deref(), Some("0.0024"));
    let dearer = NIGHT.replace("else { \"2\" }", "else { \"3\" }").replace("0.0024", "0.0034");
    gateway.write("scripts/prices/night.rhai", &dearer);
    eventually("the new price", async || cost(&chat("")).await.as_deref() == Some("0.0034")).await;
    eventually("a row with it", async || {
        let rows = gateway.admin("GET", "/api/v1/requests?limit=1", "").await.json();
        let price = &rows["data"][0]["ledger"][0]["price"];
        price.is_string() && *price != version
    })
    .await;
}

#[tokio::test]
async fn what_a_script_cannot_price_is_unknown_and_a_budget_holds_with_one() {
    let upstream = Upstream::saying(whole(json!({}))).await;
    let script = "fn price(usage, model, context) { if model == \"odd\" { throw \"no\"; } usage.output_tokens * 1000000 }\n\
                  const VECTORS = [#{ usage: #{ input_tokens: 1, output_tokens: 2 }, cost: 2000000 }];\n";
    let config = format!(
        "{}[auth]\nrequired = true\n[teams.t]\nbudget = {{ usd = 0.35, per = \"total\" }}\n[[pricing]]\nmodel = \"up/*\"\n\
         script = \"scripts/prices/x.rhai\"\n",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Gateway::with(&config, &[("scripts/prices/x.rhai", script)]).await;
    let (_, key) = gateway.key(r#"{"name":"k","team":"t"}"#).await;
    let bearer = format!("Bearer {key}");
    let ask = async |model: &str| {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        gateway.post_with("/v1/chat/completions", &headers, &chat(",\"max_tokens\":100").replace("up/m", model)).await
    };
    // Each answer may cost 0.1 USD, and does: three fit.
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(ask("up/m").await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(upstream.heard().len(), 3);
    let (_, key) = gateway.key(r#"{"name":"free"}"#).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let odd = gateway.post_with("/v1/chat/completions", &headers, &chat("").replace("up/m", "up/odd")).await;
    assert_eq!((odd.status, odd.header("x-portcullis-cost-usd")), (200, None));
    assert_eq!(gateway.record(6).await["cost_unknown"], true);
}

#[tokio::test]
async fn a_model_that_nobody_has_a_price_for_is_refused_where_that_is_configured() {
    let upstream = Upstream::saying(whole(json!({}))).await;
    let config = format!(
        "[catalogue]\nunknown_price = \"refuse\"\n{}[[pricing]]\nmodel = \"up/known\"\ninput = 1\noutput = 1\n\
         [models.either]\ntargets = [{{ provider = \"up\", model = \"m\" }}, {{ provider = \"up\", model = \"known\" }}]\n\
         [models.neither]\ntargets = [{{ provider = \"up\", model = \"m\" }}]\n",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    let refused = gateway.chat(&chat("")).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "price_unknown");
    assert!(refused.text().contains("[[pricing]]"), "it says what to do: {}", refused.text());
    assert!(upstream.heard().is_empty());
    assert_eq!(gateway.chat(&chat("").replace("up/m", "up/known")).await.status, 200);
    let either = gateway.chat(&chat("").replace("up/m", "either")).await;
    assert_eq!((either.status, either.header("x-portcullis-target")), (200, Some("up/known")));
    assert_eq!(gateway.chat(&chat("").replace("up/m", "neither")).await.status, 503);
    // The built-in provider is free, and so are lists.
    assert_eq!(gateway.chat(&chat("").replace("up/m", "mock")).await.status, 200);
    assert_eq!(gateway.get("/v1/models").await.status, 200);
    let trace = gateway.record(5).await;
    assert!(trace["cost_usd"] == 0, "{trace}");
}
