//! `distilbert serve`: models behind HTTP.

use crate::answerer::Answerer;
use crate::classifier::Classifier;
use crate::console::{self, Console};
use crate::intent_model::IntentModel;
use crate::measure::resident_bytes;
use crate::model_source;
use crate::precision::{BOUND, PROBE_TEXTS, PrecisionArgs, difference_to_f32};
use crate::sentence_encoder::{HeadFlags, SentenceEncoder};
use crate::traces::Traces;
use anyhow::{Context, bail, ensure};
use clap::{ArgAction, Args, ValueEnum};
use distilbert::checkpoint::model_folder::read_config;
use distilbert::data::questions::AnsweringTask;
use distilbert::heads::masked_lm::LOGIT_CHUNK_ROWS;
use distilbert::model::HeadKind;
use distilbert::progress::Progress;
use distilbert::train::run::OPTIMIZER_FILE;
use distilbert_kernels::{Precision, Runtime};
use distilbert_serve::{
    Config, Cors, Drained, EngineLimits, Event, Keys, Load, Log, Parity, ServedModel, ServedTask, Server, Setup, Share,
    Tls, largest_text,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often Ctrl-C and SIGTERM are looked for.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Of a connection: its task, and what is read ahead and written.
const CONNECTION_BYTES: usize = 24 << 10;

/// With less than this for requests nothing of a useful size could be asked.
const LEAST_FOR_REQUESTS: usize = 32 << 20;

/// What estimates of requests may fill of the room for them; the rest is what the allocator keeps between.
const PERCENT_OF_REQUESTS: usize = 75;

/// Answer over HTTP: embeddings, labels, tags, masks, rankings, under the protocols of text-embeddings-inference,
/// OpenAI, the Hugging Face pipelines and the Open Inference Protocol; /docs lists them.
///
/// Requests of all clients are packed into batches without padding; the numbers are those of `predict`, bit for bit.
/// SIGTERM or Ctrl-C answers what was taken and ends.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A model, and what requests call it [default name: the last part of its own]; behind it the precision, if it is
    /// not --precision's, as in `small=runs/a/best,precision=int8`. May be given several times.
    #[arg(long = "model", value_name = "[NAME=]MODEL", required = true)]
    models: Vec<String>,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Listen on this address. Others than this machine's own reach a server on 0.0.0.0.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Listen on this port; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Load, replace and remove models on this port of this machine while others are served:
    /// GET, PUT and DELETE /models/NAME.
    #[arg(long, value_name = "PORT")]
    manage_port: Option<u16>,
    /// Answer only to the keys of this file (TOML: a [[key]] with `name` and `sha256` each, and quotas).
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Encrypt connections: PEM with the server's certificate and, behind it, those of its issuers. Read at the start.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let pages of this origin ask from a browser, such as https://example.org; `*` lets all. May be given several times.
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<String>,
    /// Tokens of a batch. More are computed a little faster, fewer keep short requests from waiting for long ones.
    #[arg(long, value_name = "TOKENS", default_value_t = defaults().engine.batch_tokens, value_parser = positive)]
    batch_tokens: usize,
    /// Tokens that may wait; requests past that are answered with 429. One client may fill half of it.
    #[arg(long, value_name = "TOKENS", default_value_t = defaults().engine.queue_tokens, value_parser = positive)]
    queue_tokens: usize,
    /// Memory that the process may take in bytes, or with K, M or G for 1024, 1024^2 or 1024^3: what requests need is estimated, and what does not fit waits or
    /// is refused. Without it only the queue and the bodies of requests are bounded.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_limit: Option<usize>,
    /// Connections open at once. Past that one without a request is closed for whoever comes, or else they wait.
    #[arg(long, value_name = "N", default_value_t = defaults().max_connections, value_parser = positive)]
    max_connections: usize,
    /// Texts of one request. A request larger than a batch is run in parts.
    #[arg(long, value_name = "N", default_value_t = defaults().max_texts, value_parser = positive)]
    max_texts: usize,
    /// Bytes of a request's body.
    #[arg(long, value_name = "BYTES", default_value_t = defaults().max_body_bytes, value_parser = positive)]
    max_body: usize,
    /// Whether texts that are too long are cut where a request does not say; else they are refused. What was cut is said
    /// in the response.
    #[arg(long, value_name = "BOOL", default_value_t = defaults().auto_truncate, action = ArgAction::Set)]
    auto_truncate: bool,
    /// Whether texts that are too long are read in windows instead, on routes that embed or classify single texts, where a
    /// request does not say.
    #[arg(long, value_name = "BOOL", default_value_t = defaults().windows, action = ArgAction::Set)]
    windows: bool,
    /// Seconds from a request to its answer; past that it is 504.
    #[arg(long, value_name = "SECONDS", default_value_t = defaults().deadline.as_secs(), value_parser = seconds())]
    timeout: u64,
    /// Seconds for a request's head, for its body, for the next request on a connection, and for a client to go on reading.
    #[arg(long, value_name = "SECONDS", default_value_t = defaults().io_timeout.as_secs(), value_parser = seconds())]
    io_timeout: u64,
    /// Seconds for a model that is loaded at --manage-port; past that it is 504, and up to four are loaded at once.
    #[arg(long, value_name = "SECONDS", default_value_t = defaults().load_timeout.as_secs(), value_parser = seconds())]
    load_timeout: u64,
    /// Seconds for which a server that is asked to end still takes requests while its readiness says 503, so that whoever
    /// sends them learns of that first; then it takes no more. An orchestrator's load balancer needs a few.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    drain_delay: u64,
    /// Seconds to answer what was taken when the server is asked to end.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
    /// What to say of each request on standard error; never its text.
    #[arg(long, value_enum, default_value_t)]
    log: LogFormat,
    /// Send a trace of each request to this OpenTelemetry collector: OTLP over HTTP as JSON, to ENDPOINT/v1/traces.
    #[arg(long, value_name = "ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// What traces call this server.
    #[arg(long, value_name = "NAME", default_value = "distilbert")]
    otlp_service_name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Nothing.
    None,
    /// A line for people.
    #[default]
    Text,
    /// A line of JSON; so is every other line, with `time` and `message`.
    Json,
}

