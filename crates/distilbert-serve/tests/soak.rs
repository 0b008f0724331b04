//! Clients of every kind at once, well-behaved and not, while models are replaced: every answer is the library's own, none
//! is lost, and the server goes on. `reference/load/soak.py` does the same for minutes with real models;
//! `SOAK_REQUESTS=100000 cargo test --test soak` does it for longer here.

mod common;

use common::{
    config, connect, encoder, exchange, get, metric, post_bytes, read_answer, sentiment, setup, texts, wait_until,
};
use distilbert::data::batch::Batch;
use distilbert::evaluate::predictions::softmax;
use distilbert::predict::LogitsRunner;
use distilbert::predict::embedding::{EmbeddingPass, normalize};
use distilbert::random::Rng;
use distilbert_serve::{Config, Drained, ServedTask, Server};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Requests of each client, unless SOAK_REQUESTS says so.
const REQUESTS: usize = 150;

/// Clients that must be answered rightly, and others.
const CLIENTS: u64 = 3;
const FAULTY: u64 = 2;

/// What the library says of each text: a vector of length one, and the probability of each label.
struct Expected {
    texts: Vec<String>,
    vectors: Vec<Vec<u32>>,
    labels: Vec<Vec<u32>>,
}

impl Expected {
    fn new() -> Expected {
        let (encoder, classifier, rt) = (encoder("cls", "sentence-cls"), sentiment(), common::runtime());
        let ServedTask::Embed { settings } = &encoder.task else { panic!("an encoder") };
        let prompt = settings.prompt(None).unwrap();
        let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        let (mut pass, mut runner) = (EmbeddingPass::default(), LogitsRunner::new(&classifier.model).unwrap());
        let mut expected = Expected { texts: texts(60), vectors: Vec::new(), labels: Vec::new() };
        for text in &expected.texts {
            let ids = encoder.tokenizer.encode(&format!("{prompt}{text}"), None, Some(encoder.max_length)).input_ids;
            let mut vector = pass.run(&rt, &encoder.model, &Batch::from_sequences([&ids[..]])).unwrap().to_vec();
            let width = vector.len();
            normalize(&rt, &mut vector, width);
            expected.vectors.push(bits(&vector));
            let ids = classifier.tokenizer.encode(text, None, Some(classifier.max_length)).input_ids;
            let logits = runner.run(&rt, &Batch::from_sequences([&ids[..]])).unwrap();
            expected.labels.push(bits(&softmax(logits)));
        }
        expected
    }

    /// A question and the places of its texts.
    fn question(&self, rng: &mut Rng) -> (&'static str, Value, Vec<usize>) {
        let count = [1, 1, 3, 40][rng.below(4)];
        let places: Vec<usize> = (0..count).map(|_| rng.below(self.texts.len())).collect();
        let texts: Vec<&String> = places.iter().map(|&place| &self.texts[place]).collect();
        let tensor = json!({"name": "text", "shape": [count], "datatype": "BYTES", "data": texts});
        let (path, body) = match rng.below(4) {
            0 => ("/embed", json!({"inputs": texts})),
            1 => ("/v1/embeddings", json!({"model": "cls", "input": texts})),
            2 => ("/v2/models/sentiment/infer", json!({"inputs": [tensor], "outputs": [{"name": "scores"}]})),
            _ => ("/classify", json!({"inputs": texts, "parameters": {"top_k": null}})),
        };
        (path, body, places)
    }

    fn check(&self, path: &str, places: &[usize], answer: &Value) {
        let bits = |value: &Value| (value.as_f64().unwrap() as f32).to_bits();
        let row = |row: &Value| row.as_array().unwrap().iter().map(bits).collect::<Vec<u32>>();
        let list = |value: &Value| value.as_array().unwrap().clone();
        let found: Vec<Vec<u32>> = match path {
            "/embed" => list(answer).iter().map(row).collect(),
            "/v1/embeddings" => list(&answer["data"]).iter().map(|data| row(&data["embedding"])).collect(),
            "/classify" => {
                let of = |labels: &Value, name: &str| {
                    bits(&list(labels).iter().find(|label| label["label"] == name).unwrap()["score"])
                };
                list(answer).iter().map(|labels| ["no", "maybe", "yes"].map(|name| of(labels, name)).to_vec()).collect()
            }
            _ => row(&answer["outputs"][0]["data"]).chunks(3).map(<[u32]>::to_vec).collect(),
        };
        let all = if matches!(path, "/embed" | "/v1/embeddings") { &self.vectors } else { &self.labels };
        assert_eq!(found, places.iter().map(|&place| all[place].clone()).collect::<Vec<_>>(), "{path}");
    }
}

/// A client that keeps its connection for a while.
fn ask(address: SocketAddr, expected: &Expected, seed: u64, requests: usize) {
    let mut rng = Rng::from_key(&[seed]);
    let mut stream = connect(address);
    for _ in 0..requests {
        if rng.below(20) == 0 {
            stream = connect(address);
        }
        let (path, body, places) = expected.question(&mut rng);
        stream.write_all(&post_bytes(path, body.to_string().as_bytes())).expect("a request");
        let answer = read_answer(&mut stream).expect("an answer");
        match answer.status {
            429 => assert!(answer.header("retry-after").is_some()),
            status => {
                assert_eq!(status, 200, "{path}: {}", answer.text());
                expected.check(path, &places, &answer.json());
            }
        }
    }
}

