use clap::CommandFactory;

use super::*;

fn exit(args: &[&str]) -> Exit {
    main(std::iter::once("portcullis").chain(args.iter().copied()).map(OsString::from))
}

#[test]
fn every_command_has_an_example() {
    let mut command = Cli::command();
    command.build();
    for sub in command.get_subcommands() {
        let help = sub.clone().render_long_help().to_string();
        assert!(help.contains("Example:\n  "), "{}: {help}", sub.get_name());
    }
    Cli::command().debug_assert();
}

#[test]
fn exit_codes_tell_usage_from_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (good, bad) = (file("good.toml", ""), file("bad.toml", "[server]\nlisten = 1\n"));
    assert_eq!(exit(&["--help"]), Exit::Done);
    assert_eq!(exit(&["--version"]), Exit::Done);
    assert_eq!(exit(&["nonsense"]), Exit::Usage);
    assert_eq!(exit(&["check", "--nonsense"]), Exit::Usage);
    assert_eq!(exit(&["check", "--config", &good]), Exit::Done);
    assert_eq!(exit(&["--config", &good, "check", "--json"]), Exit::Done);
    assert_eq!(exit(&["check", "--config", &bad]), Exit::Config);
    assert_eq!(exit(&["check", "--config", "/nowhere/gateway.toml"]), Exit::Config);
}

#[test]
fn a_problem_without_a_line_gets_that_of_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, "\n\n[models.smart]\ntargets = [{ provider = \"mock\", model = \"m\" }]\n").unwrap();
    let loaded = crate::config::read(&Place::File(path), &|_| None, &[]);
    let vague =
        Problem { file: "gateway.toml".into(), line: 0, message: "models.smart.targets: bad".into(), excerpt: None };
    assert_eq!(loaded.config.place(vague).line, 3);
    let sharp = Problem { file: "scripts/a.rhai".into(), line: 7, message: "models.smart: bad".into(), excerpt: None };
    assert_eq!(loaded.config.place(sharp).line, 7);
}
