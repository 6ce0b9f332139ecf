use std::{collections::BTreeMap, fs, time::Duration};

use super::*;
use crate::config::read::BUILT_IN;

const ROWS: [&str; 8] = ["openai", "anthropic", "gemini", "groq", "mistral", "ollama", "azure", "mock"];

/// A folder with a gateway.toml, other files, and an environment.
struct Case {
    root: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

impl Case {
    fn new(toml: &str) -> Self {
        let case = Case { root: tempfile::tempdir().unwrap(), env: BTreeMap::new() };
        case.with("gateway.toml", toml)
    }

    fn with(self, name: &str, text: &str) -> Self {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn read(&self) -> Loaded {
        let place = Place::File(self.root.path().join("gateway.toml"));
        read(&place, &|name| self.env.get(name).cloned(), &ROWS)
    }

    fn config(&self) -> Config {
        let loaded = self.read();
        assert_eq!(loaded.problems, [], "no problems");
        loaded.config
    }

    /// `line: message`, in order.
    fn problems(&self) -> Vec<String> {
        self.read().problems.iter().map(|p| format!("{}:{}: {}", p.file, p.line, p.message)).collect()
    }
}

/// The only problem of a file.
fn problem(toml: &str) -> String {
    let problems = Case::new(toml).problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

#[test]
fn the_shipped_file_is_sound_with_no_key_at_all() {
    let rows: Vec<&str> = BUILT_IN
        .lines()
        .filter_map(|l| l.split_once(" = { key").map(|(name, _)| name.trim()))
        .filter(|name| !name.starts_with('#'))
        .collect();
    let case = Case::new(BUILT_IN);
    let loaded = read(&Place::File(case.root.path().join("gateway.toml")), &|_| None, &rows);
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    for alias in ["auto", "essay", "research", "code", "reasoning"] {
        let last = loaded.config.models[alias].targets.last().unwrap();
        assert_eq!((last.provider.as_str(), last.model.as_str()), ("mock", alias));
    }
    let openai = loaded.config.providers.iter().find(|p| p.name == "openai").unwrap();
    assert_eq!(openai.missing.as_deref(), Some("environment variable OPENAI_API_KEY is not set"));
    assert!(BUILT_IN.lines().count() < 120);
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = Case::new("").config();
    assert_eq!(config.server, Server::default());
    assert_eq!(config.admin.listen, "127.0.0.1:8081".parse().unwrap());
    assert!(config.auth.required);
    assert_eq!(config.store.kind, StoreKind::Sled);
    assert!(config.store.path.ends_with("data") && config.store.path.is_absolute());
    assert_eq!(config.providers.len(), 1, "mock is always there");
    assert!(config.stages.is_none());
}

#[test]
fn every_server_key_arrives() {
    let config = Case::new(
        "[server]\nlisten = \"localhost:0\"\nmax_body = \"1MiB\"\ndrain = \"1m30s\"\ndrain_delay = \"0s\"\nwrite_stall = \"2s\"\n\
         body_memory = 5000\nheader_timeout = \"3s\"\nidle = \"4s\"\nmin_body_rate = \"2KB\"\nmax_connections = 7\nmax_event = \"64KiB\"\nkeep_alive = \"5s\"\nmax_upload = \"2MiB\"\nbatch_look = \"9s\"\n",
    )
    .config();
    let expected = Server {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        max_body: 1 << 20,
        max_upload: 2 << 20,
        batch_look: Duration::from_secs(9),
        drain: Duration::from_secs(90),
        drain_delay: Duration::ZERO,
        write_stall: Duration::from_secs(2),
        body_memory: 5000,
        header_timeout: Duration::from_secs(3),
        idle: Duration::from_secs(4),
        min_body_rate: 2000,
        max_connections: 7,
        max_event: 65536,
        keep_alive: Duration::from_secs(5),
    };
    assert_eq!(config.server, expected);
}

#[test]
fn a_table_that_is_wanted_is_shown_as_it_is_written() {
    let case = Case::new("[models.smart]\ntargets = [\"mock/a\"]\n");
    let told = "gateway.toml:2: `models.smart.targets[0]` must be a table such as { provider = \"openai\", model = \"gpt-4.1\" }, not a text";
    assert!(case.problems()[0].starts_with(told), "{:?}", case.problems());
}

#[test]
fn every_mistake_is_found_in_one_run() {
    let case = Case::new(
        "[server]\nlisten = \"nowhere\"\nmax_bdy = \"1MiB\"\ndrain = 300\nidle = \"soon\"\n\
         [providers.opnai]\nkey = \"env:X\"\n\
         [models.smart]\nstrategy = \"wieghted\"\ntargets = [{ provider = \"nobody\", model = \"m\" }, { provider = \"mock\" }]\n\
         failover = [\"cheep\"]\n[cache]\nsemantic = 1\n[[stages]]\nuse = \"scripts/none.rhai\"\n",
    );
    let problems = case.problems();
    let expected = [
        "gateway.toml:2: `server.listen`: expected an address",
        "gateway.toml:3: unknown key `server.max_bdy`; did you mean `max_body`?",
        "gateway.toml:4: `server.drain` must be a text in quotes such as \"500ms\", not a whole number",
        "gateway.toml:5: `server.idle`: expected a duration",
        "gateway.toml:6: `opnai` is no provider of the catalogue; did you mean `openai`?",
        "gateway.toml:9: `models.smart.strategy` must be one of \"first\", \"weighted\", \"least_latency\", \"least_busy\", \"least_cost\", \"quota\"; did you mean `weighted`?",
        "gateway.toml:10: `models.smart.targets[1]` lacks `model`",
        "gateway.toml:10: `models.smart.targets[0].provider`: there is no provider \"nobody\"",
        "gateway.toml:11: `models.smart.failover[0]`: there is no model \"cheep\"",
        "gateway.toml:13: `cache.semantic` is not built in this version",
        "gateway.toml:15: there is no file \"scripts/none.rhai\"",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(expected) {
        assert!(problem.starts_with(start), "{problem}\n{start}");
    }
}

#[test]
fn an_excerpt_shows_the_line_with_a_caret_under_the_fault() {
    let loaded = Case::new("[server]\nmax_bdy = \"1MiB\"\n").read();
    let expected = "  |\n2 | max_bdy = \"1MiB\"\n  | ^^^^^^^";
    assert_eq!(loaded.problems[0].excerpt.as_deref(), Some(expected));
}

#[test]
fn all_syntax_errors_are_told_with_their_lines() {
    let problems = Case::new("[server\nlisten = 1.2.3\n\n[auth]\nrequired = yes\n").problems();
    assert!(problems.iter().any(|p| p.starts_with("gateway.toml:1:")), "{problems:#?}");
    assert!(problems.iter().any(|p| p.starts_with("gateway.toml:5:")), "{problems:#?}");
    assert!(problem("[auth]\nrequired = true\nrequired = false\n").contains("duplicate key"));
}

#[test]
fn a_literal_secret_is_refused_and_never_shown() {
    let secret = "hunter2-very-secret";
    for toml in [
        format!("[providers.openai]\nkey = \"{secret}\"\n"),
        format!("[providers.openai]\nkeys = [\n \"env:A\",\n \"{secret}\"]\n"),
        format!("[providers.openai]\napi_key = \"{secret}\"\n"),
        format!("[providers.openai]\nkey = {secret}\n"),
        format!("[providers.openai]\nkey = \"{secret}\n"),
        format!("[providers.openai]\nkeys = [\n \"{secret}\"\n \"env:B\"]\n"),
        format!("[admin]\ntoken = \"{secret}\"\n"),
        format!("[providers.openai]\nbase_url = \"https://me:{secret}@host/v1\"\n"),
        format!("[providers.openai]\nheaders = {{ authorization = \"Bearer {secret}\" }}\n"),
        format!("[provider.openai]\nkee = \"{secret}\"\n"),
        format!("[providers]\nopenai = {{ kee = \"{secret}\", key = \"{secret}\" }}\n"),
    ] {
        let loaded = Case::new(&toml).read();
        assert!(!loaded.problems.is_empty(), "{toml}");
        let shown = format!("{:?} {:?}", loaded.problems, loaded.warnings);
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(problem("[providers.openai]\nkey = \"sk-1\"\n").contains("\"env:OPENAI_API_KEY\" reads a variable"));
}

#[test]
fn secrets_come_from_variables_and_files() {
    let case =
        Case::new("[providers.openai]\nkey = [\"env:A\", \"file:secrets/b\", \"env:C\"]\n[admin]\ntoken = \"env:T\"\n")
            .with("secrets/b", "from-file\n")
            .env("A", "from-env")
            .env("T", "token");
    let loaded = case.read();
    assert_eq!(loaded.problems, []);
    let keys: Vec<&str> = loaded.config.providers[0].keys.iter().map(Secret::expose).collect();
    assert_eq!(keys, ["from-env", "from-file"]);
    assert_eq!(loaded.config.providers[0].missing, None);
    assert_eq!(loaded.config.admin.token.as_ref().map(Secret::expose), Some("token"));
    assert!(loaded.warnings[0].contains("environment variable C is not set"), "{:?}", loaded.warnings);
    assert!(loaded.config.watched().files.iter().any(|f| f.ends_with("secrets/b")));
}

#[test]
fn secrets_that_cannot_be_had_are_told() {
    assert!(problem("[providers.openai]\nkey = \"file:none\"\n").contains("there is no file \"none\""));
    assert!(problem("[providers.openai]\nkey = \"vault:a#b\"\n").contains("a path and a field"));
    assert!(problem("[providers.openai]\nkey = \"env:\"\n").contains("wants the name of a variable"));
    assert!(problem("[providers.openai]\nkey = []\n").contains("is an empty list"));
    assert!(problem("[admin]\ntoken = \"env:NO\"\n").contains("environment variable NO is not set"));
    let broken = Case::new("[providers.openai]\nkey = \"env:A\"\n").env("A", "a\nb");
    assert!(broken.problems()[0].contains("holds characters that no key has"));
}

#[test]
fn doors_stand_open_on_loopback_only() {
    assert!(problem("[admin]\nlisten = \"0.0.0.0:9000\"\n").contains("reachable from other machines"));
    assert!(problem("[server]\nlisten = \"0.0.0.0:80\"\n[auth]\nrequired = false\n").contains("opens the gateway"));
    Case::new("[server]\nlisten = \"[::1]:80\"\n[auth]\nrequired = false\n").config();
    Case::new("[admin]\nlisten = \"0.0.0.0:9000\"\ntoken = \"env:T\"\n").env("T", "t").config();
}

#[test]
fn two_listeners_never_want_one_port() {
    assert!(problem("[admin]\nlisten = \"127.0.0.1:8080\"\n").contains("both 127.0.0.1:8080"));
    assert!(problem("[server]\nlisten = \"127.0.0.1:8081\"\n").starts_with("gateway.toml:2:"));
    let wide = Case::new("[server]\nlisten = \"0.0.0.0:8081\"\n");
    assert_eq!(wide.problems().len(), 1);
    Case::new("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n").config();
}

#[test]
fn a_server_of_ones_own_says_where_and_how() {
    let house = |rest: &str| format!("[providers.house]\n{rest}");
    assert!(problem(&house("base_url = \"http://h/v1\"\n")).contains("needs `format`"));
    assert!(problem(&house("base_url = \"h:80\"\nformat = \"gemini\"\n")).contains("http:// or https://"));
    assert!(problem(&house("base_url = \"http://h/v1?x\"\nformat = \"gemini\"\n")).contains("leave out `?…`"));
    assert!(problem(&house("row = \"opena\"\n")).contains("did you mean `openai`"));
    let config = Case::new(&house(
        "base_url = \"http://127.0.0.1:8000/v1/\"\nformat = \"openai_chat\"\nauth = \"none\"\nmodels = [\"llama\"]\n\
         private = true\nhttp2 = false\nheaders = { x-team = \"a\" }\ntimeouts = { connect = \"1s\" }\n",
    ))
    .config();
    let provider = &config.providers[0];
    assert_eq!(provider.base_url.as_deref(), Some("http://127.0.0.1:8000/v1"));
    assert_eq!(provider.format, Some(Format::OpenaiChat));
    assert_eq!(provider.auth.as_deref(), Some("none"));
    assert_eq!(provider.timeouts.connect, Some(Duration::from_secs(1)));
    assert_eq!((provider.private, provider.http2), (true, Some(false)));
}

#[test]
fn aliases_lead_somewhere_and_never_in_a_circle() {
    let model = |name: &str, next: &str| {
        format!("[models.{name}]\ntargets = [{{ provider = \"mock\", model = \"m\" }}]\nfailover = [{next}]\n")
    };
    let ring = [model("b", "\"c\""), model("a", "\"b\""), model("c", "\"mock/x\", \"a\"")].concat();
    assert_eq!(problem(&ring), "gateway.toml:6: `models.a.failover` leads in a circle: a → b → c → a");
    assert!(problem(&model("a", "\"a\"")).contains("a → a"));
    assert!(problem("[models.a]\ntargets = []\n").contains("needs at least one target"));
    assert!(problem("[models.a]\n").contains("needs at least one target"));
    assert!(problem(&model("a", "\"openai/gpt-4o\"")).contains("add [providers.openai] with its key"));
    assert!(
        problem("[models.\"mock/x\"]\ntargets = [{ provider = \"mock\", model = \"m\" }]\n").contains("would hide")
    );
    let zero = "[models.a]\nstrategy = \"weighted\"\ntargets = [{ provider = \"mock\", model = \"m\", weight = 0 }]\n";
    assert!(problem(zero).contains("every weight is 0"));
    let minus = "[models.a]\ntargets = [{ provider = \"mock\", model = \"m\", weight = -1 }]\n";
    assert!(problem(minus).contains("must be between 0 and 1000000"));
    assert!(
        problem("[models.a]\nstrategy = \"quickest\"\ntargets = [{ provider = \"mock\", model = \"m\" }]\n")
            .contains("must be one of \"first\", \"weighted\", \"least_latency\", \"least_busy\"")
    );
}

#[test]
fn teams_name_models_that_exist_and_start_from_parameters() {
    let config = Case::new(
        "[providers.openai]\n[models.smart]\ntargets = [{ provider = \"openai\", model = \"gpt-4.1\" }]\n\
         [teams.research]\nmodels = [\"smart\", \"openai/*\", \"*\", \"mock/x\"]\n\
         defaults = { temperature = 0.2, max_tokens = 100, stop = [\"END\"] }\n",
    )
    .config();
    let team = &config.teams["research"];
    assert_eq!(
        serde_json::to_string(&team.defaults).unwrap(),
        r#"{"temperature":0.2,"max_tokens":100,"stop":["END"]}"#
    );
    assert!(problem("[teams.a]\nmodels = [\"smrt\"]\n").contains("there is no model \"smrt\""));
    assert!(problem("[teams.a]\nmodels = [\"nobody/*\"]\n").contains("there is no provider \"nobody\""));
    assert!(problem("[teams.a]\ndefaults = { temprature = 1 }\n").contains("did you mean `temperature`"));
    assert!(problem("[teams.a]\ndefaults = { temperature = 3.0 }\n").contains("between 0 and 2"));
}

#[test]
fn limits_and_budgets_of_teams_are_counted_to_the_digit() {
    let config = Case::new(
        "[teams.a]\nlimits = { requests_per_minute = 600, tokens_per_minute = 200000, concurrent = 50 }\n\
         budget = { usd = 0.1, per = \"week\" }\n[teams.b]\nlimits = {}\n\
         budget = { usd = \"50\", per = \"total\", unpriced_usd = 0 }\n[store]\nbudget_lease = \"2s\"\n",
    )
    .config();
    let (a, b) = (&config.teams["a"], &config.teams["b"]);
    let limits = Limits {
        requests_per_minute: Some(600),
        tokens_per_minute: Some(200_000),
        concurrent: Some(50),
        ..Limits::default()
    };
    assert_eq!((a.limits, b.limits), (Some(limits), None));
    let budget = |nano_usd, per, unpriced_nano_usd| [Budget { nano_usd, per, unpriced_nano_usd, soft: None }];
    assert_eq!(*a.budgets, budget(100_000_000, Per::Week, 100_000_000));
    assert_eq!(*b.budgets, budget(50_000_000_000, Per::Total, 0));
    assert_eq!(config.budget_lease, Duration::from_secs(2));
}

#[test]
fn every_scope_states_limits_and_budgets_alike() {
    let config = Case::new(
        "[providers.p]\nbase_url = \"http://127.0.0.1:9/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n\
         limits = { concurrent = 2 }\n\
         [models.smart]\ntargets = [{ provider = \"p\", model = \"m\" }]\n\
         limits = { input_tokens_per_minute = 10, output_tokens_per_minute = 20, requests_per_day = 30, tokens_per_day = 40, shadow = true }\n\
         [tags.\"env=prod\"]\nbudget = [{ usd = 1, per = \"day\", soft = 0.8 }, { usd = 5, per = \"month\" }]\n\
         [teams.a]\nbudget_fallback = [\"smart\", \"mock\"]\n\
         [alerts]\nwebhook = \"https://hooks.internal/budgets\"\n",
    )
    .config();
    let model = &config.rules.models["smart"];
    let limits = Limits {
        input_tokens_per_minute: Some(10),
        output_tokens_per_minute: Some(20),
        requests_per_day: Some(30),
        tokens_per_day: Some(40),
        shadow: true,
        ..Limits::default()
    };
    assert_eq!((&model.scope, model.limits), (&Scope::Model("smart".into()), Some(limits)));
    assert_eq!(config.rules.providers["p"].limits, Some(Limits { concurrent: Some(2), ..Limits::default() }));
    let tag = &config.rules.tags["env=prod"];
    let figures: Vec<_> = tag.budgets.iter().map(|b| (b.nano_usd, b.per, b.soft)).collect();
    assert_eq!(figures, [(1_000_000_000, Per::Day, Some(800_000)), (5_000_000_000, Per::Month, None)]);
    assert_eq!(*config.teams["a"].fallback, ["smart", "mock"]);
    assert_eq!(config.alerts.unwrap().webhook.expose(), "https://hooks.internal/budgets");
    let pairs = [("env".to_owned(), "prod".to_owned()), ("env".to_owned(), "test".to_owned())];
    assert_eq!(config.rules.tagged(&pairs).map(|rule| &*rule.name).collect::<Vec<_>>(), ["env=prod"]);
}

#[test]
fn absurd_limits_budgets_and_tags_are_told() {
    let team = |line: &str| problem(&format!("[teams.a]\n{line}\n"));
    let twice = team("budget = [{ usd = 1, per = \"day\" }, { usd = 2, per = \"day\" }]");
    assert!(twice.contains("two budgets with per = \"day\""), "{twice}");
    let much = team("budget = { usd = 10000000, per = \"day\" }");
    assert!(much.contains("`teams.a.budget.usd` may be 9000000 dollars at most"), "{much}");
    let negative = team("budget = { usd = -1, per = \"day\" }");
    assert!(negative.contains("usd"), "{negative}");
    let soft = team("budget = { usd = 1, per = \"day\", soft = 80 }");
    assert!(soft.contains("between 0.01 and 1"), "{soft}");
    let nowhere = team("budget_fallback = [\"cheep\"]");
    assert!(nowhere.contains("`teams.a.budget_fallback[0]`: there is no model \"cheep\""), "{nowhere}");
    let tokens = team("limits = { tokens_per_minute = 200000000000 }");
    assert!(tokens.contains("between 1 and 100000000000"), "{tokens}");
    let tag = problem("[tags.prod]\nlimits = { concurrent = 1 }\n");
    assert!(tag.contains("must be a tag as requests carry it"), "{tag}");
    let hook = problem("[alerts]\nwebhook = \"ftp://here\"\n");
    assert!(hook.contains("`alerts.webhook`"), "{hook}");
}

#[test]
fn limits_and_budgets_that_mean_nothing_are_told() {
    let team = |line: &str| problem(&format!("[teams.a]\n{line}\n"));
    assert!(
        team("limits = { requests_per_minute = 0 }").contains("between 1"),
        "{}",
        team("limits = { requests_per_minute = 0 }")
    );
    let slip = team("limits = { requests = 9 }");
    assert!(slip.contains("did you mean `requests_per_"), "{slip}");
    assert!(team("budget = { usd = 5 }").contains("per"), "{}", team("budget = { usd = 5 }"));
    assert!(
        team("budget = { usd = 5, per = \"year\" }").contains("month"),
        "{}",
        team("budget = { usd = 5, per = \"year\" }")
    );
    assert!(team("budget = { usd = \"five\", per = \"day\" }").contains("`teams.a.budget.usd`: expected US dollars"));
}

#[test]
fn stages_arrive_in_their_order_with_all_they_carry() {
    let case = Case::new(
        "[[stages]]\nuse = \"scripts/b.rhai\"\nlimits = { operations = 5000, wall = \"10ms\" }\nconfig = { list = [1, 0.5], deep = { on = true } }\n\
         [[stages]]\nuse = \"scripts/ready/a.rhai\"\non_error = \"skip\"\nstream = \"window\"\nonly = { teams = [\"hr\"], models = [\"*\"] }\n",
    )
    .with("scripts/b.rhai", "fn log(record, context) {}")
    .with("scripts/ready/a.rhai", "");
    let loaded = case.read();
    assert_eq!(loaded.problems, []);
    let stages = loaded.config.stages.unwrap();
    assert_eq!((stages[0].uses.as_str(), stages[0].line), ("scripts/b.rhai", 2));
    let limits = StageLimits { operations: 5000, wall: Duration::from_millis(10), ..StageLimits::default() };
    assert_eq!(stages[0].limits, limits);
    assert_eq!(serde_json::to_string(&stages[0].config).unwrap(), r#"{"deep":{"on":true},"list":[1,0.5]}"#);
    assert_eq!((stages[1].on_error, stages[1].stream), (OnError::Skip, Some(StreamMode::Window)));
    assert_eq!(stages[1].only.as_ref().unwrap().teams.as_deref(), Some(["hr".to_owned()].as_slice()));
    assert!(loaded.warnings[0].contains("team \"hr\" is not in this file"));
    assert_eq!(&*loaded.config.sources.scripts["scripts/b.rhai"], "fn log(record, context) {}");
    assert_eq!(loaded.config.sources.live(), ["scripts/b.rhai"]);
}

#[test]
fn stages_stay_inside_their_folder() {
    for uses in ["../x.rhai", "scripts/../x.rhai", "/etc/x.rhai", "scripts//x.rhai", "x.rhai", "scripts/x.lua"] {
        assert!(problem(&format!("[[stages]]\nuse = \"{uses}\"\n")).contains("is no stage"), "{uses}");
    }
    assert!(problem("[[stages]]\nuse = \"plugins/a.wasm\"\n").contains("there is no file"));
    assert!(problem("[[stages]]\non_error = \"skip\"\n").contains("`stages[0]` lacks `use`"));
    let near = Case::new("[[stages]]\nuse = \"scripts/rute.rhai\"\n").with("scripts/route.rhai", "");
    assert!(near.problems()[0].contains("did you mean `scripts/route.rhai`"));
}

#[test]
fn unreadable_files_are_problems_of_their_own() {
    let case = Case::new("");
    fs::create_dir(case.root.path().join("scripts")).unwrap();
    fs::write(case.root.path().join("scripts/bad.rhai"), b"ok\n\xff").unwrap();
    assert_eq!(case.problems(), ["scripts/bad.rhai:1: is not UTF-8 text (first wrong byte in line 2)"]);
    fs::remove_file(case.root.path().join("gateway.toml")).unwrap();
    assert!(case.problems()[0].starts_with("gateway.toml:1: there is no such file"));
}

#[test]
fn the_hash_names_every_byte_that_counts() {
    let case = Case::new("# a\n[providers.openai]\nkey = \"file:k\"\n").with("k", "1").with("scripts/a.rhai", "1");
    let first = case.config().hash;
    assert_eq!(first.len(), 16);
    assert_eq!(first, case.config().hash);
    let mut seen = vec![first];
    let case = case.with("scripts/a.rhai", "2");
    seen.push(case.config().hash);
    let case = case.with("k", "2");
    seen.push(case.config().hash);
    let case = case.with("gateway.toml", "# b\n[providers.openai]\nkey = \"file:k\"\n");
    seen.push(case.config().hash);
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

/// A version that has the old value must not bear the new one's hash: nobody would take the new one up.
#[test]
fn what_changes_while_it_is_read_is_a_change_afterwards() {
    let case = Case::new("[providers.openai]\nkey = \"file:k\"\n[providers.openrouter]\nbase_url = \"https://x.test/v1\"\nformat = \"openai_chat\"\nkey = \"env:LATER\"\n")
        .with("k", "old")
        .env("LATER", "x");
    let place = Place::File(case.root.path().join("gateway.toml"));
    let changes = |name: &str| {
        fs::write(case.root.path().join("k"), "new").unwrap();
        case.env.get(name).cloned()
    };
    let during = read(&place, &changes, &ROWS);
    assert_eq!(during.problems, []);
    assert_eq!(fs::read_to_string(case.root.path().join("k")).unwrap(), "new", "changed while it was read");
    assert_ne!(during.config.hash, case.config().hash);
}

#[test]
fn the_built_in_configuration_says_that_it_is_used() {
    let root = tempfile::tempdir().unwrap();
    let rows = ["openai", "anthropic", "gemini"];
    let loaded = read(&Place::BuiltIn(root.path().to_owned()), &|_| None, &rows);
    assert!(loaded.warnings[0].contains("the built-in configuration is used"), "{:?}", loaded.warnings);
    assert!(loaded.config.models.contains_key("auto"));
}

#[test]
fn durations_and_sizes_are_read_as_people_write_them() {
    assert_eq!(text::duration("1h30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(text::duration("7d"), Ok(Duration::from_secs(604_800)));
    for wrong in ["", "5", "s", "1.5s", "-1s", "1s ", "5 s", "9999999999999999999d", "99999d", "1y"] {
        assert!(text::duration(wrong).is_err() || wrong == "1s ", "{wrong}");
    }
    assert_eq!(text::size("64KB"), Ok(64_000));
    assert_eq!(text::size("32mib"), Ok(32 << 20));
    assert_eq!(text::size("12"), Ok(12));
    for wrong in ["", "MiB", "1.5MiB", "-1", "1XB", "99999999999TiB"] {
        assert!(text::size(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn proxies_come_from_the_usual_variables() {
    let vars: BTreeMap<&str, &str> =
        [("HTTP_PROXY", "http://evil"), ("HTTPS_PROXY", "http://p:1"), ("no_proxy", "localhost")].into();
    let proxies = env::proxies(&|name| vars.get(name).map(|v| (*v).to_owned()));
    let expected =
        env::Proxies { http: None, https: Some("http://p:1".into()), all: None, no: Some("localhost".into()) };
    assert_eq!(proxies, expected);
}

#[test]
fn the_schema_describes_every_key() {
    let schema = read::schema();
    let mut bare = Vec::new();
    for (name, shape) in schema["$defs"].as_object().unwrap() {
        for (key, value) in shape["properties"].as_object().into_iter().flatten() {
            let known = ["temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "stop"];
            let plain = known.contains(&key.as_str()) || name == "Only" || key == "timeouts";
            if value["description"].is_null() && !plain {
                bare.push(format!("{name}.{key}"));
            }
        }
    }
    assert_eq!(bare, Vec::<String>::new());
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn what_a_running_gateway_keeps_from_its_start_is_told() {
    let case = Case::new("");
    let old = case.config();
    assert!(case.config().needs_restart(&old).is_empty());
    let mut new = case.config();
    new.admin.token = Some(Secret::new("another"));
    new.server.write_stall += Duration::from_secs(1);
    new.server.max_body += 1;
    new.budget_lease += Duration::from_secs(1);
    let keys = new.needs_restart(&old);
    let limits = "server.drain, server.write_stall and other limits of connections";
    assert_eq!(keys, [limits, "store.budget_lease", "admin.token"]);
}

#[test]
fn prices_are_taken_digit_by_digit() {
    let config = Case::new(
        "[providers.house]\nbase_url = \"http://127.0.0.1:1/v1\"\nformat = \"openai_chat\"\n\
         [[pricing]]\nmodel = \"house/llama\"\ninput = 0.1\noutput = \"1.50\"\nrequest = 2\n\
         tiers = [{ above = 1000, input = 0.3 }]\n[[pricing]]\nmodel = \"*\"\ninput = 0.000000001\n",
    )
    .config();
    let [house, all] = config.pricing.as_slice() else { panic!("{:?}", config.pricing) };
    let expected = Prices {
        input: Some(100_000_000),
        output: Some(1_500_000_000),
        request: Some(2_000_000_000),
        ..Prices::default()
    };
    assert_eq!((house.model.as_str(), house.sheet.prices), ("house/llama", expected));
    assert_eq!((house.sheet.tiers[0].above, house.sheet.tiers[0].prices.input), (1000, Some(300_000_000)));
    assert_eq!(all.sheet.prices.input, Some(1));
}

#[test]
fn prices_that_cannot_be_counted_are_told_at_their_lines() {
    let priced = |line: &str| problem(&format!("[[pricing]]\nmodel = \"mock/a\"\n{line}"));
    assert!(
        priced("input = -1").contains("gateway.toml:3: `pricing[0].input` must be at least 0"),
        "{}",
        priced("input = -1")
    );
    assert!(priced("input = \"1,50\"").contains("expected US dollars"));
    assert!(priced("input = 0.00000000001").contains("nine digits"));
    assert!(priced("input = \"9999999999\"").contains("at most 1000000000"));
    assert!(priced("output = 1").contains("needs a price"));
    assert!(priced("input = true").contains("must be a text in quotes or a number"));
    assert!(priced("input = 1\ntiers = [{ above = 9 }, { above = 9 }]").contains("rising order"));
    assert!(priced("inputs = 1\ninput = 1").contains("did you mean `input`?"));
    let twice = "[[pricing]]\nmodel = \"a\"\ninput = 1\n".repeat(2);
    assert!(problem(&twice).contains("gateway.toml:5: `pricing[1].model`: \"a\" has a price already"));
}

fn login_of(case: &Case) -> (Option<Login>, Option<String>) {
    let provider = case.config().providers.remove(0);
    (provider.login, provider.missing)
}

#[test]
fn identities_at_clouds_come_from_the_file_or_from_where_the_clouds_tools_look() {
    let aws = |toml: &str| Case::new(&format!("[providers.azure]\naws = {toml}\n"));
    let keys = aws(r#"{ access_key_id = "env:ID", secret_access_key = "file:s", session_token = "env:T" }"#);
    let (login, missing) =
        login_of(&aws(r#"{ access_key_id = "env:ID", secret_access_key = "file:s" }"#).with("s", "x"));
    assert!(login.is_none() && missing.is_some_and(|why| why.contains("ID is not set")));
    let (login, _) = login_of(&keys.with("s", "shh\n").env("ID", "AK").env("T", "tok"));
    let Some(Login::Aws(AwsLogin::Keys { id, secret, session: Some(session) })) = login else { panic!("{login:?}") };
    assert_eq!((id.expose(), secret.expose(), session.expose()), ("AK", "shh", "tok"));
    // The order of AWS's own chain.
    let chain = || aws("{}");
    let both = chain().env("AWS_ACCESS_KEY_ID", "AK").env("AWS_SECRET_ACCESS_KEY", "S").env("AWS_ROLE_ARN", "arn");
    assert!(matches!(login_of(&both).0, Some(Login::Aws(AwsLogin::Keys { session: None, .. }))));
    let web = chain().env("AWS_ROLE_ARN", "arn").env("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/token");
    assert!(matches!(login_of(&web).0, Some(Login::Aws(AwsLogin::Role(AwsRole::WebIdentity { .. })))));
    let ecs = chain().env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x");
    let Some(Login::Aws(AwsLogin::Role(AwsRole::Container { url, .. }))) = login_of(&ecs).0 else {
        panic!("container")
    };
    assert_eq!(url, "http://169.254.170.2/v2/x");
    let evil = chain().env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@evil.example/");
    assert!(matches!(login_of(&evil).0, Some(Login::Aws(AwsLogin::Role(AwsRole::Instance { .. })))));
    let assumed = aws(r#"{ role_arn = "arn" }"#).env("AWS_ACCESS_KEY_ID", "AK").env("AWS_SECRET_ACCESS_KEY", "S");
    let Some(Login::Aws(AwsLogin::Role(AwsRole::Assume { base, .. }))) = login_of(&assumed).0 else { panic!("assume") };
    assert!(matches!(*base, AwsLogin::Keys { .. }));
    // A profile comes before what a machine is, and after keys in the environment.
    let files = |case: Case| {
        case.env("AWS_SHARED_CREDENTIALS_FILE", "aws/credentials")
            .env("AWS_CONFIG_FILE", "aws/config")
            .with("aws/credentials", "[default]\naws_access_key_id = D\naws_secret_access_key = d\n[loop]\naws_access_key_id = L\naws_secret_access_key = l\n")
            .with(
                "aws/config",
                "[profile work]\nrole_arn = arn:work\nsource_profile = default\nexternal_id = e\n[profile loop]\nrole_arn = arn:l\nsource_profile = loop\n\
                 [profile box]\nrole_arn = arn:box\ncredential_source = Ec2InstanceMetadata\n[profile person]\nsso_session = s\n\
                 [profile program]\ncredential_process = /bin/keys\n[profile code]\nrole_arn = a\nmfa_serial = m\nsource_profile = default\n\
                 [profile a]\nrole_arn = a\nsource_profile = b\n[profile b]\nrole_arn = b\nsource_profile = a\n",
            )
    };
    let id = |login: Option<Login>| match login {
        Some(Login::Aws(AwsLogin::Keys { id, .. })) => id.expose().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(id(login_of(&files(chain()).env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")).0), "D");
    assert_eq!(id(login_of(&files(chain()).env("AWS_ACCESS_KEY_ID", "AK").env("AWS_SECRET_ACCESS_KEY", "S")).0), "AK");
    for (case, arn_of, with_id) in [
        (files(chain()).env("AWS_PROFILE", "work"), "arn:work", Some("e")),
        (
            files(aws(r#"{ profile = "loop" }"#)).env("AWS_ACCESS_KEY_ID", "AK").env("AWS_SECRET_ACCESS_KEY", "S"),
            "arn:l",
            None,
        ),
        (files(aws(r#"{ profile = "box" }"#)), "arn:box", None),
    ] {
        let login = login_of(&case).0;
        let Some(Login::Aws(AwsLogin::Role(AwsRole::Assume { arn, external_id, .. }))) = login else {
            panic!("{login:?}")
        };
        assert_eq!((arn.as_str(), external_id.as_deref()), (arn_of, with_id));
    }
    for (name, says) in [
        ("person", "a person's login (SSO)"),
        ("program", "the gateway starts none"),
        ("code", "a code from a person's device"),
        ("a", "leads to itself"),
        ("nobody", "there is no profile \"nobody\""),
    ] {
        let told = files(aws(&format!("{{ profile = \"{name}\" }}"))).problems().join(" ");
        assert!(told.contains(says) && told.contains("gateway.toml:2"), "{name}: {told}");
    }
    let disabled = login_of(&chain().env("AWS_EC2_METADATA_DISABLED", "true"));
    assert!(disabled.0.is_none() && disabled.1.is_some_and(|why| why.contains("AWS_EC2_METADATA_DISABLED")));
    // Google's document has several lines, and none of them is shown.
    let google = Case::new("[providers.gemini]\ngoogle = {}\n").env("GOOGLE_APPLICATION_CREDENTIALS", "sa.json");
    let Some(Login::Google(login)) = login_of(&google.with("sa.json", "{\n \"type\": \"x\"\n}\n")).0 else { panic!() };
    assert!(login.credentials.is_some() && !format!("{login:?}").contains("type"));
    let (login, _) = login_of(&Case::new("[providers.azure]\nentra = {}\n").env("AZURE_CLIENT_ID", "app"));
    assert!(matches!(login, Some(Login::Entra(EntraLogin { client_id: Some(_), client_secret: None, .. }))));
}

#[test]
fn identities_that_cannot_be_meant_are_told() {
    for (toml, says) in [
        ("aws = { access_key_id = \"env:A\" }", "together"),
        ("aws = { token_file = \"f\" }", "`role_arn` and `token_file` together"),
        ("aws = {}\ngoogle = {}", "keep one of them"),
        ("key = \"env:K\"\nentra = {}", "keep one of them"),
        ("google = { credentials = \"{}\" }", "say where the credentials are"),
        ("google = { credentials = \"file:none.json\" }", "there is no file"),
        ("entra = { tennant = \"x\" }", "did you mean `tenant`"),
        ("region = \"evil.example/\"", "plain name"),
        ("region = \"US\"", "plain name"),
        ("region = \"\"", "plain name"),
        ("resource = \"a.b\"", "plain name"),
        ("location = \"-x\"", "plain name"),
        ("api_version = \"1&x=y\"", "plain name"),
        ("project = \"a/b\"", "plain name"),
    ] {
        let told = problem(&format!("[providers.azure]\n{toml}\n"));
        assert!(told.contains(says), "{toml}: {told}");
    }
    let secret = "wJalrXUtnFEMIK7MDENG";
    let held = Case::new(&format!(
        "[providers.azure]\naws = {{ access_key_id = \"{secret}\", secret_access_key = \"{secret}\" }}\n"
    ));
    for problem in held.read().problems {
        assert!(!format!("{problem}").contains(secret), "{problem}");
    }
}

mod cache;
mod choices;
mod money;
mod overload;
mod shared;
mod versions;
