//! Budgets that run out, told to a webhook: each alert as a JSON object, sent a few times until it is taken, beside everything
//! else. Of several gateways on one store one sends it, and another one goes on where that one dies. Nothing waits for it, and
//! nothing that a caller sent is in it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::expiry,
    config,
    error::{Error, Kind, Result},
    limit::{
        alert::{Alert, Mark},
        usd,
    },
    store::Store,
    upstream::{Client, Egress, Outgoing, SendLimits},
};

mod claims;

use self::claims::{Claim, Claims, Found};

/// What is to be sent.
enum Job {
    /// Just heard.
    Heard(Alert),
    /// Whoever sent it is gone.
    Left(Claim),
}

/// Until `stop`. `webhook`: as configured now. `lease`: after this time without a sign of life a gateway counts as gone.
pub async fn run(
    alerts: mpsc::Receiver<Alert>,
    (client, store, lease): (Client, Arc<dyn Store>, Duration),
    webhook: impl Fn() -> Option<config::Alerts> + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let (client, webhook) = (Arc::new(client), Arc::new(webhook));
    let claims = Arc::new(Claims::new(store, lease));
    let heard = stream::unfold(alerts, |mut alerts| async { Some((Job::Heard(alerts.recv().await?), alerts)) });
    let configured = webhook.clone();
    let left = claims::left(claims.clone(), move || configured().is_some()).map(Job::Left);
    let jobs = stream::select(heard.boxed(), left.boxed());
    // One that does not answer holds up a few others, and no more.
    let sending = jobs.for_each_concurrent(AT_ONCE, |job| {
        let (client, webhook, claims) = (client.clone(), webhook.clone(), claims.clone());
        async move {
            let to = webhook();
            match (job, to) {
                (Job::Heard(alert), None) => alert.noted(),
                (Job::Heard(alert), Some(to)) => hear(&client, &to, &claims, &alert).await,
                (Job::Left(claim), Some(to)) => {
                    let (id, body) = (claim.id.clone(), Bytes::from(claim.body.clone()));
                    claims.hold(claim, tell(&client, &to, &id, body, &WAITS)).await;
                }
                (Job::Left(_), None) => {}
            }
        }
    });
    tokio::select! {
        () = sending => {}
        () = stop.cancelled() => {}
    }
}

/// Sends it, unless another gateway does or did.
async fn hear(client: &Client, to: &config::Alerts, claims: &Claims, alert: &Alert) {
    let (id, body) = (id(alert), body(alert).to_string());
    let sending = tell(client, to, &id, Bytes::from(body.clone()), &WAITS);
    match claims.take(&id, body, alert.window.end).await {
        Found::Ours(claim) => {
            alert.noted();
            claims.hold(claim, sending).await;
        }
        Found::Another => alert.noted(),
        // Better twice than never.
        Found::Nothing => {
            sending.await;
            alert.noted();
        }
    }
}

async fn tell(client: &Client, to: &config::Alerts, id: &str, body: Bytes, waits: &[Duration]) {
    let mut tries = waits.iter();
    loop {
        let sent = tokio::time::timeout(PATIENCE, send(client, to, body.clone())).await;
        let error = match sent {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.message.clone(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        match tries.next() {
            Some(wait) => tokio::time::sleep(*wait).await,
            // The address may hold a secret: its host alone is named, in the error.
            None => {
                return tracing::error!(error, id, "an alert did not reach the webhook; it stands in this log");
            }
        }
    }
}

async fn send(client: &Client, to: &config::Alerts, body: Bytes) -> Result<()> {
    let unreadable = |_| Error::new(Kind::Internal, "the webhook's address cannot be read");
    let url: Uri = to.webhook.expose().parse().map_err(unreadable)?;
    let host = url.host().unwrap_or_default().to_owned();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(token) = &to.token {
        let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
        let mut value = value.map_err(|_| Error::new(Kind::Internal, "`alerts.token` cannot stand in a header"))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    let out = Outgoing {
        method: Method::POST,
        url,
        headers,
        body: body.into(),
        egress: Egress::of_provider(&host, to.private),
        trust: None,
        http2: None,
    };
    let answer = client.send(out, &SendLimits { connect: CONNECT }).await?;
    if answer.status.is_success() {
        return Ok(());
    }
    Err(Error::new(Kind::Upstream, format!("{host} answered {}", answer.status.as_u16())))
}

/// The same each time that it is sent, so that a receiver knows it again.
fn id(alert: &Alert) -> String {
    format!("{}/{}/{}", alert.scope, alert.window.id, alert.mark.name())
}

fn body(alert: &Alert) -> Value {
    let Alert { scope, name, per, window, mark, spent, bound, .. } = alert;
    let number = |nano: u64| usd(nano).parse::<serde_json::Number>().map_or(Value::Null, Value::Number);
    let (kind, per) = (scope.kind(), per.name());
    let text = match *mark == Mark::SOFT {
        true => format!("{kind} {name} has spent {} of its {} USD ({per})", usd(*spent), usd(*bound)),
        false => format!("the budget of {kind} {name} ({} USD, {per}) is spent: requests are refused", usd(*bound)),
    };
    json!({
        "id": id(alert),
        "event": "budget",
        "threshold": mark.name(),
        "scope": scope.to_string(),
        "name": name,
        "per": per,
        "window": window.id,
        "resets": window.end.map(|end| expiry::show(expiry::to_seconds(end))),
        "spent_usd": number(*spent),
        "budget_usd": number(*bound),
        "text": text,
    })
}

const AT_ONCE: usize = 16;
const CONNECT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(15);
/// Between tries.
const WAITS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(60)];

#[cfg(test)]
mod tests;
