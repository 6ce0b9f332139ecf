//! The ready-made scripts as they lie in scripts/ready: what they do to requests and answers, with their `config`, and with
//! a stand-in for the models that they ask.

use std::sync::Mutex;

use futures_util::future::BoxFuture;

use super::*;
use crate::pipeline::{
    Asks, Effects, Pipeline,
    ask::{Answer, Asker, Embed, Question, Vectors},
};

/// Answers in turn, and remembers what it was asked.
#[derive(Default)]
struct StandIn {
    answers: Mutex<Vec<Result<String, Error>>>,
    asked: Mutex<Vec<Request>>,
}

impl Asker for StandIn {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, Error>> {
        self.asked.lock().unwrap().push(question.request);
        let text = self.answers.lock().unwrap().pop().unwrap_or_else(|| Err(Error::new(Kind::UpstreamTimeout, "late")));
        Box::pin(std::future::ready(text.map(|text| Answer { text, note: "asked".into() })))
    }

    /// One dimension a subject.
    fn embed(&self, question: Embed) -> BoxFuture<'static, Result<Vectors, Error>> {
        let has = |text: &str, words: &[&str]| if words.iter().any(|w| text.contains(w)) { 1.0 } else { 0.0 };
        let of = |text: &String| {
            let text = text.to_lowercase();
            vec![has(&text, &["function", "query", "class"]), has(&text, &["story", "letter", "speech", "poem"]), 0.1]
        };
        let vectors = question.texts.iter().map(of).collect();
        Box::pin(std::future::ready(Ok(Vectors { vectors, note: "embedded".into() })))
    }
}

struct Bench {
    pipeline: Pipeline,
    asker: Arc<StandIn>,
    cx: Context,
    chain: Chain,
}

fn bench(name: &str, settings: serde_json::Value) -> Bench {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ready").join(format!("{name}.rhai"));
    let text = std::fs::read_to_string(path).unwrap();
    let scripts = Scripts::dry();
    let host = scripts.host(&Sources::default());
    let uses = format!("scripts/ready/{name}.rhai");
    let program = scripts.compile(&host, &uses, &text).unwrap_or_else(|p| panic!("{p:#?}"));
    let asker = Arc::new(StandIn::default());
    let effects = Effects { asks: Asks::answering(asker.clone()), ..Effects::dry() };
    let settings = settings.as_object().cloned().unwrap();
    // Tests run beside others: more time than scripts have by default.
    let limits = StageLimits { wall: std::time::Duration::from_secs(30), ..StageLimits::default() };
    let stage = super::super::ScriptStage::new(program, &uses, limits, settings, effects);
    let entry = pipeline::Entry::new(Arc::new(stage.granted(&["ask".to_owned()])));
    let pipeline = Pipeline::new(vec![entry]);
    let cx = cx();
    let chain = pipeline.select(&cx.principal, "any");
    Bench { pipeline, asker, cx, chain }
}

impl Bench {
    fn answers(self, texts: &[&str]) -> Self {
        *self.asker.answers.lock().unwrap() = texts.iter().rev().map(|text| Ok((*text).to_owned())).collect();
        self
    }

    fn asks(&mut self, body: serde_json::Value) -> (Result<Flow, Error>, Document) {
        let mut whole = json!({"model": "auto", "messages": [{"role": "user", "content": "hello"}]});
        whole.as_object_mut().unwrap().extend(body.as_object().cloned().unwrap());
        let mut doc = Document::new(Format::OpenaiChat, whole.to_string().into(), Default::default()).unwrap();
        let result = now(self.chain.request(&mut self.cx, &mut doc));
        (result, doc)
    }

    fn asked(&mut self, body: serde_json::Value) -> Document {
        let (result, doc) = self.asks(body);
        assert!(result.is_ok(), "{result:?} {}", fault(&self.cx));
        doc
    }

    fn routes(&mut self, question: &str) -> Option<Vec<String>> {
        let mut doc = self.asked(json!({"messages": [{"role": "user", "content": question}]}));
        let result = now(self.chain.route(&mut self.cx, &mut doc, &targets()));
        result.unwrap_or_else(|e| panic!("{e:?} {}", fault(&self.cx)))
    }

