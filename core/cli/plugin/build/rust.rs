//! Rust: cargo for the target `wasm32-unknown-unknown`, with Rust's own component linker in the place of the module linker,
//! so that cargo's output is the component. Where rustup cannot add the target, Debian's compiler builds the standard
//! library from source (`rustc-web`); rustup's toolchain still gives the linkers.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use serde_json::Value;

use super::{Failed, Missing, Site, ask, run, words};
use crate::config::env;

/// How cargo is to be called.
#[derive(Debug, PartialEq)]
struct Way {
    cargo: &'static str,
    arguments: &'static [&'static str],
    variables: Vec<(&'static str, String)>,
}

pub fn make(site: &Site) -> Result<(), Failed> {
    let Site { folder, output } = site;
    let Way { cargo, arguments, variables } = way(folder, &Machine)?;
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    command.args(arguments).envs(variables);
    if folder.join("Cargo.lock").is_file() {
        command.arg("--locked");
    }
    let printed = run(&mut command, folder)?.ok_or_else(no_rust)?.stdout;
    let manifest = folder.join("Cargo.toml");
    let made = artefact(&String::from_utf8_lossy(&printed), &manifest).ok_or_else(|| {
        Failed::Tool("cargo made no .wasm file: its Cargo.toml wants [lib] crate-type = [\"cdylib\"]".into())
    })?;
    std::fs::copy(&made, output).with_context(|| format!("copying {} to {}", made.display(), output.display()))?;
    Ok(())
}

/// The component among what cargo says it made: that of the folder's own crate, the last if there are several.
fn artefact(printed: &str, manifest: &Path) -> Option<PathBuf> {
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let made = lines.filter(|line| line["reason"] == "compiler-artifact");
    let own = made.filter(|line| line["manifest_path"].as_str().is_some_and(|path| same(Path::new(path), manifest)));
    let names = own.flat_map(|line| line["filenames"].as_array().cloned().unwrap_or_default());
    names.filter_map(|name| Some(PathBuf::from(name.as_str()?))).rfind(|p| p.extension().is_some_and(|e| e == "wasm"))
}

fn same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// What there is on this machine; a test has another.
trait Look {
    fn ask(&self, program: &str, arguments: &[&str], folder: &Path) -> Option<String>;
    fn has(&self, path: &Path) -> bool;
}

struct Machine;

impl Look for Machine {
    fn ask(&self, program: &str, arguments: &[&str], folder: &Path) -> Option<String> {
        ask(program, arguments, folder)
    }

    fn has(&self, path: &Path) -> bool {
        path.exists()
    }
}

fn way(folder: &Path, look: &dyn Look) -> Result<Way, Missing> {
    let sysroot = look.ask("rustc", &["--print", "sysroot"], folder).map(PathBuf::from).ok_or_else(no_rust)?;
    let linkers = |program: &str, toolchain: &[&str], sysroot: &Path| {
        let versions = look.ask(program, &[toolchain, &["-vV"]].concat(), folder)?;
        let host = versions.lines().find_map(|line| line.strip_prefix("host: "))?.to_owned();
        let bin = sysroot.join("lib/rustlib").join(host).join("bin");
        look.has(&bin.join(LINKER)).then_some(bin)
    };
    if look.has(&sysroot.join("lib/rustlib").join(TARGET)) {
        // rustc looks for linkers beside its own first.
        if linkers("rustc", &[], &sysroot).is_none() && look.ask(LINKER, &["--version"], folder).is_none() {
            return Err(Missing {
                what: format!("{LINKER} is missing (rustup's toolchains bring it)"),
                get: vec![words("cargo install --locked wasm-component-ld")],
                hint: String::new(),
            });
        }
        return Ok(Way { cargo: "cargo", arguments: &[], variables: vec![(LINKER_VARIABLE, LINKER.to_owned())] });
    }
    let rustup = look.ask("rustup", &["run", "stable", "rustc", "--print", "sysroot"], folder).map(PathBuf::from);
    let linkers = rustup.as_deref().and_then(|sysroot| linkers("rustup", &["run", "stable", "rustc"], sysroot));
    let debian = look.ask(DEBIAN_RUSTC, &["--print", "sysroot"], folder).map(PathBuf::from);
    let source = debian.is_some_and(|sysroot| look.has(&sysroot.join("lib/rustlib/src/rust/library/Cargo.lock")));
    match linkers {
        Some(linkers) if source && look.has(Path::new(DEBIAN_CARGO)) => Ok(from_source(&linkers)),
        _ => Err(Missing {
            what: format!("Rust's standard library for {TARGET} is missing"),
            get: vec![words(&format!("rustup target add {TARGET}"))],
            hint: "where rustup cannot add it, Debian's compiler builds it from source: \
                   apt-get install --no-install-recommends rustc-web cargo-web rust-web-src"
                .into(),
        }),
    }
}

fn from_source(linkers: &Path) -> Way {
    let path = [linkers.join("gcc-ld"), linkers.to_owned()].map(|folder| folder.display().to_string()).join(":");
    Way {
        cargo: DEBIAN_CARGO,
        arguments: &["-Zbuild-std=std,panic_abort"],
        variables: vec![
            ("RUSTC_BOOTSTRAP", "1".to_owned()),
            ("RUSTC", DEBIAN_RUSTC.to_owned()),
            ("PATH", format!("/usr/bin:{}:{path}", env::var("PATH").unwrap_or_default())),
            (LINKER_VARIABLE, linkers.join(LINKER).display().to_string()),
        ],
    }
}

fn no_rust() -> Missing {
    Missing { what: "there is no Rust here".into(), get: Vec::new(), hint: "get it from https://rustup.rs".into() }
}

const TARGET: &str = "wasm32-unknown-unknown";
const LINKER: &str = "wasm-component-ld";
const LINKER_VARIABLE: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

#[cfg(test)]
mod tests;