/// What clients do that are no good.
fn misbehave(address: SocketAddr, expected: &Expected, rng: &mut Rng) {
    let (path, body, _) = expected.question(rng);
    let request = post_bytes(path, body.to_string().as_bytes());
    let status = |request: &[u8]| exchange(address, request).status;
    let mut stream = connect(address);
    match rng.below(6) {
        // Goes, before or while its request runs.
        0 => stream.write_all(&request).unwrap(),
        1 => stream.write_all(&request[..rng.below(request.len())]).unwrap(),
        2 => {
            let mut body = body.to_string().into_bytes();
            let place = rng.below(body.len());
            body[place] = rng.below(256) as u8;
            let status = status(&post_bytes(path, &body));
            assert!(matches!(status, 200 | 400 | 404 | 422 | 424 | 429), "{status}");
        }
        3 => assert_eq!(status(&post_bytes(path, &vec![b' '; 300_000])), 413),
        4 => {
            stream.write_all(&request[..request.len() - 1]).unwrap();
            let status = read_answer(&mut stream).expect("an answer").status;
            assert!(matches!(status, 408 | 429), "{status}");
        }
        _ => {
            let garbage: Vec<u8> = (0..200).map(|_| rng.below(256) as u8).collect();
            stream.write_all(&garbage).unwrap();
            stream.write_all(b"\r\n\r\n").unwrap();
            // An answer or none: it is no HTTP.
            let _ = stream.read(&mut [0; 64]);
        }
    }
}

#[test]
fn answers_are_the_librarys_whatever_else_goes_on_and_none_is_lost() {
    let requests = std::env::var("SOAK_REQUESTS").ok().and_then(|requests| requests.parse().ok()).unwrap_or(REQUESTS);
    let expected = Expected::new();
    let config = Config {
        manage: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        max_body_bytes: 200_000,
        memory: Some(200 << 20),
        io_timeout: Duration::from_millis(300),
        ..config()
    };
    let server = Server::start(setup(config, vec![encoder("cls", "sentence-cls"), sentiment()])).unwrap();
    let (address, manage) = (server.address(), server.management_address().unwrap());
    let busy = AtomicUsize::new(CLIENTS as usize);
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let (expected, busy) = (&expected, &busy);
            scope.spawn(move || {
                // Also if a check fails: the others wait for it.
                let _done = Done(busy);
                ask(address, expected, seed, requests);
            });
        }
        for seed in 0..FAULTY {
            let (expected, busy) = (&expected, &busy);
            scope.spawn(move || {
                let mut rng = Rng::from_key(&[100 + seed]);
                while busy.load(Ordering::Relaxed) > 0 {
                    misbehave(address, expected, &mut rng);
                }
            });
        }
        // Models come anew in their own place.
        scope.spawn(|| {
            while busy.load(Ordering::Relaxed) > 0 {
                for name in ["cls", "sentiment"] {
                    let body = json!({"source": "anew"}).to_string();
                    let head = format!("Content-Type: application/json\r\nContent-Length: {}", body.len());
                    let put = format!("PUT /models/{name} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n{body}");
                    assert_eq!(exchange(manage, put.as_bytes()).status, 200);
                }
            }
        });
        scope.spawn(|| {
            while busy.load(Ordering::Relaxed) > 0 {
                let Some(wish) = server.next_load(Duration::from_millis(5)) else { continue };
                let model = if wish.name == "cls" { encoder("cls", "sentence-cls") } else { sentiment() };
                wish.done(Ok(model));
            }
            // The last wish of the thread above.
            while let Some(wish) = server.next_load(Duration::from_millis(500)) {
                let model = if wish.name == "cls" { encoder("cls", "sentence-cls") } else { sentiment() };
                wish.done(Ok(model));
            }
        });
    });
    assert_eq!(get(&server, "/health").status, 200);
    wait_until("an empty queue", || metric(&server, "te_queue_size") == 0.0);
    wait_until("no connection but that of the question", || metric(&server, "distilbert_connections") == 1.0);
    assert_eq!(metric(&server, r#"te_request_failure{err="inference"}"#), 0.0);
    assert_eq!(server.drain(Duration::ZERO, Duration::from_secs(30)), Drained::Whole);
}

/// Counts a client down when it ends.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn hundreds_of_connections_are_answered_at_once() {
    // More than there are threads by far; a system may allow a process no more than 1,024 files.
    const CONNECTIONS: usize = 400;
    let server = Server::start(setup(config(), vec![sentiment()])).unwrap();
    let request = post_bytes("/predict", br#"{"inputs": "w5 w6"}"#);
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| connect(server.address())).collect();
    for stream in &mut streams {
        stream.write_all(&request).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(read_answer(stream).expect("an answer").status, 200);
    }
    assert_eq!(metric(&server, "distilbert_connections"), (CONNECTIONS + 1) as f64);
}
