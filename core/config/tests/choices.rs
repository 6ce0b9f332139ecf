//! Strategies, what sticks and warms up, and where data may be.

use super::*;
use crate::config::{DataPolicy, Handling};

const TARGETS: &str = "targets = [{ provider = \"mock\", model = \"m\" }, { provider = \"mock\", model = \"n\" }]";

#[test]
fn strategies_have_their_words_and_what_has_no_effect_is_told() {
    for (word, strategy) in [
        ("first", Strategy::First),
        ("weighted", Strategy::Weighted),
        ("least_latency", Strategy::LeastLatency),
        ("least_busy", Strategy::LeastBusy),
        ("least_cost", Strategy::LeastCost),
        ("quota", Strategy::Quota),
    ] {
        let config = Case::new(&format!("[models.a]\nstrategy = \"{word}\"\n{TARGETS}\n")).config();
        assert_eq!((config.models["a"].strategy, config.models["a"].strategy.name()), (strategy, word));
    }
    let config = Case::new(&format!(
        "[models.a]\nsticky = \"key\"\nwarm_up = \"0s\"\nstrategy = \"quota\"\n{TARGETS}\n[models.b]\n{TARGETS}\n"
    ))
    .config();
    let (a, b) = (&config.models["a"], &config.models["b"]);
    assert_eq!((a.sticky, a.warm_up), (Some(Sticky::Key), Duration::ZERO));
    assert_eq!((b.sticky, b.warm_up), (None, Duration::from_secs(30)));
    let first = Case::new(&format!("[models.a]\nsticky = \"session\"\n{TARGETS}\n")).read();
    assert!(first.warnings.iter().any(|w| w.contains("`models.a.sticky` has no effect")), "{:?}", first.warnings);
    let weight = "[models.a]\nstrategy = \"quota\"\ntargets = [{ provider = \"mock\", model = \"m\", weight = 2 }]\n";
    let weighed = Case::new(weight).read();
    assert!(weighed.warnings.iter().any(|w| w.contains("with strategy = \"quota\"")), "{:?}", weighed.warnings);
    let sticky = problem(&format!("[models.a]\nsticky = \"user\"\n{TARGETS}\n"));
    assert!(sticky.contains("`models.a.sticky` must be one of \"session\", \"key\""), "{sticky}");
}

#[test]
fn a_target_promises_for_itself_or_its_provider_does() {
    let config = Case::new(
        "[providers.openai]\nkey = \"env:K\"\ndata = { region = \"EU\", retention = \"30d\", train = false }\n\
         [models.a]\ntargets = [{ provider = \"openai\", model = \"m\", region = \"us\", retention = \"0s\" }, { provider = \"openai\", model = \"n\" }]\n",
    )
    .config();
    let provider = &config.providers.iter().find(|p| p.name == "openai").unwrap().handling;
    let days = |n: u64| Some(Duration::from_secs(n * 86_400));
    assert_eq!(*provider, Handling { region: Some("eu".into()), retention: days(30), train: Some(false) });
    let own = config.models["a"].targets[0].handling.or(provider);
    assert_eq!(own, Handling { region: Some("us".into()), retention: Some(Duration::ZERO), train: Some(false) });
    assert_eq!(config.models["a"].targets[1].handling, Handling::default());
    let of = |line: &str| {
        format!("[providers.openai]\n[models.a]\ntargets = [{{ provider = \"openai\", model = \"m\", {line} }}]\n")
    };
    for (line, told) in [
        ("region = \"\"", "targets[0].region`: \"\" is no region"),
        ("region = \"eu west\"", "is no region"),
        ("retention = \"soon\"", "targets[0].retention`: expected a duration"),
        ("train = \"no\"", "targets[0].train`"),
    ] {
        assert!(problem(&of(line)).contains(told), "{line}: {}", problem(&of(line)));
    }
    let two = problem("[providers.openai]\ndata = { region = [\"eu\", \"us\"] }\n");
    assert!(two.contains("`providers.openai.data.region`: data of a provider is in one region"), "{two}");
}

#[test]
fn a_policy_is_a_region_or_a_table() {
    let team = |data: &str| Case::new(&format!("[teams.a]\ndata = {data}\n")).config().teams["a"].terms().data.unwrap();
    let regions = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let eu = DataPolicy { regions: regions(&["eu"]), retention: None, no_training: false };
    assert_eq!(team("\"EU\""), eu);
    assert_eq!(team("{ region = \"eu\" }"), eu);
    let all = team("{ region = [\"eu\", \"ch\"], retention = \"7d\", train = false }");
    let week = Some(Duration::from_secs(7 * 86_400));
    assert_eq!(all, DataPolicy { regions: regions(&["eu", "ch"]), retention: week, no_training: true });
    assert_eq!(all.json(), serde_json::json!({ "region": ["eu", "ch"], "retention": "7d", "train": false }));
    assert_eq!(crate::config::data(&all.json()).unwrap(), all, "the API takes what it shows");
    for (data, told) in [
        ("\"\"", "`teams.a.data`: \"\" is no region"),
        ("{}", "`teams.a.data`: demands nothing"),
        ("{ train = true }", "`teams.a.data`: demands nothing"),
        ("{ region = [] }", "`teams.a.data.region`: an empty list would allow no region"),
        ("{ retention = \"x\" }", "`teams.a.data.retention`: expected a duration"),
        ("{ region = \"eu\", trian = false }", "did you mean `train`?"),
        ("5", "`teams.a.data`"),
    ] {
        let told_of = problem(&format!("[teams.a]\ndata = {data}\n"));
        assert!(told_of.contains(told), "{data}: {told_of}");
    }
    for scope in ["users", "organisations"] {
        let config = Case::new(&format!("[{scope}.a]\ndata = \"eu\"\n")).config();
        let terms = if scope == "users" { &config.users["a"].terms } else { &config.organisations["a"].terms };
        assert_eq!(terms.data, Some(eu.clone()));
    }
}
