//! Promises 10 and 36, and 6, 7 and 11 with them, on running gateways and a real redis-server: windows that end under traffic, and
//! clocks that somebody sets. The clock of the wall is moved for one process by a library that its tests load into it
//! (`clocks/wall.c`); where no C compiler is, the test says that it was skipped, or fails if it must not be.

use std::{
    future::Future,
    os::unix::fs::FileExt,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::{
    family::Openai,
    server::Server,
    shared::MASTER,
    support::{Process, Say, Upstream, begin, eventually, read_rest, request},
};

/// The wall clock of some processes.
struct Wall {
    dir: tempfile::TempDir,
    beside: std::fs::File,
}

impl Wall {
    /// As the machine's is. `None`: it cannot be moved here, and that is allowed.
    #[allow(clippy::print_stdout, reason = "what was skipped is said")]
    fn new() -> Option<Wall> {
        let dir = tempfile::tempdir().expect("a folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clocks/wall.c");
        let mut make = Command::new("cc");
        make.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("wall.so")).arg(source);
        match make.output() {
            Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr)),
            Err(_) => {
                let must = std::env::var_os("PORTCULLIS_NO_SKIP").is_some_and(|v| v == "1");
                assert!(!must, "no cc (Debian: apt-get install build-essential), and PORTCULLIS_NO_SKIP=1");
                println!("skipped: no cc");
                return None;
            }
        }
        std::fs::write(dir.path().join("beside"), [0; 8]).expect("written");
        let beside = std::fs::OpenOptions::new().write(true).open(dir.path().join("beside")).expect("it is there");
        Some(Wall { dir, beside })
    }

    fn env(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.dir.path().join(name).to_str().expect("a plain path").to_owned();
        vec![("LD_PRELOAD".to_owned(), path("wall.so")), ("WALL_CLOCK".to_owned(), path("beside"))]
    }

    /// So much ahead of the machine's, from now on.
    fn ahead(&self, millis: i64) {
        self.beside.write_all_at(&millis.to_le_bytes(), 0).expect("written");
    }

    /// It shows this now, and goes on from there.
    fn shows(&self, moment: SystemTime) {
        let millis = |at: SystemTime| i64::try_from(at.duration_since(UNIX_EPOCH).expect("after 1970").as_millis());
        self.ahead(millis(moment).expect("in range") - millis(SystemTime::now()).expect("in range"));
    }
}

/// A day, a week's Sunday and a month end there.
fn midnight() -> SystemTime {
    "2027-03-01T00:00:00Z".parse::<jiff::Timestamp>().expect("a time").into()
}

const BEFORE: &str = "2027-02-28";
const AFTER: &str = "2027-03-01";
/// A dollar a request, tokens free.
const A_DOLLAR: &str = "[[pricing]]\nmodel = \"up/*\"\nrequest = 1\n[[pricing]]\nmodel = \"slow/*\"\nrequest = 1\n";
const SLED: &str = "[store]\nkind = \"sled\"\n";

fn redis(server: &Server) -> String {
    format!("[secrets]\nmaster_key = \"file:master.key\"\n[store]\nkind = \"redis\"\nurl = \"{}\"\n", server.url())
}

/// Gateways of one house, one upstream that answers and one that takes its time, and a key of each team.
struct House {
    gateways: Vec<Process>,
    upstream: Upstream,
    slow: Upstream,
    keys: Vec<String>,
}

