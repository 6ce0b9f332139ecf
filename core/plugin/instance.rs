//! One instance of a guest: made, called under its limits, and thrown away when a call did not end cleanly. An instance
//! that trapped, ran out of time or was left in the middle of a call is never called again.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, PoisonError},
    time::Duration,
};

use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline, component};

use super::{
    bind::exports::portcullis::plugin::{attempt, error, event, log, request, response, route},
    compile::{Loaded, Terms, told},
    engine::{Engine, Meter},
    state::{Guest, Shared, TooMuch},
};
use crate::{
    context::Context,
    error::{Error, Kind},
    pipeline::{Phase, StageFault},
};

pub struct Instance {
    pub store: Store<Guest>,
    pub made: component::Instance,
    pub exports: Exports,
    pub meter: Arc<Meter>,
    /// In a call, or left in one.
    calling: bool,
    uses: u32,
}

/// The functions of the phases that the guest wants, looked up when they are first called: their types were checked when
/// the file was loaded, and would be again.
#[derive(Default)]
pub struct Exports {
    pub request: Option<request::Guest>,
    pub route: Option<route::Guest>,
    pub attempt: Option<attempt::Guest>,
    pub event: Option<event::Guest>,
    pub response: Option<response::Guest>,
    pub error: Option<error::Guest>,
    pub log: Option<log::Guest>,
}

impl Instance {
    /// A fresh one, or one that waits for a further request.
    pub async fn take(loaded: &Loaded, phase: Phase) -> Result<Box<Instance>, StageFault> {
        let idle = loaded.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(instance) => Ok(instance),
            None => Instance::fresh(loaded, &loaded.shared, phase).await,
        }
    }

    /// One that nobody used before.
    pub async fn fresh(loaded: &Loaded, shared: &Arc<Shared>, phase: Phase) -> Result<Box<Instance>, StageFault> {
        Instance::open(loaded, shared).await.map(Box::new).map_err(|e| match full(&e) {
            true => StageFault { error: Some(no_room()), ..fault(loaded, phase, &e) },
            false => fault(loaded, phase, &e),
        })
    }

    pub async fn open(loaded: &Loaded, shared: &Arc<Shared>) -> wasmtime::Result<Instance> {
        let _busy = loaded.engine.busy();
        let mut store = store(&loaded.engine, shared, loaded.terms);
        let meter = store.data().meter.clone();
        let made = metered(&meter, loaded.pre.instantiate_async(&mut store)).await?;
        let exports = Exports::default();
        Ok(Instance { store, made, exports, meter, calling: false, uses: 0 })
    }

    /// Every phase's function, for a look at its type.
    pub fn check(&mut self, loaded: &Loaded) -> wasmtime::Result<()> {
        let indices = &loaded.indices;
        macro_rules! look {
            ($($phase:ident),+) => {
                $(if let Some(indices) = &indices.$phase {
                    self.exports.$phase = Some(indices.load(&mut self.store, &self.made)?);
                })+
            };
        }
        look!(request, route, attempt, event, response, error, log);
        Ok(())
    }

    /// Was it left in the middle of a call (the client went away)?
    pub fn lost(&self) -> bool {
        self.calling
    }

    pub fn begin(&mut self, loaded: &Loaded, phase: Phase, cx: &Context, bytes: u64) {
        self.calling = true;
        self.meter.begin(loaded.terms.cpu);
        self.store.set_epoch_deadline(1);
        self.store.data_mut().begin(phase, cx, bytes);
    }

    /// Bytes of all its memories.
    pub fn memory(&self) -> u64 {
        self.store.data().memory.used() as u64
    }

    /// The call came back cleanly.
    pub fn end(&mut self, cx: &mut Context) {
        self.calling = false;
        self.store.data_mut().end(cx);
    }

    /// Back to those that wait, if it may serve again.
    pub fn give_back(mut self: Box<Self>, loaded: &Loaded) {
        self.uses += 1;
        let roomy = self.memory() <= loaded.terms.memory / 2;
        if self.calling || self.uses >= MAX_USES || !roomy {
            return;
        }
        self.store.data_mut().forget();
        let mut idle = loaded.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(self);
        }
    }
}

/// With its bounds in place and a full measure of time.
pub fn store(engine: &Engine, shared: &Arc<Shared>, terms: Terms) -> Store<Guest> {
    let mut store = Store::new(&engine.wasm, Guest::new(shared.clone(), terms.memory));
    store.limiter(|guest| &mut guest.memory);
    store.data().meter.begin(terms.cpu);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|cx| match cx.data().meter.tick() {
        // A busy guest does not hog its thread.
        true => Ok(UpdateDeadline::Yield(1)),
        false => Err(TimeUp.into()),
    });
    // What it hands over is copied, however often its lists name the same bytes.
    store.set_hostcall_fuel(MAX_OUTPUT);
    store
}

/// Measures a call's processor time.
pub async fn metered<F: Future>(meter: &Meter, call: F) -> F::Output {
    let mut call = pin!(call);
    poll_fn(|cx| {
        meter.resumed();
        call.as_mut().poll(cx)
    })
    .await
}

#[derive(Debug, thiserror::Error)]
#[error("it took more processor time than it may")]
struct TimeUp;

/// `plugins/redact.wasm (request): it panicked`
pub fn fault(loaded: &Loaded, phase: Phase, error: &wasmtime::Error) -> StageFault {
    wrong(loaded, phase, &reason(loaded, error))
}

pub fn wrong(loaded: &Loaded, phase: Phase, why: &str) -> StageFault {
    StageFault::new(format!("{} ({}): {why}", loaded.shared.name, phase.name()))
}

/// Every place for an instance is taken.
fn full(error: &wasmtime::Error) -> bool {
    error.is::<PoolConcurrencyLimitError>()
}

fn no_room() -> Error {
    let message = "more requests are under way than there is room for in the gateway's plugins; try again shortly";
    Error::new(Kind::Overloaded, message).retry_after(A_MOMENT)
}

fn reason(loaded: &Loaded, error: &wasmtime::Error) -> String {
    let terms = loaded.terms;
    if error.is::<TimeUp>() {
        return format!("stopped: it took more than {:?} of processor time (limits.cpu)", terms.cpu);
    }
    if error.is::<TooMuch>() {
        return format!("stopped: it wanted more than {} KiB of memory (limits.memory)", terms.memory >> 10);
    }
    if full(error) {
        return "there is no room for another instance: too many requests are in it".into();
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => return "it panicked".into(),
        Some(Trap::StackOverflow) => return "its functions call each other too deep".into(),
        Some(Trap::MemoryOutOfBounds) => return "it reached outside its memory".into(),
        Some(trap) => return format!("it trapped: {trap}"),
        None => {}
    }
    let text = told(error);
    if text.contains("hostcalls") {
        return format!("stopped: it handed over more than {} MiB at once", MAX_OUTPUT >> 20);
    }
    format!("it failed: {text}")
}

/// Of one call's verdict, or of one import's arguments.
const MAX_OUTPUT: usize = 16 << 20;
/// An instance serves so many requests when it is pooled; and so many wait.
const MAX_USES: u32 = 1_000;
const MAX_IDLE: usize = 64;
/// Nobody knows when a running request ends.
const A_MOMENT: Duration = Duration::from_secs(1);
