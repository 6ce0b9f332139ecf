//! The languages that a plugin can be begun in, and what each begins with. A row a file; what is written is text of ours,
//! nothing is fetched.

use std::{fs, path::Path};

use anyhow::Context;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Small and fast: some 20 µs a request
    Rust,
    /// JavaScript in QuickJS: 1.6 MB, some 100 µs a request, far less when pooled
    Js,
    /// CPython: 18 MB, a millisecond a request unless pooled, and half a minute to compile the first time
    Python,
}

/// A file's place in the new folder, and its text.
type File = (&'static str, &'static str);

const RUST: [File; 15] = [
    ("Cargo.toml", include_str!("template/rust/Cargo.toml")),
    ("Cargo.lock", include_str!("../../../plugins/hello/Cargo.lock")),
    (".cargo/config.toml", include_str!("template/rust/config.toml")),
    (".gitignore", "/target\n"),
    ("src/lib.rs", include_str!("template/rust/lib.rs")),
    ("example-name.test.toml", CASES),
    ("wit/portcullis.wit", CONTRACT),
    ("sdk/Cargo.toml", include_str!("../../../plugins/sdk/Cargo.toml")),
    ("sdk/src/lib.rs", include_str!("../../../plugins/sdk/src/lib.rs")),
    ("sdk/src/export.rs", include_str!("../../../plugins/sdk/src/export.rs")),
    ("sdk/src/heap.rs", include_str!("../../../plugins/sdk/src/heap.rs")),
    ("sdk/src/phase.rs", include_str!("../../../plugins/sdk/src/phase.rs")),
    ("sdk/src/verdict.rs", include_str!("../../../plugins/sdk/src/verdict.rs")),
    ("sdk/src/wit.rs", include_str!("../../../plugins/sdk/src/wit.rs")),
    ("LICENSE-sdk", include_str!("../../../LICENSE")),
];

const JS: [File; 7] = [
    ("package.json", include_str!("template/js/package.json")),
    ("package-lock.json", include_str!("template/js/package-lock.json")),
    (".gitignore", "/node_modules\n"),
    ("plugin.js", include_str!("template/js/plugin.js")),
    ("example-name.test.toml", CASES),
    ("wit/plugin.wit", WORLD),
    ("wit/deps/portcullis/portcullis.wit", CONTRACT),
];

const PYTHON: [File; 7] = [
    ("pyproject.toml", include_str!("template/python/pyproject.toml")),
    ("requirements.txt", include_str!("template/python/requirements.txt")),
    (".gitignore", "/.venv\n/bindings\n__pycache__\n"),
    ("plugin.py", include_str!("template/python/plugin.py")),
    ("example-name.test.toml", CASES),
    ("wit/plugin.wit", WORLD),
    ("wit/deps/portcullis/portcullis.wit", CONTRACT),
];

const CONTRACT: &str = include_str!("../../../plugins/wit/portcullis.wit");
const WORLD: &str = include_str!("template/plugin.wit");
const CASES: &str = include_str!("template/example-name.test.toml");

impl Language {
    pub const ALL: [Language; 3] = [Language::Rust, Language::Js, Language::Python];

    pub fn files(self) -> &'static [File] {
        match self {
            Language::Rust => &RUST,
            Language::Js => &JS,
            Language::Python => &PYTHON,
        }
    }

    /// Where its author begins to read.
    pub fn begins(self) -> &'static str {
        match self {
            Language::Rust => "src/lib.rs",
            Language::Js => "plugin.js",
            Language::Python => "plugin.py",
        }
    }

    /// The file that says what the plugin is called; by it a folder's language is known.
    pub fn manifest(self) -> &'static str {
        match self {
            Language::Rust => "Cargo.toml",
            Language::Js => "package.json",
            Language::Python => "pyproject.toml",
        }
    }

    /// The folder's language and the plugin's name. The error is a sentence.
    pub fn of(folder: &Path) -> Result<(Language, String), String> {
        let shown = folder.display();
        let found = Language::ALL.into_iter().find(|language| folder.join(language.manifest()).is_file());
        let language = found.ok_or_else(|| {
            let manifests = Language::ALL.map(Language::manifest).join(", ");
            format!("{shown} is no plugin's folder: it has none of {manifests}")
        })?;
        let path = folder.join(language.manifest());
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let named = language.named(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        match named.filter(|name| is_name(name)) {
            Some(name) => Ok((language, name)),
            None => Err(format!("{} names no plugin: {WANTED}", path.display())),
        }
    }

    fn named(self, manifest: &str) -> Result<Option<String>, String> {
        let table = |section: &str| -> Result<Option<String>, String> {
            let table: toml::Table = manifest.parse().map_err(|e: toml::de::Error| e.message().to_owned())?;
            let name = table.get(section).and_then(|section| section.get("name")).and_then(toml::Value::as_str);
            Ok(name.map(str::to_owned))
        };
        match self {
            Language::Rust => table("package"),
            Language::Python => table("project"),
            Language::Js => {
                let value: serde_json::Value = serde_json::from_str(manifest).map_err(|e| e.to_string())?;
                Ok(value["name"].as_str().map(str::to_owned))
            }
        }
    }

    /// Writes the plugin `name` into `folder`, which is not there yet.
    pub fn write(self, folder: &Path, name: &str) -> anyhow::Result<()> {
        let own = |text: &str| text.replace("example-name", name).replace("ExampleName", &type_name(name));
        for (file, text) in self.files() {
            let path = folder.join(own(file));
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
            let text = match *file {
                // The lock is hello's: the same crates under another name.
                "Cargo.lock" => text.replace(
                    "name = \"hello\"\nversion = \"1.0.0\"",
                    &format!("name = \"{name}\"\nversion = \"0.1.0\""),
                ),
                _ => own(text),
            };
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(fits) && name.len() <= 60
}

/// `say-please` → `SayPlease`.
fn type_name(name: &str) -> String {
    let upper = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    };
    name.split(['-', '_']).map(upper).collect()
}

/// What a name must be.
pub const WANTED: &str = "a plugin's name is of small letters, digits and dashes, and begins with a letter";

#[cfg(test)]
mod tests;
