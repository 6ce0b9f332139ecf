use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio_util::sync::CancellationToken;

use super::{
    frame::{Frame, Pace, Phase},
    gate::{LONGEST, Told},
    *,
};
use crate::{
    clock,
    config::{Every, Per, Quotas as Configured, Secret},
    error::{Error, Kind, UpstreamFault},
    limit::Need,
    store,
};

mod briefs;

const HOUR: Duration = Duration::from_secs(3600);

fn provider(keys: usize) -> Arc<Provider> {
    let keys = (0..keys).map(|n| Secret::new(format!("key-{n}"))).collect();
    let settings = config::Provider { name: "openai".into(), keys, ..config::Provider::default() };
    Arc::new(Provider::resolve(settings).unwrap())
}

fn quota(unit: Unit, bound: u64, every: Every) -> Quota {
    Quota { unit, bound, every }
}

fn of_target(all: Vec<Quota>) -> Configured {
    Configured { targets: [("openai/m".into(), all.into())].into(), ..Configured::default() }
}

fn of_keys_each(all: Vec<Quota>) -> Configured {
    Configured { keys: [("openai".into(), all.into())].into(), ..Configured::default() }
}

struct World {
    name: Arc<str>,
    provider: Arc<Provider>,
    quotas: Arc<Quotas>,
    slot: Slot,
}

impl World {
    fn new(quotas: Quotas, configured: &Configured, keys: usize) -> World {
        let world = World {
            name: "openai/m".into(),
            provider: provider(keys),
            quotas: Arc::new(quotas),
            slot: Slot::default(),
        };
        world.quotas.configure(configured, [&world.provider].into_iter());
        world
    }

    fn alone(configured: &Configured, keys: usize) -> World {
        World::new(Quotas::of(None, None, (clock::now(), clock::wall())), configured, keys)
    }

    /// Over a store, with its keeper beside it.
    fn kept(store: &Arc<dyn Store>, configured: &Configured) -> (World, CancellationToken) {
        let quotas = Quotas::of(Some(store.clone()), None, (clock::now(), clock::wall()));
        let (world, stop) = (World::new(quotas, configured, 1), CancellationToken::new());
        tokio::spawn(world.quotas.clone().run(stop.clone()));
        (world, stop)
    }

    fn at(&self) -> At<'_> {
        At { name: &self.name, provider: &self.provider, model: "m", slot: &self.slot }
    }

    async fn take(&self, key: Option<usize>, tokens: u64) -> Result<Taken, Refused> {
        let mut need = || Need { input_tokens: tokens, output_tokens: 0, nano_usd: 0 };
        // As the gateway does.
        let view = self.quotas.view(clock::now());
        let at_once = self.quotas.take_at_once(&view, self.at(), key, &mut need);
        drop(view);
        let result = match at_once {
            Some(result) => result,
            None => self.quotas.take(self.at(), key, need).await,
        };
        result.map(|taken| taken.unwrap().sent(1))
    }

    /// One attempt that is answered at once.
    async fn ask(&self) -> Result<(), Refused> {
        let taken = self.take(None, 1).await?;
        self.quotas.heard(self.at(), None, Some(&taken), None);
        taken.settle(Some(Need::default()));
        Ok(())
    }

    fn look(&self) -> Outlook {
        self.quotas.look(self.at())
    }

    fn refuse(&self, key: Option<usize>, wait: Option<Duration>, taken: Option<&Taken>) {
        let mut error = Error::new(Kind::UpstreamRateLimited, "slow down");
        error.upstream = Some(UpstreamFault { status: 429, ..UpstreamFault::default() });
        error.retry_after = wait;
        self.quotas.heard(self.at(), key, taken, Some(&error));
    }
}

fn virtually<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wall = UNIX_EPOCH + Duration::from_secs(1_796_000_000);
    runtime.block_on(clock::virtually(Instant::now(), wall, future))
}

