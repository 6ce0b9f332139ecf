//! Whose an answer is, how much is kept and for how long, what outlives the process, and what of it goes into the next turn.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::{
    codec::Inbound,
    lanes::{self, Place},
};

const NOON: u64 = 1_800_000_000;
const SECRET: [u8; 32] = [7; 32];

fn noon() -> u64 {
    NOON
}

fn bounds() -> config::Responses {
    config::Responses::default()
}

/// On a disk, the newest answers not in memory: what is read was written.
fn on_disk() -> config::Responses {
    config::Responses { memory: 1, ..bounds() }
}

async fn in_memory(bounds: config::Responses) -> Arc<Stored> {
    Stored::open_at(None, &SECRET, bounds, noon).await.unwrap()
}

async fn at(path: &Path, bounds: config::Responses, clock: Clock) -> Arc<Stored> {
    let directory = Directory::open(path).unwrap();
    Stored::open_at(Some(&directory), &SECRET, bounds, clock).await.unwrap()
}

fn principal(team: Option<&str>, key: &str) -> Arc<Principal> {
    Arc::new(Principal { team: team.map(Into::into), key_id: key.into(), ..Principal::default() })
}

fn document(body: Value) -> Document {
    Document::new(Format::OpenaiResponses, body.to_string().into(), Inbound::default()).unwrap()
}

async fn keep(stored: &Arc<Stored>, who: &Arc<Principal>, id: &str, output: Value) {
    let mut asked = document(json!({"model": "m", "input": "hello"}));
    let kept = stored.begin(who, &mut asked, &mut None).await.unwrap().unwrap();
    kept.answered(&json!({"id": id, "output": output}).to_string().into()).await;
}

async fn next(stored: &Arc<Stored>, who: &Arc<Principal>, id: &str) -> Result<Vec<Value>> {
    let mut asked = document(json!({"model": "m", "input": "and then?", "previous_response_id": id, "store": false}));
    assert!(stored.begin(who, &mut asked, &mut None).await?.is_none());
    assert!(asked.field("previous_response_id").is_none());
    Ok(asked.field("input").unwrap().as_array().unwrap().clone())
}

async fn is_there(stored: &Arc<Stored>, who: &Arc<Principal>, id: &str) -> bool {
    match next(stored, who, id).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!((error.status(), error.code()), (404, "response_not_found"));
            false
        }
    }
}

/// Text that does not get shorter, different for each seed.
fn noise(seed: usize, length: usize) -> String {
    let mut state = seed as u64 + 1;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(33 + (state >> 58) as u8)
    };
    (0..length).map(|_| letter()).filter(|c| *c != '"' && *c != '\\').collect()
}

/// Bytes and names of the files, the oldest first.
fn files(path: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(path.join(FOLDER)).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    // One may go while this looks.
    all.into_iter().filter_map(|path| Some((path.clone(), fs::read(path).ok()?))).collect()
}