    /// The reason for the next target, or the answer as it goes on.
    fn hears(&mut self, text: &str, finish: FinishReason) -> Result<String, String> {
        let mut response = answer(text);
        response.choices[0].finish = Some(Finish::new(finish, finish.name()));
        let flow = now(self.chain.response(&mut self.cx, &targets()[0], &mut response));
        match flow.unwrap_or_else(|e| panic!("{e:?} {}", fault(&self.cx))) {
            ResponseFlow::Deliver => Ok(response.text()),
            ResponseFlow::Next(reason) => Err(reason),
        }
    }

    fn says(&mut self, text: &str) -> Result<String, String> {
        self.hears(text, FinishReason::Stop)
    }
}

#[test]
fn tasks_go_where_their_route_says() {
    let mut bench = bench("task-router", json!({"routes": {"code": "a/slow", "essay": "b/fast"}}));
    assert_eq!(bench.routes("fix this bug"), Some(vec!["a/slow".to_owned()]));
    assert_eq!(bench.routes("a short story please"), Some(vec!["b/fast".to_owned()]));
    assert_eq!(bench.routes("translate this"), None);
    assert_eq!(notes(&bench.cx), ["task: code", "task: essay"]);
}

#[test]
fn meaning_chooses_by_the_nearest_example() {
    let settings = json!({"embeddings": "e/m", "routes": {"code": "a/slow", "essay": "b/fast"}});
    let mut bench = bench("task-router-by-meaning", settings);
    assert_eq!(bench.routes("this class is broken"), Some(vec!["a/slow".to_owned()]));
    assert_eq!(notes(&bench.cx), ["embedded", "task: code"]);
    let mut again = self::bench("task-router-by-meaning", json!({"embeddings": "e/m", "routes": {"essay": "b/fast"}}));
    assert_eq!(again.routes("a poem on rain"), Some(vec!["b/fast".to_owned()]));
    assert_eq!(again.pipeline.entries.len(), 1);
}

#[test]
fn languages_go_where_their_route_says() {
    let mut bench = bench("language-router", json!({"routes": {"de": "a/slow"}}));
    let question = "Wie kann ich das mit meinen Kindern machen? Bitte schreib mir eine Liste.";
    assert_eq!(bench.routes(question), Some(vec!["a/slow".to_owned()]));
    assert_eq!(bench.routes("How do I do this with the children?"), None);
}

#[test]
fn arms_stick_to_keys() {
    let settings = json!({"model": "auto", "shares": {"a/slow": 0.5, "b/fast": 0.5}, "sticky": "key"});
    let first = bench("canary", settings.clone()).routes("hello");
    for _ in 0..5 {
        assert_eq!(bench("canary", settings.clone()).routes("hello"), first);
    }
    assert!(first.is_some());
}

