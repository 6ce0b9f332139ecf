//! `[overload]`, targets' concurrency, and who goes first.

use super::*;

const HOUSE: &str = "[providers.up]\nbase_url = \"http://127.0.0.1:9/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n";

#[test]
fn overload_has_defaults_and_bounds() {
    assert_eq!(Case::new("").config().overload, Overload::default());
    let toml = "[overload]\nmax_in_flight = 5\nqueue = 0\nwait = \"2s\"\nmemory = \"512MiB\"\nlag = \"50ms\"\n";
    let told = Overload {
        max_in_flight: 5,
        queue: 0,
        wait: Duration::from_secs(2),
        memory: Some(512 << 20),
        lag: Duration::from_millis(50),
    };
    assert_eq!(Case::new(toml).config().overload, told);
    for (line, word) in [
        ("max_in_flight = 0", "overload.max_in_flight"),
        ("wait = \"0s\"", "more than zero"),
        ("queue = -1", "overload.queue"),
        ("waits = \"1s\"", "did you mean `wait`"),
    ] {
        let problem = problem(&format!("[overload]\n{line}\n"));
        assert!(problem.starts_with("gateway.toml:2:") && problem.contains(word), "{problem}");
    }
}

#[test]
fn a_target_has_one_concurrency_wherever_it_is_named() {
    let models = |first: &str, second: &str| {
        let target = |more: &str| format!("targets = [{{ provider = \"up\", model = \"m\"{more} }}]\n");
        format!("{HOUSE}[models.a]\n{}[models.b]\n{}", target(first), target(second))
    };
    let known = |first: &str, second: &str| Case::new(&models(first, second)).config().concurrency;
    let bound = |concurrency| BTreeMap::from([("up/m".to_owned(), concurrency)]);
    assert_eq!(known("", ""), BTreeMap::new());
    assert_eq!(known(", concurrency = 20", ""), bound(Concurrency::Fixed(20)));
    assert_eq!(known("", ", concurrency = \"adaptive\""), bound(Concurrency::Adaptive));
    assert_eq!(known(", concurrency = 3", ", concurrency = 3"), bound(Concurrency::Fixed(3)));
    let two = problem(&models(", concurrency = 3", ", concurrency = 4"));
    assert!(two.starts_with("gateway.toml:8:") && two.contains("up/m has another concurrency in `models.a"), "{two}");
    for wrong in [", concurrency = 0", ", concurrency = \"fast\"", ", concurrency = -2", ", concurrency = true"] {
        let told = problem(&models(wrong, ""));
        assert!(told.starts_with("gateway.toml:6:") && told.contains("concurrency"), "{wrong}: {told}");
    }
}

#[test]
fn teams_have_a_priority_and_a_share() {
    let config = Case::new("[teams.a]\npriority = \"high\"\nshare = 3\n[teams.b]\n").config();
    let (a, b) = (&config.teams["a"], &config.teams["b"]);
    assert_eq!((a.priority, a.share, b.priority, b.share), (Some(Urgency::High), Some(3), None, None));
    assert_eq!((a.terms().priority, a.terms().share), (Some(Urgency::High), Some(3)));
    assert!(problem("[teams.a]\npriority = \"urgent\"\n").contains("teams.a.priority"));
    assert!(problem("[teams.a]\nshare = 0\n").contains("teams.a.share"));
}
