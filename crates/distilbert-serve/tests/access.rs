//! Who may ask, and who may change what is served.

mod common;

use common::{Answer, ask, config, connect, encoder, exchange, get, post, sentiment, setup, texts, wait_until};
use distilbert_serve::{Config, Event, Keys, Server, Setup};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn hex(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entry(name: &str, key: &str, more: &str) -> String {
    format!("[[key]]\nname = '{name}'\nsha256 = '{}'\n{more}\n", hex(key))
}

/// A request with a body, under a key.
fn send(address: SocketAddr, method: &str, path: &str, key: Option<&str>, body: &Value) -> Answer {
    let body = body.to_string();
    let key = key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
    let head = format!("{key}Content-Type: application/json\r\nContent-Length: {}", body.len());
    exchange(address, format!("{method} {path} HTTP/1.1\r\nHost: localhost:80\r\n{head}\r\n\r\n{body}").as_bytes())
}

fn managed(keys: Option<Keys>) -> Server {
    let config = Config { manage: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))), ..config() };
    Server::start(Setup { keys, ..setup(config, vec![sentiment()]) }).unwrap()
}

/// Ends the answering of wishes also when a test fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers wishes for models as whoever started the server would, until `done`.
fn load_until(server: &Server, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let Some(wish) = server.next_load(Duration::from_millis(5)) else { continue };
        let model = match wish.source.as_str() {
            "sentence-cls" | "sentence-dense" => Ok(encoder(&wish.name, &wish.source)),
            _ => Err("no such model".to_owned()),
        };
        wish.done(model);
    }
}

#[test]
fn only_keys_that_are_known_are_answered_and_health_needs_none() {
    let keys = Keys::parse(&(entry("a", "first", "") + &entry("b", "second", ""))).unwrap();
    let server = Server::start(Setup { keys: Some(keys), ..setup(config(), vec![sentiment()]) }).unwrap();
    let ask = |key: Option<&str>, path: &str| send(server.address(), "POST", path, key, &json!({"inputs": "w5"}));
    assert_eq!(ask(Some("first"), "/predict").status, 200);
    assert_eq!(ask(Some("second"), "/models/sentiment/predict").status, 200);
    for key in [None, Some("third"), Some("")] {
        let refused = ask(key, "/predict");
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
        assert_eq!(refused.json()["error_type"], "Unauthorized");
        let refused = ask(key, "/v1/embeddings");
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    }
    assert_eq!(get(&server, "/info").status, 401);
    assert_eq!(get(&server, "/v1/models").status, 401);
    for path in ["/health", "/health/live", "/metrics", "/docs", "/openapi.json"] {
        assert_eq!(get(&server, path).status, 200, "{path}");
    }
}

#[test]
fn a_used_up_quota_is_refused_until_there_is_more() {
    let keys = Keys::parse(&entry("a", "k", "tokens_per_minute = 10")).unwrap();
    let server = Server::start(Setup { keys: Some(keys), ..setup(config(), vec![sentiment()]) }).unwrap();
    let ask =
        || send(server.address(), "POST", "/predict", Some("k"), &json!({"inputs": "w5 w6 w7 w8 w9 w10 w11 w12 w13"}));
    assert_eq!(ask().status, 200);
    let refused = ask();
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().unwrap() >= 1));
}

#[test]
fn models_come_change_and_go_without_an_error_for_requests_in_flight() {
    let server = managed(None);
    let manage = server.management_address().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| load_until(&server, &done));
        let _end = SetAtEnd(&done);
        let put = |source: &str| send(manage, "PUT", "/models/vectors", None, &json!({"source": source}));
        assert_eq!(post(&server, "/models/vectors/embed", &json!({"inputs": "w5"})).status, 404);
        assert_eq!(put("sentence-cls").status, 200);
        let inputs = json!({"inputs": texts(40)});
        let cls = ask(&server, "/models/vectors/embed", &inputs);
        assert_eq!(put("sentence-dense").status, 200);
        let dense = ask(&server, "/models/vectors/embed", &inputs);
        assert_ne!(cls, dense);
        // While it is replaced again and again every answer is the one model's or the other's.
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let (server, inputs, cls, dense) = (&server, inputs.clone(), cls.clone(), dense.clone());
                scope.spawn(move || {
                    for _ in 0..15 {
                        let found = ask(server, "/models/vectors/embed", &inputs);
                        assert!(found == cls || found == dense);
                    }
                })
            })
            .collect();
        while !clients.iter().all(|client| client.is_finished()) {
            assert_eq!(put("sentence-cls").status, 200);
            assert_eq!(put("sentence-dense").status, 200);
        }
        let refused = put("nowhere");
        assert_eq!((refused.status, &refused.json()["error"]), (422, &json!("no such model")));
        assert_eq!(ask(&server, "/models/vectors/embed", &inputs), dense);
        let listed = send(manage, "GET", "/models", None, &Value::Null).json();
        assert_eq!(listed.as_array().unwrap().len(), 2);
        assert_eq!(send(manage, "DELETE", "/models/vectors", None, &Value::Null).status, 200);
        assert_eq!(send(manage, "DELETE", "/models/vectors", None, &Value::Null).status, 404);
        assert_eq!(post(&server, "/models/vectors/embed", &inputs).status, 404);
        assert_eq!(send(manage, "DELETE", "/models/sentiment", None, &Value::Null).status, 200);
        assert_eq!(get(&server, "/health").status, 503);
        assert_eq!(get(&server, "/health/live").status, 200);
    });
}

