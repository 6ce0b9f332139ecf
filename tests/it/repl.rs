//! `portcullis repl` from a pipe, as scripts of a shell use it.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use crate::support::{Gateway, eventually};

/// Runs it in an empty folder with these files, these arguments and these lines.
fn repl(files: &[(&str, &str)], args: &[&str], lines: &str) -> Output {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("repl")
        .args(args)
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("written");
    child.wait_with_output().expect("ended")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn lines_from_a_pipe_are_answered_one_by_one() {
    let request = r#"{"model": "auto", "temperature": 0.5, "messages": [{"role": "user", "content": "hello tides"}]}"#;
    let lines = "request.temperature\nif request.matches(\"tides\") {\n  tokens(request.last_user_text)\n}\ncontext.note(context.team)\n:quit\n1\n";
    let output = repl(&[("r.json", request)], &["r.json", "--team", "research"], lines);
    assert!(output.status.success(), "{output:?}");
    let text = out(&output);
    let told: Vec<&str> = text.lines().collect();
    assert_eq!((told[0], told[2], told.len()), ("0.5", "note: research", 3), "{told:?}");
    assert!(told[1].parse::<u32>().is_ok_and(|count| (2..=4).contains(&count)), "{told:?}");
}

#[test]
fn a_case_gives_its_context_and_a_mistake_fails_a_pipe() {
    let case = r#"{"request": {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "model": "m"},
        "context": {"user": "ada"}, "format": "anthropic_messages"}"#;
    let output =
        repl(&[("c.json", case)], &["c.json"], "`${context.user} ${request.format} ${request.max_tokens}`\nrequset\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(out(&output).trim(), "\"ada anthropic_messages 9\"");
    assert!(String::from_utf8_lossy(&output.stderr).contains("requset"), "{output:?}");
}

#[tokio::test]
async fn a_request_that_was_answered_is_tried_again_by_its_id() {
    let config = "[store]\nkind = \"sled\"\npath = \"data\"\n[records]\nbodies = \"sealed\"\n";
    let gateway = Gateway::start(config).await;
    let body = r#"{"model": "mock", "max_tokens": 7, "messages": [{"role": "user", "content": "hello tides"}]}"#;
    let answer = gateway.chat(body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = answer.header("x-request-id").expect("an id").to_owned();
    gateway.record(1).await;
    let data = gateway.dir.path().join("data");
    let ask = |id: &str| {
        let records = data.to_str().expect("a path");
        repl(&[], &["--records", records, "--record", id], "`${request.last_user_text} ${request.max_tokens}`\n")
    };
    eventually("its record and its body are written", async || out(&ask(&id)).contains("hello tides 7")).await;
    let none = ask("req_00000000000000000000000000000000");
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no record"), "{none:?}");
}

#[test]
fn without_a_file_there_is_a_small_question() {
    let output = repl(&[], &[], "request.last_user_text\n:request\n");
    assert!(output.status.success(), "{output:?}");
    assert!(out(&output).contains("high water") && out(&output).contains("\"messages\":["), "{}", out(&output));
    let wrong = repl(&[("r.json", "{")], &["r.json"], "");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("r.json is not JSON"), "{wrong:?}");
}
