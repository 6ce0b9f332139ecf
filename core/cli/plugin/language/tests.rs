use super::*;

fn made(language: Language) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("say-please");
    language.write(&made, "say-please").unwrap();
    (folder, made)
}

#[test]
fn each_language_writes_a_plugin_of_that_name_and_knows_it_again() {
    for language in Language::ALL {
        let (_folder, made) = made(language);
        assert_eq!(Language::of(&made), Ok((language, "say-please".to_owned())));
        assert!(made.join(language.begins()).is_file());
        assert!(made.join("say-please.test.toml").is_file());
        for (file, _) in language.files() {
            let text = fs::read_to_string(made.join(file.replace("example-name", "say-please"))).unwrap();
            assert!(!text.contains("example-name") && !text.contains("ExampleName"), "{file}");
        }
    }
}

#[test]
fn the_crate_builds_under_its_own_name() {
    let (_folder, made) = made(Language::Rust);
    let read = |file: &str| fs::read_to_string(made.join(file)).unwrap();
    assert!(read("Cargo.lock").contains("name = \"say-please\"\nversion = \"0.1.0\""));
    assert!(read("src/lib.rs").contains("plugin!(SayPlease: request);"));
}

#[test]
fn tools_are_pinned() {
    let lock: serde_json::Value = serde_json::from_str(include_str!("../template/js/package-lock.json")).unwrap();
    let wanted: serde_json::Value = serde_json::from_str(include_str!("../template/js/package.json")).unwrap();
    let (tool, version) = wanted["devDependencies"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(&lock["packages"][format!("node_modules/{tool}")]["version"], version);
    assert!(version.as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()), "{version}");
    assert!(include_str!("../template/python/requirements.txt").lines().all(|line| line.contains("==")));
}

#[test]
fn brings_every_file_of_the_sdk() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/sdk/src");
    for entry in fs::read_dir(sources).unwrap().flatten() {
        let name = format!("sdk/src/{}", entry.file_name().to_str().unwrap());
        assert!(RUST.iter().any(|(file, _)| *file == name), "{name} is missing in RUST");
    }
}

#[test]
fn names_are_those_of_crates() {
    for name in ["a", "say-please", "v2_x"] {
        assert!(is_name(name), "{name}");
    }
    for name in ["", "2x", "Say", "a b", "../x", "a/b", "-x", "x'"] {
        assert!(!is_name(name), "{name}");
    }
    assert_eq!(type_name("say-please_now"), "SayPleaseNow");
}

#[test]
fn what_is_no_plugins_folder_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let told = |folder: &Path| Language::of(folder).unwrap_err();
    assert!(told(folder.path()).contains("none of Cargo.toml, package.json, pyproject.toml"));
    fs::write(folder.path().join("package.json"), "{").unwrap();
    assert!(told(folder.path()).contains("package.json: "));
    fs::write(folder.path().join("package.json"), r#"{"name": "../evil"}"#).unwrap();
    assert!(told(folder.path()).contains("names no plugin"));
    fs::write(folder.path().join("Cargo.toml"), "[workspace]\n").unwrap();
    assert!(told(folder.path()).contains("Cargo.toml names no plugin"));
}
