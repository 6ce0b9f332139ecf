//! Samples of each collection, written by hand: what becomes of them, and what is said of the rest.

use std::fs;

use serde_json::{Value, json};

use super::{
    Args, Command, From, Import, diff, draft,
    litellm::{Said, grammar},
    run,
};
use crate::{
    cli::Exit,
    config::{Catalogue, CatalogueRow, Place, Prices, decimal},
    model::ServiceTier,
};

fn drafted(from: From, value: Value) -> draft::Draft {
    super::drafted(from, &value.to_string(), "2026-11-26").unwrap()
}

fn row<'r>(rows: &'r [CatalogueRow], name: &str) -> &'r CatalogueRow {
    let of = |row: &&CatalogueRow| format!("{}/{}", row.provider, row.models[0]) == name;
    rows.iter().find(of).unwrap_or_else(|| panic!("{name} of {:?}", rows.iter().map(|r| &r.models).collect::<Vec<_>>()))
}

fn price(row: &CatalogueRow, key: &str) -> Option<String> {
    let at = Prices::KEYS.iter().position(|k| *k == key).unwrap();
    row.sheet.prices.figures()[at].map(decimal)
}

#[test]
fn digits_become_nano_dollars_without_a_float() {
    for (text, shift, nano) in [
        ("1.5e-07", 6, 150_000_000),
        ("2.5E-6", 6, 2_500_000_000),
        ("0.000003", 6, 3_000_000_000),
        ("3.0000000000000004e-07", 6, 300_000_000),
        ("4.9999999999999996e-08", 6, 50_000_000),
        ("0.1", 0, 100_000_000),
        ("10", -3, 10_000_000),
        ("0", 6, 0),
        ("1e-400", 6, 0),
    ] {
        assert_eq!(draft::nano(text, shift), Ok(nano), "{text}");
    }
    for text in
        ["-1e-6", "1e40", "1e999999999999", "", "abc", "0x10", "1e", "99999999999999999999999999999999999999999"]
    {
        assert!(draft::nano(text, 6).is_err(), "{text}");
    }
}

#[test]
fn the_grammar_is_read_whatever_the_order_of_its_words() {
    let said = |key, service, above, shift| Some(Said { key, service, above, shift });
    for (key, expected) in [
        ("input_cost_per_token", said("input", None, 0, 6)),
        ("input_cost_per_token_above_200k_tokens", said("input", None, 200_000, 6)),
        ("input_cost_per_token_above_128_tokens", said("input", None, 128, 6)),
        ("output_cost_per_token_above_272k_tokens_priority", said("output", Some("priority"), 272_000, 6)),
        ("output_cost_per_token_priority_above_272k_tokens", said("output", Some("priority"), 272_000, 6)),
        ("cache_read_input_token_cost_flex", said("cache_read", Some("flex"), 0, 6)),
        ("cache_creation_input_token_cost_above_1hr_above_100k_tokens", said("cache_write_1h", None, 100_000, 6)),
        ("input_cost_per_token_batches", said("input", Some("batch"), 0, 6)),
        ("input_cost_per_audio_token", said("input_audio", None, 0, 6)),
        ("output_cost_per_reasoning_token", said("reasoning", None, 0, 6)),
        ("output_cost_per_image_token_batches", said("output_image", Some("batch"), 0, 6)),
        ("output_cost_per_image", said("per_image", None, 0, 0)),
        ("input_cost_per_second", said("per_input_second", None, 0, 0)),
        ("input_cost_per_character", said("characters", None, 0, 6)),
        ("input_cost_per_query", said("per_search_unit", None, 0, 0)),
        // What this gateway does not count, or not apart.
        ("cache_read_input_audio_token_cost", None),
        ("cache_creation_input_token_cost_above_12hr", None),
        ("input_cost_per_token_above_1hr", None),
        ("input_cost_per_token_balanced", None),
        ("output_cost_per_second_1080p", None),
        ("input_cost_per_pixel", None),
        ("ocr_cost_per_page", None),
        ("input_cost_per_token_above_xk_tokens", None),
        ("input_cost_per_token_above_99999999999999999999k_tokens", None),
    ] {
        assert_eq!(grammar(key, "chat"), expected, "{key}");
    }
    assert_eq!(grammar("input_cost_per_image", "chat").map(|s| s.key), Some("per_input_image"));
    assert_eq!(grammar("input_cost_per_image", "image_generation").map(|s| s.key), Some("per_image"));
}

