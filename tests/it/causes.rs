//! What follows from a failed call goes by its cause: which list is tried next, what rests, and what the caller hears.

use std::time::Duration;

use serde_json::Value;

use crate::{
    family::{Anthropic, FAMILIES, Family, Openai},
    support::{Answer, End, Gateway, Say, Upstream, eventually},
};

/// Upstreams `a`, `b`, `c` of one format, and the alias `all` over the first two; `more`: keys of the alias.
async fn three(family: Family, says: [Say; 3], more: &str) -> ([Upstream; 3], Gateway) {
    let [a, b, c] = says;
    let all = [Upstream::saying(a).await, Upstream::saying(b).await, Upstream::saying(c).await];
    let tables: String = all.iter().zip(["a", "b", "c"]).map(|(up, name)| up.provider(name, family.format())).collect();
    let targets = "targets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]";
    let gateway = Gateway::start(&format!("{tables}[models.all]\n{targets}\nretries = 0\n{more}")).await;
    (all, gateway)
}

fn counts(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|u| u.heard().len()).collect()
}

fn fine(family: Family, stream: bool) -> Say {
    if stream { Say::sse(family.frames(&["fine"]).concat()) } else { Say::json(family.whole("fine")) }
}

fn said(family: Family, status: u16, message: &str) -> Say {
    Say::error(status, &family.error_body(status, message))
}

/// How each family says that a prompt is too long.
fn too_long(family: Family) -> Say {
    said(
        family,
        400,
        match family {
            Family::Openai => "This model's maximum context length is 8 tokens. However, your messages resulted in 9.",
            Family::Anthropic => "prompt is too long: 200001 tokens > 200000 maximum",
            Family::Gemini => "The input token count (9) exceeds the maximum number of tokens allowed (8).",
        },
    )
}

async fn explained(gateway: &Gateway, family: Family, stream: bool) -> (Answer, String) {
    let headers = [("content-type", "application/json"), ("x-portcullis-explain", "1")];
    let answer = gateway.post_with(&family.path("all", stream), &headers, &family.body("all", stream, "x")).await;
    let trace = answer.header("x-portcullis-explain").unwrap_or_default().to_owned();
    (answer, trace)
}

#[tokio::test]
async fn a_prompt_that_is_too_long_goes_to_the_context_failover_and_not_to_the_next_target() {
    let round = async |family: Family, stream: bool| {
        let says = [too_long(family), fine(family, stream), fine(family, stream)];
        let (upstreams, gateway) = three(family, says, "context_failover = [\"c/long\"]\n").await;
        let (answer, trace) = explained(&gateway, family, stream).await;
        assert_eq!((answer.status, family.text(&answer).as_str()), (200, "fine"), "{}", answer.text());
        assert_eq!(counts(&upstreams), [1, 0, 1], "{family:?}");
        assert_eq!(answer.header("x-portcullis-target"), Some("c/long"));
        assert!(trace.contains("context_failover") && trace.contains("c/long"), "{trace}");
    };
    for family in FAMILIES {
        tokio::join!(round(family, false), round(family, true));
    }
}

#[tokio::test]
async fn without_such_a_list_the_caller_hears_that_the_prompt_is_too_long() {
    for family in FAMILIES {
        let (upstreams, gateway) =
            three(family, [too_long(family), fine(family, false), fine(family, false)], "").await;
        // Asked in another family, so that the code is the gateway's own.
        let asking = if matches!(family, Family::Openai) { Anthropic } else { Openai };
        let answer = asking.ask(&gateway, "all", false).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(asking.error(&answer).code, "context_length_exceeded", "{}", answer.text());
        assert_eq!(counts(&upstreams), [1, 0, 0], "{family:?}");
    }
}

#[tokio::test]
async fn prompts_that_are_too_long_do_not_open_a_breaker() {
    let (upstreams, gateway) = three(Openai, [too_long(Openai), fine(Openai, false), fine(Openai, false)], "").await;
    for _ in 0..12 {
        assert_eq!(Openai.ask(&gateway, "all", false).await.status, 400);
    }
    assert_eq!(counts(&upstreams), [12, 0, 0]);
}

