//! What the gateway tells about itself: its admin plane all of it, the data port whether it is ready. Reads; changes
//! nothing.

use std::{sync::Arc, time::Instant};

use serde_json::{Value, json};

use crate::{admin::Facts, gateway::Gateway, provider::Provider};

impl Gateway {
    /// Readiness, as both planes tell it: what runs, and what was refused.
    pub fn ready(&self) -> (bool, Value) {
        let runtime = self.runtime.load();
        let draining = self.state.draining();
        let refused = self.state.refused.load();
        let body = json!({
            "status": if draining { "draining" } else { "ready" },
            "config": runtime.config.hash,
            "refused": refused.as_deref().map(|r| r.json()),
        });
        (!draining, body)
    }
}

impl Facts for Gateway {
    fn config_status(&self) -> Value {
        let runtime = self.runtime.load();
        let refused = self.state.refused.load();
        json!({
            "running": {
                "hash": runtime.config.hash,
                "file": runtime.config.file,
                "stages": runtime.stages.iter().map(|s| json!({"use": s.uses, "hash": s.hash, "phases": s.phases})).collect::<Vec<_>>(),
                "outside": runtime.outside,
                "warnings": runtime.warnings,
            },
            "refused": refused.as_deref().map(|r| r.json()),
        })
    }

    fn models(&self) -> Vec<Value> {
        let runtime = self.runtime.load();
        let aliases = runtime.config.models.iter().map(|(name, alias)| {
            let targets: Vec<String> = alias.targets.iter().map(|t| format!("{}/{}", t.provider, t.model)).collect();
            json!({"id": name, "kind": "alias", "targets": targets, "failover": alias.failover})
        });
        aliases.chain([json!({"id": "mock", "kind": "builtin", "targets": ["mock/mock"], "failover": []})]).collect()
    }

    fn providers(&self) -> Vec<Value> {
        let now = Instant::now();
        let describe = |p: &Arc<Provider>| {
            json!({
                "name": p.name,
                "format": p.format,
                "ready": p.ready(),
                "missing": p.missing,
                "keys": p.keys(),
                "keys_resting": self.state.keys.resting(p, now),
            })
        };
        self.runtime.load().routes.providers().map(describe).collect()
    }

    fn ready(&self) -> (bool, Value) {
        Gateway::ready(self)
    }
}
