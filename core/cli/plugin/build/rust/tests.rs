use std::collections::BTreeMap;

use super::*;

/// Answers by command line, and files.
#[derive(Default)]
struct Elsewhere {
    answers: BTreeMap<&'static str, &'static str>,
    files: Vec<&'static str>,
}

impl Look for Elsewhere {
    fn ask(&self, program: &str, arguments: &[&str], _: &Path) -> Option<String> {
        let line = [&[program], arguments].concat().join(" ");
        self.answers.get(line.as_str()).map(|answer| (*answer).to_owned())
    }

    fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|file| Path::new(file) == path)
    }
}

const RUSTUP: [(&str, &str); 4] = [
    ("rustc --print sysroot", "/rust"),
    ("rustc -vV", "rustc 1.95.0\nhost: x86_64-unknown-linux-gnu"),
    ("rustup run stable rustc --print sysroot", "/rust"),
    ("rustup run stable rustc -vV", "host: x86_64-unknown-linux-gnu"),
];
const RUSTUP_LINKER: &str = "/rust/lib/rustlib/x86_64-unknown-linux-gnu/bin/wasm-component-ld";

fn look(answers: &[(&'static str, &'static str)], files: &[&'static str]) -> Result<Way, Missing> {
    way(Path::new("/p"), &Elsewhere { answers: answers.iter().copied().collect(), files: files.to_vec() })
}

#[test]
fn a_toolchain_with_the_target_is_taken_as_it_is() {
    let way = look(&RUSTUP, &["/rust/lib/rustlib/wasm32-unknown-unknown", RUSTUP_LINKER]).unwrap();
    assert_eq!((way.cargo, way.arguments), ("cargo", &[][..]));
    assert_eq!(way.variables, [(LINKER_VARIABLE, LINKER.to_owned())]);
}

#[test]
fn without_the_target_debians_compiler_builds_it_from_source() {
    let mut answers = RUSTUP.to_vec();
    answers.push(("/usr/bin/rustc --print sysroot", "/usr"));
    let files = [RUSTUP_LINKER, "/usr/lib/rustlib/src/rust/library/Cargo.lock", "/usr/bin/cargo"];
    let way = look(&answers, &files).unwrap();
    assert_eq!((way.cargo, way.arguments), ("/usr/bin/cargo", &["-Zbuild-std=std,panic_abort"][..]));
    assert!(way.variables.contains(&(LINKER_VARIABLE, RUSTUP_LINKER.to_owned())));
    // Its compiler without its sources is of no use.
    assert!(look(&answers, &files[..1]).is_err());
}

#[test]
fn what_is_missing_is_named_with_the_way_to_get_it() {
    assert_eq!(look(&[], &[]).unwrap_err(), no_rust());
    let no_target = look(&RUSTUP, &[RUSTUP_LINKER]).unwrap_err();
    assert_eq!(no_target.get, [words("rustup target add wasm32-unknown-unknown")]);
    assert!(no_target.hint.contains("apt-get install"));
    let no_linker = look(&RUSTUP, &["/rust/lib/rustlib/wasm32-unknown-unknown"]).unwrap_err();
    assert!(no_linker.what.contains("wasm-component-ld"), "{no_linker:?}");
}

#[test]
fn the_component_is_the_crates_own_and_not_a_dependencys() {
    let made = |manifest: &str, file: &str| {
        serde_json::json!({"reason": "compiler-artifact", "manifest_path": manifest, "filenames": [file]}).to_string()
    };
    let printed = [
        made("/p/sdk/Cargo.toml", "/t/other.wasm"),
        "no JSON".to_owned(),
        made("/p/Cargo.toml", "/t/libpolite.rlib"),
        made("/p/Cargo.toml", "/t/polite.wasm"),
        made("/q/Cargo.toml", "/t/last.wasm"),
    ];
    let manifest = Path::new("/p/Cargo.toml");
    assert_eq!(artefact(&printed.join("\n"), manifest), Some("/t/polite.wasm".into()));
    assert_eq!(artefact(&printed[2], manifest), None);
}