#[tokio::test]
async fn a_target_that_is_known_to_read_more_is_asked_without_any_list() {
    let (a, b) = (Upstream::saying(too_long(Openai)).await, Upstream::saying(fine(Openai, false)).await);
    let models = "[models.all]\ntargets = [{ provider = \"a\", model = \"gpt-4o\" }, { provider = \"b\", model = \"gpt-4.1\" }]\n";
    let gateway =
        Gateway::start(&format!("{}{}{models}", a.provider("a", "openai_chat"), b.provider("b", "openai_chat"))).await;
    let answer = Openai.ask(&gateway, "all", false).await;
    assert_eq!((answer.status, counts(&[a, b])), (200, vec![1, 1]), "{}", answer.text());
}

#[tokio::test]
async fn content_that_is_not_allowed_is_final_unless_a_list_says_otherwise() {
    let body =
        r#"{"error":{"message":"filtered","type":"invalid_request_error","param":null,"code":"content_filter"}}"#;
    let says = || [Say::error(400, body), fine(Openai, false), fine(Openai, false)];
    let (upstreams, gateway) = three(Openai, says(), "").await;
    let answer = Openai.ask(&gateway, "all", false).await;
    assert_eq!((answer.status, Openai.error(&answer).code.as_str()), (400, "content_filter"));
    assert_eq!(counts(&upstreams), [1, 0, 0]);
    let (upstreams, gateway) = three(Openai, says(), "content_failover = [\"c/free\"]\n").await;
    let (answer, trace) = explained(&gateway, Openai, false).await;
    assert_eq!((answer.status, counts(&upstreams)), (200, vec![1, 0, 1]), "{}", answer.text());
    assert!(trace.contains("content_failover"), "{trace}");
}

/// Answers that are a success, and empty: a filter kept all of it back.
fn withheld(family: Family, stream: bool) -> Say {
    let body = match family {
        Family::Openai if stream => {
            "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\ndata: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"content_filter\"}]}\n\ndata: [DONE]\n\n"
        }
        Family::Openai => {
            r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":null},"finish_reason":"content_filter"}],"usage":{"prompt_tokens":3,"completion_tokens":0,"total_tokens":3}}"#
        }
        Family::Anthropic if stream => {
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"refusal\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":1}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
        }
        Family::Anthropic => {
            r#"{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":"refusal","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}"#
        }
        Family::Gemini if stream => {
            "data: {\"promptFeedback\":{\"blockReason\":\"PROHIBITED_CONTENT\"},\"usageMetadata\":{\"promptTokenCount\":3,\"totalTokenCount\":3},\"modelVersion\":\"m\"}\n\n"
        }
        Family::Gemini => {
            r#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":3,"totalTokenCount":3},"modelVersion":"m"}"#
        }
    };
    if stream { Say::sse(body) } else { Say::json(body) }
}

#[tokio::test]
async fn an_answer_of_which_a_filter_left_nothing_goes_to_the_content_failover_too() {
    let round = async |family: Family, client: Family, stream: bool| {
        let says = || [withheld(family, stream), fine(family, stream), fine(family, stream)];
        let (upstreams, gateway) = three(family, says(), "content_failover = [\"c/free\"]\n").await;
        let (answer, trace) = explained(&gateway, client, stream).await;
        assert_eq!((answer.status, client.text(&answer).as_str()), (200, "fine"), "{family:?}: {}", answer.text());
        assert_eq!(counts(&upstreams), [1, 0, 1], "{family:?}");
        assert!(trace.contains("content_failover"), "{trace}");
        // Without a list it is an answer as any other.
        let (upstreams, gateway) = three(family, says(), "").await;
        let answer = client.ask(&gateway, "all", stream).await;
        assert_eq!((answer.status, counts(&upstreams)), (200, vec![1, 0, 0]), "{family:?}: {}", answer.text());
    };
    for family in FAMILIES {
        for client in FAMILIES {
            tokio::join!(round(family, client, false), round(family, client, true));
        }
    }
}

