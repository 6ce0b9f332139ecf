use super::*;

fn read(pieces: &[&str]) -> String {
    let (mut input, mut out) = (Input::default(), String::new());
    pieces.iter().for_each(|piece| input.read(piece, &mut out));
    input.end(&mut out);
    out
}

#[test]
fn free_text_comes_out_the_same_at_every_split() {
    for (wire, text) in [
        (r#"{"input": "ls -l | grep \"x\"\n\tπ \u00e9 \ud83d\ude00 \\ / 😀"}"#, "ls -l | grep \"x\"\n\tπ é 😀 \\ / 😀"),
        (" {\n \"input\" : \"\" } ", ""),
        (r#"{"input":"a","more":"b"}"#, "a"),
        ("{}", ""),
        ("", ""),
        // Not what was asked of the model: given on as it is.
        (r#"{"code": "x"}"#, r#"{"code": "x"}"#),
        (r#"{"input": 7}"#, r#"{"input": 7}"#),
        ("plain words", "plain words"),
        (r#"{"inp"#, r#"{"inp"#),
        (r#"{"input":"bad \q, lone \ud800 and \ud800\n end"}"#, "bad \u{fffd}, lone \u{fffd} and \u{fffd}\n end"),
    ] {
        assert_eq!(read(&[wire]), text, "{wire}");
        for at in (0..wire.len()).filter(|at| wire.is_char_boundary(*at)) {
            assert_eq!(read(&[&wire[..at], &wire[at..]]), text, "{wire} split at {at}");
        }
        let each: Vec<String> = wire.chars().map(String::from).collect();
        assert_eq!(read(&each.iter().map(String::as_str).collect::<Vec<_>>()), text, "{wire}");
    }
}
