//! The one WebAssembly engine of the process: how guests are compiled and where their memories lie, the clock that
//! interrupts them, and what their processor time is. It knows no phases.
//!
//! Started with the first plugin: a gateway without plugins reserves nothing and wakes up for nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use wasmtime::{Cache, Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::kept::{self, Keep};

/// Shared by all plugins.
pub struct Engine {
    pub wasm: wasmtime::Engine,
    cache: Option<Cache>,
    ticker: Arc<Ticker>,
}

/// Moves the epoch on while guests run.
struct Ticker {
    /// Calls under way.
    running: AtomicUsize,
    asleep: AtomicBool,
    thread: std::sync::OnceLock<Thread>,
}

impl Engine {
    /// With room for so many instances at once, or for fewer where there is less address space. Where there is none for a
    /// pool, instances are made one by one, which is slower and otherwise the same.
    pub fn start(places: u32, keep: Option<&dyn Keep>) -> Result<Engine, String> {
        let cache = keep.and_then(kept::cache);
        let config = || {
            let mut config = config();
            config.cache(cache.clone());
            config
        };
        let pooled = |places| wasmtime::Engine::new(config().allocation_strategy(pool(places)));
        let wasm = match pooled(places).or_else(|_| pooled(places.div_ceil(8))) {
            Ok(engine) => engine,
            Err(error) => {
                tracing::warn!(%error, "no address space for a pool of plugin instances: each is made on its own");
                let mut plain = config();
                plain.memory_reservation(64 << 20).memory_guard_size(64 << 10);
                wasmtime::Engine::new(&plain).map_err(|e| format!("the plugin engine cannot be started: {e}"))?
            }
        };
        let ticker = Arc::new(Ticker {
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            thread: Default::default(),
        });
        let (weak, clock) = (wasm.weak(), Arc::downgrade(&ticker));
        let beat = move || {
            let mut idle = 0;
            loop {
                thread::park_timeout(TICK);
                let (Some(engine), Some(ticker)) = (weak.upgrade(), clock.upgrade()) else { return };
                engine.increment_epoch();
                drop(engine);
                idle = if ticker.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
                if idle > REST {
                    idle = 0;
                    ticker.rest();
                }
            }
        };
        let handle = thread::Builder::new()
            .name("plugin-clock".to_owned())
            .spawn(beat)
            .map_err(|e| format!("the plugin clock cannot be started: {e}"))?;
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(Engine { wasm, cache, ticker })
    }

    /// How many files were found compiled so far.
    pub fn found(&self) -> usize {
        self.cache.as_ref().map_or(0, Cache::cache_hits)
    }

    /// Keeps the clock running while it lives.
    pub fn busy(&self) -> Busy<'_> {
        self.ticker.running.fetch_add(1, Ordering::SeqCst);
        if self.ticker.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.ticker.thread.get()
        {
            thread.unpark();
        }
        Busy(&self.ticker)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The thread wakes up, finds the engine gone and ends.
        if let Some(thread) = self.ticker.thread.get() {
            thread.unpark();
        }
    }
}

impl Ticker {
    fn rest(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        // A call that came in between has left a token: then this returns at once.
        if self.running.load(Ordering::SeqCst) == 0 {
            thread::park_timeout(LONGEST_REST);
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

pub struct Busy<'e>(&'e Ticker);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true).max_wasm_stack(WASM_STACK).async_stack_size(FIBER_STACK);
    // Requests go on while a guest is compiled.
    config.parallel_compilation(false);
    config
}

fn pool(places: u32) -> InstanceAllocationStrategy {
    let mut pool = PoolingAllocationConfig::new();
    // Where the kernel tells which pages a guest wrote to, those are wiped and stay: no page is given back and taken anew
    // for each request. Where it does not, more would be wiped than was written.
    let told = PoolingAllocationConfig::is_pagemap_scan_available();
    pool.pagemap_scan(Enabled::Auto);
    // A component made of one module has three or four instances inside (the tool's own adapters).
    pool.total_component_instances(places)
        .total_core_instances(places.saturating_mul(4))
        .total_memories(places)
        .total_tables(places.saturating_mul(2))
        .total_stacks(places)
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(if told { KEEP_TOLD } else { KEEP })
        .table_keep_resident(8 << 10)
        .max_unused_warm_slots(WARM);
    InstanceAllocationStrategy::Pooling(pool)
}

/// One call's processor time, told by two hands: the clock that interrupts the guest, and the task that polls it. Only
/// calls that live through a tick are measured at all.
#[derive(Default)]
pub struct Meter {
    /// Nanoseconds.
    used: AtomicU64,
    limit: AtomicU64,
    /// The thread's own time when this stretch began; 0: not measured yet.
    since: AtomicU64,
}

impl Meter {
    pub fn begin(&self, limit: Duration) {
        self.used.store(0, Ordering::Relaxed);
        self.since.store(0, Ordering::Relaxed);
        self.limit.store(limit.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The task runs again, perhaps on another thread.
    pub fn resumed(&self) {
        if self.since.load(Ordering::Relaxed) != 0 {
            self.since.store(thread_time(), Ordering::Relaxed);
        }
    }

    /// The clock interrupted the guest. False: its time is up.
    pub fn tick(&self) -> bool {
        let now = thread_time();
        let stretch = match self.since.swap(now, Ordering::Relaxed) {
            0 => TICK.as_nanos() as u64,
            since => now.saturating_sub(since),
        };
        let used = self.used.fetch_add(stretch, Ordering::Relaxed) + stretch;
        used < self.limit.load(Ordering::Relaxed)
    }
}

/// Processor time of this thread, in nanoseconds, never 0.
#[cfg(unix)]
pub fn thread_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64).max(1)
}

/// Where threads have no clock of their own: time that passes.
#[cfg(not(unix))]
pub fn thread_time() -> u64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    (START.elapsed().as_nanos() as u64).max(1)
}

pub const TICK: Duration = Duration::from_millis(1);
/// Ticks without a call before the clock rests.
const REST: u32 = 200;
const LONGEST_REST: Duration = Duration::from_secs(60);
const WASM_STACK: usize = 256 << 10;
const FIBER_STACK: usize = 1 << 20;
/// Functions that a guest can point to: an interpreter has twenty thousand.
const TABLE_ELEMENTS: usize = 50_000;
/// Of a used memory, what stays resident for the next instance in its place; and how many such places.
const KEEP: usize = 64 << 10;
const KEEP_TOLD: usize = 512 << 10;
const WARM: u32 = 32;
