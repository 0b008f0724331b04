//! What the protocols promise beside the numbers: shapes of errors, limits, truncation, and what is said of the server.

mod common;

use common::{
    Answer, ask, config, encoder, entailment, exchange, get, masked, metric, post, post_bytes, reranker, sentiment,
    start, tagger,
};
use distilbert_serve::{Config, Cors, Event, Server, Setup};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Checks that an error has the shape of its protocol.
fn check_error(path: &str, answer: &Answer, status: u16, error_type: &str) {
    assert_eq!(answer.status, status, "{path}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.header("x-request-id").is_some());
    let body = answer.json();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    if path.starts_with("/v1") {
        assert_eq!(keys(&body), ["error"]);
        assert_eq!(keys(&body["error"]), ["message", "type", "param", "code"]);
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
    } else {
        assert_eq!(keys(&body), ["error", "error_type"]);
        assert_eq!(body["error_type"], error_type, "{path}: {body}");
    }
}

fn everything() -> Server {
    let models = vec![encoder("cls", "sentence-cls"), sentiment(), reranker(), entailment(), tagger(), masked()];
    start(config(), models)
}

#[test]
fn errors_have_the_shape_of_their_protocol_for_every_kind_of_mistake() {
    let server = everything();
    let raw = |request: String| exchange(server.address(), request.as_bytes());
    for path in ["/embed", "/v1/embeddings", "/models/cls/embed_all", "/predict", "/rerank", "/tag", "/fill-mask"] {
        let openai = path.starts_with("/v1");
        for body in [&b"{\"model\": "[..], b"", b"\xff", b"{]"] {
            check_error(path, &exchange(server.address(), &post_bytes(path, body)), 400, "Syntax");
        }
        let status = if openai { 400 } else { 422 };
        for body in ["[]", "7", "{}", r#"{"inputs": 7}"#, r#"{"inputs": "a", "surprise": 1}"#] {
            check_error(path, &exchange(server.address(), &post_bytes(path, body.as_bytes())), status, "Validation");
        }
        check_error(path, &get(&server, path), 405, "Method");
        assert_eq!(get(&server, path).header("allow"), Some("POST"));
        let other = "Content-Type: text/plain\r\nContent-Length: 2";
        check_error(path, &raw(format!("POST {path} HTTP/1.1\r\nHost: t\r\n{other}\r\n\r\n{{}}")), 415, "MediaType");
        check_error(
            path,
            &raw(format!("POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{{}}")),
            415,
            "MediaType",
        );
        let packed = "Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2";
        check_error(path, &raw(format!("POST {path} HTTP/1.1\r\nHost: t\r\n{packed}\r\n\r\n{{}}")), 415, "MediaType");
        check_error(path, &exchange(server.address(), &post_bytes(path, &vec![b' '; 2_000_001])), 413, "TooLarge");
        let chunked = format!(
            "POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let chunk = format!("{:x}\r\n{}\r\n", 1_500_000, " ".repeat(1_500_000));
        check_error(path, &raw(format!("{chunked}{chunk}{chunk}0\r\n\r\n")), 413, "TooLarge");
    }
    let deep = [&b"{\"inputs\": "[..], &[b'['; 5000]].concat();
    check_error("/embed", &exchange(server.address(), &post_bytes("/embed", &deep)), 400, "Syntax");
    // Behind a model's name the protocol is the same.
    check_error("/v1", &post(&server, "/models/none/v1/embeddings", &json!({"model": "none", "input": "a"})), 404, "");
    // Who waits to be asked for a body is not asked for one that is refused.
    for path in ["/embed", "/nothing"] {
        let head = "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2000001";
        // Else the first answer would be 100.
        let answer = raw(format!("POST {path} HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n"));
        assert!(matches!(answer.status, 404 | 413), "{}", answer.status);
    }
    for path in ["/nothing", "/v1/nothing", "/models/cls/nothing"] {
        check_error(path, &post(&server, path, &json!({})), 404, "NotFound");
    }
    assert_eq!(exchange(server.address(), b"no http at all\r\n\r\n").status, 400);
    // After all that it answers as before.
    assert_eq!(get(&server, "/health").status, 200);
}

#[test]
fn values_that_a_route_does_not_take_are_named() {
    let server = everything();
    let cases = [
        ("/embed", json!({"model": "cls", "inputs": ""}), 400, "Empty"),
        ("/embed", json!({"model": "cls", "inputs": []}), 400, "Empty"),
        ("/embed", json!({"model": "cls", "inputs": [[]]}), 400, "Empty"),
        ("/embed", json!({"model": "cls", "inputs": ["a", ""]}), 400, "Empty"),
        ("/embed", json!({"model": "cls", "inputs": ["a", {}]}), 422, "Validation"),
        ("/embed", json!({"model": "cls", "inputs": [1, "a"]}), 422, "Validation"),
        ("/embed", json!({"model": "cls", "inputs": [4_000_000_000_u32]}), 422, "Validation"),
        ("/embed", json!({"model": "cls", "inputs": [-1]}), 422, "Validation"),
        ("/embed", json!({"model": "cls", "inputs": "a", "dimensions": 0}), 422, "Validation"),
        ("/embed", json!({"model": "cls", "inputs": "a", "dimensions": 4096}), 422, "Validation"),
        ("/embed", json!({"model": "cls", "inputs": "a", "prompt_name": "none such"}), 422, "Validation"),
        ("/embed", json!({"model": "cls", "inputs": "a", "truncation_direction": "up"}), 422, "Validation"),
        ("/embed", json!({"model": "sentiment", "inputs": "a"}), 424, "Backend"),
        ("/embed", json!({"model": "none", "inputs": "a"}), 404, "ModelNotFound"),
        ("/models/none/embed", json!({"inputs": "a"}), 404, "ModelNotFound"),
        ("/models/cls/embed", json!({"model": "sentiment", "inputs": "a"}), 422, "Validation"),
        ("/predict", json!({"inputs": "a"}), 422, "Validation"),
        ("/predict", json!({"model": "sentiment", "inputs": ["a", "b", "c"]}), 422, "Validation"),
        ("/predict", json!({"model": "sentiment", "inputs": [["a"], []]}), 400, "Empty"),
        ("/rerank", json!({"query": "a", "texts": []}), 400, "Empty"),
        ("/rerank", json!({"query": "", "texts": ["a"]}), 400, "Empty"),
        ("/rerank", json!({"model": "sentiment", "query": "a", "texts": ["a"]}), 424, "Backend"),
        ("/similarity", json!({"inputs": {"source_sentence": "a", "sentences": []}}), 400, "Empty"),
        ("/decode", json!({"model": "cls", "ids": [4_000_000]}), 422, "Validation"),
        ("/decode", json!({"model": "cls", "ids": []}), 400, "Empty"),
        ("/classify", json!({"model": "sentiment", "inputs": "a", "parameters": {"top_k": 0}}), 422, "Validation"),
        ("/classify", json!({"model": "sentiment", "inputs": {"text": "a", "more": "b"}}), 422, "Validation"),
        ("/fill-mask", json!({"inputs": "no mask"}), 422, "Validation"),
        // No list stands for an object.
        ("/fill-mask", json!({"inputs": "[MASK]", "parameters": [null, null]}), 422, "Validation"),
        ("/fill-mask", json!([null, "[MASK]", null]), 422, "Validation"),
        ("/similarity", json!({"inputs": ["a", ["b"]]}), 422, "Validation"),
        ("/fill-mask", json!({"inputs": "[MASK]", "parameters": {"top_k": 0}}), 422, "Validation"),
        ("/zero-shot", json!({"model": "nli", "inputs": "a"}), 422, "Validation"),
        (
            "/zero-shot",
            json!({"inputs": "a", "parameters": {"candidate_labels": "b", "hypothesis_template": "no place"}}),
            422,
            "Validation",
        ),
        ("/v1/embeddings", json!({"model": "none", "input": "a"}), 404, ""),
        ("/v1/embeddings", json!({"model": "sentiment", "input": "a"}), 400, ""),
        ("/v1/embeddings", json!({"model": "cls", "input": ""}), 400, ""),
        ("/v1/embeddings", json!({"model": "cls", "input": "a", "encoding_format": "hex"}), 400, ""),
        ("/v1/embeddings", json!({"input": "a"}), 400, ""),
    ];
    for (path, body, status, error_type) in cases {
        check_error(path, &post(&server, path, &body), status, error_type);
    }
    let unknown = post(&server, "/v1/embeddings", &json!({"model": "none", "input": "a"})).json();
    assert_eq!((&unknown["error"]["code"], &unknown["error"]["param"]), (&json!("model_not_found"), &json!("model")));
    let message = post(&server, "/predict", &json!({"inputs": "a"})).json()["error"].clone();
    assert!(message.as_str().unwrap().contains("sentiment, ranker, nli"), "{message}");
    let message = post(&server, "/embed", &json!({"model": "cls", "inputs": ["a", ""]})).json()["error"].clone();
    assert_eq!(message, "`inputs` cannot be empty, as the one at index 1 is");
    let message = post(&server, "/embed", &json!({"model": "none", "inputs": "a"})).json()["error"].clone();
    assert!(message.as_str().unwrap().starts_with("model `none` does not exist; there are: "), "{message}");
}

#[test]
fn what_is_cut_is_said_and_may_be_refused() {
    let server = everything();
    let long = ["w6"; 30].join(" ");
    let answer = post(&server, "/predict", &json!({"model": "sentiment", "inputs": [["w5"], [long]]}));
    assert_eq!((answer.header("x-truncated-tokens"), answer.header("x-truncated-inputs")), (Some("14"), Some("1:14")));
    assert_eq!(answer.header("x-compute-tokens"), Some("21"));
    let short = post(&server, "/predict", &json!({"model": "sentiment", "inputs": "w5"}));
    assert_eq!((short.header("x-truncated-tokens"), short.header("x-truncated-inputs")), (Some("0"), None));
    let classified = ask(&server, "/classify", &json!({"model": "sentiment", "inputs": ["w5", long]}));
    assert_eq!((classified[0].get("truncated_tokens"), &classified[1]["truncated_tokens"]), (None, &json!(14)));
    let refused = post(&server, "/predict", &json!({"model": "sentiment", "inputs": long, "truncate": false}));
    check_error("/predict", &refused, 422, "Validation");
    let message = "Input validation error: `inputs` must have less than 19 tokens. Given: 32";
    assert_eq!(refused.json()["error"], message);

    // From the left: what is kept is the end.
    let two_halves = format!("{} {}", ["w6"; 16].join(" "), ["w7"; 16].join(" "));
    let predict = |body: Value| ask(&server, "/models/sentiment/predict", &body);
    assert_eq!(
        predict(json!({"inputs": two_halves, "truncation_direction": "Left"})),
        predict(json!({"inputs": (["w7"; 16].join(" "))}))
    );
    assert_eq!(predict(json!({"inputs": two_halves})), predict(json!({"inputs": (["w6"; 16].join(" "))})));
    let pair = |first: usize, second: usize| {
        [["w6 w5"; 8].join(" "), ["w7 w8"; 8].join(" ")]
            .map(|text| text.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .iter()
            .zip([first, second])
            .map(|(words, kept)| words[words.len() - kept..].join(" "))
            .collect::<Vec<_>>()
    };
    let cut = predict(json!({"inputs": pair(16, 16), "truncation_direction": "Left"}));
    assert_eq!(cut, predict(json!({"inputs": pair(7, 8)})));
    assert_ne!(cut, predict(json!({"inputs": pair(16, 16)})));
    // Ids are run as they are.
    let tokens = ask(&server, "/models/cls/tokenize", &json!({"inputs": "w6 berlin"}));
    let ids: Vec<u64> = tokens[0].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect();
    let embed = |inputs: Value| ask(&server, "/models/cls/embed", &json!({"inputs": inputs}));
    assert_eq!(embed(json!(ids)).as_array().unwrap().len(), 1);
    assert_eq!(embed(json!([ids, ids])).as_array().unwrap().len(), 2);
    // JSON has one kind of number.
    let ids: Vec<f64> = ids.iter().map(|&id| id as f64).collect();
    let short = json!({"inputs": [ids], "dimensions": 3.0});
    assert_eq!(ask(&server, "/models/cls/embed", &short)[0].as_array().unwrap().len(), 3);
    check_error("/embed", &post(&server, "/models/cls/embed", &json!({"inputs": [[5.5]]})), 422, "Validation");

    let strict = start(Config { auto_truncate: false, ..config() }, vec![sentiment()]);
    check_error("/predict", &post(&strict, "/predict", &json!({"inputs": long})), 422, "Validation");
    let strict = start(Config { auto_truncate: false, ..config() }, vec![entailment(), common::answerer()]);
    let parameters = json!({"candidate_labels": ["w5", "w6"]});
    let zero_shot = |text: &str| post(&strict, "/zero-shot", &json!({"inputs": text, "parameters": parameters}));
    let answer =
        |question: &str| post(&strict, "/answer", &json!({"inputs": {"question": question, "context": "w5 w6 w7"}}));
    assert_eq!((zero_shot("w5").status, answer("w5").status), (200, 200));
    check_error("/zero-shot", &zero_shot(&long), 422, "Validation");
    check_error("/answer", &answer(&long), 422, "Validation");
}

#[test]
fn limits_on_texts_hold_and_large_requests_are_split() {
    let server = start(Config { max_texts: 40, ..config() }, vec![sentiment(), encoder("cls", "sentence-cls")]);
    let texts = common::texts(41);
    let refused = post(&server, "/embed", &json!({"inputs": texts}));
    check_error("/embed", &refused, 422, "Validation");
    assert_eq!(refused.json()["error"], "batch size 41 > maximum allowed batch size 40");
    check_error("/v1/embeddings", &post(&server, "/v1/embeddings", &json!({"model": "cls", "input": texts})), 400, "");
    assert_eq!(ask(&server, "/embed", &json!({"inputs": texts[..40]})).as_array().unwrap().len(), 40);
}

#[test]
fn tokens_and_texts_round_trip_with_bytes_of_the_text() {
    let server = start(config(), vec![tagger()]);
    let text = "Wolfgang lebt in Berlin, naïve!";
    let tokens = ask(&server, "/tokenize", &json!({"inputs": text}));
    let tokens = tokens[0].as_array().unwrap();
    assert_eq!((&tokens[0]["special"], &tokens[0]["start"]), (&json!(true), &Value::Null));
    for token in tokens.iter().filter(|token| token["special"] == false) {
        let bytes = token["start"].as_u64().unwrap() as usize..token["stop"].as_u64().unwrap() as usize;
        assert_eq!(token["text"], text[bytes]);
    }
    let plain = ask(&server, "/tokenize", &json!({"inputs": [text], "add_special_tokens": false}));
    assert_eq!(plain[0].as_array().unwrap().len(), tokens.len() - 2);
    let ids: Vec<&Value> = tokens.iter().map(|token| &token["id"]).collect();
    let without = ask(&server, "/decode", &json!({"ids": ids}));
    let with = ask(&server, "/decode", &json!({"ids": [ids], "skip_special_tokens": false}));
    assert!(with[0].as_str().unwrap().starts_with("[CLS] wolfgang"), "{with}");
    assert!(without[0].as_str().unwrap().starts_with("wolfgang"), "{without}");
}

#[test]
fn the_server_says_what_it_is_and_counts_what_it_does() {
    let server = everything();
    let info = get(&server, "/info").json();
    assert_eq!((&info["served_model_name"], &info["model_dtype"]), (&json!("cls"), &json!("float32")));
    assert_eq!(info["model_type"], json!({"embedding": {"pooling": "cls"}}));
    assert_eq!((&info["max_client_batch_size"], info["models"].as_array().unwrap().len()), (&json!(2048), 6));
    let of_one = get(&server, "/models/sentiment/info").json();
    assert_eq!(of_one["model_type"]["classifier"]["label2id"], json!({"no": 0, "maybe": 1, "yes": 2}));
    let models = get(&server, "/v1/models").json();
    assert_eq!((&models["object"], &models["data"][1]["id"]), (&json!("list"), &json!("sentiment")));
    assert_eq!(get(&server, "/v1/models/tagger").json()["id"], "tagger");
    check_error("/v1/models/none", &get(&server, "/v1/models/none"), 404, "");
    for path in ["/health", "/", "/ping", "/health/live", "/health/ready"] {
        let answer = get(&server, path);
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
    }
    ask(&server, "/embed", &json!({"inputs": ["w5", "w6"]}));
    ask(&server, "/models/sentiment/predict", &json!({"inputs": "w5"}));
    post(&server, "/embed", &json!({"inputs": ""}));
    for (name, expected) in [
        (r#"te_request_count{method="batch"}"#, 1.0),
        (r#"te_request_count{method="single"}"#, 1.0),
        (r#"te_request_success{method="batch"}"#, 1.0),
        (r#"te_request_success{method="single"}"#, 1.0),
        (r#"te_request_failure{err="validation"}"#, 1.0),
        ("te_embed_count", 2.0),
        ("te_embed_success", 2.0),
        ("te_predict_success", 1.0),
        ("te_request_duration_count", 2.0),
        ("te_embed_duration_count", 1.0),
        ("te_predict_inference_duration_count", 1.0),
        ("te_request_input_length_count", 3.0),
        ("te_queue_size", 0.0),
        (r#"distilbert_responses{route="embed",status="400"}"#, 1.0),
    ] {
        assert_eq!(metric(&server, name), expected, "{name}");
    }
}

#[test]
fn every_answer_has_an_id_and_logs_hold_no_text() {
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let kept = Arc::clone(&events);
    let log = Box::new(move |event: &Event| kept.lock().unwrap().push(event.clone()));
    let server = Server::start(Setup { log, ..common::setup(config(), vec![sentiment()]) }).unwrap();
    let named = |id: &str, path: &str, text: &str| {
        let body = json!({"inputs": text}).to_string();
        let head = format!("X-Request-Id: {id}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        exchange(server.address(), format!("POST {path} HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n{body}").as_bytes())
    };
    assert_eq!(named("mine-1", "/predict", "secret w5").header("x-request-id"), Some("mine-1"));
    let replaced = named("not one of\tthese", "/predict?secret=1", "w5");
    assert!(replaced.header("x-request-id").is_some_and(|id| !id.contains("these")));
    assert_eq!(named("mine-2", "/secret", "w5").status, 404);
    assert_eq!(named("mine-3", "/predict", "").status, 400);
    common::wait_until("events", || events.lock().unwrap().len() == 4);
    let events = events.lock().unwrap();
    let text = serde_json::to_string(&*events).unwrap();
    assert!(!text.contains("secret") && !text.contains("w5"), "{text}");
    let first = events.iter().find(|event| event.request_id == "mine-1").unwrap();
    assert_eq!((first.status, first.route, first.tokens), (Some(200), "predict", 4));
    let last = events.iter().find(|event| event.request_id == "mine-3").unwrap();
    assert_eq!((last.status, last.error_type.as_deref()), (Some(400), Some("Empty")));
}

#[test]
fn pages_of_the_origins_that_are_named_may_ask_and_no_others() {
    let origins = |origins: &[&str]| {
        let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
        Config { cors: Some(Cors::new(&origins).unwrap()), ..config() }
    };
    let preflight = |server: &Server, origin: &str| {
        let head = format!("Origin: {origin}\r\nAccess-Control-Request-Method: POST");
        exchange(server.address(), format!("OPTIONS /embed HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n").as_bytes())
    };
    let read = |server: &Server, origin: &str, path: &str| {
        exchange(server.address(), format!("GET {path} HTTP/1.1\r\nHost: t\r\nOrigin: {origin}\r\n\r\n").as_bytes())
    };
    let allowed = "access-control-allow-origin";
    let here = "http://localhost:3000";
    let server = start(origins(&[here, "https://example.org"]), vec![sentiment()]);
    let answer = preflight(&server, here);
    assert_eq!((answer.status, answer.header(allowed), answer.body.len()), (204, Some(here), 0));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
    for path in ["/health", "/nothing"] {
        let answer = read(&server, "https://example.org", path);
        assert_eq!((answer.header(allowed), answer.header("vary")), (Some("https://example.org"), Some("origin")));
        assert!(answer.header("access-control-expose-headers").unwrap().contains("x-truncated-tokens"));
    }
    for other in ["https://example.org.evil.net", "null"] {
        assert_eq!(preflight(&server, other).header(allowed), None);
        assert_eq!(read(&server, other, "/health").header(allowed), None);
    }
    assert_eq!(get(&server, "/health").header(allowed), None);

    let server = start(origins(&["*"]), vec![sentiment()]);
    assert_eq!(read(&server, "https://any.where", "/health").header(allowed), Some("*"));
    // Without the setting nothing is said, and OPTIONS is a method as any other.
    let server = start(config(), vec![sentiment()]);
    assert_eq!((preflight(&server, here).status, read(&server, here, "/health").header(allowed)), (405, None));
}

#[test]
fn errors_name_the_field_and_are_counted_by_their_reason() {
    let server = start(Config { max_texts: 2, ..config() }, vec![encoder("cls", "sentence-cls")]);
    let openai = |body: Value| post(&server, "/v1/embeddings", &body).json()["error"].clone();
    assert_eq!(openai(json!([]))["message"], "expected an object, found a list");
    assert_eq!(openai(json!({"model": "cls"}))["param"], "input");
    assert_eq!(openai(json!({"input": "w5"}))["param"], "model");
    assert_eq!(openai(json!({"model": "cls", "input": "w5", "surprise": 1}))["param"], "surprise");
    let counted = |reason: &str| metric(&server, &format!("te_request_failure{{err=\"{reason}\"}}"));
    let before = counted("validation");
    assert_eq!(post(&server, "/nothing", &json!({})).status, 404);
    assert_eq!(post(&server, "/models/none/embed", &json!({"inputs": "w5"})).status, 404);
    assert_eq!(post(&server, "/embed", &json!({"inputs": ["w5", "w6", "w7"]})).status, 422);
    assert_eq!((counted("not_found"), counted("batch_size"), counted("validation")), (2.0, 1.0, before));
}
