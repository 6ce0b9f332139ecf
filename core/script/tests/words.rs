//! Word lists: whole words, groups.

use super::super::words::Words;

#[test]
fn whole_words_are_not_found_inside_others() {
    let words = Words::list(vec!["prove".into(), "step by step".into()]).unwrap();
    assert!(words.as_word("Prove it"));
    assert!(words.as_word("go step by step!"));
    assert!(!words.as_word("improve the provenance"));
    assert!(words.anywhere("improve"));
    // A letter beyond ASCII is part of a word too.
    assert!(!words.as_word("éprove"));
}

#[test]
fn a_word_within_a_longer_one_of_the_list_is_still_found() {
    let words = Words::list(vec!["unit test suites".into(), "test".into()]).unwrap();
    assert!(words.as_word("a unit test fails"));
}

#[test]
fn the_first_group_wins_wherever_its_word_stands() {
    let words = Words::groups(vec![("a".into(), vec!["x1".into()]), ("b".into(), vec!["y1".into()])]).unwrap();
    assert_eq!(words.group("y1 then x1"), Some("a"));
    assert_eq!(words.group("only y1"), Some("b"));
    assert_eq!(words.group("none"), None);
}

#[test]
fn empty_words_are_refused() {
    assert!(Words::list(vec![String::new()]).is_err());
}
