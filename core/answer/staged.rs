//! Events of a stream through the stages to the client's bytes.

use super::Streaming;
use crate::{
    clock,
    error::Result,
    exchange::Exchange,
    model::{Event, FinishReason, fold::unfold},
    pipeline::{EndFlow, EventFlow},
    reply,
};

impl Streaming {
    /// Events through the stages to the client's bytes. What passed before a stage refused goes on.
    pub(super) async fn pass(&mut self, events: Vec<Event>, exchange: &mut Exchange) -> Result<()> {
        let mut bytes = Vec::new();
        let result = self.pass_to(events, exchange, &mut bytes).await;
        if !bytes.is_empty() {
            self.out.push(bytes.into());
        }
        result
    }

    async fn pass_to(&mut self, mut events: Vec<Event>, exchange: &mut Exchange, bytes: &mut Vec<u8>) -> Result<()> {
        if let Some(raw) = &mut self.raw {
            for event in &events {
                if event.commits() {
                    self.first_output.get_or_insert_with(clock::now);
                    self.ready = true;
                }
                self.terminal |= *event == Event::End;
                self.weight.see(event);
            }
            raw.append(&mut events);
            if self.ready {
                self.commit();
            }
            return Ok(());
        }
        let mut joined = Vec::new();
        if let Some(joint) = &mut self.joint {
            events.into_iter().for_each(|event| joint.join(event, &mut joined));
            events = joined;
        }
        let mut staged = Vec::new();
        for mut event in events {
            if self.ended {
                break;
            }
            self.weight.see(&event);
            match &event {
                Event::Start(start) => exchange.served(start.service_tier.as_deref()),
                Event::Usage(usage) => exchange.used(usage),
                Event::Finish { finish, .. } => {
                    self.filtered |= finish.reason == FinishReason::ContentFilter && self.first_output.is_none();
                    exchange.finished(finish.reason);
                }
                _ => {}
            }
            if event.commits() && self.first_output.is_none() {
                self.first_output = Some(clock::now());
            }
            if matches!(event, Event::End) {
                self.terminal = true;
                continue;
            }
            if let Some(sofar) = &mut self.sofar {
                sofar.see(&event);
            }
            if let (Event::Usage(usage), Some(joint)) = (&mut event, &self.joint) {
                *usage = joint.told(usage);
            }
            if !self.staged {
                staged.push(event);
                self.write(&mut staged, bytes);
                continue;
            }
            let inner = &mut **exchange;
            // In its own box: a stream that no stage looks at would keep 3 KiB for it.
            match Box::pin(inner.chain.event(&mut inner.cx, event, &mut staged)).await? {
                EventFlow::Continue => self.write(&mut staged, bytes),
                // The stage left a clean end; nothing of the upstream is wanted any more.
                EventFlow::Stop(_) => {
                    self.write(&mut staged, bytes);
                    exchange.finished(FinishReason::ContentFilter);
                    self.encoder.finish(bytes);
                    self.committed = true;
                    self.ended = true;
                    // Dropping the answer cancels the upstream.
                    self.answer = None;
                }
            }
        }
        Ok(())
    }

    /// What stages held back until the end, and the terminal.
    pub(super) async fn flush(&mut self, exchange: &mut Exchange) -> Result<()> {
        let mut staged = Vec::new();
        let inner = &mut **exchange;
        if let EndFlow::Next(reason) = inner.chain.end(&mut inner.cx, &mut staged).await? {
            if !self.committed {
                self.next = Some(reason);
                return Ok(());
            }
            // A keep-alive has gone out: there is no other target any more, so this answer is delivered and marked.
            if let Some(response) = inner.chain.unmet(&mut inner.cx, &self.target).await? {
                inner.record.tags.push(reply::quality_unmet());
                staged.extend(unfold(&response));
            }
        }
        let mut bytes = Vec::new();
        self.write(&mut staged, &mut bytes);
        self.encoder.finish(&mut bytes);
        self.out.push(bytes.into());
        self.committed = true;
        self.ended = true;
        Ok(())
    }

    fn write(&mut self, staged: &mut Vec<Event>, bytes: &mut Vec<u8>) {
        for event in staged.drain(..).filter(|e| *e != Event::End) {
            if event.commits() {
                self.commit();
            }
            self.encoder.push(&event, bytes);
        }
    }

    pub(super) fn write_keep_alive(&mut self) {
        let mut bytes = Vec::new();
        self.encoder.keep_alive(&mut bytes);
        self.told = clock::now();
        // A framing may have none.
        if !bytes.is_empty() {
            self.out.push(bytes.into());
            self.committed = true;
        }
    }
}

/// Shows events to stages that only look on.
pub(super) async fn observe(events: Vec<Event>, exchange: &mut Exchange) {
    let mut unused = Vec::new();
    for event in events.into_iter().filter(|e| *e != Event::End) {
        let inner = &mut **exchange;
        let _ = inner.chain.event(&mut inner.cx, event, &mut unused).await;
        unused.clear();
    }
}
