//! What a batch cost that is over: from what its provider says it used, or, where it says nothing, from the rows of its output
//! as they go by. Prices it, and asks `claims` whether it is this request's to charge. Holds one row at a time, and changes
//! nothing of what the client gets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use super::{answer::Through, claims::Claims};
use crate::{
    account::{Attempt, price::Rates},
    auth::Principal,
    codec::opaque::figures,
    exchange::Exchange,
    model::{ServiceTier, Usage},
    provider::Provider,
    route::PriceList,
    seal::Tenant,
};

/// What a request must know that may see a batch's end.
pub struct Owed {
    pub claims: Arc<Claims>,
    pub prices: Arc<PriceList>,
    pub provider: Arc<Provider>,
    pub principal: Arc<Principal>,
    /// Which makes an answer in the background.
    pub model: Option<String>,
    /// The batch whose output is fetched, and the file.
    pub output: Option<(String, String)>,
    pub tally: Tally,
}

/// A batch, or an answer in the background, that will do no more.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    id: String,
    model: Option<String>,
    usage: Option<Usage>,
    /// Which service answered.
    tier: Option<ServiceTier>,
    /// Requests that were answered.
    answered: u64,
    output: Option<String>,
}

impl Ended {
    /// `None`: it is not over. `batch`: as its provider describes it, ids sealed.
    pub fn of(batch: &Map<String, Value>) -> Option<Ended> {
        let text = |name: &str| batch.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
        if !OVER.contains(&text("status")?.as_str()) {
            return None;
        }
        let answered = batch.get("request_counts").and_then(|counts| counts["completed"].as_u64());
        let output = text("output_file_id");
        let usage = batch.get("usage").filter(|usage| usage.is_object()).map(figures);
        // Older ones carry nothing but zeros.
        let usage = usage.filter(|u| u.input_tokens.unwrap_or(0) + u.output_tokens.unwrap_or(0) > 0);
        let answered = answered.unwrap_or(u64::from(output.is_some() || usage.is_some()));
        Some(Ended { id: text("id")?, model: text("model"), usage, tier: Some(ServiceTier::Batch), answered, output })
    }

    /// The same of an answer that was made in the background. One that failed and tells no usage cost nothing; of any other that is
    /// unknown.
    pub fn of_response(answer: &Map<String, Value>) -> Option<Ended> {
        let text = |name: &str| answer.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
        let status = text("status").filter(|status| !RUNNING.contains(&status.as_str()))?;
        let usage = answer.get("usage").filter(|usage| usage.is_object()).map(figures);
        let answered = u64::from(status != "failed" || usage.is_some());
        let tier = text("service_tier").map(|tier| ServiceTier::named(&tier));
        Some(Ended { id: text("id")?, model: text("model"), usage, tier, answered, output: None })
    }
}

/// Rows of an output, counted as they go by.
#[derive(Default)]
pub struct Tally {
    line: Vec<u8>,
    /// The line is longer than anybody looks at.
    long: bool,
    sums: BTreeMap<String, Sum>,
    /// Rows that were answered and do not say what they used.
    unread: u64,
}

#[derive(Default)]
struct Sum {
    rates: Option<Arc<Rates>>,
    usage: Usage,
    cost: Option<i64>,
}

/// Of a row only what is counted.
#[derive(Deserialize)]
struct Row {
    response: Option<Answer>,
    #[serde(rename = "error")]
    _error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Answer {
    status_code: Option<u16>,
    body: Option<Body>,
}

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    usage: Option<Value>,
}

