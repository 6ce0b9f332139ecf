use serde_json::{Map, Value, json};

use super::{
    Choice, Citation, Delta, Event, Extra, Finish, FinishReason, Format, Media, MediaKind, MediaSource, Native, Part,
    PartStart, Reasoning, Response, ServiceTier, Signature, Start, Text, ToolCall, ToolKind, UNITS, Units, Usage,
    fold::{Fold, unfold},
};

fn map(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn fold(events: impl IntoIterator<Item = Event>) -> Response {
    let mut fold = Fold::default();
    events.into_iter().for_each(|event| fold.push(event));
    fold.finish()
}

fn rich() -> Response {
    let signature = |origin, data: &str| Some(Signature { origin, data: data.to_owned() });
    let extra = Extra::new(Format::Gemini, map(json!({"later": 1})));
    let image = Media::new(MediaKind::Image, Some("image/png".to_owned()), MediaSource::Base64("AAAA".to_owned()));
    let call = |name: &str, arguments: &str| {
        Part::ToolCall(ToolCall {
            id: format!("call_{name}"),
            name: name.to_owned(),
            kind: ToolKind::Function,
            arguments: arguments.to_owned(),
            signature: signature(Format::Gemini, "s"),
            cache: None,
            extra: extra.clone(),
        })
    };
    let parts = vec![
        Part::Reasoning(Reasoning {
            text: "why".to_owned(),
            signature: signature(Format::AnthropicMessages, "x"),
            ..Reasoning::default()
        }),
        Part::Reasoning(Reasoning { sealed: signature(Format::AnthropicMessages, "y"), ..Reasoning::default() }),
        Part::Text(Text {
            text: "so".to_owned(),
            citations: vec![Citation { url: Some("https://e.org".to_owned()), ..Citation::default() }],
            signature: signature(Format::Gemini, "z"),
            extra: extra.clone(),
            cache: None,
        }),
        Part::Text(Text::default()),
        Part::Media(image),
        Part::Native { format: Format::Gemini, kind: "code".to_owned(), value: json!({}) },
        call("a", "{\"x\":1}"),
        call("b", ""),
    ];
    let finish = Finish {
        reason: FinishReason::ToolCalls,
        raw: "STOP".to_owned(),
        stop_sequence: None,
        details: Some(json!(1)),
    };
    let second = Choice { index: 1, parts: vec![Part::Refusal("no".to_owned())], ..Choice::default() };
    let logprobs = Some(json!({"content": [{"token": "so"}]}));
    Response {
        id: "r".to_owned(),
        model: "m".to_owned(),
        created: Some(7),
        choices: vec![Choice { index: 0, parts, finish: Some(finish), logprobs, extra: extra.clone() }, second],
        usage: Some(Usage { input_tokens: Some(3), ..Usage::default() }),
        service_tier: Some("flex".to_owned()),
        extra,
    }
}

#[test]
fn folding_what_was_unfolded_gives_the_same_answer() {
    let response = rich();
    assert_eq!(fold(unfold(&response)), response);
}

#[test]
fn interleaved_parts_and_choices_fold_by_their_index() {
    let begin = |choice, index| Event::PartStart { choice, index, part: PartStart::Text { extra: Extra::default() } };
    let text = |choice, index, text: &str| Event::Delta { choice, index, delta: Delta::Text(text.to_owned()) };
    let response = fold([
        Event::Start(Start::default()),
        begin(1, 0),
        begin(0, 0),
        text(1, 0, "b"),
        begin(0, 1),
        text(0, 1, "y"),
        text(0, 0, "x"),
        text(1, 0, "c"),
        text(0, 9, "for a part that never began"),
    ]);
    let texts: Vec<Vec<Part>> = response.choices.into_iter().map(|c| c.parts).collect();
    assert_eq!(texts, [vec![Part::text("x"), Part::text("y")], vec![Part::text("bc")]]);
}

#[test]
fn logprobs_grow() {
    let piece = |token: &str| Event::ChoiceExtra {
        choice: 0,
        logprobs: Some(json!({"content": [{"token": token}], "refusal": null})),
        extra: Extra::default(),
    };
    let response = fold([piece("a"), piece("b")]);
    assert_eq!(
        response.choices[0].logprobs,
        Some(json!({"content": [{"token": "a"}, {"token": "b"}], "refusal": null}))
    );
}

#[test]
fn later_usage_replaces_what_it_knows_and_nothing_else() {
    let native = |value| Some(Native::of(Format::AnthropicMessages, &map(value)));
    let mut usage = Usage {
        input_tokens: Some(9),
        output_tokens: Some(1),
        native: native(json!({"input_tokens": 9, "output_tokens": 1})),
        ..Usage::default()
    };
    usage.merge(&Usage {
        output_tokens: Some(5),
        native: native(json!({"output_tokens": 5, "input_tokens": null})),
        ..Usage::default()
    });
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.total_tokens()), (Some(9), Some(5), Some(14)));
    assert_eq!(usage.native, native(json!({"input_tokens": 9, "output_tokens": 5})));
    assert_eq!(Usage { input_tokens: Some(1), ..Usage::default() }.total_tokens(), None, "unknown is not zero");
}