#[tokio::test]
async fn what_has_no_quota_is_free_and_costs_no_look() {
    let world = World::alone(&Configured::default(), 1);
    assert!(world.quotas.is_idle());
    assert_eq!(world.look(), Outlook::FREE);
    assert!(world.quotas.take(world.at(), Some(0), || panic!("nobody counts")).await.unwrap().is_none());
}

#[test]
fn a_window_opens_with_its_first_use_and_is_full_again_after_its_time() {
    virtually(async {
        let world = World::alone(&of_target(vec![quota(Unit::Requests, 3, Every::Use(HOUR))]), 1);
        clock::sleep(10 * HOUR).await;
        assert_eq!((world.look().left, world.look().resets_in), (3, None), "nothing was used");
        for left in [2, 1, 0] {
            world.ask().await.unwrap();
            assert_eq!(world.look().left, left);
        }
        let look = world.look();
        assert!(!look.open && look.share == 0.0);
        let wait = look.resets_in.unwrap();
        assert!(wait >= HOUR && wait < HOUR + Duration::from_secs(10), "{wait:?}");
        let refused = world.ask().await.unwrap_err();
        assert_eq!((refused.wait, refused.key), (wait, false));
        clock::sleep(wait - Duration::from_millis(1)).await;
        assert!(!world.look().open && world.ask().await.is_err());
        clock::sleep(Duration::from_millis(1)).await;
        assert_eq!((world.look().left, world.look().resets_in), (3, None));
        world.ask().await.unwrap();
    });
}

/// The provider's window opened somewhere between sending and answer: ours must not end before it.
#[test]
fn a_window_lasts_from_the_first_answer_on() {
    virtually(async {
        let world = World::alone(&of_target(vec![quota(Unit::Requests, 2, Every::Use(HOUR))]), 1);
        let first = world.take(None, 1).await.unwrap();
        clock::sleep(Duration::from_secs(40)).await;
        world.ask().await.unwrap();
        world.quotas.heard(world.at(), None, Some(&first), None);
        let wait = world.look().resets_in.unwrap();
        assert!(wait >= HOUR, "{wait:?}");
        first.settle(Some(Need::default()));
    });
}

#[test]
fn around_the_end_of_a_window_nothing_is_sent() {
    virtually(async {
        let world = World::alone(&of_target(vec![quota(Unit::Requests, 50, Every::Use(HOUR))]), 1);
        world.ask().await.unwrap();
        clock::sleep(HOUR - Duration::from_secs(60)).await;
        world.ask().await.unwrap();
        clock::sleep(Duration::from_secs(58)).await;
        assert!(!world.look().open, "an attempt sent now could count in either window");
        let wait = world.ask().await.unwrap_err().wait;
        assert!(wait < Duration::from_secs(12), "{wait:?}");
        clock::sleep(wait).await;
        assert_eq!(world.look().left, 50);
    });
}

#[test]
fn what_never_reached_its_provider_opens_no_window() {
    virtually(async {
        let world = World::alone(&of_target(vec![quota(Unit::Requests, 2, Every::Use(HOUR))]), 1);
        world.take(None, 1).await.unwrap().release();
        assert_eq!(world.look().left, 2);
        clock::sleep(HOUR / 2).await;
        world.ask().await.unwrap();
        assert!(world.look().resets_in.unwrap() >= HOUR);
        // A value that nobody settles counts.
        drop(world.take(None, 1).await.unwrap());
        assert!(world.ask().await.is_err());
    });
}

