//! Finds the cases on disk.

use std::{fs, path::PathBuf};

use portcullis::{
    codec::eventstream::{Said, write},
    model::Format,
};
use serde_json::Value;

/// One folder.
pub struct Case {
    pub format: Format,
    pub name: String,
    dir: PathBuf,
}

impl Case {
    pub fn bytes(&self, file: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(file)).ok()
    }

    /// The stream's bytes. Of event streams the files hold a line a frame, its name and its payload: the binary is made of it.
    pub fn stream(&self) -> Option<Vec<u8>> {
        let whole = self.bytes("stream.sse").or_else(|| self.bytes("stream.ndjson"));
        whole.or_else(|| Some(frames(&String::from_utf8(self.bytes("stream.frames")?).unwrap())))
    }

    pub fn json(&self, file: &str) -> Option<Value> {
        self.bytes(file).map(|bytes| serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{self} {file}: {e}")))
    }

    /// What stands in the path, for formats whose body does not say it.
    pub fn path_facts(&self) -> (Option<String>, Option<bool>) {
        let path = self.json("path.json").unwrap_or_default();
        let model = path.get("model").and_then(Value::as_str).map(str::to_owned);
        let in_path = self.format.model_in_path();
        (model.or(in_path.then(|| "golden-model".to_owned())), path.get("stream").and_then(Value::as_bool))
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.format.name(), self.name)
    }
}

/// `name payload` is an event, `!name payload` an exception; empty lines are for the reader.
fn frames(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (name, payload) = line.split_once(' ').unwrap_or_else(|| panic!("no payload in {line}"));
        let (said, name) = match name.strip_prefix('!') {
            Some(name) => (Said::Exception, name),
            None => (Said::Event, name),
        };
        write(said, name, payload.as_bytes(), &mut out);
    }
    out
}

/// Every case, in a fixed order. No case at all means the runner looks in the wrong place.
pub fn all() -> Vec<Case> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut out = Vec::new();
    for format in Format::ALL {
        let Ok(dirs) = fs::read_dir(root.join(format.name())) else { continue };
        for dir in dirs.map(|d| d.unwrap().path()).filter(|d| d.is_dir()) {
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            out.push(Case { format, name, dir });
        }
    }
    out.sort_by_key(Case::to_string);
    assert!(!out.is_empty(), "no cases under {}", root.display());
    out
}

/// Fails with all faults at once.
pub fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