impl Owed {
    /// A piece of the output.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.output.is_some() {
            let (prices, provider) = (&self.prices, &self.provider);
            let rates = |model: &str| prices.find(&format!("{}/{model}", provider.name), provider, model);
            self.tally.push(bytes, &rates);
        }
    }

    /// Rows of the ledger for a batch that says what it used. `None`: it does not, or not of which model.
    fn told(&self, ended: &Ended) -> Option<Vec<Attempt>> {
        let mut usage = ended.usage.clone()?;
        usage.service_tier = ended.tier;
        let model = self.model.as_deref().or(ended.model.as_deref())?;
        let name = format!("{}/{model}", self.provider.name);
        let rates = self.prices.find(&name, &self.provider, model);
        let cost = rates.and_then(|rates| rates.cost_together(&usage, ended.answered));
        Some(vec![row(name, Some(usage), cost)])
    }
}

/// What this request charges, now that its answer is whole: rows for the ledger, or none.
pub async fn owed(through: &mut Through, exchange: &mut Exchange) -> Vec<Attempt> {
    let Some(mut owed) = exchange.opaque.as_mut().and_then(|opaque| opaque.owed.take()) else { return Vec::new() };
    let (id, now) = (exchange.cx.id.clone(), exchange.cx.now);
    let (principal, ended, output) = (owed.principal.clone(), through.batch.take(), owed.output.clone());
    let tenant = Tenant::of(&principal);
    let result = match (ended, output) {
        (Some(ended), _) => match (owed.told(&ended), &ended.output) {
            (Some(rows), file) => {
                owed.claims.claim(tenant, &ended.id, &id, file.as_deref(), now).await.map(|mine| (mine, rows))
            }
            (None, Some(file)) => {
                owed.claims.await_output(tenant, &ended.id, file, now).await.map(|()| (false, Vec::new()))
            }
            (None, None) if ended.answered == 0 => {
                if let Err(error) = owed.claims.nothing_owed(tenant, &ended.id).await {
                    tracing::debug!(%error, "what cost nothing is looked at once more");
                }
                return Vec::new();
            }
            (None, None) => {
                let model = owed.model.as_deref().unwrap_or("*");
                let rows = vec![row(format!("{}/{model}", owed.provider.name), ended.usage, None)];
                owed.claims.claim(tenant, &ended.id, &id, None, now).await.map(|mine| (mine, rows))
            }
        },
        (None, Some((batch, file))) => {
            // What is short was not handed on yet.
            through.ready().for_each(|piece| owed.push(piece));
            let rows = std::mem::take(&mut owed.tally).rows(&owed);
            owed.claims.claim(tenant, &batch, &id, Some(&file), now).await.map(|mine| (mine, rows))
        }
        (None, None) => return Vec::new(),
    };
    match result {
        Ok((true, mut rows)) => {
            rows.iter_mut().for_each(|row| row.number = exchange.cx.attempt);
            let paid = match &mut exchange.permit {
                Some(permit) => permit.owe().await,
                None => Ok(()),
            };
            if let Err(error) = paid {
                tracing::warn!(%error, "a batch is charged in the records, but its budget could not be reached");
            }
            rows
        }
        Ok((false, _)) => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "a batch that is over could not be charged: the next look at it does");
            Vec::new()
        }
    }
}

