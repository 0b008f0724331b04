//! The server under load, under attack, and at its end.

mod common;

use common::{
    ask, config, connect, encoder, exchange, get, golden, metric, post, post_bytes, read_answer, sentiment, start,
    texts, tokenizer, wait_until,
};
use distilbert::checkpoint::model_folder::HeadChoice;
use distilbert::data::examples::Problem;
use distilbert::model::Model;
use distilbert_serve::{Config, Drained, EngineLimits, ServedModel, ServedTask, Share};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A model whose weights nobody packed: every pass through it panics.
fn broken() -> ServedModel {
    let folder = golden("distilbert-classify");
    let model = Model::load(&folder, HeadChoice::AsSaved).unwrap().model;
    let labels = ["no", "maybe", "yes"].map(str::to_owned).to_vec();
    let tokenizer = tokenizer(&folder, &model);
    let task = ServedTask::Classify { problem: Problem::Classification, labels, temperature: 1.0, trained_on: None };
    ServedModel {
        name: "broken".into(),
        source: String::new(),
        model,
        tokenizer,
        task,
        max_length: 18,
        parity: None,
        share: Share::default(),
    }
}

/// Work for a while: thousands of sequences, in batches of a few.
fn long_request() -> Value {
    request_of(2000)
}

fn request_of(count: usize) -> Value {
    json!({"inputs": texts(count).iter().map(|text| vec![format!("{text} w5 w6 w7 w8")]).collect::<Vec<_>>()})
}

/// Texts of a request that takes so long, also on a fast machine, that its client is seen to have gone before it is done.
const LONGEST: usize = 16_000;

/// Batches of a sequence or two, so that a long request takes long, and room for the longest.
fn slow() -> Config {
    let engine = EngineLimits { batch_tokens: 20, queue_tokens: 1 << 20 };
    Config { engine, max_texts: LONGEST, ..config() }
}

#[test]
fn a_batch_that_panics_is_answered_with_500_and_the_next_one_is_run() {
    let server = start(config(), vec![sentiment(), broken()]);
    for _ in 0..3 {
        let answer = post(&server, "/models/broken/predict", &json!({"inputs": "w5"}));
        assert_eq!((answer.status, &answer.json()["error_type"]), (500, &json!("Internal")));
        ask(&server, "/models/sentiment/predict", &json!({"inputs": "w5"}));
    }
    assert_eq!(get(&server, "/health").status, 200);
}

/// Ends what goes on beside a test also when it fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_full_queue_refuses_with_a_time_to_come_again() {
    let limits = EngineLimits { batch_tokens: 20, queue_tokens: 50 };
    let server = start(Config { engine: limits, ..config() }, vec![sentiment()]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetAtEnd(&stop);
        // A request of any size is let in when nothing waits.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let status = post(&server, "/predict", &long_request()).status;
                assert!(matches!(status, 200 | 429), "{status}");
            }
        });
        wait_until("a refusal", || {
            let answer = post(&server, "/predict", &json!({"inputs": "w5"}));
            if answer.status != 429 {
                return false;
            }
            assert_eq!(answer.json(), json!({"error": "Model is overloaded", "error_type": "Overloaded"}));
            assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().unwrap() >= 1));
            true
        });
    });
    assert_eq!(post(&server, "/predict", &json!({"inputs": "w5"})).status, 200);
}

