//! Prices by a script: `fn price(usage, model, context)`, and `const VECTORS` that prove it before it is used. It sees what
//! was used and nothing else, has no host functions, no floats and little time, so that a cost is the same whenever and
//! wherever it is made.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use rhai::{
    AST, ASTNode, Array, CallFnOptions, Dynamic, Engine, Expr, Map, OptimizationLevel, Position, Scope,
    packages::{
        BasicArrayPackage, BasicMapPackage, BitFieldPackage, CorePackage, LogicPackage, MoreStringPackage, Package,
    },
};

use super::{
    compile::Book,
    engine::{Used, within},
};
use crate::{
    account::price::{Asked, Function},
    config::{Problem, Sources, StageLimits, usd},
    model::{ServiceTier, Units, Usage},
};

/// A checked price function.
struct Price {
    engine: Engine,
    ast: AST,
    file: String,
    source: Arc<str>,
    /// It failed: said once.
    failed: AtomicBool,
}

/// The function of a file below scripts/; every mistake with its line. A function whose vectors fail is none.
pub fn compile(sources: &Sources, file: &str) -> Result<Arc<dyn Function>, Vec<Problem>> {
    let Some(source) = sources.scripts.get(file) else {
        let message = format!("there is no {file}: price functions lie below scripts/, in a folder of their own");
        let line = sources.lines.get("pricing").copied().unwrap_or(1);
        return Err(vec![Problem { file: "gateway.toml".into(), line, message, excerpt: None }]);
    };
    let book = Book { file, source };
    let engine = engine();
    let syntax = |e: &rhai::ParseError| vec![book.problem(e.1, e.0.to_string())];
    let loose = engine.compile(source).map_err(|e| syntax(&e))?;
    let mut problems = floats(&loose, &book);
    match loose.iter_fn_def().find(|f| f.name == "price") {
        Some(function) if function.params.len() == 3 => {}
        Some(function) => {
            let text = "fn price takes three parameters: fn price(usage, model, context)".to_owned();
            problems.push(book.problem(function.body.start_position(), text));
        }
        None => problems.push(book.problem(Position::NONE, "it has no fn price(usage, model, context)".into())),
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut scope = Scope::new();
    let (made, _) = bounded(|| engine.run_ast_with_scope(&mut scope, &loose));
    made.map_err(|error| vec![book.runtime(&error)])?;
    let mut constants = Scope::new();
    for (name, _, value) in scope.iter().filter(|(_, constant, _)| *constant) {
        constants.push_constant_dynamic(name.to_owned(), value.clone());
    }
    let ast = engine.compile_with_scope(&constants, source).map_err(|e| syntax(&e))?;
    let price = Price { engine, ast, file: file.to_owned(), source: source.clone(), failed: false.into() };
    let problems = price.proved(&constants, &book);
    if problems.is_empty() { Ok(Arc::new(price)) } else { Err(problems) }
}

impl Function for Price {
    fn price(&self, usage: &Usage, asked: Asked<'_>) -> Option<i64> {
        let result = self.made(usage, asked);
        if let Err(why) = &result
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(script = %self.file, target = asked.target, why, "a price function failed: these costs are unknown");
        }
        result.ok()
    }

    fn source(&self) -> &str {
        &self.source
    }
}

impl Price {
    /// Nano-dollars, or why not.
    fn made(&self, usage: &Usage, asked: Asked<'_>) -> Result<i64, String> {
        let (provider, model) = asked.target.split_once('/').unwrap_or(("", asked.target));
        let mut context = Map::new();
        context.insert("provider".into(), provider.to_owned().into());
        context.insert("service".into(), usage.service_tier.unwrap_or(ServiceTier::Standard).name().into());
        context.insert("requests".into(), int(asked.requests));
        let at = asked.at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        context.insert("now".into(), at.map_or(Dynamic::UNIT, |at| int(at.as_secs() / 60 * 60)));
        let args = (view(usage), model.to_owned(), context);
        // A panic in the engine costs this price, not the thread.
        let options = CallFnOptions::new().eval_ast(false);
        let call = || {
            let mut scope = Scope::new();
            self.engine.call_fn_with_options::<Dynamic>(options, &mut scope, &self.ast, "price", args)
        };
        let (outcome, _) = bounded(|| catch_unwind(AssertUnwindSafe(call)));
        match outcome {
            Ok(Ok(value)) => nano(&value),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the script host failed".into()),
        }
    }

