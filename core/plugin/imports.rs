//! The host's side of every import but `http`. Nothing here waits, and nothing a guest says grows without a bound.

use std::time::{Duration, Instant};

use serde_json::Value;
use wasmtime::component::{HasSelf, Linker};

use super::{
    bind::portcullis::plugin::{clock, config, context, facts, http, kv, logging, metrics, types},
    grant::Grants,
    state::{Guest, unix_ms},
};
use crate::pipeline::effects::MAX_VARS;

/// What a stage with these grants can be linked to.
pub fn link(linker: &mut Linker<Guest>, grants: &Grants) -> wasmtime::Result<()> {
    types::add_to_linker::<Guest, HasSelf<Guest>>(linker, |g| g)?;
    context::add_to_linker::<Guest, HasSelf<Guest>>(linker, |g| g)?;
    facts::add_to_linker::<Guest, HasSelf<Guest>>(linker, |g| g)?;
    config::add_to_linker::<Guest, HasSelf<Guest>>(linker, |g| g)?;
    if grants.has("log") {
        logging::add_to_linker::<Guest, HasSelf<Guest>>(linker, |g| g)?;
    }
    if grants.has("kv") {
        kv::add_to_linker::<Guest, HasSelf<Guest>>(linker, |g| g)?;
    }
    if grants.has("metrics") {
        metrics::add_to_linker::<Guest, HasSelf<Guest>>(linker, |g| g)?;
    }
    if grants.has("clock") {
        clock::add_to_linker::<Guest, HasSelf<Guest>>(linker, |g| g)?;
    }
    if grants.has("http") {
        http::add_to_linker::<Guest, HasSelf<Guest>>(linker, |g| g)?;
    }
    Ok(())
}

impl types::Host for Guest {}

impl context::Host for Guest {
    fn current(&mut self) -> context::Caller {
        let Some(caller) = &self.call.caller else {
            return context::Caller {
                id: String::new(),
                key: String::new(),
                key_id: String::new(),
                team: None,
                user: None,
                roles: Vec::new(),
                tags: Vec::new(),
                now: 0,
                attempt: 0,
                seed: 0,
            };
        };
        let principal = &caller.principal;
        context::Caller {
            id: caller.id.to_string(),
            key: principal.key_name.to_string(),
            key_id: principal.key_id.to_string(),
            team: principal.team.as_deref().map(str::to_owned),
            user: principal.user.as_deref().map(str::to_owned),
            roles: principal.roles.to_vec(),
            tags: caller.tags.clone(),
            now: caller.unix_ms(),
            attempt: caller.attempt,
            seed: caller.seed,
        }
    }

    fn may_use(&mut self, model: String) -> bool {
        self.call.caller.as_ref().is_some_and(|caller| caller.principal.may_use(&model))
    }

    fn note(&mut self, text: String) {
        Guest::note(self, &text);
    }

    fn done(&mut self) {
        self.call.done = true;
    }

    fn get_var(&mut self, name: String) -> Option<String> {
        self.call.vars.get(&name).map(Value::to_string)
    }

    fn set_var(&mut self, name: String, json: String) -> Result<(), String> {
        let value: Value = serde_json::from_str(&json).map_err(|_| "a variable's value is JSON".to_owned())?;
        let vars = &mut self.call.vars;
        if json.len() > MAX_VAR || name.len() > MAX_KEY {
            return Err(format!("a variable may have {MAX_VAR} bytes and a name of {MAX_KEY}"));
        }
        if vars.len() >= MAX_VARS && !vars.contains_key(&name) {
            return Err(format!("a request may have {MAX_VARS} variables"));
        }
        vars.insert(name, value);
        self.call.vars_changed = true;
        Ok(())
    }
}

impl facts::Host for Guest {
    fn get(&mut self, name: String) -> Option<String> {
        let call = &self.call;
        match name.as_str() {
            "portcullis.version" => Some(env!("CARGO_PKG_VERSION").to_owned()),
            "stage" => Some(self.shared.name.to_string()),
            "phase" => call.phase.map(|phase| phase.name().to_owned()),
            "deadline_ms" => {
                let left = call.caller.as_ref()?.deadline?.saturating_duration_since(Instant::now());
                Some(left.as_millis().to_string())
            }
            "request.bytes" => (call.bytes > 0).then(|| call.bytes.to_string()),
            _ => None,
        }
    }
}

impl config::Host for Guest {
    fn get(&mut self) -> String {
        self.shared.config_text.clone()
    }

    fn value(&mut self, name: String) -> Option<String> {
        match self.shared.config.get(&name)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl logging::Host for Guest {
    fn log(&mut self, level: logging::Level, message: String) {
        self.call.logged += 1;
        if self.call.logged > MAX_LINES {
            return;
        }
        let message = &message[..message.floor_char_boundary(MAX_LINE)];
        let stage = &*self.shared.name;
        let id = self.call.caller.as_ref().map_or("", |caller| &*caller.id);
        match level {
            logging::Level::Debug => tracing::debug!(stage, id, "{message}"),
            logging::Level::Info | logging::Level::Other(_) => tracing::info!(stage, id, "{message}"),
            logging::Level::Warn => tracing::warn!(stage, id, "{message}"),
            logging::Level::Error => tracing::error!(stage, id, "{message}"),
        }
    }
}

impl kv::Host for Guest {
    fn get(&mut self, key: String) -> Option<String> {
        self.space(|space, now| {
            space.get(&key, now).map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
        })
    }

    fn set(&mut self, key: String, value: String, ttl: Option<u32>) -> Result<(), String> {
        self.space(|space, now| space.set(&key, Value::String(value), seconds(ttl), now))
    }

    fn increment(&mut self, key: String, by: i64, ttl: Option<u32>) -> Result<i64, String> {
        self.space(|space, now| space.incr(&key, by, seconds(ttl), now))
    }

    fn remove(&mut self, key: String) {
        self.space(|space, _| space.remove(&key));
    }
}

impl Guest {
    fn space<T>(&self, f: impl FnOnce(&mut crate::pipeline::kv::Space, Instant) -> T) -> T {
        let shared = &self.shared;
        shared.effects.kv.space(&shared.name, self.tenant(), |space| f(space, crate::clock::now()))
    }
}

impl metrics::Host for Guest {
    fn record(&mut self, name: String, value: f64) {
        let shared = &self.shared;
        if let Err(why) = shared.effects.metric("portcullis_plugin_metric", &shared.name, &name, value) {
            self.note(&why);
        }
    }
}

impl clock::Host for Guest {
    fn now(&mut self) -> u64 {
        unix_ms(crate::clock::wall())
    }

    fn monotonic(&mut self) -> u64 {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        START.elapsed().as_micros() as u64
    }
}

fn seconds(ttl: Option<u32>) -> Option<Duration> {
    ttl.map(|seconds| Duration::from_secs(seconds.into()))
}

const MAX_VAR: usize = 64 << 10;
const MAX_KEY: usize = 256;
/// Lines in one request, and bytes of one.
const MAX_LINES: u32 = 32;
const MAX_LINE: usize = 1000;
