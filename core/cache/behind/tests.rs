//! What lies behind memory: an answer comes back as it was, to its own question and tenant alone; damage, age and other versions are
//! misses; what was taken away stays away.

use std::{fs, path::Path, time::SystemTime};

use serde_json::{Map, Value, json};

use super::*;
use crate::{
    cache::{Given, weight},
    model::{
        Choice, Citation, Extra, Finish, FinishReason, Format, Media, MediaKind, MediaSource, Native, Part, Reasoning,
        Response, Signature, Text, ToolCall, ToolKind, ToolResult, Usage,
    },
};

const HOUR: Duration = Duration::from_secs(3600);
const SECRET: [u8; 32] = [7; 32];

fn key(team: &str, n: u8) -> Key {
    Key { whose: Whose::Team(team.into()), digest: [n; 32] }
}

fn kept(response: Response, earlier: Duration) -> Arc<Kept> {
    let size = weight::weight(&response);
    Arc::new(Kept {
        given: Given::Said(Arc::new(response)),
        target: "house/large".into(),
        born: clock::now(),
        earlier,
        cost: std::sync::OnceLock::from(Some(7)),
        size,
    })
}

fn said(kept: &Kept) -> &Response {
    let Given::Said(response) = &kept.given else { panic!("it is an answer") };
    response
}

