//! As much of JSON Schema as the server's OpenAPI document uses: values checked by it, and values made by it.

use distilbert::random::Rng;
use regex::Regex;
use serde_json::{Map, Value, json};

/// Keys of a schema that demand nothing.
const ANNOTATIONS: [&str; 1] = ["description"];

/// A schema and the document that it refers to.
#[derive(Clone, Copy)]
pub struct Schema<'a> {
    pub document: &'a Value,
    pub schema: &'a Value,
}

impl<'a> Schema<'a> {
    fn of(self, schema: &'a Value) -> Schema<'a> {
        Schema { schema, ..self }
    }

    fn resolved(self) -> Schema<'a> {
        let Some(reference) = self.schema.get("$ref") else { return self };
        let path = reference.as_str().unwrap().strip_prefix('#').expect("a reference within the document");
        self.of(self.document.pointer(path).unwrap_or_else(|| panic!("{path}: no such schema"))).resolved()
    }

    fn list(self, key: &str) -> Vec<Schema<'a>> {
        let list = self.schema.get(key).and_then(Value::as_array);
        list.into_iter().flatten().map(|schema| self.of(schema)).collect()
    }

    fn number(self, key: &str) -> Option<u64> {
        self.schema.get(key).map(|number| number.as_i64().expect("a whole number").max(0) as u64)
    }

    /// What is wrong with a value; `None` if nothing is.
    pub fn wrong(self, value: &Value) -> Option<String> {
        let schema = self.resolved();
        let object = schema.schema.as_object().expect("a schema is an object");
        object.iter().find_map(|(key, limit)| {
            let fault = schema.breaks(key, limit, value)?;
            Some(if fault.is_empty() { format!("{key} {limit}: {value}") } else { fault })
        })
    }

    fn breaks(self, key: &str, limit: &'a Value, value: &Value) -> Option<String> {
        let fails = |fails: bool| fails.then(String::new);
        let bound = || limit.as_i64().expect("a whole number");
        match key {
            "type" => fails(!is_of(limit.as_str().unwrap(), value)),
            "const" => fails(value != limit),
            "enum" => fails(!limit.as_array().unwrap().contains(value)),
            "anyOf" => {
                let faults: Vec<Option<String>> = self.list(key).iter().map(|schema| schema.wrong(value)).collect();
                (!faults.contains(&None)).then(|| format!("none of: {:?}", faults.iter().flatten().collect::<Vec<_>>()))
            }
            "not" => fails(self.of(limit).wrong(value).is_none()),
            "allOf" => self.list(key).iter().find_map(|schema| schema.wrong(value)),
            "items" => value.as_array()?.iter().find_map(|item| self.of(limit).wrong(item)),
            "minItems" => fails((value.as_array()?.len() as i64) < bound()),
            "maxItems" => fails(value.as_array()?.len() as i64 > bound()),
            "minimum" => fails(value.as_f64()? < bound() as f64),
            "maximum" => fails(value.as_f64()? > bound() as f64),
            "minLength" => fails((value.as_str()?.chars().count() as i64) < bound()),
            "pattern" => fails(!Regex::new(limit.as_str().unwrap()).unwrap().is_match(value.as_str()?)),
            "maxProperties" => fails(value.as_object()?.len() as i64 > bound()),
            "required" => {
                let missing = |name: &&Value| value.get(name.as_str().unwrap()).is_none();
                fails(value.is_object() && limit.as_array().unwrap().iter().any(|name| missing(&name)))
            }
            "properties" => {
                let fault = |(name, value)| limit.get(name).and_then(|schema| self.of(schema).wrong(value));
                value.as_object()?.iter().find_map(fault)
            }
            "additionalProperties" => {
                assert_eq!(limit, &json!(false));
                fails(value.as_object()?.keys().any(|name| self.schema["properties"].get(name).is_none()))
            }
            key => {
                assert!(ANNOTATIONS.contains(&key), "{key}: not known here");
                None
            }
        }
    }

    /// A value of the schema.
    pub fn example(self, rng: &mut Rng) -> Value {
        let schema = self.resolved();
        let object = schema.schema.as_object().unwrap();
        let pick = |list: &[Value], rng: &mut Rng| list[rng.below(list.len())].clone();
        if let Some(value) = object.get("const") {
            return value.clone();
        }
        if let Some(Value::Array(values)) = object.get("enum") {
            return pick(values, rng);
        }
        let choices = schema.list("anyOf");
        if !choices.is_empty() {
            return choices[rng.below(choices.len())].example(rng);
        }
        // The first says what there may be, the others only what there must be.
        if let Some(first) = schema.list("allOf").first() {
            for _ in 0..100 {
                let value = first.example(rng);
                if schema.wrong(&value).is_none() {
                    return value;
                }
            }
        }
        match object.get("type").and_then(Value::as_str) {
            Some("null") => Value::Null,
            Some("boolean") => json!(rng.below(2) == 1),
            Some("integer") => {
                let least = schema.number("minimum").unwrap_or(0);
                let most = schema.number("maximum").unwrap_or(least + 5);
                // Both ends are likelier than what is between.
                match rng.below(4) {
                    0 => json!(least),
                    1 => json!(most),
                    _ => json!(least + rng.below((most - least) as usize + 1) as u64),
                }
            }
            Some("string") => {
                let least = schema.number("minLength").unwrap_or(0) as usize;
                let fits = |text: &&&str| text.chars().count() >= least && schema.wrong(&json!(text)).is_none();
                let texts = ["w5", "w6 w7", "[MASK]", "[MASK] w5 [MASK]", "is it {}?", "a, b", "ß é 😀", "\0", " ", ""];
                let texts: Vec<&&str> = texts.iter().filter(fits).collect();
                json!(texts[rng.below(texts.len())])
            }
            Some("array") => {
                let least = schema.number("minItems").unwrap_or(0) as usize;
                let most = schema.number("maxItems").map_or(least + 3, |most| (least + 3).min(most as usize));
                let items = schema.of(&object["items"]);
                (0..least + rng.below(most - least + 1)).map(|_| items.example(rng)).collect()
            }
            Some("object") => {
                let mut value = Map::new();
                let required = object.get("required").and_then(Value::as_array);
                let is_required =
                    |name: &str| required.is_some_and(|list| list.iter().any(|required| required == name));
                let properties = object.get("properties").and_then(Value::as_object);
                for (name, property) in properties.into_iter().flatten() {
                    if is_required(name) || rng.below(2) == 0 {
                        value.insert(name.clone(), schema.of(property).example(rng));
                    }
                }
                Value::Object(value)
            }
            other => panic!("{other:?}: not known here"),
        }
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}: not known here"),
    }
}

/// The same with one thing changed somewhere: a key too many or too few, or a value of another kind.
pub fn damaged(value: &Value, rng: &mut Rng) -> Value {
    let mut value = value.clone();
    let mut place = &mut value;
    // As deep as chance has it.
    loop {
        let count = match &*place {
            Value::Array(list) => list.len(),
            Value::Object(object) => object.len(),
            _ => 0,
        };
        if count == 0 || rng.below(3) == 0 {
            break;
        }
        let next = rng.below(count);
        place = match place {
            Value::Array(list) => &mut list[next],
            Value::Object(object) => object.values_mut().nth(next).unwrap(),
            _ => break,
        };
    }
    match place {
        Value::Object(object) if rng.below(3) == 0 => {
            object.insert("surprise".into(), json!(1));
        }
        Value::Object(object) if !object.is_empty() && rng.below(2) == 0 => {
            let key = object.keys().nth(rng.below(object.len())).unwrap().clone();
            object.shift_remove(&key);
        }
        place => {
            let others =
                [json!(null), json!(true), json!(-7), json!(0.5), json!(""), json!([]), json!({}), json!("none")];
            *place = others[rng.below(others.len())].clone();
        }
    }
    value
}
