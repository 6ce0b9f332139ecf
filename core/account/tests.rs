use std::sync::Arc;

use super::{
    catalog,
    price::{Rates, usd_text},
};
use crate::{
    config::{Catalogue, PriceService, PriceSheet, PriceTier, Prices, usd},
    model::{Billed, ServiceTier, Units, Usage},
};

/// A different prime for each kind, so that a token counted as another kind, or twice, shows in the sum.
fn primes() -> Prices {
    Prices {
        input: Some(2_000_000),
        output: Some(3_000_000),
        cache_read: Some(5_000_000),
        cache_write: Some(7_000_000),
        cache_write_1h: Some(11_000_000),
        reasoning: Some(13_000_000),
        input_audio: Some(17_000_000),
        output_audio: Some(19_000_000),
        request: Some(100_000),
        input_image: Some(23_000_000),
        output_image: Some(29_000_000),
        ..Prices::default()
    }
}

fn rates(prices: Prices, tiers: &[PriceTier]) -> Rates {
    Rates::new(&PriceSheet { prices, tiers: tiers.to_vec(), services: Vec::new() })
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() }
}

#[test]
fn counts_every_kind_of_token_once() {
    let all = Usage {
        cache_read_tokens: Some(100),
        cache_write_tokens: Some(60),
        cache_write_1h_tokens: Some(20),
        reasoning_tokens: Some(30),
        input_audio_tokens: Some(200),
        output_audio_tokens: Some(5),
        units: Units { input_image_tokens: Some(40), output_image_tokens: Some(3), ..Units::default() }.boxed(),
        ..usage(1_000, 80)
    };
    let input = 600 * 2 + 40 * 23 + 100 * 5 + 40 * 7 + 20 * 11 + 200 * 17;
    let output = 42 * 3 + 30 * 13 + 5 * 19 + 3 * 29;
    assert_eq!(self::rates(primes(), &[]).cost(&all), Some(input + output + 100_000));
}

#[test]
fn what_a_vendor_bills_is_charged_and_not_what_it_read() {
    let rates = rates(Prices { input: Some(1_000_000), output: Some(2_000_000), ..Prices::default() }, &[]);
    let billed = Billed { input_tokens: Some(12), output_tokens: Some(10) };
    let used = Usage { cache_read_tokens: Some(480), billed: Some(billed), ..usage(614, 13) };
    assert_eq!(rates.cost(&used), rates.cost(&usage(12, 10)));
    assert_ne!(rates.cost(&used), rates.cost(&usage(614, 13)));
}

#[test]
fn parts_that_exceed_their_whole_are_counted_up_to_it() {
    let rates = self::rates(Prices { request: None, ..primes() }, &[]);
    // Sound that was read from the cache is reported as both: once as cached, the rest as sound.
    let heard = Usage { cache_read_tokens: Some(60), input_audio_tokens: Some(80), ..usage(100, 0) };
    assert_eq!(rates.cost(&heard), Some(60 * 5 + 40 * 17));
    let thought = Usage { reasoning_tokens: Some(90), ..usage(0, 50) };
    assert_eq!(rates.cost(&thought), Some(50 * 13));
}

#[test]
fn a_kind_without_a_price_costs_what_it_is_a_part_of() {
    let rates = self::rates(
        Prices { input: Some(2_000_000), output: Some(3_000_000), cache_write: Some(7_000_000), ..Prices::default() },
        &[],
    );
    let all = Usage {
        cache_read_tokens: Some(1),
        cache_write_tokens: Some(4),
        cache_write_1h_tokens: Some(3),
        reasoning_tokens: Some(5),
        ..usage(10, 8)
    };
    assert_eq!(rates.cost(&all), Some(6 * 2 + 4 * 7 + 8 * 3));
}

