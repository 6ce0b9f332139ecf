//! The host's side of the imports, called as a guest would call them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use serde_json::{Map, Value, json};

use super::super::{
    Outbound, OutboundError,
    bind::portcullis::plugin::{config, context, facts, http, kv, metrics},
    grant::Grants,
    state::{Guest, Shared},
};
use crate::{
    auth::Principal,
    context::{Context, Step},
    model::Format,
    pipeline::{Effects, Phase},
};

/// Remembers what went out, with how long and how much it may take.
#[derive(Default)]
struct Post(Mutex<Vec<String>>, Mutex<Vec<(Duration, usize)>>);

impl Outbound for Post {
    fn send(
        &self,
        request: ::http::Request<Bytes>,
        timeout: Duration,
        most: usize,
    ) -> BoxFuture<'static, Result<::http::Response<Bytes>, OutboundError>> {
        self.0.lock().unwrap().push(request.uri().to_string());
        self.1.lock().unwrap().push((timeout, most));
        Box::pin(std::future::ready(Ok(::http::Response::new(Bytes::from_static(b"yes")))))
    }
}

fn shared(grants: &[&str], config: Value, effects: &Effects, outbound: Option<Arc<dyn Outbound>>) -> Arc<Shared> {
    let grants: Vec<String> = grants.iter().map(|g| (*g).to_owned()).collect();
    let config = config.as_object().cloned().unwrap_or_default();
    Arc::new(Shared {
        name: "plugins/guest.wasm".into(),
        config_text: Value::Object(config.clone()).to_string(),
        config,
        grants: Grants::new(&grants),
        effects: effects.clone(),
        outbound,
        reads_context: true,
    })
}

fn context_of(team: &str) -> Context {
    let mut cx = crate::script::suite::context(&Map::new(), Format::OpenaiChat).unwrap();
    cx.principal = Arc::new(Principal { team: Some(team.into()), ..Principal::default() });
    cx
}

fn guest_for(shared: &Arc<Shared>, team: &str) -> Guest {
    let mut guest = Guest::new(shared.clone(), 1 << 20);
    guest.begin(Phase::Request, &context_of(team), 12);
    guest
}

/// Promise 17: nothing of one tenant is visible to another.
#[test]
fn kv_is_the_tenants_own_and_outlives_an_instance() {
    let shared = shared(&["kv"], json!({}), &Effects::live(), None);
    let (mut red, mut blue) = (guest_for(&shared, "red"), guest_for(&shared, "blue"));
    kv::Host::set(&mut red, "k".into(), "secret".into(), None).unwrap();
    assert_eq!(kv::Host::get(&mut red, "k".into()).as_deref(), Some("secret"));
    assert_eq!(kv::Host::get(&mut blue, "k".into()), None);
    assert_eq!(kv::Host::get(&mut guest_for(&shared, "red"), "k".into()).as_deref(), Some("secret"));
    assert_eq!(kv::Host::increment(&mut blue, "n".into(), 2, Some(60)), Ok(2));
    assert_eq!(kv::Host::increment(&mut blue, "n".into(), 3, None), Ok(5));
    assert!(kv::Host::increment(&mut red, "k".into(), 1, None).is_err());
    assert!(kv::Host::set(&mut red, "k".into(), "x".repeat(5000), None).is_err());
    kv::Host::remove(&mut red, "k".into());
    assert_eq!(kv::Host::get(&mut red, "k".into()), None);
}

#[test]
fn notes_and_variables_reach_the_request_and_are_bounded() {
    let shared = shared(&[], json!({}), &Effects::dry(), None);
    let (mut guest, mut cx) = (guest_for(&shared, "red"), context_of("red"));
    for _ in 0..100 {
        context::Host::note(&mut guest, "é".repeat(1000));
    }
    context::Host::set_var(&mut guest, "score".into(), "3".into()).unwrap();
    assert!(context::Host::set_var(&mut guest, "bad".into(), "{".into()).is_err());
    for n in 0..300 {
        let _ = context::Host::set_var(&mut guest, n.to_string(), "1".into());
    }
    guest.end(&mut cx);
    let notes: Vec<_> =
        cx.trace.steps.iter().filter(|s| matches!(s, Step::Note { text, .. } if text.len() <= 500)).collect();
    assert_eq!((notes.len(), cx.vars.len()), (64, 256));
    assert_eq!(cx.vars["score"], json!(3));
    // After a call the guest knows nothing of the request any more.
    assert_eq!(context::Host::current(&mut guest).team, None);
    assert_eq!(facts::Host::get(&mut guest, "phase".into()), None);
}

#[test]
fn facts_and_configuration_are_told_by_name() {
    let shared = shared(&[], json!({"greeting": "servus", "list": [1, 2]}), &Effects::dry(), None);
    let mut guest = guest_for(&shared, "red");
    assert_eq!(config::Host::value(&mut guest, "greeting".into()).as_deref(), Some("servus"));
    assert_eq!(config::Host::value(&mut guest, "list".into()).as_deref(), Some("[1,2]"));
    assert_eq!(config::Host::value(&mut guest, "none".into()), None);
    assert_eq!(config::Host::get(&mut guest), "{\"greeting\":\"servus\",\"list\":[1,2]}");
    let mut fact = |name: &str| facts::Host::get(&mut guest, name.into());
    assert_eq!(fact("phase").as_deref(), Some("request"));
    assert_eq!(fact("stage").as_deref(), Some("plugins/guest.wasm"));
    assert_eq!(fact("request.bytes").as_deref(), Some("12"));
    assert_eq!(fact("of.the.future"), None);
    assert_eq!(context::Host::current(&mut guest).team.as_deref(), Some("red"));
    assert!(context::Host::may_use(&mut guest, "mock".into()));
}

