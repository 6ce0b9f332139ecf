//! How much the model should think, in the wire's two ways: a token budget (older models) or adaptive thinking with an
//! effort (newer ones). Also settles `max_tokens`, which a budget must stay under.

use serde_json::{Value, json};

use super::super::{Dialect, wire::FORMAT};
use crate::model::{ReasoningAsk, Request, ToolChoice};

/// What is written about thinking.
#[derive(Debug, Default)]
pub struct Thinking {
    mode: Mode,
    effort: Option<String>,
    show: Option<bool>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Mode {
    /// Say nothing.
    #[default]
    Unsaid,
    Disabled,
    Budget(u64),
    Adaptive,
}

/// `lacks_thinking`: the tool loop that is going on began without a thinking block, so a budgeted model would refuse.
pub fn thinking(
    request: &Request,
    dialect: &Dialect,
    lacks_thinking: bool,
    dropped: &mut Vec<&'static str>,
) -> Thinking {
    let Some(ask) = &request.reasoning else { return Thinking::default() };
    if dialect.lacks.contains(&"reasoning") {
        if !ask.is_off() {
            dropped.push("reasoning_effort");
        }
        return Thinking::default();
    }
    let mut thinking = plan(request, ask, dialect);
    let forced = matches!(
        request.tool_choice,
        Some(ToolChoice::Required | ToolChoice::Tool { .. } | ToolChoice::Allowed { required: true, .. })
    );
    let blocked = match thinking.mode {
        Mode::Budget(_) => forced || lacks_thinking,
        Mode::Adaptive => forced,
        Mode::Unsaid | Mode::Disabled => false,
    };
    // A forced tool and an unbroken history are what the caller meant; thinking is how hard to try.
    if blocked || !thinking.fits(request.max_tokens) {
        thinking.mode = Mode::Unsaid;
        dropped.push("reasoning_effort");
    }
    thinking
}

fn plan(request: &Request, ask: &ReasoningAsk, dialect: &Dialect) -> Thinking {
    let ReasoningAsk { effort, budget, show } = ask;
    let kept = request.extra.of(FORMAT).and_then(|kept| kept.get("output_config")?.get("effort")?.as_str());
    if budget.is_none() && kept.is_some() && kept == effort.as_deref() {
        return Thinking { mode: Mode::Unsaid, effort: effort.clone(), show: None };
    }
    let none = effort.as_deref() == Some("none");
    match budget {
        Some(0) => Thinking { mode: Mode::Disabled, effort: effort.as_deref().filter(|_| !none).map(word), show: None },
        None if none => Thinking { mode: Mode::Disabled, effort: None, show: None },
        None if effort.is_none() => Thinking { mode: Mode::Unsaid, effort: None, show: None },
        Some(budget) if *budget > 0 && dialect.thinking_budget => {
            let mode = Mode::Budget((*budget).unsigned_abs().max(LEAST_BUDGET));
            Thinking { mode, effort: effort.as_deref().filter(|_| kept_with_budget(request)).map(word), show: *show }
        }
        _ if dialect.thinking_budget => {
            let mode = Mode::Budget(budget_of(effort.as_deref().unwrap_or("medium")));
            Thinking { mode, effort: None, show: *show }
        }
        budget => {
            let derived = budget.filter(|b| *b > 0).map(effort_of);
            let effort = effort.as_deref().map(word).or_else(|| derived.map(str::to_owned));
            Thinking { mode: Mode::Adaptive, effort, show: *show }
        }
    }
}

/// This family's own clients may say both; for others one is made from the other, and saying both would say it twice.
fn kept_with_budget(request: &Request) -> bool {
    request.extra.any().is_none_or(|(format, _)| format == FORMAT)
}

impl Thinking {
    pub fn is_on(&self) -> bool {
        matches!(self.mode, Mode::Budget(_) | Mode::Adaptive)
    }

    pub fn effort(&self) -> Option<String> {
        self.effort.clone()
    }

    /// The budget counts inside `max_tokens` here: under a bound of the caller's it leaves a quarter for the answer. False: there
    /// is no room for the least budget.
    fn fits(&mut self, bound: Option<u64>) -> bool {
        let (Mode::Budget(budget), Some(bound)) = (self.mode, bound) else { return true };
        if budget >= bound {
            self.mode = Mode::Budget((bound - bound / 4).max(LEAST_BUDGET));
        }
        bound > LEAST_BUDGET
    }

    /// The caller's bound, or one that has room for the budget.
    pub fn max_tokens(&self, asked: Option<u64>, dialect: &Dialect) -> u64 {
        match (asked, self.mode) {
            (Some(asked), _) => asked,
            (None, Mode::Budget(budget)) if budget >= dialect.default_max_tokens => {
                dialect.default_max_tokens.saturating_add(budget)
            }
            (None, _) => dialect.default_max_tokens,
        }
    }

    pub fn thinking(&self) -> Option<Value> {
        let mut out = match self.mode {
            Mode::Unsaid => return None,
            Mode::Disabled => return Some(json!({"type": "disabled"})),
            Mode::Budget(budget) => json!({"type": "enabled", "budget_tokens": budget}),
            Mode::Adaptive => json!({"type": "adaptive"}),
        };
        match self.show {
            // Budgeted models show their thinking anyway, and the oldest do not know the word.
            Some(true) if self.mode == Mode::Adaptive => out["display"] = "summarized".into(),
            Some(false) => out["display"] = "omitted".into(),
            _ => {}
        }
        Some(out)
    }
}

/// The wire's word for an effort.
fn word(effort: &str) -> String {
    if effort == "minimal" { "low".to_owned() } else { effort.to_owned() }
}

pub fn budget_of(effort: &str) -> u64 {
    match effort {
        "minimal" | "low" => LEAST_BUDGET,
        "high" => 16_384,
        "xhigh" | "max" => 32_768,
        _ => 4_096,
    }
}

/// The effort whose budget comes nearest from below.
pub fn effort_of(budget: i64) -> &'static str {
    match budget {
        ..4_096 => "low",
        4_096..16_384 => "medium",
        16_384..32_768 => "high",
        _ => "xhigh",
    }
}

/// The vendor's own minimum.
const LEAST_BUDGET: u64 = 1_024;
