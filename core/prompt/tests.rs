use serde_json::{Value, json};

use super::*;
use crate::{codec::Inbound, config::Sources, model::Format};

const SUPPORT: &str = r#"
current = "2"

[[version]]
name = "1"
system = "Old words for {{ company }}."

[[version]]
name = "2"
system = "You answer for {{ company }}.{% if tone is defined %} Be {{ tone }}.{% endif %}"
messages = [{ role = "user", content = "hi" }, { role = "assistant", content = "hello" }]
user = "{{ question }}{% for fact in facts %} ({{ fact.name }}: {{ fact.n }}){% endfor %}"
variables = { company = "Tides", facts = [] }

[[version]]
name = "3"
user = "{{ question }}"
"#;

fn sources(files: &[(&str, &str)]) -> Sources {
    let prompts = files.iter().map(|(name, text)| (format!("prompts/{name}.toml"), (*text).into())).collect();
    Sources { prompts, ..Sources::default() }
}

fn prompts() -> Prompts {
    Prompts::build(&sources(&[("support", SUPPORT)])).unwrap_or_else(|p| panic!("{p:?}"))
}

fn doc(format: Format, body: Value) -> Document {
    let model = format.model_in_path().then_some("m");
    Document::new(format, body.to_string().into(), Inbound { model, ..Inbound::default() }).unwrap()
}

fn applied(format: Format, body: Value) -> Result<Document> {
    let mut document = doc(format, body);
    prompts().apply(&mut document)?;
    Ok(document)
}

fn turns(document: &mut Document) -> Vec<(Role, String)> {
    document.request().unwrap().messages.iter().map(|m| (m.role, m.joined_text())).collect()
}

fn fault(prompt: Value) -> String {
    match applied(Format::OpenaiChat, json!({"model": "m", "prompt": prompt})) {
        Ok(_) => "it was taken".into(),
        Err(error) => {
            assert_eq!(error.status(), 400);
            error.message.clone()
        }
    }
}

#[test]
fn a_request_of_any_format_asks_for_a_prompt() {
    let prompt = json!({"id": "support", "variables": {"question": "Why?", "facts": [{"name": "age", "n": 3}]}});
    for format in Format::ALL {
        let mut document =
            applied(format, json!({"model": "m", "max_tokens": 9, "temperature": 0.5, "prompt": prompt})).unwrap();
        let want = [
            (Role::System, "You answer for Tides.".to_owned()),
            (Role::User, "hi".to_owned()),
            (Role::Assistant, "hello".to_owned()),
            (Role::User, "Why? (age: 3)".to_owned()),
        ];
        assert_eq!(turns(&mut document), want, "{format:?}");
        // What goes to an upstream of the same format, and what limits see.
        let sent: Value = serde_json::from_slice(document.bytes()).unwrap();
        assert!(sent.get("prompt").is_none() && sent["temperature"] == json!(0.5), "{format:?}: {sent}");
        assert!(document.text_bytes() > 30, "{format:?}: {}", document.text_bytes());
    }
}

#[test]
fn own_turns_follow_those_of_the_prompt() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "and this?"}],
        "prompt": {"id": "support", "version": "3", "variables": {"question": {"type": "input_text", "text": "Why?"}}}});
    let mut document = applied(Format::OpenaiChat, body).unwrap();
    assert_eq!(turns(&mut document), [(Role::User, "Why?".to_owned()), (Role::User, "and this?".to_owned())]);
}

#[test]
fn what_asks_for_no_prompt_is_left_alone() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let document = applied(Format::OpenaiChat, body.clone()).unwrap();
    assert_eq!(&document.bytes()[..], body.to_string().as_bytes());
    // The provider's own.
    let body = json!({"model": "m", "prompt": {"id": "pmpt_123"}, "input": "x"});
    let document = applied(Format::OpenaiResponses, body.clone()).unwrap();
    assert_eq!(&document.bytes()[..], body.to_string().as_bytes());
    // Without templates the field is nobody's here.
    let mut document = doc(Format::OpenaiChat, json!({"model": "m", "prompt": {"id": "x"}}));
    assert!(Prompts::default().apply(&mut document).is_ok());
}

