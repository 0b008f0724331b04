//! One exchange: a request in, an answer or an error in its protocol's shape out, and what is said of it in headers,
//! metrics and log.

mod body; // reading bodies
pub mod cors; // pages of other sites
pub mod error; // errors by protocol
pub mod manage; // models loaded, replaced, removed

use crate::App;
use crate::compute::Wanted;
use crate::engine::queue::Client;
use crate::keys::Holder;
use crate::log::{Event, Log, TraceParent};
use crate::memory::{self, Share};
use crate::metrics::Times;
use crate::routes::{self, Asked, Call, Handler, Prepared, Reply, Route};
use body::Held;
use error::{ApiError, ErrorKind, Protocol};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Bodies of more bytes than this are read, and answers of more numbers written, beside the threads that answer, which must
/// not wait for it.
const INLINE_BYTES: usize = 16 * 1024;
const INLINE_NUMBERS: usize = 4 * 1024;

/// Numbers that are written while a byte of text becomes tokens. Measured: 1.3 microseconds a byte of words of one letter,
/// 0.09 a number.
const NUMBERS_PER_TEXT_BYTE: usize = 16;

/// Inputs whose truncation or windows are listed in a header.
const LISTED: usize = 100;

/// A response with its whole body.
pub type Answered = Response<Full<Bytes>>;

/// What was done for a request, for headers and log.
#[derive(Default)]
struct Facts {
    /// The client was asked for its body.
    body_asked: bool,
    model: String,
    inputs: usize,
    characters: usize,
    tokens: usize,
    /// Place of an input and the tokens that it lost.
    truncated: Vec<(usize, usize)>,
    /// Place of an input and the windows that it was read in, if it was too long for one.
    windows: Vec<(usize, usize)>,
    times: Times,
}

/// Answers a request.
pub async fn handle(app: Arc<App>, peer: IpAddr, request: Request<Incoming>) -> Answered {
    let started = Instant::now();
    let id = app.request_id(request.headers().get("x-request-id"));
    let (head, mut body) = request.into_parts();
    let protocol = Protocol::of(head.uri.path());
    let found = routes::find(&head.method, head.uri.path());
    let route = found.as_ref().map_or("-", |(route, _)| route.name);
    let mut open = Open { app: &app, log: &app.log, event: Event::new(id.clone(), peer, &head.method, route), started };
    let trace = head.headers.get("traceparent").and_then(|value| value.to_str().ok());
    open.event.trace = trace.and_then(TraceParent::parse);
    let cors = app.config.cors.as_ref();
    if let Some(mut response) = cors.and_then(|cors| cors.preflight(&head.method, &head.headers)) {
        cors.inspect(|cors| cors.mark(&head.headers, &mut response));
        open.end(response.status(), Facts::default());
        return with_id(response, &id);
    }
    let mut facts = Facts::default();
    let holder = app.holder(&head.headers);
    open.event.key = holder.as_ref().ok().and_then(Option::as_ref).map(|holder| holder.name().to_owned());
    let result = unless_panicked(async {
        let (route, model) = found?;
        let holder = if route.is_open() { None } else { holder? };
        match route.handler {
            Handler::Get(answer) => answer(&app, model.as_deref()),
            Handler::Post(_) => {
                let client: Client = holder.map_or_else(|| peer.to_string(), |holder| holder.name().to_owned()).into();
                if let Some(holder) = holder {
                    holder.begin()?;
                }
                let work = infer(&app, &client, holder, route, model, &head.headers, &mut body, &mut facts, started);
                timeout(app.config.deadline, work).await.unwrap_or_else(|_| {
                    let seconds = app.config.deadline.as_secs_f64();
                    Err(ApiError::new(ErrorKind::Timeout, format!("no answer within {seconds} s")))
                })
            }
        }
    });
    let result = result.await.unwrap_or_else(|| Err(ApiError::internal()));
    facts.times.total = started.elapsed();
    let response = match result {
        Ok(reply) => success(reply, &facts),
        Err(error) => {
            // Who waits to be asked for the body is told at once, and sends none; who was too slow is waited for no more.
            let sends = facts.body_asked || !head.headers.contains_key(EXPECT);
            if sends && error.kind != ErrorKind::SlowBody {
                body::drain(&mut body, app.config.max_body_bytes).await;
            }
            app.metrics.failed(error.reason());
            open.event.error_type = Some(error.error_type());
            failure(&error, protocol)
        }
    };
    let mut response = with_id(response, &id);
    cors.inspect(|cors| cors.mark(&head.headers, &mut response));
    open.end(response.status(), facts);
    response
}

