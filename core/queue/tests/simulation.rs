//! Hours of traffic of several teams at one gate, in virtual time and with seeds: what one of them floods, and what the others
//! feel of it.

use super::*;

/// How a team asks.
#[derive(Clone)]
struct Asks {
    owner: Owner,
    /// A second, at random times.
    rate: f64,
    /// How long one of its calls takes, on average.
    takes: Duration,
}

/// What became of a team's requests.
#[derive(Debug, Default, Clone)]
struct Fared {
    waits: Vec<Duration>,
    shed: usize,
}

impl Fared {
    fn p99(&self) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort();
        waits.get(waits.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// All teams for `time` at a gate of `places`.
fn run(teams: &[Asks], places: u64, time: Duration, seed: u64) -> Vec<Fared> {
    virtually(async {
        let gate = Gate::new("p/a".into(), Some(places));
        let end = clock::now() + time;
        let each = teams.iter().enumerate().map(|(n, team)| {
            let (gate, mut random) = (gate.clone(), fastrand::Rng::with_seed(seed * 100 + n as u64));
            async move {
                let (mut fared, mut under_way) = (Fared::default(), FuturesUnordered::new());
                loop {
                    // Open loop: the next one comes when it comes, whatever became of those before.
                    let pause = Duration::from_secs_f64(-random.f64().max(1e-9).ln() / team.rate);
                    let next = clock::now() + pause;
                    if next > end {
                        break;
                    }
                    let mut until = pin_sleep(next);
                    loop {
                        tokio::select! {
                            biased;
                            Some(outcome) = under_way.next(), if !under_way.is_empty() => fared.note(outcome),
                            () = &mut until => break,
                        }
                    }
                    let takes = team.takes.mul_f64(0.5 + random.f64());
                    under_way.push(one(&gate, &team.owner, takes));
                }
                while let Some(outcome) = under_way.next().await {
                    fared.note(outcome);
                }
                fared
            }
        });
        join_all(each).await
    })
}

fn pin_sleep(at: Instant) -> std::pin::Pin<Box<clock::Sleep>> {
    Box::pin(clock::sleep_until(at))
}

impl Fared {
    fn note(&mut self, outcome: Option<Duration>) {
        match outcome {
            Some(wait) => self.waits.push(wait),
            None => self.shed += 1,
        }
    }
}

async fn one(gate: &Arc<Gate>, owner: &Owner, takes: Duration) -> Option<Duration> {
    let began = clock::now();
    let place = match gate.enter(&owner.flow, || owner.clone()) {
        Some(place) => place,
        None => {
            let patience = Patience { queue: 500, until: began + Duration::from_secs(10) };
            first(&[gate], owner, patience).await.ok()?.1
        }
    };
    let waited = clock::since(began);
    clock::sleep(takes).await;
    drop(place);
    Some(waited)
}

fn asks(name: &str, rate: f64, takes: u64) -> Asks {
    Asks { owner: team(name), rate, takes: millis(takes) }
}

/// Ten places, 40 calls a second. Four teams ask for a fifth of their part each; then one of them for ten times the whole.
#[test]
fn one_team_that_floods_delays_only_itself() {
    let calm: Vec<Asks> = ["a", "b", "c"].map(|name| asks(name, 6.0, 250)).to_vec();
    // What they feel beside a neighbour who uses all that it is due, and no more.
    let mut fair = calm.clone();
    fair.push(asks("d", 23.0, 250));
    let mut flooded = calm.clone();
    flooded.push(asks("d", 400.0, 250));
    for seed in 1..4 {
        let time = Duration::from_secs(600);
        let (before, after) = (run(&fair, 10, time, seed), run(&flooded, 10, time, seed));
        for (n, name) in ["a", "b", "c"].iter().enumerate() {
            let (quiet, loud) = (before[n].p99(), after[n].p99());
            assert_eq!(after[n].shed, 0, "{name} lost requests to the flood of another");
            assert!(
                loud <= quiet.mul_f64(1.3),
                "{name}: p99 of the wait {quiet:?} beside a fair one, {loud:?} beside a flood"
            );
        }
        let flood = &after[3];
        assert!(flood.shed > 200_000, "{}", flood.shed);
        assert!(flood.waits.len() > 12_000, "what the others leave is its own: {}", flood.waits.len());
    }
}

#[test]
fn a_higher_class_does_not_feel_a_flood_of_a_lower_one() {
    let boss = Asks { owner: owner(High, "boss", 1), rate: 8.0, takes: millis(250) };
    let flood = Asks { owner: owner(Low, "flood", 1), rate: 200.0, takes: millis(250) };
    let fared = run(&[boss, flood], 10, Duration::from_secs(600), 1);
    assert_eq!(fared[0].shed, 0);
    assert!(fared[0].p99() < millis(120), "the longest wait is for one of ten places: {:?}", fared[0].p99());
    assert!(fared[1].waits.len() > 15_000, "the flood has the rest: {}", fared[1].waits.len());
}

/// More than there is room for is asked for by the higher class alone, for ten minutes.
#[test]
fn a_lower_class_is_slow_beside_a_flood_of_a_higher_one_and_does_not_starve() {
    let flood = Asks { owner: owner(High, "flood", 1), rate: 120.0, takes: millis(250) };
    let batch = Asks { owner: owner(Low, "batch", 1), rate: 1.0, takes: millis(250) };
    let fared = run(&[flood, batch], 10, Duration::from_secs(600), 1);
    let (had, lost) = (fared[1].waits.len(), fared[1].shed);
    assert!(had > 500 && lost < had / 10, "{had} of the lower class were served, {lost} were not");
    let (flood, places) = (fared[0].waits.len() as f64, 40.0 * 600.0);
    assert!(flood > 0.93 * places, "the flood has the rest: {flood} of {places}");
}

#[test]
fn long_answers_of_one_team_do_not_take_the_places_of_another() {
    // Both ask for more than their half: in the places' time they are equal, though not in requests.
    let fared = run(&[asks("long", 4.0, 5_000), asks("short", 60.0, 250)], 10, Duration::from_secs(900), 1);
    let time = |n: usize, takes: f64| fared[n].waits.len() as f64 * takes;
    let (long, short) = (time(0, 5.0), time(1, 0.25));
    assert!(
        (0.85..1.15).contains(&(long / short)),
        "{long:.0} s of places for long answers, {short:.0} for short ones"
    );
}

#[test]
fn at_five_times_the_load_the_places_are_never_idle_and_it_is_over_soon_after() {
    let crowd = |rate: f64| ["a", "b", "c", "d"].map(|name| asks(name, rate / 4.0, 250)).to_vec();
    let minute = Duration::from_secs(60);
    for load in [1.0, 3.0, 5.0] {
        let fared = run(&crowd(40.0 * load), 10, minute, 3);
        let served: usize = fared.iter().map(|f| f.waits.len()).sum();
        assert!(served as f64 > 0.95 * 40.0 * 60.0 * if load > 1.0 { 1.0 } else { 0.95 }, "{load}×: {served}");
    }
}