#[test]
fn a_load_that_never_ends_is_given_up_and_holds_no_other() {
    let manage = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let config = Config { manage, load_timeout: Duration::from_secs(2), ..config() };
    let server = Server::start(setup(config, vec![sentiment()])).unwrap();
    let manage = server.management_address().unwrap();
    let put = |name: &str| send(manage, "PUT", &format!("/models/{name}"), None, &json!({"source": "somewhere"}));
    let next = || server.next_load(Duration::from_secs(30)).expect("a wish");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| put("slow"));
        let held = next();
        assert!(held.is_wanted());
        let quick = scope.spawn(|| put("quick"));
        let wish = next();
        wish.done(Ok(encoder("quick", "sentence-cls")));
        assert_eq!(quick.join().unwrap().status, 200);
        let refused = slow.join().unwrap();
        assert_eq!((refused.status, &refused.json()["error_type"]), (504, &json!("Timeout")));
        wait_until("a load that nobody wants", || !held.is_wanted());
        // It holds its place until its loader gives up.
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(|| put("more"))).collect();
        let mut all: Vec<_> = clients.iter().map(|_| next()).collect();
        let refused = put("one-too-many");
        assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true));
        drop(held);
        // A loader that panics says nothing.
        drop(all.pop());
        let status: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap().status).collect();
        assert!(status.iter().filter(|&&status| status == 500).count() == 1, "{status:?}");
    });
}

#[test]
fn what_is_managed_is_logged_with_its_model_and_the_keys_name() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let keys = Keys::parse(&entry("owner", "secret", "manage = true")).unwrap();
    let config = Config { manage: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))), ..config() };
    let log = Box::new(move |event: &Event| log.lock().unwrap().push(serde_json::to_value(event).unwrap()));
    let server = Server::start(Setup { keys: Some(keys), log, ..setup(config, vec![sentiment()]) }).unwrap();
    let manage = server.management_address().unwrap();
    assert_eq!(send(manage, "DELETE", "/models/sentiment", Some("secret"), &Value::Null).status, 200);
    let of_first = |key: &str| events.lock().unwrap().first().map(|event: &Value| event[key].clone());
    wait_until("an event", || of_first("route").is_some());
    assert_eq!((of_first("model"), of_first("key")), (Some(json!("sentiment")), Some(json!("owner"))));
    assert!(!events.lock().unwrap()[0].to_string().contains("secret"));
}

#[test]
fn management_has_a_door_of_its_own_and_needs_a_key_for_it() {
    let open = managed(None);
    let manage = open.management_address().unwrap();
    assert_eq!(send(open.address(), "PUT", "/models/x", None, &json!({"source": "sentence-cls"})).status, 405);
    for (method, path, body, status) in [
        ("PUT", "/models/a%20b", json!({"source": "x"}), 422),
        ("PUT", "/models/..", json!({"source": "x"}), 422),
        ("PUT", "/models/a", json!({"source": 7}), 422),
        ("PUT", "/models/a", json!({"surprise": 7}), 422),
        ("POST", "/models/a", json!({}), 405),
        ("PUT", "/models", json!({}), 405),
        ("GET", "/embed", json!({}), 404),
    ] {
        let answer = send(manage, method, path, None, &body);
        assert_eq!(answer.status, status, "{method} {path} {body}");
        assert!(answer.json()["error_type"].is_string());
    }
    // A page whose own name was pointed here is not this machine.
    let list = |hosts: &str| exchange(manage, format!("GET /models HTTP/1.1\r\n{hosts}\r\n\r\n").as_bytes()).status;
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8081", "[::1]:8081", "[::1]"] {
        assert_eq!(list(&format!("Host: {host}")), 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "", "localhost\r\nHost: localhost"] {
        assert_eq!(list(&format!("Host: {host}")), 403, "{host}");
    }
    let named = exchange(manage, b"GET /models HTTP/1.1\r\nHost: evil.example\r\n\r\n").json()["error"].clone();
    assert_eq!(named, "`Host`: expected localhost or a loopback address, found \"evil.example\"");
    let (mut stream, mut status) = (connect(manage), [0; 12]);
    stream.write_all(b"HEAD /models HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let keys = Keys::parse(&(entry("user", "u", "") + &entry("owner", "o", "manage = true"))).unwrap();
    let closed = managed(Some(keys));
    let list = |key| send(closed.management_address().unwrap(), "GET", "/models", key, &Value::Null).status;
    assert_eq!((list(None), list(Some("u")), list(Some("o"))), (401, 403, 200));
}
