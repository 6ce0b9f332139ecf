use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::compile;
use crate::{
    account::price::{Asked, Function, Rates},
    config::{PriceSheet, Prices, Sources},
    model::{ServiceTier, Units, Usage},
};

fn sources(text: &str) -> Sources {
    Sources { scripts: [("scripts/prices/x.rhai".to_owned(), text.into())].into(), ..Sources::default() }
}

fn function(text: &str) -> Result<Arc<dyn Function>, String> {
    compile(&sources(text), "scripts/prices/x.rhai").map_err(|problems| {
        let told: Vec<String> = problems.iter().map(|p| format!("{}:{}: {}", p.file, p.line, p.message)).collect();
        told.join("\n")
    })
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() }
}

fn at(hour: u64) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000 + hour * 3600))
}

const NIGHT: &str = r#"
// Half price at night, UTC.
const DAY = "0.27";
const NIGHT = "0.135";

fn price(usage, model, context) {
    let hour = context.now / 3600 % 24;
    let input = if hour >= 16 { NIGHT } else { DAY };
    let output = if model == "large" { "4" } else { "1.1" };
    let cached = usage.cache_read_tokens;
    [[usage.input_tokens - cached, input], [cached, "0.07"], [usage.output_tokens, output]]
}

const VECTORS = [
    #{ usage: #{ input_tokens: 1000, output_tokens: 10 }, now: 1893456000, cost: "0.000281" },
    #{ usage: #{ input_tokens: 1000, output_tokens: 10 }, now: 1893513600, cost: 146000 },
    #{ usage: #{ input_tokens: 1000, cache_read_tokens: 1000, output_tokens: 0 }, model: "large", now: 0, cost: "0.00007" },
];
"#;

#[test]
fn a_function_prices_by_the_hour_and_the_model_to_the_nano_dollar() {
    let night = function(NIGHT).unwrap();
    let price = |usage: &Usage, target, at| night.price(usage, Asked { target, at, requests: 1 });
    assert_eq!(price(&usage(1_000, 10), "up/small", at(3)), Some(270_000 + 11_000));
    assert_eq!(price(&usage(1_000, 10), "up/large", at(17)), Some(135_000 + 40_000));
    assert_eq!(price(&usage(3, 0), "up/small", at(17)), Some(405), "0.135 nano-dollars a token would round to nothing");
    assert_eq!(price(&usage(1, 0), "up/small", at(17)), Some(135));
    // Rounded once, half up: 7 × 0.07 × 1000 = 490.
    let cached = Usage { cache_read_tokens: Some(7), ..usage(7, 0) };
    assert_eq!(price(&cached, "up/small", at(17)), Some(490));
    // Unknown is never zero: without a time, and without a count.
    assert_eq!(price(&usage(1, 1), "up/small", None), None);
    assert_eq!(price(&Usage { input_tokens: Some(5), ..Usage::default() }, "up/small", at(1)), None);
}

#[test]
fn rates_by_a_function_have_its_price_its_version_and_a_bound() {
    let text = "fn price(usage, model, context) { if context.service == \"priority\" { 900 } else { usage.reasoning_tokens * 7 + \
                usage.input_tokens } }\nconst VECTORS = [#{ usage: #{ input_tokens: 3, output_tokens: 1 }, cost: 3 }];";
    let first = function(text).unwrap();
    let sheet = PriceSheet { prices: Prices { input: Some(1_000_000), ..Prices::default() }, ..PriceSheet::default() };
    let rates = Rates::by(&first, &sheet, "up/m");
    assert_eq!(rates.cost_at(&usage(10, 5), at(0).unwrap()), Some(10));
    let fast = Usage { service_tier: Some(ServiceTier::Priority), ..usage(10, 5) };
    assert_eq!(rates.cost(&fast), Some(900));
    assert_eq!(rates.most(10, 5, &Units::default()), 900, "the dearest shape that the function knows");
    assert_eq!(rates.most(10, 500, &Units::default()), 10 + 3_500, "if all of it is thought");
    assert_eq!(rates.most(5_000, 0, &Units::default()), 5_000, "what is stated beside it is a bound as well");
    assert!(rates.differ_by_service());
    let other = function(&text.replace("* 7", "* 8")).unwrap();
    let others = Rates::by(&other, &sheet, "up/m");
    assert_ne!(rates.version, others.version, "another text is another version");
    assert_eq!(rates.version, Rates::by(&first, &sheet, "up/n").version, "the same prices have the same one");
    assert_ne!(rates.version, Rates::new(&sheet).version);
}

