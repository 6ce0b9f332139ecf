//! A run of cases as JUnit's XML, which every CI reads: a suite for each file, a case for each case.

use std::fmt::Write;

use crate::{config::Problem, suite::Report};

/// `problems`: what kept cases from running; each is a case that failed with an error.
pub fn report(reports: &[(String, Report)], problems: &[Problem]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all = || reports.iter().flat_map(|(_, report)| &report.outcomes);
    let count = all().count() + problems.len();
    let failed = all().filter(|case| !case.failures.is_empty()).count();
    let line = format_args!("<testsuites tests=\"{count}\" failures=\"{failed}\" errors=\"{}\">", problems.len());
    push(&mut out, line);
    for (uses, report) in reports {
        let cases = &report.outcomes;
        let failed = cases.iter().filter(|case| !case.failures.is_empty()).count();
        let time: f64 = cases.iter().map(|case| case.took.as_secs_f64()).sum();
        let (name, tests, skipped) = (text(uses), cases.len(), report.left_out);
        let line = format_args!(
            "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failed}\" errors=\"0\" skipped=\"{skipped}\" time=\"{time:.3}\">"
        );
        push(&mut out, line);
        for case in cases {
            let (file, name, time) = (text(&case.file), text(&case.name), case.took.as_secs_f64());
            let head = format!(
                "    <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\" line=\"{}\" time=\"{time:.3}\"",
                case.line
            );
            if case.failures.is_empty() {
                push(&mut out, format_args!("{head}/>"));
                continue;
            }
            let (first, whole) = (text(&case.failures[0]), text(&case.failures.join("\n")));
            push(
                &mut out,
                format_args!("{head}>\n      <failure message=\"{first}\">{whole}</failure>\n    </testcase>"),
            );
        }
        push(&mut out, format_args!("  </testsuite>"));
    }
    if !problems.is_empty() {
        let count = problems.len();
        push(
            &mut out,
            format_args!(
                "  <testsuite name=\"portcullis\" tests=\"{count}\" failures=\"0\" errors=\"{count}\" skipped=\"0\">"
            ),
        );
        for problem in problems {
            let (file, message) = (text(&problem.file), text(&problem.message));
            push(
                &mut out,
                format_args!(
                    "    <testcase classname=\"{file}\" name=\"{file}:{}\"><error message=\"{message}\"/></testcase>",
                    problem.line
                ),
            );
        }
        push(&mut out, format_args!("  </testsuite>"));
    }
    out.push_str("</testsuites>\n");
    out
}

fn push(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{line}");
}

/// For a text or an attribute. XML 1.0 has no word for most control characters.
fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\r' => out.push_str("&#13;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Outcome;

    #[test]
    fn what_failed_stands_in_it_and_nothing_breaks_out_of_it() {
        let outcome = |name: &str, failures: &[&str]| Outcome {
            file: "scripts/a.test.toml".into(),
            line: 3,
            name: name.into(),
            failures: failures.iter().map(|f| (*f).to_owned()).collect(),
            fault: None,
            took: std::time::Duration::from_millis(12),
        };
        let outcomes = vec![outcome("fine", &[]), outcome("<b> & \"c\"", &["expected \"x\u{1}\"", "and\nmore"])];
        let reports = [("scripts/a.rhai".to_owned(), Report { outcomes, ..Report::default() })];
        let problems = [Problem { file: "b".into(), line: 2, message: "a < b".into(), excerpt: None }];
        let xml = report(&reports, &problems);
        assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"1\""), "{xml}");
        assert!(xml.contains("name=\"fine\" file=\"scripts/a.test.toml\" line=\"3\" time=\"0.012\"/>"), "{xml}");
        assert!(xml.contains("name=\"&lt;b&gt; &amp; &quot;c&quot;\""), "{xml}");
        assert!(xml.contains("<failure message=\"expected &quot;x\u{fffd}&quot;\">"), "{xml}");
        assert!(xml.contains("and&#10;more</failure>"), "{xml}");
        assert!(xml.contains("<error message=\"a &lt; b\"/>"), "{xml}");
    }
}
