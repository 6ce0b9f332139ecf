use std::cell::Cell;

use serde_json::json;

use super::{cut::cut, language, pattern::Pattern, schema::Schema, tokens};

#[test]
fn tokens_are_counted_by_the_models_own_encoding() {
    // Figures of the encodings' own reference implementation.
    assert_eq!(tokens::of("hello world", "gpt-4o"), 2);
    assert_eq!(tokens::of("hello world", "openai/gpt-4-turbo"), 2);
    assert_eq!(tokens::of("", "gpt-4o"), 0);
    // The newer one has longer words of other languages.
    let text = "Привет, как у тебя дела сегодня?";
    assert!(tokens::of(text, "gpt-4o") < tokens::of(text, "gpt-4"), "{}", tokens::of(text, "gpt-4o"));
    assert_eq!(tokens::of(text, "gpt-4.1"), tokens::of(text, "claude-sonnet-4-5"));
}

#[test]
fn counting_can_be_stopped_and_long_words_are_no_trap() {
    let text = "word ".repeat(100_000);
    let asked = Cell::new(0);
    let stopped = tokens::count(&text, "m", &|| {
        asked.set(asked.get() + 1);
        asked.get() < 3
    });
    assert_eq!((stopped, asked.get()), (None, 3));
    assert!(tokens::of(&"a".repeat(200_000), "m") > 1_000);
}

#[test]
fn patterns_say_what_is_wrong_with_them() {
    let wrong = |pattern: &str| Pattern::new(pattern).err().unwrap_or_default();
    assert!(wrong("(a").contains("unclosed group"), "{}", wrong("(a"));
    assert!(wrong(r"(?=a)").contains("look-around"), "{}", wrong(r"(?=a)"));
    assert!(wrong(r"(a)\1").contains("backreferences"), "{}", wrong(r"(a)\1"));
    assert!(wrong("(a{1000}){1000}").contains("too large"));
    assert!(wrong(&"a".repeat(5_000)).contains("4096 bytes"));
}

#[test]
fn patterns_find_and_replace() {
    let email = Pattern::cached(r"(?<name>\w+)@(\w+\.\w+)").unwrap();
    let text = "write to ada@example.com or bob@example.org";
    assert!(email.matches(text).unwrap());
    assert_eq!(email.first(text).unwrap(), Some("ada@example.com"));
    assert_eq!(email.all(text, 10).unwrap().len(), 2);
    assert_eq!(email.groups(text).unwrap().unwrap(), [Some("ada@example.com"), Some("ada"), Some("example.com")]);
    assert_eq!(email.replaced("ada@example.com!", "<${name} at $2>", &|| true).unwrap(), "<ada at example.com>!");
    assert!(email.matches(&"x".repeat(2 << 20)).unwrap_err().contains("1024 KiB"));
}

#[test]
fn replacing_can_be_stopped_and_stays_bounded() {
    let any = Pattern::new(".").unwrap();
    let text = "x".repeat(100_000);
    assert!(any.replaced(&text, "y", &|| false).unwrap_err().starts_with("stopped"));
    assert_eq!(any.replaced(&text, "y", &|| true).unwrap(), "y".repeat(100_000));
    assert!(any.replaced(&text, &"$0".repeat(50), &|| true).unwrap_err().contains("too long"));
    assert!(Pattern::new("x+").unwrap().replaced(&text, &"$0".repeat(50), &|| true).unwrap_err().contains("too long"));
    assert_eq!(Pattern::new("b*").unwrap().replaced("abc", "-", &|| true).unwrap(), "-a-c-");
}