#[tokio::test]
async fn a_later_turn_has_the_earlier_ones_in_front_of_it() {
    let stored = in_memory(bounds()).await;
    let who = principal(Some("a"), "k1");
    let output = json!([
        {"type": "reasoning", "id": "rs", "summary": []},
        {"type": "message", "id": "msg", "role": "assistant", "content": []},
    ]);
    keep(&stored, &who, "resp_1", output).await;
    let items = next(&stored, &who, "resp_1").await.unwrap();
    let kinds: Vec<&str> = items.iter().map(|i| i["role"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["user", "assistant", "user"], "a thought without its seal is left out");
    // Another key of the same team, but nobody else.
    assert!(is_there(&stored, &principal(Some("a"), "k2"), "resp_1").await);
    for other in [principal(Some("b"), "k1"), principal(None, "k1"), principal(None, "a")] {
        assert!(!is_there(&stored, &other, "resp_1").await);
        assert_eq!(stored.delete(&other, "resp_1").await.unwrap_err().status(), 404);
    }
}

#[tokio::test]
async fn items_are_found_by_their_names_after_a_restart_and_gone_with_their_answer() {
    let dir = tempfile::tempdir().unwrap();
    let who = principal(Some("a"), "k1");
    let stored = at(dir.path(), on_disk(), noon).await;
    let said = json!({"type": "message", "id": "msg_7", "role": "assistant", "content": []});
    keep(&stored, &who, "resp_1", json!([{"type": "reasoning", "id": "rs_7", "summary": []}, said])).await;
    drop(stored);
    let stored = at(dir.path(), on_disk(), noon).await;
    let naming = async |who: &Arc<Principal>, ids: &[&str]| {
        let named: Vec<Value> = ids.iter().map(|id| json!({"type": "item_reference", "id": id})).collect();
        let mut asked = document(json!({"model": "m", "store": false, "input": named}));
        stored.begin(who, &mut asked, &mut None).await.map(|_| asked.field("input").unwrap())
    };
    assert_eq!(
        naming(&who, &["msg_7", "rs_7", "msg_7"]).await.unwrap(),
        json!([said, said]),
        "no thought without its seal"
    );
    for (who, id) in [(principal(Some("b"), "k1"), "msg_7"), (who.clone(), "msg_8")] {
        let error = naming(&who, &[id]).await.unwrap_err();
        assert_eq!(
            (error.status(), error.code(), error.param.as_deref()),
            (404, "item_not_found", Some("input[0].id"))
        );
    }
    stored.delete(&who, "resp_1").await.unwrap();
    assert_eq!(naming(&who, &["msg_7"]).await.unwrap_err().status(), 404);
}

#[tokio::test]
async fn the_oldest_ones_make_room_in_memory() {
    let stored = in_memory(config::Responses { memory: 8 << 10, ..bounds() }).await;
    let who = principal(None, "k");
    for n in 0..40 {
        keep(&stored, &who, &format!("resp_{n}"), json!([{"type": "x", "text": "y".repeat(500)}])).await;
    }
    let (bytes, kept, _) = stored.lock().counts();
    assert!(bytes <= 8 << 10 && kept > 0, "{bytes} {kept}");
    assert!(!is_there(&stored, &who, "resp_0").await && is_there(&stored, &who, "resp_39").await);
    // One that would push out all others is not kept at all.
    keep(&stored, &who, "resp_big", json!([{"text": "y".repeat(9000)}])).await;
    assert!(!is_there(&stored, &who, "resp_big").await && is_there(&stored, &who, "resp_39").await);
    // The same id again replaces, and is counted once.
    keep(&stored, &who, "resp_39", json!([{"type": "x", "text": "y".repeat(500)}])).await;
    assert_eq!(stored.lock().counts().0, bytes);
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_by_name() {
    let stored = in_memory(bounds()).await;
    let who = principal(None, "k");
    for (body, feature) in [
        (json!({"model": "m", "input": "x", "background": true, "stream": true}), "stream"),
        (json!({"model": "m", "input": "x", "background": true, "store": false}), "store"),
        (json!({"model": "m", "input": "x", "background": true, "conversation": "conv_1"}), "conversation"),
        (json!({"model": "m", "input": "x", "previous_response_id": 3}), "previous_response_id"),
    ] {
        let error = stored.begin(&who, &mut document(body), &mut None).await.err().unwrap();
        assert_eq!((error.status(), error.param.as_deref()), (400, Some(feature)));
    }
    let body = Bytes::from_static(br#"{"model":"m","messages":[],"background":true}"#);
    let mut chat = Document::new(Format::OpenaiChat, body, Inbound::default()).unwrap();
    assert!(stored.begin(&who, &mut chat, &mut None).await.unwrap().is_none() && !chat.runs_in_background());
    // Kept by its upstream, and not here.
    let mut later = document(json!({"model": "m", "input": "x", "background": true}));
    assert!(stored.begin(&who, &mut later, &mut None).await.unwrap().is_none() && later.runs_in_background());
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart_for_its_tenant_alone_and_in_no_readable_form() {
    let dir = tempfile::tempdir().unwrap();
    let who = principal(Some("a"), "k1");
    let stored = at(dir.path(), bounds(), noon).await;
    keep(&stored, &who, "resp_1", json!([{"type": "message", "role": "assistant", "content": "the tide table"}])).await;
    // Nothing more is said to the first one: it may as well have been killed.
    let again = at(dir.path(), bounds(), noon).await;
    let items = next(&again, &who, "resp_1").await.unwrap();
    assert_eq!((&items[0]["content"][0]["text"], &items[1]["content"]), (&json!("hello"), &json!("the tide table")));
    assert!(!is_there(&again, &principal(Some("b"), "k1"), "resp_1").await);
    for (_, bytes) in files(dir.path()) {
        for word in ["tide", "hello", "resp_1"] {
            assert!(memchr::memmem::find(&bytes, word.as_bytes()).is_none(), "{word}");
        }
    }
    // Under another master key nothing opens, and nothing breaks.
    let directory = Directory::open(dir.path()).unwrap();
    let other = Stored::open_at(Some(&directory), &[8; 32], bounds(), noon).await.unwrap();
    assert!(!is_there(&other, &who, "resp_1").await);
}

#[tokio::test]
async fn what_was_deleted_is_off_the_disk_and_stays_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let who = principal(None, "k");
    let stored = at(dir.path(), on_disk(), noon).await;
    for id in ["resp_1", "resp_2", "resp_1"] {
        keep(&stored, &who, id, json!([{"text": noise(1, 2000)}])).await;
    }
    let zeros = |bytes: &[u8]| bytes.chunks(16).filter(|c| c.iter().all(|b| *b == 0)).count() * 16;
    let before = files(dir.path());
    assert!(zeros(&before[0].1) > 1200, "the first answer of that id was replaced, and is gone");
    stored.delete(&who, "resp_1").await.unwrap();
    assert_eq!(stored.delete(&who, "resp_1").await.unwrap_err().status(), 404);
    let after = files(dir.path());
    assert_eq!(before[0].1.len(), after[0].1.len());
    assert!(zeros(&after[0].1) > 2400, "{}", zeros(&after[0].1));
    let again = at(dir.path(), on_disk(), noon).await;
    assert!(!is_there(&again, &who, "resp_1").await && is_there(&again, &who, "resp_2").await);
    again.delete(&who, "resp_2").await.unwrap();
    // A file with nothing in it goes at the next look.
    let last = at(dir.path(), on_disk(), noon).await;
    assert!(!is_there(&last, &who, "resp_2").await);
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn what_is_too_old_is_not_found_and_its_file_goes() {
    static TIME: AtomicU64 = AtomicU64::new(NOON);
    fn clock() -> u64 {
        TIME.load(Ordering::Relaxed)
    }
    let dir = tempfile::tempdir().unwrap();
    let who = principal(None, "k");
    for (path, bounds) in [(None, bounds()), (Some(dir.path()), bounds()), (Some(dir.path()), on_disk())] {
        TIME.store(NOON, Ordering::Relaxed);
        let stored = match path {
            Some(path) => at(path, bounds, clock).await,
            None => Stored::open_at(None, &SECRET, bounds, clock).await.unwrap(),
        };
        keep(&stored, &who, "resp_1", json!([])).await;
        TIME.store(NOON + 30 * 86_400 - 1, Ordering::Relaxed);
        assert!(is_there(&stored, &who, "resp_1").await);
        TIME.store(NOON + 30 * 86_400, Ordering::Relaxed);
        assert!(!is_there(&stored, &who, "resp_1").await);
        assert_eq!(stored.delete(&who, "resp_1").await.unwrap_err().status(), 404);
    }
    assert!(!files(dir.path()).is_empty());
    let again = at(dir.path(), bounds(), clock).await;
    assert!(files(dir.path()).is_empty());
    assert_eq!(again.lock().counts(), (0, 0, 0));
}

#[tokio::test]
async fn the_oldest_files_go_when_there_is_too_much() {
    const MOST: u64 = 512 << 10;
    let dir = tempfile::tempdir().unwrap();
    let who = principal(None, "k");
    let bounds = config::Responses { max_size: MOST, ..on_disk() };
    let stored = at(dir.path(), bounds, noon).await;
    for n in 0..120 {
        keep(&stored, &who, &format!("resp_{n}"), json!([{"text": noise(n, 10_000)}])).await;
        let bytes: u64 = files(dir.path()).iter().map(|(_, bytes)| bytes.len() as u64).sum();
        // What was just written may stand there for as long as room is made for it.
        assert!(bytes <= MOST + (80 << 10), "{bytes}");
    }
    stored.sync().await;
    assert!(!is_there(&stored, &who, "resp_0").await && is_there(&stored, &who, "resp_119").await);
    let bytes: usize = files(dir.path()).iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes as u64 <= MOST && bytes > 256 << 10, "{bytes}");
    // What would take too much of it is not kept, and what is there stays.
    keep(&stored, &who, "resp_big", json!([{"text": noise(1, 200_000)}])).await;
    assert!(!is_there(&stored, &who, "resp_big").await && is_there(&stored, &who, "resp_119").await);
    // A smaller bound holds from the next start on, too.
    let less = at(dir.path(), config::Responses { max_size: MOST / 2, ..on_disk() }, noon).await;
    let bytes: usize = files(dir.path()).iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes as u64 <= MOST / 2 && is_there(&less, &who, "resp_119").await, "{bytes}");
}

#[tokio::test]
async fn who_keeps_much_pushes_out_its_own() {
    const MOST: u64 = 512 << 10;
    let dir = tempfile::tempdir().unwrap();
    let (greedy, modest) = (principal(None, "k"), principal(Some("lab"), "other"));
    assert_ne!(lane(&greedy) % 32, lane(&modest) % 32, "their lanes differ");
    let bounds = config::Responses { max_size: MOST, ..on_disk() };
    let stored = at(dir.path(), bounds, noon).await;
    let put = async |stored: &Arc<Stored>, n: usize| {
        if n.is_multiple_of(20) {
            keep(stored, &modest, &format!("mine_{n}"), json!([{"text": noise(n, 10_000)}])).await;
        }
        keep(stored, &greedy, &format!("resp_{n}"), json!([{"text": noise(n, 10_000)}])).await;
    };
    for n in 0..120 {
        put(&stored, n).await;
    }
    stored.sync().await;
    // Each start goes on by the same files.
    let stored = at(dir.path(), bounds, noon).await;
    for n in 120..200 {
        put(&stored, n).await;
    }
    for n in (0..200).step_by(20) {
        assert!(is_there(&stored, &modest, &format!("mine_{n}")).await, "mine_{n}");
    }
    assert!(!is_there(&stored, &greedy, "resp_0").await && is_there(&stored, &greedy, "resp_199").await);
    let bytes: usize = files(dir.path()).iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes as u64 <= MOST + (80 << 10), "{bytes}");
}

#[tokio::test]
async fn damage_costs_the_records_behind_it_in_its_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    let who = principal(None, "k");
    for ids in [["a1", "a2", "a3"], ["b1", "b2", "b3"]] {
        // Each start begins a file.
        let stored = at(dir.path(), on_disk(), noon).await;
        for id in ids {
            keep(&stored, &who, id, json!([{"text": noise(2, 400)}])).await;
        }
    }
    let whole = files(dir.path());
    let first = &whole[0].1;
    let after = |at: usize| {
        let length: [u8; 4] = first[at + 28..at + 32].try_into().unwrap();
        at + lanes::HEAD + u32::from_le_bytes(length) as usize
    };
    let (second, third) = (after(0), after(after(0)));
    assert_eq!(after(third), first.len(), "three records");
    let there = async |bytes: &[u8]| {
        fs::write(&whole[0].0, bytes).unwrap();
        let stored = at(dir.path(), on_disk(), noon).await;
        let mut found = Vec::new();
        for id in ["a1", "a2", "a3", "b1", "b2", "b3"] {
            if is_there(&stored, &who, id).await {
                found.push(id);
            }
        }
        found
    };
    let flipped = |at: usize| {
        let mut bytes = whole[0].1.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    // In a record's body, in its head, in the last bytes, and no sense at all.
    assert_eq!(there(&flipped(second + lanes::HEAD + 20)).await, ["a1", "a3", "b1", "b2", "b3"]);
    for at in [0, 4, 20, 28, 32, 40] {
        assert_eq!(there(&flipped(second + at)).await, ["a1", "b1", "b2", "b3"], "byte {at} of a head");
    }
    assert_eq!(there(&first[..first.len() - 1]).await, ["a1", "a2", "b1", "b2", "b3"]);
    assert_eq!(there(&first[..third + 7]).await, ["a1", "a2", "b1", "b2", "b3"]);
    assert_eq!(there(&[0; 5000]).await, ["b1", "b2", "b3"]);
    assert_eq!(there(b"").await, ["b1", "b2", "b3"]);
}

#[test]
fn what_is_removed_while_it_is_written_does_not_stay() {
    let mut shelf = Shelf::new(bounds());
    let name = [1; 16];
    let turn = Arc::new(Turn { request: Bytes::new(), answer: Bytes::new() });
    let place = || Place::of(0, NOON + 9);
    shelf.put(name, turn.clone(), NOON + 9);
    let serial = shelf.written_soon(name);
    assert!(shelf.remove(&name).found);
    assert!(!shelf.written(name, serial, place()));
    assert!(matches!(shelf.look(&name, NOON), Look::Nowhere));
    // Replaced meanwhile: the later one counts.
    let (first, second) = (shelf.written_soon(name), shelf.written_soon(name));
    assert!(!shelf.written(name, first, place()) && shelf.written(name, second, place()));
    // Read, and removed before it was put down.
    assert!(shelf.remove(&name).place.is_some());
    shelf.was_read(name, place(), turn);
    assert!(matches!(shelf.look(&name, NOON), Look::Nowhere));
}

#[test]
fn a_streams_last_event_is_the_answer() {
    let piece = Bytes::from_static(
        b"event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"text\":\"say \\\"response.completed\\\"\"}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"output\":[]}}\n\n",
    );
    assert_eq!(Keep::seen(&piece).unwrap(), &br#"{"id":"resp_1","output":[]}"#[..]);
    assert_eq!(
        Keep::seen(&Bytes::from_static(b"event: response.created\ndata: {\"type\":\"response.created\"}\n\n")),
        None
    );
    let echoed = br#"data: {"type":"response.created","response":{"id":"resp_1","user":"response.completed"}}"#;
    assert_eq!(Keep::seen(&Bytes::from_static(echoed)), None, "the caller said so, not the event");
}

#[test]
fn input_items_are_paged() {
    let page = items::page;
    let items: Vec<Value> = (0..5).map(|at| json!({"type": "message", "id": format!("i{at}")})).collect();
    let first = page(&items, "limit=2").unwrap();
    assert_eq!((&first["first_id"], &first["last_id"], &first["has_more"]), (&json!("i4"), &json!("i3"), &json!(true)));
    let rest = page(&items, "order=asc&after=i1").unwrap();
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (3, &json!(false)));
    assert!(page(&items, "limit=0").is_err() && page(&items, "after=none").is_err());
}