    /// Runs its vectors: every one that fails is told.
    fn proved(&self, constants: &Scope<'_>, book: &Book<'_>) -> Vec<Problem> {
        let line = self.source.lines().position(|line| line.contains("VECTORS")).map_or(1, |at| at + 1);
        let at = Position::new(u16::try_from(line).unwrap_or(1), 1);
        let vectors = constants.get_value::<Array>("VECTORS").unwrap_or_default();
        if vectors.is_empty() {
            let text = "a price function proves itself: const VECTORS = [#{ usage: #{ input_tokens: 1000, output_tokens: 10 }, \
                        cost: \"0.0021\" }];";
            return vec![book.problem(at, text.into())];
        }
        let check = |(n, vector): (usize, &Dynamic)| {
            let wrong = self.fails(vector)?;
            Some(book.problem(at, format!("VECTORS[{n}]: {wrong}")))
        };
        vectors.iter().enumerate().filter_map(check).collect()
    }

    /// Why a vector does not hold.
    fn fails(&self, vector: &Dynamic) -> Option<String> {
        let Some(vector) = vector.read_lock::<Map>() else { return Some("it must be a map".into()) };
        let known = ["usage", "model", "provider", "service", "now", "requests", "cost"];
        if let Some(odd) = vector.keys().find(|key| !known.contains(&key.as_str())) {
            return Some(format!("there is no {odd}; it has {}", known.join(", ")));
        }
        let text = |key: &str| vector.get(key).and_then(|value| value.clone().into_string().ok());
        let whole = |key: &str| vector.get(key).and_then(|v| v.as_int().ok()).and_then(|n| u64::try_from(n).ok());
        let mut usage = match vector.get("usage").and_then(|usage| usage.read_lock::<Map>()).map(|usage| read(&usage)) {
            Some(Ok(usage)) => usage,
            Some(Err(odd)) => return Some(format!("usage.{odd} is no count that there is")),
            None => return Some("it needs usage: #{ … }".into()),
        };
        usage.service_tier = text("service").map(|word| ServiceTier::named(&word));
        let target = format!("{}/{}", text("provider").unwrap_or_default(), text("model").unwrap_or_default());
        let at = whole("now").map(|secs| UNIX_EPOCH + Duration::from_secs(secs));
        let asked = Asked { target: &target, at, requests: whole("requests").unwrap_or(1) };
        let expected = match vector.get("cost").map(nano) {
            Some(Ok(expected)) => expected,
            _ => return Some("it needs cost: \"0.0021\", in US dollars, or whole nano-dollars".into()),
        };
        match self.made(&usage, asked) {
            Ok(cost) if cost == expected => None,
            Ok(cost) => {
                let text = crate::account::price::usd_text;
                Some(format!("expected {} USD, and price() gives {}", text(expected), text(cost)))
            }
            Err(why) => Some(format!("price() fails: {why}")),
        }
    }
}

impl std::fmt::Debug for Price {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Price").field(&self.file).finish()
    }
}

/// What a function returned: whole nano-dollars, US dollars as decimal text, or a list of [count, USD per million].
fn nano(value: &Dynamic) -> Result<i64, String> {
    if let Ok(nano) = value.as_int() {
        return if nano < 0 { Err("a cost is not negative".into()) } else { Ok(nano) };
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        return usd(&text);
    }
    let Some(parts) = value.read_lock::<Array>() else {
        return Err(format!(
            "price() returns whole nano-dollars, US dollars as text, or a list of [count, \"USD per million\"], not {}",
            value.type_name()
        ));
    };
    let mut sum: i128 = 0;
    for part in parts.iter() {
        let pair = part.read_lock::<Array>().filter(|pair| pair.len() == 2);
        let pair = pair.ok_or("each part of a price is [count, \"USD per million\"]")?;
        let count = pair[0].as_int().ok().filter(|n| *n >= 0).ok_or("a count is a whole number, and not negative")?;
        let price = match (pair[1].as_int(), pair[1].as_immutable_string_ref()) {
            (Ok(whole), _) => usd(&whole.to_string())?,
            (_, Ok(text)) => usd(&text)?,
            _ => return Err("a price is a whole number or decimal text".into()),
        };
        sum += i128::from(count) * i128::from(price);
    }
    // Rounded once, as tables are.
    i64::try_from((sum + MILLION / 2).div_euclid(MILLION)).map_err(|_| "the cost is too large".into())
}

