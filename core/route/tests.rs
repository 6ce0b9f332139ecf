use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{table::Table, *};
use crate::{
    account::estimate::Estimates,
    auth::Principal,
    config::{self, Config, Secret},
    error::{Error, Kind, UpstreamFault},
    provider,
};

mod splits;

fn config(providers: Vec<config::Provider>, models: Vec<(&str, config::Alias)>) -> Config {
    Config {
        root: PathBuf::from("."),
        file: PathBuf::from("./gateway.toml"),
        hash: String::new(),
        version: String::new(),
        policy: String::new(),
        server: config::Server::default(),
        admin: config::Admin { listen: ([127, 0, 0, 1], 8081).into(), token: None },
        store: config::Store { kind: config::StoreKind::Memory, path: PathBuf::from("data") },
        overload: config::Overload::default(),
        concurrency: BTreeMap::new(),
        budget_lease: Duration::from_secs(60),
        auth: config::Auth { required: true },
        issuers: Vec::new(),
        providers,
        models: models.into_iter().map(|(n, a)| (n.to_owned(), a)).collect(),
        organisations: BTreeMap::new(),
        rules: crate::config::Rules::default(),
        quotas: Default::default(),
        alerts: None,
        teams: BTreeMap::new(),
        users: BTreeMap::new(),
        pricing: Vec::new(),
        catalogue: Default::default(),
        unknown_price: Default::default(),
        media: config::Media::default(),
        audit: Default::default(),
        secrets: Default::default(),
        responses: config::Responses::default(),
        cache: config::Cache::default(),
        records: config::Records::default(),
        rollout: None,
        stages: None,
        sources: config::Sources::default(),
    }
}

fn keyed(name: &str) -> config::Provider {
    config::Provider { name: name.to_owned(), keys: vec![Secret::new("k")], ..config::Provider::default() }
}

fn keyless(name: &str) -> config::Provider {
    let missing = Some(format!("environment variable {}_KEY is not set", name.to_uppercase()));
    config::Provider { name: name.to_owned(), missing, ..config::Provider::default() }
}

fn alias(strategy: Strategy, targets: &[(&str, u32)], failover: &[&str]) -> config::Alias {
    let target = |(name, weight): &(&str, u32)| {
        let (provider, model) = name.split_once('/').unwrap();
        config::Target {
            provider: provider.to_owned(),
            model: model.to_owned(),
            weight: *weight,
            concurrency: None,
            health: None,
            handling: config::Handling::default(),
        }
    };
    config::Alias {
        long_input: None,
        split: None,
        mirror: None,
        strategy,
        sticky: None,
        warm_up: Duration::from_secs(30),
        targets: targets.iter().map(target).collect(),
        failover: failover.iter().map(|s| (*s).to_owned()).collect(),
        timeouts: config::Timeouts::default(),
        retries: None,
        strict: false,
        care: config::Care::default(),
    }
}

fn table() -> Table {
    let providers = vec![keyed("openai"), keyed("anthropic"), keyless("groq"), keyless("mistral"), keyed("openrouter")];
    let first = Strategy::First;
    Table::build(&config(
        providers,
        vec![
            ("smart", alias(first, &[("openai/gpt-4.1", 1), ("anthropic/claude-sonnet-4-5", 1)], &["cheap"])),
            ("cheap", alias(first, &[("openai/gpt-4o", 1), ("groq/llama", 1)], &["smart"])),
            ("dark", alias(first, &[("groq/llama", 1), ("mistral/mistral-large", 1)], &[])),
            ("essay", alias(first, &[("groq/llama", 1), ("mock/essay", 1)], &[])),
        ],
    ))
    .unwrap()
}

fn names(plan: &Plan) -> Vec<String> {
    order(plan, 0, &Health::default(), Instant::now()).iter().map(|t| t.name.to_string()).collect()
}

/// Of a request about which nothing is known.
fn order(plan: &Plan, seed: u64, health: &Health, now: Instant) -> Order {
    let profile = Profile { seed, ..Profile::default() };
    ranked(plan, &profile, health, now).into_iter().map(|ranked| ranked.target).collect()
}

fn ranked(plan: &Plan, profile: &Profile, health: &Health, now: Instant) -> Vec<Ranked> {
    let estimates = Estimates::default();
    plan.clone().rank(&Live { health, estimates: &estimates, quotas: None }, profile, now)
}

