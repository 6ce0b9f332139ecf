//! When more is asked than can be served: turns at the gateway and at targets, who goes first, who is refused and what they are
//! told; and promises 20 and 30 on real sockets, against an upstream that sets the capacity itself.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    family::{FAMILIES, Openai},
    support::{Answer, End, Gateway, Process, Say, Upstream, begin, eventually, read_rest, read_until, request},
};

const CLOSED: &str = "[auth]\nrequired = true\n";

fn slow(time: u64) -> Say {
    Say::json(Openai.whole("x")).wait(Duration::from_millis(time))
}

/// A model `m` of one target that takes `concurrency` calls.
fn house(upstream: &Upstream, concurrency: &str, more: &str) -> String {
    let provider = upstream.provider("up", "openai_chat");
    format!(
        "{provider}[models.m]\ntargets = [{{ provider = \"up\", model = \"m\", concurrency = {concurrency} }}]\n{more}"
    )
}

async fn ask(addr: SocketAddr, key: &str, priority: &str) -> TcpStream {
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
    if !priority.is_empty() {
        headers.push(("x-portcullis-priority", priority));
    }
    begin(addr, "POST", "/v1/chat/completions", &headers, Openai.body("m", false, "hello").as_bytes()).await
}

async fn answer(mut socket: TcpStream) -> Answer {
    read_rest(&mut socket, Vec::new()).await
}

/// The value of a metric's line that begins so.
fn metric(text: &str, line: &str) -> u64 {
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse::<f64>().ok());
    found.map_or(0, |value| value as u64)
}

async fn waiting(gateway: &Gateway, at: &str) -> u64 {
    let text = gateway.admin("GET", "/metrics", "").await.text();
    metric(&text, &format!("portcullis_queue_length{{at=\"{at}\"}}"))
}

async fn waits(gateway: &Gateway, at: &str, count: u64) {
    eventually("they wait for their turn", async || waiting(gateway, at).await == count).await;
}

#[tokio::test]
async fn whoever_finds_a_full_target_goes_to_one_with_room() {
    let (a, b) = (Upstream::saying(slow(60_000)).await, Upstream::saying(slow(0)).await);
    let gateway = Gateway::start(&format!(
        "{}{}[models.m]\ntargets = [{{ provider = \"a\", model = \"m\", concurrency = 1 }}, {{ provider = \"b\", model = \"m\" }}]\n",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat")
    ))
    .await;
    let _first = ask(gateway.addr, "", "").await;
    a.hears(1).await;
    let second = gateway.chat(&Openai.body("m", false, "hello")).await;
    assert_eq!((second.status, second.header("x-portcullis-target")), (200, Some("b/m")));
    assert_eq!(a.heard().len(), 1);
}

#[tokio::test]
async fn when_all_are_full_the_first_free_place_is_taken() {
    let (a, b) = (Upstream::saying(slow(60_000)).await, Upstream::start().await);
    b.then(slow(300)).always(slow(0));
    let gateway = Gateway::start(&format!(
        "{}{}[models.m]\ntargets = [{{ provider = \"a\", model = \"m\", concurrency = 1 }}, {{ provider = \"b\", model = \"m\", concurrency = 1 }}]\n",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat")
    ))
    .await;
    let _first = ask(gateway.addr, "", "").await;
    a.hears(1).await;
    let second = ask(gateway.addr, "", "").await;
    b.hears(1).await;
    let third = gateway.chat(&Openai.body("m", false, "hello")).await;
    assert_eq!((third.status, third.header("x-portcullis-target")), (200, Some("b/m")), "{}", third.text());
    assert_eq!(answer(second).await.status, 200);
    let trace = gateway.record(2).await;
    assert!(trace.to_string().contains("for its turn at b/m"), "{trace}");
}

/// Promise 20, at a target and at the gateway itself.
#[tokio::test]
async fn a_client_that_leaves_while_it_waits_is_out_of_the_queue() {
    for (at, more) in [("up/m", ""), ("gateway", "[overload]\nmax_in_flight = 1\nwait = \"60s\"\n")] {
        let upstream = Upstream::saying(slow(60_000)).await;
        let gateway = Gateway::start(&house(&upstream, if more.is_empty() { "1" } else { "9" }, more)).await;
        let running = ask(gateway.addr, "", "").await;
        upstream.hears(1).await;
        let line = [ask(gateway.addr, "", "").await, ask(gateway.addr, "", "").await];
        waits(&gateway, at, 2).await;
        drop(line);
        waits(&gateway, at, 0).await;
        upstream.always(slow(0));
        drop(running);
        upstream.is_cancelled(1).await;
        assert_eq!(gateway.chat(&Openai.body("m", false, "hello")).await.status, 200, "{at}: the place is free again");
        assert_eq!(upstream.heard().len(), 2, "{at}: those who left were never sent");
    }
}

