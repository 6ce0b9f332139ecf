//! The way in and out together, and the property that streams rest on: however a text is split over events, it comes out
//! the same. The host's window is played here; `tests/it/redact.rs` shows the same through the real gateway.

use crate::{
    answer::{Answer, Piece, whole},
    detect::{
        Hint, Kind,
        tests::{AROUND, VALUES},
    },
    json::escape,
    request::{Role, Text, Verdict, mask},
    settings::{Mode, Settings, Unscanned},
    vault::Vault,
};

fn plain(id: u32, text: &str) -> Text<'_> {
    Text { id, text, role: Role::Plain }
}

/// Masks some texts of one request.
fn masked(settings: &Settings, texts: &[&str]) -> (Vault, Vec<String>) {
    let mut vault = Vault::default();
    let asked: Vec<Text> = texts.iter().enumerate().map(|(n, text)| plain(n as u32, text)).collect();
    let verdict = mask(settings, &mut vault, &asked);
    let mut out: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
    match verdict {
        Verdict::Clean => {}
        Verdict::Change(edits) => edits.into_iter().for_each(|(id, text)| out[id as usize] = text),
        other => panic!("{other:?}"),
    }
    (vault, out)
}

/// What the host does with a stream's part (`core/pipeline/adapt.rs`): holds back `size` characters, shows what came before
/// them again.
fn through_window(settings: &Settings, vault: &mut Vault, piece: Piece, deltas: &[&str]) -> String {
    let size = settings.window();
    let (mut answer, mut held, mut out) = (Answer::default(), String::new(), String::new());
    let mut show = |text: String| {
        let new = answer.piece(settings, vault, (0, 0), piece, &text).expect("room for more");
        new.unwrap_or(text)
    };
    for delta in deltas {
        held.push_str(delta);
        if held.chars().count() > size {
            let seen = show(std::mem::take(&mut held));
            let at = seen.char_indices().rev().nth(size - 1).map_or(0, |(at, _)| at);
            out.push_str(&seen[..at]);
            held = seen[at..].to_owned();
        }
    }
    if !held.is_empty() {
        out.push_str(&show(held));
    }
    out
}

/// Every way to cut a text into two and three, at every character.
fn splits(text: &str, mut check: impl FnMut(&[&str])) {
    let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    for (n, first) in cuts.iter().enumerate() {
        check(&[&text[..*first], &text[*first..]]);
        for second in &cuts[n..] {
            check(&[&text[..*first], &text[*first..*second], &text[*second..]]);
        }
    }
}

fn masking() -> Settings {
    Settings { mode: Mode::Mask, ..Settings::default() }
}

#[test]
fn masks_the_same_value_the_same_way_and_restores_it() {
    let asked = ["mail bob@example.com or amy@example.com", "card 4111111111111111 of bob@example.com"];
    let (vault, out) = masked(&Settings::default(), &asked);
    assert_eq!(out, ["mail [EMAIL_1] or [EMAIL_2]", "card [CARD_1] of [EMAIL_1]"]);
    for (asked, out) in asked.iter().zip(&out) {
        let mut vault = Vault::default();
        std::mem::swap(
            &mut vault,
            &mut masked(&Settings::default(), &["bob@example.com, amy@example.com, 4111111111111111"]).0,
        );
        assert_eq!(whole(&Settings::default(), &mut vault, Hint::None, out), Ok(Some((*asked).to_owned())));
    }
    assert!(!vault.is_empty());
}

#[test]
fn every_value_comes_back_whole() {
    for (_, value) in VALUES {
        let (mut vault, out) = masked(&Settings::default(), &[&["x ", *value, " y"].concat()]);
        assert!(!out[0].contains(value), "{out:?}");
        let back = whole(&Settings::default(), &mut vault, Hint::None, &out[0]).expect("room");
        assert_eq!(back, Some(["x ", *value, " y"].concat()));
    }
}

#[test]
fn a_placeholder_split_anywhere_is_restored_the_same() {
    for (kind, value) in VALUES {
        let (mut vault, out) = masked(&Settings::default(), &[value]);
        assert_eq!(out, [["[", kind.label(), "_1]"].concat()]);
        for (before, after) in AROUND {
            let text = [*before, &out[0], " and ", &out[0], *after].concat();
            let expected = [*before, *value, " and ", *value, *after].concat();
            splits(&text, |deltas| {
                assert_eq!(
                    through_window(&Settings::default(), &mut vault, Piece::Text, deltas),
                    expected,
                    "{deltas:?}"
                );
            });
        }
    }
}

