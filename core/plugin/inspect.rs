//! What a plugin's file holds, for `portcullis plugin inspect`: read without a gateway, with every import granted.

use super::{
    Plugins,
    compile::told,
    grant::{Import, all_grants, example, import},
    instance::Instance,
};
use crate::{
    config::{Stage, sources},
    pipeline::drive,
};

/// What there is to know about a file.
#[derive(Debug, serde::Serialize)]
pub struct Facts {
    pub file: String,
    pub size: u64,
    /// Bytes of machine code that it becomes; 0 when it does not compile.
    pub code: u64,
    /// Bytes of an instance's memories when it begins; 0 when it cannot.
    pub memory: u64,
    /// Hex, 16 characters, as `config/status` shows it.
    pub hash: String,
    pub name: Option<String>,
    pub version: Option<String>,
    pub phases: Vec<&'static str>,
    /// `event`, `window`, `whole`, `observe`.
    pub stream: Option<&'static str>,
    /// Characters that it has held back, with `window`.
    pub window: Option<u64>,
    /// What it has copied in.
    pub needs: Vec<&'static str>,
    pub reusable: bool,
    pub imports: Vec<String>,
    /// Grants that it needs, as they are written in gateway.toml.
    pub grants: Vec<String>,
    /// Imports that would trap if they were called.
    pub foreign: Vec<String>,
    /// What is wrong with it; empty: it can run.
    pub problems: Vec<String>,
}

/// `config`: what `describe` is to see.
pub fn inspect(name: &str, file: &sources::Plugin, config: serde_json::Map<String, serde_json::Value>) -> Facts {
    let mut facts = Facts {
        file: name.to_owned(),
        size: file.size,
        code: 0,
        memory: 0,
        hash: file.hash.clone(),
        name: None,
        version: None,
        phases: Vec::new(),
        stream: None,
        window: None,
        needs: Vec::new(),
        reusable: false,
        imports: Vec::new(),
        grants: Vec::new(),
        foreign: Vec::new(),
        problems: Vec::new(),
    };
    let plugins = Plugins::dry();
    if let Err(problem) = look(&plugins, name, file, config, &mut facts) {
        facts.problems.push(problem);
    }
    facts
}

fn look(
    plugins: &Plugins,
    name: &str,
    file: &sources::Plugin,
    config: serde_json::Map<String, serde_json::Value>,
    facts: &mut Facts,
) -> Result<(), String> {
    let engine = plugins.engine()?;
    let program = plugins.compile(&engine, file)?;
    facts.code = program.code;
    facts.imports = program.imports.clone();
    for name in &program.imports {
        match import(name) {
            Import::Offered(Some(grant)) => facts.grants.push(example(grant).to_owned()),
            Import::Foreign => facts.foreign.push(name.clone()),
            Import::Offered(None) | Import::Unknown => {}
        }
    }
    let stage = Stage { config, grant: all_grants(), ..Stage::automatic(name) };
    let loaded = plugins.load(&stage, file)?;
    let described = &loaded.described;
    facts.name = Some(described.name.clone());
    facts.version = Some(described.version.clone());
    facts.phases = described.phase_names();
    facts.stream = described.stream.map(|mode| mode.name());
    facts.reusable = described.reusable;
    facts.window = described.window;
    facts.needs = described.needs.names();
    facts.memory = drive(Instance::open(&loaded, &loaded.shared)).map_err(|e| told(&e))?.memory();
    Ok(())
}
