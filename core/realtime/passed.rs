//! What goes out for one message of the upstream, and how a client is told what cannot. Sends nothing itself.

use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::{said, spoken::Event};
use crate::{error::Error, exchange::Exchange};

#[derive(Default)]
pub struct Passed {
    pub client: Vec<Message>,
    /// What makes the upstream end the answer.
    pub cancel: Option<Message>,
}

impl Passed {
    pub fn send(&mut self, event: Event) {
        self.client.push(Message::text(Value::Object(event).to_string()));
    }

    pub async fn tell(&mut self, exchange: &mut Exchange, error: &Error) {
        let mut error = error.copy();
        let inner = &mut **exchange;
        // Stages may reword it.
        inner.chain.error(&mut inner.cx, &mut error).await;
        self.client.push(said::told(exchange, &error, Value::Null));
    }
}

pub fn unseen(stage: &str, what: &str) -> Error {
    let text = format!(
        "the stage {stage} must see all that is answered, and {what} cannot be looked at: ask for text \
         (`output_modalities: [\"text\"]`), or give the stage `on_error = \"skip\"`"
    );
    Error::unsupported("audio", text)
}
