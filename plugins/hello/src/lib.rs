//! The smallest plugin that does something: it answers greetings itself. Copy this folder to begin one of your own.

use portcullis_plugin::prelude::*;

#[derive(Default)]
struct Hello;

plugin!(Hello: request);

impl Plugin for Hello {
    fn describe() -> Result<Description, String> {
        Ok(Description::new("hello", env!("CARGO_PKG_VERSION")).needs([Need::LastUserText]))
    }
}

impl OnRequest for Hello {
    fn on_request(&mut self, request: Request) -> RequestVerdict {
        let greeting = config::value("greeting").unwrap_or_else(|| "hello".to_owned());
        if request.last_user_text.trim().eq_ignore_ascii_case(&greeting) {
            return respond("Hello. What can I do for you?");
        }
        RequestVerdict::Continue
    }
}