#[test]
fn a_client_that_goes_frees_its_place() {
    let server = start(slow(), vec![sentiment()]);
    let request = post_bytes("/predict", request_of(LONGEST).to_string().as_bytes());
    let dropped = || metric(&server, r#"te_request_failure{err="dropped"}"#);
    let computed = || metric(&server, "te_batch_next_tokens_sum");
    // Again while all of it was done before the client was seen to have gone.
    wait_until("a client that goes and what it still asked for is not computed", || {
        let before = (dropped(), computed());
        let mut stream = connect(server.address());
        stream.write_all(&request).unwrap();
        wait_until("the request in the queue", || metric(&server, "te_queue_size") > 0.0);
        drop(stream);
        wait_until("an empty queue", || metric(&server, "te_queue_size") == 0.0);
        dropped() > before.0 && computed() - before.1 < (LONGEST * 7) as f64
    });
    ask(&server, "/predict", &json!({"inputs": "w5"}));
}

#[test]
fn a_client_that_goes_is_noticed_whatever_it_sent_beyond_its_request() {
    let server = start(slow(), vec![sentiment()]);
    let request = post_bytes("/predict", request_of(LONGEST).to_string().as_bytes());
    let old = String::from_utf8(request.clone()).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1).into_bytes();
    let dropped = || metric(&server, r#"te_request_failure{err="dropped"}"#);
    // What follows may be the beginning of the next request, or a whole one.
    let next = post_bytes("/predict", br#"{"inputs": "w5"}"#);
    for sent in [[&request[..], b"G"].concat(), [&request[..], &next].concat(), old] {
        wait_until("a client that goes while its request runs", || {
            let before = dropped();
            let mut stream = connect(server.address());
            stream.write_all(&sent).unwrap();
            wait_until("the request in the queue", || metric(&server, "te_queue_size") > 0.0);
            drop(stream);
            wait_until("an empty queue", || metric(&server, "te_queue_size") == 0.0);
            dropped() > before
        });
    }
}

#[test]
fn a_client_that_only_says_that_it_sends_no_more_gets_its_answer() {
    let server = start(slow(), vec![sentiment()]);
    let mut stream = connect(server.address());
    stream.write_all(&post_bytes("/predict", long_request().to_string().as_bytes())).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = read_answer(&mut stream).unwrap();
    // It is asked whether it is there, in a way that clients pass over.
    while answer.status == 100 {
        answer = read_answer(&mut stream).unwrap();
    }
    assert_eq!((answer.status, answer.json().as_array().unwrap().len()), (200, 2000));
    assert!(read_answer(&mut stream).is_none());
}

#[test]
fn a_request_past_its_deadline_is_given_up() {
    let server = start(Config { deadline: Duration::from_millis(1), ..slow() }, vec![sentiment()]);
    let answer = post(&server, "/predict", &long_request());
    assert_eq!((answer.status, &answer.json()["error_type"]), (504, &json!("Timeout")));
    wait_until("an empty queue", || metric(&server, "te_queue_size") == 0.0);
}

#[test]
fn slow_and_half_open_connections_are_closed() {
    let server = start(Config { io_timeout: Duration::from_millis(300), ..config() }, vec![sentiment()]);
    let closes = |sent: &[u8]| {
        let mut stream = connect(server.address());
        stream.write_all(sent).unwrap();
        let mut rest = Vec::new();
        // Ends when the server closes; the socket's own timeout is 60 s.
        stream.read_to_end(&mut rest).expect("an end of the connection");
        String::from_utf8_lossy(&rest).into_owned()
    };
    assert!(closes(b"").is_empty());
    closes(b"POST /pre");
    let head = "POST /predict HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{\"in";
    let answer = closes(head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // A connection that is kept open is closed too when nothing comes.
    assert!(closes(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n").starts_with("HTTP/1.1 200 "));
    wait_until("no connection but that of the question", || metric(&server, "distilbert_connections") == 1.0);
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let server =
        start(Config { io_timeout: Duration::from_millis(300), ..config() }, vec![encoder("cls", "sentence-cls")]);
    let mut stream = connect(server.address());
    let body = json!({"inputs": texts(2000)}).to_string();
    // Answers of megabytes, one after the other, which the system's buffers cannot hold.
    let request = post_bytes("/embed_all", body.as_bytes());
    let _ = stream.write_all(&request.repeat(8));
    wait_until("no connection but that of the question", || metric(&server, "distilbert_connections") == 1.0);
    drop(stream);
}

#[test]
fn connections_past_the_limit_wait_for_those_with_a_request() {
    let server = start(Config { max_connections: 2, ..slow() }, vec![sentiment()]);
    let mut held: Vec<_> = (0..2).map(|_| connect(server.address())).collect();
    let body = b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n";
    for stream in &mut held {
        // The answer to the first says that the second has come, whose body is awaited.
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        stream.write_all(body).unwrap();
        assert_eq!(read_answer(stream).unwrap().status, 200);
    }
    let mut third = connect(server.address());
    third.write_all(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut byte = [0];
    assert!(third.read(&mut byte).is_err(), "answered past the limit");
    for stream in &mut held {
        stream.write_all(br#"{"inputs": "w5"}"#).unwrap();
        stream.write_all(b"\n").unwrap();
        assert_eq!(read_answer(stream).unwrap().status, 200);
    }
    third.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(read_answer(&mut third).unwrap().status, 200);
}

#[test]
fn connections_that_do_nothing_keep_nobody_out() {
    let server = start(Config { max_connections: 5, ..config() }, vec![sentiment()]);
    // Nothing, half a head, and what waits for its next request.
    let mut held: Vec<_> = (0..40).map(|_| connect(server.address())).collect();
    for (place, stream) in held.iter_mut().enumerate() {
        let _ = match place % 3 {
            0 => stream.write_all(b"GET /hea"),
            1 => stream.write_all(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"),
            _ => Ok(()),
        };
    }
    for _ in 0..10 {
        assert_eq!(get(&server, "/health").status, 200);
    }
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let server = start(config(), vec![sentiment()]);
    let mut stream = connect(server.address());
    let requests = [long_request(), json!({"inputs": "w5"}), json!({"inputs": ""})];
    let bytes: Vec<u8> =
        requests.iter().flat_map(|request| post_bytes("/predict", request.to_string().as_bytes())).collect();
    stream.write_all(&bytes).unwrap();
    let answers: Vec<_> = requests.iter().map(|_| read_answer(&mut stream).unwrap()).collect();
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 400]);
    assert_eq!(answers[0].json().as_array().unwrap().len(), 2000);
}

#[test]
fn short_requests_of_others_pass_a_long_one() {
    let server = start(slow(), vec![sentiment()]);
    std::thread::scope(|scope| {
        let long = scope.spawn(|| ask(&server, "/predict", &long_request()));
        // As many as there is time for: they all end while the long one runs.
        wait_until("the long request", || metric(&server, "te_queue_size") > 0.0 || long.is_finished());
        let mut passed = 0;
        while !long.is_finished() {
            ask(&server, "/predict", &json!({"inputs": "w5"}));
            passed += 1;
        }
        assert!(passed > 3, "{passed} passed");
        assert_eq!(long.join().unwrap().as_array().unwrap().len(), 2000);
    });
}

#[test]
fn draining_answers_what_was_taken_and_refuses_the_rest() {
    let server = start(slow(), vec![sentiment()]);
    let address = server.address();
    let mut busy = connect(address);
    busy.write_all(&post_bytes("/predict", long_request().to_string().as_bytes())).unwrap();
    let mut idle = connect(address);
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    read_answer(&mut idle).unwrap();
    wait_until("the request in the queue", || metric(&server, "te_request_count{method=\"batch\"}") > 0.0);
    let drained = server.drain(Duration::ZERO, Duration::from_secs(60));
    assert_eq!(drained, Drained::Whole);
    let answer = read_answer(&mut busy).expect("the answer to what was taken");
    assert_eq!((answer.status, answer.json().as_array().unwrap().len()), (200, 2000));
    assert!(read_answer(&mut idle).is_none());
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_server_that_ends_says_that_it_is_not_ready_while_it_still_answers() {
    let server = start(config(), vec![sentiment()]);
    let address = server.address();
    let get = |path: &str| exchange(address, format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes());
    std::thread::scope(|scope| {
        let ended = scope.spawn(move || server.drain(Duration::from_secs(2), Duration::from_secs(60)));
        wait_until("a server that is not ready", || get("/health/ready").status == 503);
        for path in ["/health", "/v2/health/ready"] {
            assert_eq!(get(path).status, 503, "{path}");
        }
        assert_eq!(get("/health/live").status, 200);
        assert_eq!(exchange(address, &post_bytes("/predict", br#"{"inputs": "w5"}"#)).status, 200);
        assert_eq!(ended.join().unwrap(), Drained::Whole);
    });
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn half_a_head_holds_no_end_up() {
    let server = start(config(), vec![sentiment()]);
    let mut half = connect(server.address());
    half.write_all(b"GET /hea").unwrap();
    wait_until("the connection", || metric(&server, "distilbert_connections") == 2.0);
    assert_eq!(server.drain(Duration::ZERO, Duration::from_secs(60)), Drained::Whole);
    assert!(read_answer(&mut half).is_none());
}

#[test]
fn a_body_in_the_smallest_pieces_takes_no_more_than_its_size() {
    let server = start(config(), vec![sentiment()]);
    let head =
        "POST /predict HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut hog = connect(server.address());
    hog.write_all(head.as_bytes()).unwrap();
    // A piece for each of the bytes that all bodies have in units of a kilobyte.
    hog.write_all(&b"1\r\n \r\n".repeat(64 << 10)).unwrap();
    assert_eq!(post(&server, "/predict", &json!({"inputs": "w5"})).status, 200);
    hog.write_all(b"11\r\n{\"inputs\": \"w5\"} \r\n0\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut hog).expect("an answer").status, 200);
}

#[test]
fn draining_ends_in_time_whatever_is_unanswered() {
    let server = start(slow(), vec![sentiment()]);
    let mut stuck = connect(server.address());
    stuck
        .write_all(b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        .unwrap();
    wait_until("the connection", || metric(&server, "distilbert_connections") == 2.0);
    assert_eq!(server.drain(Duration::ZERO, Duration::from_millis(100)), Drained::InPart);
}

#[test]
fn bodies_of_any_bytes_are_answered_and_never_with_a_mistake_of_the_server() {
    use proptest::prelude::*;
    let models = vec![
        encoder("cls", "sentence-cls"),
        sentiment(),
        common::reranker(),
        common::tagger(),
        common::masked(),
        common::answerer(),
        common::entailment(),
        common::intents(),
    ];
    let server = start(Config { memory: Some(256 << 20), ..config() }, models);
    let paths = [
        "/",
        "/embed",
        "/embed_all",
        "/predict",
        "/rerank",
        "/similarity",
        "/tokenize",
        "/decode",
        "/classify",
        "/tag",
        "/intents",
        "/fill-mask",
        "/zero-shot",
        "/answer",
        "/v1/embeddings",
        "/v2/models/cls/infer",
        "/v2/models/sentiment/infer",
        "/v2/models/masked/infer",
        "/v2/models/answers/infer",
        "/v2/models/tagger/infer",
        "/v2/models/intents/infer",
        "/models/cls",
        "/models/sentiment",
        "/models/masked",
        "/models/tagger",
        "/models/answers",
        "/models/nli",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..60).prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "\\PC{0,12}".prop_map(Value::from),
        "(w[0-9]{1,2} |\\[MASK\\] |berlin ){0,30}".prop_map(Value::from),
        prop_oneof![
            Just("cls"),
            Just("sentiment"),
            Just("masked"),
            Just("Left"),
            Just("simple"),
            Just("BYTES"),
            Just("text")
        ]
        .prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 24, 5, |inner| {
        let key = prop_oneof![
            Just("inputs"),
            Just("input"),
            Just("model"),
            Just("parameters"),
            Just("texts"),
            Just("query"),
            Just("ids"),
            Just("source_sentence"),
            Just("sentences"),
            Just("candidate_labels"),
            Just("top_k"),
            Just("targets"),
            Just("truncate"),
            Just("truncation_direction"),
            Just("dimensions"),
            Just("text"),
            Just("text_pair"),
            Just("aggregation_strategy"),
            Just("normalize"),
            Just("raw_scores"),
            Just("prompt_name"),
            Just("windows"),
            Just("question"),
            Just("context"),
            Just("doc_stride"),
            Just("max_seq_len"),
            Just("max_answer_len"),
            Just("name"),
            Just("shape"),
            Just("datatype"),
            Just("data"),
            Just("outputs"),
            Just("hypothesis_template"),
            Just("multi_label"),
            Just("function_to_apply"),
            Just("ignore_labels"),
            Just("encoding_format"),
            Just("binary_data"),
            Just("binary_data_output"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5)
                .prop_map(|entries| entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    });
    let body = prop_oneof![
        4 => value.prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ];
    let cases = std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let stream = std::cell::RefCell::new(connect(server.address()));
    runner
        .run(&(prop::sample::select(paths.to_vec()), body), |(path, body)| {
            stream.borrow_mut().write_all(&post_bytes(path, &body)).unwrap();
            let answer = read_answer(&mut stream.borrow_mut()).expect("an answer");
            prop_assert!(
                matches!(answer.status, 200 | 400 | 404 | 422 | 424),
                "{path} {}: {}",
                answer.status,
                answer.text()
            );
            prop_assert!(answer.header("content-type") == Some("application/json"));
            serde_json::from_slice::<Value>(&answer.body).expect("JSON");
            Ok(())
        })
        .unwrap();
    assert_eq!(get(&server, "/health").status, 200);
    let _ = stream.borrow_mut().shutdown(Shutdown::Both);
    assert_eq!(exchange(server.address(), b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n").status, 200);
}