fn litellm_sample() -> Value {
    json!({
        "sample_spec": { "litellm_provider": "one of …", "input_cost_per_token": "text" },
        "gpt-9": { "litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06,
            "cache_read_input_token_cost": 2e-07, "input_cost_per_token_flex": 1e-06,
            "input_cost_per_token_above_272k_tokens": 4e-06, "input_cost_per_token_above_272k_tokens_flex": 2e-06,
            "search_context_cost_per_query": { "search_context_size_medium": 0.01 },
            "max_input_tokens": 400000, "max_output_tokens": 128000, "max_tokens": 1, "supports_vision": true,
            "supports_function_calling": true, "supports_audio_input": false, "supports_sampling_params": false,
            "supports_assistant_prefill": true, "source": "https://example.com" },
        "openai/gpt-9": { "litellm_provider": "openai", "input_cost_per_token": 9e-06, "output_cost_per_token": 9e-06 },
        "us.anthropic.claude-x-20260101-v1:0": { "litellm_provider": "bedrock_converse", "input_cost_per_token": 3.3e-06, "output_cost_per_token": 1.65e-05 },
        "anthropic.claude-x-20260101-v1:0": { "litellm_provider": "bedrock_converse", "input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05 },
        "whisper-9": { "litellm_provider": "openai", "mode": "audio_transcription", "input_cost_per_second": 0.0001 },
        "negative": { "litellm_provider": "openai", "input_cost_per_token": -1e-06 },
        "absurd": { "litellm_provider": "openai", "input_cost_per_token": 3.0 },
        "words": { "litellm_provider": "openai", "input_cost_per_token": "cheap" },
        "endless": { "litellm_provider": "openai", "input_cost_per_token": 1e-06, "max_input_tokens": 1e18 },
        "a/../b\nc": { "litellm_provider": "openai", "input_cost_per_token": 1e-06 },
        "list": [],
        "pixels": { "litellm_provider": "openai", "input_cost_per_pixel": 1e-08, "ocr_cost_per_page": 0.01 },
        "far": { "litellm_provider": "fal_ai", "output_cost_per_image": 0.04 }
    })
}

#[test]
fn a_litellm_file_becomes_rows_and_what_it_says_besides_is_told() {
    let draft = drafted(From::LiteLlm, litellm_sample());
    let rows = draft.rows();
    let gpt = row(&rows, "openai/gpt-9");
    let all = ["input", "output", "cache_read", "per_search"].map(|key| price(gpt, key).unwrap());
    assert_eq!(all, ["2", "8", "0.2", "0.01"], "the plain name's price stands");
    assert_eq!((gpt.sheet.tiers[0].above, gpt.sheet.tiers[0].prices.input), (272_000, Some(4_000_000_000)));
    let flex = &gpt.sheet.services[0];
    assert_eq!(
        (flex.service, flex.prices.input, flex.tiers[0].prices.input),
        (ServiceTier::Flex, Some(1_000_000_000), Some(2_000_000_000))
    );
    assert_eq!((gpt.context, gpt.output_limit), (Some(400_000), Some(128_000)));
    assert_eq!((gpt.features.as_slice(), gpt.lacks.as_slice()), (&["images", "tools"][..], &["audio", "sampling"][..]));
    assert_eq!(price(row(&rows, "openai/whisper-9"), "per_input_second").as_deref(), Some("0.0001"));
    let hosted: Vec<_> = rows.iter().filter(|r| r.provider.starts_with("bedrock")).collect();
    assert!(!hosted.is_empty() && hosted.iter().all(|r| price(r, "input").as_deref() == Some("3")), "{hosted:?}");
    let told = draft.told();
    for says in [
        "negative: input_cost_per_token: -1e-6 is no price: it is negative",
        "absurd: input_cost_per_token: 3.0 is no price: input would be 3000000 USD",
        "words: input_cost_per_token: \"cheap\" is no price",
        "endless: max_input_tokens: ",
        "b\nc: its name cannot be one",
        "list: it is not an object",
        "input_cost_per_pixel  1, as in pixels",
        "of providers without a row here: fal_ai 1",
        "13 entries",
    ] {
        assert!(told.contains(says), "{says} is not in\n{told}");
    }
    for refused in ["negative", "absurd", "words", "endless"] {
        assert!(!rows.iter().any(|r| r.models[0] == refused), "{refused}");
    }
}

#[test]
fn a_genai_prices_file_has_tiers_dates_and_variants() {
    let draft = drafted(
        From::GenaiPrices,
        json!([
            { "id": "anthropic", "models": [
                { "id": "claude-x-1", "match": { "or": [{ "equals": "claude-x-1-20260101" }, { "starts_with": "claude-x" }] }, "context_window": 200000,
                  "prices": { "input_mtok": { "base": 3, "tiers": [{ "start": 200000, "price": 6 }] }, "output_mtok": 15,
                              "cache_write_1h_mtok": 6, "web_searches_kcount": 10, "storage_searches_kcount": 1 },
                  "price_variants": [{ "when": { "processing": "batch" }, "prices": { "input_mtok": 1.5, "output_mtok": 7.5 } },
                                     { "when": { "route": "eu" }, "prices": { "input_mtok": 9 } }] },
                { "id": "claude-y", "prices": [
                    { "prices": { "input_mtok": 1, "output_mtok": 2 } },
                    { "constraint": { "start_date": "2026-06-01" }, "prices": { "input_mtok": 3, "output_mtok": 4 } },
                    { "constraint": { "start_date": "2027-01-01" }, "prices": { "input_mtok": 5, "output_mtok": 6 } }] },
                { "id": "claude-night", "prices": [
                    { "constraint": { "start_time": "16:30:00Z", "end_time": "00:30:00Z" }, "prices": { "input_mtok": 1, "output_mtok": 2 } }] } ] },
            { "id": "nowhere", "models": [{ "id": "m", "prices": { "input_mtok": 1 } }] }
        ]),
    );
    let rows = draft.rows();
    let x = row(&rows, "anthropic/claude-x-1");
    assert_eq!(
        [price(x, "input"), price(x, "cache_write_1h"), price(x, "per_search")].map(Option::unwrap),
        ["3", "6", "0.01"]
    );
    assert_eq!((x.sheet.tiers[0].above, x.context), (200_000, Some(200_000)));
    assert_eq!((x.sheet.services.len(), x.sheet.services[0].service), (1, ServiceTier::Batch));
    assert_eq!(row(&rows, "anthropic/claude-x-1-20260101").sheet, x.sheet, "the other name that it has");
    assert_eq!(price(row(&rows, "anthropic/claude-y"), "input").as_deref(), Some("3"), "what holds on that day");
    let told = draft.told();
    for says in ["claude-night: its price changes with the hour", "storage_searches_kcount", "route", "nowhere 1"] {
        assert!(told.contains(says), "{says} is not in\n{told}");
    }
}

#[test]
fn a_models_dev_file_has_limits_and_two_ways_to_write_tiers() {
    let draft = drafted(
        From::ModelsDev,
        json!({
            "google": { "id": "google", "models": {
                "gemini-x": { "id": "gemini-x", "tool_call": true, "reasoning": true, "temperature": false, "structured_output": false, "modalities": { "input": ["text", "image", "pdf"], "output": ["text"] },
                    "limit": { "context": 1048576, "output": 65536 },
                    "cost": { "input": 1.25, "output": 10, "cache_read": 0.31, "context_over_200k": { "input": 2.5, "output": 15 } } },
                "gemini-y": { "limit": { "context": 1000, "output": 0 }, "cost": { "input": 1, "output": 2,
                    "tiers": [{ "tier": { "type": "context", "size": 200000 }, "input": 2, "output": 4 }], "unheard": 4 } },
                "gemini-z": { "limit": { "context": -5 }, "cost": { "input": 1 } } } }
        }),
    );
    let rows = draft.rows();
    let x = row(&rows, "gemini/gemini-x");
    assert_eq!((x.sheet.tiers[0].above, x.sheet.tiers[0].prices.output), (200_000, Some(15_000_000_000)));
    assert_eq!(
        (x.context, x.features.as_slice()),
        (Some(1_048_576), &["tools", "reasoning", "images", "documents"][..])
    );
    assert_eq!(x.lacks, ["sampling", "audio", "video"]);
    assert!(row(&rows, "gemini/gemini-y").lacks.is_empty(), "nothing is said of it");
    assert_eq!(row(&rows, "gemini/gemini-y").sheet.tiers[0].prices.input, Some(2_000_000_000));
    assert!(draft.told().contains("cost.unheard") && draft.told().contains("gemini-z: limit: "), "{}", draft.told());
}

#[test]
fn what_jumps_is_told_and_stops_the_import() {
    let of = |input: &str, more: &str| {
        Catalogue::parse(&format!(
            "[[price]]\nprovider = \"openai\"\nmodels = [\"m\"]\ninput = \"{input}\"\noutput = \"1\"\n{more}"
        ))
        .unwrap()
    };
    let none = Catalogue::default();
    let jumps = |a: &str, b: &str| !diff::between(&of(a, ""), &none, &of(b, "")).jumps.is_empty();
    assert!(jumps("1", "10.1") && jumps("10.1", "1") && jumps("1", "0") && jumps("0", "1"));
    assert!(!jumps("1", "10") && !jumps("10", "1") && !jumps("1", "1"));
    let other = "[[price]]\nprovider = \"openai\"\nmodels = [\"n\"]\ninput = \"1\"\n";
    let changes = diff::between(&of("1", other), &none, &of("2", ""));
    assert_eq!(
        (changes.gone.as_slice(), changes.changed.as_slice()),
        (&["openai/n".to_owned()][..], &["openai/m: input 1 → 2".to_owned()][..])
    );
    assert_eq!(diff::between(&none, &of("1", ""), &of("20", other)).new, 1);
    assert_eq!(diff::between(&none, &of("1", ""), &of("20", "")).jumps.len(), 1, "the built-in price counts too");
}

#[test]
fn an_import_writes_what_the_gateway_reads_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("gateway.toml"), "[catalogue]\nfile = \"prices/all.toml\"\n").unwrap();
    fs::create_dir(path("prices")).unwrap();
    fs::write(path("prices/all.toml"), "[[price]]\nprovider = \"openai\"\nmodels = [\"gpt-9\"]\ninput = \"0.1\"\n")
        .unwrap();
    fs::write(path("in.json"), litellm_sample().to_string()).unwrap();
    fs::write(path("broken.json"), "{\"gpt-9\": {").unwrap();
    let import = |file: &str, force: bool, dry_run: bool| {
        let import = Import {
            from: From::LiteLlm,
            file: path(file),
            out: None,
            source_version: "1.2".to_owned(),
            effective: Some("2026-11-26".to_owned()),
            force,
            dry_run,
        };
        run(&Args { command: Command::Import(import) }, &Place::File(path("gateway.toml")))
    };
    let written = || fs::read_to_string(path("prices/all.toml")).unwrap();
    let before = written();
    assert!(import("broken.json", true, false).unwrap_err().to_string().contains("not valid JSON"));
    assert_eq!(import("in.json", false, false).unwrap(), Exit::Failed, "twenty times the price");
    assert_eq!(import("in.json", true, true).unwrap(), Exit::Done);
    assert_eq!(written(), before, "nothing was written up to here");
    assert_eq!(import("in.json", true, false).unwrap(), Exit::Done);
    let read = Catalogue::parse(&written()).unwrap();
    assert_eq!(
        (read.source.as_str(), read.source_version.as_str(), read.effective.as_str()),
        ("litellm", "1.2", "2026-11-26")
    );
    assert_eq!((read.sha256.len(), price(row(&read.rows, "openai/gpt-9"), "input").as_deref()), (64, Some("2")));
    let loaded = crate::config::read(&Place::File(path("gateway.toml")), &|_| None, &crate::provider::catalog_names());
    assert_eq!(loaded.problems, [], "and the gateway takes it");
    assert_eq!(import("in.json", false, false).unwrap(), Exit::Done, "the same again changes nothing");
}
