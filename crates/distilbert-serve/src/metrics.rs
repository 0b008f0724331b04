//! What happens, counted for Prometheus: text-embeddings-inference's names where it has them.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, exponential_buckets,
};
use std::time::Duration;

/// Counters, gauges and histograms of one server.
pub struct Metrics {
    registry: Registry,
    /// Requests with one input or several, by `method`.
    requests: IntCounterVec,
    successes: IntCounterVec,
    failures: IntCounterVec,
    embed_requests: IntCounter,
    embed_successes: IntCounter,
    predict_requests: IntCounter,
    predict_successes: IntCounter,
    request_duration: Histogram,
    tokenization_duration: Histogram,
    queue_duration: Histogram,
    inference_duration: Histogram,
    input_length: Histogram,
    batch_size: Histogram,
    batch_tokens: Histogram,
    /// Requests that wait or run.
    pub queue_size: IntGauge,
    responses: IntCounterVec,
    tokens: IntCounter,
    truncated_tokens: IntCounter,
    /// Open connections.
    pub connections: IntGauge,
}

/// What was done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Vectors were made.
    Embedded,
    /// Labels, tags or words were given.
    Predicted,
}

/// Times of a request that was answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// From its first byte to its answer.
    pub total: Duration,
    /// Until its body was there.
    pub read: Duration,
    /// Reading its JSON and making tokens.
    pub tokenization: Duration,
    /// Waiting for the first batch.
    pub queue: Duration,
    /// The batches that it was part of.
    pub inference: Duration,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// If two have one name, which would be a mistake here.
    pub fn new() -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| -> prometheus::Result<Histogram> {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        // From 15 microseconds to a quarter of a minute, as text-embeddings-inference has them.
        let seconds = || exponential_buckets(15e-6, 1.5, 35);
        let powers = || exponential_buckets(1.0, 2.0, 18);
        Ok(Metrics {
            requests: counters("te_request_count", "Requests with one input or several.", &["method"])?,
            successes: counters("te_request_success", "Requests that were answered.", &["method"])?,
            failures: counters("te_request_failure", "Requests that failed, by reason.", &["err"])?,
            embed_requests: counter("te_embed_count", "Texts to embed.")?,
            embed_successes: counter("te_embed_success", "Texts embedded.")?,
            predict_requests: counter("te_predict_count", "Texts or pairs to classify.")?,
            predict_successes: counter("te_predict_success", "Texts or pairs classified.")?,
            request_duration: histogram("te_request_duration", "Seconds from request to answer.", seconds()?)?,
            tokenization_duration: histogram("te_request_tokenization_duration", "Seconds of parsing.", seconds()?)?,
            queue_duration: histogram("te_request_queue_duration", "Seconds in the queue.", seconds()?)?,
            inference_duration: histogram("te_request_inference_duration", "Seconds of its batches.", seconds()?)?,
            input_length: histogram("te_request_input_length", "Tokens of a sequence.", powers()?)?,
            batch_size: histogram("te_batch_next_size", "Sequences of a batch.", powers()?)?,
            batch_tokens: histogram("te_batch_next_tokens", "Tokens of a batch.", powers()?)?,
            queue_size: gauge("te_queue_size", "Requests that wait or run.")?,
            responses: counters("distilbert_responses", "Responses by route and status.", &["route", "status"])?,
            tokens: counter("distilbert_tokens", "Tokens read by models.")?,
            truncated_tokens: counter("distilbert_truncated_tokens", "Tokens cut off to fit.")?,
            connections: gauge("distilbert_connections", "Open connections.")?,
            registry,
        })
    }

    /// A request that was understood, with this many inputs.
    pub fn asked(&self, done: Done, inputs: usize) {
        self.requests.with_label_values(&[method(inputs)]).inc();
        match done {
            Done::Embedded => self.embed_requests.inc_by(inputs as u64),
            Done::Predicted => self.predict_requests.inc_by(inputs as u64),
        }
    }

    /// The same request, answered; `lengths` are the tokens of its sequences.
    pub fn answered(&self, done: Done, inputs: usize, times: &Times, lengths: &[usize], truncated: usize) {
        self.successes.with_label_values(&[method(inputs)]).inc();
        match done {
            Done::Embedded => self.embed_successes.inc_by(inputs as u64),
            Done::Predicted => self.predict_successes.inc_by(inputs as u64),
        }
        self.request_duration.observe(times.total.as_secs_f64());
        self.tokenization_duration.observe(times.tokenization.as_secs_f64());
        self.queue_duration.observe(times.queue.as_secs_f64());
        self.inference_duration.observe(times.inference.as_secs_f64());
        for &length in lengths {
            self.input_length.observe(length as f64);
        }
        self.tokens.inc_by(lengths.iter().sum::<usize>() as u64);
        self.truncated_tokens.inc_by(truncated as u64);
    }

    /// A request that failed, for a reason of text-embeddings-inference's.
    pub fn failed(&self, reason: &str) {
        self.failures.with_label_values(&[reason]).inc();
    }

    /// A response of any kind.
    pub fn responded(&self, route: &str, status: u16) {
        self.responses.with_label_values(&[route, &status.to_string()]).inc();
    }

    /// A batch that was run.
    pub fn batch(&self, sequences: usize, tokens: usize) {
        self.batch_size.observe(sequences as f64);
        self.batch_tokens.observe(tokens as f64);
    }

    /// All of it in Prometheus' text format.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

fn method(inputs: usize) -> &'static str {
    if inputs == 1 { "single" } else { "batch" }
}
