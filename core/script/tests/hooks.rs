//! What scripts see and do in each phase.

use super::*;

#[test]
fn the_request_is_read_and_written() {
    let (result, mut doc, cx) = ask("fn request(request, context) {
            context.note(`${request.model} ${request.operation} ${request.format} ${request.stream} ${request.system}`);
            context.note(request.last_user_text);
            context.note(`${request.messages.len()} ${request.messages[1].role} ${request.messages[1].text}`);
            request.temperature = 0.2;
            request.max_tokens = 99;
            request.model = \"other\";
            request.system = \"be long\";
            request.metadata.job = \"j1\";
            request.messages[3].text = request.messages[3].text.to_upper();
        }");
    assert!(result.is_ok(), "{}", fault(&cx));
    assert_eq!(
        notes(&cx),
        ["smart chat openai_chat false be brief", "draft an Essay on tides", "4 user first question"]
    );
    assert_eq!(doc.model(), "other");
    let request = doc.request().unwrap();
    assert_eq!((request.sampling.temperature, request.max_tokens), (Some(0.2), Some(99)));
    assert_eq!(request.messages[0].joined_text(), "be long");
    assert_eq!(request.messages[3].joined_text(), "DRAFT AN ESSAY ON TIDES");
    assert_eq!(request.metadata.get("job"), Some(&json!("j1")));
}

