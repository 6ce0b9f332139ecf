//! Where in the events of a session the model's own words stand: texts, transcripts, arguments of calls. Pure: JSON in,
//! places out. Knows nothing of stages.

use serde_json::{Map, Value};

pub type Event = Map<String, Value>;

/// Where a text stands: the item, and the place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub item: String,
    pub slot: Slot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Content(u64),
    Arguments,
}

/// A call that has arguments: its id, its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// An answer begins.
    Begun,
    /// A piece of a text.
    Delta(Place),
    /// A piece of what is heard and not read.
    Sound,
    /// The answer is over.
    Over,
    Other,
}

pub fn said(event: &Event) -> Said {
    let kind = text(event, "type");
    match kind {
        "response.created" => Said::Begun,
        "response.done" => Said::Over,
        _ if kind.starts_with("response.") && kind.ends_with(".delta") => {
            if SOUND.contains(&kind) {
                return Said::Sound;
            }
            let arguments = kind.contains("arguments");
            event.get("delta").and_then(Value::as_str).map_or(Said::Other, |_| Said::Delta(place(event, arguments)))
        }
        _ => Said::Other,
    }
}

/// The answer that an event belongs to, as far as it says so.
pub fn answer(event: &Event) -> Option<&str> {
    let whole = || event.get("response").and_then(|response| response.get("id"));
    event.get("response_id").or_else(whole).and_then(Value::as_str)
}

/// The item that it is about.
pub fn item(event: &Event) -> Option<&str> {
    let whole = || event.get("item").and_then(|item| item.get("id"));
    event.get("item_id").or_else(whole).and_then(Value::as_str)
}

/// Does it end the texts that stand in it?
pub fn closes(event: &Event) -> bool {
    text(event, "type").ends_with(".done")
}

/// Each whole text of the model's that stands in the event.
pub fn texts(event: &mut Event, each: &mut dyn FnMut(Place, Option<Call>, &mut String)) {
    if !matches!(said(event), Said::Delta(_) | Said::Sound) {
        let here = place(event, false);
        let arguments = place(event, true);
        let call = Call { id: text(event, "call_id").to_owned(), name: text(event, "name").to_owned() };
        let own = text(event, "type").starts_with("response.");
        for (name, value) in event.iter_mut() {
            match (name.as_str(), value) {
                (TEXT | TRANSCRIPT, Value::String(text)) if own => each(here.clone(), None, text),
                (ARGUMENTS, Value::String(text)) if own => each(arguments.clone(), Some(call.clone()), text),
                ("part", Value::Object(part)) => content(part, &here, each),
                ("item", Value::Object(item)) => of_item(item, each),
                ("response", Value::Object(response)) => {
                    let items = response.get_mut("output").and_then(Value::as_array_mut);
                    items.into_iter().flatten().filter_map(Value::as_object_mut).for_each(|item| of_item(item, each));
                }
                _ => {}
            }
        }
    }
}

/// Takes the items out of a whole answer that are not kept.
pub fn retain(event: &mut Event, kept: &dyn Fn(&str) -> bool) {
    let output = event.get_mut("response").and_then(|r| r.get_mut("output")).and_then(Value::as_array_mut);
    if let Some(items) = output {
        items.retain(|item| item.as_object().is_none_or(|item| kept(&name_of(item))));
    }
}

/// Of what a client says nothing stands here: its own items pass as they come.
fn of_item(item: &mut Event, each: &mut dyn FnMut(Place, Option<Call>, &mut String)) {
    let name = name_of(item);
    if text(item, "type").ends_with("_call") {
        let call = Call { id: text(item, "call_id").to_owned(), name: text(item, "name").to_owned() };
        if let Some(Value::String(arguments)) = item.get_mut(ARGUMENTS) {
            each(Place { item: name, slot: Slot::Arguments }, Some(call), arguments);
        }
        return;
    }
    if text(item, "role") != "assistant" {
        return;
    }
    let parts = item.get_mut("content").and_then(Value::as_array_mut);
    for (at, part) in (0..).zip(parts.into_iter().flatten()) {
        if let Value::Object(part) = part {
            content(part, &Place { item: name.clone(), slot: Slot::Content(at) }, each);
        }
    }
}

