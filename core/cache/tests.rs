use std::{collections::HashSet, time::Instant};

use bytes::Bytes;

use super::{shelf::Room, *};
use crate::{
    auth::Principal,
    codec::{Field, Inbound, document::Document},
    context::Context,
    error::Kind,
    model::{Delta, Event, Finish, FinishReason, Format, Operation, Part, Response, fold::unfold},
};

fn caller(team: Option<&str>, key: &str) -> Arc<Principal> {
    Arc::new(Principal { team: team.map(Arc::from), key_id: key.into(), ..Principal::default() })
}

fn context(format: Format, principal: Arc<Principal>) -> Context {
    let until = Instant::now() + Duration::from_secs(60);
    Context::aside(Operation::Chat, format, principal, Vec::new(), until)
}

fn document(format: Format, body: &str) -> Document {
    Document::new(format, Bytes::copy_from_slice(body.as_bytes()), Inbound::default()).expect("a document")
}

fn key_of(body: &str) -> [u8; 32] {
    let mut cx = context(Format::OpenaiChat, caller(Some("lab"), "key_1"));
    cx.headers = vec![("user-agent".into(), "one".into())];
    Key::of(&cx, &mut document(Format::OpenaiChat, body), "p1", &["anthropic-beta"]).expect("a key").digest
}

fn plain_key(team: &str, n: u8) -> Key {
    Key { whose: Whose::Team(team.into()), digest: [n; 32] }
}

fn kept(text: &str, size: usize, born: Instant) -> Arc<Kept> {
    let given = Given::Said(Arc::new(Response::of_text(text)));
    let (target, earlier) = ("mock/mock".into(), Duration::ZERO);
    Arc::new(Kept { given, target, born, earlier, cost: OnceLock::new(), size })
}

