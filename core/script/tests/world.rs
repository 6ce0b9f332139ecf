//! The script's world beside its hooks: every field of a request, functions on texts, choices, memory.

use super::*;
use crate::model::{LogprobsAsk, Output, ReasoningAsk, Sampling, ToolChoice, tool::Function};

/// A script with more time than it has by default: tests run beside others.
fn patient(script: &str) -> (Chain, Context) {
    let mut config = config(&[("a.rhai", script)]);
    let limits = StageLimits { wall: std::time::Duration::from_secs(30), ..StageLimits::default() };
    config.stages = Some(vec![Stage { limits, ..stage("a.rhai") }]);
    let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:#?}"));
    let cx = cx();
    (built.pipeline.select(&cx.principal, "any"), cx)
}

/// Runs the request phase on a request of our own.
fn on(request: Request, body: &str) -> (Result<Flow, Error>, Document, Context) {
    let (mut chain, mut cx) = patient(&format!("fn request(request, context) {{\n{body}\n}}"));
    let mut doc = Document::from_request(Format::OpenaiChat, request);
    let result = now(chain.request(&mut cx, &mut doc));
    (result, doc, cx)
}

fn after(body: &str) -> Request {
    let (result, mut doc, cx) = on(request(), body);
    assert!(result.is_ok(), "{body}: {}", fault(&cx));
    doc.request().unwrap().clone()
}

/// What the body notes.
fn told(body: &str) -> Vec<String> {
    let (result, _, cx) = on(request(), body);
    assert!(result.is_ok(), "{body}: {}", fault(&cx));
    notes(&cx)
}

fn refused(body: &str) -> String {
    let (result, _, cx) = on(request(), body);
    assert!(result.is_err(), "{body} was taken");
    fault(&cx)
}

#[test]
fn every_field_of_a_request_is_written_with_its_type() {
    let request = after(
        r#"request.temperature = 0.5; request.top_p = 1; request.top_k = 40;
        request.frequency_penalty = -0.5; request.presence_penalty = 0.25; request.seed = 7;
        request.stop = ["END", "STOP"]; request.logit_bias = #{ "50256": -100 };
        request.max_tokens = 9; request.n = 2; request.logprobs = 3;
        request.reasoning_effort = "high"; request.reasoning_budget = 2048; request.reasoning_shown = true;
        request.tool_choice = #{ name: "search" }; request.parallel_tool_calls = false;
        request.response_format = #{ schema: #{ type: "object" }, name: "facts", strict: true };
        request.verbosity = "low"; request.user = "u1"; request.service_tier = "flex";
        request.metadata = #{ job: "j1" };"#,
    );
    let sampling = Sampling {
        temperature: Some(0.5),
        top_p: Some(1.0),
        top_k: Some(40),
        frequency_penalty: Some(-0.5),
        presence_penalty: Some(0.25),
        seed: Some(7),
        stop: vec!["END".into(), "STOP".into()],
        logit_bias: json!({"50256": -100}).as_object().cloned(),
    };
    assert_eq!(request.sampling, sampling);
    assert_eq!((request.max_tokens, request.n), (Some(9), Some(2)));
    assert_eq!(request.logprobs, Some(LogprobsAsk { top: Some(3) }));
    let thinking = ReasoningAsk { effort: Some("high".into()), budget: Some(2048), show: Some(true) };
    assert_eq!(request.reasoning, Some(thinking));
    assert_eq!(request.tool_choice, Some(ToolChoice::Tool { name: "search".into(), custom: false }));
    assert_eq!(request.parallel_tool_calls, Some(false));
    let schema = json!({"type": "object"});
    let output = Output::Schema { name: Some("facts".into()), description: None, schema, strict: Some(true) };
    assert_eq!(request.output, Some(output));
    assert_eq!(request.verbosity.as_deref(), Some("low"));
    assert_eq!((request.user.as_deref(), request.service_tier.as_deref()), (Some("u1"), Some("flex")));
    assert_eq!(request.metadata.get("job"), Some(&json!("j1")));
}

