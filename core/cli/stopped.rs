//! The stopped store of a configuration, for commands that need no running gateway: opened in one way, with one set of sentences
//! for what is in the way, and closed whatever came of the work. `serve` opens its own.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    config::{Config, StoreKind},
    store::{self, Store, StoreError},
};

/// What a command wants of a store.
#[derive(Debug, Clone, Copy)]
pub struct Wants {
    /// As messages call it: one in memory keeps none of it.
    pub kept: &'static str,
    /// Why there may be no store; `None`: then one is made.
    pub missing: Option<&'static str>,
    /// What else helps where a gateway has it, behind `--admin URL`; `None`: nothing but stopping it.
    pub running: Option<&'static str>,
}

/// Opens it, does the work and closes it.
pub async fn with<T>(config: &Config, wants: Wants, work: impl AsyncFnOnce(&Arc<dyn Store>) -> Result<T>) -> Result<T> {
    let store = open(config, wants).await?;
    let done = work(&store).await;
    let closed = store.close().await.context("the store could not be closed");
    let done = done?;
    closed.map(|()| done)
}

async fn open(config: &Config, Wants { kept, missing, running }: Wants) -> Result<Arc<dyn Store>> {
    if config.store.kind == StoreKind::Memory {
        let way = if running.is_some() { ": use --admin URL on the running gateway" } else { "" };
        bail!("store.kind = \"memory\" keeps no {kept} between runs{way}");
    }
    if let Some(missing) = missing.filter(|_| !config.store.exists()) {
        let path = config.store.path.display();
        match missing {
            "" => bail!("there is no store in {path}"),
            why => bail!("there is no store in {path}: {why}"),
        }
    }
    let store = store::open(&config.store).await.map_err(|error| in_use(error, config, running))?;
    super::tell(store.notices())?;
    Ok(store)
}

/// `running`: see `Wants`.
pub fn in_use(error: StoreError, config: &Config, running: Option<&str>) -> anyhow::Error {
    match (error, running) {
        (StoreError::Locked { path }, Some(more)) => anyhow!(
            "the store in {} is in use: if that is the running gateway, add --admin http://{}{more}",
            path.display(),
            config.admin.listen
        ),
        (StoreError::Locked { path }, None) => {
            anyhow!("the store in {} is in use: stop the gateway first", path.display())
        }
        (other, _) => other.into(),
    }
}
