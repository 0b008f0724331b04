//! The OpenAPI document is true: what it lists is answered as it says, and what is answered is listed.

mod common;
#[path = "common/schema.rs"]
mod schema;

use common::{
    Answer, answerer, ask, config, encoder, entailment, exchange, get, intents, masked, post_bytes, reranker,
    sentiment, setup, start, tagger,
};
use distilbert::data::examples::TaskKind;
use distilbert::random::Rng;
use distilbert_serve::{Config, Keys, ServedModel, ServedTask, Server, Setup};
use schema::{Schema, damaged};
use serde_json::{Value, json};

/// Bodies made and bodies damaged, for each route.
const BODIES: usize = 5;

/// What no schema says: how long a text is in tokens, and how numbers of one request depend on each other.
const NOT_IN_SCHEMAS: [&str; 2] = ["must have less than", "leave the text room"];

fn kind_of(model: ServedModel, name: &str, kind: TaskKind) -> ServedModel {
    let ServedTask::Classify { problem, labels, temperature, .. } = model.task else { panic!("a classifier") };
    let task = ServedTask::Classify { problem, labels, temperature, trained_on: Some(kind) };
    ServedModel { name: name.into(), task, ..model }
}

/// Models of every kind, two of most, so that requests must name them.
fn everything() -> Vec<ServedModel> {
    vec![
        encoder("cls", "sentence-cls"),
        encoder("dense", "sentence-dense"),
        sentiment(),
        kind_of(sentiment(), "pairs", TaskKind::Pair),
        kind_of(sentiment(), "singles", TaskKind::Single),
        reranker(),
        entailment(),
        tagger(),
        intents(),
        masked(),
        answerer(),
    ]
}

/// Every operation of a document: method, path, what is said of it.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap();
        all.extend(methods.iter().map(|(method, operation)| (method.as_str(), path.as_str(), operation)));
    }
    all
}

fn send(server: &Server, method: &str, path: &str, body: &Value) -> Answer {
    match method {
        "get" => get(server, path),
        _ => exchange(server.address(), &post_bytes(path, body.to_string().as_bytes())),
    }
}

/// Checks status, media type and body of an answer by the document.
fn check(document: &Value, operation: &Value, what: &str, answer: &Answer) {
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{what}: {} is not in the document: {}", answer.status, answer.text());
    let Some(content) = response["content"].as_object() else {
        assert!(answer.body.is_empty(), "{what}");
        return;
    };
    let (media_type, content) = content.iter().next().unwrap();
    assert_eq!(answer.header("content-type").map(|found| found.split(';').next().unwrap()), Some(media_type.as_str()));
    if media_type == "application/json" {
        let fault = Schema { document, schema: &content["schema"] }.wrong(&answer.json());
        assert_eq!(fault, None, "{what}: {}", answer.text());
    }
}

fn request_schema(operation: &Value) -> &Value {
    &operation["requestBody"]["content"]["application/json"]["schema"]
}

/// Texts of lists of any depth.
fn count(data: &Value) -> usize {
    data.as_array().map_or(1, |list| list.iter().map(count).sum())
}

/// Shapes and numbers of texts must agree, and each tensor come once: schemas do not say that.
fn agreeing(mut body: Value) -> Value {
    let inputs = body["inputs"].as_array_mut().unwrap();
    let is_text = inputs.iter().any(|input| input["name"].as_str().unwrap().starts_with("text"));
    let names = if is_text { ["text", "text_pair"] } else { ["question", "context"] };
    let texts = count(&inputs[0]["data"]);
    for place in 0..inputs.len() {
        inputs[place]["name"] = json!(names[place]);
        inputs[place]["data"] = inputs[0]["data"].clone();
        inputs[place]["shape"] = json!([texts]);
    }
    let outputs = body.get_mut("outputs").and_then(Value::as_array_mut);
    if let Some(outputs) = outputs {
        outputs.truncate(1);
    }
    body
}