#[test]
fn teams_have_their_defaults() {
    let settings = json!({"all": {"max_tokens": 100, "temperature": 1.0},
        "research": {"temperature": 0.2, "seed": 7, "system": "Be brief."}});
    let mut bench = bench("team-defaults", settings);
    let mut doc = bench.asked(json!({"max_tokens": 5}));
    let request = doc.request().unwrap();
    assert_eq!(
        (request.sampling.temperature, request.sampling.seed, request.max_tokens),
        (Some(0.2), Some(7), Some(5))
    );
    assert_eq!(request.messages[0].joined_text(), "Be brief.");
    let mut doc = bench
        .asked(json!({"temperature": 0.0, "messages": [{"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "hi"}]}));
    let request = doc.request().unwrap();
    assert_eq!((request.sampling.temperature, request.max_tokens), (Some(0.0), Some(100)));
    assert_eq!(request.messages[0].joined_text(), "Be brief.\nBe kind.");
}

#[test]
fn words_are_refused_in_questions_and_end_answers() {
    let settings = json!({"block": ["project falcon"], "topics": ["order", "refund"], "answers": ["rival inc"]});
    let mut bench = bench("words", settings);
    let ask = |bench: &mut Bench, text: &str| bench.asks(json!({"messages": [{"role": "user", "content": text}]})).0;
    assert_eq!(ask(&mut bench, "my order on Project Falcon").err().map(|e| e.status()), Some(400));
    assert_eq!(ask(&mut bench, "tell me a joke").err().map(|e| e.status()), Some(400));
    assert!(ask(&mut bench, "where is my order?").is_ok());
    assert_eq!(bench.says("ask Rival Inc about it").unwrap(), "");
    assert_eq!(bench.says("it is on its way").unwrap(), "it is on its way");
}

#[test]
fn answers_that_do_not_fit_their_schema_go_on() {
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema":
        {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}}});
    let mut check = bench("schema-check", json!({}));
    check.asked(format.clone());
    assert!(check.says("{\"n\": 1}").is_ok());
    assert!(check.says("{\"n\": \"one\"}").is_err() && check.says("one").is_err());

    let mut repair = bench("schema-repair", json!({"model": "a/judge"})).answers(&["```json\n{\"n\": 1}\n```", "{}"]);
    repair.asked(format);
    assert_eq!(repair.says("{\"n\": \"one\"}").unwrap(), "{\"n\":1}");
    assert!(repair.says("nothing").is_err(), "a repair that does not fit is none");
    assert!(repair.says("nothing").is_err(), "a model that does not answer repairs nothing");
    let asked = repair.asker.asked.lock().unwrap();
    assert_eq!((asked.len(), asked[0].model.as_str()), (3, "a/judge"));
    assert!(asked[0].messages[1].joined_text().contains("at /n: \"one\" is not of type"));
}

#[test]
fn poor_answers_go_on() {
    let mut bench = bench("quality", json!({"least": 5, "most": 60, "same_language": true}));
    bench
        .asked(json!({"messages": [{"role": "user", "content": "What is the best way to do this with my children?"}]}));
    for refusal in [
        "I'm sorry, but I can't help with that.",
        "As an AI language model I have no view",
        "I cannot assist with that",
    ] {
        assert_eq!(bench.says(refusal), Err("the answer is a refusal".into()), "{refusal}");
    }
    assert_eq!(bench.says("ok"), Err("the answer has 2 characters".into()));
    assert!(bench.says(&"long ".repeat(20)).unwrap_err().contains("99 characters"));
    assert_eq!(bench.hears("this is half of", FinishReason::Length), Err("the answer broke off".into()));
    let german = "Das ist eine Frage, die ich nicht für den Moment habe.";
    assert_eq!(bench.says(german), Err("asked in en, answered in de".into()));
    assert!(bench.says("Play a game with them, and sing.").is_ok());
}

#[test]
fn a_judge_marks_answers() {
    let mut bench = bench("judge", json!({"model": "a/judge"})).answers(&[
        "{\"mark\": 3, \"why\": \"x\"}",
        "{\"mark\": 8, \"why\": \"x\"}",
        "hm",
    ]);
    bench.asked(json!({}));
    assert_eq!(bench.says("a poor answer"), Err("the judge gave 3 of 10".into()));
    assert!(bench.says("a fine answer").is_ok());
    assert!(bench.says("an answer without a mark").is_ok());
    assert!(bench.says("an answer without a judge").is_ok());
    let asked = bench.asker.asked.lock().unwrap();
    assert!(asked[0].messages[1].joined_text().contains("<answer>\na poor answer\n</answer>"));
    assert!(matches!(asked[0].output, Some(crate::model::Output::Schema { .. })));
    drop(asked);
    let mut none = self::bench("judge", json!({"model": "a/judge", "share": 0}));
    none.asked(json!({}));
    assert!(none.says("an answer that nobody judges").is_ok());
    assert_eq!(none.asker.asked.lock().unwrap().len(), 0);
}

#[test]
fn answers_get_their_shape() {
    let mut fence = bench("shape", json!({"fence": true}));
    assert_eq!(fence.says("```json\n{\"a\": 1}\n```\n").unwrap(), "{\"a\": 1}");
    assert_eq!(fence.says("see ```x``` there").unwrap(), "see ```x``` there");
    let mut plain = bench("shape", json!({"plain": true, "suffix": "\n--"}));
    let text = "# Title\n\n**Bold** and *soft*, 2 * 3 * 4, see [here](https://example.com/a).";
    assert_eq!(plain.says(text).unwrap(), "Title\n\nBold and soft, 2 * 3 * 4, see here (https://example.com/a).\n--");
}

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