fn defaults() -> Config {
    Config::new(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=0x7fff_ffff) => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// Bytes, or with K, M or G behind it thousands and so on of 1024 each.
fn size(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((last, 'K' | 'k')) => (&text[..last], 10),
        Some((last, 'M' | 'm')) => (&text[..last], 20),
        Some((last, 'G' | 'g')) => (&text[..last], 30),
        _ => (text, 0),
    };
    let bytes =
        digits.parse::<usize>().ok().filter(|&number| number > 0).and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "expected a number of bytes, with K, M or G behind it or without".to_owned())
}

fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=86_400)
}

/// Serves until it is asked to end.
///
/// # Errors
/// If a model cannot be loaded or the address cannot be listened on.
pub fn run(args: &ServeArgs, rt: Runtime, console: Console) -> anyhow::Result<()> {
    // Models are loaded by threads that nobody waits for at the end: a source may never answer.
    let console: &'static Console = Box::leak(Box::new(console));
    if args.log == LogFormat::Json {
        console::write_json();
    }
    let rt = Arc::new(rt);
    let keys = args.keys.as_deref().map(read_keys).transpose()?;
    let tls = args.tls_cert.as_deref().zip(args.tls_key.as_deref());
    let tls = tls.map(|(certificates, key)| read_tls(certificates, key)).transpose()?;
    let cors = (!args.cors_origins.is_empty()).then(|| Cors::new(&args.cors_origins)).transpose();
    let cors = cors.context("--cors-origin")?;
    let traces = args.otlp_endpoint.as_deref().map(|endpoint| Traces::start(endpoint, &args.otlp_service_name));
    let traces = traces.transpose()?.map(Arc::new);
    let mut wanted: Vec<(String, String, PrecisionArgs)> = Vec::new();
    for model in &args.models {
        let (model, precision) = match model.rsplit_once(",precision=") {
            Some((model, precision)) => (model, PrecisionArgs::of_name(precision)?),
            None => (model.as_str(), args.precision),
        };
        let (name, source) = name_and_source(model)?;
        if let Some((_, other, _)) = wanted.iter().find(|(other, ..)| *other == name) {
            bail!("--model: `{other}` and `{source}` are both called `{name}`; name them with NAME=MODEL");
        }
        wanted.push((name, source.to_owned(), precision));
    }
    let address = SocketAddr::new(args.host, args.port);
    let manage = args.manage_port.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    // Before the models are loaded, which may take long; the server says so too where a port is taken meanwhile.
    for address in manage.into_iter().chain([address]) {
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    }
    let Some(models) = load_all(wanted, &rt, console)? else { return Ok(()) };
    for ServedModel { name, source, model, task, max_length, .. } in &models {
        let task = match task {
            ServedTask::Classify { .. } => "classifies",
            ServedTask::Tag { .. } => "tags",
            ServedTask::Intents { .. } => "understands intents and slots",
            ServedTask::FillMask => "fills masks",
            ServedTask::Answer { .. } => "answers questions",
            ServedTask::Embed { .. } => "embeds",
        };
        console.say(&format!("{name}: {source}, {task}, {}, at most {max_length} tokens", model.precision()));
    }
    let memory = args.memory_limit.map(|limit| left_for_requests(limit, &models, args, console)).transpose()?;
    let config = Config {
        address,
        manage,
        engine: EngineLimits { batch_tokens: args.batch_tokens, queue_tokens: args.queue_tokens },
        memory,
        max_connections: args.max_connections,
        max_texts: args.max_texts,
        max_body_bytes: args.max_body,
        auto_truncate: args.auto_truncate,
        windows: args.windows,
        cors,
        deadline: Duration::from_secs(args.timeout),
        io_timeout: Duration::from_secs(args.io_timeout),
        load_timeout: Duration::from_secs(args.load_timeout),
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let log = log(args.log, traces.clone());
    let server = Server::start(Setup { config, models, rt: Arc::clone(&rt), keys, tls, log })?;
    if let Some(address) = server.management_address() {
        console.say(&format!("managing models on http://{address}"));
    }
    console.say(&format!("listening on {scheme}://{}", server.address()));
    while !console.stop_requested() {
        let Some(wish) = server.next_load(STOP_POLL) else { continue };
        let (rt, otherwise) = (Arc::clone(&rt), args.precision);
        // A wish that falls is answered as a failure.
        let begun = in_thread(move || {
            let precision = wish.precision.as_deref().map_or(Ok(otherwise), PrecisionArgs::of_name);
            let model = precision.and_then(|precision| load_wished(&wish, precision, &rt, console));
            wish.done(model.map_err(|error| format!("{error:#}")));
        });
        begun.unwrap_or_else(|error| console.warn(&format!("{error:#}")));
    }
    let drained = server.drain(Duration::from_secs(args.drain_delay), Duration::from_secs(args.drain));
    traces.inspect(|traces| traces.end());
    match drained {
        Drained::Whole => Ok(()),
        Drained::InPart => bail!("stopped with requests unanswered after {} s", args.drain),
    }
}

/// The models that the server starts with; `None` if it is asked to end before they are there.
fn load_all(
    wanted: Vec<(String, String, PrecisionArgs)>,
    rt: &Arc<Runtime>,
    console: &'static Console,
) -> anyhow::Result<Option<Vec<ServedModel>>> {
    let (send, loaded) = channel();
    let rt = Arc::clone(rt);
    in_thread(move || {
        let load = |(name, source, precision): (String, String, PrecisionArgs)| {
            load(name, &source, precision, &rt, console).with_context(|| format!("model `{source}`"))
        };
        // Nobody receives them only when the process ends.
        let _ = send.send(wanted.into_iter().map(load).collect::<anyhow::Result<Vec<_>>>());
    })?;
    loop {
        match loaded.recv_timeout(STOP_POLL) {
            Ok(models) => return models.map(Some),
            Err(RecvTimeoutError::Disconnected) => bail!("the models could not be loaded"),
            Err(RecvTimeoutError::Timeout) if console.stop_requested() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Loads beside the thread that looks for the wish to stop.
fn in_thread(work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new().name("load".into()).spawn(work).context("cannot start a thread")?;
    Ok(())
}

/// A load of which whoever wished for it may want no more.
struct Wished<'a> {
    console: &'a Console,
    wish: &'a Load,
}

impl Progress for Wished<'_> {
    fn begin(&self, what: &str, total: Option<u64>, unit: &'static str) {
        self.console.begin(what, total, unit);
    }

    fn advance(&self, done: u64) {
        self.console.advance(done);
    }

    fn note(&self, note: &str) {
        self.console.note(note);
    }

    fn warn(&self, warning: &str) {
        self.console.warn(warning);
    }

    fn end(&self) {
        self.console.end();
    }

    fn stop_requested(&self) -> bool {
        self.console.stop_requested() || !self.wish.is_wanted()
    }
}

/// What of a limit is left for requests when the models are there; says so, as a warning where it is little.
fn left_for_requests(
    limit: usize,
    models: &[ServedModel],
    args: &ServeArgs,
    console: &Console,
) -> anyhow::Result<usize> {
    let resident = resident_bytes().context("--memory-limit: this system does not say how much memory is in use")?;
    let buffers: usize = models.iter().map(|model| batch_bytes(model, args.batch_tokens)).max().unwrap_or(0);
    let connections = args.max_connections * CONNECTION_BYTES;
    let fixed = resident as usize + buffers + connections;
    let least = fixed + LEAST_FOR_REQUESTS;
    let mb = |bytes: usize| bytes.div_ceil(1 << 20);
    ensure!(
        limit >= least,
        "--memory-limit: expected at least {} MB (models {}, a batch {}, --max-connections {}, requests {}), found {}",
        mb(least),
        mb(resident as usize),
        mb(buffers),
        mb(connections),
        mb(LEAST_FOR_REQUESTS),
        mb(limit)
    );
    let left = (limit - fixed) / 100 * PERCENT_OF_REQUESTS;
    let largest = largest_text(left);
    let said = format!(
        "--memory-limit {} MB: {} MB for requests beside models {}, a batch {} and --max-connections {}; a text of at most {} KB",
        mb(limit),
        mb(left),
        mb(resident as usize),
        mb(buffers),
        mb(connections),
        largest >> 10
    );
    if largest < args.max_body / 4 {
        console.warn(&said)
    } else {
        console.say(&said)
    }
    Ok(left)
}

/// Bytes of the buffers that the longest batch of a model leaves behind.
fn batch_bytes(model: &ServedModel, batch_tokens: usize) -> usize {
    let encoder = &model.model.config.encoder;
    let passes = match model.task {
        // Vectors, and states of all tokens.
        ServedTask::Embed { .. } => 2,
        _ => 1,
    };
    let numbers_per_token = 16 * encoder.hidden + 2 * encoder.ffn;
    let logits = if matches!(model.task, ServedTask::FillMask) { LOGIT_CHUNK_ROWS * encoder.vocab_size } else { 0 };
    size_of::<f32>() * (passes * batch_tokens.max(model.max_length) * numbers_per_token + logits)
}

/// Loads a model that is wished for while others are served, if there is memory for it.
fn load_wished(wish: &Load, precision: PrecisionArgs, rt: &Runtime, console: &Console) -> anyhow::Result<ServedModel> {
    let folder = model_source::resolve(&wish.source, &Wished { console, wish })?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        // A run's checkpoint has its optimiser's memory beside the model, which nobody loads.
        if path.file_name().is_some_and(|name| name == OPTIMIZER_FILE) {
            continue;
        }
        // Symbolic links are followed: a hub's cache is made of them.
        bytes += std::fs::metadata(path)?.len() as usize;
    }
    // While it is loaded the file is in memory beside the model.
    let mut share = wish.reserve(2 * bytes).map_err(anyhow::Error::msg)?;
    let _loading = share.split(bytes);
    let model = load(wish.name.clone(), &wish.source, precision, rt, console)?;
    Ok(ServedModel { share, ..model })
}

fn read_keys(path: &Path) -> anyhow::Result<Keys> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Keys::parse(&text).with_context(|| path.display().to_string())
}

