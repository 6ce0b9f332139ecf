//! The mock's end of a realtime session: it greets, takes what it hears, and answers each `response.create` with a text, its
//! usage and its end. Ends when the other side does.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

/// Until either side closes.
pub async fn realtime(io: impl AsyncRead + AsyncWrite + Unpin, model: &str) {
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let session = json!({"id": "sess_mock", "object": "realtime.session", "type": "realtime", "model": model});
    let mut answers = vec![json!({"type": "session.created", "session": session})];
    let mut heard = 0;
    loop {
        for answer in answers.drain(..) {
            if socket.send(Message::text(answer.to_string())).await.is_err() {
                return;
            }
        }
        let text = match socket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_))) => {
                // The answer to it is made already, and waits to be written.
                let _ = socket.flush().await;
                return;
            }
            Some(Err(_)) | None => return,
            Some(Ok(_)) => continue,
        };
        heard += text.len();
        let event: Value = serde_json::from_str(&text).unwrap_or_default();
        answers = match event["type"].as_str().unwrap_or_default() {
            "session.update" => vec![json!({"type": "session.updated", "session": session})],
            "conversation.item.create" => vec![json!({"type": "conversation.item.done", "item": event["item"]})],
            "response.create" => said(heard),
            "input_audio_buffer.append" => Vec::new(),
            other => {
                let message = format!("the mock does not know `{other}`");
                vec![json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}})]
            }
        };
    }
}

fn said(heard: usize) -> Vec<Value> {
    let text = format!("mock heard {heard} bytes");
    let usage = json!({"total_tokens": 9, "input_tokens": 5, "output_tokens": 4,
        "input_token_details": {"text_tokens": 5, "audio_tokens": 0, "cached_tokens": 0},
        "output_token_details": {"text_tokens": 4, "audio_tokens": 0}});
    vec![
        json!({"type": "response.created", "response": {"id": "resp_mock", "status": "in_progress"}}),
        json!({"type": "response.output_text.delta", "response_id": "resp_mock", "delta": text}),
        json!({"type": "response.done", "response": {"id": "resp_mock", "status": "completed", "usage": usage}}),
    ]
}
