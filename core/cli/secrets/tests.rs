use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

async fn run(dir: &std::path::Path, words: &[&str], input: &str) -> Result<String> {
    let args = Line::try_parse_from([&["secrets"], words].concat())?.args;
    let mut out = Vec::new();
    let place = Place::File(dir.join("gateway.toml"));
    run_to(args, &place, None, &mut input.as_bytes(), &mut out).await?;
    Ok(String::from_utf8(out)?)
}

#[tokio::test]
async fn secrets_are_put_in_from_standard_input_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("gateway.toml"), "[providers.openai]\nkey = \"store:openai\"\n").unwrap();
    let run = |words: &'static [&'static str], input: &'static str| run(dir.path(), words, input);
    assert!(run(&["list"], "").await.unwrap().contains("no secrets yet"));
    let set = run(&["set", "openai"], "sk-planted\r\n").await.unwrap();
    assert!(set.contains("version 1") && set.contains("store:openai") && !set.contains("planted"), "{set}");
    run(&["set", "openai"], "sk-planted").await.unwrap();
    let list = run(&["list", "--json"], "").await.unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((&list["data"][0]["name"], &list["data"][0]["version"]), (&json!("openai"), &json!(2)));
    assert!(run(&["set", "x"], "\n").await.unwrap_err().to_string().contains("standard input is empty"));
    assert!(run(&["set", "a b"], "v").await.unwrap_err().to_string().contains("letters"));
    assert!(run(&["delete", "none"], "").await.unwrap_err().to_string().contains("no secret"));
    let rotated = run(&["rotate-master"], "").await.unwrap();
    assert!(rotated.contains("it alone"), "{rotated}");
    std::fs::write(dir.path().join("next"), "cd".repeat(32)).unwrap();
    let rotated = run(&["rotate-master", "--to", "file:next"], "").await.unwrap();
    assert!(rotated.contains("secrets.master_key = \"file:next\""), "{rotated}");
    let text = "[secrets]\nmaster_key = \"file:next\"\n";
    std::fs::write(dir.path().join("gateway.toml"), text).unwrap();
    assert!(run(&["rotate-master", "--finish"], "").await.unwrap().contains("it alone"));
    std::fs::write(dir.path().join("gateway.toml"), "").unwrap();
    let refused = run(&["list"], "").await.unwrap_err().to_string();
    assert!(refused.contains("not the one"), "{refused}");
    std::fs::write(dir.path().join("gateway.toml"), text).unwrap();
    run(&["delete", "openai"], "").await.unwrap();
    assert!(run(&["list"], "").await.unwrap().contains("no secrets yet"));
}