#[test]
fn examples_and_bodies_made_from_the_schemas_are_answered_as_they_say() {
    for models in
        [everything(), vec![encoder("cls", "sentence-cls")], vec![sentiment()], vec![tagger()], vec![answerer()]]
    {
        let server = start(config(), models);
        let document = get(&server, "/openapi.json").json();
        let mut rng = Rng::from_key(&[6]);
        for (method, path, operation) in operations(&document) {
            let body = &operation["requestBody"]["content"]["application/json"];
            let answer = send(&server, method, path, &body["example"]);
            let what = format!("{method} {path} {}", body["example"]);
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
            check(&document, operation, &what, &answer);
            if method == "get" {
                continue;
            }
            let schema = Schema { document: &document, schema: request_schema(operation) };
            assert_eq!(schema.wrong(&body["example"]), None, "{what}");
            for _ in 0..BODIES {
                let body = schema.example(&mut rng);
                assert_eq!(schema.wrong(&body), None, "{path} {body}");
                let body = if path.starts_with("/v2") { agreeing(body) } else { body };
                let answer = send(&server, method, path, &body);
                let what = format!("{path} {body}");
                check(&document, operation, &what, &answer);
                let excused = NOT_IN_SCHEMAS.iter().any(|excuse| answer.text().contains(excuse));
                assert!(answer.status == 200 || excused, "{what}: {}", answer.text());

                let body = damaged(&body, &mut rng);
                if schema.wrong(&body).is_some() {
                    let answer = send(&server, method, path, &body);
                    let what = format!("{path} {body}");
                    check(&document, operation, &what, &answer);
                    assert!((400..500).contains(&answer.status), "{what}: {}", answer.text());
                }
            }
        }
    }
}

#[test]
fn what_is_taken_in_another_form_is_in_the_document_too() {
    let server = start(config(), everything());
    let document = get(&server, "/openapi.json").json();
    let texts = |data: Value| json!([{"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": data}]);
    let masks = texts(json!([["w5 [MASK]"], ["[MASK]"]]));
    for (path, body) in [
        ("/v2/models/masked/infer", json!({"inputs": masks, "parameters": {"targets": ["w5", "w6"], "topK": 2}})),
        ("/v2/models/cls/infer", json!({"inputs": texts(json!([[["w5"]], [["w6"]]]))})),
        (
            "/v2/models/tagger/infer",
            json!({"inputs": texts(json!([["w5"], ["w6"]])), "parameters": {"aggregationStrategy": "simple", "ignoreLabels": []}}),
        ),
        ("/fill-mask", json!({"inputs": "[MASK]", "parameters": {"topK": 2}})),
        ("/tag", json!({"inputs": "w5", "parameters": {"aggregationStrategy": "simple"}})),
        (
            "/models/sentiment/classify",
            json!({"inputs": "w5", "parameters": {"topK": 1, "functionToApply": "sigmoid"}}),
        ),
        (
            "/answer",
            json!({"inputs": {"question": "w5", "context": "w6"}, "parameters": {"maxSeqLen": 9, "docStride": 1, "topK": 1, "handleImpossibleAnswer": false, "maxAnswerLen": 3, "maxQuestionLen": 3, "alignToWords": true}}),
        ),
        (
            "/models/nli/zero-shot",
            json!({"inputs": "w5", "parameters": {"candidateLabels": ["w6"], "multiLabel": true, "hypothesisTemplate": "{}"}}),
        ),
    ] {
        ask(&server, path, &body);
        let schema = Schema { document: &document, schema: request_schema(&document["paths"][path]["post"]) };
        assert_eq!(schema.wrong(&body), None, "{path} {body}");
    }
    let twice = json!({"inputs": "[MASK]", "parameters": {"topK": 2, "top_k": 2}});
    let schema = Schema { document: &document, schema: request_schema(&document["paths"]["/fill-mask"]["post"]) };
    assert!(schema.wrong(&twice).is_some());
    assert_eq!(common::post(&server, "/fill-mask", &twice).status, 422);
}

