//! Scripts that do harm, made by chance. Used from outside (`tests/it/hostile.rs`) and from inside (`core/script/tests`), where
//! the processor time of a single call can be told.

/// One that does harm, in one of its ways; the numbers differ.
pub fn hostile(rng: &mut fastrand::Rng) -> String {
    let n = rng.u32(2..1000);
    let text = ["x", "äö", "\\n", "0", "{", "%s", "a\\tb"][rng.usize(..7)];
    let burn = format!("let i = {n}; while i != -1 {{ i += {}; }}", rng.u32(1..9));
    let deed = match rng.u32(0..31) {
        0 => "loop { }".to_owned(),
        1 => burn,
        2 => format!("let a = 0; for x in 0..{n}00000 {{ for y in 0..{n}00000 {{ a += x * y; }} }}"),
        3 => format!("loop {{ try {{ loop {{ throw {n}; }} }} catch {{ }} }}"),
        4 => format!("let s = \"{text}\"; loop {{ s += s; }}"),
        5 => format!("let a = [{n}]; loop {{ a.push(a.len()); }}"),
        6 => format!("let a = [\"{text}\"]; loop {{ a = [a, a]; }}"),
        7 => format!("let m = #{{}}; let i = 0; loop {{ m[`k${{i}}`] = \"{text}\"; i += 1; }}"),
        8 => format!("let s = \"{text}\"; s.pad({n}0000000, 'y'); context.vars.s = s;"),
        9 => format!("deeper({n})"),
        10 => format!("there({n})"),
        11 => format!("let d = 1; for i in 0..{n}0 {{ d = [d]; }} context.vars.deep = d; return respond(`${{d}}`);"),
        12 => format!(
            "let d = #{{}}; for i in 0..{n}0 {{ d = #{{ d: d }}; }} context.vars.deep = d; context.kv.set(\"d\", d);"
        ),
        13 => format!("let s = \"{text}\"; for i in 0..24 {{ s += s; }} return respond(s);"),
        14 => format!("loop {{ context.note(\"{text}\"); }}"),
        15 => "let i = 0; loop { context.vars[`v${i}`] = i; i += 1; }".to_owned(),
        16 => format!("let i = 0; loop {{ context.kv.set(`k${{i}}`, \"{text}\"); i += 1; }}"),
        17 => "let i = 0; loop { context.metric(`m${i}`, i); i += 1; }".to_owned(),
        18 => format!("return {n};"),
        19 => "return #{ status: 200 };".to_owned(),
        20 => format!("let a = [1]; a[{n}]"),
        21 => "request.messages = 7; request.temperature = \"hot\";".to_owned(),
        22 => format!("let z = 0; {n} / z"),
        23 => format!("let s = \"{text}\"; for i in 0..14 {{ s += s; }} loop {{ tokens(s); }}"),
        24 => format!("let s = \"a\"; for i in 0..20 {{ s += s; }} loop {{ s.matches(\"(a+)+{n}$\"); s.matches(\"(a|a)*b{n}\"); }}"),
        25 => format!("let p = \"(\"; for i in 0..{n} {{ p += \"(a{{1,9}}\"; }} \"aaaa\".matches(p)"),
        26 => format!("let i = {n}; loop {{ \"{text}\".matches(`x${{i}}y+`); i += 1; }}"),
        27 => format!("let s = \"{text}a\"; for i in 0..16 {{ s += s; }} loop {{ s.all_matches(\".\"); s.replace_matches(\".\", \"$0$0$0$0\"); }}"),
        28 => format!("let s = \"\"; for i in 0..{n}0 {{ s += \"[\"; }} from_json(s); loop {{ from_json(\"[1,2,3]\"); }}"),
        29 => "let s = #{ type: \"array\", uniqueItems: true }; let a = []; for i in 0..9000 { a.push(i); } loop { json_schema(a, s); }".to_owned(),
        _ => format!(
            "let s = \"{text}\"; for i in 0..20 {{ s += s; }} loop {{ s.index_of(\"zz{n}\"); s.contains(\"q{n}\"); s.to_upper(); }}"
        ),
    };
    format!(
        "fn deeper(n) {{ deeper(n + 1) + 1 }}\nfn there(n) {{ back(n) }}\nfn back(n) {{ there(n) }}\nfn request(request, context) {{\n    {deed}\n}}\n"
    )
}
