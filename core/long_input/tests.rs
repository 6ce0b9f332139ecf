use super::*;

fn request(turns: &[(Role, &str)]) -> Request {
    Request { messages: turns.iter().map(|(role, text)| Message::text(*role, *text)).collect(), ..Request::default() }
}

#[test]
fn the_longest_user_text_is_the_one_that_is_cut() {
    let long = "x".repeat(50);
    let mut asked =
        request(&[(Role::System, &"s".repeat(99)), (Role::User, "short"), (Role::User, &long), (Role::User, "go")]);
    let place = longest(&asked).unwrap();
    assert_eq!((place, place.text(&asked)), (Place { message: 2, part: 0 }, long.as_str()));
    place.put(&mut asked.messages, "notes".into());
    assert_eq!(asked.messages[2].joined_text(), "notes");
    assert_eq!(longest(&request(&[(Role::System, "only")])), None);
}

#[test]
fn what_is_short_enough_is_left_alone() {
    assert_eq!(pieces("a few words", 10, "m"), None);
    let text = "A sentence of some words. ".repeat(40);
    let cut = pieces(&text, 50, "m").unwrap();
    assert!(cut.len() > 3 && cut.iter().all(|piece| tokens::of(piece, "m") <= 50));
}

#[test]
fn every_reader_sees_where_the_text_begins_and_ends() {
    let text = format!("Summarize this. {} And keep it short: é", "word ".repeat(1_000));
    let told = map_words(2, 9, &ends(&text), Some("Be exact."));
    assert!(told.starts_with("Be exact.\n") && told.contains("part 2 of 9"));
    assert!(told.contains("Summarize this.") && told.contains("keep it short: é"));
    // Borders fall between characters.
    assert!(ends(&"é".repeat(1_000)).contains('é'));
    assert!(ends("").contains("<begin>"));
}

#[test]
fn notes_are_merged_in_groups_that_grow_fewer() {
    let found: Vec<String> = (0..7).map(|n| format!("note {n} with a few words in it")).collect();
    let few = groups(&found, 30, "m");
    assert_eq!(few.concat(), found);
    assert!(few.len() < found.len() && few.iter().all(|group| !group.is_empty()));
    // Notes that are each too long still pair up.
    assert_eq!(groups(&found, 1, "m").len(), 4);
}

#[test]
fn a_template_stands_for_each_piece() {
    let found = ["first {n}".to_owned(), " second ".to_owned()];
    assert_eq!(merged("{n}. {part}\n", &found), "1. first {n}\n2. second\n");
    assert!(findings(&found, 2).contains("<notes part=\"2\">\nsecond\n</notes>"));
}