#[test]
fn unknown_fields_are_for_the_format_they_came_from() {
    let mut extra = Extra::new(Format::Gemini, map(json!({"a": 1})));
    assert!(extra.of(Format::OpenaiChat).is_none() && extra.of(Format::Gemini).is_some());
    extra.insert(Format::OpenaiChat, "b", json!(2));
    assert_eq!(extra.any(), Some((Format::OpenaiChat, &map(json!({"b": 2})))));
    assert!(Extra::new(Format::Gemini, Map::new()).is_empty());
}

#[test]
fn the_first_output_commits_and_the_frame_around_it_does_not() {
    let event = |part| Event::PartStart { choice: 0, index: 0, part };
    assert!(!Event::Start(Start::default()).commits() && !Event::Ping.commits() && !Event::End.commits());
    assert!(!event(PartStart::Text { extra: Extra::default() }).commits());
    assert!(event(PartStart::Whole(Part::text("x"))).commits());
    assert!(Event::Delta { choice: 0, index: 0, delta: Delta::Text(String::new()) }.commits());
    assert!(Event::Finish { choice: 0, finish: Finish::new(FinishReason::Stop, "stop") }.commits());
}

#[test]
fn units_merge_and_add_like_tokens_and_services_do_not_mix() {
    let part = |images, searches, tier| Usage {
        service_tier: Some(tier),
        units: Units { output_images: images, web_searches: searches, ..Units::default() }.boxed(),
        ..Usage::default()
    };
    let mut usage = part(Some(1), None, ServiceTier::Flex);
    usage.merge(&part(Some(3), Some(2), ServiceTier::Flex));
    usage.merge(&Usage::default());
    assert_eq!((usage.units().output_images, usage.units().web_searches), (Some(3), Some(2)), "cumulative");
    usage.add(&part(Some(4), None, ServiceTier::Flex));
    assert_eq!((usage.units().output_images, usage.service_tier), (Some(7), Some(ServiceTier::Flex)));
    usage.add(&part(None, Some(1), ServiceTier::Priority));
    assert_eq!((usage.units().web_searches, usage.service_tier), (Some(3), None));
    assert_eq!(Units::default().boxed(), None, "nothing known takes no room");
    let mut units = Units::default();
    for (n, figure) in units.figures_mut().into_iter().enumerate() {
        *figure = Some(n as u64);
    }
    let counts: Vec<_> = units.named().iter().map(|(_, count)| count.unwrap()).collect();
    assert_eq!(counts, (0..UNITS as u64).collect::<Vec<_>>(), "both tables have the same order");
}
