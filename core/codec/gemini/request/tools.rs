//! `tools` and `toolConfig`, both ways. A declaration's `parameters` are this wire's own `Schema`: they become plain JSON
//! Schema for everybody else and go back as they were while nobody changed them.

use serde_json::{Map, Value, json};

use crate::{
    codec::{
        Dialect,
        gemini::wire::{GEMINI, fill, list, object, spelling},
        json::{Fields, missing},
        schema,
    },
    error::{Error, Result},
    model::{Extra, Tool, ToolChoice, tool::Function},
};

pub fn decode(fields: &mut Fields) -> Result<Vec<Tool>> {
    let base = fields.path("tools");
    let mut out = Vec::new();
    for (i, tool) in list(fields, &["tools"])?.into_iter().enumerate() {
        let mut tool = Fields::new(tool, format!("{base}[{i}]"))?;
        let key = spelling(&tool, &["functionDeclarations", "function_declarations"]);
        let path = tool.path(key);
        for (j, declaration) in list(&mut tool, &[key])?.into_iter().enumerate() {
            out.push(Tool::Function(function(Fields::new(declaration, format!("{path}[{j}]"))?)?));
        }
        for (key, value) in tool.rest_map() {
            let kind = hosted_name(&key).to_owned();
            out.push(Tool::Hosted { format: GEMINI, kind, value: json!({ key: value }) });
        }
    }
    Ok(out)
}

fn hosted_name(key: &str) -> &str {
    match key {
        "google_search" => "googleSearch",
        "google_search_retrieval" => "googleSearchRetrieval",
        "code_execution" => "codeExecution",
        "url_context" => "urlContext",
        "file_search" => "fileSearch",
        "google_maps" => "googleMaps",
        "computer_use" => "computerUse",
        other => other,
    }
}

fn function(mut declaration: Fields) -> Result<Function> {
    let name = declaration.string("name")?.ok_or_else(|| missing(&declaration.path("name")))?;
    let description = declaration.string("description")?;
    let plain = declaration.take_any(&["parametersJsonSchema", "parameters_json_schema"]);
    let own = if plain.is_none() { declaration.take("parameters") } else { None };
    let mut extra = declaration.rest(GEMINI);
    let parameters = match (plain, own) {
        (Some(plain), _) => Some(plain),
        (None, Some(own)) => {
            let raised = schema::raise(&own);
            extra.insert(GEMINI, "parameters", own);
            Some(raised)
        }
        (None, None) => None,
    };
    Ok(Function { name, description, parameters, strict: None, custom: false, cache: None, extra })
}

/// `toolConfig`; what the model has no word for stays in `extra`.
pub fn decode_choice(fields: &mut Fields, extra: &mut Map<String, Value>) -> Result<Option<ToolChoice>> {
    let key = spelling(fields, &["toolConfig", "tool_config"]);
    let Some(mut config) = fields.object(key)? else { return Ok(None) };
    let key = spelling(&config, &["functionCallingConfig", "function_calling_config"]);
    let Some(mut calling) = config.object(key)? else {
        keep(extra, config.rest_map(), Map::new());
        return Ok(None);
    };
    let mode = calling.string("mode")?;
    let mode_path = calling.path("mode");
    let key = spelling(&calling, &["allowedFunctionNames", "allowed_function_names"]);
    let path = calling.path(key);
    let mut names = Vec::new();
    for (i, name) in calling.array(key)?.unwrap_or_default().into_iter().enumerate() {
        match name {
            Value::String(name) => names.push(name),
            other => return Err(crate::codec::json::wrong_type(&format!("{path}[{i}]"), "a string", &other)),
        }
    }
    let mut rest = calling.rest_map();
    let upper = mode.as_deref().map(str::to_ascii_uppercase);
    let choice = match upper.as_deref() {
        None | Some("MODE_UNSPECIFIED") if names.is_empty() => None,
        None | Some("MODE_UNSPECIFIED" | "AUTO" | "VALIDATED") if !names.is_empty() => {
            Some(ToolChoice::Allowed { names, required: false })
        }
        Some("AUTO") => Some(ToolChoice::Auto),
        Some("VALIDATED") => {
            rest.insert("mode".to_owned(), json!("VALIDATED"));
            Some(ToolChoice::Auto)
        }
        Some("NONE") => Some(ToolChoice::None),
        Some("ANY") => Some(match names.len() {
            0 => ToolChoice::Required,
            1 => ToolChoice::Tool { name: names.remove(0), custom: false },
            _ => ToolChoice::Allowed { names, required: true },
        }),
        _ => {
            return Err(Error::invalid(&mode_path, format!("`{mode_path}` must be one of AUTO, ANY, NONE, VALIDATED")));
        }
    };
    keep(extra, config.rest_map(), rest);
    Ok(choice)
}

fn keep(extra: &mut Map<String, Value>, mut config: Map<String, Value>, calling: Map<String, Value>) {
    if !calling.is_empty() {
        config.insert("functionCallingConfig".to_owned(), Value::Object(calling));
    }
    if !config.is_empty() {
        extra.insert("toolConfig".to_owned(), Value::Object(config));
    }
}