fn caller(models: &[&str]) -> Principal {
    let list: Vec<String> = models.iter().map(|m| (*m).to_owned()).collect();
    Principal::default().with_models(list)
}

#[test]
fn names_resolve_to_targets() {
    let table = table();
    for (name, targets) in [
        ("openai/gpt-4o", vec!["openai/gpt-4o"]),
        ("gpt-4o-mini", vec!["openai/gpt-4o-mini"]),
        ("claude-opus-4-8", vec!["anthropic/claude-opus-4-8"]),
        ("openrouter/meta-llama/llama-4", vec!["openrouter/meta-llama/llama-4"]),
        ("mock", vec!["mock/mock"]),
        ("mock/anything at all", vec!["mock/anything at all"]),
        ("essay", vec!["mock/essay"]),
        // A failover alias lends its targets, not its own failover; nothing stands twice.
        ("smart", vec!["openai/gpt-4.1", "anthropic/claude-sonnet-4-5", "openai/gpt-4o"]),
        ("cheap", vec!["openai/gpt-4o", "openai/gpt-4.1", "anthropic/claude-sonnet-4-5"]),
    ] {
        assert_eq!(names(&table.resolve(name).unwrap()), targets, "{name}");
    }
    let plan = table.resolve("openrouter/meta-llama/llama-4").unwrap();
    assert_eq!(&*plan.groups[0].targets[0].model, "meta-llama/llama-4");
}

#[test]
fn unusable_names_say_what_to_do() {
    let table = table();
    for (name, status, code, word) in [
        ("groq/llama", 404, "provider_not_configured", "GROQ_KEY"),
        ("deepseek/deepseek-chat", 404, "provider_not_configured", "DEEPSEEK_API_KEY"),
        ("azure/mine", 404, "provider_not_configured", "resource"),
        ("deepseek-chat", 404, "provider_not_configured", "DEEPSEEK_API_KEY"),
        ("mistral-large", 404, "provider_not_configured", "MISTRAL_KEY"),
        ("smrt", 404, "model_not_found", "`smart`"),
        ("whatever", 404, "model_not_found", "`openai/<model>`"),
        ("nobody/model", 404, "model_not_found", "`openai/<model>`"),
        ("openai/", 400, "invalid_model", "empty"),
        ("", 400, "invalid_model", "empty"),
        ("a\nb", 400, "invalid_model", "control"),
        ("dark", 503, "no_healthy_target", "GROQ_KEY"),
    ] {
        let error = table.resolve(name).unwrap_err();
        assert_eq!((error.status(), error.code()), (status, code), "{name}: {error}");
        assert!(error.message.contains(word), "{name}: {error}");
    }
}

#[test]
fn a_bare_name_needs_exactly_one_claimant() {
    let house = |keys| config::Provider {
        name: "house".to_owned(),
        base_url: Some("http://127.0.0.1:9/v1".to_owned()),
        format: Some(crate::model::Format::OpenaiChat),
        auth: Some("bearer".to_owned()),
        keys,
        models: vec!["gpt-4o".to_owned(), "ours-".to_owned()],
        ..config::Provider::default()
    };
    let both = Table::build(&config(vec![keyed("openai"), house(vec![Secret::new("k")])], vec![])).unwrap();
    let error = both.resolve("gpt-4o").unwrap_err();
    assert!(error.message.contains("`openai/gpt-4o`") && error.message.contains("`house/gpt-4o`"), "{error}");
    assert_eq!(error.status(), 404);
    assert_eq!(names(&both.resolve("ours-1").unwrap()), ["house/ours-1"]);
    // A claimant without a key does not stand in the way.
    let one = Table::build(&config(vec![keyless("openai"), house(vec![Secret::new("k")])], vec![])).unwrap();
    assert_eq!(names(&one.resolve("gpt-4o").unwrap()), ["house/gpt-4o"]);
}