fn with_id(mut response: Answered, id: &str) -> Answered {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    response
}

/// Reads a body, asks the engine and makes the answer.
#[allow(clippy::too_many_arguments)] // Parts of one request.
async fn infer(
    app: &Arc<App>,
    client: &Client,
    holder: Option<Holder<'_>>,
    route: &'static Route,
    model: Option<String>,
    headers: &hyper::HeaderMap,
    body: &mut Incoming,
    facts: &mut Facts,
    started: Instant,
) -> Result<Reply, ApiError> {
    let Handler::Post(prepare) = route.handler else { return Err(ApiError::internal()) };
    let limit = app.config.max_body_bytes;
    body::check_head(headers, limit, route.needs_media_type())?;
    app.engine.check_room(client)?;
    facts.body_asked = true;
    let Held { bytes, share } = body::read(body, limit, app.config.io_timeout, &app.memory).await?;
    let parsing_share = app.memory.for_parsing(&bytes).await?;
    let text_bytes = bytes.len();
    let parsing = Instant::now();
    facts.times.read = parsing.duration_since(started);
    let prepared = {
        let app_of_work = Arc::clone(app);
        // The shares are the work's: it holds them until it is done or learns that the client has gone.
        let work = move |wanted: &Wanted| {
            let _shares = (share, parsing_share);
            prepare(&Call { app: app_of_work, wanted: wanted.clone() }, model.as_deref(), &bytes)
        };
        match text_bytes {
            0..=INLINE_BYTES => work(&Wanted::default())?,
            _ => app.compute.run(client, text_bytes, work).await??,
        }
    };
    facts.times.tokenization = parsing.elapsed();
    let asked = match prepared {
        Prepared::Done { reply, model, inputs } => {
            (facts.model, facts.inputs) = (model, inputs);
            let mut reply = reply;
            reply.share.merge(app.memory.take(reply.body.len())?);
            return Ok(reply);
        }
        Prepared::Asked(asked) => asked,
    };
    let Asked { model, work, encodings, done, characters, truncated, windows, answer } = asked;
    let inputs = truncated.len();
    app.metrics.asked(done, inputs);
    facts.model = model.name.clone();
    (facts.inputs, facts.characters) = (inputs, characters);
    facts.tokens = encodings.iter().map(distilbert::tokenizer::Encoding::len).sum();
    facts.truncated = truncated.into_iter().enumerate().filter(|&(_, lost)| lost > 0).collect();
    facts.windows = windows.into_iter().enumerate().filter(|&(_, windows)| windows > 1).collect();
    let share = app.memory.take(memory::of_question(&model, &work, &encodings, text_bytes))?;
    let encodings: Arc<[_]> = encodings.into();
    let ticket = app.engine.submit(client, &model, work, Arc::clone(&encodings))?;
    // What was refused until here costs nothing.
    if let Some(holder) = holder {
        holder.use_tokens(facts.tokens);
    }
    let said = ticket.answer().await?;
    (facts.times.queue, facts.times.inference) = (said.waited, said.running);
    let numbers: usize = said.outputs.iter().map(routes::size_of).sum();
    let lengths: Vec<usize> = encodings.iter().map(distilbert::tokenizer::Encoding::len).collect();
    let finish = move |_: &Wanted| (answer(&encodings, said.outputs), share);
    let (json, share) = match numbers {
        0..=INLINE_NUMBERS => finish(&Wanted::default()),
        _ => app.compute.run(client, numbers / NUMBERS_PER_TEXT_BYTE, finish).await?,
    };
    let json = json?;
    facts.times.total = started.elapsed();
    let lost = facts.truncated.iter().map(|(_, lost)| lost).sum();
    app.metrics.answered(done, inputs, &facts.times, &lengths, lost);
    Ok(Reply { share, ..Reply::json(json) })
}

