//! How a request steers the mock: the items of `x-portcullis-mock` and of `[mock: …]`. Says what is wrong rather than
//! guessing.

use std::time::Duration;

use crate::{
    error::{Error, Kind, Result},
    model::FinishReason,
};

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Control {
    pub latency: Duration,
    pub pace: Duration,
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
    pub cut: Option<usize>,
    pub stall: Option<usize>,
    pub chunk: Option<usize>,
    pub usage: Option<Counts>,
    pub tokens: Option<usize>,
    pub reasoning: bool,
    pub finish: Option<FinishReason>,
    pub tool: Option<String>,
    pub text: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counts {
    pub input: u64,
    pub output: u64,
    pub cached: Option<u64>,
}

impl Control {
    /// The header's items, then the prompt's.
    pub fn read(header: &str, prompt: &str) -> Result<Control> {
        let mut control = Control::default();
        control.add(header)?;
        if let Some(items) = in_prompt(prompt) {
            control.add(items)?;
        }
        Ok(control)
    }

    /// The refusal that `status` asks for.
    pub fn refusal(&self) -> Option<Error> {
        let status = self.status.filter(|s| *s >= 400)?;
        let kind = match status {
            401 => Kind::Unauthenticated,
            403 => Kind::Forbidden,
            404 => Kind::ModelNotFound,
            408 => Kind::RequestTimeout,
            413 => Kind::TooLarge,
            429 => Kind::RateLimited,
            503 | 529 => Kind::Overloaded,
            504 => Kind::UpstreamTimeout,
            400..=499 => Kind::InvalidRequest,
            _ => Kind::Internal,
        };
        let mut error = Error::new(kind, format!("the mock was asked to answer {status}")).with_status(status);
        error.retry_after = self.retry_after;
        Some(error)
    }

    fn add(&mut self, items: &str) -> Result<()> {
        let mut rest = items.trim();
        while !rest.is_empty() {
            if let Some(text) = rest.strip_prefix("text=") {
                self.text = Some(text.to_owned());
                return Ok(());
            }
            let (item, after) = rest.split_once(',').unwrap_or((rest, ""));
            rest = after.trim_start();
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            self.set(name.trim(), value.trim())?;
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "" => {}
            "latency" => self.latency = duration(name, value)?,
            "pace" => self.pace = duration(name, value)?,
            "status" => self.status = Some(number(name, value, 200, 599)? as u16),
            "retry_after" => self.retry_after = Some(Duration::from_secs(number(name, value, 0, 86_400)?)),
            "cut" => self.cut = Some(number(name, value, 0, 1_000_000)? as usize),
            "stall" => self.stall = Some(number(name, value, 0, 1_000_000)? as usize),
            "chunk" => self.chunk = Some(number(name, value, 1, 1 << 20)? as usize),
            "tokens" => self.tokens = Some(number(name, value, 0, 100_000)? as usize),
            "usage" => self.usage = Some(counts(value)?),
            "reasoning" => self.reasoning = value != "off",
            "finish" => self.finish = Some(finish(value)?),
            "tool" => self.tool = Some(value.to_owned()),
            other => return Err(wrong(&format!("`{other}` is none of its items"))),
        }
        Ok(())
    }
}

/// What stands inside the last `[mock: …]`.
fn in_prompt(prompt: &str) -> Option<&str> {
    let at = prompt.rfind("[mock:")?;
    let rest = &prompt[at + "[mock:".len()..];
    rest.find(']').map(|end| &rest[..end])
}

/// The prompt without its `[mock: …]`.
pub(super) fn without(prompt: &str) -> String {
    let Some(at) = prompt.rfind("[mock:") else { return prompt.trim().to_owned() };
    let Some(end) = prompt[at..].find(']') else { return prompt.trim().to_owned() };
    format!("{}{}", &prompt[..at], &prompt[at + end + 1..]).trim().to_owned()
}

fn duration(name: &str, value: &str) -> Result<Duration> {
    let (digits, unit) = match value.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (value.strip_suffix('s').unwrap_or(value), if value.ends_with('s') { 1000 } else { 1 }),
    };
    Ok(Duration::from_millis(number(name, digits, 0, 600_000)?.saturating_mul(unit)))
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64> {
    value
        .parse()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| wrong(&format!("`{name}` wants a whole number from {least} to {most}")))
}

fn counts(value: &str) -> Result<Counts> {
    let mut parts = value.split('/').map(|p| number("usage", p.trim(), 0, 1 << 40));
    let mut next = || parts.next().transpose();
    let (Some(input), Some(output)) = (next()?, next()?) else {
        return Err(wrong("`usage` wants input/output, such as 10/20"));
    };
    Ok(Counts { input, output, cached: next()? })
}

fn finish(value: &str) -> Result<FinishReason> {
    Ok(match value {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        "tool_calls" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => return Err(wrong("`finish` is stop, length, tool_calls or content_filter")),
    })
}

fn wrong(why: &str) -> Error {
    Error::new(Kind::InvalidRequest, format!("the mock does not understand its instructions: {why}"))
}
