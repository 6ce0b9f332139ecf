use super::*;

/// Values alone, by kind; each must be found whole in every sentence of `AROUND`.
pub const VALUES: &[(Kind, &str)] = &[
    (Kind::Email, "bob@example.com"),
    (Kind::Email, "first.last+tag@mail.example.co.uk"),
    (Kind::Email, "o'brien@example.org"),
    (Kind::Email, "müller@bücher.example"),
    (Kind::Email, "иван@пример.example"),
    (Kind::Email, "x_1@a-b.xn--p1ai"),
    (Kind::Phone, "+49 30 901820"),
    (Kind::Phone, "+1 (555) 123-4567"),
    (Kind::Phone, "+442079460958"),
    (Kind::Phone, "(212) 555-0199"),
    (Kind::Phone, "212-555-0199"),
    (Kind::Phone, "1-800-555-0199"),
    (Kind::Phone, "030 1234567"),
    (Kind::Phone, "0171/1234567"),
    (Kind::Phone, "01 23 45 67 89"),
    (Kind::Phone, "0049 30 123456"),
    (Kind::Phone, "07911 123456"),
    (Kind::Card, "4111111111111111"),
    (Kind::Card, "4111 1111 1111 1111"),
    (Kind::Card, "5555-5555-5555-4444"),
    (Kind::Card, "3782 822463 10005"),
    (Kind::Card, "30569309025904"),
    (Kind::Card, "6011111111111117"),
    (Kind::Card, "2223003122003222"),
    (Kind::Card, "3530111333300000"),
    (Kind::Iban, "DE89370400440532013000"),
    (Kind::Iban, "DE89 3704 0044 0532 0130 00"),
    (Kind::Iban, "GB82 WEST 1234 5698 7654 32"),
    (Kind::Iban, "FR14 2004 1010 0505 0001 3M02 606"),
    (Kind::Iban, "NO9386011117947"),
    (Kind::Iban, "MT84MALT011000012345MTLCAST001S"),
    (Kind::Ip, "192.168.17.4"),
    (Kind::Ip, "8.8.8.8"),
    (Kind::Ip, "2001:db8::8a2e:370:7334"),
    (Kind::Ip, "2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
    (Kind::Ip, "fe80::1ff:fe23:4567:890a"),
    (Kind::Ip, "::ffff:192.0.2.128"),
    (Kind::Key, "sk-proj-Ab3dEf6hIj9kLmN0pQr5"),
    (Kind::Key, "sk-ant-api03-x1y2z3A4B5C6D7E8F9G0"),
    (Kind::Key, "AKIAIOSFODNN7EXAMPLE"),
    (Kind::Key, "AIzaSyD4mmy-0123456789abcdefghijklmnop"),
    (Kind::Key, "ghp_0123456789abcdefghijABCDEFGHIJ012345"),
    (Kind::Key, "github_pat_11ABCDEFG0abcdefghijkl_mnop"),
    (Kind::Key, "xoxb-123456789012-abcdefGHIJKL"),
    (Kind::Key, "glpat-a1B2c3D4e5F6g7H8i9J0"),
    (Kind::Key, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
    (Kind::Key, "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nq2+x/9==\n-----END RSA PRIVATE KEY-----"),
];

/// Harmless sentences with a place for a value.
pub const AROUND: &[(&str, &str)] = &[
    ("", ""),
    ("Write to ", " today, please."),
    ("see (", "), or ask"),
    ("„", "“ – so steht es da"),
    ("联系 ", " 。"),
    ("first line\n", "\nlast line"),
    ("<", ">"),
    ("value=", ";"),
    ("\"", "\","),
    ("a, ", "."),
];

fn found(text: &str) -> Vec<(Kind, &str)> {
    found_with(text, Kinds::ALL, Hint::None)
}

fn found_with(text: &str, kinds: Kinds, hint: Hint) -> Vec<(Kind, &str)> {
    let mut found = Findings::default();
    scan(text, kinds, hint, &mut found);
    found.spans.iter().map(|s| (s.kind, &text[s.start..s.end])).collect()
}

#[test]
fn finds_each_value_whole_in_any_sentence() {
    for (kind, value) in VALUES {
        for (before, after) in AROUND {
            let text = [before, *value, after].concat();
            assert_eq!(found(&text), [(*kind, *value)], "in {text:?}");
        }
    }
}

#[test]
fn finds_only_what_is_asked_for() {
    for (kind, value) in VALUES {
        let others = Kind::ALL.into_iter().filter(|k| k != kind).fold(Kinds::default(), Kinds::with);
        let text = ["it is ", *value, " here"].concat();
        let wrong: Vec<_> = found_with(&text, others, Hint::None).into_iter().filter(|(k, _)| k == kind).collect();
        assert!(wrong.is_empty(), "{value}");
        assert_eq!(found_with(&text, Kinds::default().with(*kind), Hint::None), [(*kind, *value)]);
    }
}

#[test]
fn leaves_what_only_looks_like_it() {
    for text in [
        "bob@localhost, @handle, a@b, x@1.2, me@example.",
        "order 4111111111111112 and 1234567890123456",
        "in 2024-01-15 09:15:00, on 01.02.2024 10:30 and 15/01/2024",
        "pi is 3.14159265358979 and e is 0.4111111111111111",
        "DE89370400440532013001 has a wrong sum, XX89370400440532013000 no country",
        "version 1.2.3, section 1.2.3.4.5, ratio 300.1.2.3",
        "std::vec::Vec and fe::cafe, at 10:30:45, aa:bb:cc:dd:ee:ff",
        "sk-learn-contrib-imbalanced-learn and task-sk, the risk-adjusted",
        "key: value, token = the next word, password: hunter",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b in 550e8400-e29b-41d4-a716-446655440000",
        "1700000000 seconds, 9876543210 bytes, #0123456789, order-0301234567",
        "-----BEGIN CERTIFICATE----- is public",
        "eyJ is how a token starts; eyJhbGciOiJIUzI1NiJ9 alone is none",
        "[EMAIL_1] [CARD_22] [PHONE_x] [nothing]",
    ] {
        assert_eq!(found(text), [], "in {text:?}");
    }
}

#[test]
fn finds_secrets_by_the_word_before_them() {
    for (text, value) in [
        ("api_key = \"a8F3kP0qLm2Xz7Rt\"", "a8F3kP0qLm2Xz7Rt"),
        ("password: Tr0ub4dor-And-3more!", "Tr0ub4dor-And-3more"),
        ("Authorization: Bearer 9f8e7d6c5b4a3210ffee", "9f8e7d6c5b4a3210ffee"),
        ("export SECRET_KEY=zX9+yW8/vU7tS6rQ5pO4==", "zX9+yW8/vU7tS6rQ5pO4=="),
        ("{\"client_secret\":\"q1w2e3r4t5y6u7i8o9\"}", "q1w2e3r4t5y6u7i8o9"),
    ] {
        assert_eq!(found(text), [(Kind::Key, value)], "in {text:?}");
    }
    assert_eq!(
        found_with("q1w2e3r4t5y6u7i8o9", Kinds::ALL, Hint::of("clientSecret")),
        [(Kind::Key, "q1w2e3r4t5y6u7i8o9")]
    );
    assert_eq!(found_with("5551234567", Kinds::ALL, Hint::of("phone_number")), [(Kind::Phone, "5551234567")]);
    assert_eq!(found_with("5551234567", Kinds::ALL, Hint::of("amount")), []);
}

#[test]
fn finds_neighbours_apart() {
    assert_eq!(
        found("bob@example.com,amy@example.com 4111111111111111/5555555555554444 1.1.1.1,2.2.2.2"),
        [
            (Kind::Email, "bob@example.com"),
            (Kind::Email, "amy@example.com"),
            (Kind::Card, "4111111111111111"),
            (Kind::Card, "5555555555554444"),
            (Kind::Ip, "1.1.1.1"),
            (Kind::Ip, "2.2.2.2"),
        ]
    );
    assert_eq!(found("4111 1111 1111 1111 12/26"), [(Kind::Card, "4111 1111 1111 1111")]);
}

#[test]
fn notes_placeholders_that_stand_there_already() {
    let mut found = Findings::default();
    scan("[EMAIL_7], [CARD_12] but not [EMAIL_0], [EMAIL_123456], [IP_] or [KEY_1", Kinds::ALL, Hint::None, &mut found);
    assert_eq!(found.reserved, [(Kind::Email, 7), (Kind::Card, 12)]);
    assert_eq!("[EMAIL_99999]".len(), LONGEST_PLACEHOLDER);
}

#[test]
fn survives_any_bytes() {
    // Every cut of every value, and values glued to each other: no panic, spans in order and on characters.
    let glued: String = VALUES.iter().map(|(_, v)| *v).collect();
    for from in (0..glued.len()).filter(|n| glued.is_char_boundary(*n)) {
        for length in [1, 2, 3, 7, 40, 200] {
            let Some(text) = glued.get(from..(from + length).min(glued.len())) else { continue };
            let mut found = Findings::default();
            scan(text, Kinds::ALL, Hint::Secret, &mut found);
            let mut last = 0;
            for span in found.spans {
                assert!(last <= span.start && span.start < span.end && text.get(span.start..span.end).is_some());
                last = span.end;
            }
        }
    }
}