#[test]
fn every_mistake_of_the_file_is_told_at_once() {
    let llama = config::Provider { name: "llamacpp".to_owned(), ..config::Provider::default() };
    let odd = config::Provider { name: "odd".to_owned(), ..config::Provider::default() };
    let broken = alias(Strategy::First, &[("opnai/gpt", 1), ("groq/x", 1)], &["nothing-like-it"]);
    let problems = Table::build(&config(vec![keyed("openai"), llama, odd], vec![("a", broken)])).unwrap_err();
    let text: Vec<_> = problems.iter().map(|p| p.message.as_str()).collect();
    let has = |word: &str| assert!(text.iter().any(|t| t.contains(word)), "{word}: {text:#?}");
    has("gateway's own address");
    has("did you mean \"openai\"?");
    has("add [providers.groq]");
    has("models.a.failover");
    has("providers.odd");
    assert_eq!(text.len(), 5, "{text:#?}");
    assert!(problems.iter().all(|p| p.file == "gateway.toml"));
}

#[test]
fn callers_reach_only_what_their_lists_name() {
    let table = table();
    let may = |list: &[&str], name: &str| table.plan(name, &caller(list)).map(|p| names(&p)).map_err(|e| e.status());
    assert_eq!(may(&["smart"], "smart").unwrap().len(), 3, "what stands behind an alias is the alias's business");
    assert_eq!(may(&["smart"], "openai/gpt-4.1"), Err(403));
    assert_eq!(may(&["openai/*"], "gpt-4o"), Ok(vec!["openai/gpt-4o".to_owned()]), "a bare name is what it stands for");
    assert_eq!(may(&["gpt-4o"], "gpt-4o"), Ok(vec!["openai/gpt-4o".to_owned()]));
    assert_eq!(may(&["gpt-4o"], "gpt-4.1"), Err(403));
    assert_eq!(may(&["openai/*"], "smart"), Err(403));
    assert_eq!(may(&[], "mock"), Err(403));
    assert_eq!(may(&["smart"], "does-not-exist"), Err(403), "existence is not told");
    let both = caller(&["openai/*"]).with_models(vec!["gpt-4o".to_owned()]);
    assert!(table.permits("gpt-4o", &both));
    assert!(!table.permits("gpt-4.1", &both) && !table.permits("anthropic/claude-x", &both));
}

#[test]
fn what_a_stage_returns_passes_the_callers_list() {
    let table = table();
    let plan = table.resolve_list(&["anthropic/claude-x", "smart", "openai/gpt-4o"], &Principal::default()).unwrap();
    assert_eq!(names(&plan), ["anthropic/claude-x", "openai/gpt-4.1", "anthropic/claude-sonnet-4-5", "openai/gpt-4o"]);
    let error = table.resolve_list(&["smart", "openai/gpt-4o"], &caller(&["smart"])).unwrap_err();
    assert_eq!(error.status(), 403);
    // A name without a key is passed over while another stands; alone it says why.
    let plan = table.resolve_list(&["groq/llama", "mock"], &Principal::default()).unwrap();
    assert_eq!(names(&plan), ["mock/mock"]);
    assert_eq!(&*plan.passed[0].name, "groq/llama");
    assert_eq!(
        table.resolve_list(&["groq/llama"], &Principal::default()).unwrap_err().code(),
        "provider_not_configured"
    );
    assert_eq!(table.resolve_list::<&str>(&[], &Principal::default()).unwrap_err().status(), 503);
    assert_eq!(table.resolve_list(&["no-such"], &Principal::default()).unwrap_err().status(), 404);
}

#[test]
fn the_model_list_is_what_the_caller_can_use() {
    let table = table();
    let ids = |p: &Principal| table.models(p).into_iter().map(|c| c.id).collect::<Vec<_>>();
    let all = ids(&Principal::default());
    assert_eq!(
        all,
        [
            "anthropic/claude-sonnet-4-5",
            "cheap",
            "essay",
            "mock",
            "mock/essay",
            "openai/gpt-4.1",
            "openai/gpt-4o",
            "smart"
        ]
    );
    assert_eq!(ids(&caller(&["smart", "mock/*"])), ["mock", "mock/essay", "smart"]);
    let card = table.model("smart", &Principal::default()).unwrap();
    assert_eq!((card.owner.as_str(), card.context_window), ("portcullis", Some(1_047_576)));
    assert!(table.model("smart", &caller(&["mock"])).is_none());
}