#[test]
fn unknown_is_not_zero() {
    let rates = self::rates(primes(), &[]);
    assert_eq!(rates.cost(&Usage::default()), None);
    assert_eq!(rates.cost(&Usage { output_tokens: Some(3), ..Usage::default() }), None);
    assert_eq!(rates.cost(&Usage { input_tokens: Some(3), ..Usage::default() }), None);
    let input_only = self::rates(Prices { input: Some(2_000_000), ..Prices::default() }, &[]);
    assert_eq!(input_only.cost(&Usage { input_tokens: Some(3), ..Usage::default() }), Some(6), "an embedding");
    assert_eq!(input_only.cost(&usage(3, 1)), None, "output that nobody has a price for");
}

#[test]
fn the_tier_that_is_passed_prices_the_whole_request() {
    let tiers = [
        PriceTier { above: 100, prices: Prices { input: Some(20_000_000), ..Prices::default() } },
        PriceTier {
            above: 1_000,
            prices: Prices { input: Some(200_000_000), output: Some(300_000_000), ..Prices::default() },
        },
    ];
    let base = Prices { input: Some(2_000_000), output: Some(3_000_000), ..Prices::default() };
    let rates = self::rates(base, &tiers);
    assert_eq!(rates.cost(&usage(100, 10)), Some(100 * 2 + 10 * 3));
    assert_eq!(rates.cost(&usage(101, 10)), Some(101 * 20 + 10 * 3), "what the tier does not say stays");
    assert_eq!(rates.cost(&usage(1_001, 10)), Some(1_001 * 200 + 10 * 300));
    let cached = Usage { cache_read_tokens: Some(100), ..usage(101, 0) };
    assert_eq!(rates.cost(&cached), Some(101 * 20), "cached tokens count for the tier");
}

#[test]
fn no_request_costs_more_than_the_most() {
    let tier = |above, price| PriceTier { above, prices: Prices { input: Some(price), ..Prices::default() } };
    let service = |service, factor, prices, tiers| PriceService { service, factor, prices, tiers };
    let pieces = Prices {
        characters: Some(31_000_000),
        per_image: Some(40_000),
        per_input_image: Some(3_000),
        per_input_second: Some(700_000),
        per_output_second: Some(90_000),
        per_search: Some(10_000_000),
        per_search_unit: Some(2_000_000),
        ..primes()
    };
    let rates = Rates::new(&PriceSheet {
        prices: pieces,
        tiers: vec![tier(50, 1_000_000)],
        services: vec![
            service(ServiceTier::Flex, Some(500_000_000), Prices::default(), vec![]),
            service(ServiceTier::Priority, None, Prices { output: Some(90_000_000), ..pieces }, vec![tier(20, 7)]),
        ],
    });
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let some = |random: &mut fastrand::Rng, n: u64| random.bool().then(|| random.u64(0..=n));
        let (input, output) = (random.u64(0..100), random.u64(0..100));
        let mut units = Units::default();
        for figure in units.figures_mut() {
            *figure = some(&mut random, 90);
        }
        let services = [None, Some(ServiceTier::Flex), Some(ServiceTier::Priority), Some(ServiceTier::Fast)];
        let spent = Usage {
            cache_read_tokens: some(&mut random, input),
            cache_write_tokens: some(&mut random, input),
            cache_write_1h_tokens: some(&mut random, input),
            reasoning_tokens: some(&mut random, output),
            input_audio_tokens: some(&mut random, input),
            output_audio_tokens: some(&mut random, output),
            service_tier: services[random.usize(..services.len())],
            units: units.boxed(),
            ..usage(input, output)
        };
        // The estimate of the input is an upper bound, the answer's bound as well.
        let most = rates.most(input + random.u64(0..30), output + random.u64(0..30), &units);
        assert!(rates.cost(&spent).unwrap() <= most, "{spent:?}");
    }
}

