//! Days on which providers do not behave, and what the gateway promises of them: callers are answered, wait little longer,
//! providers are asked at most 1.2 times a request, no quota is crossed, and nobody is overrun who has just come back. Each day's
//! figures stand in README.md, and are compared with what was simulated.

use std::time::Duration;

use super::{
    Asked, Crowd, Script, hours, minutes, play,
    provider::{Mood, Provider},
    report::Day,
};

/// `a` first or by weights, and `b`.
const FIRST: &str =
    "[models.smart]\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
const WEIGHTED: &str = "[models.smart]\nstrategy = \"weighted\"\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
const FASTEST: &str = "[models.smart]\nstrategy = \"least_latency\"\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
const PATIENT: &str = "[models.smart]\ntimeouts = { first_event = \"5s\" }\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
/// One that grants for a week and one that grants for two hours.
const MISSION: &str = "[models.smart]\nstrategy = \"quota\"\ntargets = [\n  { provider = \"a\", model = \"m\", quota = { requests = 400, per = \"7d\" } },\n  { provider = \"b\", model = \"m\", quota = { requests = 24, per = \"2h\" } },\n]\n";
/// It takes so many at a time; the others wait for their turn there, or at the gateway itself.
const PLACES: &str =
    "[overload]\nqueue = 400\n[models.smart]\ntargets = [{ provider = \"a\", model = \"m\", concurrency = 120 }]\n";
const FRONT: &str =
    "[overload]\nqueue = 400\nmax_in_flight = 120\n[models.smart]\ntargets = [{ provider = \"a\", model = \"m\" }]\n";
const WINDOWS: &str = "[models.smart]\nstrategy = \"quota\"\ntargets = [\n  { provider = \"a\", model = \"m\", quota = { requests = 60, per = \"1h\" } },\n  { provider = \"b\", model = \"m\", quota = { requests = 200, per = \"5h\" } },\n]\nfailover = [\"c/m\"]\n";

fn a() -> Provider {
    Provider::new("a", 300)
}

fn b() -> Provider {
    Provider::new("b", 400)
}

/// So many requests a minute.
fn day(name: &'static str, config: &'static str, providers: Vec<Provider>, rate: f64, length: Duration) -> Day {
    let day = play(Script { name, config, providers, crowds: vec![Crowd::new(rate, length)], seed: 7 });
    // Shown where a test fails, or by --nocapture.
    eprintln!("{}    {:.1} s, {} attempts", day.row(), day.real.as_secs_f64(), day.attempts);
    assert_eq!(day.calls() as u64, day.attempts, "every call has its attempt in the records");
    assert!(day.amplification() <= 1.2, "{} calls for {} requests", day.calls(), day.asked.len());
    day
}

/// So many of a hundred are answered, and of those 99 of a hundred lose less than that to others.
fn keeps(day: &Day, answered: f64, lost: Duration) {
    assert!(day.success() >= answered, "{:.2} % of {} are answered", day.success(), day.asked.len());
    assert!(day.added(990) <= lost, "{:?} are lost", day.added(990));
    let silent = |asked: &Asked| !asked.complete && asked.status == 200 && !asked.told;
    assert_eq!(day.share(silent), 0.0, "what breaks off says so");
}

/// README.md says the same.
fn stands_in_the_readme(day: &Day) {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    let head = format!("| {} |", day.name);
    let told = readme.lines().find(|line| line.starts_with(&head));
    let told = told.unwrap_or_else(|| panic!("README.md lacks\n{}", day.row()));
    let cells = |row: &str| {
        let number = |cell: &str| cell.trim().split(' ').next().and_then(|word| word.parse::<f64>().ok());
        row.split('|').skip(3).filter_map(number).collect::<Vec<f64>>()
    };
    let (told, is) = (cells(told), cells(&day.row()));
    // Requests, answered, lost, calls, over: near enough that another way to the same end is no change of the page.
    let near = [0.0, 0.5, 0.5, 0.03, 10.0];
    assert_eq!((told.len(), is.len()), (near.len(), near.len()), "{}", day.row());
    let same = told.iter().zip(&is).zip(near).all(|((told, is), near)| (told - is).abs() <= near + is.abs() * 0.02);
    assert!(same, "README.md says other figures than\n{}", day.row());
}

#[test]
fn when_all_is_well_nothing_is_added() {
    let day = day("all is well", WEIGHTED, vec![a(), b()], 20.0, hours(1));
    keeps(&day, 100.0, Duration::ZERO);
    assert_eq!(day.calls(), day.asked.len());
    stands_in_the_readme(&day);
}

