//! `distilbert serve`: from the command line to the answer and to the end.

mod common;

use common::{error, golden, lines, model, program, run, set_labels, stdout};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command};
use std::sync::Arc;

/// The parts of a request's way, as traces call them.
const PARTS: [&str; 4] = ["read", "tokenization", "queue", "inference"];

/// A server that was started, and what it said until it listened.
struct Served {
    child: Child,
    said: Vec<String>,
    address: String,
    rest: BufReader<ChildStderr>,
}

fn serve(arguments: &[&str]) -> Served {
    serve_by(program(&[&["serve", "--port", "0"], arguments].concat()))
}

fn serve_by(mut program: Command) -> Served {
    let mut child = program.spawn().expect("the program");
    let rest = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut served = Served { child, said: Vec::new(), address: String::new(), rest };
    loop {
        let mut line = String::new();
        assert!(served.rest.read_line(&mut line).expect("a line") > 0, "ended: {:?}", served.said);
        // With `--log json` what is said is in an object.
        if let Ok(said) = serde_json::from_str::<Value>(&line) {
            line = said["message"].as_str().expect("a message").to_owned();
        }
        if let Some((_, address)) = line.trim().strip_prefix("listening on ").and_then(|url| url.split_once("://")) {
            served.address = address.to_owned();
            return served;
        }
        served.said.push(line);
    }
}

/// Status and JSON of the answer to a request.
fn send(address: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    exchange(TcpStream::connect(address).expect("a connection"), method, path, "", body)
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str, headers: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close", body.len());
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{head}\r\n\r\n{body}").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).expect("JSON"))
}

