//! `distilbert serve`: from the command line to the answer and to the end.

mod common;

use common::{error, golden, lines, model, program, run, set_labels, stdout};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};

/// A server that was started, and what it said until it listened.
struct Served {
    child: Child,
    said: Vec<String>,
    address: String,
    rest: BufReader<std::process::ChildStderr>,
}

fn serve(arguments: &[&str]) -> Served {
    let mut child = program(&[&["serve", "--port", "0"], arguments].concat()).spawn().expect("the program");
    let rest = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut served = Served { child, said: Vec::new(), address: String::new(), rest };
    loop {
        let mut line = String::new();
        assert!(served.rest.read_line(&mut line).expect("a line") > 0, "ended: {:?}", served.said);
        if let Some(address) = line.trim().strip_prefix("listening on http://") {
            served.address = address.to_owned();
            return served;
        }
        served.said.push(line);
    }
}

/// Status and JSON of the answer to a request.
fn send(address: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).expect("a connection");
    let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close", body.len());
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\n{head}\r\n\r\n{body}").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).expect("JSON"))
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
    let events: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(
        (&events[0]["route"], &events[0]["status"], &events[0]["inputs"]),
        (&json!("embed"), &json!(200), &json!(2))
    );
    assert!(!said.contains("w5"), "{said}");
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
    assert_eq!(difference(0), 0.0);
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
fn what_cannot_be_served_is_refused_before_it_listens() {
    let folder = tempfile::tempdir().unwrap();
    model("distilbert-classify", folder.path());
    let name = folder.path().to_str().unwrap();
    let refused = |arguments: &[&str]| error(&run(&[&["serve", "--port", "0"], arguments].concat()));
    assert!(refused(&["--model", "a b=not-looked-for"]).contains("\"a b\""));
    assert!(refused(&["--model", "="]).contains("NAME=MODEL"));
    assert!(refused(&["--model", &format!("a={name}"), "--model", &format!("a={name}")]).contains("twice"));
    assert!(refused(&["--model", &format!("a/b={name}")]).contains("letters"));
    let keys = folder.path().join("keys.toml");
    std::fs::write(&keys, "[[key]]\nname = 'a'\nsha256 = 'short'\n").unwrap();
    let found = refused(&["--model", name, "--keys", keys.to_str().unwrap()]);
    assert!(found.contains("keys.toml") && found.contains("64"), "{found}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = error(&run(&["serve", "--model", &format!("a={name}"), "--port", &port]));
    assert!(refused.contains("cannot listen on 127.0.0.1"), "{refused}");
}