#[test]
fn tokens_are_reserved_whole_and_settled_by_what_was_used() {
    virtually(async {
        let both = vec![quota(Unit::Tokens, 1_000, Every::Use(HOUR)), quota(Unit::Requests, 10, Every::Use(HOUR))];
        let world = World::alone(&of_target(both), 1);
        let big = world.take(None, 700).await.unwrap();
        assert_eq!(world.take(None, 400).await.unwrap_err().wait, Duration::from_secs(1), "it may come back");
        assert_eq!(world.look().left, 9, "a refused attempt takes nothing of the others");
        big.settle(Some(Need { input_tokens: 90, output_tokens: 10, nano_usd: 0 }));
        let rest = world.take(None, 900).await.unwrap();
        rest.settle(Some(Need { input_tokens: 900, output_tokens: 0, nano_usd: 0 }));
        assert!(!world.look().open);
        assert!(world.take(None, 2_000).await.is_err());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_quota_is_crossed_by_many_at_once() {
    let store = store::memory();
    let (world, stop) = World::kept(&store, &of_target(vec![quota(Unit::Requests, 50, Every::Use(24 * HOUR))]));
    let world = Arc::new(world);
    let all = (0..400).map(|_| {
        let world = world.clone();
        tokio::spawn(async move { world.ask().await.is_ok() })
    });
    let mut went = 0;
    for one in all.collect::<Vec<_>>() {
        went += u64::from(one.await.unwrap());
    }
    assert_eq!(went, 50);
    assert!(!world.look().open);
    stop.cancel();
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_a_kill_forgets_less_than_nothing() {
    let (store, configured) = (store::memory(), of_target(vec![quota(Unit::Requests, 50, Every::Use(24 * HOUR))]));
    let (world, stop) = World::kept(&store, &configured);
    for _ in 0..10 {
        world.ask().await.unwrap();
    }
    let before = world.look();
    stop.cancel();
    world.quotas.close_store().await;
    let (world, stop) = World::kept(&store, &configured);
    world.quotas.prepare().await;
    assert_eq!(world.look().left, 40);
    let after = world.look().resets_in.unwrap();
    assert!(before.resets_in.unwrap().abs_diff(after) < Duration::from_secs(30), "the window is the same one");
    for _ in 0..5 {
        world.ask().await.unwrap();
    }
    // Killed: nothing is closed.
    stop.cancel();
    let (world, stop) = World::kept(&store, &configured);
    world.quotas.prepare().await;
    let left = world.look().left;
    assert!((28..=35).contains(&left), "{left}: the block that was leased counts as used");
    stop.cancel();
}

#[tokio::test]
async fn a_closing_outlives_the_process() {
    let store = store::memory();
    let (world, stop) = World::kept(&store, &Configured::default());
    world.refuse(None, Some(2 * HOUR), None);
    assert!(!world.look().open);
    stop.cancel();
    world.quotas.close_store().await;
    let (world, stop) = World::kept(&store, &Configured::default());
    world.quotas.prepare().await;
    let wait = world.look().resets_in.unwrap();
    assert!(wait > HOUR && wait <= 2 * HOUR, "{wait:?}");
    stop.cancel();
}

#[test]
fn after_a_closing_one_goes_ahead_and_the_others_follow() {
    virtually(async {
        let world = World::alone(&of_target(vec![quota(Unit::Requests, 1_000, Every::Use(HOUR))]), 1);
        world.refuse(None, Some(Duration::from_secs(90)), None);
        assert_eq!(world.ask().await.unwrap_err().wait, Duration::from_secs(90));
        clock::sleep(Duration::from_secs(90)).await;
        assert!(world.look().open);
        let probe = world.take(None, 1).await.unwrap();
        for _ in 0..100 {
            assert_eq!(world.ask().await.unwrap_err().wait, Duration::from_secs(1), "no herd");
        }
        // It is told to wait again.
        world.refuse(None, Some(Duration::from_secs(30)), Some(&probe));
        drop(probe);
        assert_eq!(world.ask().await.unwrap_err().wait, Duration::from_secs(30));
        clock::sleep(Duration::from_secs(30)).await;
        // A probe whose client left finds nothing out: the next one goes.
        drop(world.take(None, 1).await.unwrap());
        for _ in 0..100 {
            world.ask().await.unwrap();
        }
    });
}

#[test]
fn a_time_that_nobody_should_believe_is_an_hour() {
    assert_eq!(Told::of(LONGEST), Told { wait: LONGEST, absurd: false });
    assert_eq!(Told::of(LONGEST * 2), Told { wait: HOUR, absurd: true });
    virtually(async {
        let world = World::alone(&Configured::default(), 1);
        world.refuse(None, Some(Duration::from_secs(1_000_000_000)), None);
        assert_eq!(world.look().resets_in, Some(HOUR));
    });
}

#[test]
fn each_key_has_its_own_quota_and_its_own_closing() {
    virtually(async {
        let world = World::alone(&of_keys_each(vec![quota(Unit::Requests, 2, Every::Use(HOUR))]), 2);
        assert_eq!(world.look().left, 4);
        for _ in 0..2 {
            world.take(Some(0), 1).await.unwrap().settle(None);
        }
        let rests = |key| world.quotas.view(clock::now()).key_rests(world.at(), key);
        assert!(rests(0).is_some() && rests(1).is_none());
        assert!(world.take(Some(0), 1).await.unwrap_err().key);
        assert_eq!((world.look().open, world.look().left), (true, 2));
        world.refuse(Some(1), Some(Duration::from_secs(20)), None);
        assert_eq!(rests(1), Some(Duration::from_secs(20)));
        let other = At { model: "other", ..world.at() };
        assert_eq!(world.quotas.view(clock::now()).key_rests(other, 1), None, "the provider spoke of one model");
        let look = world.look();
        assert_eq!((look.open, look.resets_in), (false, Some(Duration::from_secs(20))), "the first key that returns");
    });
}

#[test]
fn a_reload_keeps_what_was_used() {
    virtually(async {
        let per = |bound| of_target(vec![quota(Unit::Requests, bound, Every::Use(HOUR))]);
        let world = World::alone(&per(5), 1);
        for _ in 0..3 {
            world.ask().await.unwrap();
        }
        world.refuse(None, Some(Duration::from_secs(5)), None);
        let again = |configured: &Configured| world.quotas.configure(configured, [&world.provider].into_iter());
        again(&per(10));
        assert!(!world.look().open, "what a provider closed stays closed");
        clock::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.look().left, 7);
        again(&per(2));
        assert_eq!((world.look().left, world.look().open), (0, false));
        again(&Configured::default());
        assert_eq!(world.look(), Outlook::FREE);
    });
}

#[test]
fn windows_of_the_calendar_are_those_of_their_zone() {
    let at = |text: &str| frame::since_1970(text.parse::<jiff::Timestamp>().unwrap().into());
    let pacific = jiff::tz::TimeZone::get("America/Los_Angeles").unwrap();
    let day = Frame::of(&Every::Calendar(Per::Day, pacific.clone()), at("2026-11-26T07:30:00Z"));
    assert_eq!((day.start, day.ends), (at("2026-11-25T08:00:00Z"), at("2026-11-26T08:00:00Z")));
    let long = Frame::of(&Every::Calendar(Per::Day, pacific.clone()), at("2026-11-01T20:00:00Z"));
    assert_eq!(long.ends - long.start, 25 * 3_600_000, "clocks went back that day");
    let month = Frame::of(&Every::Calendar(Per::Month, pacific), at("2026-03-01T05:00:00Z"));
    assert_eq!((month.start, month.ends), (at("2026-02-01T08:00:00Z"), at("2026-03-01T08:00:00Z")));
    let anchor: SystemTime = "2026-01-05T09:00:00Z".parse::<jiff::Timestamp>().unwrap().into();
    let grid = Every::Grid(7 * 24 * HOUR, anchor);
    for (now, start) in [
        ("2026-01-05T09:00:00Z", "2026-01-05T09:00:00Z"),
        ("2026-01-05T08:59:59Z", "2025-12-29T09:00:00Z"),
        ("2026-01-18T12:00:00Z", "2026-01-12T09:00:00Z"),
    ] {
        assert_eq!(Frame::of(&grid, at(now)).start, at(start), "{now}");
    }
    assert_eq!(
        Frame::of(&grid, at("2026-01-12T08:59:58Z")).phase(at("2026-01-12T08:59:58Z")),
        Phase::Between(at("2026-01-12T09:00:05Z"))
    );
}

#[test]
fn a_clock_that_jumps_neither_locks_out_nor_refills() {
    let (start, wall) = (Instant::now(), UNIX_EPOCH + Duration::from_secs(1_796_000_000));
    let pace = Pace::new(start, wall);
    let began = pace.now(start);
    // Three days ahead, and back after a while: nobody noticed.
    let ahead = |after: u64| wall + Duration::from_secs(3 * 86_400 + after);
    for after in [1, 60, 300, 590] {
        let now = start + Duration::from_secs(after);
        assert_eq!(pace.compare(now, ahead(after)), None);
        assert_eq!(pace.now(now), began + after * 1000);
    }
    let now = start + Duration::from_secs(595);
    assert_eq!(pace.compare(now, wall + Duration::from_secs(595)), None);
    // A clock that stays so is believed after ten minutes, and windows move along with it.
    for after in [600, 900, 1_199] {
        assert_eq!(pace.compare(start + Duration::from_secs(after), ahead(after)), None);
    }
    let by = pace.compare(start + Duration::from_secs(1_201), ahead(1_201)).unwrap();
    assert_eq!(by, 3 * 86_400_000);
    let meter = Meter::new(Scope::Target("openai/m".into()), &quota(Unit::Requests, 2, Every::Use(HOUR)), false);
    meter.grant_all();
    let (hold, _) = meter.hold(1, began).unwrap();
    let left = meter.read(began).returns.unwrap() - began;
    meter.shift(by);
    let moved = began.saturating_add_signed(by);
    assert_eq!(meter.read(moved).returns.unwrap() - moved, left);
    meter.settle(hold, 1, || moved);
    assert_eq!(meter.read(moved).left, 1, "what was under way finds its window");
}

/// While the gateway was stopped the clock went back: the window is as long as ever, and not longer.
#[test]
fn a_window_from_the_future_is_a_window_from_now() {
    let meter = Meter::new(Scope::Target("openai/m".into()), &quota(Unit::Requests, 5, Every::Use(HOUR)), true);
    let now = 1_796_000_000_000;
    let mut frame = Frame::of(&Every::Use(HOUR), now + 30 * 86_400_000);
    frame.answered(&Every::Use(HOUR), frame.start);
    meter.load(Some(meter::Written { frame, ceiling: 5, open: false, unanswered: false }), now);
    let reading = meter.read(now);
    assert_eq!((reading.left, reading.returns.unwrap() - now), (0, 3_600_000 + 3_600));
}

/// A target remembers its places, and finds others when they have moved.
#[test]
fn what_a_target_remembers_is_true_of_every_registry() {
    let quotas = Arc::new(Quotas::default());
    let provider = provider(1);
    let names: Vec<Arc<str>> = (0..5).map(|n| format!("openai/m{n}").into()).collect();
    let slots: Vec<Slot> = (0..5).map(|_| Slot::default()).collect();
    let at = |n: usize| At { name: &names[n], provider: &provider, model: "m", slot: &slots[n] };
    let left = |quotas: &Quotas| (0..5).map(|n| quotas.look(at(n)).left).collect::<Vec<u64>>();
    let free = u64::MAX;
    assert_eq!(left(&quotas), [free; 5]);
    let configure = |stated: &[(usize, u64)]| {
        let of = |bound| [Quota { unit: Unit::Requests, bound, every: config::Every::Use(A_DAY) }];
        let targets = stated.iter().map(|(n, bound)| (names[*n].clone(), of(*bound).into())).collect();
        let configured = config::Quotas { targets, ..Default::default() };
        quotas.configure(&configured, [&provider].into_iter());
    };
    configure(&[(1, 10), (3, 30)]);
    assert_eq!(left(&quotas), [free, 10, free, 30, free]);
    assert_eq!(left(&quotas), [free, 10, free, 30, free], "as it was remembered");
    configure(&[(0, 7), (3, 31), (4, 40)]);
    assert_eq!(left(&quotas), [7, free, free, 31, 40]);
    // Another registry of another life, and back.
    let told = [(&names[2], 2, None)];
    let other = Quotas::told(told, (Instant::now(), SystemTime::now()));
    assert_eq!(left(&other), [free, free, 2, free, free]);
    assert_eq!(left(&quotas), [7, free, free, 31, 40]);
}
