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
