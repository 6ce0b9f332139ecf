use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    account::{Attempt, Record, usage::Sums},
    context::{Context, mint_id},
    model::{Format, Operation},
    store,
};

fn time(text: &str) -> SystemTime {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

fn asked(group_by: &str, more: &[(&str, &str)]) -> Asked {
    let mut asked = Asked { group_by: (!group_by.is_empty()).then(|| group_by.to_owned()), ..Asked::default() };
    for (name, value) in more {
        let value = (*value).to_owned();
        match *name {
            "bucket" => asked.bucket = Some(value),
            "tz" => asked.zone = Some(value),
            "from" => asked.from = Some(value),
            "to" => asked.to = Some(value),
            name => asked.only.push((Dimension::ALL.into_iter().find(|d| d.name() == name).unwrap(), value)),
        }
    }
    asked
}

fn labels(now: &str, bucket: &str, zone: &str, from: &str, to: &str) -> Vec<(String, u32)> {
    let more = [("bucket", bucket), ("tz", zone), ("from", from), ("to", to)];
    let report = Report::read(asked("", &more), time(now)).unwrap();
    report.windows().into_iter().map(|w| (w.label.unwrap(), w.to.0 - w.from.0)).collect()
}

#[test]
fn days_of_a_zone_have_the_hours_that_its_clocks_give_them() {
    let day = |zone: &str, from: &str, to: &str| labels("2026-12-01T00:00:00Z", "day", zone, from, to);
    let hours = |days: Vec<(String, u32)>| days.into_iter().map(|(day, m)| (day, m / 60)).collect::<Vec<_>>();
    let named = |days: &[(&str, u32)]| days.iter().map(|(d, h)| ((*d).to_owned(), *h)).collect::<Vec<_>>();
    assert_eq!(
        hours(day("Europe/Berlin", "2026-10-24", "2026-10-27")),
        named(&[("2026-10-24", 24), ("2026-10-25", 25), ("2026-10-26", 24)])
    );
    assert_eq!(
        hours(day("Europe/Berlin", "2026-03-28", "2026-03-31")),
        named(&[("2026-03-28", 24), ("2026-03-29", 23), ("2026-03-30", 24)])
    );
    // Clocks of one hour before midnight go on at midnight of the next day; a day begins at one there.
    assert_eq!(hours(day("Africa/Cairo", "2026-04-24", "2026-04-25")), named(&[("2026-04-24", 23)]));
    assert_eq!(
        hours(day("Asia/Kolkata", "2026-10-25", "2026-10-27")),
        named(&[("2026-10-25", 24), ("2026-10-26", 24)])
    );
    let kathmandu = Report::read(
        asked("", &[("bucket", "day"), ("tz", "Asia/Kathmandu"), ("from", "2026-11-20"), ("to", "2026-11-21")]),
        time("2026-12-01T00:00:00Z"),
    );
    let [window] = kathmandu.unwrap().windows().try_into().unwrap();
    assert_eq!(window.from.start(), time("2026-11-19T18:15:00Z"));
    // A day that was asked for in part is a part of a day.
    assert_eq!(
        labels("2026-12-01T00:00:00Z", "day", "UTC", "2026-11-30T18:00:00Z", "2026-12-01T00:00:00Z"),
        [("2026-11-30".to_owned(), 6 * 60)]
    );
}

#[test]
fn an_hour_that_is_there_twice_has_two_names() {
    let hours = labels(
        "2026-10-26T00:00:00Z",
        "hour",
        "Europe/Berlin",
        "2026-10-25T00:00:00+02:00",
        "2026-10-25T05:00:00+01:00",
    );
    let names: Vec<&str> = hours.iter().map(|(label, _)| label.as_str()).collect();
    assert_eq!(
        names,
        [
            "2026-10-25T00:00+02:00",
            "2026-10-25T01:00+02:00",
            "2026-10-25T02:00+02:00",
            "2026-10-25T02:00+01:00",
            "2026-10-25T03:00+01:00",
            "2026-10-25T04:00+01:00"
        ]
    );
    assert!(hours.iter().all(|(_, minutes)| *minutes == 60));
    let half = labels("2026-11-26T12:00:00Z", "hour", "Asia/Kolkata", "2026-11-26T06:00:00Z", "2026-11-26T07:00:00Z");
    assert_eq!(half, [("2026-11-26T11:00+05:30".to_owned(), 30), ("2026-11-26T12:00+05:30".to_owned(), 30)]);
}

#[test]
fn months_are_those_of_the_zone() {
    let months = labels("2026-12-01T00:00:00Z", "month", "Europe/Berlin", "2026-09-15", "2026-12-01");
    let told: Vec<(&str, u32)> = months.iter().map(|(label, minutes)| (label.as_str(), minutes / 60)).collect();
    assert_eq!(told, [("2026-09", 16 * 24), ("2026-10", 31 * 24 + 1), ("2026-11", 30 * 24)]);
}

#[test]
fn what_cannot_be_asked_says_what_can() {
    let now = time("2026-11-26T12:00:00Z");
    for (asked, part, words) in [
        (asked("colour", &[]), "group_by", "organisation, team, user, key, model, target, provider, tag, minute"),
        (asked("team,team", &[]), "group_by", "twice"),
        (asked("day,month", &[]), "group_by", "one window at a time"),
        (asked("", &[("bucket", "week")]), "bucket", "minute, hour, day, month"),
        (asked("", &[("tz", "Berlin")]), "tz", "Europe/Berlin"),
        (asked("", &[("from", "yesterday")]), "from", "2026-01-31"),
        (asked("", &[("from", "2026-01-02"), ("to", "2026-01-01")]), "from", "later than"),
        (asked("", &[("bucket", "minute"), ("from", "2026-11-25T11:59:00Z")]), "from", "24 hours"),
        (asked("", &[("bucket", "hour"), ("from", "2026-01-01")]), "from", "94 days"),
        (asked("", &[("bucket", "day"), ("from", "1970-01-01")]), "bucket", "more than"),
    ] {
        let fault = Report::read(asked.clone(), now).unwrap_err();
        assert!(fault.part == part && fault.message.contains(words), "{asked:?}: {fault:?}");
    }
    let usual = Report::read(Asked::default(), now).unwrap();
    assert_eq!((usual.by, usual.bucket), (vec![Dimension::Team], None));
    let window = Report::read(asked("day", &[]), now).unwrap();
    assert_eq!((window.by, window.bucket), (vec![], Some(Bucket::Day)));
}

async fn some() -> Sums {
    let now = time("2026-11-26T12:00:00Z");
    let sums = Sums::open(store::memory(), "", now).await.unwrap();
    let request = |when: &str, team: &str, tags: &[&str], cost: i64| {
        let cx = Context::aside(Operation::Chat, Format::Gemini, Default::default(), vec![], std::time::Instant::now());
        let mut record = Record { id: mint_id(time(when)), model: "smart".into(), status: 200, ..Record::of(&cx) };
        record.team = (!team.is_empty()).then(|| team.into());
        record.target = Some("up/m".into());
        record.tags = tags.iter().map(|tag| tag.split_once('=').map(|(n, v)| (n.into(), v.into())).unwrap()).collect();
        record.charge(Attempt {
            number: 1,
            target: "up/m".into(),
            outcome: "ok".into(),
            usage: None,
            cost_nano_usd: Some(cost),
            price: None,
            estimated: false,
            took: Duration::ZERO,
        });
        record
    };
    let all = [
        request("2026-11-24T22:59:00Z", "red", &["env=a"], 1),
        request("2026-11-24T23:00:00Z", "red", &["env=a", "app=x"], 10),
        request("2026-11-25T22:59:59Z", "=cmd|' /C calc'!A0", &[], 100),
        request("2026-11-26T11:30:00Z", "", &["env=b"], 1_000),
    ];
    sums.add(all.iter(), None);
    sums
}

async fn told(sums: &Sums, asked: Asked) -> Vec<(String, u64)> {
    let report = Report::read(asked, time("2026-11-26T12:00:00Z")).unwrap();
    let mut told = Vec::new();
    for window in report.windows() {
        for row in report.rows(sums, &window).await.unwrap() {
            let names = row.window.into_iter().chain(row.names).collect::<Vec<_>>().join(" ");
            told.push((names, row.sum.cost_nano_usd));
        }
    }
    told
}

fn rows(all: &[(&str, u64)]) -> Vec<(String, u64)> {
    all.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect()
}

#[tokio::test]
async fn rows_are_grouped_by_several_things_and_by_days_of_a_zone() {
    let sums = some().await;
    let berlin = told(&sums, asked("day", &[("tz", "Europe/Berlin"), ("from", "2026-11-24")])).await;
    assert_eq!(berlin, rows(&[("2026-11-24", 1), ("2026-11-25", 110), ("2026-11-26", 1_000)]));
    let utc = told(&sums, asked("day", &[("from", "2026-11-24")])).await;
    assert_eq!(utc, rows(&[("2026-11-24", 11), ("2026-11-25", 100), ("2026-11-26", 1_000)]));
    let both = told(&sums, asked("team,provider", &[("bucket", "month"), ("from", "2026-11-01")])).await;
    assert_eq!(both, rows(&[("2026-11  up", 1_000), ("2026-11 =cmd|' /C calc'!A0 up", 100), ("2026-11 red up", 11)]));
    // A request counts for each of its tags.
    assert_eq!(
        told(&sums, asked("tag", &[])).await,
        rows(&[("", 100), ("app=x", 10), ("env=a", 11), ("env=b", 1_000)])
    );
    assert_eq!(told(&sums, asked("team", &[("tag", "env=a")])).await, rows(&[("red", 11)]));
    assert_eq!(
        told(&sums, asked("team", &[("tag", ""), ("provider", "up")])).await,
        rows(&[("=cmd|' /C calc'!A0", 100)])
    );
    assert_eq!(told(&sums, asked("provider", &[("team", "")])).await, rows(&[("up", 1_000)]));
    let minute = told(&sums, asked("", &[("bucket", "minute")])).await;
    assert_eq!(minute, rows(&[("2026-11-26T11:30Z", 1_000)]));
}

#[tokio::test]
async fn who_may_not_see_everything_sees_its_own() {
    let sums = some().await;
    let report = Report::read(asked("provider", &[("from", "1970-01-01")]), time("2026-11-26T12:00:00Z")).unwrap();
    let mine = report.seen_by(Seen(Arc::new(|team: &str, _: &str| team == "red")));
    let rows = mine.rows(&sums, &mine.windows()[0]).await.unwrap();
    assert_eq!((rows.len(), rows[0].sum.cost_nano_usd), (1, 11));
    sums.checkpoint().await.unwrap();
    sums.sweep(time("2029-01-01T00:00:00Z"), Duration::from_secs(366 * 86_400)).await.unwrap();
    assert!(mine.rows(&sums, &mine.windows()[0]).await.unwrap().is_empty(), "old sums of all teams together");
}

#[tokio::test]
async fn a_report_is_json_and_csv_without_floats_or_formulas() {
    let sums = some().await;
    let report = Report::read(asked("team,tag", &[("bucket", "day")]), time("2026-11-26T12:00:00Z")).unwrap();
    let mut csv = table::csv_head(&report);
    let mut lines = Vec::new();
    for window in report.windows() {
        for row in report.rows(&sums, &window).await.unwrap() {
            csv.extend(table::csv(&report, &row));
            lines.push(table::json(&report, &row).to_string());
        }
    }
    let csv = String::from_utf8(csv).unwrap();
    let head = csv.lines().next().unwrap();
    assert!(head.starts_with("day,team,tag,requests,errors,attempts,input_tokens,"), "{head}");
    assert!(head.contains(",cost_usd,") && head.ends_with(",web_searches,cache_read_audio_tokens"), "{head}");
    assert!(csv.contains("2026-11-25,'=cmd|' /C calc'!A0,,1,0,1,"), "{csv}");
    assert!(csv.contains(",0.000001,"), "{csv}");
    assert!(lines[0].starts_with(r#"{"day":"2026-11-24","team":"red","tag":"app=x","requests":1,"#), "{}", lines[0]);
    assert!(lines[0].contains(r#""cost_usd":0.00000001,"#), "{}", lines[0]);
    assert!(lines.last().unwrap().contains(r#""team":null"#), "{lines:?}");
    for (name, cell) in [("-1", "'-1"), ("@x", "'@x"), ("+1", "'+1"), ("a=b", "a=b"), ("\tx", "'\tx"), ("", "")] {
        assert_eq!(table::text(name), cell);
    }
    assert_eq!(table::record(["a,b", "c\"d", "e\nf"].iter()), b"\"a,b\",\"c\"\"d\",\"e\nf\"\r\n");
}

#[tokio::test]
async fn what_is_older_than_sums_are_kept_is_told_by_one_thing_at_a_time() {
    let sums = some().await;
    sums.checkpoint().await.unwrap();
    sums.sweep(time("2029-01-01T00:00:00Z"), Duration::from_secs(366 * 86_400)).await.unwrap();
    let all = [("from", "1970-01-01")];
    assert_eq!(told(&sums, asked("provider", &all)).await, rows(&[("up", 1_111)]));
    assert_eq!(
        told(&sums, asked("tag", &all)).await,
        rows(&[("", 100), ("app=x", 10), ("env=a", 11), ("env=b", 1_000)])
    );
    assert_eq!(told(&sums, asked("team,model", &all)).await, rows(&[("(older) (older)", 1_111)]));
    assert_eq!(told(&sums, asked("team", &[("from", "1970-01-01"), ("team", "red")])).await, rows(&[("red", 11)]));
    assert!(told(&sums, asked("team", &[])).await.is_empty());
}
