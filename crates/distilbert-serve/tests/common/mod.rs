//! The library's small reference models behind a server in this process, and a client of plain sockets.
// Each test file uses some of these.
#![allow(dead_code)]

use distilbert::checkpoint::model_folder::read_config;
use distilbert::checkpoint::sentence_folder::SentenceSettings;
use distilbert::data::questions::WindowConfig;
use distilbert::model::{EmbeddingHead, HeadKind, Model, Problem};
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::{Isa, Runtime};
use distilbert_serve::{Config, ServedModel, ServedTask, Server, Setup, Share};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../distilbert/tests/goldens").join(name)
}

pub fn runtime() -> Runtime {
    Runtime::new(Isa::detect(), 2).expect("a runtime")
}

/// The folder's tokenizer, or one whose words are `w5`, `w6`, ... up to the model's vocabulary.
pub fn tokenizer(folder: &Path, model: &Model) -> Tokenizer {
    Tokenizer::from_folder(folder).unwrap_or_else(|_| {
        let mut tokens: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
        tokens.extend((5..model.config.encoder.vocab_size).map(|id| format!("w{id}")));
        Tokenizer::from_vocabulary(tokens, true).expect("a tokenizer")
    })
}

fn served(name: &str, folder: &Path, model: Model, task: ServedTask) -> ServedModel {
    let tokenizer = tokenizer(folder, &model);
    let max_length = model.config.encoder.max_positions;
    ServedModel {
        name: name.into(),
        source: folder.display().to_string(),
        model,
        tokenizer,
        task,
        max_length,
        parity: None,
        share: Share::default(),
    }
}

fn load(folder: &Path) -> Model {
    Model::load_for_inference(folder, &runtime(), None).expect("a model").model
}

/// A classifier with these labels.
pub fn classifier(name: &str, golden_name: &str, problem: Problem, labels: &[&str]) -> ServedModel {
    let folder = golden(golden_name);
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    served(name, &folder, load(&folder), ServedTask::Classify { problem, labels, temperature: 1.0, trained_on: None })
}

pub fn sentiment() -> ServedModel {
    classifier("sentiment", "distilbert-classify", Problem::Classification, &["no", "maybe", "yes"])
}

pub fn reranker() -> ServedModel {
    classifier("ranker", "distilbert-regress", Problem::Regression, &["score"])
}

pub fn entailment() -> ServedModel {
    let labels = ["entailment", "neutral", "contradiction"];
    classifier("nli", "bert-classify", Problem::Classification, &labels)
}

pub fn tagger() -> ServedModel {
    tagger_at(1.0)
}

pub fn tagger_at(temperature: f64) -> ServedModel {
    let folder = golden("tagger");
    let model = load(&folder);
    let labels = model.config.head.labels().to_vec();
    served("tagger", &folder, model, ServedTask::Tag { labels, temperature })
}

pub fn intents() -> ServedModel {
    intents_at(1.0)
}

pub fn intents_at(temperature: f64) -> ServedModel {
    let folder = golden("finetune-intents");
    let model = load(&folder);
    let (intents, slots) = (model.config.head.labels().to_vec(), model.config.head.slots().to_vec());
    served("intents", &folder, model, ServedTask::Intents { intents, slots, temperature })
}

pub fn masked() -> ServedModel {
    let folder = golden("distilbert-mlm");
    served("masked", &folder, load(&folder), ServedTask::FillMask)
}

pub fn answerer() -> ServedModel {
    let folder = golden("distilbert-qa");
    let windows = WindowConfig { max_length: 18, doc_stride: 5 };
    served("answers", &folder, load(&folder), ServedTask::Answer { windows, null_threshold: None })
}

/// A sentence encoder; its head leaves vectors at their length.
pub fn encoder(name: &str, golden_name: &str) -> ServedModel {
    let folder = golden(golden_name);
    let settings = SentenceSettings::read(&folder).expect("settings");
    let HeadKind::Embedding(head) = read_config(&folder).expect("a configuration").head else {
        panic!("expected a sentence encoder")
    };
    let head = HeadKind::Embedding(EmbeddingHead { normalize: false, ..head });
    let model = Model::load_for_inference_with(&folder, &runtime(), None, head).expect("a model").model;
    served(name, &folder, model, ServedTask::Embed { settings })
}

pub fn config() -> Config {
    Config::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

pub fn setup(config: Config, models: Vec<ServedModel>) -> Setup {
    Setup { config, models, rt: Arc::new(runtime()), keys: None, tls: None, log: Box::new(|_| {}) }
}

pub fn start(config: Config, models: Vec<ServedModel>) -> Server {
    Server::start(setup(config, models)).expect("a server")
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream
}

/// Sends bytes and reads one response.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = connect(address);
    stream.write_all(request).expect("a request");
    read_answer(&mut stream).expect("an answer")
}

/// Reads one response; `None` if the connection ends without one.
pub fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    // A byte at a time, since another answer may follow.
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, length)| length.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Answer { status, headers, body })
}

/// The bytes of a POST of JSON.
pub fn post_bytes(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub fn post(server: &Server, path: &str, body: &Value) -> Answer {
    exchange(server.address(), &post_bytes(path, body.to_string().as_bytes()))
}

pub fn get(server: &Server, path: &str) -> Answer {
    exchange(server.address(), format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
}

/// The JSON of an answer that must be a success.
pub fn ask(server: &Server, path: &str, body: &Value) -> Value {
    let answer = post(server, path, body);
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
    answer.json()
}

/// A number of the metrics.
pub fn metric(server: &Server, name: &str) -> f64 {
    let text = get(server, "/metrics").text();
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.map_or(0.0, |line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
}

/// Waits until something is so; the test fails if it never is.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within 30 s");
}

/// Texts of a few words of the models' vocabularies, of several lengths.
pub fn texts(count: usize) -> Vec<String> {
    let word = |number: usize| format!("w{}", 5 + number % 40);
    (0..count)
        .map(|text| (0..1 + text % 9).map(|at| word(text * 7 + at * 11 + text / 40)).collect::<Vec<_>>().join(" "))
        .collect()
}
