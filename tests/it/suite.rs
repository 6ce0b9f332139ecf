//! `portcullis test` through the real binary: what a case can say is told in unit tests; here is what a user and a CI see.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    keys::{folder, run},
    support::{Gateway, eventually},
};

const CONFIG: &str = "[models.smart]\ntargets = [{ provider = \"mock\", model = \"small\" }, { provider = \"mock\", model = \"large\" }]\n\
                      [[pricing]]\nmodel = \"mock/*\"\ninput = \"1\"\noutput = \"2\"\n";
const SCRIPT: &str = "const STREAM = \"whole\";
fn response(response, context) {
    if response.text.len() < 10 { return next(\"too short\"); }
}
fn error(error, context) {
    if error.status == 504 {
        error.message = \"too slow\";
    }
}
";
const CASES: &str = "[[case]]
name = \"short answers try the next target\"
request = { model = \"smart\" }
answers = [\"no\", { text = \"a longer answer\", usage = { input = 1000, output = 100 }, latency = \"90s\" }]
expect = { attempts = [\"mock/small\", \"mock/large\"], text = \"a longer answer\", cost = \"0.00122\", took = \"90s\" }

[[case]]
name = \"and as a stream, however it is cut\"
request = { model = \"smart\", stream = true }
answers = { \"mock/small\" = \"no\", \"mock/large\" = \"a longer answer\" }
splits = \"every\"
expect = { answered = \"mock/large\", text = \"a longer answer\", verdict = \"next\" }
";

fn made(script: &str, cases: &str) -> tempfile::TempDir {
    let folder = folder(CONFIG);
    fs::create_dir(folder.path().join("scripts")).expect("a folder");
    fs::write(folder.path().join("scripts/a.rhai"), script).expect("written");
    fs::write(folder.path().join("scripts/a.test.toml"), cases).expect("written");
    folder
}

/// The exit code and what was said.
fn test(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(folder, &[&["test"], arguments].concat());
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn cases_of_whole_exchanges_pass_in_no_time_and_tell_the_lines_they_miss() {
    let folder = made(SCRIPT, CASES);
    let (code, said) = test(folder.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 cases: 2 passed, 0 failed"), "{said}");
    assert!(said.contains("a.rhai … 33%   not reached: line 6, 7"), "{said}");
    let (code, said) = test(folder.path(), &["--coverage-min", "90"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("reach 33% of its lines; --coverage-min asks for 90%"), "{said}");
    let slow = "[[case]]\nname = \"slow\"\nrequest = { model = \"smart\" }\nanswers = { \"*\" = { timeout = true } }\n\
                expect = { status = 504, message = \"too slow\", took = { at_least = \"10m\" } }\n";
    fs::write(folder.path().join("scripts/a.test.toml"), format!("{CASES}\n{slow}")).expect("written");
    let (code, said) = test(folder.path(), &["--coverage-min", "100"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_failing_case_is_told_with_what_came_and_in_the_words_of_ci() {
    let wrong = CASES.replacen("text = \"a longer answer\", cost", "text = \"another\", cost", 1);
    let folder = made(SCRIPT, &wrong);
    let (code, said) = test(folder.path(), &["--junit", "report.xml"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAILED scripts/a.test.toml:1 \"short answers try the next target\""), "{said}");
    assert!(said.contains("expected text \"another\", got \"a longer answer\""), "{said}");
    let xml = fs::read_to_string(folder.path().join("report.xml")).expect("a report");
    assert!(xml.contains("<testsuites tests=\"2\" failures=\"1\" errors=\"0\">"), "{xml}");
    assert!(xml.contains("<failure message=\"expected text &quot;another&quot;"), "{xml}");
    let (code, said) = test(folder.path(), &["--json"]);
    let told: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &told["passed"]), (Some(1), &Value::Bool(false)), "{said}");
    assert_eq!(told["cases"].as_array().map(Vec::len), Some(2));
    let (code, said) = test(folder.path(), &["--filter", "as a stream"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 case: 1 passed, 0 failed, 1 left out"), "{said}");
    let (code, said) = test(folder.path(), &["--filter", "nothing like this"]);
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn a_mistake_in_a_case_has_its_line_and_a_suggestion() {
    let folder = made(SCRIPT, &CASES.replacen("latency", "latancy", 1));
    let (code, said) = test(folder.path(), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("scripts/a.test.toml:4") && said.contains("did you mean `latency`?"), "{said}");
}

#[test]
fn keys_of_the_environment_are_neither_needed_nor_used() {
    let folder = folder(
        "[providers.openai]\nkey = \"env:NO_SUCH_KEY\"\n[models.smart]\ntargets = [{ provider = \"openai\", model = \"gpt-4o\" }]\n",
    );
    fs::create_dir(folder.path().join("scripts")).expect("a folder");
    fs::write(folder.path().join("scripts/a.rhai"), "fn request(request, context) {}").expect("written");
    let case = "[[case]]\nname = \"a\"\nrequest = { model = \"smart\" }\nanswers = [\"here\"]\n\
                expect = { target = \"openai/gpt-4o\", text = \"here\", headers = { authorization = \"\" } }\n";
    fs::write(folder.path().join("scripts/a.test.toml"), case).expect("written");
    let (code, said) = test(folder.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn the_shipped_scripts_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, said) = test(folder, &["scripts"]);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn a_reload_whose_cases_fail_is_refused_and_says_what_came() {
    let files = [("scripts/a.rhai", SCRIPT), ("scripts/a.test.toml", CASES)];
    let gateway = Gateway::with(CONFIG, &files).await;
    let status = async || gateway.admin("GET", "/api/v1/config/status", "").await.json();
    let running = status().await["running"]["hash"].clone();
    gateway.write("scripts/a.rhai", &SCRIPT.replace("< 10", "< 1"));
    eventually("the change is refused", async || !status().await["refused"].is_null()).await;
    let told = status().await;
    assert_eq!(told["running"]["hash"], running);
    let errors = told["refused"]["errors"].to_string();
    assert!(errors.contains("short answers try the next target") && errors.contains("a.test.toml"), "{errors}");
    gateway.write("scripts/a.rhai", &SCRIPT.replace("< 10", "< 11"));
    eventually("the next one is taken", async || status().await["refused"].is_null()).await;
    assert!(status().await["running"]["hash"] != running);
    gateway.stop().await;
}

const HELLO: &[u8] = include_bytes!("../../plugins/hello/hello.wasm");

/// A plugin in a folder of its own, so that it is there because it is listed.
const PLUGIN: &str = "[[stages]]\nuse = \"plugins/hello/hello.wasm\"\n";

fn greeting(words: &str) -> String {
    format!(
        "[[case]]\nname = \"it greets\"\nrequest = {{ messages = [{{ role = \"user\", content = \"hello\" }}] }}\n\
         expect = {{ text = {{ starts_with = \"{words}\" }}, attempts = [] }}\n\
         [[case]]\nname = \"in its own words\"\nrequest = {{ messages = [{{ role = \"user\", content = \"moin\" }}] }}\n\
         config = {{ greeting = \"moin\" }}\nexpect = {{ text = {{ starts_with = \"Hello\" }} }}\n"
    )
}

#[tokio::test]
async fn a_reload_whose_plugins_cases_fail_is_refused_too() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(dir.path().join("plugins/hello")).expect("a folder");
    fs::write(dir.path().join("plugins/hello/hello.wasm"), HELLO).expect("written");
    fs::write(dir.path().join("plugins/hello/hello.test.toml"), greeting("Hello. What can I do")).expect("written");
    let gateway = Gateway::in_dir(dir, PLUGIN).await;
    let status = async || gateway.admin("GET", "/api/v1/config/status", "").await.json();
    let says = async || {
        let body = r#"{"model":"mock","messages":[{"role":"user","content":"hello"}]}"#;
        gateway.chat(body).await.text()
    };
    let running = status().await["running"]["hash"].clone();
    gateway.write("plugins/hello/hello.test.toml", &greeting("Good evening"));
    eventually("the change is refused", async || !status().await["refused"].is_null()).await;
    let told = status().await;
    assert_eq!(told["running"]["hash"], running);
    let errors = told["refused"]["errors"].to_string();
    assert!(errors.contains("it greets") && errors.contains("plugins/hello/hello.test.toml"), "{errors}");
    assert!(says().await.contains("Hello. What can I do"));
    gateway.write("plugins/hello/hello.test.toml", &greeting("Hello"));
    eventually("the next one is taken", async || status().await["refused"].is_null()).await;
    assert!(status().await["running"]["hash"] != running && says().await.contains("Hello. What can I do"));
    gateway.stop().await;
}
