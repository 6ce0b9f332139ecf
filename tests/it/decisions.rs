//! `POST /api/v1/explain`: the decision on a running gateway's state, which it leaves as it was; and that what it tells is what
//! the request then does, in the same shape.

use serde_json::{Value, json};

use crate::{
    family::{FAMILIES, Openai},
    support::{Answer, Gateway, Say, Upstream, eventually},
};

async fn explain(gateway: &Gateway, body: Value) -> Value {
    let answer = gateway.admin("POST", "/api/v1/explain", &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn candidate<'a>(told: &'a Value, name: &str) -> &'a Value {
    let all = told["candidates"].as_array().unwrap_or_else(|| panic!("{told}"));
    all.iter().find(|c| c["target"] == name).unwrap_or_else(|| panic!("no {name}: {told}"))
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hello"}]})
}

#[tokio::test]
async fn every_target_is_taken_or_passed_over_for_the_reason_that_the_request_meets() {
    let (ill, picky, well) = (
        Upstream::saying(Say::error(500, "{}")).await,
        Upstream::saying(Say::error(401, r#"{"error":{"message":"no"}}"#)).await,
        Upstream::saying(Say::json(Openai.whole("well"))).await,
    );
    let config = format!(
        "{}{}{}[providers.openai]\nkey = \"env:PORTCULLIS_NO_SUCH_KEY\"\n[models.all]\ntargets = [{{ provider = \"openai\", model = \"gpt-4o\" }}, \
         {{ provider = \"ill\", model = \"m\" }}, {{ provider = \"picky\", model = \"m\" }}, {{ provider = \"well\", model = \"m\" }}, \
         {{ provider = \"well\", model = \"n\" }}]\n",
        ill.provider("ill", "openai_chat"),
        picky.provider("picky", "openai_chat").replace("auth = \"none\"", "key = \"file:key\""),
        well.provider("well", "openai_chat"),
    );
    let gateway = Gateway::with(&config, &[("key", "sk-test")]).await;
    let fresh = explain(&gateway, json!({"request": chat("all")})).await;
    assert_eq!(fresh["targets"], json!(["ill/m", "picky/m", "well/m", "well/n"]), "{fresh}");
    assert_eq!(candidate(&fresh, "openai/gpt-4o")["code"], "not_configured");
    for _ in 0..6 {
        assert_eq!(Openai.text(&gateway.chat(&chat("all").to_string()).await), "well");
    }
    let told = explain(&gateway, json!({"request": chat("all")})).await;
    assert_eq!(told["targets"], json!(["well/m", "well/n"]), "{told}");
    let (ejected, refused, taken) =
        (candidate(&told, "ill/m"), candidate(&told, "picky/m"), candidate(&told, "well/m"));
    assert_eq!(
        (&ejected["verdict"], &ejected["code"], &ejected["circuit"]),
        (&json!("passed_over"), &json!("ejected"), &json!("open"))
    );
    assert_eq!((&refused["verdict"], &refused["code"]), (&json!("passed_over"), &json!("keys_refused")), "{told}");
    assert_eq!((&taken["verdict"], &taken["circuit"]), (&json!("taken"), &json!("closed")));
    assert!(taken["latency_ms"].as_f64().is_some(), "measured by then: {taken}");
    assert_eq!(candidate(&told, "well/n")["verdict"], "next");
    // What it tells is what the request does.
    let answer = gateway.chat(&chat("all").to_string()).await;
    assert_eq!(
        (answer.header("x-portcullis-target"), answer.header("x-portcullis-attempts")),
        (Some("well/m"), Some("1"))
    );
}

#[tokio::test]
async fn a_body_of_any_family_is_explained_as_its_path_would_take_it() {
    let gateway = Gateway::start("").await;
    for family in FAMILIES {
        for stream in [false, true] {
            let body: Value = serde_json::from_str(&family.body("mock", stream, "hello")).expect("JSON");
            let told = explain(&gateway, json!({"request": body, "path": family.path("mock", stream)})).await;
            assert_eq!((&told["asked"], &told["targets"]), (&json!("mock"), &json!(["mock/mock"])), "{told}");
            assert!(told["cost"]["input_tokens"].as_u64().is_some_and(|n| n > 0), "{told}");
        }
    }
    // A client's own body is enough.
    assert_eq!(explain(&gateway, chat("mock")).await["targets"], json!(["mock/mock"]));
    let (responses, converse) =
        (json!({"model": "mock", "input": "hi"}), json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}));
    assert_eq!(explain(&gateway, responses).await["targets"], json!(["mock/mock"]));
    let told = explain(&gateway, json!({"request": converse, "format": "bedrock_converse", "model": "mock"})).await;
    assert_eq!(told["targets"], json!(["mock/mock"]));
    for (body, status, words) in [
        ("nonsense", 400, "not JSON"),
        (r#"{"request": 3}"#, 400, "request"),
        (r#"{"request": {"model": "mock"}, "format": "morse"}"#, 400, "morse"),
        (r#"{"request": {"model": "mock"}, "colour": 1}"#, 400, "format, path, model"),
        (r#"{"request": {"messages": []}}"#, 400, "model"),
        (r#"{"request": {"model": "mock"}, "path": "/v1/nowhere"}"#, 404, "there is no /v1/nowhere"),
        (r#"{"request": {"model": "mock"}, "path": "/v1/images/generations"}"#, 400, "explain knows"),
        (r#"{"request": {"model": "mock"}, "key": "key_none"}"#, 404, "no key"),
        (r#"{"request": {"model": "mock"}, "team": "none"}"#, 400, "no team"),
        (r#"{"request": {"model": "mock"}, "key": "a", "team": "b"}"#, 400, "one of both"),
    ] {
        let answer = gateway.admin("POST", "/api/v1/explain", body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert!(
            answer.json()["error"]["message"].as_str().is_some_and(|m| m.contains(words)),
            "{body}: {}",
            answer.text()
        );
    }
}

const LIMITED: &str = "[[pricing]]\nmodel = \"up/*\"\ninput = 1000\noutput = 1000\n\
    [teams.red]\nlimits = { requests_per_minute = 1000, tokens_per_minute = 5000, concurrent = 2 }\nbudget = { usd = 10, per = \"day\" }\n";

/// Everything that a decision must leave alone.
async fn standing(gateway: &Gateway) -> (Value, Vec<String>, usize) {
    let teams = gateway.admin("GET", "/api/v1/teams", "").await.json();
    let metrics = gateway.admin("GET", "/metrics", "").await.text();
    let ours = metrics.lines().filter(|line| {
        let counts = line.starts_with("portcullis_stage")
            || line.starts_with("portcullis_script_metric")
            || line.starts_with("portcullis_limited");
        counts && !line.contains("_parked")
    });
    let mut ours: Vec<String> =
        ours.filter(|line| line.contains("scripts/dry.rhai") || line.contains("limited")).map(str::to_owned).collect();
    ours.sort();
    let rows = gateway.admin("GET", "/api/v1/requests?limit=200", "").await.json();
    (teams, ours, rows["data"].as_array().map_or(0, Vec::len))
}

#[tokio::test]
async fn a_decision_sends_nothing_reserves_nothing_and_counts_nothing() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let script = "fn request(request, context) {\n    let n = context.kv.incr(\"n\");\n    context.metric(\"seen\", 1);\n    context.note(`n is ${n}`);\n}";
    let config = format!("[auth]\nrequired = true\n{}{LIMITED}", upstream.provider("up", "openai_chat"));
    let gateway = Gateway::with(&config, &[("scripts/dry.rhai", script)]).await;
    let (id, key) = gateway.key(r#"{"name":"k","team":"red"}"#).await;
    let asked = json!({"request": chat("up/m"), "key": id});
    let before = standing(&gateway).await;
    // Far more often than the limits allow.
    for _ in 0..20 {
        let told = explain(&gateway, asked.clone()).await;
        assert_eq!(told["targets"], json!(["up/m"]), "{told}");
        assert_eq!(told["notes"][0]["text"], "n is 1", "its memory is a copy: {told}");
        assert_eq!(told["limits"][0]["requests_per_minute"]["left"], 1000, "{told}");
        assert_eq!(told["limits"][0]["concurrent"]["in_flight"], 0, "{told}");
        assert_eq!(told["budget"]["left_usd"].as_f64(), Some(10.0), "{told}");
        let reserve = &candidate(&told, "up/m")["reserve"];
        assert!(reserve["usd"].as_f64().is_some_and(|usd| usd > 0.0 && usd <= 10.0), "{told}");
        assert!(told["cost"]["usd"].as_f64().is_some(), "{told}");
    }
    assert_eq!(standing(&gateway).await, before);
    assert!(upstream.heard().is_empty());
    // The real thing finds all of it, and is seen by the next decision.
    let send =
        async || gateway.post_with("/v1/chat/completions", &[("x-api-key", &key)], &chat("up/m").to_string()).await;
    assert_eq!(send().await.status, 200);
    let mut told = Value::Null;
    eventually("it is settled", async || {
        told = explain(&gateway, asked.clone()).await;
        told["budget"]["reserved_usd"].as_f64() == Some(0.0) && told["budget"]["spent_usd"].as_f64() > Some(0.0)
    })
    .await;
    assert_eq!(told["notes"][0]["text"], "n is 2", "it reads what lives: {told}");
    // One request a minute, and that one is used up: the next is refused with the same words. What was used before has drained.
    let left = async || explain(&gateway, asked.clone()).await["limits"][0]["requests_per_minute"]["left"].clone();
    eventually("the first is forgotten", async || left().await == 1000).await;
    gateway.rewrite(&config.replace("= 1000, tokens", "= 1, tokens"));
    let limit = async || explain(&gateway, asked.clone()).await["limits"][0]["requests_per_minute"]["limit"].clone();
    eventually("the new limit holds", async || limit().await == 1).await;
    let first = send().await;
    assert_eq!(first.status, 200, "{}", first.text());
    let told = explain(&gateway, asked.clone()).await;
    assert_eq!((&told["status"], &told["targets"]), (&json!(429), &json!([])), "{told}");
    let refused = send().await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &told["code"]), "{told}");
    let words = |message: &Value| message.as_str().and_then(|m| m.split(';').next()).unwrap_or_default().to_owned();
    assert_eq!(words(&told["message"]), words(&refused.json()["error"]["message"]));
}

#[tokio::test]
async fn a_target_that_the_budget_does_not_hold_is_passed_over() {
    let (dear, cheap) = (Upstream::start().await, Upstream::start().await);
    let config = format!(
        "[auth]\nrequired = true\n{}{}[[pricing]]\nmodel = \"dear/*\"\nrequest = 100\n[[pricing]]\nmodel = \"cheap/*\"\nrequest = 1\n\
         [models.all]\ntargets = [{{ provider = \"dear\", model = \"m\" }}, {{ provider = \"cheap\", model = \"m\" }}]\n\
         [teams.red]\nbudget = {{ usd = 10, per = \"day\" }}\n",
        dear.provider("dear", "openai_chat"),
        cheap.provider("cheap", "openai_chat"),
    );
    let gateway = Gateway::start(&config).await;
    let told = explain(&gateway, json!({"request": chat("all"), "team": "red"})).await;
    assert_eq!(told["targets"], json!(["cheap/m"]), "{told}");
    assert_eq!(candidate(&told, "dear/m")["code"], "budget", "{told}");
    assert_eq!(told["cost"]["usd"].as_f64(), Some(1.0), "{told}");
}

#[tokio::test]
async fn a_stage_is_told_with_its_line_and_a_capability_by_its_name() {
    let script = "fn request(request, context) {\n    if request.last_user_text == \"no\" {\n        return reject(451, \"not here\");\n    }\n}\n\
        fn attempt(target, request, context) {\n    if target.provider == \"a\" { return skip(); }\n}";
    let (a, b) = (Upstream::start().await, Upstream::start().await);
    let config = format!(
        "{}{}[models.all]\ntargets = [{{ provider = \"a\", model = \"m\" }}, {{ provider = \"b\", model = \"m\" }}]\n",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat"),
    );
    let gateway = Gateway::with(&config, &[("scripts/judge.rhai", script)]).await;
    let told =
        explain(&gateway, json!({"request": {"model": "all", "messages": [{"role": "user", "content": "no"}]}})).await;
    assert_eq!(
        (&told["status"], &told["message"], &told["code"]),
        (&json!(451), &json!("not here"), &json!("content_refused")),
        "{told}"
    );
    let stage = &told["stages"][0];
    assert_eq!(
        (&stage["stage"], &stage["line"], &stage["verdict"]),
        (&json!("scripts/judge.rhai"), &json!(3), &json!("reject")),
        "{told}"
    );
    assert!(stage["operations"].as_u64().is_some_and(|n| n > 0) && stage["took_us"].as_u64().is_some(), "{told}");
    let told = explain(&gateway, json!({"request": chat("all")})).await;
    assert_eq!(told["targets"], json!(["b/m"]), "{told}");
    assert_eq!(candidate(&told, "a/m")["code"], "skipped", "{told}");
    assert!(a.heard().is_empty() && b.heard().is_empty());
}

/// The answer's own record.
async fn record_of(gateway: &Gateway, answer: &Answer) -> Value {
    let path = format!("/api/v1/requests/{}", answer.header("x-request-id").expect("an id"));
    let mut record = Value::Null;
    eventually("the request is settled", async || {
        let found = gateway.admin("GET", &path, "").await;
        if found.status == 200 {
            record = found.json();
        }
        found.status == 200
    })
    .await;
    record
}

#[tokio::test]
async fn header_record_and_decision_have_one_shape() {
    let upstream = Upstream::saying(Say::json(Openai.whole("x"))).await;
    let script = "fn request(request, context) {\n    context.note(\"here\");\n}\nfn route(request, targets, context) { return [\"up/n\"]; }";
    let config = format!("[auth]\nrequired = true\n{}{LIMITED}", upstream.provider("up", "openai_chat"));
    let gateway = Gateway::with(&config, &[("scripts/shape.rhai", script)]).await;
    let (id, key) = gateway.key(r#"{"name":"k","team":"red"}"#).await;
    let told = explain(&gateway, json!({"request": chat("up/m"), "key": id})).await;
    let headers = [("x-api-key", key.as_str()), ("x-portcullis-explain", "1")];
    let answer = gateway.post_with("/v1/chat/completions", &headers, &chat("up/m").to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let header: Value = serde_json::from_str(answer.header("x-portcullis-explain").expect("a trace")).expect("JSON");
    let record = record_of(&gateway, &answer).await;
    let shape = |trace: &Value| -> Vec<(String, Vec<String>)> {
        let mut all: Vec<_> = trace
            .as_array()
            .expect("a trace")
            .iter()
            .filter(|step| step["step"] != "attempt")
            .map(|step| {
                let fields = step
                    .as_object()
                    .expect("a step")
                    .keys()
                    .filter(|key| !["slow", "max_tokens"].contains(&key.as_str()));
                (step["step"].as_str().unwrap_or_default().to_owned(), fields.cloned().collect())
            })
            .collect();
        all.sort();
        all
    };
    assert_eq!(shape(&told["trace"]), shape(&record["trace"]), "{told} {record}");
    assert_eq!(shape(&header), shape(&record["trace"]), "{header}");
    let step = |trace: &Value, kind: &str| {
        trace.as_array().expect("a trace").iter().find(|s| s["step"] == kind).cloned().unwrap_or_default()
    };
    assert_eq!(step(&record["trace"], "note")["line"], 2);
    assert_eq!(step(&record["trace"], "chosen")["names"], json!(["up/n"]));
    assert_eq!(step(&record["trace"], "reserve"), step(&told["trace"], "reserve"), "the same arithmetic");
    // Nobody who did not ask pays for it.
    let answer = gateway.post_with("/v1/chat/completions", &headers[..1], &chat("up/m").to_string()).await;
    assert!(answer.header("x-portcullis-explain").is_none());
    let record = record_of(&gateway, &answer).await;
    let kinds: Vec<&str> =
        record["trace"].as_array().expect("a trace").iter().filter_map(|s| s["step"].as_str()).collect();
    assert_eq!(kinds, ["note", "stage", "stage", "planned", "attempt"], "{record}");
}

#[tokio::test]
async fn a_target_that_lacks_what_is_asked_for_is_passed_over_and_what_it_drops_is_named() {
    let (lacks, has) = (Upstream::start().await, Upstream::start().await);
    let alias = |name: &str, more: &str| {
        format!(
            "[models.{name}]\n{more}targets = [{{ provider = \"lacks\", model = \"m\" }}, {{ provider = \"has\", model = \"m\" }}]\n"
        )
    };
    let config = format!(
        "{}{}{}{}",
        lacks.provider("lacks", "anthropic_messages"),
        has.provider("has", "openai_chat"),
        alias("strict", "strict = true\n"),
        alias("loose", ""),
    );
    let gateway = Gateway::start(&config).await;
    let asked = |model: &str| {
        let mut request = chat(model);
        request["seed"] = 7.into();
        json!({"request": request})
    };
    let told = explain(&gateway, asked("strict")).await;
    assert_eq!(told["targets"], json!(["has/m"]), "{told}");
    let passed = candidate(&told, "lacks/m");
    assert_eq!(passed["code"], "unsupported", "{told}");
    assert!(passed["reason"].as_str().is_some_and(|why| why.contains("seed")), "{told}");
    let told = explain(&gateway, asked("loose")).await;
    assert_eq!(told["targets"], json!(["lacks/m", "has/m"]), "{told}");
    let dropped = told["trace"].as_array().expect("a trace").iter().find(|step| step["step"] == "dropped");
    assert_eq!(dropped.map(|step| &step["what"]), Some(&json!("seed")), "{told}");
    assert!(lacks.heard().is_empty() && has.heard().is_empty());
}

#[tokio::test]
async fn models_that_a_script_asks_and_long_texts_are_told_and_not_sent() {
    let (judge, a) = (Upstream::start().await, Upstream::start().await);
    let script = "fn request(request, context) { let said = ask(\"judge/m\", \"Is this fine?\"); context.note(`said ${said.len()}`); }";
    let config = format!(
        "{}{}[models.long]\ntargets = [{{ provider = \"a\", model = \"m\" }}]\n\
         long_input = {{ mode = \"map_reduce\", chunk_tokens = 200, model = \"judge/m\" }}\n\
         [[stages]]\nuse = \"scripts/judge.rhai\"\ngrant = [\"ask\"]\n",
        judge.provider("judge", "openai_chat"),
        a.provider("a", "openai_chat"),
    );
    let prompt = "[[version]]\nname = \"1\"\nsystem = \"You answer for {{ company }}.\"\nuser = \"{{ question }}\"\n";
    let files = [("scripts/judge.rhai", script), ("prompts/support.toml", prompt)];
    let gateway = Gateway::with(&config, &files).await;
    let text: String = (0..50).map(|n| format!("Fact {n} of the long report is that it rained. ")).collect();
    let request = json!({"model": "long", "messages": [{"role": "user", "content": text}]});
    let told = explain(&gateway, json!({"request": request})).await;
    let notes: Vec<&str> =
        told["notes"].as_array().expect("notes").iter().filter_map(|note| note["text"].as_str()).collect();
    assert!(notes.contains(&"said 0"), "{told}");
    assert!(notes.iter().any(|note| note.starts_with("its longest text would be read in ")), "{told}");
    assert_eq!(told["targets"], json!(["a/m"]), "{told}");
    // A template's turns are a part of what is decided on, and its mistakes are the caller's.
    let prompt =
        json!({"model": "long", "prompt": {"id": "support", "variables": {"company": "Tides", "question": "Why?"}}});
    assert_eq!(explain(&gateway, json!({"request": prompt})).await["targets"], json!(["a/m"]));
    let unknown = json!({"request": {"model": "long", "prompt": {"id": "none"}}}).to_string();
    let answer = gateway.admin("POST", "/api/v1/explain", &unknown).await;
    assert_eq!(answer.status / 100, 4, "{}", answer.text());
    assert!(judge.heard().is_empty() && a.heard().is_empty());
}