/// All that is answered to these bytes.
fn exchange_raw(address: &str, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(bytes.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// A test that fails leaves no server behind.
impl Drop for Served {
    fn drop(&mut self) {
        // Neither does anything to one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = send(&self.address, "POST", path, body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Asks it to end; its exit code, and what it said meanwhile.
    fn end(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        let mut said = String::new();
        self.rest.read_to_string(&mut said).expect("UTF-8");
        (self.child.wait().expect("an end").code(), said)
    }
}

#[test]
fn several_models_answer_with_the_numbers_of_predict_until_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    set_labels(folder.path(), &["no", "maybe", "yes"]);
    let (classifier, encoder) = (folder.path().to_str().unwrap(), golden("sentence-cls"));
    let encoder = encoder.to_str().unwrap();
    let served = serve(&["--model", &format!("labels={classifier}"), "--model", encoder, "--log", "json"]);
    assert!(served.said.iter().any(|line| line.starts_with("labels: ") && line.contains("classifies, f32")));
    assert!(served.said.iter().any(|line| line.starts_with("sentence-cls: ") && line.contains("embeds")));

    let texts = ["w5 w6", "w7"];
    let expected = lines(&stdout(&run(&["predict", "embed", "--model", encoder, texts[0], texts[1]])));
    let narrow =
        |value: &Value| -> Vec<f32> { value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect() };
    let found = served.post("/embed", &json!({"inputs": texts}));
    for (found, expected) in found.as_array().unwrap().iter().zip(&expected) {
        assert_eq!(narrow(found), narrow(expected));
    }
    let arguments = ["predict", "classify", "--model", classifier, "--json", "--top-k", "3", texts[0]];
    let expected = &lines(&stdout(&run(&arguments)))[0];
    assert_eq!(served.post("/classify", &json!({"inputs": texts[0], "parameters": {"top_k": 3}})), *expected);

    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
    // Every line is JSON, also the one that says that it stops.
    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(events.iter().any(|event| event["message"].as_str().is_some_and(|said| said.starts_with("stopping"))));
    assert_eq!(
        (&events[0]["route"], &events[0]["status"], &events[0]["inputs"]),
        (&json!("embed"), &json!(200), &json!(2))
    );
    assert!(!said.contains("w5"), "{said}");
}

#[test]
fn a_server_whose_log_nobody_reads_any_more_answers_on() {
    let encoder = golden("sentence-cls");
    let mut served = serve(&["--model", encoder.to_str().unwrap(), "--log", "json"]);
    let nothing = std::fs::File::open("/dev/null").unwrap();
    served.rest = BufReader::new(ChildStderr::from(OwnedFd::from(nothing)));
    for _ in 0..3 {
        served.post("/embed", &json!({"inputs": "w5"}));
    }
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn precision_is_each_models_own_and_models_are_loaded_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let small = format!("small={name},precision=int8");
    let served = serve(&["--model", &format!("plain={name}"), "--model", &small, "--manage-port", "0"]);
    let (_, info) = send(&served.address, "GET", "/info", &json!({}));
    let of = |place: usize, key: &str| info["models"][place][key].clone();
    assert_eq!((of(0, "model_dtype"), of(1, "model_dtype")), (json!("float32"), json!("int8")));
    let difference = |place| of(place, "parity")["largest_relative_difference"].as_f64().expect("a number");
    assert_eq!((difference(0), of(0, "parity")["texts"].clone()), (0.0, json!(0)));
    assert_eq!(of(1, "parity")["texts"], json!(32));
    // Beyond what `auto` would take, it is said.
    let warned = served.said.iter().any(|line| line.starts_with("warning: small: outputs in int8"));
    assert_eq!(warned, difference(1) > 0.05, "{:?}", served.said);
    assert!((1e-6..0.5).contains(&difference(1)), "{info}");

    let said = served.said.iter().find_map(|line| line.trim().strip_prefix("managing models on http://"));
    let manage = said.expect("an address");
    let put = |source: &str| send(manage, "PUT", "/models/third", &json!({"source": source, "precision": "int8"}));
    assert_eq!(put(name).0, 200);
    let inputs = json!({"inputs": "w5 w6"});
    assert_eq!(served.post("/models/third/predict", &inputs), served.post("/models/small/predict", &inputs));
    let (status, refused) = put(folder.path().join("absent/folder").to_str().unwrap());
    assert_eq!(status, 422, "{refused}");
    let (status, refused) = send(manage, "PUT", "/models/x", &json!({"source": name, "precision": "int3"}));
    assert!(status == 422 && refused["error"].as_str().unwrap().contains("int3"), "{refused}");
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn a_source_that_never_answers_holds_neither_other_loads_nor_the_end() {
    // Accepts, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hub = format!("http://{}", silent.local_addr().unwrap());
    let cache = tempfile::tempdir().unwrap();
    let of_hub = |mut command: Command| {
        command.env("HF_ENDPOINT", &hub).env("HF_HOME", cache.path());
        command
    };
    let name = golden("sentence-cls");
    let name = name.to_str().unwrap();
    let served = serve_by(of_hub(program(&["serve", "--port", "0", "--model", name, "--manage-port", "0"])));
    let manage = served.said.iter().find_map(|line| line.trim().strip_prefix("managing models on http://"));
    let manage = manage.expect("an address").to_owned();
    let slow = {
        let manage = manage.clone();
        std::thread::spawn(move || send(&manage, "PUT", "/models/slow", &json!({"source": "nobody/nothing"})).0)
    };
    let (_asked, _) = silent.accept().unwrap();
    assert_eq!(send(&manage, "PUT", "/models/quick", &json!({"source": name})).0, 200);
    assert_eq!(served.end().0, Some(0));
    assert_eq!(slow.join().unwrap(), 503);

    // The same before it listens.
    let mut child = of_hub(program(&["serve", "--port", "0", "--model", "nobody/nothing"])).spawn().unwrap();
    let (_asked, _) = silent.accept().unwrap();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill").success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn connections_are_encrypted_with_the_certificate_of_a_file() {
    let tls = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name);
        path.to_str().unwrap().to_owned()
    };
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = format!("labels={}", folder.path().display());
    let files = ["--tls-cert", &tls("server.pem"), "--tls-key", &tls("server-key.pem")];
    let served = serve(&[&["--model", &name], &files[..]].concat());

    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_file(tls("authority.pem")).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(client), name).unwrap();
    let stream = StreamOwned::new(connection, TcpStream::connect(&served.address).unwrap());
    let (status, labels) = exchange(stream, "POST", "/predict", "", &json!({"inputs": "w5 w6"}));
    assert_eq!((status, labels.as_array().map(Vec::len)), (200, Some(3)), "{labels}");
    // Who does not encrypt is not answered.
    let mut plain = TcpStream::connect(&served.address).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(served.end().0, Some(0));

    let refused = |certificate: &str, key: &str| {
        let model = folder.path().to_str().unwrap();
        error(&run(&["serve", "--port", "0", "--model", model, "--tls-cert", certificate, "--tls-key", key]))
    };
    assert!(refused(&tls("make.sh"), &tls("server-key.pem")).contains("make.sh"));
    assert!(refused(&tls("server.pem"), &tls("server.pem")).contains("private key"));
    assert!(refused(&tls("authority.pem"), &tls("server-key.pem")).contains("certificate and key"));
}

