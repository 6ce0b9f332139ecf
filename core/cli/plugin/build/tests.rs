use super::*;

fn missing(get: &[&str]) -> Missing {
    Missing { what: "a tool".into(), get: get.iter().map(|line| words(line)).collect(), hint: String::new() }
}

#[test]
fn installing_runs_in_the_plugins_folder_and_stops_at_the_first_failure() {
    let folder = tempfile::tempdir().unwrap();
    install(&missing(&["mkdir own", "cp /bin/true own/tool", "own/tool"]), folder.path()).unwrap();
    assert!(folder.path().join("own/tool").is_file());
    let failed = install(&missing(&["false", "mkdir never"]), folder.path()).unwrap_err();
    assert!(matches!(failed, Failed::Tool(why) if why.starts_with("false ended with")));
    assert!(!folder.path().join("never").exists());
    let failed = install(&missing(&["no-such-program-anywhere"]), folder.path()).unwrap_err();
    assert!(matches!(failed, Failed::Tool(why) if why == "there is no no-such-program-anywhere"));
}

#[test]
fn the_plugins_own_tool_comes_before_the_machines() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(tool(folder.path(), "bin", "no-such-program-anywhere"), None);
    assert_eq!(tool(folder.path(), "bin", "ls"), Some("ls".into()));
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::fs::copy("/bin/ls", folder.path().join("bin/ls")).unwrap();
    assert_eq!(tool(folder.path(), "bin", "ls"), Some(folder.path().join("bin/ls")));
}

#[test]
fn a_tool_that_fails_is_a_failure_and_one_that_is_not_there_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(run(&mut Command::new("false"), folder.path()), Err(Failed::Tool(_))));
    assert!(matches!(run(&mut Command::new("no-such-program-anywhere"), folder.path()), Ok(None)));
    assert!(matches!(run(&mut Command::new("true"), folder.path()), Ok(Some(_))));
}
