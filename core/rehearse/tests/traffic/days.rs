//! Days on which providers do not behave, and what the gateway promises of them: callers are answered, wait little longer,
//! providers are asked at most 1.2 times a request, no quota is crossed, and nobody is overrun who has just come back. Each day's
//! figures stand in README.md, and are compared with what was simulated.

use std::time::Duration;

use super::{
    Asked, Crowd, Script, hours, minutes, play,
    provider::{Mood, Provider},
    report::{Day, quantile},
};

/// `a` first or by weights, and `b`.
const FIRST: &str =
    "[models.smart]\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
const WEIGHTED: &str = "[models.smart]\nstrategy = \"weighted\"\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
const FASTEST: &str = "[models.smart]\nstrategy = \"least_latency\"\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
const PATIENT: &str = "[models.smart]\ntimeouts = { first_event = \"5s\" }\ntargets = [{ provider = \"a\", model = \"m\" }, { provider = \"b\", model = \"m\" }]\n";
/// One that grants for a week and one that grants for two hours.
const MISSION: &str = "[models.smart]\nstrategy = \"quota\"\ntargets = [\n  { provider = \"a\", model = \"m\", quota = { requests = 400, per = \"7d\" } },\n  { provider = \"b\", model = \"m\", quota = { requests = 24, per = \"2h\" } },\n]\n";
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

/// A provider that three teams share, and a fourth floods for a minute of three.
struct Flood {
    /// So many calls at a time.
    places: usize,
    latency_ms: u64,
    words: u32,
    /// What the three ask for, of all that it holds; the fourth asks for three times all of it.
    calm: f64,
    /// The gateway's own places are what is short, not the target's.
    front: bool,
}

impl Flood {
    fn provider(&self) -> Provider {
        Provider::new("a", self.latency_ms).writes(self.words).holds(self.places)
    }

    fn config(&self) -> String {
        let places = self.places;
        let (front, target) = match self.front {
            true => (format!("max_in_flight = {places}\n"), String::new()),
            false => (String::new(), format!(", concurrency = {places}")),
        };
        format!(
            "[overload]\nqueue = 400\n{front}[models.smart]\ntargets = [{{ provider = \"a\", model = \"m\"{target} }}]\n"
        )
    }

    /// The day as the three saw it, without the fourth and beside it.
    fn days(&self, name: &'static str, seed: u64) -> [Day; 2] {
        let others = ["labs", "shop", "bank"];
        // A minute.
        let whole = 60.0 * self.places as f64 / self.provider().usual().as_secs_f64();
        let calm = || others.map(|team| Crowd::new(whole * self.calm / 3.0, minutes(3)).of(team)).to_vec();
        let flood = Crowd::new(whole * 3.0, FLOODED.end).since(FLOODED.start).of("flood");
        let config = self.config();
        let play = |crowds| play(Script { name, config: &config, providers: vec![self.provider()], crowds, seed });
        let (quiet, loud) = (play(calm()), play([calm(), vec![flood]].concat()));
        assert_eq!((quiet.over(), loud.over()), (0, 0), "the provider never has more than it holds");
        let (theirs, day) = (loud.of_teams(&["flood"]), loud.of_teams(&others));
        assert_eq!(quiet.success(), 100.0);
        assert_eq!(day.success(), 100.0, "nobody else loses a request to the flood");
        assert_eq!(day.calls(), day.asked.len());
        // What the others leave is its own, but for the places that are kept for them.
        let had = theirs.asked.iter().filter(|asked| asked.complete).count() as f64;
        let left = whole * (1.0 - self.calm);
        assert!((0.7..1.35).contains(&(had / left)), "{had} of the flood are answered; {left:.0} are what is left");
        assert!(
            theirs.share(|asked| !asked.complete && asked.status != 503) == 0.0,
            "the others of it are told to wait"
        );
        [quiet, day]
    }
}

const FLOODED: std::ops::Range<Duration> = minutes(1)..minutes(2);

/// How much later 99 of 100 of the three have their first word, or their whole answer, beside the flood; over all of these days.
fn delay(flood: &Flood, days: &[[Day; 2]]) -> f64 {
    let meanwhile = |asked: &&Asked| FLOODED.contains(&asked.at);
    let of = |n: usize, what: fn(&Asked) -> Duration| {
        let asked = days.iter().flat_map(|days| &days[n].asked).filter(meanwhile);
        quantile(asked.map(what).collect(), 990).as_secs_f64()
    };
    let figures: [fn(&Asked) -> Duration; 2] = [|asked| asked.first, |asked| asked.took];
    let [first, took] = figures.map(|what| (of(0, what), of(1, what)));
    let real: f64 = days.iter().flatten().map(|day| day.real.as_secs_f64()).sum();
    let Flood { places, latency_ms, words, calm, front } = flood;
    eprintln!(
        "{places} places{}, {latency_ms} ms, {words} words, {:.0} % asked for: first word {:.2} s and {:.2} s, {:.3}; \
         whole answer {:.2} s and {:.2} s, {:.3}    {real:.0} s",
        if *front { " of the gateway" } else { "" },
        calm * 100.0,
        first.0,
        first.1,
        first.1 / first.0,
        took.0,
        took.1,
        took.1 / took.0,
    );
    (first.1 / first.0).max(took.1 / took.0)
}

/// Few places and many, answers that are short, long, and late; the others ask for little and for much.
const FLOODS: [Flood; 6] = [
    Flood { places: 120, latency_ms: 2_000, words: 5, calm: 0.4, front: false },
    Flood { places: 20, latency_ms: 500, words: 20, calm: 0.4, front: false },
    Flood { places: 60, latency_ms: 800, words: 60, calm: 0.4, front: true },
    Flood { places: 60, latency_ms: 300, words: 5, calm: 0.6, front: false },
    Flood { places: 40, latency_ms: 400, words: 40, calm: 0.5, front: false },
    Flood { places: 200, latency_ms: 1_000, words: 40, calm: 0.25, front: false },
];

#[test]
fn one_team_that_floods_delays_only_itself() {
    let days = FLOODS[0].days("one of four teams floods, as the others see it", 7);
    eprintln!("{}", days[1].row());
    let delay = delay(&FLOODS[0], std::slice::from_ref(&days));
    assert!(delay <= 1.3, "99 of 100 of the others wait {delay:.2} times as long beside the flood");
    stands_in_the_readme(&days[1]);
}

#[test]
fn a_flood_delays_others_by_less_than_a_third_whatever_answers_take() {
    let long = crate::config::env::var("PORTCULLIS_LONG").is_some();
    let (floods, seeds) = if long { (&FLOODS[..], 1..9) } else { (&FLOODS[1..], 1..2) };
    let delays = floods.iter().map(|flood| {
        let days: Vec<[Day; 2]> = seeds.clone().map(|seed| flood.days("a flood", seed)).collect();
        delay(flood, &days)
    });
    let worst = delays.fold(0.0, f64::max);
    assert!(worst <= 1.3, "99 of 100 of the others wait {worst:.2} times as long beside a flood");
}