#[test]
fn calls_leave_for_granted_hosts_and_no_others() {
    let post = Arc::new(Post::default());
    let shared = shared(&["http:api.example.com"], json!({}), &Effects::live(), Some(post.clone()));
    let mut guest = guest_for(&shared, "red");
    let call = |url: &str, header: &str| http::Call {
        method: "POST".into(),
        url: url.into(),
        headers: vec![(header.into(), "x".into())],
        body: b"hi".to_vec(),
        timeout_ms: None,
    };
    let mut send = |url: &str, header: &str| http::Host::send(&mut guest, call(url, header)).now_or_never().unwrap();
    let answer = send("https://api.example.com/check", "authorization").unwrap();
    assert_eq!((answer.status, answer.body), (200, b"yes".to_vec()));
    for url in [
        "https://evil.example.com/",
        "https://api.example.com.evil.example/",
        "https://api.example.com@evil.example/",
        "https://api.example.com:8443/",
        "file:///etc/passwd",
        "ftp://api.example.com/",
        "no url",
    ] {
        assert!(matches!(send(url, "x-a"), Err(http::Failed::Refused(_))), "{url}");
    }
    assert!(matches!(send("https://api.example.com/", "host"), Err(http::Failed::Refused(_))));
    for _ in 0..20 {
        let _ = send("https://api.example.com/again", "x-a");
    }
    let sent = post.0.lock().unwrap();
    assert!(sent.len() <= 16 && sent.iter().all(|url| url.starts_with("https://api.example.com/")), "{sent:?}");
}

#[test]
fn a_dry_run_sends_nothing() {
    let shared = shared(&["http:api.example.com"], json!({}), &Effects::dry(), None);
    let call = http::Call {
        method: "GET".into(),
        url: "https://api.example.com/".into(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout_ms: None,
    };
    let outcome = http::Host::send(&mut guest_for(&shared, "red"), call).now_or_never().unwrap();
    assert!(matches!(outcome, Err(http::Failed::Refused(why)) if why.contains("dry run")));
}

#[test]
fn names_of_metrics_are_bounded_by_plugin_and_what_is_over_is_told_in_the_trace() {
    let mut shared = shared(&["metrics"], json!({}), &Effects::live(), None);
    // Names are counted for the whole process: this one is nobody else's.
    Arc::get_mut(&mut shared).unwrap().name = "plugins/measures.wasm".into();
    let (mut guest, mut cx) = (guest_for(&shared, "red"), context_of("red"));
    for n in 0..150 {
        metrics::Host::record(&mut guest, format!("name_{n}"), 1.0);
    }
    // Known names go on counting.
    metrics::Host::record(&mut guest, "name_0".into(), 2.0);
    for (name, value) in [("", 1.0), ("no spaces", 1.0), ("infinite", f64::INFINITY)] {
        metrics::Host::record(&mut guest, name.into(), value);
    }
    guest.end(&mut cx);
    let told = cx.trace.steps.iter().filter(|step| match step {
        Step::Note { text, .. } => text.contains("100 metric names"),
        _ => false,
    });
    assert_eq!(told.count(), 50);
    assert_eq!(cx.trace.steps.len(), 53);
}

#[test]
fn a_call_ends_with_the_guests_patience_the_gateways_or_the_requests_whichever_is_least() {
    let post = Arc::new(Post::default());
    let shared = shared(&["http:api.example.com"], json!({}), &Effects::live(), Some(post.clone()));
    let mut cx = context_of("red");
    let mut send = |timeout_ms: Option<u32>, left: Option<Duration>| {
        cx.deadline = left.map(|left| std::time::Instant::now() + left);
        let mut guest = Guest::new(shared.clone(), 1 << 20);
        guest.begin(Phase::Request, &cx, 0);
        let call = http::Call {
            method: "GET".into(),
            url: "https://api.example.com/".into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout_ms,
        };
        http::Host::send(&mut guest, call).now_or_never().unwrap().unwrap();
        post.1.lock().unwrap().pop().unwrap()
    };
    let seconds = Duration::from_secs;
    assert_eq!(send(None, None), (seconds(2), 1 << 20));
    assert_eq!(send(Some(500), None).0, Duration::from_millis(500));
    assert_eq!(send(Some(u32::MAX), None).0, seconds(10));
    assert_eq!(send(Some(0), None).0, Duration::from_millis(1));
    assert!(send(Some(u32::MAX), Some(seconds(3))).0 <= seconds(3));
    assert_eq!(send(Some(500), Some(seconds(3600))).0, Duration::from_millis(500));
    assert_eq!(send(None, Some(Duration::ZERO)).0, Duration::ZERO);
}
