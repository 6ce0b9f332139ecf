//! What can have a price, and where a catalogue file's mistakes are told.

use super::*;
use crate::{config::PriceService, model::ServiceTier};

#[test]
fn every_price_has_its_key_and_its_place() {
    let keys: Vec<String> = Prices::KEYS.iter().zip(1..).map(|(key, n)| format!("{key} = {n}")).collect();
    let text = format!(
        "[[pricing]]\nmodel = \"mock/a\"\n{}\nservices.flex = {{ factor = 0.5 }}\n\
         services.priority = {{ output = 7, tiers = [{{ above = 9, input = 8 }}] }}\n",
        keys.join("\n")
    );
    let config = Case::new(&text).config();
    let [pricing] = config.pricing.as_slice() else { panic!("{:?}", config.pricing) };
    let expected: Vec<_> = (1..=Prices::KEYS.len() as i64).map(|n| Some(n * 1_000_000_000)).collect();
    assert_eq!(pricing.sheet.prices.figures().to_vec(), expected, "the shape's keys stand in the order of the prices'");
    let [flex, priority] = pricing.sheet.services.as_slice() else { panic!("{:?}", pricing.sheet) };
    let half = PriceService {
        service: ServiceTier::Flex,
        factor: Some(500_000_000),
        prices: Prices::default(),
        tiers: vec![],
    };
    assert_eq!(*flex, half);
    assert_eq!((priority.prices.output, priority.tiers[0].prices.input), (Some(7_000_000_000), Some(8_000_000_000)));
}

#[test]
fn a_piece_alone_is_a_price_and_a_part_alone_is_none() {
    let priced = |line: &str| format!("[[pricing]]\nmodel = \"mock/a\"\n{line}\n");
    for enough in ["per_image = 0.04", "characters = 15", "per_input_second = 0.0001", "per_search_unit = 0.002"] {
        assert_eq!(Case::new(&priced(enough)).config().pricing.len(), 1, "{enough}");
    }
    for part in ["per_search = 0.01", "cache_read = 1", "input_image = 3"] {
        assert!(problem(&priced(part)).contains("needs a price"), "{part}");
    }
    let wrong = problem(&priced("input = 1\nservices.express = { factor = 2 }"));
    assert!(wrong.contains("express"), "{wrong}");
}

#[test]
fn a_catalogue_file_is_read_and_its_mistakes_name_the_entry() {
    let catalogue = |text: &str| Case::new("[catalogue]\nfile = \"prices/all.toml\"\n").with("prices/all.toml", text);
    let good = "source = \"litellm\"\n[[price]]\nprovider = \"openai\"\nmodels = [\"gpt-9\"]\ninput = \"1.5\"\n\
                output = \"6\"\ncontext = 9000\nfeatures = [\"tools\"]\n";
    let case = catalogue(good);
    let config = case.config();
    assert_eq!((config.catalogue.rows.len(), config.catalogue.source.as_str()), (1, "litellm"));
    assert_eq!(config.catalogue.rows[0].context, Some(9000));
    for (text, line, told) in [
        ("[[price]]\nprovider = \"a\"\nmodels = [\"m\"]\ninput = \"-1\"\n", 1, "a/m: `input`: expected US dollars"),
        ("\n\n[[price]]\nprovider = \"a\"\nmodels = [\"m\"]\ninput = 1.5\n", 3, "a/m: `input` must be decimal text"),
        (
            "[[price]]\nprovider = \"a\"\nmodels = [\"m\"]\ninputs = \"1\"\n",
            1,
            "a/m: `inputs` is no key of a price; did you mean `input`?",
        ),
        ("[[price]]\nprovider = \"a\"\nmodels = [\"m\"]\n", 1, "a/m: it says neither a price nor a limit"),
        (
            "[[price]]\nprovider = \"a\"\nmodels = [\"m\"]\ninput = \"1\"\ncontext = 0\n",
            1,
            "a/m: `context` must be a whole number above 0",
        ),
        ("[[price]]\nprovider = \"a\"\nmodels = [\"m\", \"m\"]\ninput = \"1\"\n", 1, "a/m stands there twice"),
        (
            "[[price]]\nprovider = \"a\"\nmodels = [\"m\"]\ninput = \"1\"\nfeatures = [\"toolz\"]\n",
            1,
            "a/m: there is no feature \"toolz\"",
        ),
        ("x = 1\n[[price]\n", 2, ""),
    ] {
        let problems = catalogue(text).problems();
        let [problem] = problems.as_slice() else { panic!("{text}: {problems:?}") };
        assert!(problem.starts_with(&format!("prices/all.toml:{line}: ")) && problem.contains(told), "{problem}");
    }
    let missing = problem("[catalogue]\nfile = \"none.toml\"\n");
    assert!(missing.contains("there is no file \"none.toml\""), "{missing}");
}