impl Tally {
    fn push(&mut self, bytes: &[u8], rates: &dyn Fn(&str) -> Option<Arc<Rates>>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + piece.len() > LONGEST {
                self.long = true;
                self.line = Vec::new();
            }
            if !self.long {
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                self.end_line(rates);
            }
        }
    }

    fn end_line(&mut self, rates: &dyn Fn(&str) -> Option<Arc<Rates>>) {
        let long = std::mem::take(&mut self.long);
        let row = serde_json::from_slice::<Row>(&self.line);
        let blank = self.line.trim_ascii().is_empty();
        self.line.clear();
        match row {
            Ok(Row { response: Some(Answer { body: Some(body), status_code }), .. }) => match body {
                Body { model: Some(model), usage: Some(usage) } if usage.is_object() => {
                    self.count(model, figures(&usage), rates);
                }
                _ if status_code.is_none_or(|status| status < 300) => self.unread += 1,
                _ => {}
            },
            // Not answered: free.
            Ok(_) => {}
            Err(_) if blank && !long => {}
            Err(_) => self.unread += 1,
        }
    }

    fn count(&mut self, model: String, mut usage: Usage, rates: &dyn Fn(&str) -> Option<Arc<Rates>>) {
        if self.sums.len() >= MOST_MODELS && !self.sums.contains_key(&model) || model.len() > LONGEST_NAME {
            self.unread += 1;
            return;
        }
        usage.service_tier = Some(ServiceTier::Batch);
        let sum = self.sums.entry(model).or_insert_with_key(|model| Sum {
            rates: rates(model),
            usage: Usage { service_tier: Some(ServiceTier::Batch), ..Usage::default() },
            cost: Some(0),
        });
        let cost = sum.rates.as_ref().and_then(|rates| rates.cost(&usage));
        sum.cost = sum.cost.zip(cost).map(|(sum, one)| sum.saturating_add(one));
        sum.usage.add(&usage);
    }

    /// One row of the ledger a model, and one for what nobody knows.
    fn rows(mut self, owed: &Owed) -> Vec<Attempt> {
        if !self.line.is_empty() || self.long {
            let (prices, provider) = (&owed.prices, &owed.provider);
            self.end_line(&|model| prices.find(&format!("{}/{model}", provider.name), provider, model));
        }
        let name = |model: &str| format!("{}/{model}", owed.provider.name);
        let known = self.sums.into_iter().map(|(model, sum)| row(name(&model), Some(sum.usage), sum.cost));
        let unknown = (self.unread > 0).then(|| row(name("*"), None, None));
        known.chain(unknown).collect()
    }
}

fn row(target: String, usage: Option<Usage>, cost_nano_usd: Option<i64>) -> Attempt {
    let (outcome, took) = (Attempt::BATCH.into(), Duration::ZERO);
    Attempt { number: 0, target: target.into(), outcome, usage, cost_nano_usd, price: None, estimated: false, took }
}