#[tokio::test]
async fn a_refusal_for_content_rests_no_key_whatever_its_status_is() {
    let flagged = r#"{"error":{"code":403,"message":"m requires moderation. Your input was flagged for violence.","metadata":{"reasons":["violence"]}}}"#;
    let says = [Say::error(403, flagged), fine(Openai, false), fine(Openai, false)];
    let (upstreams, gateway) = three(Openai, says, "content_failover = [\"c/free\"]\n").await;
    assert_eq!(Openai.ask(&gateway, "all", false).await.status, 200);
    assert_eq!(counts(&upstreams), [1, 0, 1]);
    // Asked in another family, so that the words are the gateway's own.
    let answer = Anthropic.ask(&gateway, "a/m", false).await;
    assert_eq!((answer.status, Anthropic.error(&answer).code.as_str()), (400, "content_policy_violation"));
}

#[tokio::test]
async fn when_the_list_fails_too_the_first_cause_is_told() {
    let says = [too_long(Openai), fine(Openai, false), Say::error(500, "{}")];
    let (upstreams, gateway) = three(Openai, says, "context_failover = [\"c/long\"]\n").await;
    let answer = Anthropic.ask(&gateway, "all", false).await;
    assert_eq!((answer.status, Anthropic.error(&answer).code.as_str()), (400, "context_length_exceeded"));
    assert_eq!(upstreams[1].heard().len(), 0);
}

#[tokio::test]
async fn an_account_without_credit_is_not_the_callers_fault_and_the_next_target_answers() {
    let low = "Your credit balance is too low to access the API. Please go to Plans & Billing.";
    let says = || [said(Anthropic, 400, low), fine(Anthropic, false), fine(Anthropic, false)];
    let (upstreams, gateway) = three(Anthropic, says(), "").await;
    assert_eq!(Anthropic.ask(&gateway, "all", false).await.status, 200);
    assert_eq!(counts(&upstreams), [1, 1, 0]);
    let answer = Openai.ask(&gateway, "a/m", false).await;
    assert_eq!((answer.status, Openai.error(&answer).code.as_str()), (429, "insufficient_quota"), "{}", answer.text());
}

#[tokio::test]
async fn a_refusal_that_is_the_requests_own_fault_ends_it() {
    let says = [said(Openai, 422, "no such parameter"), fine(Openai, false), fine(Openai, false)];
    let (upstreams, gateway) =
        three(Openai, says, "context_failover = [\"c/m\"]\ncontent_failover = [\"c/m\"]\n").await;
    assert_eq!(Openai.ask(&gateway, "all", false).await.status, 422);
    assert_eq!(counts(&upstreams), [1, 0, 0]);
}

// the minimum speed

/// Frames with output, one each so many milliseconds.
fn drip(family: Family, words: usize, pause: u64) -> Say {
    let pieces: Vec<&str> = std::iter::repeat_n("word ", words).collect();
    let frames = family.frames(&pieces);
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    Say::frames(&frames, Duration::from_millis(pause))
}

const FAST: &str = "min_speed = { tokens_per_second = 20, over = \"1s\" }\n";

#[tokio::test]
async fn a_stream_that_drips_goes_to_the_next_target_before_anything_reached_the_client() {
    for family in FAMILIES {
        let says = [drip(family, 60, 400), fine(family, true), fine(family, true)];
        let (upstreams, gateway) = three(family, says, FAST).await;
        let (answer, trace) = explained(&gateway, family, true).await;
        assert_eq!((answer.status, family.text(&answer).as_str()), (200, "fine"), "{}", answer.text());
        assert_eq!(family.terminals(&answer), 1, "{}", answer.text());
        assert_eq!(counts(&upstreams), [1, 1, 0]);
        assert!(trace.contains("too_slow"), "{trace}");
        upstreams[0].is_cancelled(1).await;
    }
}

