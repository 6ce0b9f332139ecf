//! What scripts can do with any text: count its tokens, search it for patterns, hold it against a JSON Schema, guess its
//! language. The work itself is in `text`; here it is named, and stopped when the call's time is over.

use rhai::{Array, Dynamic, ImmutableString, Map};

use super::{
    bounded, convert,
    desk::{Fail, fail},
    engine,
    reference::Registrar,
    request_view::{RequestView, json},
};
use crate::text::{Pattern, Schema, language, tokens};

pub fn register(r: &mut Registrar<'_>) {
    r.object(
        "Texts",
        "Functions on any text, also written as methods: `response.text.matches(REFUSAL)`. They are linear in its length.",
    );
    r.tell(
        "tokens(text), tokens(text, model)",
        "how many tokens the text has for a model (default: the newest encoding); an estimate for models whose encoding is not public",
    );
    r.engine.register_fn("tokens", |text: ImmutableString| count(&text, ""));
    r.engine.register_fn("tokens", |text: ImmutableString, model: &str| count(&text, model));
    r.tell(
        "language(text)",
        "a guess at its language by two letters: \"en\", \"de\", \"zh\", …; () when it cannot be told",
    );
    r.engine.register_fn("language", |text: &str| language::of(text).map_or(Dynamic::UNIT, convert::str));
    patterns(r);
    schemas(r);
}

fn patterns(r: &mut Registrar<'_>) {
    r.engine.register_type_with_name::<Pattern>("Pattern");
    r.engine.register_fn("to_string", |p: &mut Pattern| p.as_str().to_owned());
    r.tell(
        "pattern(text)",
        "a regular expression, compiled once when it stands at the top: `const EMAIL = pattern(\"\\\\w+@\\\\w+\");`; no look-around and no back references",
    );
    r.engine.register_fn("pattern", |text: &str| Pattern::new(text).map_err(wrong));
    r.tell("matches(text, pattern)", "is it in the text? Here and below a pattern may also be a plain string");
    r.engine.register_fn("matches", |text: ImmutableString, p: Pattern| done(p.matches(&text)));
    r.engine.register_fn("matches", |text: ImmutableString, p: &str| done(cached(p)?.matches(&text)));
    r.engine.register_fn("matches", |v: &mut RequestView, p: Pattern| in_request(v, &p));
    r.engine.register_fn("matches", |v: &mut RequestView, p: &str| in_request(v, &cached(p)?));
    r.tell("request.matches(pattern)", "is it in the last user text?");
    r.tell("first_match(text, pattern)", "the first piece that matches, or ()");
    r.engine.register_fn("first_match", |text: ImmutableString, p: Pattern| first(&text, &p));
    r.engine.register_fn("first_match", |text: ImmutableString, p: &str| first(&text, &cached(p)?));
    r.tell("all_matches(text, pattern)", "an array of the pieces that match, at most 1,000");
    r.engine.register_fn("all_matches", |text: ImmutableString, p: Pattern| all(&text, &p));
    r.engine.register_fn("all_matches", |text: ImmutableString, p: &str| all(&text, &cached(p)?));
    r.tell(
        "groups(text, pattern)",
        "the first match and its groups as an array, () for a group without a part in it; () without a match",
    );
    r.engine.register_fn("groups", |text: ImmutableString, p: Pattern| groups(&text, &p));
    r.engine.register_fn("groups", |text: ImmutableString, p: &str| groups(&text, &cached(p)?));
    r.tell(
        "replace_matches(text, pattern, with)",
        "a new text with every match replaced; `$1` and `${name}` stand for groups",
    );
    r.engine.register_fn("replace_matches", |text: ImmutableString, p: Pattern, with: &str| {
        done(p.replaced(&text, with, &|| !engine::late()))
    });
    r.engine.register_fn("replace_matches", |text: ImmutableString, p: &str, with: &str| {
        done(cached(p)?.replaced(&text, with, &|| !engine::late()))
    });
}

fn schemas(r: &mut Registrar<'_>) {
    r.tell(
        "json_schema(text, schema)",
        "what is wrong with a text (or a map or an array) that should be JSON of this schema, as an array of lines, at most 20; empty when it is. `schema` is a map; it may refer to its own parts only",
    );
    r.engine.register_fn("json_schema", |text: ImmutableString, schema: Map| check(schema, |s| s.faults_of(&text)));
    r.engine.register_fn("json_schema", |value: Map, schema: Map| {
        let value = json("json_schema", &value.into())?;
        check(schema, |s| s.faults(&value))
    });
    r.engine.register_fn("json_schema", |value: Array, schema: Map| {
        let value = json("json_schema", &value.into())?;
        check(schema, |s| s.faults(&value))
    });
    r.tell("from_json(text)", "the value that a JSON text stands for; () when it is none");
    r.engine.register_fn("from_json", |text: &str| {
        if bounded::has_too_much(text) {
            return Err(fail("this JSON text has more values than a script may have"));
        }
        Ok(serde_json::from_str(text).map_or(Dynamic::UNIT, |value| convert::from_json(&value)))
    });
    r.tell("to_json(value)", "a map, an array or a plain value as JSON text");
    r.engine
        .register_fn("to_json", |value: Dynamic| -> Result<String, Fail> { Ok(json("to_json", &value)?.to_string()) });
}

fn count(text: &str, model: &str) -> Result<i64, Fail> {
    match tokens::count(text, model, &|| !engine::late()) {
        Some(count) => Ok(i64::try_from(count).unwrap_or(i64::MAX)),
        None => Err(fail("stopped: counting tokens took longer than the call's time limit")),
    }
}

fn cached(pattern: &str) -> Result<Pattern, Fail> {
    Pattern::cached(pattern).map_err(wrong)
}

fn wrong(message: String) -> Fail {
    fail(format!("this is no pattern: {message}"))
}

fn done<T>(result: Result<T, String>) -> Result<T, Fail> {
    result.map_err(fail)
}

fn in_request(view: &RequestView, pattern: &Pattern) -> Result<bool, Fail> {
    done(view.0.doc(|doc| Ok(pattern.matches(&doc.last_user_text()?)))?)
}

fn first(text: &str, pattern: &Pattern) -> Result<Dynamic, Fail> {
    Ok(done(pattern.first(text))?.map_or(Dynamic::UNIT, convert::str))
}

fn all(text: &str, pattern: &Pattern) -> Result<Array, Fail> {
    Ok(done(pattern.all(text, MOST_MATCHES))?.into_iter().map(convert::str).collect())
}

fn groups(text: &str, pattern: &Pattern) -> Result<Dynamic, Fail> {
    let found = done(pattern.groups(text))?;
    let shown = |list: Vec<Option<&str>>| -> Array {
        list.into_iter().map(|group| group.map_or(Dynamic::UNIT, convert::str)).collect()
    };
    Ok(found.map_or(Dynamic::UNIT, |list| shown(list).into()))
}

fn check(schema: Map, faults: impl FnOnce(&Schema) -> Vec<String>) -> Result<Array, Fail> {
    let schema = json("json_schema", &schema.into())?;
    let schema = Schema::of(&schema).map_err(|why| fail(format!("this schema cannot be used: {why}")))?;
    Ok(faults(&schema).into_iter().map(Dynamic::from).collect())
}

const MOST_MATCHES: usize = 1_000;