#[test]
fn the_door_of_management_has_a_document_of_its_own() {
    let manage = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = start(Config { manage, ..config() }, vec![sentiment()]);
    let send = |method: &str, path: &str| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        exchange(server.management_address().unwrap(), head.as_bytes())
    };
    let document = send("GET", "/openapi.json").json();
    assert!(send("GET", "/docs").text().contains("Takes a model out."));
    for (method, path, asked) in [
        ("get", "/models", "/models"),
        ("put", "/models/{name}", "/models/x"),
        ("delete", "/models/{name}", "/models/x"),
    ] {
        let answer = send(&method.to_ascii_uppercase(), asked);
        check(&document, &document["paths"][path][method], &format!("{method} {path}"), &answer);
    }
}

#[test]
fn as_many_texts_as_a_request_may_have_get_the_words_that_the_pipelines_give() {
    let server = start(config(), vec![masked()]);
    let filled = ask(&server, "/fill-mask", &json!({"inputs": vec!["w5 [MASK]"; 2048]}));
    assert_eq!(filled.as_array().unwrap().len(), 2048);
    // What would fill the memory is too large, whatever it is made of.
    let masks = vec!["[MASK] ".repeat(18); 2048];
    let answer = common::post(&server, "/fill-mask", &json!({"inputs": masks, "parameters": {"top_k": 40}}));
    assert_eq!((answer.status, &answer.json()["error_type"]), (413, &json!("TooLarge")));
}

#[test]
fn no_answer_is_given_only_where_that_is_asked_for() {
    let mut model = answerer();
    // No answer is always the likeliest.
    let ServedTask::Answer { null_threshold, .. } = &mut model.task else { panic!("an answerer") };
    *null_threshold = Some(-1e9);
    let server = start(config(), vec![model]);
    let ask = |parameters: Value| {
        let inputs = json!({"question": "w5?", "context": "w6 w7 w8"});
        ask(&server, "/answer", &json!({"inputs": inputs, "parameters": parameters}))["answer"].clone()
    };
    assert_eq!(ask(json!({"handle_impossible_answer": true})), "");
    assert_ne!(ask(json!({})), "");
    assert_eq!(ask(json!({})), ask(json!({"handle_impossible_answer": false})));
}

#[test]
fn windows_of_contexts_overlap_by_half_at_most() {
    let server = start(config(), vec![answerer()]);
    let context = "w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18 w19 w20";
    let ask = |parameters: Value| {
        let inputs = json!({"question": "w5?", "context": context});
        ask(&server, "/models/answers/answer", &json!({"inputs": inputs, "parameters": parameters}))
    };
    let short = ask(json!({"max_seq_len": 6}));
    assert_eq!(short, ask(json!({"max_seq_len": 6, "doc_stride": 1})));
    assert_eq!(short, ask(json!({"max_seq_len": 6, "doc_stride": 300})));
}

#[test]
fn only_what_a_model_can_answer_is_listed_and_keys_are_where_they_are_asked_for() {
    let paths = |models, keys| {
        let server = Server::start(Setup { keys, ..setup(config(), models) }).unwrap();
        let head = "GET /openapi.json HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer k\r\n\r\n";
        exchange(server.address(), head.as_bytes()).json()
    };
    let of_one = paths(vec![sentiment()], None);
    let lists = |document: &Value, path: &str| document["paths"].get(path).is_some();
    for path in ["/", "/predict", "/models/sentiment/predict", "/v2/models/sentiment/versions/1/infer"] {
        assert!(lists(&of_one, path), "{path}");
    }
    for path in ["/embed", "/models/sentiment/embed", "/fill-mask", "/models/other"] {
        assert!(!lists(&of_one, path), "{path}");
    }
    assert!(of_one["paths"]["/"].get("post").is_some());
    let of_several = paths(everything(), None);
    assert!(of_several["paths"]["/predict"]["post"].get("security").is_none());

    // Of the key `k`.
    let hash = "8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a";
    let keys = Keys::parse(&format!("[[key]]\nname = 'a'\nsha256 = '{hash}'\n")).unwrap();
    let with_keys = paths(vec![sentiment()], Some(keys));
    assert_eq!(with_keys["paths"]["/predict"]["post"]["security"], json!([{"key": []}]));
    assert!(with_keys["paths"]["/predict"]["post"]["responses"].get("401").is_some());
    assert!(with_keys["paths"]["/health"]["get"].get("security").is_none());
}