/// What was used, as a map. The two totals are () where nobody told them; parts that were not told are none.
fn view(usage: &Usage) -> Map {
    let mut out = Map::new();
    let (input, output) = match usage.billed {
        Some(billed) => (billed.input_tokens, billed.output_tokens),
        None => (usage.input_tokens, usage.output_tokens),
    };
    out.insert("input_tokens".into(), input.map_or(Dynamic::UNIT, int));
    out.insert("output_tokens".into(), output.map_or(Dynamic::UNIT, int));
    for (name, count) in parts(usage).into_iter().chain(usage.units().named()) {
        out.insert(name.into(), int(count.unwrap_or(0)));
    }
    out
}

fn parts(usage: &Usage) -> [(&'static str, Option<u64>); 6] {
    [
        ("cache_read_tokens", usage.cache_read_tokens),
        ("cache_write_tokens", usage.cache_write_tokens),
        ("cache_write_1h_tokens", usage.cache_write_1h_tokens),
        ("reasoning_tokens", usage.reasoning_tokens),
        ("input_audio_tokens", usage.input_audio_tokens),
        ("output_audio_tokens", usage.output_audio_tokens),
    ]
}

/// The usage of a vector; an error is the name of what is none.
fn read(map: &Map) -> Result<Usage, String> {
    let mut usage = Usage::default();
    let mut units = Units::default();
    for (name, value) in map {
        let count = value.as_int().ok().and_then(|n| u64::try_from(n).ok()).ok_or_else(|| name.to_string())?;
        let place = match name.as_str() {
            "input_tokens" => &mut usage.input_tokens,
            "output_tokens" => &mut usage.output_tokens,
            "cache_read_tokens" => &mut usage.cache_read_tokens,
            "cache_write_tokens" => &mut usage.cache_write_tokens,
            "cache_write_1h_tokens" => &mut usage.cache_write_1h_tokens,
            "reasoning_tokens" => &mut usage.reasoning_tokens,
            "input_audio_tokens" => &mut usage.input_audio_tokens,
            "output_audio_tokens" => &mut usage.output_audio_tokens,
            other => {
                let at = Units::default().named().iter().position(|(unit, _)| *unit == other);
                let at = at.ok_or_else(|| name.to_string())?;
                units.figures_mut().into_iter().nth(at).ok_or_else(|| name.to_string())?
            }
        };
        *place = Some(count);
    }
    usage.units = units.boxed();
    Ok(usage)
}

fn int(count: u64) -> Dynamic {
    i64::try_from(count).unwrap_or(i64::MAX).into()
}

/// The language without floats, clocks, imports and the outside.
fn engine() -> Engine {
    let mut engine = Engine::new_raw();
    CorePackage::new().register_into_engine(&mut engine);
    BitFieldPackage::new().register_into_engine(&mut engine);
    LogicPackage::new().register_into_engine(&mut engine);
    BasicArrayPackage::new().register_into_engine(&mut engine);
    BasicMapPackage::new().register_into_engine(&mut engine);
    MoreStringPackage::new().register_into_engine(&mut engine);
    engine.set_max_operations(OPERATIONS);
    engine.set_max_call_levels(16);
    engine.set_max_expr_depths(64, 32);
    engine.set_max_string_size(4 << 10);
    engine.set_max_array_size(1_000);
    engine.set_max_map_size(1_000);
    engine.set_max_variables(128);
    engine.set_max_functions(64);
    engine.set_max_modules(0);
    engine.set_optimization_level(OptimizationLevel::Simple);
    engine.on_print(|_| {});
    engine.on_debug(|_, _, _| {});
    for word in ["eval", "import", "to_float", "parse_float"] {
        engine.disable_symbol(word);
    }
    engine.on_progress(super::engine::spent);
    engine
}

/// A float anywhere would make a cost that is nearly right.
fn floats(ast: &AST, book: &Book<'_>) -> Vec<Problem> {
    let (mut problems, mut seen) = (Vec::new(), HashSet::new());
    ast.walk(&mut |path: &[ASTNode<'_>]| {
        if let Some(ASTNode::Expr(Expr::FloatConstant(_, at))) = path.last()
            && seen.insert((at.line(), at.position()))
        {
            let text = "money is made of whole numbers: write prices as text (\"0.15\"), or count in nano-dollars";
            problems.push(book.problem(*at, text.into()));
        }
        true
    });
    problems
}

fn bounded<T>(f: impl FnOnce() -> T) -> (T, Used) {
    within(StageLimits { operations: OPERATIONS, wall: WALL, ..StageLimits::default() }, f)
}

/// Of one price.
const OPERATIONS: u64 = 20_000;
const WALL: Duration = Duration::from_millis(50);
const MILLION: i128 = 1_000_000;

#[cfg(test)]
mod tests;
