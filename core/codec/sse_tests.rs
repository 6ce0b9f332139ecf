use super::{Decoder, Frame, write};
use crate::{
    codec::{
        Dialect, codec,
        eventstream::{self, Said},
        framing::Framing,
    },
    error::Kind,
    model::{Delta, Event, Format, Part},
};

fn read(pieces: &[&[u8]]) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    for piece in pieces {
        decoder
            .push(piece, |frame| {
                out.push(frame.clone());
                Ok(())
            })
            .expect("within the limit");
    }
    out
}

fn frame(event: &str, data: &str) -> Frame {
    Frame { event: event.to_owned(), data: data.to_owned() }
}

#[test]
fn lines_may_end_in_any_of_three_ways() {
    for end in ["\n", "\r\n", "\r"] {
        let text = ["event: a", "data: 1", "", "data: 2", "", ""].join(end);
        let mut expected = vec![frame("a", "1"), frame("", "2")];
        // A lone CR at the very end could be half of a CRLF, but it ends the line all the same.
        assert_eq!(read(&[text.as_bytes()]), expected, "{end:?}");
        expected.push(frame("", "3"));
        let longer = format!("{text}data:3{end}{end}");
        assert_eq!(read(&[longer.as_bytes()]), expected, "{end:?}");
    }
}

#[test]
fn any_split_gives_the_same_frames() {
    let text = "\u{feff}: hello\r\nevent: é\r\ndata: grüße 🌍\r\ndata:two\r\n\r\nid: 7\nretry\ndata\n\ndata: cut off";
    let bytes = text.as_bytes();
    let whole = read(&[bytes]);
    assert_eq!(whole, [frame("é", "grüße 🌍\ntwo"), frame("", "")]);
    for at in 1..bytes.len() {
        assert_eq!(read(&[&bytes[..at], &bytes[at..]]), whole, "split at {at}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(&single), whole);
}

#[test]
fn comments_and_unknown_fields_are_no_frames() {
    assert_eq!(read(&[b": keep-alive\n\nid: 1\nretry: 5\n\nevent: lonely\n\n"]), []);
}

#[test]
fn an_event_name_does_not_reach_into_the_next_frame() {
    assert_eq!(read(&[b"event: a\n\ndata: 1\n\n"]), [frame("", "1")]);
}

#[test]
fn only_one_space_behind_the_colon_is_not_data() {
    assert_eq!(read(&[b"data:  x \n\n"]), [frame("", " x ")]);
}

#[test]
fn an_event_over_the_limit_is_an_error_and_not_memory() {
    for text in [format!("data: {}", "x".repeat(64)), "data: 12345678\n".repeat(8), "x".repeat(64)] {
        let mut whole = Decoder::new(32);
        let error = whole.push(text.as_bytes(), |_| Ok(())).map_err(|e| e.kind);
        let mut decoder = Decoder::new(32);
        let split = text.as_bytes().chunks(1).try_for_each(|b| decoder.push(b, |_| Ok(()))).map_err(|e| e.kind);
        assert_eq!((error, split), (Err(Kind::Upstream), Err(Kind::Upstream)), "{text:?}");
    }
}

#[test]
fn every_format_follows_the_limit_it_is_given() {
    for format in crate::model::Format::ALL {
        let push = |limit: usize| {
            let mut decoder = crate::codec::codec(format).stream_decoder(&crate::codec::Dialect::of("m"), limit);
            let json = format!("{{\"x\":\"{}\"}}", "y".repeat(5_000));
            let mut event = Vec::new();
            match Framing::of(format) {
                Framing::Sse => write(None, json.as_bytes(), &mut event),
                Framing::EventStream => eventstream::write(Said::Event, "x", json.as_bytes(), &mut event),
                Framing::Lines => event.extend([json.as_bytes(), b"\n"].concat()),
            }
            decoder.push(&event, &mut Vec::new()).map_err(|e| e.message.clone())
        };
        let over = push(4_000).expect_err("over the limit");
        assert!(over.contains("over 4000 bytes"), "{format:?}: {over}");
        assert!(push(6_000).err().is_none_or(|e| !e.contains("bytes")), "{format:?}");
    }
}

#[test]
fn a_last_event_may_lack_its_empty_line_but_nothing_else() {
    let chat = concat!(
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]"
    );
    let responses = concat!(
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"status\":\"in_progress\"}}\n\n",
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"status\":\"completed\",\"output\":[]}}"
    );
    let messages = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"content\":[]}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}"
    );
    let gemini = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"x\"}]},\"finishReason\":\"STOP\"}]}";
    let cohere = concat!(
        "event: message-start\ndata: {\"type\":\"message-start\",\"id\":\"c\"}\n\n",
        "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"COMPLETE\"}}"
    );
    for (format, stream) in [
        (Format::OpenaiChat, chat),
        (Format::OpenaiResponses, responses),
        (Format::AnthropicMessages, messages),
        (Format::Gemini, gemini),
        (Format::Cohere, cohere),
    ] {
        let read = |text: &str| {
            let mut decoder = codec(format).stream_decoder(&Dialect::of("m"), 4096);
            let mut events = Vec::new();
            let end = decoder.push(text.as_bytes(), &mut events).and_then(|()| decoder.finish(&mut events));
            end.map(|()| events).map_err(|error| error.kind)
        };
        let whole = read(&format!("{stream}\n\n")).expect("a whole stream");
        assert_eq!(whole.last(), Some(&Event::End), "{format:?}");
        for end in ["", "\n", "\r", "\r\n"] {
            assert_eq!(read(&format!("{stream}{end}")).as_ref(), Ok(&whole), "{format:?} {end:?}");
        }
        assert_eq!(read(&stream[..stream.len() - 1]), Err(Kind::Upstream), "{format:?}: cut off");
    }
}

#[test]
fn a_character_that_is_cut_in_two_comes_whole_or_as_none() {
    let chunk = |text: &str| {
        format!("data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    };
    let said = |pieces: &[&str]| {
        let mut decoder = codec(Format::OpenaiChat).stream_decoder(&Dialect::of("m"), 4096);
        let mut events = Vec::new();
        let stream: String = pieces.iter().map(|piece| chunk(piece)).collect();
        decoder.push(stream.as_bytes(), &mut events).expect("read");
        let text = |event: &Event| match event {
            Event::Delta { delta: Delta::Text(text), .. } => Some(text.clone()),
            _ => None,
        };
        events.iter().filter_map(text).collect::<String>()
    };
    assert_eq!(said(&["a", "b\\ud83d", "\\ude00c", "d"]), "ab😀cd");
    assert_eq!(said(&["a", "\\ud83d b", "c"]), "a\u{fffd} bc");
    let body = br#"{"choices":[{"message":{"content":"x\udc00"}}]}"#;
    let answer = codec(Format::OpenaiChat).decode_response(body).expect("read");
    assert_eq!(answer.choices[0].parts, [Part::text("x\u{fffd}")]);
}

#[test]
fn what_is_written_is_read_again() {
    let mut out = Vec::new();
    write(Some("a"), b"{\"x\":1}", &mut out);
    write(None, b"[DONE]", &mut out);
    assert_eq!(read(&[&out]), [frame("a", "{\"x\":1}"), frame("", "[DONE]")]);
}