#[test]
fn weights_are_respected_over_seeds() {
    let group = [("openai/a", 6), ("openai/b", 3), ("anthropic/c", 1), ("anthropic/never", 0)];
    let table = Table::build(&config(
        vec![keyed("openai"), keyed("anthropic")],
        vec![("w", alias(Strategy::Weighted, &group, &["mock"]))],
    ))
    .unwrap();
    let plan = table.resolve("w").unwrap();
    let (health, now) = (Health::default(), Instant::now());
    let mut firsts: HashMap<String, u32> = HashMap::new();
    for seed in 0..10_000 {
        let targets = order(&plan, seed, &health, now);
        let names: Vec<_> = targets.iter().map(|t| &*t.name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), 5, "each once");
        assert_eq!(names[4], "mock/mock", "failover stands last");
        assert!(targets[1..4].is_sorted_by_key(|t| std::cmp::Reverse(t.at_hand.weight)), "{names:?}");
        *firsts.entry(names[0].to_owned()).or_default() += 1;
        assert_eq!(targets[0].name, order(&plan, seed, &health, now)[0].name, "the same seed, the same choice");
    }
    for (name, expected) in [("openai/a", 6000), ("openai/b", 3000), ("anthropic/c", 1000)] {
        assert!(firsts[name].abs_diff(expected) < 300, "{firsts:?}");
    }
    assert!(!firsts.contains_key("anthropic/never"));
}

fn target(table: &Table, name: &str) -> Arc<Target> {
    table.resolve(name).unwrap().groups[0].targets[0].clone()
}

fn dead() -> Error {
    Error::new(Kind::Upstream, "dead")
}

fn eject(health: &Health, target: &Target, now: Instant) {
    for _ in 0..5 {
        health.enter(target, now).unwrap().failed(&dead(), now);
    }
}

#[test]
fn ejected_targets_are_chosen_last() {
    let group = [("openai/a", 99), ("openai/b", 1)];
    let table = Table::build(&config(vec![keyed("openai")], vec![("w", alias(Strategy::Weighted, &group, &["mock"]))]))
        .unwrap();
    let plan = table.resolve("w").unwrap();
    let (health, now) = (Health::default(), Instant::now());
    eject(&health, &plan.groups[0].targets[0], now);
    for seed in 0..500 {
        let order: Vec<_> = order(&plan, seed, &health, now).iter().map(|t| t.name.to_string()).collect();
        assert_eq!(order, ["openai/b", "mock/mock", "openai/a"]);
    }
}

#[test]
fn five_failures_in_a_row_eject_for_longer_each_time() {
    let (table, health, start) = (table(), Health::default(), Instant::now());
    let target = target(&table, "openai/gpt-4o");
    for _ in 0..4 {
        health.enter(&target, start).unwrap().failed(&dead(), start);
    }
    let mut flight = health.enter(&target, start).unwrap();
    flight.succeeded();
    drop(flight);
    eject(&health, &target, start);
    let mut now = start;
    for rest in [10, 20, 40, 80, 160, 300, 300] {
        assert!(!health.is_healthy(&target.name, now));
        assert_eq!(health.enter(&target, now).unwrap_err(), Duration::from_secs(rest));
        now += Duration::from_secs(rest);
        let mut probe = health.enter(&target, now).unwrap();
        assert_eq!(health.enter(&target, now).unwrap_err(), Duration::from_secs(1), "one probe at a time");
        probe.failed(&dead(), now);
    }
    now += Duration::from_secs(300);
    health.enter(&target, now).unwrap().succeeded();
    for _ in 0..4 {
        health.enter(&target, now).unwrap().failed(&dead(), now);
    }
    assert!(health.is_healthy(&target.name, now), "a success clears the slate");
}

#[test]
fn a_probe_that_learned_nothing_lets_the_next_one_go() {
    let (table, health, now) = (table(), Health::default(), Instant::now());
    let target = target(&table, "openai/gpt-4o");
    eject(&health, &target, now);
    let later = now + Duration::from_secs(11);
    drop(health.enter(&target, later).unwrap());
    assert!(health.enter(&target, later).is_ok());
}

#[test]
fn quotas_and_callers_faults_eject_nobody() {
    let (table, health, now) = (table(), Health::default(), Instant::now());
    let target = target(&table, "openai/gpt-4o");
    for kind in
        [Kind::UpstreamRateLimited, Kind::UpstreamAuth, Kind::UpstreamRefused, Kind::InvalidRequest, Kind::ClientGone]
    {
        for _ in 0..10 {
            health.enter(&target, now).unwrap().failed(&Error::new(kind, ""), now);
        }
        assert!(health.is_healthy(&target.name, now), "{kind:?}");
    }
}