#[test]
fn the_page_holds_the_document_and_ends_no_script_early() {
    let mut model = encoder("cls", "sentence-cls");
    model.source = "</script><script>alert(1)".into();
    let server = start(Config { max_texts: 7, ..config() }, vec![model]);
    let page = get(&server, "/docs");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let page = page.text();
    assert_eq!(page.matches("</script>").count(), 2);
    let begin = page.find(r#"id="document">"#).unwrap() + r#"id="document">"#.len();
    let document: Value = serde_json::from_str(&page[begin..begin + page[begin..].find("</script>").unwrap()]).unwrap();
    assert_eq!(document, get(&server, "/openapi.json").json());
    assert!(document.to_string().contains(r#""maxItems":7"#));
}

#[test]
fn the_inference_protocol_gives_what_the_other_routes_give() {
    let server = start(config(), everything());
    let infer = |model: &str, inputs: &[(&str, &[&str])], more: Value| {
        let tensor = |(name, texts): &(&str, &[&str])| json!({"name": name, "shape": [texts.len()], "datatype": "BYTES", "data": texts});
        let mut body = json!({"id": "7", "inputs": inputs.iter().map(tensor).collect::<Vec<_>>()});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        ask(&server, &format!("/v2/models/{model}/infer"), &body)
    };
    let narrow =
        |value: &Value| -> Vec<f32> { value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect() };
    let flat = |value: Value| -> Vec<f32> { value.as_array().unwrap().iter().flat_map(narrow).collect() };
    let texts = ["w5 w6", "w7"];

    let answer = infer("cls", &[("text", &texts)], json!({}));
    assert_eq!((&answer["model_name"], &answer["id"], answer.get("parameters")), (&json!("cls"), &json!("7"), None));
    let width = answer["outputs"][0]["shape"][1].as_u64().unwrap();
    assert_eq!(answer["outputs"][0]["shape"], json!([2, width]));
    let embed = |more: Value| {
        let mut body = json!({"inputs": texts});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        flat(ask(&server, "/models/cls/embed", &body))
    };
    assert_eq!(narrow(&answer["outputs"][0]["data"]), embed(json!({})));
    let raw = infer("cls", &[("text", &texts)], json!({"parameters": {"normalize": false, "dimensions": 3}}));
    assert_eq!(narrow(&raw["outputs"][0]["data"]), embed(json!({"normalize": false, "dimensions": 3})));

    let long = ["w6"; 30].join(" ");
    let answer = infer("sentiment", &[("text", &[&long]), ("text_pair", &["w7"])], json!({}));
    assert_eq!(answer["parameters"], json!({"truncated_tokens": 16}));
    let names = [&answer["outputs"][0]["name"], &answer["outputs"][1]["name"]];
    assert_eq!(names, ["logits", "scores"]);
    let by_label = |raw: bool| {
        let body = json!({"inputs": [[long, "w7"]], "raw_scores": raw});
        let mut found = ask(&server, "/models/sentiment/predict", &body)[0].as_array().unwrap().clone();
        let order = ["no", "maybe", "yes"];
        found.sort_by_key(|label| order.iter().position(|name| label["label"] == *name));
        found.iter().map(|label| label["score"].as_f64().unwrap() as f32).collect::<Vec<_>>()
    };
    assert_eq!(narrow(&answer["outputs"][0]["data"]), by_label(true));
    assert_eq!(narrow(&answer["outputs"][1]["data"]), by_label(false));
    let scores = infer("sentiment", &[("text", &["w5"])], json!({"outputs": [{"name": "scores"}]}));
    assert_eq!(scores["outputs"].as_array().unwrap().len(), 1);

    // JSON as text, an element for each input.
    let parsed = |answer: &Value| -> Vec<Value> {
        assert_eq!(answer["outputs"][0]["datatype"], "BYTES");
        let texts = answer["outputs"][0]["data"].as_array().unwrap();
        texts.iter().map(|text| serde_json::from_str(text.as_str().unwrap()).unwrap()).collect()
    };
    let simple = json!({"parameters": {"aggregation_strategy": "simple"}});
    let lives = ["Wolfgang lives in Berlin", "nobody"];
    let mut body = json!({"inputs": lives});
    body["parameters"] = simple["parameters"].clone();
    assert_eq!(json!(parsed(&infer("tagger", &[("text", &lives)], simple))), ask(&server, "/tag", &body));
    let understood = infer("intents", &[("text", &texts)], json!({}));
    assert_eq!(json!(parsed(&understood)), ask(&server, "/intents", &json!({"inputs": texts})));
    let masks = ["w5 [MASK]", "[MASK] w6 [MASK]"];
    let filled = infer("masked", &[("text", &masks)], json!({"parameters": {"top_k": 2}}));
    let body = json!({"inputs": masks, "parameters": {"top_k": 2}});
    assert_eq!(json!(parsed(&filled)), ask(&server, "/fill-mask", &body));
    let answered = infer("answers", &[("question", &["w5?"]), ("context", &["w6 w7 w8"])], json!({}));
    let body = json!({"inputs": [{"question": "w5?", "context": "w6 w7 w8"}]});
    assert_eq!(parsed(&answered)[0], ask(&server, "/answer", &body));
}

#[test]
fn the_inference_protocol_says_what_models_take_and_refuses_the_rest() {
    let server = start(config(), everything());
    for path in ["/v2/health/live", "/v2/health/ready"] {
        assert_eq!(get(&server, path).status, 200);
    }
    assert_eq!(get(&server, "/v2").json()["name"], "distilbert");
    assert_eq!(get(&server, "/v2/models/cls/versions/1/ready").json(), json!({"name": "cls", "ready": true}));
    let inputs = |model: &str| get(&server, &format!("/v2/models/{model}")).json()["inputs"].clone();
    assert_eq!(inputs("answers")[1], json!({"name": "context", "datatype": "BYTES", "shape": [-1]}));
    assert_eq!(inputs("sentiment").as_array().unwrap().len(), 2);
    for path in ["/v2/models/none", "/v2/models/none/ready", "/v2/models/cls/versions/2", "/v2/nothing"] {
        let answer = get(&server, path);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.json().as_object().unwrap().keys().collect::<Vec<_>>(), ["error"]);
    }
    let tensor = json!({"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w5"]});
    let changed = |key: &str, value: Value| {
        let mut tensor = tensor.clone();
        tensor[key] = value;
        json!({"inputs": [tensor]})
    };
    assert_eq!(post(&server, &changed("data", json!([["w5"]]))), 200);
    // What Triton's clients say of binary data that they neither send nor get, and without a word on the body's type.
    let output = json!({"name": "embedding", "parameters": {"binary_data": false}});
    for (outputs, binary) in [(json!([output]), json!(true)), (Value::Null, json!(false))] {
        let body = json!({"inputs": [tensor], "outputs": outputs, "parameters": {"binary_data_output": binary}});
        let body = body.to_string();
        let head = format!("POST /v2/models/cls/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {}", body.len());
        let answer = common::exchange(server.address(), format!("{head}\r\n\r\n{body}").as_bytes());
        assert_eq!((answer.status, answer.json()["outputs"][0]["shape"][0].as_u64()), (200, Some(1)));
    }
    for wrong in [
        json!({"inputs": []}),
        json!({"inputs": [tensor, tensor]}),
        json!({"inputs": [tensor], "parameters": {"top_k": 1}}),
        json!({"inputs": [tensor], "outputs": [{"name": "states"}]}),
        json!({"inputs": [tensor], "outputs": [{"name": "embedding"}, {"name": "embedding"}]}),
        changed("name", json!("text_pair")),
        changed("shape", json!([])),
        changed("shape", json!([2])),
        changed("shape", json!([u64::MAX, 2])),
        changed("datatype", json!("FP32")),
        changed("data", json!(["w5", "w6"])),
        changed("data", json!([7])),
        changed("data", json!("w5")),
        changed("parameters", json!({"binary_data_size": 7})),
        changed("parameters", json!({"binary_data": 7})),
    ] {
        assert_eq!(post(&server, &wrong), 400, "{wrong}");
    }
}

fn post(server: &Server, body: &Value) -> u16 {
    common::post(server, "/v2/models/cls/infer", body).status
}
