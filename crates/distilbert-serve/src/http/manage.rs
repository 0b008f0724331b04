//! The door of management: models loaded, replaced and removed while others are served.

use super::body::{self, Held};
use super::error::{ApiError, ErrorKind, Protocol};
use super::{Answered, Facts, Open, failure, is_get, success, unless_panicked, with_id};
use crate::App;
use crate::keys::Holder;
use crate::log::Event;
use crate::memory::{Memory, Share};
use crate::model::ServedModel;
use crate::routes::{self, Reply};
use hyper::body::Incoming;
use hyper::header::{EXPECT, HOST};
use hyper::http::request::Parts;
use hyper::{Method, Request};
use serde::Deserialize;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

/// Bytes of a body, which names a model.
const MAX_BODY: usize = 64 * 1024;

/// Models that may be loaded at once. One whose source never answers holds its place until its loader gives up.
pub const LOADS_AT_ONCE: usize = 4;

/// When to come again if they are being loaded.
const RETRY_LOAD_S: u64 = 5;

/// A wish for a model. Whoever started the server loads it, since nothing here reads files.
pub struct Load {
    /// What requests will call it.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// What it multiplies in; as the server was started if `None`.
    pub precision: Option<String>,
    memory: Arc<Memory>,
    reply: oneshot::Sender<Result<ServedModel, String>>,
    /// Of those that may be loaded at once.
    _place: OwnedSemaphorePermit,
}

impl Load {
    /// Memory for the model, of what requests have.
    ///
    /// # Errors
    /// A text that says that there is not so much.
    pub fn reserve(&self, bytes: usize) -> Result<Share, String> {
        self.memory.take_for("the model", bytes).map_err(|error| match error.kind {
            ErrorKind::TooLarge => error.message,
            _ => format!("the model needs {} MB of memory, which requests have at present", bytes.div_ceil(1 << 20)),
        })
    }