#[test]
fn a_rate_limit_is_met_once_a_minute_and_waited_for_by_nobody() {
    let day =
        day("one grants 60 requests a minute of 100", FIRST, vec![a().grants(60, minutes(1)), b()], 100.0, minutes(30));
    keeps(&day, 100.0, Duration::from_millis(100));
    // One finds out in each window; who was under way beside it finds it too.
    assert!(day.over() <= 60, "{} calls were over the limit of thirty minutes", day.over());
    assert!(day.answered("a") >= 28 * 60, "what is granted is used: {}", day.answered("a"));
    stands_in_the_readme(&day);
}

#[test]
fn a_provider_that_becomes_slower_is_left_for_one_that_does_not() {
    let slower = [2.0, 4.0, 8.0, 16.0, 32.0].into_iter().enumerate();
    let slower = slower.fold(a(), |a, (n, times)| {
        let from = minutes(10 * (n as u64 + 1));
        a.is(from..from + minutes(10), Mood::Slow(times))
    });
    let day = day("one becomes slower, up to 32 times", FASTEST, vec![slower, b()], 30.0, minutes(90));
    keeps(&day, 100.0, Duration::from_millis(100));
    let ill = |asked: &Asked| (minutes(20)..minutes(60)).contains(&asked.at);
    let median = day.first(500, ill);
    assert!(median < Duration::from_millis(600), "half of the callers wait {median:?} for the first word");
    stands_in_the_readme(&day);
}

#[test]
fn a_provider_that_comes_and_goes_costs_nobody_an_answer() {
    let flapping = a().is(Duration::ZERO..hours(9), Mood::Flapping { every: minutes(5), ill: minutes(2) });
    let day = day("one fails two minutes of five", WEIGHTED, vec![flapping, b()], 30.0, hours(2));
    keeps(&day, 99.9, Duration::from_secs(1));
    stands_in_the_readme(&day);
}

#[test]
fn a_provider_that_was_away_is_found_by_single_requests_and_not_overrun_when_it_is_back() {
    let day = day(
        "one is away for a quarter of an hour",
        FIRST,
        vec![a().is(minutes(10)..minutes(25), Mood::Gone), b()],
        120.0,
        minutes(40),
    );
    keeps(&day, 99.9, Duration::from_secs(1));
    let away = day.of("a").iter().filter(|call| (minutes(10)..minutes(25)).contains(&call.at)).count();
    assert!(away <= 30, "{away} calls to nobody within a quarter of an hour");
    let (before, back) = (day.peak("a", Duration::ZERO..minutes(10)), day.peak("a", minutes(25)..minutes(40)));
    assert!(back <= before + 2, "{back} calls in a second, {before} when all was well");
    assert!(day.of("a").iter().any(|call| call.at > minutes(32)), "it is found again");
    stands_in_the_readme(&day);
}

#[test]
fn a_provider_that_accepts_and_never_answers_is_waited_for_by_few() {
    let day = day(
        "one never answers for a quarter of an hour",
        PATIENT,
        vec![a().is(minutes(10)..minutes(25), Mood::Silent), b()],
        60.0,
        minutes(40),
    );
    keeps(&day, 99.9, Duration::from_secs(6));
    let waited = day.share(|asked| asked.first > Duration::from_secs(4));
    assert!(waited < 2.0, "{waited} % of the callers waited for the first event's deadline");
    stands_in_the_readme(&day);
}

#[test]
fn streams_that_die_end_with_an_error_and_never_as_if_they_were_whole() {
    let dying = a().is(Duration::ZERO..hours(9), Mood::Dying(50));
    let day = day("one loses a twentieth of its streams", WEIGHTED, vec![dying, b()], 30.0, hours(1));
    keeps(&day, 95.0, Duration::from_secs(1));
    stands_in_the_readme(&day);
}

#[test]
fn when_nobody_is_well_nobody_is_asked_again_and_again() {
    let ill = |provider: Provider| provider.is(minutes(20)..minutes(25), Mood::Status(503));
    let day = day("both fail for five minutes", WEIGHTED, vec![ill(a()), ill(b())], 30.0, hours(1));
    keeps(&day, 88.0, Duration::from_secs(5));
    let well = day.share(|asked| asked.complete || (minutes(19)..minutes(30)).contains(&asked.at));
    assert_eq!(well, 100.0, "five minutes after its end it is forgotten");
    let outage = |name| day.of(name).iter().filter(|call| (minutes(20)..minutes(25)).contains(&call.at)).count();
    assert!(outage("a") + outage("b") <= 60, "{} calls to two that fail", outage("a") + outage("b"));
    stands_in_the_readme(&day);
}