#[test]
fn a_function_whose_vectors_fail_is_refused_with_what_it_gave() {
    let wrong = NIGHT.replace("\"0.000281\"", "\"0.000282\"").replace("cost: 146000", "cost: 1");
    let told = function(&wrong).unwrap_err();
    assert!(told.contains("VECTORS[0]: expected 0.000282 USD, and price() gives 0.000281"), "{told}");
    assert!(told.contains("VECTORS[1]: expected 0.000000001 USD, and price() gives 0.000146"), "{told}");
    assert!(told.starts_with("scripts/prices/x.rhai:14: "), "{told}");
}

#[test]
fn what_is_no_price_function_is_refused_and_says_why() {
    let vectors = "const VECTORS = [#{ usage: #{ input_tokens: 1, output_tokens: 1 }, cost: 1 }];";
    let with = |body: &str| format!("fn price(usage, model, context) {{ {body} }}\n{vectors}");
    for (text, words) in [
        ("fn price(usage, model, context) { 1 }".to_owned(), "proves itself: const VECTORS"),
        (format!("fn cost(a, b, c) {{ 1 }}\n{vectors}"), "it has no fn price"),
        (format!("fn price(usage) {{ 1 }}\n{vectors}"), "takes three parameters"),
        ("fn price(".to_owned(), "x.rhai:1"),
        (with("0.5"), "whole numbers"),
        (with("let x = 1.5; 1"), "whole numbers"),
        (with("-1"), "not negative"),
        (with("\"-1\""), "expected US dollars"),
        (with("\"many\""), "expected US dollars"),
        (with("()"), "price() returns"),
        (with("[1, 2]"), "each part of a price"),
        (with("[[1]]"), "each part of a price"),
        (with("[[-1, \"2\"]]"), "not negative"),
        (with("[[1, true]]"), "decimal text"),
        (with("[[9223372036854775807, \"900000000\"]]"), "too large"),
        (with("loop { }"), "price() fails"),
        (with("let a = []; loop { a.push(a); }"), "price() fails"),
        (with("price(usage, model, context)"), "price() fails"),
        (with("usage.colour * 2"), "price() fails"),
        (with("timestamp()"), "price() fails"),
        (with("sleep(1)"), "price() fails"),
        (with("import \"other\" as x; 1"), "x.rhai:1"),
        (with("eval(\"1\")"), "x.rhai:1"),
        (with("1 / 0"), "price() fails"),
    ] {
        let told = function(&text).map(|_| ()).unwrap_err();
        assert!(told.contains(words), "{text}\n{told}");
    }
    for (vector, words) in [
        ("1", "must be a map"),
        ("#{ cost: 1 }", "needs usage"),
        ("#{ usage: #{ input_tokens: 1 } }", "needs cost"),
        ("#{ usage: #{ input_tokens: -1 }, cost: 1 }", "usage.input_tokens is no count"),
        ("#{ usage: #{ tokens: 1 }, cost: 1 }", "usage.tokens is no count"),
        ("#{ usage: #{}, cost: 1, colour: 2 }", "there is no colour"),
    ] {
        let text = format!("fn price(usage, model, context) {{ 1 }}\nconst VECTORS = [{vector}];");
        let told = function(&text).map(|_| ()).unwrap_err();
        assert!(told.contains(words), "{vector}: {told}");
    }
    let missing = compile(&Sources::default(), "scripts/prices/none.rhai").unwrap_err();
    assert!(missing[0].message.contains("there is no scripts/prices/none.rhai"), "{missing:?}");
}

#[test]
fn units_are_seen_under_their_names() {
    let text = "fn price(usage, model, context) { usage.web_searches * 10000 + usage.output_images * context.requests }\n\
                const VECTORS = [#{ usage: #{ web_searches: 2, output_images: 3 }, requests: 5, cost: 20015 }];";
    let function = function(text).unwrap();
    let units = Units { web_searches: Some(1), ..Units::default() };
    let usage = Usage { units: units.boxed(), ..Usage::default() };
    assert_eq!(function.price(&usage, Asked { target: "up/m", at: None, requests: 1 }), Some(10_000));
}