#[test]
fn schemas_tell_where_a_value_is_wrong() {
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1},
        "list": {"type": "array", "items": {"$ref": "#/$defs/name"}}}, "$defs": {"name": {"type": "string"}}});
    let schema = Schema::of(&schema).unwrap();
    assert_eq!(schema.faults_of(r#"{"n": 3, "list": ["a"]}"#), [""; 0]);
    assert!(schema.faults_of("no json")[0].starts_with("not JSON: "));
    let faults = schema.faults_of(r#"{"n": 0, "list": ["a", 4]}"#);
    assert!(faults.iter().any(|f| f.starts_with("at /n: 0 is less than")), "{faults:?}");
    assert!(faults.iter().any(|f| f.starts_with("at /list/1: 4 is not of type")), "{faults:?}");
    assert!(schema.faults_of("[]")[0].starts_with("at /: [] is not of type"));
}

#[test]
fn numbers_of_any_size_pass_a_schema() {
    let schema = Schema::of(&json!({"type": "number"})).unwrap();
    assert_eq!(schema.faults_of("123456789012345678901234567890"), [""; 0]);
    assert_eq!(Schema::of(&json!({"type": "integer"})).unwrap().faults_of("1.0"), [""; 0]);
}

#[test]
fn a_callers_schema_cannot_loop_or_reach_out() {
    let wrong = |schema: serde_json::Value| Schema::of(&schema).err().unwrap_or_default();
    let round = "the schema refers to itself without going deeper";
    assert_eq!(wrong(json!({"$ref": "#"})), round);
    assert_eq!(wrong(json!({"allOf": [{"$ref": "#"}]})), round);
    assert_eq!(wrong(json!({"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}]}}})), round);
    assert!(wrong(json!({"$ref": "https://example.com/s.json"})).contains("outside"));
    assert!(wrong(json!({"$ref": "file:///etc/passwd"})).contains("outside"));
    assert!(wrong(json!({"$ref": "#/nowhere"})).contains("does not have"));
    assert!(wrong(json!({"items": {"$id": "x"}})).contains("$id"));
    assert!(wrong(json!({"type": 3})).len() > 3);
    // Each doubles the one before: a few lines, a billion checks.
    let mut defs = serde_json::Map::new();
    for n in 0..30 {
        let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
        defs.insert(format!("d{n}"), json!({"anyOf": [next, next]}));
    }
    defs.insert("d30".into(), json!({"type": "string"}));
    assert!(wrong(json!({"$ref": "#/$defs/d0", "$defs": defs})).contains("too many"));
    // A tree is no circle.
    let tree = json!({"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}});
    let tree = Schema::of(&tree).unwrap();
    assert_eq!(tree.faults_of(r#"{"left": {"right": {}}}"#), [""; 0]);
    assert!(tree.faults_of(r#"{"left": {"right": 1}}"#)[0].starts_with("at /left/right"));
    // Names of properties are no references.
    assert_eq!(wrong(json!({"properties": {"id": {"type": "string"}}, "default": {"id": "x"}})), "");
}

#[test]
fn a_value_too_large_for_its_schema_is_told_and_not_checked() {
    let alternatives: Vec<_> = (0..1_000).map(|n| json!({"const": n})).collect();
    let schema = Schema::of(&json!({"items": {"anyOf": alternatives}})).unwrap();
    let text = format!("[{}1]", "1,".repeat(50_000));
    assert!(schema.faults_of(&text)[0].contains("too large"));
}

#[test]
fn long_texts_are_cut_on_the_borders_that_mean_most() {
    let paragraph = |n: usize| format!("Paragraph {n} begins here. It has a second sentence, and a third. This is it.");
    let text = (0..20).map(paragraph).collect::<Vec<_>>().join("\n\n");
    let chunks = cut(&text, 60, "gpt-4o");
    assert!(chunks.len() > 5, "{}", chunks.len());
    for chunk in &chunks {
        assert!(tokens::of(chunk, "gpt-4o") <= 60);
        assert!(chunk.starts_with("Paragraph") && chunk.ends_with("This is it."), "{chunk}");
    }
    assert_eq!(chunks.join("\n\n"), text);
    // A word that is longer than a chunk is cut all the same.
    assert!(cut(&"x".repeat(5_000), 10, "gpt-4o").len() > 10);
}

#[test]
fn languages_are_told_by_script_and_small_words() {
    let cases = [
        ("What is the best way to learn the piano with my children?", Some("en")),
        ("Wie kann ich das am besten mit meinen Kindern machen? Schreib mir bitte eine Liste.", Some("de")),
        ("Quelle est la meilleure façon de le faire pour mon fils ?", Some("fr")),
        ("¿Cómo puedo hacer una lista para mi hijo con los libros que leyó?", Some("es")),
        ("Напиши мне, пожалуйста, как это сделать, и что для этого нужно", Some("ru")),
        ("这个问题怎么解决？请用 Rust 写一个例子", Some("zh")),
        ("この文章を英語に翻訳してください", Some("ja")),
        ("이 문장을 영어로 번역해 주세요", Some("ko")),
        ("fn main() { println!(); }", None),
        ("", None),
        ("ok", None),
    ];
    for (text, want) in cases {
        assert_eq!(language::of(text), want, "{text}");
    }
}
