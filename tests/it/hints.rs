//! What stages keep in `kv`, through the real process: it is written behind requests, and there again at the next start.

use crate::support::{Process, request};

const CONFIG: &str = "[store]\nkind = \"sled\"\n[auth]\nrequired = false\n";
const COUNT: &str = "fn request(request, context) { return respond(`seen ${context.kv.incr(\"seen\")} of ${context.kv.get(\"name\")}`); }\n\
     fn log(record, context) { context.kv.set(\"name\", \"tide\"); }\n";

async fn ask(gateway: &Process) -> String {
    let body = br#"{"model":"mock","messages":[{"role":"user","content":"hi"}]}"#;
    let answer = request(gateway.addr, "POST", "/v1/chat/completions", &[], body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn what_a_script_keeps_is_there_after_a_restart() {
    let mut gateway = Process::start(CONFIG, &[("scripts/count.rhai", COUNT)]).await;
    assert!(ask(&gateway).await.starts_with("seen 1 of"));
    assert!(ask(&gateway).await.starts_with("seen 2 of"));
    gateway.restart().await;
    assert_eq!(ask(&gateway).await, "seen 3 of tide");
}
