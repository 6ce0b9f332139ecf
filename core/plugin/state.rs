//! What the host keeps beside one instance: the bounds on its memory and time, and what the running call may know of the
//! request. Filled before each call and emptied after it.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};
use wasmtime::ResourceLimiter;

use super::{engine::Meter, grant::Grants, http::Outbound};
use crate::{
    auth::Principal,
    context::{Context, Step},
    pipeline::{
        Effects, Phase,
        effects::{MAX_NOTE, MAX_NOTES},
    },
};

/// What a stage's instances have in common.
#[derive(Clone)]
pub struct Shared {
    /// As listed: `plugins/redact.wasm`.
    pub name: Arc<str>,
    pub config: Map<String, Value>,
    /// The same as text, made once.
    pub config_text: String,
    pub grants: Grants,
    pub effects: Effects,
    pub outbound: Option<Arc<dyn Outbound>>,
    /// Does the guest look at the request's context at all?
    pub reads_context: bool,
}

impl Shared {
    /// For an instance that is only looked at: nothing goes out, nothing stays.
    pub fn rehearsal(&self) -> Shared {
        Shared { effects: self.effects.rehearsal(), outbound: None, ..self.clone() }
    }
}

/// The data of an instance's store.
pub struct Guest {
    pub shared: Arc<Shared>,
    pub memory: Memory,
    pub meter: Arc<Meter>,
    pub call: Call,
}

/// One call's view of the request.
#[derive(Default)]
pub struct Call {
    pub phase: Option<Phase>,
    pub caller: Option<Caller>,
    /// Of the caller's body.
    pub bytes: u64,
    pub vars: Map<String, Value>,
    pub vars_changed: bool,
    pub notes: Vec<String>,
    /// In this request, not in this call alone.
    pub noted: u32,
    pub logged: u32,
    pub called: u32,
    /// The guest wants nothing more of this request.
    pub done: bool,
}

pub struct Caller {
    pub id: Arc<str>,
    pub principal: Arc<Principal>,
    pub tags: Vec<(String, String)>,
    pub now: SystemTime,
    pub attempt: u32,
    pub seed: u64,
    pub deadline: Option<Instant>,
}

impl Guest {
    pub fn new(shared: Arc<Shared>, memory: u64) -> Self {
        Guest { shared, memory: Memory::new(memory), meter: Arc::default(), call: Call::default() }
    }

    pub fn begin(&mut self, phase: Phase, cx: &Context, bytes: u64) {
        let reads = self.shared.reads_context;
        self.call.phase = Some(phase);
        self.call.bytes = bytes;
        self.call.caller = Some(Caller {
            id: cx.id.clone(),
            principal: cx.principal.clone(),
            tags: if reads { cx.tags.clone() } else { Vec::new() },
            now: cx.now,
            attempt: cx.attempt,
            seed: cx.seed,
            deadline: cx.deadline,
        });
        if reads {
            self.call.vars.clone_from(&cx.vars);
        }
    }

    /// What the call left behind goes to the request; what it knew is forgotten.
    pub fn end(&mut self, cx: &mut Context) {
        let call = &mut self.call;
        for text in call.notes.drain(..) {
            cx.trace.push(Step::Note { stage: self.shared.name.clone(), line: 0, text });
        }
        if std::mem::take(&mut call.vars_changed) {
            cx.vars = std::mem::take(&mut call.vars);
        }
        call.vars = Map::new();
        call.caller = None;
        call.phase = None;
    }

    /// The instance goes to another request.
    pub fn forget(&mut self) {
        self.call = Call::default();
    }

    pub fn note(&mut self, text: &str) {
        self.call.noted += 1;
        if self.call.noted <= MAX_NOTES {
            self.call.notes.push(text[..text.floor_char_boundary(MAX_NOTE)].to_owned());
        }
    }

    pub fn tenant(&self) -> &str {
        self.call.caller.as_ref().map_or("", |caller| caller.principal.tenant())
    }
}

impl Caller {
    pub fn unix_ms(&self) -> u64 {
        unix_ms(self.now)
    }
}

pub fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// All memories of an instance together, and its tables.
pub struct Memory {
    limit: usize,
    used: usize,
}

/// The guest wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("it needs more than {0} bytes of memory")]
pub struct TooMuch(pub usize);

impl Memory {
    fn new(limit: u64) -> Self {
        Memory { limit: usize::try_from(limit).unwrap_or(usize::MAX), used: 0 }
    }

    pub fn used(&self) -> usize {
        self.used
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.limit {
            return Err(TooMuch(self.limit).into());
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE)
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_INSTANCES
    }

    fn memories(&self) -> usize {
        MAX_INSTANCES
    }
}

const MAX_TABLE: usize = 50_000;
/// Core instances, tables and memories inside one component's instance.
const MAX_INSTANCES: usize = 64;