/// An answer that is not over.
const RUNNING: [&str; 2] = ["queued", "in_progress"];
/// It will use nothing more, and may have used something.
const OVER: [&str; 3] = ["completed", "expired", "cancelled"];
/// Of one row: a picture in base64.
const LONGEST: usize = 16 << 20;
const MOST_MODELS: usize = 64;
const LONGEST_NAME: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{PriceSheet, Prices};

    fn rates(model: &str) -> Option<Arc<Rates>> {
        let prices = Prices { input: Some(1_000_000_000), output: Some(2_000_000_000), ..Prices::default() };
        (model != "odd").then(|| Arc::new(Rates::new(&PriceSheet { prices, ..PriceSheet::default() })))
    }

    /// Model, tokens in and out, cost.
    type Counted = (String, Option<u64>, Option<u64>, Option<i64>);

    fn counted(text: &str, size: usize) -> (Vec<Counted>, u64) {
        let mut tally = Tally::default();
        text.as_bytes().chunks(size).for_each(|piece| tally.push(piece, &rates));
        if !tally.line.is_empty() {
            tally.end_line(&rates);
        }
        let sums = tally.sums.into_iter();
        (sums.map(|(m, s)| (m, s.usage.input_tokens, s.usage.output_tokens, s.cost)).collect(), tally.unread)
    }

    fn line(model: &str, usage: Value) -> String {
        json!({"id": "batch_req_1", "custom_id": "a", "error": null,
            "response": {"status_code": 200, "request_id": "r", "body": {"id": "x", "model": model, "usage": usage}}})
        .to_string()
            + "\n"
    }

    #[test]
    fn rows_are_counted_by_model_at_any_chunking() {
        let chat = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
        let text = [
            line("m", chat.clone()),
            "\n".to_owned(),
            line("m", json!({"input_tokens": 1, "output_tokens": 2})),
            line("vectors", json!({"prompt_tokens": 7, "total_tokens": 7})),
            line("odd", chat),
            json!({"id": "b", "response": null, "error": {"code": "batch_expired"}}).to_string() + "\n",
            json!({"id": "b", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}, "error": null})
                .to_string(),
        ]
        .concat();
        let wanted = vec![
            ("m".to_owned(), Some(11), Some(7), Some(25_000)),
            ("odd".to_owned(), Some(10), Some(5), None),
            ("vectors".to_owned(), Some(7), None, None),
        ];
        for size in [1, 2, 7, 100, 10_000] {
            let (rows, unread) = counted(&text, size);
            assert_eq!((rows, unread), (wanted.clone(), 0), "pieces of {size}");
        }
    }

    #[test]
    fn what_says_nothing_of_its_use_is_unknown_and_never_free() {
        for text in ["not json\n", "{\"response\":{\"status_code\":200,\"body\":{\"model\":\"m\"}}}\n", "{\"respo"] {
            assert_eq!(counted(text, 3), (Vec::new(), 1), "{text}");
        }
        let long = format!("{{\"x\":\"{}\"}}\n", "y".repeat(LONGEST));
        assert_eq!(counted(&[long, line("m", json!({"input_tokens": 1, "output_tokens": 1}))].concat(), 1 << 20).1, 1);
    }

    #[test]
    fn an_answer_in_the_background_is_over_when_it_runs_no_more() {
        let answer = |more: Value| {
            let Value::Object(mut all) = json!({"id": "resp_1", "model": "m-2026", "usage": null}) else {
                unreachable!()
            };
            all.extend(more.as_object().expect("an object").clone());
            Ended::of_response(&all)
        };
        assert_eq!([answer(json!({"status": "queued"})), answer(json!({"status": "in_progress"}))], [None, None]);
        assert_eq!(answer(json!({})), None, "what says nothing of itself is not over");
        let told = answer(json!({"status": "completed", "service_tier": "flex",
            "usage": {"input_tokens": 4, "output_tokens": 2}}))
        .expect("over");
        assert_eq!(
            (told.tier, told.answered, told.model.as_deref()),
            (Some(ServiceTier::named("flex")), 1, Some("m-2026"))
        );
        assert_eq!(told.usage.and_then(|usage| usage.output_tokens), Some(2));
        // What nobody knows is not free; a failure is.
        for (status, answered) in [("cancelled", 1), ("incomplete", 1), ("failed", 0)] {
            assert_eq!(
                answer(json!({"status": status})).map(|over| (over.usage, over.answered)),
                Some((None, answered))
            );
        }
    }

    #[test]
    fn a_batch_is_over_when_it_can_use_no_more() {
        let batch = |more: Value| {
            let Value::Object(mut all) = json!({"id": "batch_1", "status": "completed"}) else { unreachable!() };
            all.extend(more.as_object().expect("an object").clone());
            Ended::of(&all)
        };
        for status in ["validating", "in_progress", "finalizing", "cancelling", "failed", "new"] {
            assert_eq!(batch(json!({"status": status})), None, "{status}");
        }
        let told = batch(json!({"model": "m", "usage": {"input_tokens": 4, "output_tokens": 2,
            "input_tokens_details": {"cached_tokens": 1}}, "request_counts": {"completed": 3}, "output_file_id": "file-1"}));
        let told = told.expect("over");
        let usage = told.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.cache_read_tokens), (Some(4), Some(2), Some(1)));
        assert_eq!((told.answered, told.output.as_deref()), (3, Some("file-1")));
        let zeros = batch(json!({"usage": {"input_tokens": 0, "output_tokens": 0}, "output_file_id": "file-1"}));
        assert_eq!(zeros.map(|e| (e.usage, e.answered)), Some((None, 1)));
        assert_eq!(batch(json!({"status": "expired"})).map(|e| e.answered), Some(0));
    }
}
