//! A guest that does nothing, with every request and every event: what it costs is what the host costs. For benches.

use portcullis_plugin::prelude::*;

#[derive(Default)]
struct Forward;

plugin!(Forward: request, event);

impl Plugin for Forward {
    fn describe() -> Result<Description, String> {
        Ok(Description::new("forward", env!("CARGO_PKG_VERSION")).stream(StreamMode::Event).reusable())
    }
}

impl OnRequest for Forward {
    fn on_request(&mut self, _request: Request) -> RequestVerdict {
        RequestVerdict::Continue
    }
}

impl OnEvent for Forward {
    fn on_event(&mut self, _event: Event) -> EventVerdict {
        EventVerdict::Continue
    }
}