#[test]
fn half_of_the_last_calls_failing_ejects_and_a_few_do_not() {
    let (table, health, now) = (table(), Health::default(), Instant::now());
    let target = target(&table, "openai/gpt-4o");
    let calls = |failing: usize, of: usize, rounds: usize| {
        for n in 0..rounds * of {
            let Ok(mut flight) = health.enter(&target, now) else { return n };
            if n % of < failing { flight.failed(&dead(), now) } else { flight.succeeded() }
        }
        rounds * of
    };
    assert_eq!(calls(2, 5, 100), 500, "two in five are borne");
    let more = calls(1, 2, 100);
    assert!((20..=70).contains(&more), "one in two is not: {more}");
    assert!(!health.is_healthy(&target.name, now));
}

#[test]
fn failures_far_apart_are_no_rate() {
    let (table, health, mut now) = (table(), Health::default(), Instant::now());
    let target = target(&table, "openai/gpt-4o");
    for _ in 0..200 {
        now += Duration::from_secs(61);
        health.enter(&target, now).unwrap().failed(&dead(), now);
        health.enter(&target, now).unwrap().succeeded();
    }
    assert!(health.is_healthy(&target.name, now));
}

#[test]
fn only_the_probe_decides_over_an_open_breaker() {
    let (table, health, now) = (table(), Health::default(), Instant::now());
    let target = target(&table, "openai/gpt-4o");
    let (mut early, mut other) = (health.enter(&target, now).unwrap(), health.enter(&target, now).unwrap());
    eject(&health, &target, now);
    early.succeeded();
    assert!(health.enter(&target, now).is_err(), "an answer to an earlier call says nothing new");
    let later = now + Duration::from_secs(11);
    let mut probe = health.enter(&target, later).unwrap();
    other.failed(&dead(), later);
    assert_eq!(health.enter(&target, later).unwrap_err(), Duration::from_secs(1), "the probe is still out");
    probe.failed(&Error::new(Kind::UpstreamRateLimited, ""), later);
    assert!(!probe.may_retry(), "nobody asks twice while it is unproven");
    drop(probe);
    health.enter(&target, later).unwrap().succeeded();
    assert!(health.enter(&target, later).unwrap().may_retry());
}

#[test]
fn retries_are_a_fifth_of_first_attempts_after_a_small_loan() {
    let (table, health, now) = (table(), Health::default(), Instant::now());
    let target = target(&table, "openai/gpt-4o");
    let mut retries = 0;
    for first in 1..=1000 {
        let mut flight = health.enter(&target, now).unwrap();
        flight.failed(&Error::new(Kind::UpstreamRateLimited, ""), now);
        while flight.may_retry() {
            retries += 1;
            flight.failed(&Error::new(Kind::UpstreamRateLimited, ""), now);
        }
        assert!(retries <= (first / 5).max(5), "{retries} after {first}");
    }
    assert_eq!(retries, 200);
    for _ in 0..1000 {
        health.enter(&target, now).unwrap().succeeded();
    }
    let flight = health.enter(&target, now).unwrap();
    assert_eq!((0..100).filter(|_| flight.may_retry()).count(), 10, "what can be saved up is bounded");
}

#[test]
fn waits_double_jitter_and_obey() {
    let ms = Duration::from_millis;
    for (tries, window) in [(0, 500), (1, 1000), (2, 2000), (40, 8000)] {
        assert_eq!(retry::wait(tries, None, 0.0), Some(Duration::ZERO));
        assert_eq!(retry::wait(tries, None, 0.5), Some(ms(window / 2)));
    }
    assert_eq!(retry::wait(0, Some(ms(2000)), 0.5), Some(ms(2250)), "never before the time that was asked for");
    assert_eq!(retry::wait(0, Some(ms(10_000)), 0.0), Some(ms(10_000)));
    assert_eq!(retry::wait(0, Some(ms(10_001)), 0.0), None);
}

#[test]
fn candidates_show_live_facts() {
    let (table, health, now) = (table(), Health::default(), Instant::now());
    let target = target(&table, "openai/gpt-4o");
    let before = health.candidate(&target, now);
    assert_eq!((before.healthy, before.latency, before.in_flight, before.quota_left), (true, None, 0, u64::MAX));
    assert_eq!(before.context_window, Some(128_000));
    assert!(before.capabilities.contains(&"images"));
    let mut flight = health.enter(&target, now).unwrap();
    flight.answered(Duration::from_millis(100));
    flight.answered(Duration::from_millis(200));
    let during = health.candidate(&target, now);
    assert_eq!((during.latency, during.in_flight), (Some(Duration::from_millis(120)), 1));
    drop(flight);
    assert_eq!(health.candidate(&target, now).in_flight, 0);
}

