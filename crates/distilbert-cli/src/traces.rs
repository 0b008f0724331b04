//! Traces of served requests, sent to an OpenTelemetry collector: OTLP over HTTP, as JSON.

use crate::console;
use anyhow::{Context, ensure};
use distilbert::random::mix_key;
use distilbert_serve::Event;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Requests that wait to be sent; more are dropped and counted, since a collector that is slow must slow nothing.
const WAITING: usize = 4096;

/// Requests sent at once, and how long the first of them waits for more.
const BATCH: usize = 256;
const BATCH_TIME: Duration = Duration::from_secs(2);

/// For a collector to answer.
const SEND_TIME: Duration = Duration::from_secs(10);

/// Sends traces from a thread of its own.
pub struct Traces {
    /// `None` when no more come.
    events: Mutex<Option<SyncSender<Event>>>,
    dropped: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Traces {
    /// Sends to `ENDPOINT/v1/traces` as `service`.
    ///
    /// # Errors
    /// If the endpoint is no address of HTTP, or the system refuses a thread.
    pub fn start(endpoint: &str, service: &str) -> anyhow::Result<Traces> {
        ensure!(
            endpoint.starts_with("http://") || endpoint.starts_with("https://"),
            "--otlp-endpoint: expected an address such as http://localhost:4318, found {endpoint:?}"
        );
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let (sender, receiver) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let sending = Sending { url, service: service.to_owned(), dropped: Arc::clone(&dropped) };
        let thread = std::thread::Builder::new().name("traces".into()).spawn(move || sending.run(&receiver));
        let thread = thread.context("cannot start a thread")?;
        Ok(Traces { events: Mutex::new(Some(sender)), dropped, thread: Mutex::new(Some(thread)) })
    }

    /// Takes a request that has ended, unless who asked does not record its trace.
    pub fn add(&self, event: &Event) {
        if event.trace.as_ref().is_some_and(|trace| !trace.sampled) {
            return;
        }
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.as_ref().is_some_and(|events| events.try_send(event.clone()).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends what waits.
    pub fn end(&self) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It does not panic; if it did, there would be nothing left to send.
            let _ = thread.join();
        }
    }
}

struct Sending {
    url: String,
    service: String,
    dropped: Arc<AtomicU64>,
}

impl Sending {
    fn run(&self, events: &Receiver<Event>) {
        let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build();
        let config = ureq::Agent::config_builder().tls_config(tls).timeout_global(Some(SEND_TIME)).build();
        let agent = ureq::Agent::new_with_config(config);
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let mut ids = Ids { seed: mix_key(&[seed, u64::from(std::process::id())]), next: 0 };
        let mut failing = false;
        while let Ok(first) = events.recv() {
            let mut batch = vec![first];
            let until = Instant::now() + BATCH_TIME;
            while batch.len() < BATCH {
                match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(event) => batch.push(event),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
            let spans: Vec<Value> = batch.iter().flat_map(|event| spans(event, &mut ids)).collect();
            let body = body(&self.service, spans).to_string();
            let sent = agent.post(&self.url).header("Content-Type", "application/json").send(body);
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            match sent {
                Ok(_) => failing = false,
                // Once, until it works again.
                Err(error) if !failing => {
                    console::line(&format!("warning: traces cannot be sent to {}: {error}", self.url));
                    failing = true;
                }
                Err(_) => {}
            }
            if dropped > 0 {
                console::line(&format!("warning: {dropped} traces dropped: the collector is too slow"));
            }
        }
    }
}

/// Names for traces and spans that are not given out twice.
struct Ids {
    seed: u64,
    next: u64,
}

impl Ids {
    fn span(&mut self) -> String {
        self.next += 1;
        format!("{:016x}", mix_key(&[self.seed, self.next]).max(1))
    }
}

/// A span for the request, and in it one for each part of its way.
fn spans(event: &Event, ids: &mut Ids) -> Vec<Value> {
    let (trace, parent) = match &event.trace {
        Some(trace) => (trace.trace_id.clone(), trace.parent_span_id.clone()),
        None => (ids.span() + &ids.span(), String::new()),
    };
    let at = |ms: f64| ((event.time * 1e9) + ms * 1e6) as u64;
    let span = |id: &str, parent: &str, name: String, kind: u8, from: f64, to: f64| {
        json!({
            "traceId": trace, "spanId": id, "parentSpanId": parent, "name": name, "kind": kind,
            "startTimeUnixNano": at(from).to_string(), "endTimeUnixNano": at(to.max(from)).to_string(),
        })
    };
    let own = ids.span();
    // Kinds of OTLP: a server's span is 2, one within it 1.
    let mut request = span(&own, &parent, format!("{} {}", event.method, event.route), 2, 0.0, event.total_ms);
    let status = event.status.unwrap_or_default();
    let mut attributes = vec![
        text("http.request.method", &event.method),
        text("http.route", event.route),
        number("http.response.status_code", usize::from(status)),
        text("client.address", &event.client.to_string()),
        text("distilbert.request_id", &event.request_id),
        number("distilbert.inputs", event.inputs),
        number("distilbert.tokens", event.tokens),
        number("distilbert.truncated_tokens", event.truncated_tokens),
        json!({"key": "distilbert.queue_ms", "value": {"doubleValue": event.queue_ms}}),
        json!({"key": "distilbert.inference_ms", "value": {"doubleValue": event.inference_ms}}),
    ];
    attributes.extend((!event.model.is_empty()).then(|| text("distilbert.model", &event.model)));
    attributes.extend(event.key.as_ref().map(|key| text("distilbert.key", key)));
    attributes.extend(event.error_type.as_ref().map(|error| text("error.type", error)));
    request["attributes"] = Value::Array(attributes);
    if status >= 500 {
        request["status"] = json!({"code": 2});
    }
    let mut all = vec![request];
    let mut from = 0.0;
    for (name, ms) in [
        ("read", event.read_ms),
        ("tokenization", event.tokenization_ms),
        ("queue", event.queue_ms),
        ("inference", event.inference_ms),
    ] {
        if ms > 0.0 {
            all.push(span(&ids.span(), &own, name.to_owned(), 1, from, from + ms));
            from += ms;
        }
    }
    all
}

fn body(service: &str, spans: Vec<Value>) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let resource = json!({"attributes": [text("service.name", service), text("service.version", version)]});
    let scope = json!({"name": "distilbert", "version": version});
    json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]})
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Whole numbers are texts in OTLP's JSON.
fn number(key: &str, value: usize) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}