#[tokio::test]
async fn who_is_refused_is_told_when_to_come_back_in_its_own_format() {
    let upstream = Upstream::saying(slow(60_000)).await;
    let gateway = Gateway::start(&house(&upstream, "1", "[overload]\nqueue = 0\n")).await;
    let _running = ask(gateway.addr, "", "").await;
    upstream.hears(1).await;
    for family in FAMILIES {
        let refused = family.ask(&gateway, "m", false).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        let error = family.error(&refused);
        assert_eq!(error.code, "overloaded", "{error:?}");
        assert!(error.message.contains("up/m is busy"), "{error:?}");
        let wait: u64 = refused.header("retry-after").expect("a wait").parse().expect("seconds");
        assert!((1..=60).contains(&wait));
        assert_eq!(refused.header("x-should-retry"), None, "its own SDK may try again");
    }
    let metrics = gateway.admin("GET", "/metrics", "").await.text();
    let line = "portcullis_shed_total{at=\"target\",priority=\"normal\",reason=\"queue_full\"}";
    assert!(metric(&metrics, line) >= 3, "{metrics}");
}

#[tokio::test]
async fn a_turn_that_does_not_come_in_time_is_a_503() {
    let upstream = Upstream::saying(slow(60_000)).await;
    let gateway = Gateway::start(&house(&upstream, "1", "[overload]\nwait = \"200ms\"\n")).await;
    let _running = ask(gateway.addr, "", "").await;
    upstream.hears(1).await;
    let late = gateway.chat(&Openai.body("m", false, "hello")).await;
    assert_eq!((late.status, Openai.error(&late).code.as_str()), (503, "overloaded"), "{}", late.text());
    assert!(Openai.error(&late).message.contains("no turn came in time"), "{}", late.text());
    let record = gateway.record(1).await;
    assert!(record.to_string().contains("\"code\":\"full\""), "{record}");
}

