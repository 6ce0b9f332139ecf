//! Where scripts lie: the listing of `scripts/`, and reading one file without leaving that folder. The only place in
//! this module that touches the disk.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Files directly in scripts/ and plugins/ that are stages, relative to `root`, in file-name order. A missing folder is
/// an empty one.
pub fn listing(root: &Path) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for (folder, extension) in [("scripts", "rhai"), ("plugins", "wasm")] {
        let entries = match fs::read_dir(root.join(folder)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(format!("the folder {folder} cannot be listed: {e}")),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| format!("the folder {folder} cannot be listed: {e}"))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Dot files are editors' and mounts' own.
            let ours = !name.starts_with('.') && Path::new(&name).extension().is_some_and(|e| e == extension);
            // Through links: mounted configuration is made of them.
            if ours && fs::metadata(entry.path()).is_ok_and(|m| m.is_file()) {
                names.push(format!("{folder}/{name}"));
            }
        }
        names.sort();
        out.append(&mut names);
    }
    Ok(out)
}

/// Is this a relative path of plain segments?
pub fn is_plain(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

/// A stage's text. Larger than 1 MiB is refused.
pub fn read(root: &Path, name: &str) -> Result<String, String> {
    let path = root.join(name);
    let size = fs::metadata(&path).map_err(|e| told(name, &e))?.len();
    if size > MAX_SCRIPT {
        return Err(format!("{name} has {size} bytes; a script may have {MAX_SCRIPT}"));
    }
    fs::read_to_string(&path).map_err(|e| told(name, &e))
}

/// The file behind `import "lib/words"`: plain segments only, and still inside scripts/ after all links are followed
/// (a link beside `scripts/..data` of a mounted volume stays inside, as both sides are resolved).
pub fn import(root: &Path, path: &str) -> Result<String, String> {
    let fine = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !path.split('/').all(fine) {
        return Err(format!(
            "import \"{path}\": a module path is made of letters, digits, _ and -, joined by /; modules lie in scripts/"
        ));
    }
    let base = fs::canonicalize(root.join("scripts")).map_err(|e| told("scripts", &e))?;
    let mut file: PathBuf = base.join(path);
    file.set_extension("rhai");
    let name = format!("scripts/{path}.rhai");
    let real = fs::canonicalize(&file).map_err(|e| told(&name, &e))?;
    if !real.starts_with(&base) {
        return Err(format!("import \"{path}\": the file lies outside scripts/"));
    }
    read(Path::new(""), &real.to_string_lossy()).map_err(|e| e.replace(&*real.to_string_lossy(), &name))
}

fn told(name: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{name} does not exist"),
        io::ErrorKind::InvalidData => format!("{name} is not UTF-8 text"),
        _ => format!("{name} cannot be read: {error}"),
    }
}

const MAX_SCRIPT: u64 = 1 << 20;