fn text(kept: &Kept) -> String {
    match &kept.given {
        Given::Said(response) => response.text(),
        Given::Vectors(_) => String::new(),
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"x_new":1}"#;

#[test]
fn every_field_that_goes_upstream_makes_another_key() {
    let mut seen = HashSet::from([key_of(BODY)]);
    for other in [
        BODY.replace("\"hi\"", "\"ho\""),
        BODY.replace("0.5", "0.50"),
        BODY.replace("0.5", "0.4"),
        BODY.replace("\"m\"", "\"n\""),
        BODY.replace("x_new\":1", "x_new\":2"),
        BODY.replace("x_new", "x_old"),
        BODY.replace("\"x_new\":1", "\"seed\":1"),
        BODY.replace("\"x_new\":1", "\"n\":2"),
        BODY.replace("\"x_new\":1", "\"max_tokens\":2"),
        BODY.replace("\"x_new\":1", "\"user\":\"u\""),
        BODY.replace("\"x_new\":1", "\"x_new\":1,\"x_new\":2"),
        BODY.replace("\"x_new\":1", "\"x_new\":2,\"x_new\":1"),
        BODY.replace("\"x_new\":1", "\"stop\":[\"a\",\"b\"]"),
        BODY.replace("\"x_new\":1", "\"stop\":[\"ab\"]"),
    ] {
        assert!(seen.insert(key_of(&other)), "{other}");
    }
}

#[test]
fn how_an_answer_travels_makes_no_other_key() {
    for same in [
        BODY.replace("\"x_new\":1", "\"x_new\":1,\"stream\":true"),
        BODY.replace("\"x_new\":1", "\"x_new\":1,\"stream\":true,\"stream_options\":{\"include_usage\":true}"),
        BODY.replace("\"x_new\":1", "\"stream\":false,\"x_new\":1"),
        r#"{ "x_new": 1, "temperature": 0.5, "model": "m", "messages": [{"role":"user","content":"hi"}] }"#.to_owned(),
    ] {
        assert_eq!(key_of(BODY), key_of(&same), "{same}");
    }
}

#[test]
fn tenant_policy_format_headers_and_what_a_key_may_use_are_parts_of_the_key() {
    let of = |format: Format, principal: &Arc<Principal>, policy: &str, headers: &[(&str, &str)]| {
        let mut cx = context(format, principal.clone());
        cx.headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let body = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
        Key::of(&cx, &mut document(format, body), policy, &["anthropic-beta"]).expect("a key").digest
    };
    let lab = caller(Some("lab"), "key_1");
    let first = of(Format::OpenaiChat, &lab, "p1", &[]);
    assert_eq!(first, of(Format::OpenaiChat, &caller(Some("lab"), "key_2"), "p1", &[("user-agent", "x")]));
    let lists = |names: &[&str]| {
        let models = names.iter().map(|n| (*n).to_owned()).collect();
        let scope = crate::config::Scope::Key("key_3".into());
        let allowed = crate::auth::Allowed { scope, models };
        Arc::new(Principal { models: [allowed].into(), ..(*lab).clone() })
    };
    let mut seen = HashSet::from([first]);
    for other in [
        of(Format::OpenaiChat, &caller(Some("other"), "key_1"), "p1", &[]),
        of(Format::OpenaiChat, &caller(None, "lab"), "p1", &[]),
        of(Format::OpenaiChat, &caller(None, "key_1"), "p1", &[]),
        of(Format::OpenaiChat, &lab, "p2", &[]),
        of(Format::AnthropicMessages, &lab, "p1", &[]),
        of(Format::OpenaiChat, &lab, "p1", &[("anthropic-beta", "a")]),
        of(Format::OpenaiChat, &lab, "p1", &[("anthropic-beta", "b")]),
        of(Format::OpenaiChat, &lists(&["m"]), "p1", &[]),
        of(Format::OpenaiChat, &lists(&["m", "n"]), "p1", &[]),
    ] {
        assert!(seen.insert(other));
    }
}

#[test]
fn a_request_is_known_as_stages_left_it() {
    let cx = context(Format::OpenaiChat, caller(Some("lab"), "key_1"));
    let redacted = |mail: &str, to: &str| {
        let mut document = document(Format::OpenaiChat, &BODY.replace("\"hi\"", &format!("\"mail {mail}\"")));
        let request = document.edit(Field::Messages).expect("readable");
        request.messages[0].parts = vec![Part::text(format!("mail {to}"))];
        Key::of(&cx, &mut document, "p1", &[]).expect("a key").digest
    };
    let first = redacted("a@x.org", "[1]");
    assert_eq!(first, redacted("b@y.org", "[1]"), "what was taken out makes no difference");
    assert_ne!(first, redacted("a@x.org", "[2]"));
}

#[test]
fn tools_that_providers_run_are_seen() {
    let runs = |body: &str| document(Format::OpenaiChat, body).runs_tools().expect("readable");
    let with = |more: &str| BODY.replace("\"x_new\":1", more);
    assert!(!runs(BODY));
    assert!(!runs(&with(r#""tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#)));
    assert!(runs(&with(r#""web_search_options":{}"#)));
    let body = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}],"tools":[{"type":"web_search_20250305","name":"web_search"}]}"#;
    assert!(document(Format::AnthropicMessages, body).runs_tools().expect("readable"));
}

#[test]
fn memory_is_bounded_in_bytes_and_keeps_what_is_asked_for() {
    let (shelf, now) = (Shelf::default(), Instant::now());
    shelf.set_bound(10_000);
    let long = Duration::from_secs(3600);
    let mut evicted = 0;
    for n in 0..=255 {
        let Room { evicted: more, bytes } = shelf.put(plain_key("lab", n), kept("x", 1_000, now));
        evicted += more;
        assert!(bytes <= 10_000, "{bytes}");
        // The first is asked for again and again.
        assert!(shelf.look(&plain_key("lab", 0), (long, long), now).is_some(), "{n}");
    }
    assert_eq!((shelf.count(), evicted, shelf.bytes()), (10, 246, 10_000));
    assert_eq!(shelf.put(plain_key("lab", 9), kept("x", 10_001, now)).evicted, 0, "too large to be kept at all");
    assert_eq!(shelf.count(), 10);
}

#[test]
fn an_answer_that_is_too_old_is_gone() {
    let (shelf, now) = (Shelf::default(), Instant::now());
    let key = plain_key("lab", 1);
    shelf.put(key.clone(), kept("x", 10, now));
    let later = now + Duration::from_secs(60);
    let secs = |most, ttl| (Duration::from_secs(most), Duration::from_secs(ttl));
    assert!(shelf.look(&key, secs(61, 61), later).is_some());
    assert!(shelf.look(&key, secs(60, 61), later).is_none(), "one asks for a newer one");
    assert!(shelf.look(&key, secs(61, 61), later).is_some(), "and others do not");
    assert!(shelf.look(&key, secs(61, 60), later).is_none());
    assert!(shelf.look(&key, secs(61, 61), later).is_none(), "it was let go of");
    assert_eq!((shelf.count(), shelf.bytes()), (0, 0));
}

#[test]
fn equal_digests_of_two_tenants_are_two_answers() {
    let (shelf, now) = (Shelf::default(), Instant::now());
    let long = (Duration::from_secs(60), Duration::from_secs(60));
    shelf.put(plain_key("lab", 1), kept("lab's", 10, now));
    assert!(shelf.look(&plain_key("other", 1), long, now).is_none());
    let own = Key { whose: Whose::Key("lab".into()), digest: [1; 32] };
    assert!(shelf.look(&own, long, now).is_none());
    shelf.put(own.clone(), kept("the key's", 10, now));
    assert_eq!(text(&shelf.look(&own, long, now).expect("kept")), "the key's");
    assert_eq!(shelf.flush(Some(&Whose::Team("lab".into()))), 1);
    assert!(shelf.look(&own, long, now).is_some());
    assert_eq!(shelf.flush(None), 1);
    assert_eq!((shelf.count(), shelf.bytes()), (0, 0));
}

#[test]
fn no_answer_crosses_tenants_or_policies_in_twenty_thousand_tries() {
    let cache = Arc::new(Cache::default());
    let long = Duration::from_secs(60);
    let (mut seed, mut hits) = (7u64, 0);
    let mut lot = |most: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % most
    };
    for n in 0..20_000u64 {
        // The policy changes now and then; names of teams and keys are alike on purpose.
        let policy = format!("p{}", n / 5_000);
        let (name, asked) = (format!("t{}", lot(5)), lot(20));
        let principal = if lot(2) == 0 { caller(Some(&name), "key") } else { caller(None, &name) };
        let mine = format!("{:?} {policy} {asked}", Whose::of(&principal));
        let cx = context(Format::OpenaiChat, principal);
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{asked}"}}]}}"#);
        let key = Key::of(&cx, &mut document(Format::OpenaiChat, &body), &policy, &[]).expect("a key");
        match cache.look(&key, long, long) {
            Some(kept) => {
                assert_eq!(text(&kept), mine);
                hits += 1;
            }
            None => {
                let leading = cache.alone(&key, 1 << 20);
                leading.flight().push_whole(&Response::of_text(&*mine));
                assert!(leading.landed(&"mock/mock".into(), None).is_some());
            }
        }
    }
    assert_eq!(hits, 20_000 - 4 * 10 * 20, "each tenant's question was asked once a policy");
}

/// Of an answer, as its leader's stage sees it.
async fn play(flight: &Flight, events: impl IntoIterator<Item = Event>) {
    for event in events {
        flight.push(event).await;
    }
}

fn lead(cache: &Arc<Cache>, key: &Key) -> Leading {
    let Boarding::Lead(leading) = cache.board(key, 1 << 20) else { panic!("it leads") };
    leading
}

fn follow(cache: &Arc<Cache>, key: &Key) -> Follower {
    let Boarding::Follow(follower) = cache.board(key, 1 << 20) else { panic!("it follows") };
    follower
}

async fn hear(follower: &mut Follower) -> (Vec<Event>, Heard) {
    let mut events = Vec::new();
    loop {
        match follower.next().await {
            Heard::Event(event) => events.push(event),
            Heard::Again => events.clear(),
            end => return (events, end),
        }
    }
}

#[tokio::test]
async fn who_comes_late_hears_an_answer_from_its_beginning() {
    let (cache, key) = (Arc::new(Cache::live()), plain_key("lab", 1));
    let leading = lead(&cache, &key);
    let events = unfold(&Response::of_text("one two three"));
    let mut early = follow(&cache, &key);
    play(leading.flight(), events[..3].iter().cloned()).await;
    early.committed().await.expect("there is output");
    let mut late = follow(&cache, &key);
    play(leading.flight(), events[3..].iter().cloned()).await;
    for follower in [&mut early, &mut late] {
        let (heard, end) = hear(follower).await;
        assert_eq!(heard, events);
        assert!(matches!(end, Heard::Complete));
    }
    let mut after = follow(&cache, &key);
    assert_eq!(after.whole().await.expect("whole").text(), "one two three");
    let landed = leading.landed(&"mock/mock".into(), None).expect("it is kept");
    assert_eq!(text(&landed.kept), "one two three");
    assert!(cache.look(&key, MINUTE, MINUTE).is_some());
    assert!(matches!(cache.board(&key, 1), Boarding::Lead(_)), "what has landed is joined by nobody");
}

#[tokio::test]
async fn a_flight_that_fails_is_led_anew_and_what_its_upstream_said_is_told() {
    let (cache, key) = (Arc::new(Cache::live()), plain_key("lab", 1));
    let leading = lead(&cache, &key);
    let mut follower = follow(&cache, &key);
    drop(leading);
    assert!(matches!(follower.committed().await, Err(None)));
    let leading = lead(&cache, &key);
    let mut follower = follow(&cache, &key);
    leading.failed(Some(Error::new(Kind::Upstream, "it died")));
    assert_eq!(follower.whole().await.expect_err("failed").expect("told").message, "it died");
    assert!(matches!(cache.board(&key, 1), Boarding::Lead(_)));
    assert!(cache.look(&key, MINUTE, MINUTE).is_none());
}

#[tokio::test]
async fn another_attempt_begins_the_answer_anew() {
    let (cache, key) = (Arc::new(Cache::live()), plain_key("lab", 1));
    let leading = lead(&cache, &key);
    let mut follower = follow(&cache, &key);
    play(leading.flight(), unfold(&Response::of_text("wrong")).into_iter().take(3)).await;
    let Heard::Event(_) = follower.next().await else { panic!("it hears") };
    leading.flight().begin();
    let right = unfold(&Response::of_text("right"));
    play(leading.flight(), right.clone()).await;
    let (heard, end) = hear(&mut follower).await;
    assert_eq!(heard, right);
    assert!(matches!(end, Heard::Complete));
    assert_eq!(text(&leading.landed(&"mock/mock".into(), None).expect("kept").kept), "right");
}

#[tokio::test]
async fn only_what_ended_well_and_is_its_leaders_is_kept() {
    let with = |reason| {
        let mut response = Response::of_text("x");
        response.choices[0].finish = Some(Finish::new(reason, "raw"));
        response
    };
    let mut endless = Response::of_text("x");
    endless.choices[0].finish = None;
    let mut refusal = Response::of_text("x");
    refusal.choices[0].parts = vec![Part::Refusal("no".into())];
    let mut second = Response::of_text("x");
    second.choices.push(crate::model::Choice { index: 1, ..second.choices[0].clone() });
    second.choices[1].finish = Some(Finish::new(FinishReason::Length, "length"));
    let cases = [
        (with(FinishReason::Stop), true),
        (with(FinishReason::ToolCalls), true),
        (with(FinishReason::Length), false),
        (with(FinishReason::ContentFilter), false),
        (with(FinishReason::Malformed), false),
        (with(FinishReason::Other), false),
        (endless, false),
        (refusal, false),
        (second, false),
        (Response::default(), false),
    ];
    let cache = Arc::new(Cache::live());
    for (n, (response, good)) in (0u8..).zip(cases) {
        let whole = cache.alone(&plain_key("whole", n), 1 << 20);
        whole.flight().push_whole(&response);
        assert_eq!(whole.landed(&"a/b".into(), None).is_some(), good, "{n} whole");
        let streamed = cache.alone(&plain_key("streamed", n), 1 << 20);
        play(streamed.flight(), unfold(&response)).await;
        assert_eq!(streamed.landed(&"a/b".into(), None).is_some(), good, "{n} streamed");
        let cut = cache.alone(&plain_key("cut", n), 1 << 20);
        play(cut.flight(), unfold(&response).into_iter().filter(|e| *e != Event::End)).await;
        assert!(cut.landed(&"a/b".into(), None).is_none(), "{n} without its end");
    }
    let superseded = cache.alone(&plain_key("next", 0), 1 << 20);
    superseded.flight().push_whole(&with(FinishReason::Stop));
    superseded.flight().begin();
    assert!(superseded.landed(&"a/b".into(), None).is_none(), "its leader went on to another");
    let large = cache.alone(&plain_key("large", 0), 600);
    large.flight().push_whole(&Response::of_text("x".repeat(1_000)));
    assert!(large.landed(&"a/b".into(), None).is_none(), "too large");
}

#[tokio::test]
async fn what_was_flushed_while_it_flew_is_not_kept() {
    let (cache, key) = (Arc::new(Cache::live()), plain_key("lab", 1));
    let leading = lead(&cache, &key);
    let mut follower = follow(&cache, &key);
    cache.flush(Some(&key.whose)).await.expect("memory is emptied");
    assert!(matches!(cache.board(&key, 1), Boarding::Lead(_)), "nobody joins what was asked before");
    leading.flight().push_whole(&Response::of_text("old"));
    assert_eq!(follower.whole().await.expect("who followed hears it").text(), "old");
    assert!(leading.landed(&"a/b".into(), None).is_none());
    assert!(cache.look(&key, MINUTE, MINUTE).is_none());
}

#[tokio::test]
async fn nobody_is_left_when_the_last_one_leaves() {
    let (cache, key) = (Arc::new(Cache::live()), plain_key("lab", 1));
    let leading = lead(&cache, &key);
    leading.flight().is_deserted().await;
    let (one, two) = (follow(&cache, &key), follow(&cache, &key));
    assert!(leading.flight().is_followed());
    drop(one);
    assert!(leading.flight().is_followed());
    drop(two);
    leading.flight().is_deserted().await;
}

#[tokio::test]
async fn a_long_answer_is_held_only_as_far_as_somebody_has_to_hear_it() {
    let (cache, key) = (Arc::new(Cache::live()), plain_key("lab", 1));
    let Boarding::Lead(leading) = cache.board(&key, 1_000) else { panic!("it leads") };
    let mut reads = follow(&cache, &key);
    let mut stalls = follow(&cache, &key);
    let delta = |n: usize| Event::Delta { choice: 0, index: 0, delta: Delta::Text(format!("{n:>100}")) };
    let flight = leading.flight().clone();
    let writing = play(&flight, (0..200).map(delta).chain([Event::End]));
    // Who stalls is waited for, and then no more: time passes when both wait.
    let both = futures_util::future::join(writing, hear(&mut reads));
    let ((), (heard, end)) = clock::virtually(Instant::now(), std::time::SystemTime::now(), both).await;
    assert_eq!(heard.len(), 201, "the reader lost nothing");
    assert!(matches!(end, Heard::Complete));
    let (heard, end) = hear(&mut stalls).await;
    assert!(heard.is_empty());
    assert!(matches!(end, Heard::Failed(Some(error)) if error.message.contains("read too slowly")));
    assert!(matches!(cache.board(&key, 1), Boarding::Lead(_)), "it is too late for others");
    assert!(leading.landed(&"a/b".into(), None).is_none());
}
