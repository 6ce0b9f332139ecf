//! Tool-call ids on their way to this wire: legal, unique, and the same for a call and its result.

use super::super::wire;
use crate::codec::signature::split_id;

/// Ids of calls as written, so that every result finds its call, also when the caller gave none or gave one twice.
#[derive(Default)]
pub struct Ids {
    calls: Vec<Call>,
}

struct Call {
    given: String,
    name: String,
    written: String,
    answered: bool,
}

impl Ids {
    pub fn of_call(&mut self, id: &str, name: &str) -> String {
        let given = split_id(id).0;
        let ordinal = self.calls.len().to_string();
        let mut written = legal(given);
        if given.is_empty() || self.calls.iter().any(|call| call.written == written) {
            written = wire::made_id("toolu_", &[given, name, &ordinal]);
        }
        self.calls.push(Call {
            given: given.to_owned(),
            name: name.to_owned(),
            written: written.clone(),
            answered: false,
        });
        written
    }

    /// The oldest unanswered call of that id; without an id, of that name.
    pub fn of_result(&mut self, id: &str, name: Option<&str>) -> Option<String> {
        let given = split_id(id).0;
        let fits = |call: &Call| match given {
            "" => name.is_none_or(|name| call.name == name),
            given => call.given == given,
        };
        match self.calls.iter_mut().find(|call| !call.answered && fits(call)) {
            Some(call) => {
                call.answered = true;
                Some(call.written.clone())
            }
            // Answered twice or never made: the upstream decides, as long as the id says which.
            None => (!given.is_empty()).then(|| {
                self.calls
                    .iter()
                    .rev()
                    .find(|call| fits(call))
                    .map_or_else(|| legal(given), |call| call.written.clone())
            }),
        }
    }
}

fn legal(id: &str) -> String {
    if wire::is_legal_id(id) { id.to_owned() } else { wire::made_id("toolu_", &[id]) }
}
