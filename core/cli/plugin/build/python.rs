//! Python: `componentize-py` puts CPython, the modules that the plugin imports, and the source into one component. Without
//! WASI: what asks for files, clocks or random numbers traps.

use std::process::Command;

use super::{Failed, Missing, Site, ask, run, tool, words};

pub fn make(site: &Site) -> Result<(), Failed> {
    let Site { folder, output } = site;
    let Some(tool) = tool(folder, ".venv/bin", "componentize-py") else { return Err(missing(site).into()) };
    let mut command = Command::new(tool);
    command.args(["--quiet", "--wit-path", "wit", "componentize", "plugin", "--stub-wasi", "--output"]).arg(output);
    // Libraries of the plugin's own are found where it keeps them.
    if folder.join(".venv").is_dir() {
        command.env("VIRTUAL_ENV", folder.join(".venv"));
    }
    run(&mut command, folder)?.map(drop).ok_or_else(|| missing(site).into())
}

fn missing(Site { folder, .. }: &Site) -> Missing {
    if ask("python3", &["-c", "import venv, ensurepip"], folder).is_none() {
        return Missing {
            what: "there is no python3 with venv here".into(),
            get: Vec::new(),
            hint: "get version 3.10 or newer (Debian: apt-get install python3-venv)".into(),
        };
    }
    Missing {
        what: "componentize-py is not installed".into(),
        get: vec![words("python3 -m venv .venv"), words(".venv/bin/pip install --quiet -r requirements.txt")],
        hint: String::new(),
    }
}
