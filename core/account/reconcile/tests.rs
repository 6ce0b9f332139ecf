use std::collections::BTreeMap;

use serde_json::json;

use super::{
    Figures, Place, Tolerance, amount,
    bill::{Bill, Columns},
    compare,
};

fn read(text: &str) -> Bill {
    let mut bill = Bill::default();
    bill.read(text.as_bytes(), None).unwrap();
    bill
}

fn at(day: &str, model: &str) -> Place {
    (day.to_owned(), model.to_owned())
}

fn tokens(input: u64, output: u64) -> Figures {
    Figures { input_tokens: Some(input), output_tokens: Some(output), ..Figures::default() }
}

fn money(nano: i128) -> Figures {
    Figures { nano_usd: Some(nano), ..Figures::default() }
}

#[test]
fn amounts_are_read_digit_by_digit() {
    for (text, scale, nano) in [
        ("0.06", 9, Some(60_000_000)),
        ("6e-2", 9, Some(60_000_000)),
        ("1.5E3", 9, Some(1_500_000_000_000)),
        ("123.45", 7, Some(1_234_500_000)),
        ("-0.5", 9, Some(-500_000_000)),
        ("$3", 9, Some(3_000_000_000)),
        ("0.8958740000000000", 9, Some(895_874_000)),
        ("0.0000000005", 9, Some(1)),
        ("0.00000000049", 9, Some(0)),
        ("1e-50", 9, Some(0)),
        ("", 9, None),
        (".", 9, None),
        ("1,5", 9, None),
        ("NaN", 9, None),
        ("1e999", 9, None),
        ("9999999999999999999999999999999999999999", 9, None),
    ] {
        assert_eq!(amount::nano(text, scale), nano, "{text}");
    }
}