impl House {
    /// `teams`: what each of them is bound by.
    async fn of(count: usize, store: &str, teams: &[&str], env: &[(String, String)]) -> House {
        let upstream = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_millis(30))).await;
        let slow = Upstream::saying(Say::json(Openai.whole("x")).wait(Duration::from_secs(5))).await;
        let team = |(n, bounds): (usize, &&str)| format!("[teams.t{n}]\n{bounds}\n");
        let teams: String = teams.iter().enumerate().map(team).collect();
        let config = format!(
            "[auth]\nrequired = true\n{store}{A_DOLLAR}{teams}{}{}",
            upstream.provider("up", "openai_chat"),
            slow.provider("slow", "openai_chat")
        );
        let mut gateways = Vec::new();
        for _ in 0..count {
            gateways.push(Process::in_env(&config, &[("master.key", MASTER)], env).await);
        }
        let mut keys = Vec::new();
        for n in 0..teams.matches("[teams.").count() {
            let body = json!({ "name": format!("k{n}"), "team": format!("t{n}") }).to_string();
            let made = gateways[0].admin("POST", "/api/v1/keys", &body).await.json();
            keys.push(made["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned());
        }
        let house = House { gateways, upstream, slow, keys };
        // The first one made them; and what it is asked counts, where it counts alone.
        for gateway in &house.gateways[1..] {
            for key in &house.keys {
                let bearer = format!("Bearer {key}");
                let headers = [("authorization", bearer.as_str())];
                eventually("the key is known", async || {
                    request(gateway.addr, "GET", "/v1/models", &headers, b"").await.status == 200
                })
                .await;
            }
        }
        house
    }

    /// At one of the gateways, in turns.
    async fn ask(&self, team: usize, turn: usize) -> u16 {
        let bearer = format!("Bearer {}", self.keys[team]);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let (path, body) = (Openai.path("up/m", false), Openai.body("up/m", false, "hello"));
        let gateway = &self.gateways[turn % self.gateways.len()];
        let answer = request(gateway.addr, "POST", &path, &headers, body.as_bytes()).await;
        assert!([200, 429].contains(&answer.status), "{}", answer.text());
        answer.status
    }

    /// Until one is refused; says how many were not.
    async fn fill(&self, team: usize) -> u64 {
        let mut admitted = 0;
        while self.ask(team, admitted as usize).await == 200 {
            admitted += 1;
            assert!(admitted < 1_000, "nothing is ever refused");
        }
        admitted
    }

    /// A request that is under way for a while; it has reached its upstream.
    async fn under_way(&self, team: usize) -> tokio::net::TcpStream {
        let bearer = format!("Bearer {}", self.keys[team]);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let (path, body) = (Openai.path("slow/m", false), Openai.body("slow/m", false, "hello"));
        let before = self.slow.heard().len();
        let socket = begin(self.gateways[0].addr, "POST", &path, &headers, body.as_bytes()).await;
        self.slow.hears(before + 1).await;
        socket
    }

    /// Of all gateways together, by the ledger: dollars of a team on that day.
    async fn spent(&self, team: usize, day: &str) -> u64 {
        let path = "/api/v1/usage?bucket=day&group_by=team&from=2027-02-20&to=2027-03-10";
        let answer = self.gateways[0].admin("GET", path, "").await.json();
        let rows = answer["data"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let mine = |row: &&Value| row["day"] == day && row["team"] == format!("t{team}");
        rows.iter()
            .filter(mine)
            .map(|row| row["cost_usd"].as_u64().unwrap_or_else(|| panic!("whole dollars: {row}")))
            .sum()
    }

    /// Its budget of this moment: dollars that are spent, and held.
    async fn budget(&self, team: usize) -> (f64, f64) {
        let answer = self.gateways[0].admin("GET", "/api/v1/budgets", "").await.json();
        let rows = answer["data"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let scope = format!("team:t{team}");
        let row = rows.iter().find(|row| row["scope"] == scope).unwrap_or_else(|| panic!("{answer}"));
        // Not read yet: no number.
        let usd = |field: &str| row[field].as_f64().unwrap_or(-1.0);
        (usd("spent_usd"), usd("reserved_usd"))
    }
}

/// As much as somebody asks for, and never more than the arithmetic allows: `burst` at once and `a_second` more as time passes.
async fn hammer<F: Future<Output = u16>>(until: usize, burst: usize, a_second: f64, ask: impl Fn(usize) -> F) {
    let (admitted, turn, began) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    let one = || async {
        while admitted.load(Ordering::SeqCst) < until {
            if ask(turn.fetch_add(1, Ordering::SeqCst)).await == 200 {
                // It was admitted before its answer came.
                let count = admitted.fetch_add(1, Ordering::SeqCst) + 1;
                let most = burst as f64 + began.elapsed().as_secs_f64() * a_second;
                assert!(count as f64 <= most + 1.0, "{count} after {:?}", began.elapsed());
            }
            assert!(began.elapsed() < Duration::from_secs(120), "nobody is let in any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    join_all((0..6).map(|_| one())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_that_passes_under_traffic_gives_its_rate_and_no_second_burst() {
    let team = ["limits = { requests_per_minute = 90 }"];
    let house = House::of(1, SLED, &team, &[]).await;
    hammer(95, 90, 1.5, |turn| house.ask(0, turn)).await;
    let Some(server) = Server::start(&[]) else { return };
    let house = House::of(3, &redis(&server), &team, &[]).await;
    hammer(95, 90, 1.5, |turn| house.ask(0, turn)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_ends_under_traffic_leaves_two_days_that_the_ledger_confirms() {
    let Some(wall) = Wall::new() else { return };
    over_midnight(&wall, 1, SLED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_ends_for_two_gateways_on_redis_is_the_same_day_for_both() {
    let (Some(wall), Some(server)) = (Wall::new(), Server::start(&[])) else { return };
    over_midnight(&wall, 2, &redis(&server)).await;
}

const DOLLARS: u64 = 12;
const CALLS: u64 = 15;

async fn over_midnight(wall: &Wall, gateways: usize, store: &str) {
    let before = |seconds: u64| midnight() - Duration::from_secs(seconds);
    wall.shows(before(600));
    let teams = ["budget = { usd = 12, per = \"day\" }", "limits = { requests_per_day = 15 }"];
    let mut house = House::of(gateways, store, &teams, &wall.env()).await;
    for turn in 0..4 {
        assert_eq!((house.ask(0, turn).await, house.ask(1, turn).await), (200, 200));
    }
    // These begin before midnight and end behind it: they are the old day's.
    let mut late = vec![house.under_way(0).await, house.under_way(1).await];
    wall.shows(before(1));
    let crossed = AtomicBool::new(false);
    let asking = |team: usize| {
        let (house, crossed) = (&house, &crossed);
        async move {
            // Refused on the new day: it is used up.
            for turn in 0.. {
                let was = crossed.load(Ordering::SeqCst);
                if house.ask(team, turn).await == 429 && was {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    let crossing = async {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        crossed.store(true, Ordering::SeqCst);
    };
    join(join_all([0, 0, 0, 1, 1, 1].map(asking)), crossing).await;
    for socket in &mut late {
        assert_eq!(read_rest(socket, Vec::new()).await.status, 200);
    }
    let heard = || (house.upstream.heard().len() + house.slow.heard().len()) as u64;
    eventually("all of it is in the ledger", async || {
        let mut sum = 0;
        for team in [0, 1] {
            sum += house.spent(team, BEFORE).await + house.spent(team, AFTER).await;
        }
        sum == heard()
    })
    .await;
    for (team, bound) in [(0, DOLLARS), (1, CALLS)] {
        assert_eq!(house.spent(team, AFTER).await, bound, "the new day has what it may have");
        let old = house.spent(team, BEFORE).await;
        assert!((5..=bound).contains(&old), "{old} of {bound}");
    }
    eventually("the budget says the same", async || house.budget(0).await == (DOLLARS as f64, 0.0)).await;
    // A clock that goes back finds its day as it was left, and what was left of it.
    wall.shows(before(30));
    for (team, bound) in [(0, DOLLARS), (1, CALLS)] {
        let old = house.spent(team, BEFORE).await;
        assert_eq!(house.fill(team).await, bound - old, "team {team}");
        eventually("the ledger has all of it", async || house.spent(team, BEFORE).await == bound).await;
    }
    eventually("the budget says the same", async || house.budget(0).await == (DOLLARS as f64, 0.0)).await;
    assert_eq!(heard(), 2 * (DOLLARS + CALLS), "two days' worth");
    // And forward again, over a kill: nothing comes back.
    wall.shows(midnight() + Duration::from_secs(60));
    house.gateways[0].kill_and_restart().await;
    for team in [0, 1] {
        for turn in 0..2 * gateways {
            assert_eq!(house.ask(team, turn).await, 429, "team {team}");
        }
        assert_eq!(house.spent(team, AFTER).await, if team == 0 { DOLLARS } else { CALLS });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateways_clock_that_is_set_neither_refills_nor_locks_out() {
    let Some(wall) = Wall::new() else { return };
    wall.shows(midnight() - Duration::from_secs(12 * 3_600));
    let teams = ["limits = { requests_per_minute = 30 }", "budget = { usd = 3, per = \"day\" }"];
    let house = House::of(1, SLED, &teams, &wall.env()).await;
    let began = Instant::now();
    let mut admitted = house.fill(0).await;
    assert_eq!(house.fill(1).await, 3);
    // Within the day, to and fro.
    for hours in [13, 2, 8] {
        wall.shows(midnight() - Duration::from_secs(hours * 3_600));
        admitted += house.fill(0).await;
        let most = 30.0 + began.elapsed().as_secs_f64() / 2.0;
        assert!(admitted as f64 <= most + 1.0, "{admitted} after {:?}", began.elapsed());
        assert_eq!(house.ask(1, 0).await, 429);
        eventually("it goes on as time passes", async || house.ask(0, 0).await == 200).await;
        admitted += 1;
    }
    // Tomorrow has its own budget, and the day before it is not given a second one.
    wall.shows(midnight() + Duration::from_secs(3_600));
    assert_eq!(house.fill(1).await, 3);
    wall.shows(midnight() - Duration::from_secs(3_600));
    assert_eq!(house.ask(1, 0).await, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_of_redis_that_is_set_neither_refills_nor_locks_out_nor_lets_go_what_is_held() {
    let Some(wall) = Wall::new() else { return };
    let Some(server) = Server::in_env(&[], &wall.env()) else { return };
    let teams =
        ["limits = { requests_per_minute = 30 }", "budget = { usd = 3, per = \"total\" }\nlimits = { concurrent = 1 }"];
    let store = format!("{}budget_lease = \"2s\"\n", redis(&server));
    let house = House::of(2, &store, &teams, &[]).await;
    let began = Instant::now();
    let mut admitted = house.fill(0).await;
    for hours in [1, -1, 3, 0] {
        // One under way has the only place, and a third of the money.
        let mut held = if hours == 3 { Vec::new() } else { vec![house.under_way(1).await] };
        wall.ahead(hours * 3_600_000);
        admitted += house.fill(0).await;
        let most = 30.0 + began.elapsed().as_secs_f64() / 2.0;
        assert!(admitted as f64 <= most + 1.0, "{admitted} after {:?}", began.elapsed());
        for socket in &mut held {
            assert_eq!(house.ask(1, 1).await, 429, "its place is taken");
            assert_eq!(read_rest(socket, Vec::new()).await.status, 200);
        }
        eventually("it goes on as time passes", async || house.ask(0, 0).await == 200).await;
        admitted += 1;
    }
    eventually("what was under way is spent, once each", async || house.budget(1).await == (3.0, 0.0)).await;
    assert_eq!(house.ask(1, 0).await, 429);
}