#[test]
fn made_up_names_do_not_fill_the_memory() {
    let (table, health, now) = (table(), Health::default(), Instant::now());
    let kept = target(&table, "openai/kept");
    eject(&health, &kept, now);
    for n in 0..10_000 {
        let target = target(&table, &format!("openai/m{n}"));
        drop(health.enter(&target, now));
    }
    assert!(health.len() <= 4096);
    assert!(!health.is_healthy("openai/kept", now), "what is ejected is remembered");
    let open: Vec<_> =
        health.not_closed(now).into_iter().map(|(name, fare)| (name.to_string(), fare.circuit)).collect();
    assert_eq!(open, [("openai/kept".to_owned(), Circuit::Open(Duration::from_secs(10)))]);
}

#[test]
fn the_most_telling_error_wins() {
    let error = |kind: Kind| Error::new(kind, format!("{kind:?}"));
    let limited = |secs| error(Kind::UpstreamRateLimited).retry_after(Duration::from_secs(secs));
    let told = |errors: Vec<Error>| most_telling(errors).kind;
    assert_eq!(told(vec![error(Kind::Upstream), limited(9), error(Kind::UpstreamRefused)]), Kind::UpstreamRefused);
    assert_eq!(told(vec![error(Kind::Upstream), error(Kind::UpstreamTimeout)]), Kind::UpstreamTimeout);
    assert_eq!(told(vec![error(Kind::UpstreamTimeout), limited(9)]), Kind::UpstreamRateLimited);
    assert_eq!(told(vec![error(Kind::Unsupported), error(Kind::Upstream)]), Kind::Upstream);
    assert_eq!(told(vec![error(Kind::Unsupported)]), Kind::Unsupported);
    assert_eq!(told(vec![]), Kind::NoTarget);
    let waits = most_telling(vec![error(Kind::UpstreamRateLimited), limited(9), limited(3)]).retry_after;
    assert_eq!(waits, Some(Duration::from_secs(3)));
}

#[test]
fn every_cause_has_its_row_and_the_readme_shows_them() {
    for (at, rule) in cause::RULES.iter().enumerate() {
        assert_eq!(rule.cause as usize, at, "{}", rule.name);
        assert_eq!(rule.cause.rule().name, rule.name);
        assert!(rule.again == cause::Again::Never || rule.next == Next::Targets, "{}: others go first", rule.name);
    }
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&cause::table()), "the chapter \"Errors\" of README.md must hold:\n{}", cause::table());
}

#[test]
fn every_kind_of_error_has_the_cause_that_it_had_consequences_of() {
    let fault = |status| UpstreamFault { status, ..UpstreamFault::default() };
    let of = |kind: Kind, code: &'static str, status: u16| {
        let error = Error::new(kind, "x").from_upstream(fault(status)).with_status(status);
        Cause::of(&if code.is_empty() { error } else { error.with_code(code) })
    };
    assert_eq!(of(Kind::UpstreamRateLimited, "", 429), Cause::RateLimit);
    assert_eq!(of(Kind::UpstreamRateLimited, "insufficient_quota", 429), Cause::Quota);
    assert_eq!(of(Kind::UpstreamAuth, "", 401), Cause::Auth);
    assert_eq!(of(Kind::UpstreamRefused, "context_length_exceeded", 400), Cause::Context);
    assert_eq!(of(Kind::UpstreamRefused, "content_filter", 400), Cause::Policy);
    assert_eq!(of(Kind::UpstreamRefused, "", 404), Cause::Missing);
    assert_eq!(of(Kind::UpstreamRefused, "", 422), Cause::Refused);
    assert_eq!(of(Kind::UpstreamOverloaded, "", 529), Cause::Overload);
    assert_eq!(of(Kind::Upstream, "upstream_disconnected", 500), Cause::BadAnswer, "it said so itself");
    let network = Error::new(Kind::Upstream, "x").with_code("upstream_disconnected");
    assert_eq!(Cause::of(&network), Cause::Network);
    let slow = Error::new(Kind::UpstreamTimeout, "x").with_code(cause::TOO_SLOW);
    assert_eq!(Cause::of(&slow), Cause::Slow);
    for kind in [Kind::ContentRefused, Kind::RateLimited, Kind::Internal, Kind::InvalidRequest, Kind::ClientGone] {
        assert!(!goes_on(&Error::new(kind, "x")), "{kind:?} is the gateway's own word");
    }
}