#[test]
fn reading_makes_nothing_dirty() {
    let (result, doc, cx) = ask("fn request(request, context) {
            let n = request.messages.len() + request.messages.filter(|m| m.role == \"user\").len();
            for m in request.messages { let t = m.text; let c = m.content.len(); let p = m.content[0].text; }
            let t = request.tools.len(); let m = request.metadata.len(); let h = request.headers.keys().len();
            context.note(`${n}`);
        }");
    assert!(result.is_ok(), "{}", fault(&cx));
    assert_eq!(notes(&cx), ["6"]);
    assert_eq!(doc.dirty(), &[] as &[Field]);
}

#[test]
fn writing_one_field_makes_only_that_dirty() {
    let (_, doc, cx) = ask("fn request(request, context) { request.temperature = 1; }");
    assert_eq!(doc.dirty(), [Field::Sampling], "{}", fault(&cx));
}

#[test]
fn messages_are_added_removed_and_reordered() {
    let (result, mut doc, cx) = ask("fn request(request, context) {
            request.messages.push(#{ role: \"user\", content: \"one more\" });
            request.messages.remove(1);
            request.messages = request.messages.filter(|m| m.role != \"assistant\");
            let c = request.messages[0].content;
            c.push(\"and kind\");
            request.messages[0].content = c;
        }");
    assert!(result.is_ok(), "{}", fault(&cx));
    let texts: Vec<String> = doc.request().unwrap().messages.iter().map(Message::joined_text).collect();
    assert_eq!(texts, ["be brief\nand kind", "draft an Essay on tides", "one more"]);
}

#[test]
fn a_stale_message_says_so_instead_of_showing_another() {
    let (result, _, cx) = ask("fn request(request, context) {
            let m = request.messages[2];
            request.messages.remove(0);
            context.note(m.text);
        }");
    assert!(result.is_err());
    assert!(fault(&cx).contains("scripts/a.rhai:4:") && fault(&cx).contains("read it again"), "{}", fault(&cx));
}

#[test]
fn wrong_values_are_refused_at_their_line() {
    let told = |line: &str| {
        let (result, _, cx) = ask(&format!("fn request(request, context) {{\n{line}\n}}"));
        assert_eq!(result.err().map(|e| e.status()), Some(500), "{line}");
        fault(&cx)
    };
    assert!(told("request.temperature = \"hot\";").starts_with("scripts/a.rhai:2:"));
    assert!(told("request.max_tokens = -1;").contains("max_tokens"));
    assert!(told("request.model = 3;").contains("must be a string"));
    assert!(told("request.messages = 5;").contains("must be an array"));
    assert!(told("request.messages.push(#{ role: \"king\", content: \"x\" });").contains("unknown role"));
    assert!(told("request.messages.push(#{ content: \"x\" });").contains("needs a role"));
    // Of what is not known when the script is read.
    assert!(told("let r = request; r.nothing = 1;").contains("nothing"));
    assert!(told("return reject(200, \"x\");").contains("must be 400 to 599"));
    assert!(told("return 5;").contains("returned a value of type"));
    assert!(told("context.vars.x = request;").contains("cannot hold"));
}

#[test]
fn tools_can_be_left_out() {
    let tool = |name: &str| {
        crate::model::Tool::Function(crate::model::tool::Function {
            name: name.into(),
            description: None,
            parameters: None,
            strict: None,
            custom: false,
            cache: None,
            extra: crate::model::Extra::default(),
        })
    };
    let run = |body: &str| {
        let (mut chain, mut cx) = chain(&format!("fn request(request, context) {{ {body} }}"));
        let mut doc = Document::from_request(
            Format::OpenaiChat,
            Request { tools: vec![tool("search"), tool("shell")], ..request() },
        );
        let result = now(chain.request(&mut cx, &mut doc));
        (result.is_ok(), doc.request().unwrap().tools.len(), fault(&cx))
    };
    assert_eq!(run("request.tools = request.tools.filter(|t| t.name != \"shell\");"), (true, 1, String::new()));
}

#[test]
fn rejecting_carries_status_and_text() {
    let (result, _, _) = ask("fn request(request, context) { return reject(413, \"split it\"); }");
    let error = result.err().unwrap();
    assert_eq!((error.status(), error.code(), error.message.as_str()), (413, "content_refused", "split it"));
}

#[test]
fn responding_answers_with_text_or_a_map() {
    let (result, _, _) = ask("fn request(request, context) { respond(\"hi\") }");
    let Ok(Flow::Respond(response)) = result else { panic!("{result:?}") };
    assert_eq!(response.text(), "hi");
    let (result, _, cx) =
        ask("fn request(request, context) { return respond(#{ text: \"t\", reasoning: \"r\", model: \"m\",
            tool_calls: [#{ name: \"f\", arguments: #{ a: 1 } }], usage: #{ input_tokens: 4 } }); }");
    let Ok(Flow::Respond(response)) = result else { panic!("{result:?} {}", fault(&cx)) };
    assert!(matches!(&response.choices[0].parts[0], Part::Reasoning(r) if r.text == "r"));
    assert!(matches!(&response.choices[0].parts[2], Part::ToolCall(c) if c.arguments == "{\"a\":1}"));
    assert_eq!(response.choices[0].finish.as_ref().map(|f| f.reason), Some(FinishReason::ToolCalls));
    assert_eq!(response.usage.and_then(|u| u.input_tokens), Some(4));
}

#[test]
fn an_answer_made_at_a_stage_passes_only_the_stages_before_it() {
    let note = |name: &str, more: &str| {
        format!(
            "const STREAM = \"whole\"; fn response(response, context) {{ response.text += \" {name}\"; }}
             fn request(request, context) {{ {more} }}"
        )
    };
    let (a, b, c) = (note("a", ""), note("b", "return respond(\"made\");"), note("c", ""));
    let mut cx = cx();
    let mut chain = chain_of(&[("a.rhai", &a), ("b.rhai", &b), ("c.rhai", &c)], &cx);
    let Ok(Flow::Respond(mut response)) = now(chain.request(&mut cx, &mut doc())) else { panic!() };
    let flow = now(chain.response(&mut cx, &targets()[0], &mut response)).unwrap();
    assert_eq!((flow, response.text().as_str()), (ResponseFlow::Deliver, "made a"));
}

#[test]
fn the_answer_passes_the_stages_in_reverse() {
    let script = |name: &str| {
        format!("const STREAM = \"whole\"; fn response(response, context) {{ response.text += \"{name}\"; }}")
    };
    let mut cx = cx();
    let mut chain = chain_of(&[("a.rhai", &script("a")), ("b.rhai", &script("b"))], &cx);
    let mut response = answer("x");
    now(chain.response(&mut cx, &targets()[0], &mut response)).unwrap();
    assert_eq!(response.text(), "xba");
}

#[test]
fn routes_are_names_targets_or_nothing() {
    let names = |body: &str| {
        let (result, cx) = route(body);
        result.unwrap_or_else(|e| panic!("{e} {}", fault(&cx)))
    };
    let list = |names: &[&str]| Some(names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(names(""), None);
    assert_eq!(names("if false { return \"x\"; }"), None);
    assert_eq!(names("\"alias\""), list(&["alias"]));
    assert_eq!(names("return [\"p/m\", targets[0]];"), list(&["p/m", "a/slow"]));
    assert_eq!(names("targets[1]"), list(&["b/fast"]));
    assert_eq!(names("[]"), list(&[]));
    assert_eq!(names("targets.filter(|t| t.healthy && t.quota_left > 0)"), list(&["a/slow", "b/fast"]));
    assert_eq!(names("targets.healthy().fastest()"), list(&["b/fast", "a/slow"]));
    assert_eq!(names("targets.cheapest()"), list(&["c/ill", "d/spent", "a/slow", "b/fast"]));
    assert_eq!(names("targets.can(\"tools\").of(\"b\")"), list(&["b/fast"]));
    assert_eq!(names("let t = targets; t.sort(|a, b| a.latency_ms - b.latency_ms); t[0]"), list(&["c/ill"]));
    assert_eq!(names("let pick = |t| t.name == \"d/spent\"; targets.filter(pick)"), list(&["d/spent"]));
    assert_eq!(names("best(targets) } fn best(list) { list.fastest()[0]"), list(&["c/ill"]));
    let (result, cx) = route("return 7;");
    assert!(result.is_err() && fault(&cx).contains("a name, an array of names"), "{}", fault(&cx));
    assert_eq!(route("return reject(403, \"no\");").0.err().map(|e| e.status()), Some(403));
}

#[test]
fn text_searches_ignore_case_and_take_lists_or_constants() {
    let (result, _, cx) = ask(
        "const LONG = words([\"essay\"]);
         const TOPICS = topics([[\"sea\", [\"tides\"]], [\"text\", [\"essay\"]]]);
         fn request(request, context) {
            context.note(`${request.text_has([\"ESSAY\", \"x\"])} ${request.text_has(LONG)} ${request.text_has([\"nope\"])}`);
            context.note(`${request.text_has_word([\"tide\"])} ${request.text_has([\"tide\"])} ${request.topic(TOPICS)}`);
         }",
    );
    assert!(result.is_ok(), "{}", fault(&cx));
    assert_eq!(notes(&cx), ["true true false", "false true sea"]);
}

#[test]
fn the_context_tells_who_and_when_and_never_the_real_clock() {
    let (result, _, cx) = ask(
        "fn request(request, context) {
            context.note(`${context.team} ${context.key} ${context.roles[0]} ${context.tags.p} ${context.attempt}`);
            context.note(`${context.now} ${context.unix} ${context.user == ()}`);
            context.note(`${request.headers[\"X-Team\"]} ${request.headers[\"authorization\"] == ()} ${request.headers.contains(\"x-team\")}`);
        }",
    );
    assert!(result.is_ok(), "{}", fault(&cx));
    assert_eq!(notes(&cx), ["research ada writer q 1", "2026-01-01T00:00:00Z 1767225600 true", "blue true true"]);
}

#[test]
fn vars_are_shared_by_the_stages_of_one_request() {
    let a = "fn request(request, context) { context.vars.seen = #{ n: 1 }; context.vars.seen.n += 4; }";
    let b = "fn request(request, context) { context.note(`${context.vars.seen.n} ${context.vars.none == ()}`); }";
    let mut cx = cx();
    now(chain_of(&[("a.rhai", a), ("b.rhai", b)], &cx).request(&mut cx, &mut doc())).unwrap();
    assert_eq!(notes(&cx), ["5 true"], "{}", fault(&cx));
}

#[test]
fn kv_lasts_between_requests_and_is_kept_apart_by_tenant_and_stage() {
    let script = "fn request(request, context) { context.note(`${context.kv.incr(\"n\")} ${context.kv.get(\"x\") == ()}`); context.kv.set(\"x\", [1], 60); }";
    let built =
        build(&config(&[("a.rhai", script), ("b.rhai", script)]), &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
    let ask = |team: &str| {
        let mut cx = suite::context(json!({ "team": team }).as_object().unwrap(), Format::OpenaiChat).unwrap();
        let mut chain = built.pipeline.select(&cx.principal, "m");
        now(chain.request(&mut cx, &mut doc())).unwrap();
        notes(&cx)
    };
    assert_eq!(ask("red"), ["1 true", "1 true"]);
    assert_eq!(ask("red"), ["2 false", "2 false"]);
    assert_eq!(ask("blue"), ["1 true", "1 true"]);
}

#[test]
fn kv_is_bounded() {
    let mut space = crate::pipeline::kv::Space::default();
    let now = std::time::Instant::now();
    for n in 0..12_000 {
        space.set(&format!("k{n}"), json!(n), None, now).unwrap();
    }
    assert_eq!(space.len(), crate::pipeline::kv::MAX_ENTRIES);
    assert!(space.get("k0", now).is_none() && space.get("k11999", now).is_some());
    assert!(space.set("big", json!("x".repeat(5000)), None, now).is_err());
    space.set("brief", json!(1), Some(std::time::Duration::from_secs(1)), now).unwrap();
    assert!(space.get("brief", now + std::time::Duration::from_secs(2)).is_none());
}

#[test]
fn the_same_seed_chooses_the_same() {
    let pick = || {
        notes(&ask("fn request(request, context) { context.note(`${context.choose([1,2,3,4,5,6,7,8])} ${context.choose([1,2,3,4,5,6,7,8])}`); }").2)
    };
    assert_eq!(pick(), pick());
}

#[test]
fn an_attempt_may_be_skipped_and_its_headers_set() {
    let script = "fn attempt(target, request, context) {
        if target.name == \"b/fast\" { return skip(); }
        request.headers[\"x-for\"] = target.provider;
        request.temperature = 0.5;
    }";
    let (mut chain, mut cx) = chain(script);
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", http::HeaderValue::from_static("secret"));
    let mut copy = doc();
    let flow = now(chain.attempt(&mut cx, &targets()[0], &mut copy, &mut headers))
        .unwrap_or_else(|e| panic!("{e}: {}", fault(&cx)));
    assert_eq!(flow, AttemptFlow::Go);
    assert_eq!(headers["x-for"], "a");
    assert_eq!(headers["authorization"], "secret");
    assert_eq!(copy.request().unwrap().sampling.temperature, Some(0.5));
    assert_eq!(now(chain.attempt(&mut cx, &targets()[1], &mut doc(), &mut headers)).unwrap(), AttemptFlow::Skip);
}

#[test]
fn credentials_are_neither_seen_nor_set() {
    for body in [
        "request.headers[\"Authorization\"] = \"x\";",
        "request.headers[\"host\"] = \"evil\";",
        "request.headers[\"x-a\"] = \"a\\nb\";",
    ] {
        let (mut chain, mut cx) = chain(&format!("fn attempt(target, request, context) {{ {body} }}"));
        assert!(now(chain.attempt(&mut cx, &targets()[0], &mut doc(), &mut http::HeaderMap::new())).is_err(), "{body}");
    }
    let (mut chain, mut cx) =
        chain("fn attempt(target, request, context) { context.note(`${request.headers[\"authorization\"] == ()}`); }");
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", http::HeaderValue::from_static("secret"));
    now(chain.attempt(&mut cx, &targets()[0], &mut doc(), &mut headers)).unwrap();
    assert_eq!(notes(&cx), ["true"]);
    // Outside of an attempt there is nothing to set.
    assert!(ask("fn request(request, context) { request.headers[\"x-a\"] = \"b\"; }").0.is_err());
}

#[test]
fn an_answer_is_judged_and_changed() {
    let script = "const STREAM = \"whole\";
        fn response(response, context) {
            if response.text.len() < 5 && response.tool_calls.is_empty() { return next(\"too short\"); }
            context.note(`${response.finish_reason} ${response.usage.output_tokens} ${response.target} ${response.model}`);
            response.text = response.text.to_upper();
        }";
    let (mut chain, mut cx) = chain(script);
    let mut short = answer("abc");
    let flow = now(chain.response(&mut cx, &targets()[0], &mut short)).unwrap();
    assert_eq!(flow, ResponseFlow::Next("too short".into()));
    assert_eq!(now(chain.unmet(&mut cx, &targets()[0])).unwrap().map(|r| r.text()), Some("abc".into()));
    let mut long = answer("long enough");
    assert_eq!(
        now(chain.response(&mut cx, &targets()[0], &mut long)).unwrap(),
        ResponseFlow::Deliver,
        "{}",
        fault(&cx)
    );
    assert_eq!(long.text(), "LONG ENOUGH");
    assert_eq!(notes(&cx), ["stop 5 a/slow m"]);
}

#[test]
fn tool_arguments_and_reasoning_of_an_answer_can_be_changed() {
    let script = "const STREAM = \"whole\";
        fn response(response, context) {
            response.reasoning = response.reasoning.to_upper();
            let first = response.tool_calls[0];
            first.arguments = #{ city: first.arguments.city + \"!\" };
            let other = response.tool_calls[0].arguments;
        }";
    let (mut chain, mut cx) = chain(script);
    let mut response = answer("text");
    response.choices[0].parts.push(Part::Reasoning(Reasoning { text: "hm".into(), ..Reasoning::default() }));
    response.choices[0].parts.push(Part::ToolCall(ToolCall {
        id: "c1".into(),
        name: "weather".into(),
        kind: ToolKind::Function,
        arguments: "{ \"city\": \"Ulm\" }".into(),
        signature: None,
        cache: None,
        extra: crate::model::Extra::default(),
    }));
    now(chain.response(&mut cx, &targets()[0], &mut response)).unwrap_or_else(|e| panic!("{e} {}", fault(&cx)));
    assert!(matches!(&response.choices[0].parts[1], Part::Reasoning(r) if r.text == "HM"));
    assert!(matches!(&response.choices[0].parts[2], Part::ToolCall(c) if c.arguments == "{\"city\":\"Ulm!\"}"));
}

#[test]
fn errors_are_reworded_or_answered() {
    let run = |body: &str| {
        let (mut chain, mut cx) = chain(&format!("fn error(error, context) {{ {body} }}"));
        let mut error = Error::new(Kind::UpstreamTimeout, "slow");
        let answer = now(chain.error(&mut cx, &mut error));
        (error, answer, fault(&cx))
    };
    let (error, answer, why) = run(
        "if error.side == \"upstream\" && error.retryable { error.status = 503; error.message = error.code + \": try later\"; }",
    );
    assert_eq!((error.status(), error.message.as_str()), (503, "upstream_timeout: try later"), "{why}");
    assert!(answer.is_none());
    let (_, answer, _) = run("return respond(\"sorry\");");
    assert_eq!(answer.map(|r| r.text()), Some("sorry".into()));
    let (error, _, why) = run("error.status = 200;");
    assert_eq!(error.status(), 504);
    assert!(why.contains("400 to 599"), "{why}");
}

#[test]
fn records_are_read_and_tagged() {
    let script = "fn log(record, context) { context.note(`${record.status} ${record.cost_usd} ${record.target} ${record.usage.input_tokens}`); record.tags.project = \"tides\"; }";
    let (mut chain, mut cx) = chain(script);
    let mut record = record();
    now(chain.log(&mut cx, &mut record));
    assert_eq!(notes(&cx), ["200 0.0025 a/slow 3"], "{}", fault(&cx));
    assert_eq!(record.tags, [("k".to_owned(), "v".to_owned()), ("project".to_owned(), "tides".to_owned())]);
}

#[test]
fn each_call_is_told_in_the_trace_with_its_operations() {
    let (_, _, cx) = ask("fn request(request, context) { let a = 1; for i in 0..50 { a += i; } }");
    let Some(Step::Stage { stage, phase, verdict, operations, .. }) = cx.trace.steps.first() else {
        panic!("{:?}", cx.trace)
    };
    assert_eq!((&**stage, *phase, verdict), ("scripts/a.rhai", "request", &Verdict::Continue));
    assert!(*operations > 50);
}

#[test]
fn only_selects_by_team_and_model() {
    let mut config = config(&[("a.rhai", "fn request(request, context) {}")]);
    let only = |teams: &[&str], models: &[&str]| {
        let list = |l: &[&str]| (!l.is_empty()).then(|| l.iter().map(|s| s.to_string()).collect());
        Some(crate::config::Only { teams: list(teams), models: list(models) })
    };
    let mut meets = |o| {
        config.stages = Some(vec![Stage { only: o, ..stage("a.rhai") }]);
        let built = build(&config, &Scripts::dry()).unwrap_or_else(|p| panic!("{p:?}"));
        !built.pipeline.select(&cx().principal, "smart").is_empty()
    };
    assert!(meets(only(&["research"], &[])) && meets(only(&[], &["sm*"])));
    assert!(!meets(only(&["hr"], &[])) && !meets(only(&["research"], &["gpt-*"])));
}

#[test]
fn a_callers_unreadable_request_is_the_callers_error() {
    let (mut chain, mut cx) = chain("fn request(request, context) { let n = request.messages.len(); }");
    let body = br#"{"model":"m","messages":"no list"}"#;
    let mut doc = Document::new(Format::OpenaiChat, body.to_vec().into(), crate::codec::Inbound::default()).unwrap();
    let error = now(chain.request(&mut cx, &mut doc)).err().unwrap();
    assert_eq!((error.status(), error.param.as_deref()), (400, Some("messages")), "{error:?}");
}

fn record() -> crate::account::Record {
    let usage = Usage { input_tokens: Some(3), ..Usage::default() };
    crate::account::Record {
        id: "r".into(),
        key_id: "k".into(),
        team: None,
        user: None,
        organisation: None,
        operation: crate::model::Operation::Chat,
        format: Format::OpenaiChat,
        model: "smart".into(),
        target: Some("a/slow".into()),
        attempts: 1,
        status: 200,
        error_code: None,
        stream: false,
        finish_reason: Some("stop"),
        usage: Some(usage),
        cost_nano_usd: Some(2_500_000),
        cost_unknown: false,
        ledger: vec![],
        duration: std::time::Duration::from_millis(5),
        first_event: None,
        upstream_duration: std::time::Duration::ZERO,
        cache: None,
        saved_nano_usd: None,
        experiment: None,
        bodies: None,
        tags: vec![("k".into(), "v".into())],
    }
}

#[test]
fn nothing_of_a_call_is_left_for_the_next() {
    let script = r#"
        fn route(request, targets, context) {
            const MINE = request.model;
            let named = || "to-" + request.model;
            if MINE == "broken" { throw "broken"; }
            if MINE == "early" { return "early"; }
            targets = [MINE, named.call()];
            targets
        }
    "#;
    let built = build(&config(&[("a.rhai", script)]), &Scripts::dry()).unwrap_or_else(|p| panic!("{p:#?}"));
    let ask = |model: &str| {
        let mut cx = cx();
        let mut doc = Document::from_request(Format::OpenaiChat, Request { model: model.into(), ..request() });
        let mut chain = built.pipeline.select(&cx.principal, "any");
        let chosen = now(chain.route(&mut cx, &mut doc, &[])).ok().flatten();
        assert_eq!(doc.model(), model, "the request is the caller's own again");
        (chosen.unwrap_or_default().join(" "), Arc::strong_count(&cx.principal))
    };
    let first = ask("a");
    assert_eq!(first.0, "a to-a");
    assert_eq!(ask("early").0, "early");
    assert_eq!(ask("broken").0, "");
    assert_eq!(ask("b"), ("b to-b".into(), first.1));
}
