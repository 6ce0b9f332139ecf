//! Rankings, moderations, pictures and sound: bodies that go through untranslated, under the same limits and records as chat.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::{
    auth::{FORM, form},
    support::{End, Gateway, Say, Upstream, begin, eventually, request},
};

async fn house(say: Say) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    (upstream, gateway)
}

#[tokio::test]
async fn bodies_go_through_as_they_came_but_for_the_models_name() {
    let ranked =
        r#"{"id":"r","results":[{"index":1,"relevance_score":0.90}],"meta":{"billed_units":{"search_units":1}}}"#;
    let moderated = r#"{"id":"m","results":[{"flagged":false,"category_scores":{"harassment/threatening":1.0e-5}}]}"#;
    let drawn = r#"{"created":1,"data":[{"b64_json":"AAAA"}],"usage":{"input_tokens":7,"output_tokens":100,"total_tokens":107}}"#;
    for (path, there, body, say) in [
        (
            "/v1/rerank",
            "/v1/rerank",
            r#"{ "query":"q","model":"up/m","documents":["a",{"text":"b"}],"top_n":1.0 }"#,
            ranked,
        ),
        ("/v2/rerank", "/v1/rerank", r#"{"model":"up/m","query":"q","documents":["a"]}"#, ranked),
        ("/openai/v1/moderations", "/v1/moderations", r#"{"input":["x"],"model":"up/m"}"#, moderated),
        ("/v1/images/generations", "/v1/images/generations", r#"{"model":"up/m","prompt":"p","n":1}"#, drawn),
    ] {
        let (upstream, gateway) = house(Say::json(say)).await;
        let answer = gateway.post(path, body).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, say), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-portcullis-target"), Some("up/m"));
        let heard = upstream.last();
        assert_eq!(heard.path, there);
        assert_eq!(String::from_utf8_lossy(&heard.body), body.replace("\"up/m\"", "\"m\""));
        let record = gateway.record(1).await;
        assert_eq!((record["status"].as_u64(), record["target"].as_str()), (Some(200), Some("up/m")), "{record}");
    }
}

#[tokio::test]
async fn a_failed_target_is_followed_by_the_next_one() {
    let (bad, good) =
        (Upstream::saying(Say::error(500, "{}")).await, Upstream::saying(Say::json(r#"{"results":[]}"#)).await);
    let config = format!(
        "{}{}[models.judge]\ntargets = [{{ provider = \"bad\", model = \"a\" }}, {{ provider = \"good\", model = \"b\" }}]\n",
        bad.provider("bad", "openai_chat"),
        good.provider("good", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    let answer = gateway.post("/v1/moderations", r#"{"model":"judge","input":"x"}"#).await;
    assert_eq!((answer.status, answer.header("x-portcullis-target")), (200, Some("good/b")), "{}", answer.text());
    assert_eq!(good.last().json()["model"], "b");
    // An answer that is no JSON, or half of one, is a failure too.
    bad.always(Say::json("{\"results\":[").end(End::Clean));
    assert_eq!(gateway.post("/v1/moderations", r#"{"model":"judge","input":"x"}"#).await.status, 200);
}

#[tokio::test]
async fn sound_and_long_pictures_stream_and_are_never_cut_silently() {
    let (upstream, gateway) = house(Say::of(200, "audio/mpeg", vec![7; 300_000])).await;
    let body = r#"{"model":"up/m","input":"héllo","voice":"v"}"#;
    let answer = gateway.post("/v1/audio/speech", body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("audio/mpeg")));
    assert!(answer.complete && answer.body == vec![7; 300_000]);
    let record = gateway.record(1).await;
    assert_eq!(record["operation"].as_str(), Some("speech"), "{record}");
    let long = format!(
        r#"{{"created":1,"data":[{{"b64_json":"{}"}}],"usage":{{"input_tokens":7,"output_tokens":9}}}}"#,
        "A".repeat(1 << 20)
    );
    upstream.always(Say::json(long.clone()));
    let answer = gateway.post("/v1/images/generations", r#"{"model":"up/m","prompt":"p"}"#).await;
    assert_eq!(answer.text(), long);
    let record = gateway.record(2).await;
    assert_eq!(
        record["attempts"][0]["usage"]["output_tokens"].as_u64().or(record["usage"]["output_tokens"].as_u64()),
        Some(9),
        "{record}"
    );
    // It dies: the connection does too, so that nobody takes half a picture for one.
    upstream.always(Say::json(long[..500_000].to_owned()).end(End::Cut));
    let answer = gateway.post("/v1/images/generations", r#"{"model":"up/m","prompt":"p"}"#).await;
    assert!(!answer.complete && answer.status == 200);
    let record = gateway.record(3).await;
    assert_eq!(record["error_code"].as_str(), Some("upstream_disconnected"), "{record}");
}

#[tokio::test]
async fn partial_pictures_stream_and_a_dead_stream_says_so() {
    let frames = [
        "event: image_generation.partial_image\ndata: {\"type\":\"image_generation.partial_image\",\"b64_json\":\"AA\"}\n\n",
        "event: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"b64_json\":\"AA\",\"usage\":{\"input_tokens\":3,\"output_tokens\":5}}\n\n",
    ];
    let (upstream, gateway) = house(Say::frames(&frames, Duration::from_millis(5))).await;
    let body = r#"{"model":"up/m","prompt":"p","stream":true,"partial_images":1}"#;
    let answer = gateway.post("/v1/images/generations", body).await;
    assert_eq!((answer.text(), answer.complete), (frames.concat(), true));
    upstream.always(Say::frames(&frames[..1], Duration::ZERO));
    let answer = gateway.post("/v1/images/generations", body).await;
    assert!(answer.text().starts_with(frames[0]) && answer.text().contains("\"error\""), "{}", answer.text());
}

#[tokio::test]
async fn a_form_goes_through_with_the_models_name_changed_in_flight() {
    let (upstream, gateway) = house(Say::of(200, "text/vtt", b"WEBVTT\n\n".to_vec())).await;
    let body = form(&[("model", "up/ears"), ("response_format", "vtt"), ("prompt", "x")]);
    let answer = gateway.post_with("/v1/audio/transcriptions", &[FORM], &body).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "WEBVTT\n\n"), "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("text/vtt"));
    let heard = upstream.last();
    assert_eq!(String::from_utf8_lossy(&heard.body), body.replace("up/ears", "ears"));
    assert_eq!(heard.header("content-type"), Some("multipart/form-data; boundary=\"b1\""));
    // Some clients write the file first.
    let late = body
        .replace("name=\"model\"\r\n\r\nup/ears", "name=\"other\"\r\n\r\n1")
        .replace("--b1--", "--b1\r\ncontent-disposition: form-data; name=model\r\n\r\nup/ears\r\n--b1--");
    assert_eq!(gateway.post_with("/v1/audio/translations", &[FORM], &late).await.status, 200);
    assert_eq!(String::from_utf8_lossy(&upstream.last().body), late.replace("up/ears", "ears"));
}

#[tokio::test]
async fn a_stage_changes_the_prompt_of_a_form_and_of_json() {
    let script = "fn request(request, context) { if request.last_user_text == \"secret\" { request.messages[0].text = \"hidden\"; } }";
    let upstream = Upstream::saying(Say::json(r#"{"text":"x"}"#)).await;
    let gateway = Gateway::with(&upstream.provider("up", "openai_chat"), &[("scripts/a.rhai", script)]).await;
    let body = form(&[("model", "up/m"), ("prompt", "secret")]);
    let answer = gateway.post_with("/v1/audio/transcriptions", &[FORM], &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let heard = String::from_utf8_lossy(&upstream.last().body).into_owned();
    assert_eq!(heard, body.replace("secret", "hidden").replace("up/m", "m"));
    let answer = gateway.post("/v1/images/generations", r#"{"model":"up/m","prompt":"secret","n":2}"#).await;
    assert_eq!((answer.status, upstream.last().json()["prompt"].as_str()), (200, Some("hidden")), "{}", answer.text());
}

#[tokio::test]
async fn broken_forms_are_refused_and_nothing_is_spent() {
    let (upstream, gateway) = house(Say::json("{}")).await;
    let good = form(&[("model", "up/m")]);
    let parts = format!("{}{good}", "--b1\r\ncontent-disposition: form-data; name=a\r\n\r\nx\r\n".repeat(5000));
    let long = format!("multipart/form-data; boundary={}", "x".repeat(4000));
    let twice = form(&[("model", "up/m"), ("model", "up/other")]);
    for (kind, body, status, says) in [
        ("application/json", good.as_str(), 415, "multipart"),
        ("multipart/form-data", &good, 400, "boundary"),
        (long.as_str(), &good, 400, "boundary"),
        (FORM.1, "--b1\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nup", 400, "cut off"),
        (FORM.1, "", 400, "cut off"),
        (FORM.1, &parts, 400, "256 parts"),
        (FORM.1, &twice, 400, "twice"),
        (FORM.1, &form(&[("prompt", "x")]), 400, "model"),
    ] {
        let answer = gateway.post_with("/v1/audio/transcriptions", &[("content-type", kind)], body).await;
        let error = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, status, "{kind}: {error}");
        assert!(error.contains(says), "{says}: {error}");
    }
    assert!(upstream.heard().is_empty());
    for path in ["/v1/rerank", "/v1/images/generations"] {
        assert_eq!(gateway.post_with(path, &[FORM], &good).await.status, 415, "{path}");
    }
    let answer = gateway.post_with("/v1/audio/transcriptions", &[FORM], &form(&[("model", "none/m")])).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (404, Some("model_not_found")));
    assert!(upstream.heard().is_empty());
}

/// Its file ends in the middle, after it had begun to be sent on.
#[tokio::test]
async fn a_form_that_is_cut_off_in_its_file_is_the_clients_fault() {
    let upstream = Upstream::saying(Say::json("{}")).await;
    let two = Upstream::saying(Say::json("{}")).await;
    let config = format!(
        "{}{}[models.ears]\ntargets = [{{ provider = \"up\", model = \"a\" }}, {{ provider = \"two\", model = \"b\" }}]\n",
        upstream.provider("up", "openai_chat"),
        two.provider("two", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    let body = form(&[("model", "ears")]).replace("{\"a\": 1}\r\n--b1--\r\n", &"y".repeat(200_000));
    let answer = gateway.post_with("/v1/audio/transcriptions", &[FORM], &body).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (400, Some("invalid_form")),
        "{}",
        answer.text()
    );
    // A second model behind the file could be the one that counts.
    let second = form(&[("model", "ears")]).replace(
        "{\"a\": 1}\r\n",
        &format!("{}\r\n--b1\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nother\r\n", "y".repeat(200_000)),
    );
    let answer = gateway.post_with("/v1/audio/transcriptions", &[FORM], &second).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(two.heard().is_empty(), "nobody else is asked");
    for count in 1..=2 {
        assert_eq!(gateway.record(count).await["status"].as_u64(), Some(400));
    }
}

#[tokio::test]
async fn an_upload_that_has_begun_is_not_sent_again() {
    let (bad, good) =
        (Upstream::saying(Say::error(500, "{}")).await, Upstream::saying(Say::json("{\"text\":\"x\"}")).await);
    let config = format!(
        "{}{}[models.ears]\ntargets = [{{ provider = \"bad\", model = \"a\" }}, {{ provider = \"good\", model = \"b\" }}]\n",
        bad.provider("bad", "openai_chat"),
        good.provider("good", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    let body = form(&[("model", "ears")]).replace("{\"a\": 1}", &"y".repeat(200_000));
    let answer = gateway.post_with("/v1/audio/transcriptions", &[FORM], &body).await;
    let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(answer.status >= 500 && message.contains("send it again"), "{}: {message}", answer.status);
    assert!(good.heard().is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_in_its_upload_takes_the_upstream_call_with_it() {
    let upstream = Upstream::saying(Say::json("{}")).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let head = form(&[("model", "up/m")]).replace("{\"a\": 1}\r\n--b1--\r\n", &"y".repeat(300_000));
    let headers = [FORM, ("content-length", "9000000")];
    let mut socket = begin(gateway.addr, "POST", "/v1/audio/transcriptions", &headers, head.as_bytes()).await;
    socket.flush().await.expect("sent");
    eventually("the request is under way", async || {
        let metrics = gateway.admin("GET", "/metrics", "").await.text();
        metrics.lines().any(|l| l.starts_with("portcullis_inflight_requests") && !l.ends_with(" 0"))
    })
    .await;
    drop(socket);
    let record = gateway.record(1).await;
    assert_eq!(record["status"].as_u64(), Some(499), "{record}");
    assert!(upstream.heard().is_empty(), "it never had a whole request");
}

#[tokio::test]
async fn a_budget_binds_pictures_before_they_are_made() {
    let upstream =
        Upstream::saying(Say::json(r#"{"created":1,"data":[],"usage":{"input_tokens":1,"output_tokens":10}}"#)).await;
    let config = format!(
        "[auth]\nrequired = true\n[teams.research]\nbudget = {{ usd = 1, per = \"total\" }}\n[[pricing]]\nmodel = \"up/*\"\ninput = 10\noutput = 40\n{}",
        upstream.provider("up", "openai_chat")
    );
    let gateway = Gateway::start(&config).await;
    let (_, key) = gateway.key(r#"{"name":"ana","team":"research"}"#).await;
    let bearer = format!("Bearer {key}");
    let ask = async |n: u32| {
        let body = format!(r#"{{"model":"up/m","prompt":"p","n":{n}}}"#);
        gateway.post_with("/v1/images/generations", &[("authorization", &bearer)], &body).await
    };
    // Ten pictures could cost two dollars and a half.
    let answer = ask(10).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (429, Some("budget_exceeded")),
        "{}",
        answer.text()
    );
    assert!(upstream.heard().is_empty());
    let answer = ask(1).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record: Value = gateway.record(2).await;
    assert!(record["cost_usd"].as_f64().is_some_and(|c| c > 0.0), "{record}");
}

#[tokio::test]
async fn the_mock_answers_them_all() {
    let gateway = Gateway::start("").await;
    let ranked = gateway
        .post("/v1/rerank", r#"{"model":"mock","query":"q","documents":["a","b"],"top_n":1,"return_documents":true}"#)
        .await;
    assert_eq!(ranked.json()["results"][0]["document"]["text"], "a", "{}", ranked.text());
    let speech = gateway.post("/v1/audio/speech", r#"{"model":"mock","input":"x","voice":"v"}"#).await;
    assert!(speech.body.starts_with(b"RIFF") && speech.header("content-type") == Some("audio/wav"));
    let heard = request(
        gateway.addr,
        "POST",
        "/v1/audio/transcriptions",
        &[FORM],
        form(&[("model", "mock"), ("response_format", "text")]).as_bytes(),
    )
    .await;
    assert_eq!(heard.text(), "mock heard 8 bytes\n");
}

#[tokio::test]
async fn voyage_is_asked_in_its_own_words_and_answers_in_the_callers() {
    let upstream = Upstream::start().await;
    let config = format!(
        "[providers.voyage]\nbase_url = \"http://{}/v1\"\nkey = \"file:key\"\n[[pricing]]\nmodel = \"voyage/*\"\ninput = \"0.05\"\n",
        upstream.addr
    );
    let gateway = Gateway::with(&config, &[("key", "pa-1")]).await;
    let vectors = r#"{"object":"list","data":[{"object":"embedding","embedding":[0.5,-0.25],"index":0}],"model":"voyage-3.5","usage":{"total_tokens":9}}"#;
    upstream.then(Say::json(vectors));
    let asked = r#"{"model":"voyage-3.5","input":["a tide"],"dimensions":256,"user":"u1"}"#;
    let answer = gateway.post("/v1/embeddings", asked).await;
    assert_eq!(
        (answer.status, answer.json()["data"][0]["embedding"][1].to_string()),
        (200, "-0.25".into()),
        "{}",
        answer.text()
    );
    let heard = upstream.last();
    assert_eq!((heard.path.as_str(), heard.header("authorization")), ("/v1/embeddings", Some("Bearer pa-1")));
    let body = heard.json();
    assert_eq!((&body["model"], &body["output_dimension"]), (&Value::from("voyage-3.5"), &Value::from(256)), "{body}");
    assert!(body.get("user").is_none() && body.get("dimensions").is_none(), "{body}");
    assert_eq!(answer.header("x-portcullis-dropped-params"), Some("user"));
    let record = gateway.record(1).await;
    assert_eq!(
        (record["usage"]["input_tokens"].as_u64(), record["cost_usd"].to_string()),
        (Some(9), "0.00000045".into())
    );

    let scores = r#"{"object":"list","data":[{"relevance_score":0.875,"index":1,"document":"b"},{"relevance_score":0.5,"index":0,"document":"a"}],"model":"rerank-2.5","usage":{"total_tokens":26}}"#;
    upstream.then(Say::json(scores));
    let asked =
        r#"{"model":"rerank-2.5","query":"q","documents":["a",{"text":"b"}],"top_n":2,"return_documents":true}"#;
    let answer = gateway.post("/v1/rerank", asked).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    assert_eq!(told["results"][0]["relevance_score"].to_string(), "0.875", "{told}");
    assert_eq!(
        (&told["results"][0]["index"], &told["results"][0]["document"]["text"]),
        (&Value::from(1), &Value::from("b"))
    );
    let body = upstream.last().json();
    assert_eq!((&body["top_k"], &body["documents"][1]), (&Value::from(2), &Value::from("b")), "{body}");
    assert!(body.get("top_n").is_none(), "{body}");
    let record = gateway.record(2).await;
    assert_eq!(
        (record["usage"]["input_tokens"].as_u64(), record["target"].as_str()),
        (Some(26), Some("voyage/rerank-2.5"))
    );
    // What it does not offer is refused before it is asked.
    let refused = gateway.post("/v1/moderations", r#"{"model":"voyage/voyage-3.5","input":"x"}"#).await;
    assert_eq!((refused.status, upstream.heard().len()), (400, 2), "{}", refused.text());
}

#[tokio::test]
async fn tokens_of_claude_at_bedrock_are_counted_there_and_estimated_where_that_cannot_be() {
    let upstream = Upstream::saying(Say::json(r#"{"inputTokens":37}"#)).await;
    let row = |name: &str, row: &str| {
        format!("[providers.{name}]\nrow = \"{row}\"\nbase_url = \"http://{}\"\nkey = \"file:key\"\n", upstream.addr)
    };
    let config = [row("converse", "bedrock"), row("invoke", "bedrock-anthropic")].concat();
    let gateway = Gateway::with(&config, &[("key", "k")]).await;
    let ask = async |model: &str| {
        let body = format!(
            r#"{{"model":"{model}","system":"be kind","messages":[{{"role":"user","content":"hello"}}],"max_tokens":9}}"#
        );
        let answer = gateway.post("/v1/messages/count_tokens", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let estimated = answer.header("x-portcullis-estimated").is_some();
        (answer.json()["input_tokens"].as_u64().expect("a count"), estimated)
    };
    let claude = "us.anthropic.claude-sonnet-4-20250514-v1:0";
    let path = "/model/anthropic.claude-sonnet-4-20250514-v1%3A0/count-tokens";
    assert_eq!(ask(&format!("converse/{claude}")).await, (37, false));
    let heard = upstream.last();
    let wanted = r#"{"input":{"converse":{"messages":[{"role":"user","content":[{"text":"hello"}]}],"system":[{"text":"be kind"}]}}}"#;
    assert_eq!(heard.path, path);
    assert_eq!(heard.json(), serde_json::from_str::<Value>(wanted).expect("JSON"));
    // In the maker's own format the body is the one that would be sent.
    assert_eq!(ask(&format!("invoke/{claude}")).await, (37, false));
    let heard = upstream.last();
    let inner = heard.json()["input"]["invokeModel"]["body"].as_str().expect("a body").to_owned();
    let inner = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, inner).expect("base64");
    let inner: Value = serde_json::from_slice(&inner).expect("JSON");
    assert_eq!(
        (heard.path.as_str(), &inner["anthropic_version"]),
        (path, &Value::from("bedrock-2023-05-31")),
        "{inner}"
    );
    assert_eq!((&inner["messages"][0]["content"], &inner["max_tokens"]), (&Value::from("hello"), &Value::from(1)));
    assert!(inner.get("model").is_none(), "{inner}");
    // Another maker's model is not asked about, and what AWS does not count after all is estimated.
    assert!(ask("converse/amazon.nova-pro-v1:0").await.1);
    assert_eq!(upstream.heard().len(), 2);
    upstream.always(Say::error(400, r#"{"message":"The provided model doesn't support counting tokens."}"#));
    assert!(ask(&format!("converse/{claude}")).await.1);
    upstream.always(Say::error(500, r#"{"message":"no"}"#));
    let body = format!(r#"{{"model":"converse/{claude}","messages":[{{"role":"user","content":"x"}}]}}"#);
    assert!(gateway.post("/v1/messages/count_tokens", &body).await.status >= 500, "a failure is told");
}
