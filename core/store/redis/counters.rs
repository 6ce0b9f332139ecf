//! Shared counters in Redis: one script a claim, one a batch of what became of claims. What they decide is in the scripts; this
//! puts names and numbers into them and takes answers apart.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::redis::Value;
use futures_util::future::BoxFuture;

use super::{
    link::Link,
    scripts::{RENEW, SETTLE, TAKE, number},
};
use crate::store::{
    Result, StoreError,
    counters::{Claim, Counter, Counters, Form, Held, Left, Outcome, Settled, Standing, Why},
};

pub(super) struct Tally {
    pub link: Arc<Link>,
    pub about: String,
    pub nodes: Arc<AtomicU64>,
}

impl Tally {
    fn main(&self, counter: &Counter) -> String {
        format!("{{{}}}:c:{}", self.link.config.prefix, counter.name)
    }

    /// Main, open, done: only money has all three, the others would not be touched.
    fn names(&self, counter: &Counter) -> [String; 3] {
        let main = self.main(counter);
        match counter.form {
            Form::Money => [main.clone(), format!("{main}#open"), format!("{main}#done")],
            _ => [main.clone(), main.clone(), main],
        }
    }

    fn odd(&self) -> StoreError {
        StoreError::Shared { at: self.link.at.clone(), why: "it gave an answer that nobody understands".to_owned() }
    }

    async fn run(
        &self,
        lua: &super::scripts::Lua,
        keys: &[String],
        args: &[String],
        patience: Duration,
    ) -> Result<Value> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let answer = self.link.run(lua, &keys, &args, patience).await;
        if answer.is_ok() {
            self.link.took();
        }
        answer
    }

    async fn take_all(&self, claim: &Claim) -> Result<Outcome> {
        let mut keys = vec![self.about.clone()];
        let asked = Instant::now();
        let expected = self.link.time.expected(asked);
        let mut args = vec![claim.id.to_string(), claim.lease.as_millis().to_string(), expected.to_string()];
        for want in &claim.wants {
            keys.extend(self.names(&want.counter));
            args.push(form(want.counter.form).to_owned());
            args.extend([want.bound, want.has, want.wants].map(|n| n.to_string()));
            args.push(u8::from(want.shadow).to_string());
            args.push(want.counter.keep.unwrap_or(0).to_string());
        }
        let answer = self.run(&TAKE, &keys, &args, self.link.config.timeout).await?;
        let at = |at: usize| number(&answer, at).ok_or_else(|| self.odd());
        // The moment stands last.
        let moment = if at(0)? == 0 { 4 } else { 1 + 4 * claim.wants.len() };
        self.link.time.showed(number(&answer, moment), asked);
        if at(0)? == 0 {
            let why = why(at(2)?, at(3)?).ok_or_else(|| self.odd())?;
            let at = usize::try_from(at(1)?).ok().and_then(|n| n.checked_sub(1)).ok_or_else(|| self.odd())?;
            return Ok(Outcome::Refused { at, why });
        }
        let left = (0..claim.wants.len()).map(|n| {
            let first = 1 + 4 * n;
            Ok(Left {
                left: at(first)?,
                full_after: Duration::from_millis(at(first + 1)?),
                denied: why(at(first + 2)?, at(first + 3)?),
            })
        });
        Ok(Outcome::Taken(left.collect::<Result<_>>()?))
    }

    async fn settle_all(&self, sender: &str, number: u64, settled: &[Settled]) -> Result<()> {
        let mut keys = vec![format!("{{{}}}:batch:{sender}", self.link.config.prefix)];
        let mut args = vec![number.to_string()];
        for item in settled {
            keys.extend(self.names(&item.counter));
            let form = match (item.counter.form, item.used) {
                (Form::Money, None) => "release",
                (form, _) => self::form(form),
            };
            args.extend([item.id.to_string(), form.to_owned()]);
            args.extend([item.had, item.used.unwrap_or(0), item.counter.keep.unwrap_or(0)].map(|n| n.to_string()));
        }
        self.run(&SETTLE, &keys, &args, PATIENCE).await.map(drop)
    }

    async fn renew_all(&self, held: &[Held], lease: Duration) -> Result<()> {
        for piece in held.chunks(PIECE) {
            let mut keys = Vec::with_capacity(2 * piece.len());
            let mut args = vec![lease.as_millis().to_string()];
            for item in piece {
                let [main, open, _] = self.names(&item.counter);
                keys.extend([main, open]);
                args.extend([item.id.to_string(), form(item.counter.form).to_owned()]);
            }
            self.run(&RENEW, &keys, &args, PATIENCE).await?;
        }
        Ok(())
    }

    async fn standing(&self, counter: &Counter) -> Result<Standing> {
        let main = self.main(counter);
        let mut command = match counter.form {
            Form::Bucket => ::redis::cmd("HMGET"),
            Form::Sum => ::redis::cmd("MGET"),
            Form::Places => ::redis::cmd("ZCARD"),
            Form::Money => ::redis::cmd("HMGET"),
        };
        command.arg(&main);
        match counter.form {
            Form::Bucket => command.arg("level"),
            Form::Money => command.arg("spent").arg("reserved"),
            Form::Sum | Form::Places => &mut command,
        };
        let answer = self.link.call(command, self.link.config.timeout).await?;
        Ok(match answer {
            Value::Int(n) => Standing { used: u64::try_from(n).unwrap_or(0), reserved: 0 },
            list => Standing { used: number(&list, 0).unwrap_or(0), reserved: number(&list, 1).unwrap_or(0) },
        })
    }
}

impl Counters for Tally {
    fn take<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(self.take_all(claim))
    }

    fn settle<'a>(&'a self, sender: &'a str, number: u64, settled: &'a [Settled]) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.settle_all(sender, number, settled))
    }

    fn renew<'a>(&'a self, held: &'a [Held], lease: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.renew_all(held, lease))
    }

    fn look<'a>(&'a self, counter: &'a Counter) -> BoxFuture<'a, Result<Standing>> {
        Box::pin(self.standing(counter))
    }

    fn gateways(&self) -> u64 {
        self.nodes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counters of {}", self.link.at)
    }
}

/// As the scripts call it.
fn form(form: Form) -> &'static str {
    match form {
        Form::Bucket => "bucket",
        Form::Sum => "sum",
        Form::Places => "places",
        Form::Money => "money",
    }
}

fn why(code: u64, wait: u64) -> Option<Why> {
    match code {
        1 => Some(Why::Wait(Duration::from_millis(wait))),
        2 => Some(Why::TooMuch),
        3 => Some(Why::Reached),
        4 => Some(Why::Held),
        5 => Some(Why::Spent),
        _ => None,
    }
}

/// Behind requests nobody waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one renewal.
const PIECE: usize = 500;
