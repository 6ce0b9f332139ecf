//! What a gateway does beside its requests when others share its store: it says who it is, and takes up what they change. Does
//! nothing where nobody else writes.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Keys,
    context,
    limit::Budgets,
    secrets::Secrets,
    store::{self, Changes, Store, Table, Told},
};

/// Others can say from now on that a record is here.
pub(super) async fn introduce(store: &dyn Store, admin: SocketAddr) {
    if let Some(mark) = store.node().and_then(store::nodes::mark) {
        context::mark_ids(mark);
    }
    if let Err(error) = store::nodes::register(store, admin.to_string(), SystemTime::now()).await {
        tracing::warn!(%error, "other gateways do not learn where this one's records are");
    }
}

/// Until `stop`.
pub(super) fn follow(
    store: &Arc<dyn Store>,
    keys: &Arc<Keys>,
    budgets: &Arc<Budgets>,
    secrets: &Arc<Secrets>,
    stop: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let of_keys = keys.follow().map(|following| tokio::spawn(stop.clone().run_until_cancelled_owned(following)));
    let others = store.changes().map(|changes| {
        let following = take_up(changes, budgets.clone(), secrets.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(following))
    });
    let ended = |task: JoinHandle<Option<()>>| tokio::spawn(async move { drop(task.await) });
    of_keys.into_iter().chain(others).map(ended).collect()
}

/// Raises of budgets, and secrets in the store.
async fn take_up(mut changes: Changes, budgets: Arc<Budgets>, secrets: Arc<Secrets>) {
    // What was changed since they were read at the start.
    budgets.take_up(None).await;
    while let Some(told) = changes.next().await {
        let of = |table: Table| match &told {
            Told::Rows(rows) => rows.iter().any(|(own, _)| *own == table),
            Told::Anything => true,
        };
        if of(Table::Raises) {
            let rows = if let Told::Rows(rows) = &told { Some(&**rows) } else { None };
            budgets.take_up(rows).await;
        }
        if of(Table::Secrets) {
            secrets.refresh().await;
        }
    }
}
