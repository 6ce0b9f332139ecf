//! What binds a key, a user, a team or an organisation, as commands take it and the API wants it.

use anyhow::{Result, anyhow};
use serde_json::{Map, Value, json};

use crate::config::Limits;

/// What binds a key, a user, a team or an organisation.
#[derive(Debug, Clone, clap::Args)]
pub struct TermArgs {
    /// Allowed models, with wildcards; all when absent
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    models: Option<Vec<String>>,
    /// Allowed operations (chat, embeddings, …); all when absent
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    operations: Option<Vec<String>>,
    /// Addresses that it may call from, such as 10.0.0.0/8
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    ip_ranges: Option<Vec<String>>,
    /// Dollars a day, week, month or in total, such as 50/month; several bind together
    #[arg(long, value_delimiter = ',', value_name = "USD/PER")]
    budget: Option<Vec<String>>,
    /// The most tokens of an answer, whatever the caller asks for
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,
    /// Tags on every request, such as cost_centre=12
    #[arg(long, value_delimiter = ',', value_name = "A=B")]
    tags: Option<Vec<String>>,
    /// The highest priority that a request may ask for: low, normal, high
    #[arg(long)]
    priority: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl TermArgs {
    /// What was said, as the API takes it.
    pub fn body(&self) -> Result<Map<String, Value>> {
        let TermArgs { models, operations, ip_ranges, budget, max_tokens, tags, priority, limits } = self;
        let mut body = Map::new();
        let lists = [("models", models), ("operations", operations), ("ip_ranges", ip_ranges)];
        for (name, list) in lists.into_iter().filter_map(|(name, list)| Some((name, list.as_ref()?))) {
            body.insert(name.to_owned(), json!(list));
        }
        if let Some(budgets) = budget {
            let budget = |text: &String| {
                let (usd, per) = text.split_once('/').ok_or_else(|| anyhow!("--budget {text}: write 50/month"))?;
                Ok(json!({ "usd": usd.trim(), "per": per.trim() }))
            };
            body.insert("budgets".to_owned(), budgets.iter().map(budget).collect::<Result<Vec<_>>>()?.into());
        }
        if let Some(most) = max_tokens {
            body.insert("caps".to_owned(), json!({ "max_tokens": most }));
        }
        if let Some(tags) = tags {
            let tag = |text: &String| {
                let (name, value) = text.split_once('=').ok_or_else(|| anyhow!("--tags {text}: write name=value"))?;
                Ok((name.trim().to_owned(), Value::from(value.trim())))
            };
            body.insert("tags".to_owned(), tags.iter().map(tag).collect::<Result<Map<_, _>>>()?.into());
        }
        if let Some(priority) = priority {
            body.insert("priority".to_owned(), priority.as_str().into());
        }
        if let Some(limits) = limits.limits() {
            body.insert("limits".to_owned(), json!(limits));
        }
        Ok(body)
    }
}

/// A key's own limits; those of its team bind it too.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct LimitArgs {
    /// Requests a minute
    #[arg(long, value_name = "N")]
    rpm: Option<u64>,
    /// Tokens a minute, input and output together
    #[arg(long, value_name = "N")]
    tpm: Option<u64>,
    /// Requests in flight at a time
    #[arg(long, value_name = "N")]
    concurrent: Option<u64>,
    /// Input tokens a minute
    #[arg(long, value_name = "N")]
    input_tpm: Option<u64>,
    /// Output tokens a minute
    #[arg(long, value_name = "N")]
    output_tpm: Option<u64>,
    /// Requests a day of the calendar, UTC
    #[arg(long, value_name = "N")]
    rpd: Option<u64>,
    /// Tokens a day of the calendar, UTC
    #[arg(long, value_name = "N")]
    tpd: Option<u64>,
    /// They are only reported: nobody is refused
    #[arg(long)]
    shadow: bool,
}

impl LimitArgs {
    pub fn limits(self) -> Option<Limits> {
        let LimitArgs { rpm, tpm, concurrent, input_tpm, output_tpm, rpd, tpd, shadow } = self;
        let limits = Limits {
            requests_per_minute: rpm,
            input_tokens_per_minute: input_tpm,
            output_tokens_per_minute: output_tpm,
            tokens_per_minute: tpm,
            requests_per_day: rpd,
            tokens_per_day: tpd,
            concurrent,
            shadow,
        };
        limits.any()
    }
}

/// What `change` names, and what it takes away.
pub fn changes(name: Option<String>, terms: &TermArgs, clear: &[String]) -> Result<Map<String, Value>> {
    let mut body = terms.body()?;
    body.extend(name.map(|name| ("name".to_owned(), name.into())));
    body.extend(clear.iter().map(|field| (field.clone(), Value::Null)));
    Ok(body)
}
