//! `distilbert serve`: models behind HTTP.

use crate::classifier::Classifier;
use crate::console::Console;
use crate::model_source;
use crate::precision::PrecisionArgs;
use crate::sentence_encoder::{HeadFlags, SentenceEncoder};
use anyhow::{Context, bail, ensure};
use clap::{ArgAction, Args, ValueEnum};
use distilbert::checkpoint::model_folder::read_config;
use distilbert::model::HeadKind;
use distilbert::progress::Progress;
use distilbert_kernels::Runtime;
use distilbert_serve::{Config, Drained, EngineLimits, Event, Log, ServedModel, ServedTask, Server};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

/// How often Ctrl-C and SIGTERM are looked for.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Answer over HTTP: embeddings, labels, tags, masks, rankings, under the protocols of text-embeddings-inference, OpenAI
/// and the Hugging Face pipelines.
///
/// Requests of all clients are packed into batches without padding; the numbers are those of `predict`, bit for bit.
/// SIGTERM or Ctrl-C answers what was taken and ends.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A model, and what requests call it [default name: the last part of its own]. May be given several times.
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
    /// Tokens of a batch. More are computed a little faster, fewer keep short requests from waiting for long ones.
    #[arg(long, value_name = "TOKENS", default_value_t = defaults().engine.batch_tokens, value_parser = positive)]
    batch_tokens: usize,
    /// Tokens that may wait; requests past that are answered with 429. One client may fill half of it.
    #[arg(long, value_name = "TOKENS", default_value_t = defaults().engine.queue_tokens, value_parser = positive)]
    queue_tokens: usize,
    /// Connections open at once; more wait until one closes.
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
    /// Seconds from a request to its answer; past that it is 504.
    #[arg(long, value_name = "SECONDS", default_value_t = defaults().deadline.as_secs(), value_parser = seconds())]
    timeout: u64,
    /// Seconds for a request's head, for its body, for the next request on a connection, and for a client to go on reading.
    #[arg(long, value_name = "SECONDS", default_value_t = defaults().io_timeout.as_secs(), value_parser = seconds())]
    io_timeout: u64,
    /// Seconds to answer what was taken when the server is asked to end.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
    /// What to say of each request on standard error; never its text.
    #[arg(long, value_enum, default_value_t)]
    log: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Nothing.
    None,
    /// A line for people.
    #[default]
    Text,
    /// A line of JSON.
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

fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=86_400)
}

/// Serves until it is asked to end.
///
/// # Errors
/// If a model cannot be loaded or the address cannot be listened on.
pub fn run(args: &ServeArgs, rt: Runtime, console: &Console) -> anyhow::Result<()> {
    let mut models = Vec::new();
    for model in &args.models {
        let (name, source) = name_and_source(model)?;
        models.push(load(name, source, args.precision, &rt, console).with_context(|| format!("model `{source}`"))?);
    }
    for ServedModel { name, source, model, task, max_length, .. } in &models {
        let task = match task {
            ServedTask::Classify { .. } => "classifies",
            ServedTask::Tag { .. } => "tags",
            ServedTask::FillMask => "fills masks",
            ServedTask::Embed { .. } => "embeds",
        };
        console.say(&format!("{name}: {source}, {task}, {}, at most {max_length} tokens", model.precision()));
    }
    let config = Config {
        address: SocketAddr::new(args.host, args.port),
        engine: EngineLimits { batch_tokens: args.batch_tokens, queue_tokens: args.queue_tokens },
        max_connections: args.max_connections,
        max_texts: args.max_texts,
        max_body_bytes: args.max_body,
        auto_truncate: args.auto_truncate,
        deadline: Duration::from_secs(args.timeout),
        io_timeout: Duration::from_secs(args.io_timeout),
    };
    let server = Server::start(config, models, rt, log(args.log))?;
    console.say(&format!("listening on http://{}", server.address()));
    while !console.stop_requested() {
        thread::sleep(STOP_POLL);
    }
    match server.drain(Duration::from_secs(args.drain)) {
        Drained::Whole => Ok(()),
        Drained::InPart => bail!("stopped with requests unanswered after {} s", args.drain),
    }
}

/// `NAME=MODEL`, or a model whose name is the last part of its own.
fn name_and_source(argument: &str) -> anyhow::Result<(String, &str)> {
    let (name, source) = match argument.split_once('=') {
        Some((name, source)) => (name.to_owned(), source),
        None => {
            let plain = argument.strip_prefix("pip:").unwrap_or(argument);
            let plain = plain.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let plain = plain.split('@').next().unwrap_or_default();
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
    let source_name = source.to_owned();
    match read_config(&folder)?.head {
        HeadKind::Classification { .. } | HeadKind::TokenClassification { .. } => {
            let classifier = Classifier::load_in(precision, source, rt, console)?;
            let max_length = classifier.max_length(None, classifier.model.config.encoder.max_positions)?;
            let Classifier { model, tokenizer, saved, problem, labels, temperature } = classifier;
            let task = if problem.is_of_words() {
                ServedTask::Tag { labels }
            } else {
                ServedTask::Classify { problem, labels, temperature, trained_on: saved.map(|saved| saved.task.kind) }
            };
            Ok(ServedModel { name, source: source_name, model, tokenizer, task, max_length })
        }
        HeadKind::MaskedLm => {
            let (model, tokenizer) = precision.load(source, &folder, rt, console)?;
            let max_length = model.config.encoder.max_positions;
            Ok(ServedModel { name, source: source_name, model, tokenizer, task: ServedTask::FillMask, max_length })
        }
        HeadKind::Embedding(_) | HeadKind::None => {
            // Requests say whether vectors are scaled.
            let flags = HeadFlags { normalize: Some(false), precision: precision.named()?, ..HeadFlags::default() };
            let SentenceEncoder { model, tokenizer, settings, max_length } =
                SentenceEncoder::load(source, flags, None, rt, console)?;
            let task = ServedTask::Embed { settings };
            Ok(ServedModel { name, source: source_name, model, tokenizer, task, max_length })
        }
        HeadKind::QuestionAnswering => bail!("models for question answering are not served"),
    }
}

/// What becomes of a request's event.
fn log(format: LogFormat) -> Log {
    match format {
        LogFormat::None => Box::new(|_| {}),
        LogFormat::Json => Box::new(|event| {
            // An event is plain data; what cannot be written is no reason to end a request.
            if let Ok(line) = serde_json::to_string(event) {
                eprintln!("{line}");
            }
        }),
        LogFormat::Text => Box::new(|event| {
            let Event { request_id, client, method, route, inputs, tokens, total_ms, .. } = event;
            let status = event.status.unwrap_or_default();
            let mut line = format!("{client} {method} {route} {status} {total_ms:.1} ms, {request_id}");
            if tokens > &0 {
                line += &format!(", {}: {inputs} inputs, {tokens} tokens", event.model);
            }
            if event.truncated_tokens > 0 {
                line += &format!(", {} cut off", event.truncated_tokens);
            }
            if let Some(error) = &event.error_type {
                line += &format!(", {error}");
            }
            eprintln!("{line}");
        }),
    }
}
