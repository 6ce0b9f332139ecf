//! What a client says in a session, on its way past the stages: each message with a text is a request to them of its own, which
//! they may rewrite or refuse. Sound has no text and passes unread. Sends nothing.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    codec::{Inbound, codec, document::Document, opaque},
    error::{Error, Kind, Result},
    exchange::Exchange,
    model::{Format, Operation},
    pipeline::Flow,
};

/// The message as stages left it. An error is told to the client, and the session goes on.
pub async fn passed(exchange: &mut Exchange, message: Message) -> Result<Message, (Error, Value)> {
    let Message::Text(text) = &message else {
        let error = Error::new(Kind::InvalidRequest, "a binary message cannot be looked at by the stages: send JSON");
        return Err((error, Value::Null));
    };
    let inner = &mut **exchange;
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let inbound = Inbound { model: Some(&inner.record.model), stream: Some(false), ..Inbound::default() };
    let opened = Document::open(Format::OpenaiChat, Operation::Realtime, bytes, inbound);
    let mut document = opened.map_err(|error| (error, Value::Null))?;
    let id = document.field("event_id").unwrap_or_default();
    // `None` where a name stands twice: then nobody knows what it is.
    if document.field("type").and_then(|kind| Some(kind.as_str()?.starts_with(SOUND))) == Some(true) {
        return Ok(message);
    }
    let steps = inner.cx.trace.steps.len();
    let result = shown(exchange, &mut document).await;
    // A session is long, and its trace is not.
    if steps > MOST_STEPS {
        exchange.cx.trace.steps.truncate(steps);
    }
    match result {
        Ok(text) => Ok(Message::text(text)),
        Err(mut error) => {
            let inner = &mut **exchange;
            inner.chain.error(&mut inner.cx, &mut error).await;
            Err((error, id))
        }
    }
}

/// An error as an event of the session. `asked`: the id of the event that it is about.
pub fn told(exchange: &Exchange, error: &Error, asked: Value) -> Message {
    let body = codec(Format::OpenaiChat).encode_error(error, &exchange.cx.id);
    let mut body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut inner = body["error"].take();
    inner["event_id"] = asked;
    let id = format!("event_{}", exchange.cx.id);
    Message::text(json!({"type": "error", "event_id": id, "error": inner}).to_string())
}

async fn shown(exchange: &mut Exchange, document: &mut Document) -> Result<String> {
    if document.request()?.messages.iter().any(|message| !message.parts.is_empty()) {
        let inner = &mut **exchange;
        // A stage that was done with the session's start is not done with what is said in it.
        let flow = inner.chain.again().request(&mut inner.cx, document).await?;
        if let Flow::Respond(_) = flow {
            let message = "a stage answered in the model's place, which a session has no room for";
            return Err(Error::new(Kind::ContentRefused, message));
        }
    }
    // Written anew also where nothing changed: what stands twice is read by the upstream as it was read here.
    let fields = match document.opaque_fields()? {
        Some(fields) => fields,
        None => opaque::object(document.bytes())?,
    };
    Ok(Value::Object(fields).to_string())
}

/// Types of messages that carry sound, or control it.
const SOUND: &str = "input_audio_buffer.";
/// Of a trace, before the next message.
pub const MOST_STEPS: usize = 100;
