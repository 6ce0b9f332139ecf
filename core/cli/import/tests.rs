//! Whole configurations as people have them, and that what comes of them is one this gateway runs.

use std::fs;

use super::{Draft, From, draft::What, drafted};
use crate::config::{Config, Place, Strategy, read};

const LITELLM: &str = r#"
model_list:
  - model_name: smart
    litellm_params:
      model: openai/gpt-4.1
      api_key: os.environ/OPENAI_API_KEY
      rpm: 600
      max_parallel_requests: 40
      weight: 3
      timeout: 30
  - model_name: smart
    litellm_params: { model: anthropic/claude-sonnet-4-5, api_key: sk-ant-literal-secret-1, weight: 1, temperature: 0.2 }
    model_info: { mode: chat, input_cost_per_token: 0.0000025, output_cost_per_token: 1.25e-05, input_cost_per_token_above_200k_tokens: 5e-6, id: x }
  - model_name: cheap
    litellm_params: { model: gpt-4o-mini, api_key: os.environ/OPENAI_API_KEY_2, order: 2 }
  - model_name: cheap
    litellm_params: { model: azure/gpt-4o-mini, api_base: "https://corp.openai.azure.com/", api_key: os.environ/AZURE_KEY, api_version: "2024-10-21", order: 1 }
  - model_name: house
    litellm_params: { model: openai/llama-3, api_base: "http://10.0.0.5:8000", api_key: none }
  - model_name: "openai/*"
    litellm_params: { model: "openai/*", api_key: os.environ/OPENAI_API_KEY }
  - model_name: "*"
    litellm_params: { model: "openrouter/*", api_key: os.environ/OPENROUTER_API_KEY }
  - model_name: claude-aws
    litellm_params: { model: bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0, aws_region_name: eu-central-1, aws_access_key_id: os.environ/AK, aws_secret_access_key: literal-secret-2 }
  - model_name: gem
    litellm_params: { model: vertex_ai/gemini-2.5-pro, vertex_project: my-project, vertex_location: europe-west4 }
  - model_name: odd
    litellm_params: { model: fal_ai/flux, api_key: os.environ/FAL }
  - litellm_params: {}
router_settings:
  routing_strategy: latency-based-routing
  num_retries: 2
  timeout: 60
  fallbacks: [{ smart: [cheap, nowhere] }, { cheap: [smart] }, { ghost: [smart] }]
  model_group_alias: { gpt-4: smart, lost: nothing }
  redis_host: localhost
litellm_settings:
  drop_params: true
  cache: true
  cache_params: { type: redis, ttl: 600 }
  context_window_fallbacks: [{ cheap: [smart, nowhere] }, { ghost: [smart] }]
  content_policy_fallbacks: [{ house: [cheap] }]
  success_callback: [langfuse]
  whatever: { deep: [1, { er: true }] }
general_settings:
  master_key: sk-literal-secret-3
  database_url: postgresql://user:literal-secret-4@db/x
environment_variables:
  LANGFUSE_SECRET_KEY: literal-secret-5
"#;

const PORTKEY: &str = r#"{
  "strategy": { "mode": "fallback", "on_status_codes": [429, 503] },
  "retry": { "attempts": 2, "on_status_codes": [500] },
  "cache": { "mode": "semantic", "max_age": 60 },
  "request_timeout": 12500,
  "targets": [
    { "strategy": { "mode": "loadbalance" }, "targets": [
      { "provider": "openai", "api_key": "sk-literal-secret-1", "weight": 0.75, "override_params": { "model": "gpt-4.1", "temperature": 0.1 } },
      { "virtual_key": "anthropic-prod-a1", "weight": 0.25, "override_params": { "model": "claude-sonnet-4-5" } }
    ] },
    { "provider": "openai", "custom_host": "http://10.0.0.5:8000/v1", "override_params": { "model": "llama" } },
    { "override_params": { "model": "@mistral-ai/mistral-large-latest" }, "forward_headers": ["x-a"] },
    { "provider": "nobody", "api_key": "literal-secret-2" }
  ]
}"#;

/// The printed file as the gateway reads it, with no variable set.
fn checked(draft: &Draft) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    fs::write(&path, draft.toml()).unwrap();
    let loaded = read(&Place::File(path), &|_| None, &crate::provider::catalog_names());
    assert_eq!(loaded.problems, [], "{}", draft.toml());
    assert_eq!(crate::route::Table::build(&loaded.config).err(), None, "{}", draft.toml());
    loaded.config
}

fn found(draft: &Draft, what: What, field: &str) -> String {
    let of = |f: &&super::draft::Finding| f.what == what && f.field == field;
    let all = || draft.findings();
    draft.findings.iter().find(of).unwrap_or_else(|| panic!("{what:?} {field} is not in\n{}", all())).text.clone()
}

