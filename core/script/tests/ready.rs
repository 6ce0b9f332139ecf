//! The ready-made scripts as they lie in scripts/ready: the cases beside them hold, and reach what the scripts do.

use super::*;

#[test]
fn the_cases_beside_the_ready_made_scripts_pass() {
    let mut problems = Vec::new();
    let mut config = base();
    config.sources = Sources::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")), &mut problems);
    let ready = |subject: &crate::suite::Subject| subject.uses.starts_with("scripts/ready/");
    let subjects: Vec<_> = crate::suite::Subject::beside(&config).into_iter().filter(ready).collect();
    assert!(subjects.len() >= 13, "{}", subjects.len());
    for report in crate::suite::run(&config, &subjects, &crate::suite::Options::default()) {
        let report = report.unwrap_or_else(|problems| panic!("{problems:#?}"));
        let failed: Vec<_> = report.outcomes.iter().filter(|o| !o.failures.is_empty()).collect();
        assert!(failed.is_empty() && !report.outcomes.is_empty(), "{failed:#?}");
    }
}
