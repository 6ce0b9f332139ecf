//! `[[stages]]`: what stands in the pipeline, for whom, and within which bounds.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Size, Span};

/// One stage of the pipeline.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// `scripts/NAME.rhai`, `plugins/NAME.wasm`, or `builtin/NAME` for a stage that comes with the gateway.
    #[serde(rename = "use")]
    pub uses: String,
    /// What happens to a request in which this stage fails. Default: reject.
    pub on_error: Option<OnError>,
    /// How it sees streamed answers; overrides the script's own `const STREAM` and the plugin's own word.
    pub stream: Option<StreamMode>,
    /// Whose requests meet it. Default: all.
    pub only: Option<Only>,
    /// Handed to the stage as it is.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub config: Option<toml::Table>,
    /// What of the host it may use. Plugins: `log`, `kv`, `metrics`, `clock`, `http:HOST`; scripts: `ask` (models that the
    /// caller may use), `ask:PROVIDER/MODEL` (that one, whoever calls). Default: nothing.
    pub grant: Option<Vec<String>>,
    /// Plugins: one instance a request, or a pool of them.
    pub isolation: Option<Isolation>,
    /// What one call may use.
    pub limits: Option<Limits>,
    /// A call that takes longer is named in `server-timing` and in the trace. Default: 1ms.
    pub slow: Option<Span>,
    /// When it fails too often: it is left out, or its requests are refused (by `on_error`), until a probe goes well.
    pub park: Option<Park>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Park {
    /// Failures in a row; half of the last 64 is too often as well. 0: never. Default: 20.
    pub failures: Option<u32>,
    /// Failures that end sooner are a burst and park nothing. Default: 30s.
    pub lasting: Option<Span>,
    /// Until the first probe, then twice as long each time, up to 5 minutes. Default: 10s.
    pub rest: Option<Span>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The request fails too.
    Reject,
    /// The request goes on without the stage.
    Skip,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamMode {
    /// Event by event.
    Event,
    /// Event by event, with the last characters held back so that a match may cross events.
    Window,
    /// Buffered, as one answer.
    Whole,
    /// After the end; its verdicts change nothing.
    Observe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    Request,
    Pooled,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Only {
    pub teams: Option<Vec<String>>,
    /// Names as the caller sends them, `*` standing for anything.
    pub models: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Scripts: operations a call. Default: 200000.
    #[schemars(range(min = 1_000, max = 1_000_000_000))]
    pub operations: Option<u64>,
    /// Wall time a call. Default: 50ms.
    pub wall: Option<Span>,
    /// Plugins: memory of an instance. Default: 32MiB.
    pub memory: Option<Size>,
    /// Plugins: processor time a call. Default: 10ms.
    pub cpu: Option<Span>,
    /// Scripts: questions to models within one request. Default: 4.
    #[schemars(range(min = 1, max = 100))]
    pub asks: Option<u32>,
    /// Scripts: the longest that one of them may take. Default: 10s.
    pub ask_wait: Option<Span>,
}
