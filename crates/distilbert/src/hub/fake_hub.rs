//! A hub on loopback that can be told to misbehave.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    /// First byte wanted, by the `Range` header.
    pub from_byte: Option<usize>,
}

impl Request {
    pub fn is_get(&self, path_end: &str) -> bool {
        self.method == "GET" && self.path.ends_with(path_end)
    }
}

/// What it gets.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body sent before the connection breaks off.
    pub cut: usize,
    /// `Content-Length`, true unless a test lies.
    pub declared: usize,
}

impl Reply {
    pub fn new(status: u16, body: &[u8]) -> Self {
        Self { status, headers: vec![], body: body.to_vec(), cut: body.len(), declared: body.len() }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A running server and what it was asked so far.
pub struct FakeHub {
    pub endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl FakeHub {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(vec![]));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read_request(&stream) else { continue };
                log.lock().unwrap().push(request.clone());
                // The client may hang up on a lie; that is its right.
                let _ = write_reply(&mut stream, &request, &answer(&request));
            }
        });
        Self { endpoint, requests }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How often the body of this file was asked for.
    pub fn gets(&self, path_end: &str) -> usize {
        self.requests().iter().filter(|request| request.is_get(path_end)).count()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request { method, path, authorization: None, from_byte: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = Some(value.to_owned()),
            "range" => request.from_byte = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
            _ => {}
        }
    }
    Some(request)
}

fn write_reply(stream: &mut TcpStream, request: &Request, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "Content-Length: {}\r\n\r\n", reply.declared);
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.min(reply.body.len())])?;
    }
    stream.flush()
}

/// The well-behaved hub, with one model `owner/name`.
#[derive(Clone)]
pub struct Model {
    /// Name, content, and whether it is a large file.
    pub files: Vec<(&'static str, Vec<u8>, bool)>,
}

impl Model {
    /// A model whose weights are 100 000 bytes.
    pub fn new() -> Self {
        let weights = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        Self {
            files: vec![
                ("config.json", br#"{"model_type":"bert"}"#.to_vec(), false),
                ("1_Pooling/config.json", b"{}".to_vec(), false),
                ("vocab.txt", b"[PAD]\n".to_vec(), false),
                ("model.safetensors", weights, true),
                ("pytorch_model.bin", b"never asked for".to_vec(), true),
            ],
        }
    }

    pub fn content(&self, name: &str) -> &[u8] {
        self.files.iter().find(|file| file.0 == name).map(|file| file.1.as_slice()).unwrap()
    }

    pub fn answer(&self, request: &Request) -> Reply {
        if request.path == "/api/models/owner/name/revision/main" {
            return self.info(COMMIT);
        }
        let file = request.path.strip_prefix(&format!("/owner/name/resolve/{COMMIT}/"));
        let Some((_, content, large)) = self.files.iter().find(|(name, ..)| Some(*name) == file) else {
            return Reply::new(404, b"");
        };
        let reply = match request.from_byte {
            None => Reply::new(200, content),
            Some(from) => Reply::new(206, &content[from..])
                .header("Content-Range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
        };
        let reply = reply.header("X-Repo-Commit", COMMIT);
        if *large {
            reply
                .header("X-Linked-ETag", format!("\"{}\"", sha256(content)))
                .header("X-Linked-Size", content.len().to_string())
        } else {
            // Git's identifier; any plain name will do here.
            reply.header("ETag", format!("W/\"{}\"", &sha256(content)[..40]))
        }
    }

    pub fn info(&self, commit: &str) -> Reply {
        let siblings: Vec<_> = self.files.iter().map(|(name, ..)| serde_json::json!({ "rfilename": name })).collect();
        let info = serde_json::json!({ "sha": commit, "siblings": siblings, "private": false });
        Reply::new(200, info.to_string().as_bytes())
    }
}

pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
