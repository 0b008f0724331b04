//! Schemas of JSON values.

use serde_json::{Map, Value, json};

pub fn text() -> Value {
    json!({"type": "string"})
}

pub fn some_text() -> Value {
    json!({"type": "string", "minLength": 1})
}

/// A text that is not only white space.
pub fn words() -> Value {
    json!({"type": "string", "pattern": "\\S"})
}

pub fn number() -> Value {
    json!({"type": "number"})
}

pub fn at_least(least: usize) -> Value {
    json!({"type": "integer", "minimum": least})
}

pub fn from_to(least: usize, most: usize) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

pub fn flag() -> Value {
    json!({"type": "boolean"})
}

pub fn constant(text: &str) -> Value {
    json!({"type": "string", "const": text})
}

pub fn one_of(texts: Vec<String>) -> Value {
    json!({"type": "string", "enum": texts})
}

pub fn one_of_or_null(texts: Vec<String>) -> Value {
    json!({"enum": texts.into_iter().map(Value::from).chain([Value::Null]).collect::<Vec<_>>()})
}

pub fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

pub fn or_null(schema: Value) -> Value {
    any_of(vec![schema, json!({"type": "null"})])
}

/// One of these; each once.
pub fn any_of(schemas: Vec<Value>) -> Value {
    let mut distinct: Vec<Value> = Vec::new();
    for schema in schemas {
        if !distinct.contains(&schema) {
            distinct.push(schema);
        }
    }
    match distinct.len() {
        1 => distinct.remove(0),
        _ => json!({"anyOf": distinct}),
    }
}

/// An object of exactly these keys, of which the optional ones may be missing.
pub fn object(required: &[(&str, Value)], optional: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> =
        required.iter().chain(optional).map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let names: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
}

/// The same, of keys that may also be written with capitals (`top_k` as `topK`), each in one way, and of some that may not.
pub fn object_in_either_spelling(
    required: &[(&str, Value)],
    optional: &[(&str, Value)],
    in_one: &[(&str, Value)],
) -> Value {
    let both: Vec<(&str, String, &Value)> =
        required.iter().chain(optional).map(|(name, schema)| (*name, with_capitals(name), schema)).collect();
    let plain = both.iter().map(|(name, _, schema)| ((*name).to_owned(), (*schema).clone()));
    let capitals = both.iter().map(|(_, name, schema)| (name.clone(), (*schema).clone()));
    let in_one = in_one.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone()));
    let properties: Map<String, Value> = plain.chain(capitals).chain(in_one).collect();
    let all = json!({"type": "object", "properties": properties, "additionalProperties": false});
    let is_spelled_twice =
        |(name, other, _): &(&str, String, &Value)| (name != other).then(|| json!({"required": [name, other]}));
    let twice: Vec<Value> = both.iter().filter_map(is_spelled_twice).collect();
    let mut parts = vec![all];
    if !twice.is_empty() {
        parts.push(json!({"not": {"anyOf": twice}}));
    }
    for (name, other, _) in &both[..required.len()] {
        parts.push(any_of(vec![json!({"required": [name]}), json!({"required": [other]})]));
    }
    if parts.len() == 1 { parts.remove(0) } else { json!({"allOf": parts}) }
}

fn with_capitals(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let (initial, rest) = part.split_at(part.len().min(1));
        name + &initial.to_ascii_uppercase() + rest
    })
}