#[test]
fn a_placeholder_split_in_tool_arguments_is_restored_as_json() {
    for (_, value) in VALUES {
        let (mut vault, out) = masked(&Settings::default(), &[value]);
        let mut escaped = String::new();
        escape(value, &mut escaped);
        let text = ["{\"to\":\"", &out[0], "\",\"n\":[1,2]}"].concat();
        let expected = ["{\"to\":\"", &escaped, "\",\"n\":[1,2]}"].concat();
        splits(&text, |deltas| {
            assert_eq!(
                through_window(&Settings::default(), &mut vault, Piece::Arguments, deltas),
                expected,
                "{deltas:?}"
            );
        });
    }
}

#[test]
fn a_value_split_anywhere_is_masked_the_same() {
    // Each value between long texts too, so that it passes the window's border at every offset.
    let long = "lorem ipsum dolor sit amet ".repeat(24);
    let settings = Settings { entities: no_keys(), ..masking() };
    for (kind, value) in VALUES.iter().filter(|(kind, _)| *kind != Kind::Key) {
        let name = ["[", kind.label(), "_1]"].concat();
        for (before, after) in AROUND {
            let text = [*before, *value, *after].concat();
            let expected = [*before, &name, *after].concat();
            splits(&text, |deltas| {
                let out = through_window(&settings, &mut Vault::default(), Piece::Text, deltas);
                assert_eq!(out, expected, "{deltas:?}");
            });
        }
        let text = [&long, *value, " and on: ", &long].concat();
        let expected = [&long, &name, " and on: ", &long].concat();
        for step in [1, 2, 3, 5, 64, 511, 512, 513] {
            let deltas = chunks(&text, step);
            assert_eq!(
                through_window(&settings, &mut Vault::default(), Piece::Text, &deltas),
                expected,
                "{value} by {step}"
            );
        }
    }
}

#[test]
fn a_key_split_anywhere_is_masked_the_same() {
    let long = "lorem ipsum dolor sit amet ".repeat(200);
    for (_, value) in VALUES.iter().filter(|(kind, _)| *kind == Kind::Key) {
        splits(&["x ", *value, " y"].concat(), |deltas| {
            assert_eq!(
                through_window(&masking(), &mut Vault::default(), Piece::Text, deltas),
                "x [KEY_1] y",
                "{deltas:?}"
            );
        });
        let text = [&long, *value, " and on: ", &long].concat();
        for step in [7, 1000] {
            let out = through_window(&masking(), &mut Vault::default(), Piece::Text, &chunks(&text, step));
            assert_eq!(out, [&long, "[KEY_1] and on: ", &long].concat(), "{value} by {step}");
        }
    }
}

