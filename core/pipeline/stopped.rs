//! What goes on of an answer that a stage stopped: its finish, in other words, and what was used.

use crate::model::{Event, Finish, FinishReason};

/// The choice whose finish this is.
pub fn finished(event: &Event) -> Option<u32> {
    if let Event::Finish { choice, .. } = event { Some(*choice) } else { None }
}

/// What of an answer's rest goes on when a stage stopped it.
pub fn stopped_by(event: Event) -> Option<Event> {
    match event {
        Event::Finish { choice, .. } => Some(stopped(choice)),
        Event::Usage(_) => Some(event),
        _ => None,
    }
}

/// The finish of an answer that a stage stopped.
pub fn stopped(choice: u32) -> Event {
    Event::Finish { choice, finish: Finish::new(FinishReason::ContentFilter, "content_filter") }
}
