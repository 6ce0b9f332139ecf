//! Promise 24 for what comes from upstreams: an event's limit is the configured one on every way, and answers that are read
//! whole share the memory of all bodies.

use crate::{
    family::{FAMILIES, Openai},
    support::{Gateway, Say, Upstream, begin, eventually},
};

#[tokio::test]
async fn every_way_from_format_to_format_follows_max_event() {
    for upstream_family in FAMILIES {
        // A quarter of a megabyte: far below what codecs take by themselves.
        let event = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(300_000));
        let upstream = Upstream::saying(Say::sse(event)).await;
        let limit = "[server]\nlisten = \"127.0.0.1:0\"\nmax_event = \"256KiB\"\n";
        let gateway = Gateway::start(&format!("{limit}{}", upstream.provider("up", upstream_family.format()))).await;
        for client in FAMILIES {
            let answer = gateway.post(&client.path("up/m", true), &client.body("up/m", true, "x")).await;
            assert_eq!(answer.status, 502, "{client:?} to {upstream_family:?}: {}", answer.text());
            assert!(answer.text().contains("over 262144 bytes"), "{client:?}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn answers_read_whole_count_as_bodies_until_the_client_has_them() {
    let upstream = Upstream::start().await;
    let server = "[server]\nlisten = \"127.0.0.1:0\"\nmax_body = \"64KiB\"\nbody_memory = \"12MiB\"\n";
    let gateway = Gateway::start(&format!("{server}{}", upstream.provider("up", "openai_chat"))).await;
    let ask = |family: crate::family::Family| (family.path("up/m", false), family.body("up/m", false, "x"));

    // Larger than everything together.
    upstream.then(Say::json(Openai.whole(&"x".repeat(13 << 20))));
    let (path, body) = ask(Openai);
    let refused = gateway.post(&path, &body).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("as its memory allows"), "{}", refused.text());

    upstream.always(Say::json(Openai.whole(&"x".repeat(8 << 20))));
    for family in FAMILIES {
        let (path, body) = ask(family);
        // It reads nothing: the answer stays in the gateway.
        let slow = begin(gateway.addr, "POST", &path, &[], body.as_bytes()).await;
        eventually("the answer is held", async || gateway.post(&path, &body).await.status == 503).await;
        drop(slow);
        eventually("the memory is free again", async || gateway.post(&path, &body).await.status == 200).await;
    }
}
