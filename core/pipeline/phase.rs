//! The phase table of the house (core/README.md): one row a phase. `scripts/README.md` is generated from it.

/// When a stage runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    Request,
    Route,
    Attempt,
    Event,
    Response,
    Error,
    Log,
}

/// A row of the table.
pub struct Row {
    pub phase: Phase,
    pub name: &'static str,
    pub runs: &'static str,
    pub sees: &'static str,
    pub may_change: &'static str,
    /// Verdicts beside `continue`, by the name of the script function that makes them.
    pub verdicts: &'static [&'static str],
    /// The script function's parameters.
    pub parameters: &'static [&'static str],
}

pub const TABLE: [Row; 7] = [
    Row {
        phase: Phase::Request,
        name: "request",
        runs: "once",
        sees: "request, context",
        may_change: "request",
        verdicts: &["respond", "reject"],
        parameters: &["request", "context"],
    },
    Row {
        phase: Phase::Route,
        name: "route",
        runs: "once",
        sees: "request, candidates with live health, latency, price, quota",
        may_change: "order and choice",
        verdicts: &["reject"],
        parameters: &["request", "targets", "context"],
    },
    Row {
        phase: Phase::Attempt,
        name: "attempt",
        runs: "each attempt",
        sees: "target, headers, request",
        may_change: "headers, request for this target",
        verdicts: &["skip", "reject"],
        parameters: &["target", "request", "context"],
    },
    Row {
        phase: Phase::Event,
        name: "event",
        runs: "each stream event",
        sees: "one semantic event",
        may_change: "map, drop, insert",
        verdicts: &["stop", "reject"],
        parameters: &["event", "context"],
    },
    Row {
        phase: Phase::Response,
        name: "response",
        runs: "once",
        sees: "the whole answer",
        may_change: "answer",
        verdicts: &["next", "reject"],
        parameters: &["response", "context"],
    },
    Row {
        phase: Phase::Error,
        name: "error",
        runs: "once",
        sees: "error",
        may_change: "message, status, answer",
        verdicts: &["respond"],
        parameters: &["error", "context"],
    },
    Row {
        phase: Phase::Log,
        name: "log",
        runs: "once",
        sees: "the record",
        may_change: "tags",
        verdicts: &[],
        parameters: &["record", "context"],
    },
];

impl Phase {
    pub const ALL: [Phase; 7] =
        [Phase::Request, Phase::Route, Phase::Attempt, Phase::Event, Phase::Response, Phase::Error, Phase::Log];

    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }
}

/// A set of phases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases(u8);

impl Phases {
    pub fn with(self, phase: Phase) -> Self {
        Phases(self.0 | 1 << phase as u8)
    }

    pub fn has(self, phase: Phase) -> bool {
        self.0 & (1 << phase as u8) != 0
    }

    pub fn union(self, other: Phases) -> Self {
        Phases(self.0 | other.0)
    }
}