#[test]
fn fields_read_as_they_are_and_go_with_nothing() {
    let full = Request {
        sampling: Sampling { top_k: Some(5), stop: vec!["x".into()], seed: Some(-3), ..Sampling::default() },
        n: Some(2),
        logprobs: Some(LogprobsAsk { top: None }),
        reasoning: Some(ReasoningAsk { effort: Some("low".into()), ..ReasoningAsk::default() }),
        tool_choice: Some(ToolChoice::Allowed { names: vec!["a".into()], required: true }),
        output: Some(Output::Json),
        user: Some("u".into()),
        ..request()
    };
    let body = r#"context.note(`${request.top_k} ${request.stop} ${request.seed} ${request.n} ${request.logprobs}`);
        context.note(`${request.reasoning_effort} ${request.tool_choice.allowed[0]} ${request.response_format} ${request.user}`);
        for name in [request.top_p, request.verbosity, request.logit_bias, request.service_tier] { if name != () { throw "x"; } }
        request.top_k = (); request.stop = (); request.seed = (); request.n = (); request.logprobs = ();
        request.reasoning_effort = (); request.tool_choice = (); request.response_format = (); request.user = ();"#;
    let (result, mut doc, cx) = on(full, body);
    assert!(result.is_ok(), "{}", fault(&cx));
    assert_eq!(notes(&cx), [r#"5 ["x"] -3 2 true"#, "low a json u"]);
    let left = doc.request().unwrap();
    assert_eq!((&left.sampling, &left.reasoning, &left.output), (&Sampling::default(), &None, &None));
    assert_eq!((&left.tool_choice, &left.logprobs, left.n, &left.user), (&None, &None, None, &None));
}

#[test]
fn fields_that_are_set_to_what_they_are_stay_clean() {
    let full = Request {
        sampling: Sampling { stop: vec!["x".into()], temperature: Some(0.5), ..Sampling::default() },
        metadata: json!({"a": 1}).as_object().cloned().unwrap(),
        ..request()
    };
    let body = r#"let n = request.stop.len() + request.metadata.len(); request.temperature = 0.5;
        request.stop = "x"; request.user = (); request.metadata = request.metadata; request.fields["x"] = ();"#;
    let (result, doc, cx) = on(full, body);
    assert!(result.is_ok(), "{}", fault(&cx));
    assert_eq!(doc.dirty(), &[] as &[Field]);
}

#[test]
fn wrong_fields_are_told_by_name() {
    for (line, why) in [
        ("request.seed = 1.5;", "request.seed"),
        ("request.stop = 3;", "request.stop is a text"),
        ("request.top_k = -1;", "request.top_k"),
        ("request.n = 0;", "request.n"),
        ("request.logprobs = \"many\";", "request.logprobs is true"),
        ("request.reasoning_effort = \"much\";", "none, minimal, low, medium, high, xhigh, max"),
        ("request.reasoning_budget = -2;", "request.reasoning_budget"),
        ("request.tool_choice = \"search\";", "#{ name:"),
        ("request.tool_choice = #{ allowed: [] };", "request.tool_choice is"),
        ("request.response_format = #{ shape: 1 };", "a map with a schema"),
        ("request.logit_bias = #{ a: \"b\" };", "token numbers"),
        ("request.metadata = 3;", "request.metadata must be a map"),
        ("request.fields[\"temperature\"] = 1;", "no such field"),
        ("request.fields[\"model\"] = \"x\";", "no such field"),
        ("request.tools = [#{ name: \"a\" }, #{ name: \"a\" }];", "two tools of one name"),
        ("request.tools.push(#{ title: \"a\" });", "a tool needs a name"),
        ("request.tools.push(#{ name: \"a\", parameters: 3 });", "JSON Schema"),
    ] {
        let fault = refused(line);
        assert!(fault.starts_with("scripts/a.rhai:2:") && fault.contains(why), "{line}: {fault}");
    }
    let (mut chain, mut cx) = chain("fn route(request, targets, context) { request.seed = 3; }");
    assert!(now(chain.route(&mut cx, &mut doc(), &targets())).is_err());
    assert!(fault(&cx).contains("change it in fn request or fn attempt"), "{}", fault(&cx));
}

#[test]
fn fields_without_a_name_are_patched_into_the_callers_bytes() {
    let body = br#"{"model":"m","prediction":{"type":"content"},"x":[1.0],"messages":[{"role":"user","content":"h"}]}"#;
    let (mut chain, mut cx) = chain(
        r#"fn request(request, context) {
            context.note(request.fields["prediction"].type);
            request.fields["prediction"] = ();
            request.fields["modalities"] = ["text", "audio"];
            request.fields["x"] = #{ a: 1 };
        }"#,
    );
    let mut doc = Document::new(Format::OpenaiChat, body.as_slice().into(), Default::default()).unwrap();
    now(chain.request(&mut cx, &mut doc)).unwrap_or_else(|e| panic!("{e:?} {}", fault(&cx)));
    assert_eq!(notes(&cx), ["content"]);
    let dialect = crate::codec::Dialect::of("m");
    let sent: Vec<u8> = doc.patch(&dialect, false).unwrap().0.concat();
    let sent: serde_json::Value = serde_json::from_slice(&sent).unwrap();
    let want = json!({"model": "m", "x": {"a": 1}, "messages": [{"role": "user", "content": "h"}], "modalities": ["text", "audio"]});
    assert_eq!(sent, want);
}

#[test]
fn tools_and_turns_are_added_changed_and_removed() {
    let request = after(
        r#"request.tools.push(#{ name: "clock", description: "tells the time", parameters: #{ type: "object" } });
        request.tools.push(#{ name: "shell" });
        request.tools[0].description = "tells the hour";
        request.tools = request.tools.filter(|t| t.name != "shell");
        request.messages.push(#{ role: "assistant", content: [#{ type: "tool_call", id: "c1", name: "clock", arguments: #{} }] });
        request.messages.push(#{ role: "tool", content: [#{ type: "tool_result", id: "c1", text: "noon" }] });
        request.messages.push(#{ role: "user", content: ["look", #{ type: "image", url: "https://example.com/a.png" }] });
        request.messages.remove(0); return;"#,
    );
    let clock = Function {
        name: "clock".into(),
        description: Some("tells the hour".into()),
        parameters: Some(json!({"type": "object"})),
        strict: None,
        custom: false,
        cache: None,
        extra: crate::model::Extra::default(),
    };
    assert_eq!(request.tools, [crate::model::Tool::Function(clock)]);
    assert_eq!(request.messages.len(), 6);
    assert!(matches!(&request.messages[3].parts[0], Part::ToolCall(call) if call.id == "c1"));
    assert!(matches!(&request.messages[4].parts[0], Part::ToolResult(result) if result.call_id == "c1"));
    assert!(matches!(&request.messages[5].parts[1], Part::Media(_)));
}

#[test]
fn a_session_is_what_the_caller_says_it_is() {
    let session = |body: &str, tags: &str| {
        let (mut chain, mut cx) = chain("fn request(request, context) { context.note(`${request.session}`); }");
        cx.tags = if tags.is_empty() { Vec::new() } else { vec![("session".into(), tags.into())] };
        let body = format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"h\"}}]{body}}}");
        let mut doc = Document::new(Format::OpenaiChat, body.into(), Default::default()).unwrap();
        now(chain.request(&mut cx, &mut doc)).unwrap_or_else(|e| panic!("{e:?} {}", fault(&cx)));
        notes(&cx).remove(0)
    };
    assert_eq!(session("", ""), "");
    assert_eq!(session(r#","user":"u""#, ""), "u");
    assert_eq!(session(r#","user":"u","metadata":{"session_id":"m"}"#, ""), "m");
    assert_eq!(session(r#","prompt_cache_key":"k","metadata":{"session_id":"m"}"#, ""), "k");
    assert_eq!(session(r#","prompt_cache_key":"k""#, "t"), "t");
}

#[test]
fn texts_are_counted_matched_checked_and_told_apart() {
    let told = told(
        r#"context.note(`${tokens("hello world")} ${"hello world".tokens("gpt-4")}`);
        context.note(`${"call 555-1234".matches("\\d{3}-\\d{4}")} ${"none".matches("\\d")} ${request.matches("(?i)ESSAY")}`);
        context.note(`${"a1b22".first_match("\\d+")} ${"a1b22".all_matches("\\d+")} ${"x".first_match("\\d")}`);
        context.note("ada@example.com".replace_matches("(\\w+)@", "<$1> "));
        context.note(`${"k=v".groups("(\\w)=(\\w)(z)?")}`);
        let schema = #{ type: "object", required: ["n"] };
        context.note(`${json_schema("{\"n\": 1}", schema)} ${json_schema(#{ m: 1 }, schema)} ${json_schema([1], schema).len()}`);
        context.note(`${from_json("{\"a\": [1, 2.5]}").a[1]} ${from_json("nope")} ${to_json(#{ b: 1, a: [true, ()] })}`);
        context.note(`${language("Wie ist das Wetter und was soll ich mit den Kindern machen?")} ${language("x")}`);"#,
    );
    let want = [
        "2 2",
        "true false true",
        r#"1 ["1", "22"] "#,
        "<ada> example.com",
        r#"["k=v", "k", "v", ()]"#,
        r#"[] ["at /: \"n\" is a required property"] 1"#,
        r#"2.5  {"a":[true,null],"b":1}"#,
        "de ",
    ];
    assert_eq!(told, want);
}

#[test]
fn a_pattern_at_the_top_is_compiled_with_the_script() {
    let script = "const DIGITS = pattern(\"^\\\\d+$\");\nfn request(request, context) { context.note(`${\"42\".matches(DIGITS)} ${request.matches(DIGITS)}`); }";
    let (result, _, cx) = ask(script);
    assert!(result.is_ok(), "{}", fault(&cx));
    assert_eq!(notes(&cx), ["true false"]);
    assert!(problem("const P = pattern(\"(\");\nfn request(request, context) {}").contains("this is no pattern"));
    assert!(refused("\"a\".matches(\"(?=a)\");").contains("this is no pattern: "));
}

#[test]
fn choices_have_shares_and_stick() {
    let shares = "let counts = #{ a: 0, b: 0, c: 0 };
        for i in 0..1000 { counts[context.choose(#{ a: 0.9, b: 0.1, c: 0 })] += 1; }
        context.note(`${counts.a} ${counts.b} ${counts.c}`);";
    let first = told(shares);
    let counts: Vec<i32> = first[0].split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(counts[0] > 850 && counts[0] < 950 && counts[2] == 0, "{counts:?}");
    // The same seed, the same choices.
    assert_eq!(told(shares), first);
    let by = "let few = []; let many = [];
        for i in 0..400 {
            let id = `key ${i}`;
            few.push(context.choose(#{ a: 0.9, b: 0.1 }, id));
            many.push(context.choose(#{ a: 0.7, b: 0.3 }, id));
            if context.choose([1, 2, 3], id) != context.choose([1, 2, 3], id) { throw \"unsteady\"; }
        }
        let lost = 0; let had = 0; let has = 0;
        for i in 0..400 {
            if few[i] == \"b\" { had += 1; if many[i] != \"b\" { lost += 1; } }
            if many[i] == \"b\" { has += 1; }
        }
        context.note(`${had > 20 && had < 60} ${has > 90 && has < 150} ${lost}`);";
    assert_eq!(told(by), ["true true 0"]);
    assert!(refused("context.choose(#{ a: 0 });").contains("weights from 0"));
    assert!(refused("context.choose(#{ a: -1, b: 2 });").contains("weights from 0"));
    assert_eq!(told("context.note(`${context.choose([])} ${context.choose([], \"x\")}`);"), [" "]);
}

#[test]
fn long_counts_stop_with_the_call() {
    let script =
        "fn request(request, context) { let t = \"word and \"; for i in 0..20 { t += t; } loop { tokens(t); } }";
    let mut config = config(&[("a.rhai", script)]);
    let limits = StageLimits { wall: std::time::Duration::from_millis(20), ..StageLimits::default() };
    config.stages = Some(vec![Stage { limits, ..stage("a.rhai") }]);
    let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
    let mut cx = cx();
    let mut chain = built.pipeline.select(&cx.principal, "m");
    assert!(now(chain.request(&mut cx, &mut doc())).is_err());
    assert!(fault(&cx).contains("stopped: "), "{}", fault(&cx));
}

#[test]
fn what_was_found_for_one_call_fits_the_next_whatever_its_types() {
    let script = r#"
const LIST = ["a", "b"];
fn twice(x) { x + x }
fn request(request, context) {
    let said = request.metadata.v ?? LIST;
    context.note(type_of(said) + " " + twice(said) + " " + LIST.len());
    let each = [1, 2].map(|n| n + LIST.len());
    context.note(`${each}`);
}
"#;
    let built = build(&config(&[("a.rhai", script)]), &Scripts::dry()).unwrap_or_else(|p| panic!("{p:#?}"));
    for _ in 0..3 {
        for (value, told) in [
            (json!(2), "i64 4 2"),
            (json!("xy"), "string xyxy 2"),
            (json!(0.5), "f64 1.0 2"),
            (json!(null), "array [\"a\", \"b\", \"a\", \"b\"] 2"),
        ] {
            let mut cx = cx();
            let mut chain = built.pipeline.select(&cx.principal, "any");
            let mut doc = Document::from_request(
                Format::OpenaiChat,
                Request { metadata: json!({ "v": value }).as_object().cloned().unwrap(), ..request() },
            );
            let result = now(chain.request(&mut cx, &mut doc));
            assert!(result.is_ok(), "{}", fault(&cx));
            assert_eq!(notes(&cx), [told, "[3, 4]"]);
        }
    }
}

#[test]
fn what_a_hooks_variables_hold_is_told_as_its_memory() {
    let memory = |body: &str| {
        let (result, _, cx) = ask(&format!("fn request(request, context) {{ {body} return; }}"));
        assert!(result.is_ok(), "{}", fault(&cx));
        let told = |step: &Step| if let Step::Stage { memory, .. } = step { Some(*memory) } else { None };
        cx.trace.steps.iter().find_map(told).unwrap()
    };
    assert_eq!(memory(""), 0);
    let text = memory("let text = \"x\"; text.pad(5000, \"x\");");
    assert!((5_000..6_000).contains(&text), "{text}");
    let more = memory("let text = \"x\"; text.pad(5000, \"x\"); let all = [text, #{ a: text }];");
    assert!((15_000..16_000).contains(&more), "{more}");
    assert!(memory("let deep = []; for n in 0..40 { deep = [deep]; }") > 0);
}
