//! A call to where secrets lie, through the gateway's own client: bounded in time and in size, without redirects, to the host
//! that the configuration names and no other.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;

use crate::{
    config::sources,
    provider::sign::{Answer, Ask, Outside, Reach},
    upstream::{Client, Egress, Outgoing, SendLimits, Trust},
};

/// What one source may do outside.
pub(super) struct Network {
    pub client: Client,
    /// It may live on a private address, because the configuration names it itself.
    pub private: bool,
    pub trust: Option<Arc<Trust>>,
}

impl Outside for Network {
    fn send(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, String>> {
        Box::pin(async move {
            let Ask { method, url, headers, body, reach } = ask;
            let host = url.host().unwrap_or_default();
            let egress = match reach {
                Reach::Host => Egress::of_provider(host, self.private),
                Reach::Machine => Egress::of_machine(host),
            };
            let trust = self.trust.clone();
            let out = Outgoing { method, url, headers, body: vec![body].into(), egress, trust, http2: None };
            let asked = async {
                let incoming = self.client.send(out, &SendLimits { connect: CONNECT }).await;
                let incoming = incoming.map_err(|e| e.message.clone())?;
                let status = incoming.status.as_u16();
                let body = incoming.body.collect(MOST_ANSWER, &mut |_| Ok(())).await.map_err(|e| e.message.clone())?;
                Ok(Answer { status, body })
            };
            let late = |_| Err(format!("there was no answer within {} s", PATIENCE.as_secs()));
            tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(late)
        })
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        match sources::text(path, MOST_FILE) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err("is not there".to_owned()),
            Err(why) => Err(why),
        }
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

const CONNECT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_ANSWER: u64 = 1 << 20;
const MOST_FILE: u64 = 64 << 10;
