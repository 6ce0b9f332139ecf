//! The shelf alone: whose an answer is, how much is kept, what of it goes into the next turn.

use super::*;
use crate::codec::Inbound;

fn principal(team: Option<&str>, key: &str) -> Principal {
    Principal { team: team.map(Into::into), key_id: key.into(), ..Principal::default() }
}

fn document(body: Value) -> Document {
    Document::new(Format::OpenaiResponses, body.to_string().into(), Inbound::default()).unwrap()
}

fn keep(stored: &Arc<Stored>, who: &Principal, id: &str, output: Value) {
    let mut asked = document(json!({"model": "m", "input": "hello"}));
    let kept = stored.begin(who, &mut asked, &mut None).unwrap().unwrap();
    kept.answered(&json!({"id": id, "output": output}).to_string().into());
}

fn next(stored: &Arc<Stored>, who: &Principal, id: &str) -> Result<Vec<Value>> {
    let mut asked = document(json!({"model": "m", "input": "and then?", "previous_response_id": id, "store": false}));
    assert!(stored.begin(who, &mut asked, &mut None)?.is_none());
    assert!(asked.field("previous_response_id").is_none());
    Ok(asked.field("input").unwrap().as_array().unwrap().clone())
}

#[test]
fn a_later_turn_has_the_earlier_ones_in_front_of_it() {
    let stored = Arc::new(Stored::default());
    let who = principal(Some("a"), "k1");
    keep(
        &stored,
        &who,
        "resp_1",
        json!([{"type": "reasoning", "id": "rs", "summary": []}, {"type": "message", "id": "msg", "role": "assistant", "content": []}]),
    );
    let items = next(&stored, &who, "resp_1").unwrap();
    let kinds: Vec<&str> = items.iter().map(|i| i["role"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["user", "assistant", "user"], "a thought without its seal is left out");
    // Another key of the same team, but nobody else.
    assert!(next(&stored, &principal(Some("a"), "k2"), "resp_1").is_ok());
    for other in [principal(Some("b"), "k1"), principal(None, "k1"), principal(None, "a")] {
        let error = next(&stored, &other, "resp_1").unwrap_err();
        assert_eq!((error.status(), error.code()), (404, "response_not_found"));
    }
}

#[test]
fn the_oldest_ones_make_room() {
    let stored = Arc::new(Stored::new(8 << 10));
    let who = principal(None, "k");
    for at in 0..40 {
        keep(&stored, &who, &format!("resp_{at}"), json!([{"type": "x", "text": "y".repeat(500)}]));
    }
    let (bytes, order, kept) = {
        let shelf = stored.lock();
        (shelf.bytes, shelf.order.len(), shelf.kept.len())
    };
    assert!(bytes <= 8 << 10 && order == kept && kept > 0, "{bytes} {order} {kept}");
    assert!(next(&stored, &who, "resp_0").is_err() && next(&stored, &who, "resp_39").is_ok());
    // One that would push out all others is not kept at all.
    keep(&stored, &who, "resp_big", json!([{"text": "y".repeat(9000)}]));
    assert!(next(&stored, &who, "resp_big").is_err() && next(&stored, &who, "resp_39").is_ok());
    // The same id again replaces, and is counted once.
    let before = stored.lock().bytes;
    keep(&stored, &who, "resp_39", json!([{"type": "x", "text": "y".repeat(500)}]));
    assert_eq!(stored.lock().bytes, before);
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let stored = Arc::new(Stored::default());
    let who = principal(None, "k");
    for (body, feature) in [
        (json!({"model": "m", "input": "x", "background": true}), "background"),
        (json!({"model": "m", "input": "x", "conversation": "conv_1"}), "conversation"),
        (json!({"model": "m", "input": "x", "previous_response_id": 3}), "previous_response_id"),
    ] {
        let error = stored.begin(&who, &mut document(body), &mut None).unwrap_err();
        assert_eq!((error.status(), error.param.as_deref()), (400, Some(feature)));
    }
    let mut chat = Document::new(
        Format::OpenaiChat,
        Bytes::from_static(br#"{"model":"m","messages":[],"background":true}"#),
        Inbound::default(),
    )
    .unwrap();
    assert!(stored.begin(&who, &mut chat, &mut None).unwrap().is_none());
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
}

#[test]
fn input_items_are_paged() {
    let items: Vec<Value> = (0..5).map(|at| json!({"type": "message", "id": format!("i{at}")})).collect();
    let first = page(&items, "limit=2").unwrap();
    assert_eq!((&first["first_id"], &first["last_id"], &first["has_more"]), (&json!("i4"), &json!("i3"), &json!(true)));
    let rest = page(&items, "order=asc&after=i1").unwrap();
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (3, &json!(false)));
    assert!(page(&items, "limit=0").is_err() && page(&items, "after=none").is_err());
}