fn targets(config: &Config, name: &str) -> Vec<(String, u32)> {
    config.models[name].targets.iter().map(|t| (format!("{}/{}", t.provider, t.model), t.weight)).collect()
}

#[test]
fn a_litellm_config_becomes_one_that_runs() {
    let draft = drafted(From::LiteLlm, LITELLM, "").unwrap();
    let config = checked(&draft);
    // Weights count for nothing where latency decides.
    assert_eq!(targets(&config, "smart"), [("openai/gpt-4.1".into(), 1), ("anthropic/claude-sonnet-4-5".into(), 1)]);
    let smart = &config.models["smart"];
    // They named each other: one of them lists the other's targets.
    assert_eq!(smart.strategy, Strategy::LeastLatency);
    assert_eq!(smart.failover, ["azure/gpt-4o-mini", "openai-2/gpt-4o-mini"]);
    assert_eq!(config.models["cheap"].failover, ["openai-2/gpt-4o-mini", "smart"]);
    let care = |name: &str| &config.models[name].care;
    assert_eq!(
        (&*care("cheap").context_failover, &*care("house").content_failover),
        (&["smart".into()][..], &["cheap".into()][..])
    );
    assert_eq!((smart.timeouts.whole.map(|t| t.as_secs()), smart.retries), (Some(30), Some(2)));
    assert_eq!(config.models["house"].timeouts.whole.map(|t| t.as_secs()), Some(60));
    assert_eq!(targets(&config, "gpt-4"), targets(&config, "smart"), "an alias of a group");
    // The lower order first, the other behind it.
    assert_eq!(targets(&config, "cheap"), [("azure/gpt-4o-mini".into(), 1)]);
    let toml = draft.toml();
    for line in [
        "key = \"env:OPENAI_API_KEY_2\"",
        "resource = \"corp\"",
        "base_url = \"http://10.0.0.5:8000/v1\"",
        "region = \"eu-central-1\"",
        "aws = { access_key_id = \"env:AK\", secret_access_key = \"env:AWS_SECRET_ACCESS_KEY\" }",
        "project = \"my-project\"",
        "key = \"env:ANTHROPIC_API_KEY\"",
    ] {
        assert!(toml.contains(line), "{line} is not in\n{toml}");
    }
    let [price] = config.pricing.as_slice() else { panic!("{:?}", config.pricing) };
    assert_eq!((price.model.as_str(), price.sheet.prices.input), ("anthropic/claude-sonnet-4-5", Some(2_500_000_000)));
    assert_eq!(price.sheet.tiers[0].above, 200_000);
}

#[test]
fn every_litellm_field_is_told_and_no_secret_is() {
    let draft = drafted(From::LiteLlm, LITELLM, "").unwrap();
    for (what, field, says) in [
        (What::Carried, "model_list[0].litellm_params.weight", "weight"),
        (What::Carried, "model_list[0].litellm_params.api_key", "env:OPENAI_API_KEY"),
        (What::Dropped, "model_list[0].litellm_params.rpm", "teams.NAME.limits"),
        (What::Changed, "model_list[1].litellm_params.api_key", "ANTHROPIC_API_KEY"),
        (What::Dropped, "model_list[1].litellm_params.temperature", "teams.NAME.defaults"),
        (What::Carried, "model_list[1].model_info.input_cost_per_token_above_200k_tokens", "[[pricing]]"),
        (What::Changed, "model_list[4].litellm_params.api_key", "stand-in"),
        (What::Carried, "model_list[5].model_name", "openai/MODEL"),
        (What::Changed, "model_list[6].model_name", "openrouter/MODEL"),
        (What::Changed, "model_list[7].litellm_params.aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        (What::Dropped, "model_list[9].litellm_params.model", "no provider \"fal_ai\""),
        (What::Dropped, "model_list[10]", "no litellm_params.model"),
        (What::Carried, "router_settings.routing_strategy", "least_latency"),
        (What::Dropped, "router_settings.fallbacks.ghost", "no such model"),
        (What::Dropped, "fallback of smart", "there is no model \"nowhere\""),
        (What::Dropped, "router_settings.model_group_alias.lost", "no model of this file"),
        (What::Dropped, "router_settings.redis_host", "own store"),
        (What::Carried, "model_list[0].litellm_params.max_parallel_requests", "concurrency"),
        (What::Carried, "litellm_settings.context_window_fallbacks.cheap", "context_failover"),
        (What::Carried, "litellm_settings.content_policy_fallbacks.house", "content_failover"),
        (What::Dropped, "litellm_settings.context_window_fallbacks.ghost", "no such model"),
        (What::Dropped, "fallback of cheap", "there is no model \"nowhere\""),
        (What::Carried, "litellm_settings.drop_params", "dropped and named"),
        (What::Dropped, "litellm_settings.cache_params.ttl", "builtin/cache"),
        (What::Dropped, "litellm_settings.whatever.deep[1].er", "no such setting"),
        (What::Dropped, "general_settings.master_key", "virtual keys"),
        (What::Dropped, "environment_variables.LANGFUSE_SECRET_KEY", "environment"),
    ] {
        let text = found(&draft, what, field);
        assert!(text.contains(says), "{field}: {text}");
    }
    assert!(found(&draft, What::Changed, "fallback of smart").contains("cheap leads back here"));
    let all = format!("{}{}", draft.toml(), draft.findings());
    assert!(!all.contains("literal-secret") && !all.contains("postgresql"), "{all}");
}

