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
    durations: Durations,
    embedded: OfInputs,
    predicted: OfInputs,
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

/// Seconds of requests.
struct Durations {
    total: Histogram,
    tokenization: Histogram,
    queue: Histogram,
    inference: Histogram,
}

impl Durations {
    fn observe(&self, times: &Times) {
        self.total.observe(times.total.as_secs_f64());
        self.tokenization.observe(times.tokenization.as_secs_f64());
        self.queue.observe(times.queue.as_secs_f64());
        self.inference.observe(times.inference.as_secs_f64());
    }
}

/// Of inputs that one thing is done to.
struct OfInputs {
    count: IntCounter,
    successes: IntCounter,
    /// Of their requests.
    durations: Durations,
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
        let durations = |prefix: &str, of: &str| -> prometheus::Result<Durations> {
            let seconds_of = |name: &str, what: &str| {
                histogram(&format!("{prefix}_{name}"), &format!("Seconds {what} {of}."), seconds()?)
            };
            Ok(Durations {
                total: seconds_of("duration", "from request to answer,")?,
                tokenization: seconds_of("tokenization_duration", "of parsing,")?,
                queue: seconds_of("queue_duration", "in the queue,")?,
                inference: seconds_of("inference_duration", "of the batches,")?,
            })
        };
        let of_inputs = |prefix: &str, to_do: &str, done: &str| -> prometheus::Result<OfInputs> {
            Ok(OfInputs {
                count: counter(&format!("{prefix}_count"), &format!("{to_do}."))?,
                successes: counter(&format!("{prefix}_success"), &format!("{done}."))?,
                durations: durations(prefix, &format!("of requests with {}", to_do.to_lowercase()))?,
            })
        };
        Ok(Metrics {
            requests: counters("te_request_count", "Requests with one input or several.", &["method"])?,
            successes: counters("te_request_success", "Requests that were answered.", &["method"])?,
            failures: counters("te_request_failure", "Requests that failed, by reason.", &["err"])?,
            durations: durations("te_request", "of all requests")?,
            embedded: of_inputs("te_embed", "Texts to embed", "Texts embedded")?,
            predicted: of_inputs("te_predict", "Texts or pairs to classify", "Texts or pairs classified")?,
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
        self.of(done).count.inc_by(inputs as u64);
    }

    fn of(&self, done: Done) -> &OfInputs {
        match done {
            Done::Embedded => &self.embedded,
            Done::Predicted => &self.predicted,
        }
    }

    /// The same request, answered; `lengths` are the tokens of its sequences.
    pub fn answered(&self, done: Done, inputs: usize, times: &Times, lengths: &[usize], truncated: usize) {
        self.successes.with_label_values(&[method(inputs)]).inc();
        let of = self.of(done);
        of.successes.inc_by(inputs as u64);
        of.durations.observe(times);
        self.durations.observe(times);
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