/// The `tools` list for an upstream.
pub fn encode(tools: &[Tool], dialect: &Dialect, dropped: &mut Vec<&'static str>) -> Result<Option<Value>> {
    let mut functions = Vec::new();
    let mut hosted = Vec::new();
    for (i, tool) in tools.iter().enumerate() {
        match tool {
            Tool::Function(function) => functions.push(declaration(function, i, dialect, dropped)?),
            Tool::Hosted { format, value, .. } if *format == GEMINI => hosted.push(value.clone()),
            Tool::Hosted { kind, .. } => {
                return Err(Error::unsupported(
                    kind,
                    format!(
                        "the hosted tool `{kind}` (tools[{i}]) is not offered by this target; remove it or choose a model that has it"
                    ),
                ));
            }
        }
    }
    if !functions.is_empty() && dialect.lacks.contains(&"tools") {
        return Err(Error::unsupported(
            "tools",
            "this target cannot call tools; remove `tools` or choose another model",
        ));
    }
    let mut out = Vec::new();
    if !functions.is_empty() {
        out.push(json!({ "functionDeclarations": functions }));
    }
    out.extend(hosted);
    Ok((!out.is_empty()).then_some(Value::Array(out)))
}

fn declaration(function: &Function, index: usize, dialect: &Dialect, dropped: &mut Vec<&'static str>) -> Result<Value> {
    // `strict` asks for exact arguments, which this wire has only for all tools at once.
    let Function { name, description, parameters, strict: _, custom, cache, extra } = function;
    if cache.is_some() {
        super::encode::note(dropped, "cache_control");
    }
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(name));
    if let Some(description) = description {
        out.insert("description".to_owned(), json!(description));
    }
    let own = extra.of(GEMINI);
    let original = own.and_then(|e| e.get("parameters")).filter(|o| parameters.as_ref() == Some(&schema::raise(o)));
    if *custom {
        let input = json!({ "type": "object", "properties": { "input": { "type": "string" } }, "required": ["input"] });
        put_schema(&mut out, "parameters", &input, index, dialect)?;
    } else if let Some(original) = original {
        out.insert("parameters".to_owned(), original.clone());
    } else if let Some(parameters) = parameters {
        put_schema(&mut out, "parameters", parameters, index, dialect)?;
    }
    for (key, value) in own.into_iter().flatten() {
        if key != "parameters" {
            out.insert(key.clone(), value.clone());
        }
    }
    Ok(Value::Object(out))
}

fn put_schema(out: &mut Map<String, Value>, key: &str, given: &Value, index: usize, dialect: &Dialect) -> Result<()> {
    if dialect.json_schema {
        out.insert(format!("{key}JsonSchema"), given.clone());
    } else if !schema::is_empty_object(given) {
        out.insert(key.to_owned(), schema::lower(given, &format!("tools[{index}].{key}"))?);
    }
    Ok(())
}

/// `toolConfig` for an upstream. Without functions there is nothing to choose, and the upstream refuses the field.
pub fn encode_choice(choice: Option<&ToolChoice>, has_functions: bool, extra: &Extra) -> Option<Value> {
    let kept = extra.of(GEMINI).and_then(|e| e.get("toolConfig")).cloned().map(object).unwrap_or_default();
    let mut calling = Map::new();
    match choice.filter(|_| has_functions) {
        None => {}
        Some(ToolChoice::Auto) => mode(&mut calling, "AUTO", &[]),
        Some(ToolChoice::None) => mode(&mut calling, "NONE", &[]),
        Some(ToolChoice::Required) => mode(&mut calling, "ANY", &[]),
        Some(ToolChoice::Tool { name, custom: _ }) => mode(&mut calling, "ANY", std::slice::from_ref(name)),
        Some(ToolChoice::Allowed { names, required: true }) => mode(&mut calling, "ANY", names),
        Some(ToolChoice::Allowed { names, required: false }) => mode(&mut calling, "VALIDATED", names),
    }
    let mut out = Map::new();
    let kept_calling = kept.get("functionCallingConfig").and_then(Value::as_object);
    if let Some(kept) = kept_calling.filter(|_| has_functions) {
        if choice == Some(&ToolChoice::Auto)
            && let Some(kept_mode) = kept.get("mode")
        {
            calling.insert("mode".to_owned(), kept_mode.clone());
        }
        let mut rest = kept.clone();
        rest.shift_remove("mode");
        fill(&mut calling, Some(&rest));
    }
    if !calling.is_empty() {
        out.insert("functionCallingConfig".to_owned(), Value::Object(calling));
    }
    let mut rest = kept;
    rest.shift_remove("functionCallingConfig");
    fill(&mut out, Some(&rest));
    (!out.is_empty()).then_some(Value::Object(out))
}

fn mode(calling: &mut Map<String, Value>, word: &str, names: &[String]) {
    calling.insert("mode".to_owned(), json!(word));
    if !names.is_empty() {
        calling.insert("allowedFunctionNames".to_owned(), json!(names));
    }
}