/// What a key may ask for, and what it gets without a word: seen in who is served first.
#[tokio::test]
async fn priority_is_the_teams_or_the_keys_and_a_header_asks_for_no_more() {
    let upstream = Upstream::start().await;
    upstream.then(slow(2_000)).always(slow(0));
    let teams = "[teams.top]\npriority = \"high\"\n[teams.plain]\n[teams.batch]\npriority = \"low\"\n";
    let config = format!("{CLOSED}{}", house(&upstream, "1", &format!("[overload]\nwait = \"60s\"\n{teams}")));
    let gateway = Gateway::start(&config).await;
    let key = async |body: &str| gateway.key(body).await.1;
    let top = key(r#"{"name":"a","team":"top"}"#).await;
    let plain = key(r#"{"name":"b","team":"plain"}"#).await;
    let batch = key(r#"{"name":"c","team":"batch"}"#).await;
    let running = ask(gateway.addr, &plain, "").await;
    upstream.hears(1).await;
    // In the order of their coming; each names itself in its text.
    let mut line = Vec::new();
    for (n, (who, key, asks)) in [
        ("batch that asks for high", &batch, "high"),
        ("top that asks for low", &top, "low"),
        ("plain that asks for high", &plain, "high"),
        ("top", &top, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let bearer = format!("Bearer {key}");
        let mut headers = vec![("authorization", bearer.as_str())];
        if !asks.is_empty() {
            headers.push(("x-portcullis-priority", asks));
        }
        let body = Openai.body("m", false, who);
        line.push(begin(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await);
        waits(&gateway, "up/m", n as u64 + 1).await;
    }
    for socket in line {
        assert_eq!(answer(socket).await.status, 200);
    }
    assert_eq!(answer(running).await.status, 200);
    let order: Vec<String> = upstream.heard().iter().skip(1).map(|heard| text_of(&heard.json())).collect();
    assert_eq!(order[..2], ["top", "plain that asks for high"]);
    // Both are low; of two teams that had nothing yet either may be first.
    assert!(order[2..].iter().all(|who| who.starts_with("batch") || who.starts_with("top that")), "{order:?}");
}

fn text_of(body: &Value) -> String {
    body["messages"][0]["content"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn with_a_full_queue_a_lower_priority_gives_way() {
    let upstream = Upstream::start().await;
    upstream.then(slow(2_000)).always(slow(0));
    let teams = "[teams.top]\npriority = \"high\"\n[teams.batch]\npriority = \"low\"\n";
    let more = format!("[overload]\nwait = \"60s\"\nqueue = 2\n{teams}");
    let gateway = Gateway::start(&format!("{CLOSED}{}", house(&upstream, "1", &more))).await;
    let top = gateway.key(r#"{"name":"a","team":"top"}"#).await.1;
    let batch = gateway.key(r#"{"name":"c","team":"batch"}"#).await.1;
    let running = ask(gateway.addr, &batch, "").await;
    upstream.hears(1).await;
    let older = ask(gateway.addr, &batch, "").await;
    waits(&gateway, "up/m", 1).await;
    let newer = ask(gateway.addr, &batch, "").await;
    waits(&gateway, "up/m", 2).await;
    let boss = ask(gateway.addr, &top, "").await;
    let displaced = answer(newer).await;
    assert_eq!(displaced.status, 503, "{}", displaced.text());
    assert!(Openai.error(&displaced).message.contains("higher priority"), "{}", displaced.text());
    let also = answer(ask(gateway.addr, &batch, "").await).await;
    assert_eq!(also.status, 503, "nobody gives way to a lower one");
    for socket in [running, boss, older] {
        assert_eq!(answer(socket).await.status, 200);
    }
}

#[tokio::test]
async fn a_stream_has_its_place_until_its_end() {
    let upstream = Upstream::start().await;
    let frames = Openai.frames(&["x"]);
    upstream.then(Say::sse(frames[..2].concat()).end(End::Stall));
    upstream.always(slow(0));
    let gateway = Gateway::start(&house(&upstream, "1", "[overload]\nwait = \"60s\"\n")).await;
    let headers = [("content-type", "application/json")];
    let body = Openai.body("m", true, "hello");
    let mut stream = begin(gateway.addr, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
    read_until(&mut stream, "data:").await;
    let next = ask(gateway.addr, "", "").await;
    waits(&gateway, "up/m", 1).await;
    drop(stream);
    assert_eq!(answer(next).await.status, 200);
}

#[tokio::test]
async fn a_reload_gives_more_places_to_those_who_wait() {
    let upstream = Upstream::start().await;
    upstream.then(slow(60_000)).always(slow(0));
    let more = "[overload]\nwait = \"60s\"\n";
    let gateway = Gateway::start(&house(&upstream, "1", more)).await;
    let _running = ask(gateway.addr, "", "").await;
    upstream.hears(1).await;
    let next = ask(gateway.addr, "", "").await;
    waits(&gateway, "up/m", 1).await;
    gateway.rewrite(&house(&upstream, "2", more));
    assert_eq!(answer(next).await.status, 200);
}

#[tokio::test]
async fn a_full_gateway_still_tells_about_itself() {
    let upstream = Upstream::saying(slow(60_000)).await;
    let more = "[overload]\nmax_in_flight = 1\nqueue = 1\nwait = \"60s\"\n";
    let gateway = Gateway::start(&house(&upstream, "9", more)).await;
    let _running = ask(gateway.addr, "", "").await;
    upstream.hears(1).await;
    let _waits = ask(gateway.addr, "", "").await;
    waits(&gateway, "gateway", 1).await;
    let refused = gateway.chat(&Openai.body("m", false, "hello")).await;
    assert_eq!(refused.status, 503);
    assert!(Openai.error(&refused).message.contains("the gateway is busy"), "{}", refused.text());
    for path in ["/health/live", "/health/ready", "/v1/models"] {
        assert_eq!(gateway.get(path).await.status, 200, "{path}");
    }
    assert_eq!(gateway.admin("GET", "/api/v1/models", "").await.status, 200);
    let explained = gateway.admin("POST", "/api/v1/explain", &explain(&Openai.body("m", false, "hello"))).await;
    assert_eq!(explained.status, 200, "{}", explained.text());
    let told = explained.json();
    assert_eq!(told["candidates"][0]["places"]["limit"], 9, "{told}");
    assert_eq!(told["candidates"][0]["places"]["taken"], 1, "{told}");
    let notes = told["notes"].to_string();
    assert!(notes.contains("1 of 1 requests run, 1 wait"), "{told}");
    let line =
        "would wait for its turn at the gateway: 1 of 1 places are taken, 1 turns come first, and its queue is full";
    assert!(notes.contains(line), "{told}");
}

#[tokio::test]
async fn an_explanation_says_where_a_request_would_wait_and_who_is_asked_instead() {
    let (a, b) = (Upstream::saying(slow(60_000)).await, Upstream::saying(slow(60_000)).await);
    let targets = |b: &str| {
        format!(
            "targets = [{{ provider = \"a\", model = \"m\", concurrency = 1 }}, {{ provider = \"b\", model = \"m\"{b} }}]"
        )
    };
    let gateway = Gateway::start(&format!(
        "{}{}[models.m]\n{}\n[models.n]\n{}\n",
        a.provider("a", "openai_chat"),
        b.provider("b", "openai_chat"),
        targets(", concurrency = 1"),
        targets("").replace("\"b\", model = \"m\"", "\"b\", model = \"n\"")
    ))
    .await;
    let notes = async |model: &str| {
        let asked = explain(&Openai.body(model, false, "hello"));
        gateway.admin("POST", "/api/v1/explain", &asked).await.json()["notes"].to_string()
    };
    assert!(!notes("m").await.contains("place"), "there is room");
    let _first = ask(gateway.addr, "", "").await;
    a.hears(1).await;
    let told = notes("m").await;
    assert!(
        told.contains("no place is free at a/m (1 of 1 places are taken, 0 turns come first): b/m is asked"),
        "{told}"
    );
    let _second = ask(gateway.addr, "", "").await;
    b.hears(1).await;
    let told = notes("m").await;
    let both = "would wait for the first free place at a/m (1 of 1 places are taken, 0 turns come first), b/m (1 of 1";
    assert!(told.contains(both), "{told}");
    let told = notes("n").await;
    assert!(told.contains(": b/n is asked instead"), "{told}");
}

fn explain(request: &str) -> String {
    format!("{{\"request\":{request}}}")
}

/// An upstream of its own capacity: so many calls at a time, each as long; what is more waits there without end.
struct Crowded {
    addr: SocketAddr,
    served: Arc<AtomicU64>,
}

impl Crowded {
    async fn start(places: usize, time: Duration) -> Crowded {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let (addr, served) = (listener.local_addr().expect("addr"), Arc::new(AtomicU64::new(0)));
        let (room, counted) = (Arc::new(Semaphore::new(places)), served.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(one_by_one(socket, room.clone(), time, counted.clone()));
            }
        });
        Crowded { addr, served }
    }
}

async fn one_by_one(mut socket: TcpStream, room: Arc<Semaphore>, time: Duration, served: Arc<AtomicU64>) {
    let body = Openai.whole("x");
    let answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (mut buffer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        // Requests are small and come one after the other: one is there when its body closes its braces.
        while !buffer.ends_with(b"}") {
            match socket.read(&mut piece).await {
                Ok(count @ 1..) => buffer.extend_from_slice(&piece[..count]),
                _ => return,
            }
        }
        buffer.clear();
        {
            let _place = room.acquire().await.expect("never closed");
            tokio::time::sleep(time).await;
        }
        served.fetch_add(1, Ordering::Relaxed);
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// What came of the requests of one phase.
#[derive(Default)]
struct Came {
    good: usize,
    refused: usize,
    other: Vec<u16>,
    /// Of the good ones.
    took: Vec<Duration>,
    without_wait: usize,
}

impl Came {
    fn note(&mut self, (answer, took): (Answer, Duration)) {
        match answer.status {
            200 => {
                self.good += 1;
                self.took.push(took);
            }
            503 => {
                self.refused += 1;
                self.without_wait += usize::from(answer.header("retry-after").is_none());
            }
            other => self.other.push(other),
        }
    }

    fn slowest(&self) -> Duration {
        self.took.iter().max().copied().unwrap_or_default()
    }
}

/// Open loop: one request each `pause`, whatever became of those before, for `time`.
async fn load(addr: SocketAddr, key: &str, rate: f64, time: Duration) -> Came {
    let (began, mut asked, mut came) = (Instant::now(), 0u32, Came::default());
    let mut under_way = JoinSet::new();
    while began.elapsed() < time {
        // On a machine that was busy several are due at once.
        while f64::from(asked) < began.elapsed().as_secs_f64() * rate {
            asked += 1;
            let key = key.to_owned();
            under_way.spawn(async move {
                let began = Instant::now();
                let answer = answer(ask(addr, &key, "").await).await;
                (answer, began.elapsed())
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        while let Some(done) = under_way.try_join_next() {
            came.note(done.expect("asked"));
        }
    }
    while let Some(done) = under_way.join_next().await {
        came.note(done.expect("asked"));
    }
    came
}

/// Promise 30. The upstream serves 4 at a time in 200 ms: 20 a second, which is nothing to the processor.
#[tokio::test]
async fn goodput_at_several_times_the_load_stays_near_its_peak() {
    let long = std::env::var_os("PORTCULLIS_LONG").is_some();
    let (phase, loads): (_, &[f64]) = match long {
        true => (Duration::from_secs(20), &[1.0, 2.0, 3.0, 4.0, 5.0]),
        false => (Duration::from_secs(4), &[1.0, 3.0, 5.0]),
    };
    let upstream = Crowded::start(4, Duration::from_millis(200)).await;
    let config = format!(
        "{CLOSED}[providers.up]\nbase_url = \"http://{}/v1\"\nformat = \"openai_chat\"\nauth = \"none\"\n\
         [models.m]\ntargets = [{{ provider = \"up\", model = \"m\", concurrency = 4 }}]\n\
         [overload]\nqueue = 20\nwait = \"2s\"\n[teams.top]\npriority = \"high\"\n[teams.crowd]\n",
        upstream.addr
    );
    let gateway = Process::start(&config, &[]).await;
    let key =
        async |body: &str| gateway.admin("POST", "/api/v1/keys", body).await.json()["key"].as_str().unwrap().to_owned();
    let top = key(r#"{"name":"a","team":"top"}"#).await;
    let crowd = key(r#"{"name":"b","team":"crowd"}"#).await;
    let memory = gateway.memory();
    let mut goodputs = Vec::new();
    for times in loads {
        let (before, began) = (upstream.served.load(Ordering::Relaxed), Instant::now());
        // A tenth of the capacity is asked for by the high priority, as much each time.
        let (high, low, told) = tokio::join!(
            load(gateway.addr, &top, 2.0, phase),
            load(gateway.addr, &crowd, 20.0 * times - 2.0, phase),
            looked_at(&gateway, phase)
        );
        let served = upstream.served.load(Ordering::Relaxed) - before;
        let goodput = (high.good + low.good) as f64 / began.elapsed().as_secs_f64();
        goodputs.push(goodput);
        println!(
            "{times}x: goodput {goodput:.1}/s, high {} good {:?}, crowd {} good {:?} and {} refused, upstream {served}, queue at most {}",
            high.good,
            high.slowest(),
            low.good,
            low.slowest(),
            low.refused,
            told.longest
        );
        assert!(high.other.is_empty() && low.other.is_empty(), "{:?} {:?}", high.other, low.other);
        assert_eq!((high.refused, low.without_wait), (0, 0), "at {times}x: high priority is not refused");
        assert_eq!(served as usize, high.good + low.good, "what was sent upstream had somebody waiting for it");
        assert!(told.longest <= 20 && told.looks > 0, "{}", told.longest);
        if *times >= 3.0 {
            assert!(low.refused > 0, "at {times}x there is not room for all");
        }
    }
    let peak = goodputs.iter().copied().fold(0.0, f64::max);
    for (times, goodput) in loads.iter().zip(&goodputs).filter(|(times, _)| **times >= 3.0) {
        assert!(*goodput >= 0.8 * peak, "goodput at {times}x is {goodput:.1} of {peak:.1} at its peak");
    }
    // It is over as soon as the load is.
    let calm = Instant::now();
    loop {
        let five = load(gateway.addr, &crowd, 5.0, Duration::from_secs(1)).await;
        if five.refused == 0 && five.good >= 3 && five.took.iter().all(|took| *took < Duration::from_secs(1)) {
            break;
        }
        assert!(calm.elapsed() < Duration::from_secs(10), "it has not recovered in ten seconds");
    }
    let grown = gateway.memory().saturating_sub(memory) >> 20;
    assert!(grown < 96, "{grown} MiB more");
}

/// What the admin port told during a phase.
struct Told {
    longest: u64,
    looks: u32,
}

async fn looked_at(gateway: &Process, time: Duration) -> Told {
    let (began, mut told) = (Instant::now(), Told { longest: 0, looks: 0 });
    while began.elapsed() < time {
        let text = gateway.metrics().await;
        told.longest = told.longest.max(metric(&text, "portcullis_queue_length{at=\"up/m\"}"));
        assert_eq!(request(gateway.addr, "GET", "/health/ready", &[], b"").await.status, 200);
        told.looks += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    told
}