#[tokio::test]
async fn a_fast_stream_and_a_short_one_pass_whole() {
    for family in FAMILIES {
        let (upstreams, gateway) =
            three(family, [drip(family, 40, 2), fine(family, true), fine(family, true)], FAST).await;
        let answer = family.ask(&gateway, "all", true).await;
        assert_eq!(family.text(&answer), "word ".repeat(40), "{}", answer.text());
        upstreams[0].always(fine(family, true));
        assert_eq!(family.text(&family.ask(&gateway, "all", true).await), "fine");
        assert_eq!(counts(&upstreams), [2, 0, 0]);
    }
}

#[tokio::test]
async fn a_stream_that_becomes_slow_later_goes_on_and_the_record_tells() {
    let mut say = drip(Openai, 40, 0);
    let last = say.chunks.len() - 1;
    // After the first thirty words it stalls for longer than its window.
    say.chunks[last - 4].0 = Duration::from_millis(2500);
    let (upstreams, gateway) = three(Openai, [say, fine(Openai, true), fine(Openai, true)], FAST).await;
    let answer = Openai.ask(&gateway, "all", true).await;
    assert_eq!((Openai.text(&answer), Openai.terminals(&answer)), ("word ".repeat(40), 1), "{}", answer.text());
    assert_eq!(counts(&upstreams), [1, 0, 0]);
    let record: Value = gateway.record(1).await;
    let id = record["id"].as_str().expect("an id").to_owned();
    let whole = gateway.admin("GET", &format!("/api/v1/requests/{id}"), "").await.text();
    assert!(whole.contains("slower than it should be"), "{whole}");
}

#[tokio::test]
async fn where_every_target_is_too_slow_the_caller_hears_so() {
    let says = [drip(Openai, 60, 400), drip(Openai, 60, 400), fine(Openai, true)];
    let (_upstreams, gateway) = three(Openai, says, FAST).await;
    let answer = Openai.ask(&gateway, "all", true).await;
    assert_eq!((answer.status, Openai.error(&answer).code.as_str()), (504, "too_slow"), "{}", answer.text());
}

#[tokio::test]
async fn a_connection_that_breaks_before_output_is_a_failure_of_the_network_and_another_target_answers() {
    let [lead, ..] = &Openai.frames(&["half"])[..] else { panic!("frames") };
    let cut = Say::frames(&[lead], Duration::ZERO).end(End::Cut);
    let (upstreams, gateway) = three(Openai, [cut, fine(Openai, true), fine(Openai, true)], "").await;
    let answer = Openai.ask(&gateway, "all", true).await;
    assert_eq!((answer.status, Openai.text(&answer).as_str(), counts(&upstreams)), (200, "fine", vec![1, 1, 0]));
}

// active health checks

async fn checked(say: Say) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let open = upstream.provider("a", "openai_chat");
    let keyed = open.replace("auth = \"none\"\n", "auth = \"bearer\"\nkey = \"file:up.key\"\n");
    let alias = "[models.all]\nretries = 0\ntargets = [{ provider = \"a\", model = \"m\" }]\n";
    let health = "health = { every = \"1s\", timeout = \"2s\" }\n";
    let gateway = Gateway::with(&format!("{keyed}{health}{alias}"), &[("up.key", "sk-own")]).await;
    (upstream, gateway)
}