fn read_tls(certificates: &Path, key: &Path) -> anyhow::Result<Tls> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let of = || format!("{} and {}", certificates.display(), key.display());
    Tls::from_pem(&read(certificates)?, &read(key)?).with_context(of)
}

/// `NAME=MODEL`, or a model whose name is the last part of its own.
fn name_and_source(argument: &str) -> anyhow::Result<(String, &str)> {
    // A package may be named with its version: `pip:NAME==1.0`.
    let (name, source) = match argument.split_once('=').filter(|_| !argument.starts_with("pip:")) {
        Some((name, source)) => (name.to_owned(), source),
        None => {
            let plain = argument.strip_prefix("pip:").unwrap_or(argument);
            let plain = plain.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let plain = plain.split(['@', '=']).next().unwrap_or_default();
            (plain.to_owned(), argument)
        }
    };
    ensure!(!name.is_empty() && !source.is_empty(), "--model: expected NAME=MODEL, found {argument:?}");
    ServedModel::check_name(&name)?;
    Ok((name, source))
}

/// Loads a model for what its head says that it is for.
fn load(
    name: String,
    source: &str,
    precision: PrecisionArgs,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<ServedModel> {
    let folder = model_source::resolve(source, console)?;
    let (model, tokenizer, task, max_length) = match read_config(&folder)?.head {
        HeadKind::Classification { .. } | HeadKind::TokenClassification { .. } => {
            let classifier = Classifier::load_in(precision, source, rt, console)?;
            let max_length = classifier.max_length(None, classifier.model.config.encoder.max_positions)?;
            let Classifier { model, tokenizer, saved, problem, labels, temperature } = classifier;
            let task = if problem.is_of_words() {
                ServedTask::Tag { labels, temperature }
            } else {
                ServedTask::Classify { problem, labels, temperature, trained_on: saved.map(|saved| saved.task.kind) }
            };
            (model, tokenizer, task, max_length)
        }
        HeadKind::MaskedLm => {
            let (model, tokenizer) = precision.load(source, &folder, rt, console)?;
            let max_length = model.config.encoder.max_positions;
            (model, tokenizer, ServedTask::FillMask, max_length)
        }
        HeadKind::IntentsAndSlots { .. } => {
            let understanding = IntentModel::load(precision, source, rt, console)?;
            let max_length = understanding.max_length(None)?;
            let IntentModel { model, tokenizer, intents, slots, temperature, .. } = understanding;
            (model, tokenizer, ServedTask::Intents { intents, slots, temperature }, max_length)
        }
        HeadKind::QuestionAnswering => {
            let answerer = Answerer::load(precision, source, rt, console)?;
            let windows = answerer.windows(None, None)?;
            let Answerer { model, tokenizer, saved } = answerer;
            let null_threshold = saved.as_ref().and_then(AnsweringTask::null_threshold);
            (model, tokenizer, ServedTask::Answer { windows, null_threshold }, windows.max_length)
        }
        HeadKind::Embedding(_) | HeadKind::None => {
            // Requests say whether vectors are scaled.
            let flags = HeadFlags { normalize: Some(false), precision: precision.by_name(), ..HeadFlags::default() };
            let SentenceEncoder { model, tokenizer, settings, max_length } =
                SentenceEncoder::load(source, flags, None, rt, console)?;
            let model = precision.settle(model, &folder, &tokenizer, rt, console)?;
            (model, tokenizer, ServedTask::Embed { settings }, max_length)
        }
    };
    let difference = difference_to_f32(&model, &folder, &tokenizer, rt)?;
    if let Some(difference) = difference.filter(|&difference| difference > BOUND) {
        console.warn(&format!(
            "{name}: outputs in {} are up to {:.1} % off those in f32, more than the {:.0} % that `auto` accepts",
            model.precision(),
            100.0 * difference,
            100.0 * BOUND
        ));
    }
    // A model in f32 is the reference itself: nothing is run.
    let texts = if model.precision() == Precision::F32 { 0 } else { PROBE_TEXTS };
    let parity = difference.map(|difference| Parity { largest_relative_difference: difference, texts });
    let share = Share::default();
    Ok(ServedModel { name, source: source.to_owned(), model, tokenizer, task, max_length, parity, share })
}

/// What becomes of a request's event.
fn log(format: LogFormat, traces: Option<Arc<Traces>>) -> Log {
    let write = line_of(format);
    Box::new(move |event| {
        if let Some(traces) = traces.as_ref().filter(|_| !event.is_probe()) {
            traces.add(event);
        }
        write(event);
    })
}

fn line_of(format: LogFormat) -> Log {
    match format {
        LogFormat::None => Box::new(|_| {}),
        LogFormat::Json => Box::new(|event| {
            // An event is plain data; what cannot be written is no reason to end a request.
            if let Ok(line) = serde_json::to_string(event) {
                console::line_as_is(&line);
            }
        }),
        LogFormat::Text => Box::new(|event| {
            let Event { request_id, client, method, route, inputs, tokens, total_ms, .. } = event;
            let status = event.status.unwrap_or_default();
            let key = event.key.as_ref().map_or(String::new(), |key| format!(" ({key})"));
            let mut line = format!("{client}{key} {method} {route} {status} {total_ms:.1} ms, {request_id}");
            if !event.model.is_empty() {
                line += &format!(", {}", event.model);
            }
            if tokens > &0 {
                line += &format!(": {inputs} inputs, {tokens} tokens");
            }
            if event.truncated_tokens > 0 {
                line += &format!(", {} cut off", event.truncated_tokens);
            }
            if let Some(error) = &event.error_type {
                line += &format!(", {error}");
            }
            console::line(&line);
        }),
    }
}