fn content(part: &mut Event, place: &Place, each: &mut dyn FnMut(Place, Option<Call>, &mut String)) {
    for name in [TEXT, TRANSCRIPT] {
        if let Some(Value::String(text)) = part.get_mut(name) {
            each(place.clone(), None, text);
        }
    }
}

fn place(event: &Event, arguments: bool) -> Place {
    let at = event.get("content_index").and_then(Value::as_u64).unwrap_or(0);
    let named = [text(event, "item_id"), text(event, "call_id")].into_iter().find(|name| !name.is_empty());
    let slot = if arguments { Slot::Arguments } else { Slot::Content(at) };
    Place { item: named.unwrap_or_default().to_owned(), slot }
}

fn name_of(item: &Event) -> String {
    let named = [text(item, "id"), text(item, "call_id")].into_iter().find(|name| !name.is_empty());
    named.unwrap_or_default().to_owned()
}

fn text<'a>(event: &'a Event, name: &str) -> &'a str {
    event.get(name).and_then(Value::as_str).unwrap_or_default()
}

const TEXT: &str = "text";
const TRANSCRIPT: &str = "transcript";
const ARGUMENTS: &str = "arguments";
/// The second is its name in the first version of the interface.
const SOUND: [&str; 2] = ["response.output_audio.delta", "response.audio.delta"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(value: Value) -> Event {
        let Value::Object(event) = value else { unreachable!("an event is an object") };
        event
    }

    fn found(value: Value) -> Vec<(String, Slot, String)> {
        let mut out = Vec::new();
        texts(&mut event(value), &mut |place, _, text| out.push((place.item, place.slot, text.clone())));
        out
    }

    #[test]
    fn the_models_words_are_found_wherever_they_stand() {
        let message = json!({"id": "i1", "type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "a"}, {"type": "output_audio", "transcript": "b"}]});
        let call = json!({"id": "i2", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
        let one = |item: &str, slot, text: &str| (item.to_owned(), slot, text.to_owned());
        let (a, b) = (one("i1", Slot::Content(0), "a"), one("i1", Slot::Content(1), "b"));
        let arguments = one("i2", Slot::Arguments, "{}");
        for (value, expected) in [
            (
                json!({"type": "response.done", "response": {"output": [message, call]}}),
                vec![a.clone(), b.clone(), arguments.clone()],
            ),
            (json!({"type": "conversation.item.done", "item": message}), vec![a.clone(), b.clone()]),
            (json!({"type": "response.output_item.done", "item": call}), vec![arguments.clone()]),
            (json!({"type": "response.output_text.done", "item_id": "i1", "content_index": 0, "text": "a"}), vec![a]),
            (
                json!({"type": "response.output_audio_transcript.done", "item_id": "i1", "content_index": 1, "transcript": "b"}),
                vec![b.clone()],
            ),
            (
                json!({"type": "response.content_part.done", "item_id": "i1", "content_index": 1, "part": {"type": "audio", "transcript": "b"}}),
                vec![b],
            ),
            (
                json!({"type": "response.function_call_arguments.done", "item_id": "i2", "arguments": "{}"}),
                vec![arguments],
            ),
            // The caller's own words are no answer.
            (json!({"type": "conversation.item.done", "item": {"role": "user", "content": [{"text": "a"}]}}), vec![]),
            (
                json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": "i", "transcript": "a"}),
                vec![],
            ),
        ] {
            assert_eq!(found(value.clone()), expected, "{value}");
        }
    }

    #[test]
    fn pieces_are_told_apart_from_sound() {
        let kind = |kind: &str| said(&event(json!({"type": kind, "item_id": "i", "delta": "x"})));
        let text = Said::Delta(Place { item: "i".into(), slot: Slot::Content(0) });
        for word in ["response.output_text.delta", "response.text.delta", "response.output_audio_transcript.delta"] {
            assert_eq!(kind(word), text, "{word}");
        }
        let arguments = Said::Delta(Place { item: "i".into(), slot: Slot::Arguments });
        assert_eq!(kind("response.function_call_arguments.delta"), arguments);
        assert_eq!((kind("response.output_audio.delta"), kind("response.audio.delta")), (Said::Sound, Said::Sound));
        assert_eq!(kind("conversation.item.input_audio_transcription.delta"), Said::Other);
    }
}