#[test]
fn mistakes_are_named() {
    assert!(fault(json!({"id": "nope"})).contains("there is no prompt \"nope\""));
    assert!(fault(json!({"id": "support", "version": "9"})).contains("no version \"9\"; it has 1, 2, 3"));
    assert_eq!(
        fault(json!({"id": "support"})),
        "the prompt \"support\" (version 2) needs the variable question: give it in `prompt.variables`"
    );
    assert!(fault(json!({"id": "support", "version": 1})).contains("needs the variable company"));
    assert!(fault(json!({"version": "1"})).contains("its id must be a string"));
    assert!(fault(json!({"id": "support", "vars": {}})).contains("it has no `vars`"));
    assert!(fault(json!({"id": "support", "variables": []})).contains("its variables must be an object"));
    let image = json!({"id": "support", "variables": {"question": {"type": "input_image", "image_url": "x"}}});
    assert!(fault(image).contains("not media"));
    let wrong = json!({"id": "support", "variables": {"question": "secret words", "facts": 3}});
    let told = fault(wrong);
    assert!(told.contains("cannot be filled in") && !told.contains("secret"), "{told}");
    let lacking = json!({"id": "support", "variables": {"question": "q", "facts": [{"name": "x"}]}});
    assert!(fault(lacking).contains("lacks what the template reads of it"));
}

#[test]
fn a_variable_is_text_and_no_template() {
    let prompt = json!({"id": "support", "version": "3", "variables": {"question": "{{ company }} {% raw %}"}});
    let mut document = applied(Format::OpenaiChat, json!({"model": "m", "prompt": prompt})).unwrap();
    assert_eq!(turns(&mut document)[0].1, "{{ company }} {% raw %}");
}

#[test]
fn work_and_size_are_bounded() {
    let loops = "[[version]]\nname = \"1\"\nuser = \"{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}\"\n";
    let long = "[[version]]\nname = \"1\"\nuser = \"{% for a in list %}{{ text }}{% endfor %}\"\n";
    let prompts = Prompts::build(&sources(&[("loops", loops), ("long", long)])).unwrap_or_else(|p| panic!("{p:?}"));
    let told = |prompt: Value| {
        prompts
            .apply(&mut doc(Format::OpenaiChat, json!({"model": "m", "prompt": prompt})))
            .unwrap_err()
            .message
            .clone()
    };
    assert!(told(json!({"id": "loops"})).contains("it takes too long"));
    let list: Vec<u32> = (0..200).collect();
    let text = "x".repeat(10_000);
    assert!(told(json!({"id": "long", "variables": {"list": list, "text": text}})).contains("it becomes too long"));
}

#[test]
fn files_are_checked_with_their_lines() {
    let told = |text: &str| {
        let problems = Prompts::build(&sources(&[("a", text)])).err().unwrap_or_default();
        problems.iter().map(|p| format!("{}:{}: {}", p.file, p.line, p.message)).collect::<Vec<_>>().join("\n")
    };
    assert!(told("").starts_with("prompts/a.toml:1: there is no [[version]]"));
    assert!(told("x = ").starts_with("prompts/a.toml:1: "));
    assert!(
        told("\n[[version]]\nname = \"1\"\n").starts_with("prompts/a.toml:2: a version needs system, user or messages")
    );
    assert!(told("[[version]]\nsystem = \"x\"\n").contains("needs a name"));
    assert!(told("[[version]]\nname = \"1\"\nuser = \"{{ x\"\n").contains("turn 1 is no template in its line 1"));
    assert!(
        told("[[version]]\nname = \"1\"\nuser = \"x\"\n[[version]]\nname = \"1\"\nuser = \"x\"\n")
            .contains("a.toml:4: there are two versions")
    );
    assert!(told("current = \"2\"\n[[version]]\nname = \"1\"\nuser = \"x\"\n").contains("names no version"));
    assert!(told("[[version]]\nname = \"1\"\ntext = \"x\"\n").contains("a version has no `text`"));
    assert!(
        told("[[version]]\nname = \"1\"\nmessages = [{ role = \"king\", content = \"x\" }]\n")
            .contains("role is system")
    );
}

#[test]
fn the_current_version_stands_first_in_the_list() {
    let prompts = prompts();
    assert_eq!(prompts.names().collect::<Vec<_>>(), [("support", vec!["2", "1", "3"])]);
}
