//! `[[stages]]`, resolved: which stages run and what each may do. Plain values.

use std::time::Duration;

/// `[[stages]]`.
#[derive(Debug, Clone)]
pub struct Stage {
    /// As written: `scripts/route.rhai`, `plugins/redact.wasm`, `builtin/…`.
    pub uses: String,
    pub on_error: OnError,
    pub stream: Option<StreamMode>,
    pub only: Option<Only>,
    pub config: serde_json::Map<String, serde_json::Value>,
    pub limits: StageLimits,
    /// Plugins: imports that they may use (`kv`, `http:api.example.com`); scripts: `ask`, `ask:MODEL`.
    pub grant: Vec<String>,
    pub isolation: Isolation,
    /// From here on a call is told as slow.
    pub slow: Duration,
    /// When it is parked; `None`: never.
    pub park: Option<Park>,
    /// Line in gateway.toml, for messages.
    pub line: u32,
}

impl Stage {
    /// A file of scripts/ or plugins/ that nobody listed.
    pub fn automatic(name: &str) -> Stage {
        Stage {
            uses: name.to_owned(),
            on_error: OnError::default(),
            stream: None,
            only: None,
            config: serde_json::Map::new(),
            limits: StageLimits::default(),
            grant: Vec::new(),
            isolation: Isolation::default(),
            slow: SLOW,
            park: Some(Park::default()),
            line: 0,
        }
    }
}

/// `slow` where nothing is said.
pub const SLOW: Duration = Duration::from_millis(1);

/// When a stage that fails is left out, or its requests refused (by its `on_error`), and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Park {
    /// In a row: 20. A half of the last 64 is too often as well.
    pub failures: u32,
    /// Failures that end sooner than this are a burst and park nothing: 30 s.
    pub lasting: Duration,
    /// Until the first probe: 10 s, then twice as long each time.
    pub rest: Duration,
}

impl Default for Park {
    fn default() -> Self {
        Park { failures: 20, lasting: Duration::from_secs(30), rest: Duration::from_secs(10) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    #[default]
    Reject,
    Skip,
}

/// How a stage wants streams (ARCHITECTURE §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamMode {
    Event,
    Window,
    Whole,
    Observe,
}

impl StreamMode {
    pub const fn name(self) -> &'static str {
        match self {
            StreamMode::Event => "event",
            StreamMode::Window => "window",
            StreamMode::Whole => "whole",
            StreamMode::Observe => "observe",
        }
    }
}

/// Whose instance of a plugin serves a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Its own.
    #[default]
    Request,
    /// One that served others before.
    Pooled,
}

#[derive(Debug, Clone, Default)]
pub struct Only {
    pub teams: Option<Vec<String>>,
    pub models: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageLimits {
    /// Rhai operations a call: 200,000.
    pub operations: u64,
    /// Wall-time backstop a call: 50 ms.
    pub wall: Duration,
    /// Bytes of a plugin instance's memory: 32 MiB.
    pub memory: u64,
    /// Processor time of a plugin's call: 10 ms.
    pub cpu: Duration,
    /// Questions of a script to models within one request: 4.
    pub asks: u32,
    /// The longest that one of them may take: 10 s.
    pub ask_wait: Duration,
}

impl Default for StageLimits {
    fn default() -> Self {
        StageLimits {
            operations: 200_000,
            wall: Duration::from_millis(50),
            memory: 32 << 20,
            cpu: Duration::from_millis(10),
            asks: 4,
            ask_wait: Duration::from_secs(10),
        }
    }
}