async fn circuit(gateway: &Gateway) -> String {
    let models = gateway.admin("GET", "/api/v1/models", "").await.json();
    models["data"][0]["health"][0]["circuit"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_provider_that_is_down_is_known_before_a_request_meets_it() {
    let (upstream, gateway) = checked(Say::error(503, "{}")).await;
    eventually("the breaker opens", async || circuit(&gateway).await == "open").await;
    let heard = upstream.heard();
    assert!(heard.iter().all(|call| (call.method.as_str(), call.path.as_str()) == ("GET", "/v1/models")), "{heard:?}");
    assert!(heard.iter().all(|call| call.header("authorization") == Some("Bearer sk-own")), "the provider's own key");
    let (answer, _) = explained(&gateway, Openai, false).await;
    assert_eq!(answer.status, 503);
    assert!(upstream.heard().iter().all(|call| call.method == "GET"), "no request met it");
    let providers = gateway.admin("GET", "/api/v1/providers", "").await.text();
    assert!(providers.contains("failed: upstream_overloaded"), "{providers}");
    let records = gateway.admin("GET", "/api/v1/requests", "").await.json();
    assert_eq!(records["data"].as_array().map(Vec::len), Some(1), "checks are nobody's requests: {records}");
}

/// Of two targets at one provider the second is asked itself.
async fn asked_itself(quota: &str, say: Say) -> (Upstream, Gateway) {
    let upstream = Upstream::saying(say).await;
    let open = upstream.provider("a", "openai_chat");
    let keyed = open.replace("auth = \"none\"\n", "auth = \"bearer\"\nkey = \"file:up.key\"\n");
    let health = format!("health = {{ every = \"1s\", timeout = \"2s\" }}{quota}");
    let targets = format!("{{ provider = \"a\", model = \"m\" }}, {{ provider = \"a\", model = \"n\", {health} }}");
    let alias = format!("[models.all]\nretries = 0\ntargets = [{targets}]\n");
    let gateway = Gateway::with(&format!("{keyed}{alias}"), &[("up.key", "sk-own")]).await;
    (upstream, gateway)
}

async fn circuits(gateway: &Gateway) -> Vec<String> {
    let models = gateway.admin("GET", "/api/v1/models", "").await.json();
    let targets = models["data"][0]["health"].as_array().cloned().unwrap_or_default();
    targets.iter().map(|target| target["circuit"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_model_that_is_down_is_known_by_itself_and_found_again_without_a_request() {
    let (upstream, gateway) = asked_itself("", Say::error(503, "{}")).await;
    eventually("the second one's breaker opens", async || circuits(&gateway).await == ["closed", "open"]).await;
    for call in upstream.heard() {
        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/v1/chat/completions"));
        assert_eq!((&call.json()["model"], call.header("authorization")), (&"n".into(), Some("Bearer sk-own")));
    }
    upstream.always(fine(Openai, false));
    // Ten seconds of rest, and then a check is the probe.
    eventually("a check closes it", async || circuits(&gateway).await == ["closed", "closed"]).await;
    let records = gateway.admin("GET", "/api/v1/requests", "").await.json();
    assert_eq!(records["data"].as_array().map(Vec::len), Some(0), "checks are nobody's requests: {records}");
    let (_, trace) = explained(&gateway, Openai, false).await;
    assert!(trace.contains("a/n: the check") && trace.contains("passed"), "{trace}");
}

#[tokio::test]
async fn a_check_uses_what_its_provider_grants_and_no_more() {
    let quota = ", quota = { requests = 2, per = \"1h\" }";
    let (upstream, gateway) = asked_itself(quota, fine(Openai, false)).await;
    upstream.hears(2).await;
    eventually("the quota is used up", async || {
        let quotas = gateway.admin("GET", "/api/v1/quotas", "").await.json();
        quotas["data"][0]["left"] == 0
    })
    .await;
    let before = upstream.heard().len();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!((before, upstream.heard().len()), (2, 2), "nobody is asked beyond it");
    assert_eq!(circuits(&gateway).await, ["closed", "closed"]);
}

#[tokio::test]
async fn a_check_that_passes_is_told_and_one_that_is_refused_is_no_illness() {
    for say in [Say::json("{\"data\":[]}"), Say::error(404, "{}"), Say::error(401, "{}")] {
        let (upstream, gateway) = checked(say).await;
        upstream.hears(3).await;
        assert_eq!(circuit(&gateway).await, "closed");
        upstream.always(fine(Openai, false));
        let (answer, trace) = explained(&gateway, Openai, false).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(trace.contains("passed"), "{trace}");
    }
}
