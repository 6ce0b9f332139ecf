//! The fast lane: the same format on both sides, nobody changes anything.

use std::time::Duration;

use crate::support::{End, Gateway, Say, Upstream};

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"up-1","choices":[{"index":0,"message":{"role":"assistant","content":"hi \u00e9","x_unknown":1.50},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

const FRAMES: [&str; 4] = [
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up-1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hé\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up-1\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
];

#[tokio::test]
async fn bytes_go_through_as_they_came() {
    let upstream = Upstream::saying(Say::json(ANSWER)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let body = r#"{ "messages":[{"role":"user","content":"h\u00e9"}] , "model":"up/gpt-x", "unknown": 1.0e2 }"#;
    let answer = gateway.chat(body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), ANSWER);
    assert_eq!(answer.header("x-portcullis-target"), Some("up/gpt-x"));
    assert_eq!(answer.header("x-portcullis-model"), Some("up/gpt-x"));
    assert_eq!(answer.header("x-portcullis-attempts"), Some("1"));
    let heard = upstream.last();
    assert_eq!(heard.path, "/v1/chat/completions");
    assert_eq!(String::from_utf8_lossy(&heard.body), body.replace("\"up/gpt-x\"", "\"gpt-x\""));
}

#[tokio::test]
async fn streams_go_through_as_they_came() {
    let upstream = Upstream::saying(Say::frames(&FRAMES, Duration::from_millis(5))).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let answer = gateway.chat(r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#).await;
    assert_eq!(answer.text(), FRAMES.concat());
    assert!(answer.complete);
    assert_eq!(upstream.last().json()["stream_options"]["include_usage"], true);
}

#[tokio::test]
async fn the_usage_chunk_nobody_asked_for_is_left_out() {
    let usage = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n";
    let frames = [FRAMES[0], FRAMES[1], FRAMES[2], usage, FRAMES[3]];
    let upstream = Upstream::saying(Say::frames(&frames, Duration::ZERO)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let quiet = gateway.chat(r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#).await;
    assert_eq!(quiet.text(), FRAMES.concat());
    let asked = r#"{"model":"up/m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"x"}]}"#;
    assert_eq!(gateway.chat(asked).await.text(), frames.concat());
}

#[tokio::test]
async fn a_stream_that_dies_is_an_error_never_a_clean_end() {
    let upstream = Upstream::saying(Say::frames(&FRAMES[..2], Duration::ZERO).end(End::Cut)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let answer = gateway.chat(r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#).await;
    assert!(answer.text().contains("hé") && answer.text().contains("\"error\""), "{}", answer.text());
    assert!(!answer.text().contains("[DONE]"));
}

#[tokio::test]
async fn an_error_event_that_lacks_its_empty_line_goes_on_as_it_came() {
    let ask = r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
    let error = "event: error\ndata: {\"error\":{\"message\":\"no tool was called\",\"type\":\"invalid_request_error\",\"status_code\":400}}";
    let sent = format!("{}{error}", FRAMES[..2].concat());
    let upstream = Upstream::saying(Say::sse(&sent)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    assert_eq!(gateway.chat(ask).await.text(), format!("{sent}\n\n"));
    // And so does the terminal that comes with it.
    let ended = format!("{sent}\n\n{}", FRAMES[3]);
    let upstream = Upstream::saying(Say::sse(&ended)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    assert_eq!(gateway.chat(ask).await.text(), ended);
}

/// Many servers never send it. Whose row does not say so has broken off, by contract.
#[tokio::test]
async fn a_stream_without_its_terminal_is_whole_only_where_its_provider_may_leave_it_out() {
    let ask = r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
    let crossed = r#"{"model":"up/m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"x"}]}"#;
    let whole = FRAMES[..3].concat();
    let unclosed = whole.trim_end().to_owned();
    for (open, sent, end, good) in [
        (false, whole.as_str(), End::Clean, false),
        (true, &whole, End::Clean, true),
        (true, &unclosed, End::Clean, true),
        // Finished or not, a connection that breaks is no end.
        (true, &whole, End::Cut, false),
        (true, &FRAMES[..2].concat(), End::Clean, false),
        // Who sends it gets no second one.
        (true, &FRAMES.concat(), End::Clean, true),
    ] {
        let upstream = Upstream::saying(Say::sse(sent).end(end)).await;
        let more = if open { "open_end = true\n" } else { "" };
        let gateway = Gateway::start(&format!("{}{more}", upstream.provider("up", "openai_chat"))).await;
        let answer = gateway.chat(ask).await;
        let messages = gateway.post("/v1/messages", crossed).await;
        let (text, crossed) = (answer.text(), messages.text());
        let case = format!("{open} {end:?}: {text} {crossed}");
        assert!(text.contains("hé") && crossed.contains("hé"), "{case}");
        assert_eq!(
            [text.matches("data: [DONE]").count(), crossed.matches("\"message_stop\"").count()],
            [usize::from(good); 2],
            "{case}"
        );
        assert_eq!([text.contains("\"error\""), crossed.contains("event: error")], [!good; 2], "{case}");
        if good {
            assert_eq!(text, FRAMES.concat(), "{case}");
        } else if end == End::Clean && !open {
            assert!(text.contains("open_end = true"), "it says what to do: {case}");
        }
    }
}

/// What came first goes first, whether it was read together with what went wrong or before it.
#[tokio::test]
async fn an_error_behind_the_first_output_is_an_error_event_however_the_bytes_are_cut() {
    let error = "data: {\"error\":{\"message\":\"it broke\",\"type\":\"server_error\"}}\n\n";
    let frames = [FRAMES[0], FRAMES[1], error];
    let together = Say::sse(frames.concat());
    let apart = Say::frames(&frames, Duration::from_millis(30));
    let (first, bytewise) = (Say::sse([FRAMES[0], error].concat()), together.clone().bytewise());
    for (path, marks) in
        [("/v1/chat/completions", ["\"error\"", "[DONE]"]), ("/v1/messages", ["event: error", "message_stop"])]
    {
        let mut told = Vec::new();
        for say in [together.clone(), apart.clone(), bytewise.clone()] {
            let (upstream, other) = (Upstream::saying(say).await, Upstream::saying(Say::sse(FRAMES.concat())).await);
            let config = format!(
                "{}{}[models.m]\ntargets = [{{ provider = \"up\", model = \"m\" }}, {{ provider = \"other\", model = \"m\" }}]\n",
                upstream.provider("up", "openai_chat"),
                other.provider("other", "openai_chat"),
            );
            let gateway = Gateway::start(&config).await;
            let body = r#"{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"x"}]}"#;
            let answer = gateway.post(path, body).await;
            let text = answer.text();
            assert_eq!((answer.status, other.heard().len()), (200, 0), "{path}: {text}");
            assert!(text.contains("hé") && text.contains(marks[0]), "{path}: {text}");
            assert!(!text.contains(marks[1]), "{path}: {text}");
            told.push(text.split(marks[0]).next().unwrap_or_default().to_owned());
            // Before any output it is a failure like others: the next target answers.
            upstream.always(first.clone());
            let answer = gateway.post(path, body).await;
            assert_eq!((answer.status, other.heard().len()), (200, 1), "{path}: {}", answer.text());
            assert!(answer.text().contains(marks[1]), "{path}: {}", answer.text());
        }
        assert!(told.windows(2).all(|two| two[0] == two[1]), "{path}: {told:#?}");
    }
}

#[tokio::test]
async fn a_stream_that_dies_before_its_first_event_is_a_real_5xx() {
    let upstream = Upstream::saying(Say::frames(&FRAMES[..1], Duration::ZERO).end(End::Cut)).await;
    let gateway = Gateway::start(&upstream.provider("up", "openai_chat")).await;
    let answer = gateway.chat(r#"{"model":"up/m","stream":true,"messages":[{"role":"user","content":"x"}]}"#).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "upstream_disconnected");
}