/// Shapes as the vendors document them; every figure made up.
#[test]
fn pages_of_usage_and_of_costs_are_read() {
    // https://platform.openai.com/docs/api-reference/usage: input_tokens include cached ones.
    let usage = json!({ "object": "page", "has_more": false, "next_page": null, "data": [
        { "object": "bucket", "start_time": 1_764_028_800, "end_time": 1_764_115_200, "results": [
            { "object": "organization.usage.completions.result", "input_tokens": 1000, "input_cached_tokens": 800,
              "output_tokens": 500, "num_model_requests": 5, "model": "m-2025-08-06", "batch": false },
            { "object": "organization.usage.completions.result", "input_tokens": 10, "output_tokens": 1,
              "num_model_requests": 1, "model": "m-2025-08-06", "batch": true } ] },
        { "object": "bucket", "start_time": 1_764_115_200, "end_time": 1_764_201_600, "results": [] } ] });
    let bill = read(&usage.to_string());
    let sum = Figures { requests: Some(6), ..tokens(1010, 501) };
    assert_eq!((bill.lines, bill.cut), ([(at("2025-11-25", "m-2025-08-06"), sum)].into(), false));
    // The same vendor's costs: dollars, as a number or as text, by line item.
    let costs = |value: serde_json::Value| {
        json!({ "object": "page", "has_more": true, "data": [
        { "object": "bucket", "start_time": 1_764_028_800, "results": [
            { "object": "organization.costs.result", "amount": { "value": 0.06, "currency": "usd" }, "line_item": "m-2025-08-06, input" },
            { "object": "organization.costs.result", "amount": { "value": value, "currency": "usd" }, "line_item": "m-2025-08-06, output" } ] } ] })
    };
    for value in [json!(0.04), json!("0.04000")] {
        let bill = read(&costs(value).to_string());
        assert_eq!(bill.lines, [(at("2025-11-25", "m-2025-08-06"), money(100_000_000))].into());
        assert!(bill.cut, "there are more pages");
    }
    // https://platform.claude.com/docs/en/api/admin: what was cached stands beside the input, and costs are in cents.
    let usage = json!({ "data": [ { "starting_at": "2025-11-25T00:00:00Z", "ending_at": "2025-11-26T00:00:00Z", "results": [
        { "uncached_input_tokens": 1500, "cache_creation": { "ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500 },
          "cache_read_input_tokens": 200, "output_tokens": 500, "server_tool_use": { "web_search_requests": 10 },
          "model": "c-4", "service_tier": "standard", "context_window": "0-200k" } ] } ], "has_more": false });
    assert_eq!(read(&usage.to_string()).lines, [(at("2025-11-25", "c-4"), tokens(3200, 500))].into());
    let cost = json!({ "data": [ { "starting_at": "2025-11-25T00:00:00Z", "results": [
        { "currency": "USD", "amount": "123.78912", "model": "c-4", "token_type": "uncached_input_tokens" },
        { "currency": "USD", "amount": "1", "model": "c-4", "token_type": "output_tokens" } ] } ] });
    let two = format!("[{cost}]\n{cost}");
    assert_eq!(read(&two).lines, [(at("2025-11-25", "c-4"), money(2 * 1_247_891_200))].into());
}

#[test]
fn tables_are_read_by_columns_that_are_known_or_named() {
    let costs = "start_time\tend_time\tstart_time_iso\tamount_value\tamount_currency\tline_item\n\
                 1764028800\t1764115200\t2025-11-25T00:00:00+00:00\t0.8958740000000000\tusd\t\n\
                 1764115200\t1764201600\t2025-11-26T00:00:00+00:00\t\t\t\n";
    assert_eq!(read(costs).lines, [(at("2025-11-25", ""), money(895_874_000))].into());
    let usage = "\u{feff}usage_date_utc,model_version,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,\
                 usage_input_tokens_cache_read,usage_output_tokens\r\n2025-11-25,c-4,1,20,300,4\r\n2025-11-25,c-4,1,0,0,\r\n";
    assert_eq!(read(usage).lines, [(at("2025-11-25", "c-4"), tokens(322, 4))].into());
    let own = "Tag;Modell;Ein;Preis\n2025-11-25;a;\"1.000\";\"$1,234.50\"\n";
    let columns = Columns::parse("day=Tag, model=Modell, cost=Preis").unwrap();
    let mut bill = Bill::default();
    bill.read(own.as_bytes(), Some(&columns)).unwrap();
    assert_eq!(bill.lines, [(at("2025-11-25", "a"), money(1_234_500_000_000))].into());
}

#[test]
fn what_is_no_export_is_refused_with_its_place() {
    for (text, words) in [
        ("", "empty"),
        ("{\"a\":1}", "no page of usage"),
        ("{\"data\":[{\"results\":[]}]}", "when it starts"),
        ("{\"data\":[{\"start_time\":1764028800,\"results\":[{\"x\":1}]}]}", "neither tokens nor an amount"),
        ("{\"data\":[", "no JSON"),
        ("a,b\n1,2\n", "no column says the day"),
        ("date,model\n2025-01-01,m\n", "no column has tokens or costs"),
        ("date,cost\n2025-01-01,many\n", "line 2: the cost is no number"),
        ("date,cost\n01/02/2025,1\n", "line 2: the day"),
        ("date,input_tokens\n2025-01-01,-1\n", "line 2: a count of tokens"),
    ] {
        let error = Bill::default().read(text.as_bytes(), None).unwrap_err();
        assert!(error.contains(words), "{text:?}: {error}");
    }
    for (text, words) in
        [("model=a", "which column has the day"), ("day", "day=Date"), ("when=x", "there are day, model")]
    {
        assert!(Columns::parse(text).unwrap_err().contains(words), "{text}");
    }
    let columns = Columns::parse("day=When").unwrap();
    assert!(Bill::default().read(b"a,b\n", Some(&columns)).unwrap_err().contains("no column \"When\"; it has a, b"));
}

fn both(ours: Figures, theirs: Figures) -> super::Line {
    let ours: BTreeMap<_, _> = [(at("2025-11-25", "m"), ours)].into();
    let theirs: BTreeMap<_, _> = [(at("2025-11-25", "m"), theirs)].into();
    compare(&ours, &theirs, Tolerance(5_000)).pop().unwrap()
}

#[test]
fn differences_beyond_the_tolerance_say_what_may_explain_them() {
    let spent = |of: Figures, nano: i128| Figures { nano_usd: Some(nano), ..of };
    let fine = both(spent(tokens(1000, 100), 1_000), spent(tokens(1005, 100), 1_005));
    assert!(!fine.beyond && fine.why.is_empty(), "half a percent is tolerated: {fine:?}");
    assert!(both(tokens(1000, 100), tokens(1006, 100)).beyond);
    assert!(!both(spent(tokens(9, 9), 5), tokens(9, 9)).beyond, "what they do not say is not compared");
    for (ours, theirs, words) in [
        (tokens(1000, 100), tokens(2000, 100), "1000 tokens more: requests outside the gateway"),
        (Figures { estimated: 2, ..tokens(1100, 100) }, tokens(1000, 100), "2 attempts were estimated"),
        (tokens(1100, 100), tokens(1000, 100), "the gateway counted 100 tokens more"),
        (Figures { unknown: 3, ..spent(tokens(10, 1), 0) }, spent(tokens(10, 1), 50), "3 attempts have no known price"),
        (spent(tokens(10, 1), 2_000_000_000), spent(tokens(10, 1), 1_500_000_000), "cost 1.5 USD there and 2 here"),
        (Figures::default(), tokens(10, 1), "nothing of it went through this gateway"),
        (tokens(10, 1), tokens(0, 0), "the provider knows nothing of it"),
        (spent(tokens(10, 1), 10), money(20), "compare the provider's usage as well"),
    ] {
        let line = both(ours, theirs);
        assert!(line.beyond && line.why.join("; ").contains(words), "{words}: {line:?}");
    }
}

#[test]
fn builds_of_a_model_are_the_model_and_costs_without_one_make_days() {
    let day = "2025-11-25";
    let ours: BTreeMap<_, _> =
        [(at(day, "m"), tokens(10, 1)), (at(day, "m-mini"), tokens(5, 1)), (at("2025-11-26", "m"), tokens(9, 9))]
            .into();
    let theirs: BTreeMap<_, _> =
        [(at(day, "m-2025-08-06"), tokens(10, 1)), (at(day, "m-mini-2025-08-06"), tokens(5, 1))].into();
    let lines = compare(&ours, &theirs, Tolerance(0));
    let told: Vec<_> = lines.iter().map(|line| (line.day.as_str(), line.model.as_str(), line.beyond)).collect();
    assert_eq!(told, [(day, "m", false), (day, "m-mini", false)], "a day that they do not speak of is left out");
    let dated: BTreeMap<_, _> = [(at(day, "m-2025-08-06"), tokens(10, 1))].into();
    let undated: BTreeMap<_, _> = [(at(day, "m"), tokens(10, 1))].into();
    assert!(!compare(&dated, &undated, Tolerance(0))[0].beyond, "the other way round");
    let whole: BTreeMap<_, _> = [(at(day, "m"), tokens(10, 1)), (at(day, ""), tokens(5, 1))].into();
    let lines = compare(&ours, &whole, Tolerance(0));
    assert_eq!((lines.len(), lines[0].model.as_str(), lines[0].beyond), (1, "", false), "{lines:?}");
    let missing: BTreeMap<_, _> = [(at(day, "m"), tokens(10, 1))].into();
    let lines = compare(&ours, &missing, Tolerance(0));
    assert!(lines.iter().any(|line| line.model == "m-mini" && line.beyond), "{lines:?}");
}