    /// Whether somebody still waits for the model.
    pub fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    /// Hands the model over, or says why there is none.
    pub fn done(self, result: Result<ServedModel, String>) {
        // Who asked may have gone.
        let _ = self.reply.send(result);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadRequest {
    source: String,
    precision: Option<String>,
}

/// Answers a request.
pub async fn handle(app: Arc<App>, peer: IpAddr, request: Request<Incoming>) -> Answered {
    let id = app.request_id(request.headers().get("x-request-id"));
    let (head, mut body) = request.into_parts();
    let event = Event::new(id.clone(), peer, &head.method, "manage");
    let mut open = Open { app: &app, log: &app.log, event, started: Instant::now() };
    let holder = app.holder(&head.headers);
    open.event.key = holder.as_ref().ok().and_then(Option::as_ref).map(|holder| holder.name().to_owned());
    let name = named(&head).unwrap_or_default().to_owned();
    let result =
        unless_panicked(manage(&app, holder, &head, &mut body)).await.unwrap_or_else(|| Err(ApiError::internal()));
    let response = match result {
        Ok(reply) => success(reply, &Facts::default()),
        Err(error) => {
            // Who waits to be asked for the body sends none.
            if !head.headers.contains_key(EXPECT) {
                body::drain(&mut body, MAX_BODY).await;
            }
            open.event.error_type = Some(error.error_type());
            failure(&error, Protocol::Tei)
        }
    };
    let response = with_id(response, &id);
    open.end(response.status(), Facts { model: name, ..Facts::default() });
    response
}

/// The model that a path names, which is repeated in the log only if it can be the name of one.
fn named(head: &Parts) -> Option<&str> {
    let name = head.uri.path().strip_prefix("/models/")?;
    ServedModel::check_name(name).is_ok().then_some(name)
}

async fn manage(
    app: &Arc<App>,
    holder: Result<Option<Holder<'_>>, ApiError>,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Reply, ApiError> {
    check_host(head)?;
    let path = head.uri.path();
    // They hold no data.
    match path {
        "/openapi.json" if is_get(&head.method) => return routes::management::document(app),
        "/docs" if is_get(&head.method) => return Ok(routes::management::page(app)),
        _ => {}
    }
    if let Some(holder) = holder? {
        holder.check_manages()?;
    }
    let name = path.strip_prefix("/models/").filter(|name| !name.is_empty() && !name.contains('/'));
    match (path, name, &head.method) {
        ("/models", _, method) if is_get(method) => routes::loaded(app),
        (_, Some(name), &Method::PUT) => load(app, name, head, body).await,
        (_, Some(name), &Method::DELETE) => {
            if app.models.remove(name) {
                return routes::loaded(app);
            }
            Err(ApiError::new(ErrorKind::ModelNotFound, "no model has this name"))
        }
        ("/models" | "/openapi.json" | "/docs", ..) => Err(not_allowed("GET")),
        (_, Some(_), _) => Err(not_allowed("PUT, DELETE")),
        _ => Err(ApiError::new(ErrorKind::NotFound, "there is nothing at this path")),
    }
}

/// Refuses a name for this machine that only a page of another site could have chosen: it points its own name here, and
/// its browser takes the two for one site.
fn check_host(head: &Parts) -> Result<(), ApiError> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else {
        return Err(ApiError::new(
            ErrorKind::Forbidden,
            "`Host`: expected one, found none, several or one that is no text",
        ));
    };
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let is_here =
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_here {
        return Ok(());
    }
    // As much of a foreign value as is needed to know it again.
    let found: String = host.chars().take(80).collect();
    Err(ApiError::new(
        ErrorKind::Forbidden,
        format!("`Host`: expected localhost or a loopback address, found {found:?}"),
    ))
}

fn not_allowed(allowed: &str) -> ApiError {
    let message = format!("this path takes {allowed}");
    ApiError { allow: Some(allowed.to_owned()), ..ApiError::new(ErrorKind::Method, message) }
}

/// Loads a model and puts it in the place of the one of its name, if there is one, when it is ready.
async fn load(app: &Arc<App>, name: &str, head: &Parts, body: &mut Incoming) -> Result<Reply, ApiError> {
    ServedModel::check_name(name).map_err(|error| ApiError::new(ErrorKind::Validation, error.to_string()))?;
    body::check_head(&head.headers, MAX_BODY, true)?;
    let Held { bytes, .. } = body::read(body, MAX_BODY, app.config.io_timeout, &app.memory).await?;
    let request: LoadRequest = routes::parse(&bytes)?;
    let (reply, answer) = oneshot::channel();
    let memory = Arc::clone(&app.memory);
    let place = Arc::clone(&app.load_places).try_acquire_owned().map_err(|_| {
        let message = format!("{LOADS_AT_ONCE} models are being loaded already");
        ApiError { retry_after_s: Some(RETRY_LOAD_S), ..ApiError::new(ErrorKind::Overloaded, message) }
    })?;
    let LoadRequest { source, precision } = request;
    let load = Load { name: name.to_owned(), source, precision, memory, reply, _place: place };
    let nobody = || ApiError::new(ErrorKind::Unhealthy, "the server is stopping");
    app.loads.send(load).map_err(|_| nobody())?;
    let answer = tokio::select! {
        answer = timeout(app.config.load_timeout, answer) => answer,
        () = app.stops() => return Err(nobody()),
    };
    let model = answer.map_err(|_| {
        let message = format!("the model was not loaded within {} s", app.config.load_timeout.as_secs_f64());
        ApiError::new(ErrorKind::Timeout, message)
    })?;
    // A loader that falls without a word has panicked, unless nobody loads any more.
    let model = model.map_err(|_| if app.is_stopping() { nobody() } else { ApiError::internal() })?;
    let model = model.map_err(|message| ApiError::new(ErrorKind::Validation, message))?;
    app.models.put(model).map_err(|error| ApiError::new(ErrorKind::Validation, error.to_string()))?;
    Reply::of(&json!({"loaded": name}))
}