/// With something in every field.
fn full() -> Response {
    let extra = |field: &str| {
        let fields: Map<String, Value> = serde_json::from_str(&format!(r#"{{"{field}":1.50,"n":1e400}}"#)).unwrap();
        Extra::new(Format::Gemini, fields)
    };
    let signature = Some(Signature { origin: Format::AnthropicMessages, data: "c2ln".into() });
    let citation = Citation {
        url: Some("https://a.example".into()),
        title: Some("A".into()),
        file: Some("file-1".into()),
        cited_text: Some("text".into()),
        start: Some(1),
        end: Some(4),
        native: Some((Format::OpenaiChat, json!({"type": "url_citation"}))),
    };
    let media = Media {
        name: Some("a.png".into()),
        cite: Some(true),
        ..Media::new(
            MediaKind::Image,
            Some("image/png".into()),
            MediaSource::Parts(vec![Part::text("in it"), Part::Refusal("no".into())]),
        )
    };
    let parts = vec![
        Part::Text(Text {
            text: "é\u{0}\u{1f600}".into(),
            citations: vec![citation],
            cache: None,
            signature,
            extra: extra("t"),
        }),
        Part::Reasoning(Reasoning { text: "hm".into(), sealed: None, signature: None, extra: Extra::default() }),
        Part::Media(media),
        Part::Media(Media::new(MediaKind::Audio, None, MediaSource::File { format: Format::Gemini, id: "f".into() })),
        Part::ToolCall(ToolCall {
            id: "c1".into(),
            name: "look".into(),
            kind: ToolKind::Custom,
            arguments: r#"{"at":1.50}"#.into(),
            signature: None,
            cache: None,
            extra: Extra::default(),
        }),
        Part::ToolResult(ToolResult {
            call_id: "c1".into(),
            name: None,
            kind: ToolKind::Function,
            parts: vec![Part::text("found")],
            object: Some(Map::from_iter([("a".to_owned(), json!([1, null]))])),
            is_error: Some(false),
            cache: None,
            extra: Extra::default(),
        }),
        Part::Native { format: Format::OpenaiResponses, kind: "code".into(), value: json!({"x": [1.0]}) },
    ];
    let mut usage = Usage { input_tokens: Some(3), output_tokens: Some(4), ..Usage::default() };
    usage.units_mut().web_searches = Some(2);
    usage.native = Some(Native::new(Format::Cohere, r#"{"billed":1}"#));
    let finish = Finish {
        stop_sequence: Some("\n".into()),
        details: Some(json!({"why": "so"})),
        ..Finish::new(FinishReason::ToolCalls, "tool_use")
    };
    let choice =
        Choice { index: 1, parts, finish: Some(finish), logprobs: Some(json!({"content": []})), extra: extra("c") };
    Response {
        id: "msg_1".into(),
        model: "large-1".into(),
        created: Some(5),
        choices: vec![choice, Response::of_text("second").choices.remove(0)],
        usage: Some(usage),
        service_tier: Some("flex".into()),
        extra: extra("r"),
    }
}

#[test]
fn an_answer_comes_back_as_it_was_with_its_age_and_cost() {
    let now = SystemTime::now();
    let content = pack::pack(&key("lab", 1), &kept(full(), Duration::from_secs(20)), now).unwrap();
    let back = pack::unpack(&key("lab", 1), &content, now + Duration::from_secs(5)).unwrap();
    assert_eq!(said(&back), &full());
    assert_eq!((&*back.target, back.worth()), ("house/large", Some(7)));
    let age = back.age(clock::now()).as_secs();
    assert!((25..60).contains(&age), "{age}");
    // A clock that is behind makes nothing younger than new.
    let early = pack::unpack(&key("lab", 1), &content, now - HOUR).unwrap();
    assert!(early.age(clock::now()) < HOUR);
}

/// Whoever changes the shape of an answer finds this test, and gives `pack::LAYOUT` the next number: what was written in another
/// shape is not to be read.
#[test]
fn the_shape_of_what_is_written_is_that_of_its_layout() {
    let content = pack::pack(&key("lab", 1), &kept(Response::of_text("x"), Duration::ZERO), SystemTime::now()).unwrap();
    let none = json!(null);
    assert_eq!(
        serde_json::from_slice::<Value>(&content.body).unwrap(),
        json!({
            "id": "", "model": "", "created": none, "usage": none, "service_tier": none, "extra": none,
            "choices": [{
                "index": 0, "logprobs": none, "extra": none,
                "finish": {"reason": "Stop", "raw": "stop", "stop_sequence": none, "details": none},
                "parts": [{"Text": {"text": "x", "citations": [], "cache": none, "signature": none, "extra": none}}],
            }],
        })
    );
    let head: Value = serde_json::from_slice(&content.head).unwrap();
    let names: Vec<&String> = head.as_object().unwrap().keys().collect();
    assert_eq!(names, ["layout", "whose", "digest", "target", "born", "cost", "vectors"]);
    assert_eq!((&head["layout"], &head["whose"]), (&json!(1), &json!({"team": "lab"})));
}

#[test]
fn what_is_not_the_answer_to_that_is_not_taken_for_it() {
    let now = SystemTime::now();
    let content = pack::pack(&key("lab", 1), &kept(full(), Duration::ZERO), now).unwrap();
    let own = Key { whose: Whose::Key("lab".into()), digest: [1; 32] };
    for other in [key("lab", 2), key("other", 1), own] {
        assert!(pack::unpack(&other, &content, now).is_none(), "{other:?}");
    }
    let with = |change: &dyn Fn(&mut Value)| {
        let mut head: Value = serde_json::from_slice(&content.head).unwrap();
        change(&mut head);
        Content { head: head.to_string().into(), body: content.body.clone() }
    };
    assert!(pack::unpack(&key("lab", 1), &with(&|_| ()), now).is_some());
    for change in [
        &(|head: &mut Value| head["layout"] = json!(2)) as &dyn Fn(&mut Value),
        &|head| head["more"] = json!(1),
        &|head| drop(head.as_object_mut().unwrap().remove("digest")),
        &|head| head["whose"] = json!({"key": "lab"}),
    ] {
        assert!(pack::unpack(&key("lab", 1), &with(change), now).is_none());
    }
    for body in [&b""[..], b"{}", &content.body[..content.body.len() - 1]] {
        let cut = Content { head: content.head.clone(), body: body.to_vec().into() };
        assert!(pack::unpack(&key("lab", 1), &cut, now).is_none());
    }
}

/// In files; each opening is a start of its own.
async fn files(path: &Path, secret: [u8; 32], config: &config::Cache) -> Behind {
    let directory = crate::store::Directory::open(path).unwrap();
    let (rest, counts) = (Arc::new(AtRest::new(&secret).unwrap()), metrics::metrics().cache_tier("files"));
    let tier = Files::open(directory, rest.clone(), config, counts.clone()).await.unwrap();
    Behind::of(Arc::new(tier), rest, config, counts)
}

fn config() -> config::Cache {
    config::Cache { persist: Persist::Files, ..config::Cache::default() }
}

async fn put(behind: &Behind, key: &Key, text: &str) {
    let mark = behind.look(key, HOUR).await.mark.expect("it is known");
    behind.keep(key.clone(), kept(Response::of_text(text), Duration::ZERO), mark);
    behind.sync().await;
}

async fn text(behind: &Behind, key: &Key) -> Option<String> {
    behind.look(key, HOUR).await.kept.map(|kept| said(&kept).text())
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart_and_says_nothing_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let first = files(dir.path(), SECRET, &config()).await;
    put(&first, &key("lab", 1), "the tide table").await;
    // Nothing more is said to the first one: it may as well have been killed.
    let again = files(dir.path(), SECRET, &config()).await;
    assert_eq!(text(&again, &key("lab", 1)).await.as_deref(), Some("the tide table"));
    for other in [key("lab", 2), key("other", 1), Key { whose: Whose::Key("lab".into()), digest: [1; 32] }] {
        assert_eq!(text(&again, &other).await, None, "{other:?}");
    }
    for entry in fs::read_dir(dir.path().join("cache")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for word in [&b"tide"[..], b"lab", b"house"] {
            assert!(memchr::memmem::find(&bytes, word).is_none());
        }
    }
    // Under another key nothing opens, and it is gone for good.
    let other = files(dir.path(), [8; 32], &config()).await;
    assert_eq!(text(&other, &key("lab", 1)).await, None);
}

#[tokio::test]
async fn no_damage_becomes_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    put(&files(dir.path(), SECRET, &config()).await, &key("lab", 1), "whole").await;
    let path = fs::read_dir(dir.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&path).unwrap();
    let there = async |bytes: &[u8]| {
        fs::remove_dir_all(dir.path().join("cache")).unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        fs::write(&path, bytes).unwrap();
        text(&files(dir.path(), SECRET, &config()).await, &key("lab", 1)).await
    };
    assert_eq!(there(&whole).await.as_deref(), Some("whole"));
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        assert_eq!(there(&bytes).await, None, "byte {at}");
        assert_eq!(there(&whole[..at]).await, None, "the first {at} bytes");
    }
    // What opens under no name is removed, and not tried again.
    let mut bytes = whole.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(there(&bytes).await, None);
    let again = files(dir.path(), SECRET, &config()).await;
    put(&again, &key("lab", 1), "anew").await;
    assert_eq!(text(&again, &key("lab", 1)).await.as_deref(), Some("anew"));
}

#[tokio::test]
async fn what_was_taken_away_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let behind = files(dir.path(), SECRET, &config()).await;
    for team in ["lab", "shop"] {
        for n in 1..=3 {
            put(&behind, &key(team, n), team).await;
        }
    }
    // Asked for before, answered after.
    let mark = behind.look(&key("lab", 9), HOUR).await.mark.unwrap();
    assert_eq!(behind.flush(Some(&Whose::Team("lab".into()))).await.unwrap(), 3);
    behind.keep(key("lab", 9), kept(Response::of_text("late"), Duration::ZERO), mark);
    behind.sync().await;
    for behind in [&behind, &files(dir.path(), SECRET, &config()).await] {
        for n in [1, 2, 3, 9] {
            assert_eq!(text(behind, &key("lab", n)).await, None, "{n}");
        }
        for n in 1..=3 {
            assert_eq!(text(behind, &key("shop", n)).await.as_deref(), Some("shop"));
        }
    }
    assert_eq!(behind.flush(None).await.unwrap(), 3);
    assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 0);
    put(&behind, &key("shop", 1), "anew").await;
    assert_eq!(text(&behind, &key("shop", 1)).await.as_deref(), Some("anew"));
}

