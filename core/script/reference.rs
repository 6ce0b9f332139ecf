//! The script reference: what is registered with the engine, told in the order in which it is registered. Properties
//! cannot be registered without a line here, so `scripts/README.md` cannot lag behind.

use std::{
    fmt::Write,
    sync::{Arc, LazyLock},
};

use rhai::{Dynamic, Engine, Variant};

use super::desk::Fail;
use crate::pipeline::phase::TABLE;

/// Registers with an engine and keeps the book.
pub struct Registrar<'e> {
    pub engine: &'e mut Engine,
    objects: Vec<Object>,
}

/// One object of the reference.
pub struct Object {
    pub name: &'static str,
    intro: &'static str,
    rows: Vec<Row>,
    /// Properties that are objects of their own.
    parts: Vec<&'static str>,
    /// Is it a type, or only a heading?
    kind: bool,
}

struct Row {
    name: String,
    property: bool,
    settable: bool,
    text: &'static str,
}

impl<'e> Registrar<'e> {
    pub fn new(engine: &'e mut Engine) -> Self {
        Registrar { engine, objects: Vec::new() }
    }

    /// The next rows belong to this object.
    pub fn object(&mut self, name: &'static str, intro: &'static str) {
        self.objects.push(Object { name, intro, rows: Vec::new(), parts: Vec::new(), kind: false });
    }

    /// A script type and its name in error messages.
    pub fn kind<V: Variant + Clone>(&mut self, name: &'static str, intro: &'static str) {
        self.engine.register_type_with_name::<V>(name);
        self.object(name, intro);
        if let Some(object) = self.objects.last_mut() {
            object.kind = true;
        }
    }

    /// A property that can be read.
    pub fn get<V: Variant + Clone>(
        &mut self,
        name: &'static str,
        text: &'static str,
        get: impl Fn(&V) -> Result<Dynamic, Fail> + Send + Sync + 'static,
    ) {
        self.engine.register_get(name, move |v: &mut V| -> Result<Dynamic, Fail> { get(v) });
        self.row(name, (true, false), text);
    }

    /// A property that can be read and written.
    pub fn both<V: Variant + Clone>(
        &mut self,
        name: &'static str,
        text: &'static str,
        get: impl Fn(&V) -> Result<Dynamic, Fail> + Send + Sync + 'static,
        set: impl Fn(&V, Dynamic) -> Result<(), Fail> + Send + Sync + 'static,
    ) {
        self.engine.register_get(name, move |v: &mut V| -> Result<Dynamic, Fail> { get(v) });
        self.engine.register_set(name, move |v: &mut V, value: Dynamic| -> Result<(), Fail> { set(v, value) });
        self.row(name, (true, true), text);
    }

    /// A property of the type `of` that is an object of its own, told in rows of its own.
    pub fn part<V: Variant + Clone, P: Variant + Clone>(
        &mut self,
        of: &'static str,
        name: &'static str,
        get: impl Fn(&V) -> P + Send + Sync + 'static,
    ) {
        self.engine.register_get(name, move |v: &mut V| get(v));
        if let Some(object) = self.objects.iter_mut().find(|object| object.name == of) {
            object.parts.push(name);
        }
    }

    /// A function or method, registered by hand beside this line.
    pub fn tell(&mut self, signature: &'static str, text: &'static str) {
        self.row(signature, (false, false), text);
    }

    fn row(&mut self, name: &str, (property, settable): (bool, bool), text: &'static str) {
        if let Some(object) = self.objects.last_mut() {
            object.rows.push(Row { name: name.to_owned(), property, settable, text });
        }
    }
}

impl Object {
    pub fn is_kind(&self) -> bool {
        self.kind
    }

    /// Can this property be set? `None`: there is none of this name.
    pub fn settable(&self, name: &str) -> Option<bool> {
        let row = self.rows.iter().find(|row| row.property && row.name == name);
        row.map(|row| row.settable).or_else(|| self.parts.contains(&name).then_some(false))
    }

    pub fn properties(&self) -> impl Iterator<Item = &str> {
        let rows = self.rows.iter().filter(|row| row.property).map(|row| row.name.as_str());
        rows.chain(self.parts.iter().copied())
    }
}

/// All that is registered, made once.
pub fn objects() -> &'static [Object] {
    static OBJECTS: LazyLock<Vec<Object>> = LazyLock::new(|| {
        let mut engine = Engine::new_raw();
        let mut registrar = Registrar::new(&mut engine);
        super::engine::register(&mut registrar);
        registrar.objects
    });
    &OBJECTS
}

/// `scripts/README.md`.
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    let hooks: Vec<String> =
        TABLE.iter().map(|row| format!("`fn {}({})`", row.name, row.parameters.join(", "))).collect();
    for (row, hook) in TABLE.iter().zip(&hooks) {
        let verdicts: Vec<String> = row.verdicts.iter().map(|v| format!("`{v}`")).collect();
        let verdicts = if verdicts.is_empty() { "none".into() } else { verdicts.join(", ") };
        line(&mut out, format_args!("| {hook} | {} | {} | {} | {verdicts} |", row.runs, row.sees, row.may_change));
    }
    out.push_str(STREAMS);
    for Object { name, intro, rows, .. } in objects() {
        line(&mut out, format_args!("\n### {name}\n\n{intro}\n\n| name | can be set | what it is |\n|---|---|---|"));
        for Row { name, settable, text, .. } in rows {
            let set = if *settable { "yes" } else { "" };
            line(&mut out, format_args!("| `{}` | {set} | {text} |", name.replace('|', "\\|")));
        }
    }
    out.push_str(TAIL);
    out
}

