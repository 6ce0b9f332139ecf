//! What a choice among many targets is told at a glance is what a close look says, whatever was used, closed, reloaded or over.

use super::*;

#[test]
fn a_glance_says_what_a_close_look_says() {
    let mut rng = fastrand::Rng::with_seed(17);
    let (mut told, mut closed) = (0, 0);
    for round in 0..80 {
        virtually(async {
            let world = World::alone(&some(&mut rng), 1 + round % 2);
            let mut under_way = Vec::new();
            for _ in 0..150 {
                match rng.u32(0..8) {
                    0 => clock::sleep(Duration::from_millis(rng.u64(0..20 * 60_000))).await,
                    1 if rng.bool() => clock::sleep(Duration::from_secs(rng.u64(0..200_000))).await,
                    1..=4 => {
                        let key = rng.bool().then(|| rng.usize(0..1 + round % 2));
                        let need = Need { input_tokens: rng.u64(0..3), output_tokens: 0, nano_usd: 0 };
                        if let Ok(Some(taken)) = world.quotas.take(world.at(), key, || need).await {
                            world.quotas.heard(world.at(), key, Some(&taken), None);
                            under_way.push(taken.sent(1));
                        }
                    }
                    5 if !under_way.is_empty() => {
                        let used = Need { input_tokens: rng.u64(0..3), output_tokens: 0, nano_usd: 0 };
                        under_way.swap_remove(rng.usize(..under_way.len())).settle(Some(used));
                    }
                    6 if rng.u32(0..4) == 0 => {
                        let wait = rng.bool().then(|| Duration::from_secs(rng.u64(1..3_000)));
                        world.refuse(rng.bool().then_some(0), wait, None);
                    }
                    7 if rng.u32(0..4) == 0 => {
                        world.quotas.configure(&some(&mut rng), [&world.provider].into_iter());
                    }
                    _ => {}
                }
                let view = world.quotas.view(clock::now());
                // What was remembered of the keys says what they say.
                let (mut last, fresh) = (None, view.brief(&world.slot, false, &mut None));
                assert_eq!([(); 2].map(|()| view.brief(&world.slot, false, &mut last)), [fresh; 2]);
                let close = view.look(world.at());
                closed += u32::from(!close.open);
                for closely in [false, true] {
                    match view.brief(&world.slot, closely, &mut None) {
                        Brief::Open => {
                            assert!(close.open, "{close:?}");
                            assert!(!closely || close.left == u64::MAX, "{close:?}");
                        }
                        Brief::Left(share, resets_in) => {
                            assert!(closely && close.open, "{close:?}");
                            assert_eq!((share, resets_in), (close.share as f32, close.resets_in.or(close.lasts)));
                        }
                        Brief::Unsure => continue,
                    }
                    told += 1;
                }
            }
        });
    }
    assert!(told > 8_000 && closed > 500, "{told} were told, {closed} were closed");
}

/// Up to two quotas of the target, and one of each key.
fn some(rng: &mut fastrand::Rng) -> Configured {
    let utc = jiff::tz::TimeZone::UTC;
    let windows = [
        Every::Use(HOUR),
        Every::Use(7 * 24 * HOUR),
        Every::Grid(HOUR, UNIX_EPOCH),
        Every::Calendar(Per::Day, utc.clone()),
        Every::Calendar(Per::Total, utc),
    ];
    let mut one = |unit| quota(unit, rng.u64(1..30), windows[rng.usize(..windows.len())].clone());
    let (first, second, third) = (one(Unit::Requests), one(Unit::InputTokens), one(Unit::Requests));
    let targets = match rng.u32(0..4) {
        0 => Vec::new(),
        1 => vec![first, second],
        _ => vec![first],
    };
    let keys = if rng.u32(0..4) == 0 { vec![third] } else { Vec::new() };
    Configured { targets: of_target(targets).targets, keys: of_keys_each(keys).keys }
}
