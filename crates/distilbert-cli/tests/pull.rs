//! `distilbert pull` over HTTPS, from a hub on loopback whose certificate no public authority has signed: trust is given
//! as users give it, by `SSL_CERT_FILE`. What else a hub may do is tested in the library, over HTTP.

mod common;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONFIG: &str = r#"{"model_type":"bert"}"#;
const WEIGHTS: &str = "not looked into";

/// A hub with the model `owner/name`, and how many connections were made to it.
struct Hub {
    endpoint: String,
    connections: Arc<AtomicUsize>,
}

impl Hub {
    fn start() -> Hub {
        let certificate = CertificateDer::from_pem_file(tls("server.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(tls("server-key.pem")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a key that fits its certificate");
        let server = Arc::new(server);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("https://{}", listener.local_addr().expect("its address"));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let connection = rustls::ServerConnection::new(Arc::clone(&server)).expect("a connection");
                // A client that refuses the certificate hangs up.
                let _ = answer(rustls::StreamOwned::new(connection, stream.expect("a client")));
            }
        });
        Hub { endpoint, connections }
    }

    /// Pulls the model into the cache in `home`, trusting whom `authorities` names.
    fn pull(&self, home: &Path, authorities: &Path) -> Output {
        let mut program = common::program(&["pull", "owner/name"]);
        for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_DIR", "HF_HUB_CACHE"] {
            program.env_remove(variable);
        }
        program.env("HF_ENDPOINT", &self.endpoint).env("HF_HOME", home).env("SSL_CERT_FILE", authorities);
        program.output().expect("an end")
    }
}

/// One request and its answer.
fn answer(mut stream: rustls::StreamOwned<rustls::ServerConnection, TcpStream>) -> std::io::Result<()> {
    let mut lines = BufReader::new(&mut stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let info = format!(
        r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"model.safetensors"}}]}}"#
    );
    let body = match path.rsplit('/').next() {
        Some("main") => info.as_str(),
        Some("config.json") => CONFIG,
        _ => WEIGHTS,
    };
    let etag = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Repo-Commit: {COMMIT}\r\nETag: \"{etag}\"\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )?;
    if !first.starts_with("HEAD") {
        stream.write_all(body.as_bytes())?;
    }
    stream.conn.send_close_notify();
    stream.flush()
}

fn tls(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(file)
}

#[test]
#[cfg(all(unix, not(target_vendor = "apple")))] // Elsewhere the system's store is asked, and no variable.
fn a_hub_whose_authority_is_trusted_gives_its_model() {
    let hub = Hub::start();
    let home = tempfile::tempdir().expect("a folder");
    let output = hub.pull(home.path(), &tls("authority.pem"));
    let folder = PathBuf::from(common::stdout(&output).trim());
    assert_eq!(std::fs::read_to_string(folder.join("config.json")).expect("a file"), CONFIG);
    assert_eq!(std::fs::read_to_string(folder.join("model.safetensors")).expect("a file"), WEIGHTS);
}

#[test]
#[cfg(all(unix, not(target_vendor = "apple")))]
fn a_refused_certificate_is_told_at_once() {
    let hub = Hub::start();
    let home = tempfile::tempdir().expect("a folder");
    // Trusts one certificate, which has not signed the hub's.
    let output = hub.pull(home.path(), &tls("server.pem"));
    let error = common::error(&output);
    assert!(error.contains(&format!("{}/api/models/owner/name", hub.endpoint)), "{error}");
    assert!(error.contains("no secure connection") && error.contains("SSL_CERT_FILE"), "{error}");
    assert_eq!(hub.connections.load(Ordering::SeqCst), 1, "asking again changes nothing");
    assert!(!home.path().join("hub/models--owner--name/refs").exists());
}
