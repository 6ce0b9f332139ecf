//! What becomes of versions, told to the audit log: which went live, which was refused and why, which was tried and how that
//! ended. A log that takes nothing holds no version up; its rows wait.

use serde_json::{Value, json};

use super::Deploy;
use crate::{
    audit::{Entry, Outcome},
    runtime::Refused,
    versions::id,
};

impl Deploy {
    pub(super) fn tell(&self, action: &str, number: u64, before: Value, reason: Option<&str>) {
        let row = self.versions.row(number);
        let mut after = json!({ "version": id(number), "reason": reason });
        if let Some(row) = row {
            after["hash"] = json!(row.hash);
            after["cause"] = json!(row.cause);
            // Their own words: who was let in stands in the row of the admin action.
            after["author"] = json!(row.author);
            after["note"] = json!(row.note);
        }
        let entry = Entry::system(action).object(id(number)).before(before).after(after);
        self.handle.block_on(self.gateway.state.audit.record_done(entry));
    }

    pub(super) fn tell_refused(&self, refused: &Refused) {
        let first: Vec<Value> = refused
            .problems
            .iter()
            .take(MOST_PROBLEMS)
            .map(|p| json!({ "file": p.file, "line": p.line, "message": p.message }))
            .collect();
        let told = json!({ "hash": refused.hash, "problems": refused.problems.len(), "first": first });
        let mut entry = Entry::system("config.refused").object(refused.hash.clone()).after(told);
        entry.outcome = Outcome::Refused;
        entry.code = Some("config_refused".to_owned());
        self.handle.block_on(self.gateway.state.audit.record_done(entry));
    }
}

const MOST_PROBLEMS: usize = 5;
