//! What this plugin is for, in a sentence.

use portcullis_plugin::prelude::*;

/// One request's memory: made at its first phase, gone after its last.
#[derive(Default)]
struct ExampleName;

// Add phases here, and their traits below: route, attempt, event, response, error, log.
plugin!(ExampleName: request);

impl Plugin for ExampleName {
    fn describe() -> Result<Description, String> {
        Ok(Description::new("example-name", env!("CARGO_PKG_VERSION")).needs([Need::LastUserText]))
    }
}

impl OnRequest for ExampleName {
    fn on_request(&mut self, request: Request) -> RequestVerdict {
        // [[stages]] config = { word = "please" }
        let word = config::value("word").unwrap_or_else(|| "please".to_owned());
        if request.last_user_text.contains(&word) {
            return RequestVerdict::Continue;
        }
        reject(400, format!("say {word}"))
    }
}