#[test]
fn traces_are_sent_to_a_collector() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let received = std::thread::spawn(move || {
        let mut stream = BufReader::new(collector.accept().unwrap().0);
        let (mut line, mut length) = (String::new(), 0);
        let mut first = String::new();
        stream.read_line(&mut first).unwrap();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        (first, serde_json::from_slice::<Value>(&body).unwrap())
    });
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = format!("labels={}", folder.path().display());
    let served = serve(&["--model", &name, "--otlp-endpoint", &endpoint, "--log", "none"]);
    let ask = |traceparent: &str| {
        let stream = TcpStream::connect(&served.address).unwrap();
        exchange(stream, "POST", "/predict", traceparent, &json!({"inputs": "w5 w6"})).0
    };
    let trace = "0af7651916cd43dd8448eb211c80319c";
    assert_eq!(ask(&format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\nx-request-id: mine\r\n")), 200);
    // Who asked does not record it.
    assert_eq!(ask(&format!("traceparent: 00-{trace}-b7ad6b7169203331-00\r\n")), 200);
    assert_eq!(ask(""), 200);
    // What watches the server is in no trace.
    assert!(
        exchange_raw(&served.address, "GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            .contains("200 OK")
    );
    assert_eq!(served.end().0, Some(0));
    let (first, body) = received.join().unwrap();
    assert!(first.starts_with("POST /v1/traces "), "{first}");
    let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let requests: Vec<&Value> = spans.iter().filter(|span| span["kind"] == 2).collect();
    assert_eq!(requests.len(), 2, "{body}");
    let mine = requests[0];
    let attribute = |key: &str| {
        let found = mine["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == key);
        found.unwrap_or_else(|| panic!("{key}: {mine}"))["value"].clone()
    };
    assert_eq!((&mine["name"], &mine["traceId"]), (&json!("POST predict"), &json!(trace)));
    assert_eq!(mine["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(attribute("distilbert.request_id"), json!({"stringValue": "mine"}));
    assert_eq!(attribute("distilbert.model"), json!({"stringValue": "labels"}));
    assert_eq!(attribute("http.response.status_code"), json!({"intValue": "200"}));
    assert!(attribute("distilbert.inference_ms")["doubleValue"].as_f64().unwrap() > 0.0);
    let parts: Vec<&Value> = spans.iter().filter(|span| span["parentSpanId"] == mine["spanId"]).collect();
    assert_eq!(parts.iter().map(|part| part["name"].as_str().unwrap()).collect::<Vec<_>>(), PARTS);
    let time = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(parts.iter().all(|part| time(part, "startTimeUnixNano") >= time(mine, "startTimeUnixNano")));
    assert_ne!(requests[1]["traceId"], json!(trace));
    assert_eq!(requests[1]["traceId"].as_str().map(str::len), Some(32));
}

/// What the process had in memory at most, where the system says it.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_below_its_limit_under_any_mix_of_lengths() {
    const LIMIT_MB: u64 = 400;
    let encoder = golden("sentence-cls");
    let limit = format!("{LIMIT_MB}M");
    let options = ["--memory-limit", &limit, "--max-connections", "64", "--log", "none", "--max-body", "4000000"];
    let served = serve(&[&["--model", encoder.to_str().unwrap()], &options[..]].concat());
    let bodies = [
        ("/embed", json!({"inputs": "a ".repeat(150_000)})),
        ("/tokenize", json!({"inputs": "a".repeat(300_000)})),
        ("/embed", json!({"inputs": vec![vec![7; 20]; 2000]})),
        ("/embed", json!({"inputs": vec![7; 900_000]})),
        ("/tokenize", json!({"inputs": vec!["a b c d"; 2000]})),
        ("/embed_all", json!({"inputs": vec!["a b c d e f"; 2000]})),
        // Never possible.
        ("/embed", json!({"inputs": "a ".repeat(1_500_000)})),
    ];
    let (mut answered, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let (bodies, address) = (&bodies, &served.address);
                scope.spawn(move || {
                    let of = |at: usize| &bodies[(client + at) % bodies.len()];
                    (0..8).map(|at| send(address, "POST", of(at).0, &of(at).1).0).collect::<Vec<u16>>()
                })
            })
            .collect();
        for status in clients.into_iter().flat_map(|client| client.join().unwrap()) {
            match status {
                200 => answered += 1,
                413 | 429 => refused += 1,
                other => panic!("{other}"),
            }
        }
    });
    assert!(served.said.iter().any(|line| line.contains("MB for requests")), "{:?}", served.said);
    assert!(answered > 10 && refused > 0, "{answered} answered, {refused} refused");
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_mb = peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024;
    assert!(peak_mb < LIMIT_MB, "{peak_mb} MB");
    assert_eq!(send(&served.address, "POST", "/embed", &json!({"inputs": "a"})).0, 200);
    let refused = error(&run(&["serve", "--port", "0", "--model", encoder.to_str().unwrap(), "--memory-limit", "30M"]));
    assert!(refused.contains("--memory-limit: expected at least"), "{refused}");
}

#[test]
fn what_cannot_be_served_is_refused_before_it_listens() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let refused = |arguments: &[&str]| error(&run(&[&["serve", "--port", "0"], arguments].concat()));
    assert!(refused(&["--model", "a b=not-looked-for"]).contains("\"a b\""));
    assert!(refused(&["--model", "="]).contains("NAME=MODEL"));
    let found = refused(&["--model", "runs/a/best", "--model", "runs/b/best"]);
    assert!(found.contains("`runs/a/best` and `runs/b/best` are both called `best`"), "{found}");
    assert!(refused(&["--model", &format!("a/b={name}")]).contains("letters"));
    let keys = folder.path().join("keys.toml");
    std::fs::write(&keys, "[[key]]\nname = 'a'\nsha256 = 'short'\n").unwrap();
    let found = refused(&["--model", name, "--keys", keys.to_str().unwrap()]);
    assert!(found.contains("keys.toml") && found.contains("64"), "{found}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = error(&run(&["serve", "--model", "a=not-looked-for", "--port", &port]));
    assert!(refused.contains("cannot listen on 127.0.0.1"), "{refused}");
}