#[test]
fn what_an_alias_lends_for_a_cause_is_what_it_names_and_nothing_behind_it() {
    let mut short = alias(Strategy::First, &[("openai/short", 1)], &[]);
    short.care.context_failover = vec!["long".to_owned(), "anthropic/huge".to_owned(), "groq/none".to_owned()];
    let long = alias(Strategy::First, &[("openai/long", 1)], &["openai/behind"]);
    let providers = vec![keyed("openai"), keyed("anthropic"), keyless("groq")];
    let table = Table::build(&config(providers, vec![("short", short), ("long", long)])).unwrap();
    let target = table.resolve("short").unwrap().targets().next().unwrap().clone();
    let care = target.care.as_deref().unwrap();
    assert_eq!(names(&table.lent(&care.context_failover, &Principal::default())), ["openai/long", "anthropic/huge"]);
    assert!(table.resolve("long").unwrap().targets().all(|t| t.care.is_none()), "nothing of its own costs nothing");
}

#[test]
fn timeouts_fall_back_from_alias_to_provider_to_house() {
    let secs = Duration::from_secs;
    let mut openai = keyed("openai");
    openai.timeouts = config::Timeouts { connect: Some(secs(1)), idle: Some(secs(2)), ..config::Timeouts::default() };
    let mut fast = alias(Strategy::First, &[("openai/a", 1)], &["openai/b"]);
    fast.timeouts.idle = Some(secs(9));
    let table = Table::build(&config(vec![openai], vec![("fast", fast)])).unwrap();
    let plan = table.resolve("fast").unwrap();
    for target in plan.targets() {
        let t = target.timeouts;
        assert_eq!(
            (t.connect, t.first_event, t.idle, t.whole),
            (secs(1), secs(60), secs(9), secs(600)),
            "{}",
            target.name
        );
    }
    let plain = table.resolve("openai/b").unwrap();
    assert_eq!(plain.targets().next().unwrap().timeouts.idle, secs(2), "an alias's timeouts are its own");
}

#[test]
fn every_catalogue_row_can_be_a_target() {
    for name in provider::catalog_names() {
        let mut settings = keyed(name);
        if provider::row(name).unwrap().base_url.is_none_or(|url| url.contains('{')) || name == "llamacpp" {
            settings.base_url = Some("https://x.example/v1".to_owned());
        }
        let table = Table::build(&config(vec![settings], vec![])).unwrap();
        assert_eq!(names(&table.resolve(&format!("{name}/m/n")).unwrap()), [format!("{name}/m/n")]);
    }
}

mod strategies;

#[test]
fn copies_open_a_breaker_of_their_own_and_spare_a_target_that_is_ill_for_others() {
    let (health, now) = (Health::default(), Instant::now());
    let target = target(&table(), "openai/gpt-4o");
    for _ in 0..5 {
        health.enter_copy(&target, now).unwrap().failed(&dead(), now);
    }
    assert!(health.enter_copy(&target, now).is_err(), "copies are no longer sent there");
    assert!(health.is_healthy(&target.name, now));
    let fare = health.fare(&target.name, now);
    assert_eq!((fare.circuit, fare.latency), (Circuit::Closed, None), "nobody else hears of it");
    let mut live = health.enter(&target, now).expect("requests go there as before");
    assert_eq!(health.fare(&target.name, now).in_flight, 1);
    let open = health.not_closed(now);
    assert_eq!(open.len(), 1, "and it is shown");
    assert_eq!(&*open[0].0, format!("{} (copies)", target.name));
    // And the other way round.
    live.failed(&dead(), now);
    for _ in 0..4 {
        health.enter(&target, now).unwrap().failed(&dead(), now);
    }
    assert!(health.enter(&target, now).is_err());
    let later = now + Duration::from_secs(3600);
    assert!(health.enter_copy(&target, later).is_err(), "a copy is nobody's probe");
    assert!(health.enter(&target, later).is_ok());
}