#[test]
fn a_portkey_config_becomes_one_that_runs() {
    let draft = drafted(From::Portkey, PORTKEY, "main").unwrap();
    let config = checked(&draft);
    assert_eq!(targets(&config, "main"), [("openai/gpt-4.1".into(), 3), ("anthropic/claude-sonnet-4-5".into(), 1)]);
    let main = &config.models["main"];
    assert_eq!(main.failover, ["openai-2/llama", "mistral-ai/mistral-large-latest"]);
    assert_eq!((main.retries, main.timeouts.whole.map(|t| t.as_millis())), (Some(2), Some(12_500)));
    for (what, field, says) in [
        (What::Carried, "strategy.mode", "failover"),
        (What::Changed, "strategy.on_status_codes", "5xx"),
        (What::Carried, "targets[0].targets[0].weight", "weight"),
        (What::Changed, "targets[0].targets[0].api_key", "OPENAI_API_KEY"),
        (What::Changed, "targets[0].targets[1].virtual_key", "environment"),
        (What::Dropped, "targets[0].targets[0].override_params.temperature", "teams.NAME.defaults"),
        (What::Dropped, "targets[2].forward_headers", "no such setting"),
        (What::Dropped, "targets[3].provider", "no provider \"nobody\""),
        (What::Dropped, "cache.mode", "builtin/cache"),
        (What::Changed, "retry.on_status_codes", "429"),
    ] {
        let text = found(&draft, what, field);
        assert!(text.contains(says), "{field}: {text}");
    }
    assert!(!format!("{}{}", draft.toml(), draft.findings()).contains("literal-secret"));
    // A key that belongs to a vendor goes to no other host.
    let own = draft.toml();
    let own = own.split("[providers.openai-2]").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    assert!(own.contains("auth = \"none\"") && !own.contains("key"), "{own}");
}

#[test]
fn a_choice_by_conditions_is_left_to_a_script() {
    let text = r#"{ "strategy": { "mode": "conditional", "default": "base", "conditions": [{ "query": { "metadata.plan": "paid" }, "then": "best" }] },
        "targets": [{ "name": "best", "provider": "openai", "override_params": { "model": "gpt-4.1" } },
                    { "name": "base", "provider": "openai", "override_params": { "model": "gpt-4o-mini" } }] }"#;
    let draft = drafted(From::Portkey, text, "main").unwrap();
    let config = checked(&draft);
    assert_eq!(targets(&config, "main")[0].0, "openai/gpt-4o-mini");
    assert_eq!(targets(&config, "main-best")[0].0, "openai/gpt-4.1");
    assert!(found(&draft, What::Dropped, "strategy.conditions").contains("fn route"));
}

#[test]
fn what_is_no_configuration_is_told_without_its_text() {
    for (from, text) in [
        (From::LiteLlm, "model_list: [\n  api_key: sk-secret"),
        (From::LiteLlm, "just text sk-secret"),
        (From::LiteLlm, ""),
        (From::LiteLlm, "model_list: []\ngeneral_settings: { master_key: sk-secret }"),
        (From::Portkey, "{ \"api_key\": \"sk-secret\", "),
        (From::Portkey, "[]"),
        (From::Portkey, "{ \"targets\": [{ \"api_key\": \"sk-secret\" }] }"),
    ] {
        let error = drafted(from, text, "main").map(|_| ()).expect_err(text);
        assert!(!error.contains("sk-secret"), "{error}");
    }
    // A bomb of anchors ends in an error, not in memory.
    let bomb = format!(
        "a: &a [x, x]\n{}",
        ('b'..='z')
            .map(|c| {
                let before = (c as u8 - 1) as char;
                format!("{c}: &{c} [*{before}, *{before}, *{before}, *{before}, *{before}]\n")
            })
            .collect::<String>()
    );
    assert!(drafted(From::LiteLlm, &bomb, "").is_err());
}