#[tokio::test]
async fn what_is_too_old_or_too_long_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let behind = files(dir.path(), SECRET, &config::Cache { max_size: 8 << 10, ..config() }).await;
    put(&behind, &key("lab", 1), "old").await;
    assert!(behind.look(&key("lab", 1), Duration::ZERO).await.kept.is_none());
    // It was let go of with that.
    let gone = async || text(&behind, &key("lab", 1)).await.is_none();
    for _ in 0..500 {
        if gone().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(gone().await);
    put(&behind, &key("lab", 2), &"x".repeat(4 << 10)).await;
    assert_eq!(text(&behind, &key("lab", 2)).await, None, "it would push out most others");
    // As old as it may be already.
    let mark = behind.look(&key("lab", 3), HOUR).await.mark.unwrap();
    behind.keep(key("lab", 3), kept(Response::of_text("x"), HOUR), mark);
    behind.sync().await;
    assert_eq!(text(&behind, &key("lab", 3)).await, None);
}

/// A place that is as slow as it likes.
struct Slow;

impl Tier for Slow {
    fn look<'a>(&'a self, _name: &'a Name) -> BoxFuture<'a, Look> {
        Box::pin(std::future::ready(Look { mark: Some(0), found: Found::Nothing }))
    }

    fn keep(&self, _name: Name, _content: Content, _keep: Duration, _mark: u64) -> BoxFuture<'_, Put> {
        Box::pin(std::future::pending())
    }

    fn forget(&self, _name: Name) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn flush(&self, _whose: Option<Tag>) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError::Closed)))
    }

    fn flushed_elsewhere(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    fn sync(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn configure(&self, _config: &config::Cache) {}

    fn is_shared(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_full_queue_drops_and_never_waits() {
    let slow = || {
        let rest = Arc::new(AtRest::new(&SECRET).unwrap());
        Behind::of(Arc::new(Slow), rest, &config(), metrics::metrics().cache_tier("files"))
    };
    let (many, long) = (slow(), slow());
    for _ in 0..3 * MOST_JOBS {
        many.keep(key("lab", 1), kept(Response::of_text("x"), Duration::ZERO), 0);
    }
    let waiting = many.waiting.load(Ordering::Relaxed);
    assert!(waiting > MOST_JOBS * 500 && waiting < (MOST_JOBS + 2) * 2_000, "{waiting}");
    for _ in 0..200 {
        long.keep(key("lab", 1), kept(Response::of_text("x".repeat(1 << 20)), Duration::ZERO), 0);
    }
    let waiting = long.waiting.load(Ordering::Relaxed);
    assert!(waiting > MOST_WAITING / 2 && waiting <= MOST_WAITING, "{waiting}");
    assert_eq!(long.flush(None).await.unwrap_err().code(), "store_failed");
}