#[test]
fn a_weeks_quota_and_one_of_two_hours_are_both_used_and_neither_is_crossed() {
    let providers = vec![a().grants(400, hours(7 * 24)), b().grants(24, hours(2))];
    let day = day("400 a week and 24 in two hours, stated", MISSION, providers, 12.0 / 60.0, hours(14 * 24));
    assert_eq!(day.over(), 0, "no quota is crossed");
    keeps(&day, 99.0, Duration::from_millis(100));
    assert!(day.answered("a") > 200 && day.answered("b") > 2_500, "{} and {}", day.answered("a"), day.answered("b"));
    stands_in_the_readme(&day);
}

#[test]
fn quotas_that_nobody_stated_are_learned_from_their_providers() {
    let providers = vec![a().grants(400, hours(7 * 24)), b().grants(24, hours(2))];
    let day = day("the same, said by the providers alone", FIRST, providers, 12.0 / 60.0, hours(7 * 24));
    // In the order written the week's is used up in two days, and then nobody has what two hours' quota is short of.
    keeps(&day, 92.0, Duration::from_secs(1));
    assert!(day.over() <= 90, "{} calls found a window closed; there are 84 of two hours", day.over());
    stands_in_the_readme(&day);
}

#[test]
fn quotas_of_an_hour_and_of_five_are_used_up_before_what_has_none() {
    let providers = vec![a().grants(60, hours(1)), b().grants(200, hours(5)), Provider::new("c", 500)];
    let day = day("60 an hour, 200 in five, and one without", WINDOWS, providers, 130.0 / 60.0, hours(20));
    assert_eq!(day.over(), 0, "no quota is crossed");
    keeps(&day, 100.0, Duration::from_millis(100));
    assert!(
        day.answered("a") >= 18 * 60 && day.answered("b") >= 3 * 200,
        "{} and {}",
        day.answered("a"),
        day.answered("b")
    );
    stands_in_the_readme(&day);
}

/// Three teams that ask for two fifths of what the provider holds, and one that asks for three times all of it meanwhile.
fn flooded(name: &'static str, config: &'static str) -> Day {
    let others = ["labs", "shop", "bank"];
    let (length, flood) = (minutes(4), minutes(1)..minutes(2));
    let calm = || others.map(|team| Crowd::new(440.0, length).of(team)).to_vec();
    let play =
        |crowds| play(Script { name, config, providers: vec![Provider::new("a", 2_000).holds(120)], crowds, seed: 7 });
    let quiet = play(calm());
    let loud = Crowd::new(12_000.0, flood.end).since(flood.start).of("flood");
    let loud = play([calm(), vec![loud]].concat());
    assert_eq!((quiet.over(), loud.over()), (0, 0), "the provider never has more than it holds");
    let (theirs, day) = (loud.of_teams(&["flood"]), loud.of_teams(&others));
    eprintln!("{}    {:.1} s, {:.1} % of the flood", day.row(), loud.real.as_secs_f64(), theirs.success());
    assert_eq!(quiet.success(), 100.0);
    assert_eq!(day.success(), 100.0, "nobody else loses a request to the flood");
    let meanwhile = |asked: &Asked| flood.contains(&asked.at);
    for (what, before, after) in [
        ("first word", quiet.first(990, meanwhile), day.first(990, meanwhile)),
        ("whole answer", quiet.took(990, meanwhile), day.took(990, meanwhile)),
    ] {
        eprintln!("{what}: {before:?} without the flood, {after:?} beside it");
        assert!(after <= before.mul_f64(1.3), "p99 to the {what} is {before:?} without the flood, {after:?} beside it");
    }
    // What the others leave is its own: 120 places of 2.3 s are 52 a second.
    let had = theirs.asked.iter().filter(|asked| asked.complete).count();
    assert!((1_000..3_000).contains(&had), "{had} of the flood are answered");
    assert!(theirs.share(|asked| !asked.complete && asked.status != 503) == 0.0, "the others of it are told to wait");
    day
}

#[test]
fn one_team_that_floods_delays_only_itself() {
    let day = flooded("one of four teams floods, as the others see it", PLACES);
    assert_eq!(day.calls(), day.asked.len());
    stands_in_the_readme(&day);
}

#[test]
fn a_flood_delays_only_itself_at_the_gateways_own_places_too() {
    flooded("the same at the gateway's own places", FRONT);
}
