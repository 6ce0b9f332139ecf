//! Stages that come with the gateway: `[[stages]] use = "builtin/NAME"` stands in the list like a script. One row a stage,
//! from its name to what makes it. What they do is theirs; nothing here runs a request.

use std::sync::Arc;

use super::Stage;
use crate::{
    cache::{Cache, CacheStage},
    config::{self, Config, hint},
    fault::FaultStage,
};

/// A row of the table.
pub struct Row {
    /// As it stands behind `builtin/`.
    pub name: &'static str,
    /// An error says what is wrong with its entry in `[[stages]]`.
    pub make: fn(&Making<'_>) -> Result<Arc<dyn Stage>, String>,
}

/// What a built-in stage is made of.
pub struct Making<'a> {
    pub config: &'a Config,
    /// Its entry in `[[stages]]`.
    pub listed: &'a config::Stage,
    /// What lives across reloads.
    pub kept: &'a Builtins,
}

/// What built-in stages keep: it survives reloads.
#[derive(Clone, Default)]
pub struct Builtins {
    pub cache: Arc<Cache>,
}

pub const TABLE: &[Row] = &[Row { name: "cache", make: CacheStage::make }, Row { name: "fault", make: fault }];

impl Builtins {
    /// For requests that are real.
    pub fn live() -> Self {
        Builtins { cache: Arc::new(Cache::live()) }
    }

    /// For cases: nothing is kept from one to the next.
    pub fn clear(&self) {
        self.cache.clear();
    }
}

fn fault(making: &Making<'_>) -> Result<Arc<dyn Stage>, String> {
    let made = FaultStage::new(&making.listed.uses, &making.listed.config)?;
    Ok(Arc::new(made))
}

/// The stage of that entry; an error is for its line.
pub fn make(making: &Making<'_>) -> Result<Arc<dyn Stage>, String> {
    let uses = making.listed.uses.as_str();
    let name = uses.strip_prefix(PREFIX).unwrap_or(uses);
    let Some(row) = TABLE.iter().find(|row| row.name == name) else {
        let names: Vec<String> = TABLE.iter().map(|row| format!("{PREFIX}{}", row.name)).collect();
        let near = hint(uses, names.iter().map(String::as_str));
        return Err(format!("there is no built-in stage {uses}{near}; there are: {}", names.join(", ")));
    };
    let given = &making.listed;
    let foreign = [
        ("grant", !given.grant.is_empty()),
        ("stream", given.stream.is_some()),
        ("isolation", given.isolation != config::Isolation::default()),
        ("limits", given.limits != config::StageLimits::default()),
    ];
    if let Some((key, _)) = foreign.iter().find(|(_, given)| *given) {
        return Err(format!("`{key}` says nothing to a built-in stage: take it out of the entry of {uses}"));
    }
    (row.make)(making)
}

/// Is it the name of a built-in stage, whether there is one or not?
pub fn named(uses: &str) -> bool {
    uses.starts_with(PREFIX)
}

const PREFIX: &str = "builtin/";