/// `scripts/definitions/portcullis.d.rhai`: the same for editors, in the form of Rhai's language server.
pub fn definitions() -> String {
    let mut out = String::from(DEFINITIONS);
    for Object { name, rows, kind, .. } in objects() {
        line(&mut out, format_args!("\n// {name}"));
        for Row { name: signature, property, settable, text } in rows {
            let text = text.replace('\n', " ");
            if *property {
                line(&mut out, format_args!("\n/// {text}\nfn get {signature}(this: {name}) -> ?;"));
                if *settable {
                    line(&mut out, format_args!("\n/// {text}\nfn set {signature}(this: {name}, value: ?);"));
                }
                continue;
            }
            for call in calls(signature) {
                let Some((path, rest)) = call.split_once('(') else { continue };
                let parameters: Vec<String> = rest.trim_end_matches(')').split(',').filter_map(parameter).collect();
                // A method of a kind or of something told in its own rows: the object stands first.
                let (owner, function) = path.rsplit_once('.').map_or((None, path), |(owner, name)| (Some(owner), name));
                let first = owner.map(|_| "this: ?".to_owned()).or_else(|| kind.then(|| format!("this: {name}")));
                let all: Vec<String> = first.into_iter().chain(parameters).collect();
                line(&mut out, format_args!("\n/// {text}\nfn {function}({}) -> ?;", all.join(", ")));
            }
        }
    }
    out
}

/// `f(a), f(a, b)` one by one.
fn calls(signature: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let (mut depth, mut call) = (0, String::new());
    for c in signature.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        match c {
            ',' | ' ' if depth == 0 => {}
            _ => call.push(c),
        }
        if c == ')' && depth == 0 {
            all.push(std::mem::take(&mut call));
        }
    }
    all
}

/// `text | map` is one that may be either.
fn parameter(text: &str) -> Option<String> {
    let name = text.split('|').next()?.trim().replace(' ', "_");
    (!name.is_empty()).then(|| format!("{name}: ?"))
}

const DEFINITIONS: &str = "\
// Generated from the code: UPDATE_DOCS=1 cargo test --lib script::
// For Rhai's language server: what scripts see beside the language itself. Not run, and no stage.
module static;
";

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}

/// A value shared with a view without copying its text.
pub fn shared(text: &Arc<str>) -> Dynamic {
    Dynamic::from(rhai::ImmutableString::from(&**text))
}

const HEAD: &str = "\
# Scripts

<!-- Generated from the code: UPDATE_DOCS=1 cargo test --lib script:: -->

Every `*.rhai` file directly in this folder is live: it is a stage that each request passes, in file-name order, unless
`[[stages]]` in gateway.toml lists them otherwise. Save a file and the next request runs it; a file with a mistake is
refused and the old one stays. `name.test.toml` beside `name.rhai` is run before the new file goes live, and by
`portcullis test`. Files in folders below are for `import \"folder/name\" as name;`.

A script is a file of functions named after the phases it wants. One that it does not define costs nothing.

```rhai
fn request(request, context) {
    if request.input_tokens > 100000 { return reject(413, \"split this document first\"); }
    if context.team == \"kids\" { request.temperature = 0.2; }
}
```

## Hooks

The request passes the stages in list order, the answer in reverse.

| hook | runs | sees | may change | verdicts |
|---|---|---|---|---|
";

const STREAMS: &str = "
`fn route` returns nothing (the strategy's own order stands), one name, or an array of names and targets. A name is
`provider/model` or an alias, and must be one that the caller may use. An empty array refuses with 503.

`fn event` returns nothing (the event goes on, with what was set on it), a map (which takes its place), an array (all of
it in its place), or an empty array (the event is dropped). A map is `#{ kind: \"text\" | \"reasoning\" |
\"tool_arguments\" | \"refusal\", text: \"…\" }` or `#{ kind: \"tool_call\", name: \"…\", arguments: #{…} }`. The frame
of an answer (start, finish, usage, end) cannot be dropped.

An answer reaches a script once, as events or whole, as its first lines say for streams:

| `const STREAM =` | the script has | what happens |
|---|---|---|
| `\"event\"` | `fn event` | each event as it comes (the default with `fn event`) |
| `\"window\"` | `fn event` | text is held back by `const WINDOW = 256;` characters and shown with what came before, so that a match across events stands whole; the same text may be seen again, after your changes. With `const WINDOW = \"sentence\";` it comes in whole sentences, each seen once. Texts of one kind (the answer's, its thoughts, a refusal) are one text to it, whatever stands between their parts; thoughts that a long text cut are seen again from what was still held |
| `\"whole\"` | `fn response` | the answer is held until it is complete |
| `\"observe\"` | `fn response` | the answer goes by and is looked at after its end; verdicts are only recorded |

## Objects
";

const TAIL: &str = "
## Limits

Each call may use 200,000 operations and 50 ms (`limits` in `[[stages]]`), call 32 functions deep and build strings of 32 MiB and
arrays and maps of 10,000 entries. There are no files, no network, no `sleep`, no `eval` and no clock but `context.now`.
`print` goes nowhere: use `context.note`. Try things out with `portcullis repl`; editors with Rhai's language server read
`definitions/portcullis.d.rhai`. `import` reads from this folder and the folders below only. A script that
fails refuses its request with 500 (`on_error = \"skip\"` goes on without it) and the log names file, line and column.
`log` hooks run after the answer, two at a time; where earlier ones are so slow that one does not begin within a second, it is
left out, which the request's trace and `portcullis_log_hooks_left_out_total` say.
Top-level `const` values are seen in every function; give them names of their own.
The memory that traces and `portcullis_stage_memory_bytes` tell of a call is what its hook's variables hold at its end; what it let
go of before is not known, and bounded by the sizes above, 256 variables and the time.
";