#[test]
fn a_service_has_its_own_prices_and_what_it_does_not_say_by_its_factor() {
    let dollar = |n: i64| Some(n * 1_000_000);
    let tier = |above, input| PriceTier { above, prices: Prices { input, ..Prices::default() } };
    let rates = Rates::new(&PriceSheet {
        prices: Prices { input: dollar(20), output: dollar(40), per_search: Some(1_000), ..Prices::default() },
        tiers: vec![tier(100, dollar(60))],
        services: vec![
            PriceService {
                service: ServiceTier::Flex,
                factor: Some(500_000_000),
                prices: Prices { output: dollar(6), ..Prices::default() },
                tiers: vec![],
            },
            PriceService {
                service: ServiceTier::Priority,
                factor: None,
                prices: Prices { input: dollar(50), ..Prices::default() },
                tiers: vec![tier(200, dollar(70))],
            },
        ],
    });
    let at = |service_tier, input| {
        let units = Units { web_searches: Some(2), ..Units::default() }.boxed();
        rates.cost(&Usage { service_tier, units, ..usage(input, 10) }).unwrap() - 2_000
    };
    let (flex, priority) = (Some(ServiceTier::Flex), Some(ServiceTier::Priority));
    assert_eq!((at(None, 100), at(None, 101)), (100 * 20 + 400, 101 * 60 + 400));
    assert_eq!(at(Some(ServiceTier::Other), 100), at(None, 100), "what has no prices of its own costs what is usual");
    assert_eq!((at(flex, 100), at(flex, 101)), (100 * 10 + 60, 101 * 30 + 60), "half in both tiers; a search stays");
    assert_eq!(
        [at(priority, 100), at(priority, 150), at(priority, 201)],
        [100 * 50 + 400, 150 * 50 + 400, 201 * 70 + 400]
    );
    assert!(rates.differ_by_service() && !self::rates(primes(), &[]).differ_by_service());
}

#[test]
fn pieces_cost_each_and_never_beside_their_tokens() {
    let units = |units: Units| Usage { units: units.boxed(), ..Usage::default() };
    let drawn = |n| Units { output_images: Some(n), ..Units::default() };
    // Pictures by the piece: tokens are free, and no count is no price.
    let by_piece = self::rates(Prices { per_image: Some(40_000_000), ..Prices::default() }, &[]);
    assert_eq!(by_piece.cost(&units(drawn(3))), Some(120_000_000));
    assert_eq!(by_piece.cost(&Usage { units: drawn(3).boxed(), ..usage(50, 4_000) }), Some(120_000_000));
    assert_eq!((by_piece.cost(&usage(50, 10)), by_piece.cost(&Usage::default())), (None, None));
    // The same pictures by tokens where both are known.
    let both = self::rates(
        Prices { input: Some(5_000_000), output_image: Some(40_000_000), per_image: Some(1), ..Prices::default() },
        &[],
    );
    let in_tokens = Units { output_image_tokens: Some(100), ..drawn(3) };
    assert_eq!(both.cost(&Usage { units: in_tokens.boxed(), ..usage(10, 100) }), Some(10 * 5 + 100 * 40));
    // Sound by the second, in milliseconds; text by the character; documents by the search unit.
    let whisper = self::rates(Prices { per_input_second: Some(100_000), ..Prices::default() }, &[]);
    assert_eq!(whisper.cost(&units(Units { input_audio_ms: Some(61_500), ..Units::default() })), Some(6_150_000));
    let speech = self::rates(Prices { characters: Some(15_000_000_000), ..Prices::default() }, &[]);
    assert_eq!(speech.cost(&units(Units { characters: Some(43), ..Units::default() })), Some(43 * 15_000));
    let rerank = self::rates(Prices { per_search_unit: Some(2_000_000), ..Prices::default() }, &[]);
    assert_eq!(rerank.cost(&units(Units { search_units: Some(2), ..Units::default() })), Some(4_000_000));
    // A search on the way adds to the tokens; without their count nothing is known.
    let search = self::rates(Prices { input: Some(2_000_000), per_search: Some(10_000_000), ..Prices::default() }, &[]);
    let searched = Units { web_searches: Some(2), ..Units::default() };
    assert_eq!(search.cost(&Usage { units: searched.boxed(), ..usage(5, 0) }), Some(20_000_010));
    assert_eq!(search.cost(&units(searched)), None);
}