#[test]
fn a_value_split_in_tool_arguments_is_masked_and_stays_json() {
    let settings = Settings { entities: no_keys(), ..masking() };
    for (text, expected) in [
        (r#"{"to":"bob@example.com"}"#, r#"{"to":"[EMAIL_1]"}"#),
        (r#"{"to":"a\nbob@example.com\n"}"#, r#"{"to":"a\n[EMAIL_1]\n"}"#),
        (r#"{"to":"bob\u0040example.com"}"#, r#"{"to":"[EMAIL_1]"}"#),
        (r#"{"n":4111111111111111,"s":"4111111111111111"}"#, r#"{"n":"[CARD_1]","s":"[CARD_1]"}"#),
        (r#"{"s":"say \"+49 30 901820\"!"}"#, r#"{"s":"say \"[PHONE_1]\"!"}"#),
    ] {
        splits(text, |deltas| {
            let out = through_window(&settings, &mut Vault::default(), Piece::Arguments, deltas);
            assert_eq!(out, expected, "{deltas:?}");
        });
        // Far into a long text, with the escape on every offset of the window's border.
        let long = [r#"{"x":""#, &"lorem \\\" ".repeat(120), r#"","y":"#].concat();
        let far = [&long, text, "}"].concat();
        for step in 1..12 {
            let out = through_window(&settings, &mut Vault::default(), Piece::Arguments, &chunks(&far, step));
            assert_eq!(out, [&long, expected, "}"].concat(), "by {step}");
        }
    }
}

#[test]
fn a_text_of_the_callers_own_is_never_restored() {
    let asked = ["what is [EMAIL_1]? and [EMAIL_2]?", "I am bob@example.com", "[EMAIL_70000]"];
    let (mut vault, out) = masked(&Settings::default(), &asked);
    assert_eq!(out[1], "I am [EMAIL_3]");
    let answer = "[EMAIL_1] [EMAIL_2] [EMAIL_3] [EMAIL_4] [EMAIL_70000] [CARD_1]";
    assert_eq!(
        whole(&Settings::default(), &mut vault, Hint::None, answer),
        Ok(Some("[EMAIL_1] [EMAIL_2] bob@example.com [EMAIL_4] [EMAIL_70000] [CARD_1]".to_owned()))
    );
}

#[test]
fn the_next_turn_makes_the_same_placeholders() {
    let first = ["I am bob@example.com, call +49 30 901820", "and amy@example.com"];
    let (_, once) = masked(&Settings::default(), &first);
    let (_, again) = masked(&Settings::default(), &[first[0], first[1], "hello bob@example.com", "cy@example.com"]);
    assert_eq!(once[..], again[..2]);
    assert_eq!(again[2..], ["hello [EMAIL_1]", "[EMAIL_3]"]);
}

#[test]
fn signed_reasoning_becomes_what_the_model_had_signed() {
    let mut vault = Vault::default();
    let texts = [
        Text { id: 0, text: "bob@example.com will do; not eve@example.com", role: Role::Signed },
        plain(1, "write to bob@example.com"),
    ];
    let verdict = mask(&Settings::default(), &mut vault, &texts);
    // The model had seen the placeholder; the address that nobody hid is a text of its own, under its signature.
    let expected = vec![(1, "write to [EMAIL_1]".to_owned()), (0, "[EMAIL_1] will do; not eve@example.com".to_owned())];
    assert_eq!(verdict, Verdict::Change(expected));
}

#[test]
fn signed_reasoning_that_was_never_restored_stays() {
    let texts = [Text { id: 0, text: "bob@example.com", role: Role::Signed }, plain(1, "no name")];
    assert_eq!(mask(&Settings::default(), &mut Vault::default(), &texts), Verdict::Clean);
    let texts = [texts[0], plain(1, "bob@example.com")];
    let only = Verdict::Change(vec![(1, "[EMAIL_1]".to_owned())]);
    assert_eq!(mask(&masking(), &mut Vault::default(), &texts), only);
}

#[test]
fn a_name_of_a_field_tells_of_its_value() {
    let texts = [
        Text { id: 0, text: "phone", role: Role::Name },
        plain(1, "5551234567"),
        Text { id: 2, text: "bob@example.com", role: Role::Name },
        plain(3, "5551234567x"),
    ];
    let verdict = mask(&Settings::default(), &mut Vault::default(), &texts);
    assert_eq!(verdict, Verdict::Change(vec![(1, "[PHONE_1]".to_owned()), (2, "[EMAIL_1]".to_owned())]));
}

#[test]
fn denied_kinds_are_refused_and_others_masked() {
    let settings = Settings::parse(r#"{"entities": ["email"], "deny": ["card", "key"]}"#).expect("good");
    let deny = |text| mask(&settings, &mut Vault::default(), &[plain(0, "bob@example.com"), plain(1, text)]);
    assert_eq!(deny("4111111111111111"), Verdict::Denied(Kind::Card));
    assert_eq!(deny("1.2.3.4"), Verdict::Change(vec![(0, "[EMAIL_1]".to_owned())]));
}

#[test]
fn many_values_keep_their_placeholders() {
    let address = |n: usize| format!("user{n}@example.com");
    let text: String = (0..3000).map(|n| address(n) + " ").collect();
    let (mut vault, out) = masked(&Settings::default(), &[&text]);
    assert!(out[0].starts_with("[EMAIL_1] [EMAIL_2] ") && out[0].ends_with("[EMAIL_3000] "));
    assert_eq!(vault.count(Kind::Email), 3000);
    assert_eq!(whole(&Settings::default(), &mut vault, Hint::None, &out[0]), Ok(Some(text)));
}

#[test]
fn reads_its_configuration_and_says_what_is_wrong() {
    assert_eq!(Settings::parse("{}"), Ok(Settings::default()));
    let settings =
        Settings::parse(r#" {"mode":"mask", "entities" : ["email","iban"], "unscanned":"deny", "deny":[]} "#);
    let settings = settings.expect("good");
    assert_eq!((settings.mode, settings.unscanned), (Mode::Mask, Unscanned::Deny));
    assert!(settings.entities.has(Kind::Iban) && !settings.entities.has(Kind::Card));
    for (config, says) in [
        (r#"{"entities":["emial"]}"#, "config.entities: unknown \"emial\"; known: email, phone, card, iban, ip, key"),
        (r#"{"mode":"hide"}"#, "config.mode: unknown \"hide\"; known: restore, mask"),
        (r#"{"entity":["email"]}"#, "config: unknown \"entity\"; known: entities, deny, mode, unscanned"),
        (r#"{"entities":"email"}"#, "config.entities is a list, such as [\"email\"]"),
        (r#"{"mode":3}"#, "config.mode: a text or a list of texts is expected"),
    ] {
        assert_eq!(Settings::parse(config), Err(says.to_owned()));
    }
}

fn no_keys() -> crate::detect::Kinds {
    Kind::ALL.into_iter().filter(|k| *k != Kind::Key).fold(crate::detect::Kinds::default(), crate::detect::Kinds::with)
}

/// A text in pieces of so many characters.
fn chunks(text: &str, step: usize) -> Vec<&str> {
    let mut cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(step).collect();
    cuts.push(text.len());
    cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect()
}
