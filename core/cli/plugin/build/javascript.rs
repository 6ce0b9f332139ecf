//! JavaScript: `componentize-qjs` puts QuickJS and the source into one component. Its faster runtime, without WASI, and
//! without the asynchronous calls that this gateway does not have.

use std::{fs, process::Command};

use serde_json::Value;

use super::{Failed, Missing, Site, ask, run, tool, words};

pub fn make(site: &Site) -> Result<(), Failed> {
    let Site { folder, output } = site;
    let Some(tool) = tool(folder, "node_modules/.bin", "componentize-qjs") else {
        return Err(missing(site).into());
    };
    let main = fs::read_to_string(folder.join("package.json")).ok();
    let main = main.and_then(|text| serde_json::from_str::<Value>(&text).ok()?["main"].as_str().map(str::to_owned));
    let mut command = Command::new(tool);
    command.args(["--wit", "wit", "--stub-wasi", "--sync", "--js"]).arg(main.as_deref().unwrap_or("plugin.js"));
    command.arg("--output").arg(output);
    run(&mut command, folder)?.map(drop).ok_or_else(|| missing(site).into())
}

fn missing(Site { folder, .. }: &Site) -> Missing {
    let node = ask("node", &["--version"], folder);
    if node.is_none() || ask("npm", &["--version"], folder).is_none() {
        return Missing {
            what: "there is no Node.js with npm here".into(),
            get: Vec::new(),
            hint: "get version 18 or newer from https://nodejs.org (Debian: apt-get install nodejs npm)".into(),
        };
    }
    let locked = folder.join("package-lock.json").is_file();
    let command = if locked { "npm ci --ignore-scripts" } else { "npm install --ignore-scripts" };
    Missing { what: "componentize-qjs is not installed".into(), get: vec![words(command)], hint: String::new() }
}