#[test]
fn costs_round_once_and_add_up() {
    // 0.15 USD a million: 0.15 nano-dollars a token.
    let rates = self::rates(Prices { input: Some(150_000), ..Prices::default() }, &[]);
    let one = |n| rates.cost(&Usage { input_tokens: Some(n), ..Usage::default() }).unwrap();
    assert_eq!([one(3), one(4), one(10), one(1_000_000)], [0, 1, 2, 150_000]);
    let huge = Usage { input_tokens: Some(u64::MAX), ..Usage::default() };
    assert!(rates.cost(&huge).unwrap() > 0);
    assert_eq!(self::rates(Prices { input: Some(i64::MAX), ..Prices::default() }, &[]).cost(&huge), Some(i64::MAX));
}

#[test]
fn dollars_are_read_and_written_digit_by_digit() {
    for (text, nano) in [
        ("0.15", 150_000_000),
        ("2.5", 2_500_000_000),
        ("15", 15_000_000_000),
        ("0.000000001", 1),
        (".5", 500_000_000),
        ("1.", 1_000_000_000),
        ("0", 0),
        ("0.1000000000000", 100_000_000),
    ] {
        assert_eq!(usd(text), Ok(nano), "{text}");
    }
    for text in ["", ".", "-1", "1e3", "1,5", "$1", "0.0000000001", "99999999999999", "1.2.3", "١"] {
        assert!(usd(text).is_err(), "{text}");
    }
    for (nano, text) in [
        (0, "0"),
        (1, "0.000000001"),
        (-5, "-0.000000005"),
        (1_500_000_000, "1.5"),
        (12_000_000_000, "12"),
        (i64::MIN, "-9223372036.854775808"),
    ] {
        assert_eq!(usd_text(nano), text);
    }
}

#[test]
fn the_price_catalogue_is_sound() {
    let rows = Catalogue::parse(include_str!("prices.toml")).unwrap().rows;
    assert!(rows.iter().map(|row| row.models.len()).sum::<usize>() > 100);
    for row in &rows {
        let name = format!("{}/{:?}", row.provider, row.models);
        assert!(crate::provider::catalog_names().contains(&row.provider.as_str()), "{name}");
        assert!(row.models.iter().all(|model| *model == crate::provider::capability::normal(model)), "{name}");
        assert!(
            row.sheet.has_price() && !row.source.is_empty() && !row.date.is_empty(),
            "{name}: from where and when?"
        );
        let Some(input) = row.sheet.prices.input else { continue };
        // A slip of the decimal point in either direction.
        let sane = 10_000_000..=300_000_000_000;
        assert!(sane.contains(&input) || row.provider == "mock", "{name}: {}", usd_text(input));
    }
}

#[test]
fn the_catalogue_reads_back_as_it_was_written() {
    let built_in = catalog::built_in();
    assert_eq!(Catalogue::parse(&built_in.write()), Ok(built_in));
}

#[test]
fn a_build_of_a_model_has_its_price_and_another_model_has_not() {
    let same = |a: &str, b: &str| {
        let (a, b): (Option<Arc<Rates>>, _) = (catalog::rates("openai", a), catalog::rates("openai", b));
        a.is_some() && a == b
    };
    assert!(same("gpt-4o", "gpt-4o-2024-08-06") && same("gpt-4o", "gpt-4o-latest") && same("gpt-4", "gpt-4-0613"));
    assert!(!same("gpt-4o", "gpt-4o-2024-05-13"), "an early build cost more");
    assert!(!same("gpt-4o", "gpt-4o-mini"));
    for unknown in
        ["gpt-4o-audio-preview", "gpt-4o-realtime", "gpt-5-9", "gpt-5.99", "gpt", "gpt-4oo", "gpt-4o-", "gpt-4o-20x"]
    {
        assert_eq!(catalog::rates("openai", unknown), None, "{unknown}");
    }
    assert_eq!(catalog::rates("anthropic", "claude-opus-4-9"), None, "a number of one digit is another model");
    assert_eq!(catalog::rates("nobody", "gpt-4o"), None);
    assert!(catalog::rates("mock", "anything").is_some());
}

mod estimates;
mod bodies;
mod invoices;
mod ledger;
mod queue;
mod rerating;
mod searches;
mod sums;
