use super::*;

#[test]
fn writes_a_crate_under_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("say-please");
    write(&made, "say-please").unwrap();
    let read = |file: &str| fs::read_to_string(made.join(file)).unwrap();
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(manifest["package"]["name"].as_str(), Some("say-please"));
    assert!(read("Cargo.lock").contains("name = \"say-please\"\nversion = \"0.1.0\""));
    assert!(read("src/lib.rs").contains("plugin!(SayPlease: request);"));
    for (file, _) in FILES {
        let text = read(file);
        assert!(!text.contains("example-name") && !text.contains("ExampleName"), "{file}");
    }
}

#[test]
fn brings_every_file_of_the_sdk() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/sdk/src");
    for entry in fs::read_dir(sources).unwrap().flatten() {
        let name = format!("sdk/src/{}", entry.file_name().to_str().unwrap());
        assert!(FILES.iter().any(|(file, _)| *file == name), "{name} is missing in FILES");
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
fn a_folder_that_is_there_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("x");
    assert_eq!(build(&Build { dir: dir.clone() }).unwrap(), Exit::Failed);
    write(&dir, "x").unwrap();
    assert_eq!(build(&Build { dir }).unwrap(), Exit::Done);
}