/// `None` if the work panics: a mistake in the answer to one request ends that request alone.
async fn unless_panicked<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// A body on its way to the client.
struct Sent {
    body: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

fn success(reply: Reply, facts: &Facts) -> Answered {
    // The share is given back when the last byte is sent.
    let body = Bytes::from_owner(Sent { body: reply.body, _share: reply.share });
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    if let Some(media_type) = reply.media_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    if facts.model.is_empty() {
        return response;
    }
    let lost: usize = facts.truncated.iter().map(|(_, lost)| lost).sum();
    let ms = |time: Duration| time.as_millis().to_string();
    let mut fields = vec![
        ("x-compute-type", "cpu".to_owned()),
        ("x-compute-time", ms(facts.times.tokenization + facts.times.inference)),
        ("x-compute-characters", facts.characters.to_string()),
        ("x-compute-tokens", facts.tokens.to_string()),
        ("x-total-time", ms(facts.times.total)),
        ("x-tokenization-time", ms(facts.times.tokenization)),
        ("x-queue-time", ms(facts.times.queue)),
        ("x-inference-time", ms(facts.times.inference)),
        ("x-truncated-tokens", lost.to_string()),
    ];
    for (name, inputs) in [("x-truncated-inputs", &facts.truncated), ("x-windows", &facts.windows)] {
        if inputs.is_empty() {
            continue;
        }
        let listed = inputs.iter().take(LISTED).map(|(input, count)| format!("{input}:{count}"));
        let mut list = listed.collect::<Vec<_>>().join(",");
        if inputs.len() > LISTED {
            list.push_str(",...");
        }
        fields.push((name, list));
    }
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}

fn failure(error: &ApiError, protocol: Protocol) -> Answered {
    let mut response = Response::new(Full::new(Bytes::from(error.body(protocol).to_string())));
    *response.status_mut() =
        StatusCode::from_u16(error.kind.status(protocol)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(routes::JSON));
    if let Some(seconds) = error.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.kind == ErrorKind::Unauthorized {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(Ok(allow)) = error.allow.as_deref().map(HeaderValue::from_str) {
        headers.insert(ALLOW, allow);
    }
    response
}

/// An exchange that has no answer yet. One that ends without one, because the client has gone, is counted too.
struct Open<'a> {
    app: &'a App,
    log: &'a Log,
    event: Event,
    started: Instant,
}

impl Open<'_> {
    fn end(mut self, status: StatusCode, facts: Facts) {
        self.event.status = Some(status.as_u16());
        self.event.model = facts.model;
        self.event.inputs = facts.inputs;
        self.event.tokens = facts.tokens;
        self.event.truncated_tokens = facts.truncated.iter().map(|(_, lost)| lost).sum();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        self.event.read_ms = ms(facts.times.read);
        self.event.tokenization_ms = ms(facts.times.tokenization);
        self.event.queue_ms = ms(facts.times.queue);
        self.event.inference_ms = ms(facts.times.inference);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // The status that logs of other servers have for a client that has gone.
        const GONE: u16 = 499;
        let status = self.event.status.unwrap_or(GONE);
        if status == GONE {
            self.app.metrics.failed("dropped");
        }
        self.app.metrics.responded(self.event.route, status);
        self.event.status = Some(status);
        self.event.total_ms = self.started.elapsed().as_secs_f64() * 1e3;
        (self.log)(&self.event);
    }
}

/// Whether a method asks for what GET gives.
pub fn is_get(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}
