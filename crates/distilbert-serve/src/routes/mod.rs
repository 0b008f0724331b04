//! The routes: what each path takes and gives. A route that asks a model is two halves: its function turns JSON into
//! sequences, and leaves a closure that turns what the model says of them into JSON.

mod common; // JSON -> requests
mod inference; // Open Inference Protocol, under /v2
mod openai; // /v1
mod openapi; // the document that says all this
mod pipelines; // Hugging Face's JSON
mod reading; // texts -> sequences
mod status; // health, metrics, models
mod tei; // text-embeddings-inference's

pub use common::parse;
pub use openapi::management;
pub use status::loaded;

use crate::App;
use crate::compute::Wanted;
use crate::engine::{Output, Work};
use crate::http::error::{ApiError, ErrorKind};
use crate::http::is_get;
use crate::memory::Share;
use crate::metrics::Done;
use crate::model::ServedModel;
use distilbert::tokenizer::Encoding;
use hyper::Method;
use serde::Serialize;
use std::ops::Deref;
use std::sync::Arc;

/// The media type of all answers but metrics.
pub const JSON: &str = "application/json";

/// A path that is answered.
pub struct Route {
    /// How metrics and logs call it.
    pub name: &'static str,
    /// The path; behind `/models/NAME` too if it asks a model.
    path: &'static str,
    /// What answers it.
    pub handler: Handler,
}

/// What answers a path. The text is the name of a model, if the path has one.
pub enum Handler {
    /// At once, to GET.
    Get(fn(&App, Option<&str>) -> Result<Reply, ApiError>),
    /// From a body, to POST.
    Post(Prepare),
}

/// The first half of a route that takes a body.
type Prepare = fn(&Call, Option<&str>, &[u8]) -> Result<Prepared, ApiError>;

/// What a route's first half has beside path and body.
pub(crate) struct Call {
    /// What all requests share.
    pub app: Arc<App>,
    /// Whether this one is still waited for.
    pub wanted: Wanted,
}

impl Deref for Call {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

/// An answer.
pub struct Reply {
    /// The body.
    pub body: Vec<u8>,
    /// What it is; `None` if it is empty.
    pub media_type: Option<&'static str>,
    /// Of the memory that it takes until it is sent.
    pub share: Share,
}

impl Reply {
    /// Nothing but the status.
    pub fn empty() -> Reply {
        Reply { body: Vec::new(), media_type: None, share: Share::default() }
    }

    /// JSON that is written out.
    pub fn json(body: Vec<u8>) -> Reply {
        Reply { body, media_type: Some(JSON), share: Share::default() }
    }

    /// JSON of a value.
    pub fn of(value: &impl Serialize) -> Result<Reply, ApiError> {
        to_json(value).map(Reply::json)
    }
}

/// What a route's first half made of a body.
pub enum Prepared {
    /// The answer: no model is needed.
    Done {
        /// The answer.
        reply: Reply,
        /// The model whose tokenizer was used.
        model: String,
        /// Texts of the request.
        inputs: usize,
    },
    /// A question for a model.
    Asked(Asked),
}

/// A question for a model.
pub struct Asked {
    /// The model.
    pub model: Arc<ServedModel>,
    /// What is asked of it.
    pub work: Work,
    /// What it reads.
    pub encodings: Vec<Encoding>,
    /// What this counts as.
    pub done: Done,
    /// Characters of the request's texts.
    pub characters: usize,
    /// Tokens that each text or pair lost.
    pub truncated: Vec<usize>,
    /// Sequences that each text or pair is read in.
    pub windows: Vec<usize>,
    /// The route's second half.
    pub answer: Finish,
}

/// What the model read and said of it to the answer's JSON.
pub type Finish = Box<dyn FnOnce(&[Encoding], Vec<Output>) -> Result<Vec<u8>, ApiError> + Send>;

/// Every route.
static ROUTES: &[Route] = &[
    Route { name: "health", path: "/health", handler: Handler::Get(status::ready) },
    Route { name: "health", path: "/", handler: Handler::Get(status::ready) },
    Route { name: "health", path: "/ping", handler: Handler::Get(status::ready) },
    Route { name: "ready", path: "/health/ready", handler: Handler::Get(status::ready) },
    Route { name: "live", path: "/health/live", handler: Handler::Get(status::live) },
    Route { name: "metrics", path: "/metrics", handler: Handler::Get(status::metrics) },
    Route { name: "info", path: "/info", handler: Handler::Get(status::info) },
    Route { name: "docs", path: "/docs", handler: Handler::Get(openapi::page) },
    Route { name: "openapi", path: "/openapi.json", handler: Handler::Get(openapi::document) },
    Route { name: "openapi", path: "/api-doc/openapi.json", handler: Handler::Get(openapi::document) },
    Route { name: "models", path: "/v1/models", handler: Handler::Get(openai::models) },
    Route { name: "live", path: "/v2/health/live", handler: Handler::Get(status::live) },
    Route { name: "ready", path: "/v2/health/ready", handler: Handler::Get(status::ready) },
    Route { name: "v2", path: "/v2", handler: Handler::Get(inference::server) },
    Route { name: "v2", path: "/v2/", handler: Handler::Get(inference::server) },
    Route { name: "root", path: "/", handler: Handler::Post(tei::root) },
    Route { name: "embed", path: "/embed", handler: Handler::Post(tei::embed) },
    Route { name: "embed_all", path: "/embed_all", handler: Handler::Post(tei::embed_all) },
    Route { name: "predict", path: "/predict", handler: Handler::Post(tei::predict) },
    Route { name: "rerank", path: "/rerank", handler: Handler::Post(tei::rerank) },
    Route { name: "similarity", path: "/similarity", handler: Handler::Post(tei::similarity) },
    Route { name: "tokenize", path: "/tokenize", handler: Handler::Post(tei::tokenize) },
    Route { name: "decode", path: "/decode", handler: Handler::Post(tei::decode) },
    Route { name: "classify", path: "/classify", handler: Handler::Post(pipelines::classify) },
    Route { name: "tag", path: "/tag", handler: Handler::Post(pipelines::tag) },
    Route { name: "intents", path: "/intents", handler: Handler::Post(pipelines::intents) },
    Route { name: "fill-mask", path: "/fill-mask", handler: Handler::Post(pipelines::fill_mask) },
    Route { name: "answer", path: "/answer", handler: Handler::Post(pipelines::answer) },
    Route { name: "zero-shot", path: "/zero-shot", handler: Handler::Post(pipelines::zero_shot) },
    Route { name: "embeddings", path: "/v1/embeddings", handler: Handler::Post(openai::embeddings) },
    Route { name: "embeddings", path: "/embeddings", handler: Handler::Post(openai::embeddings) },
];

/// Behind `/models/NAME` with nothing more.
static OF_MODEL: [Route; 2] = [
    Route { name: "info", path: "", handler: Handler::Get(status::info) },
    Route { name: "pipeline", path: "", handler: Handler::Post(pipelines::of_model) },
];

/// Behind `/v1/models/`.
static OPENAI_MODEL: Route = Route { name: "models", path: "", handler: Handler::Get(openai::model_of_name) };

/// Behind `/v2/models/NAME` and `/v2/models/NAME/versions/1`.
static OF_INFERENCE_MODEL: [Route; 3] = [
    Route { name: "v2-model", path: "", handler: Handler::Get(inference::metadata) },
    Route { name: "v2-model-ready", path: "/ready", handler: Handler::Get(inference::ready) },
    Route { name: "v2-infer", path: "/infer", handler: Handler::Post(inference::infer) },
];

/// The route of a method and a path, and the model that the path names.
///
/// # Errors
/// If there is none, or it takes another method.
pub fn find(method: &Method, path: &str) -> Result<(&'static Route, Option<String>), ApiError> {
    let one_segment = |text: &str| !text.is_empty() && !text.contains('/');
    if let Some(name) = path.strip_prefix("/v1/models/").filter(|name| one_segment(name)) {
        return choose(method, std::iter::once(&OPENAI_MODEL)).map(|route| (route, Some(name.to_owned())));
    }
    let name_and_rest = |path: &'_ str| {
        let (name, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
        (name.to_owned(), rest.to_owned())
    };
    if let Some(path) = path.strip_prefix("/v2/models/") {
        let (name, path) = name_and_rest(path);
        let version = format!("/versions/{}", inference::VERSION);
        let path = path.strip_prefix(&version).unwrap_or(&path);
        let routes = OF_INFERENCE_MODEL.iter().filter(|route| route.path == path);
        return choose(method, routes).map(|route| (route, Some(name)));
    }
    if let Some(path) = path.strip_prefix("/models/") {
        let (name, path) = name_and_rest(path);
        let routes: Vec<&'static Route> = if path.is_empty() {
            OF_MODEL.iter().collect()
        } else {
            ROUTES.iter().filter(|route| route.path == path && route.may_name_model()).collect()
        };
        return choose(method, routes.into_iter()).map(|route| (route, Some(name)));
    }
    choose(method, ROUTES.iter().filter(|route| route.path == path)).map(|route| (route, None))
}

impl Route {
    fn may_name_model(&self) -> bool {
        self.path != "/" && (matches!(self.handler, Handler::Post(_)) || self.path == "/info")
    }

    /// Whether it needs no key: what watches a server has none, and what describes it holds no data.
    pub fn is_open(&self) -> bool {
        crate::log::is_probe(self.name) || matches!(self.name, "docs" | "openapi")
    }

    /// Whether its body must be declared as JSON: clients of the Open Inference Protocol declare nothing.
    pub fn needs_media_type(&self) -> bool {
        self.name != "v2-infer"
    }

    fn takes(&self, method: &Method) -> bool {
        match self.handler {
            Handler::Get(_) => is_get(method),
            Handler::Post(_) => method == Method::POST,
        }
    }
}

/// The one of a path's routes that takes the method.
fn choose(method: &Method, routes: impl Iterator<Item = &'static Route> + Clone) -> Result<&'static Route, ApiError> {
    if let Some(route) = routes.clone().find(|route| route.takes(method)) {
        return Ok(route);
    }
    let allowed: Vec<&str> = routes
        .map(|route| match route.handler {
            Handler::Get(_) => "GET, HEAD",
            Handler::Post(_) => "POST",
        })
        .collect();
    if allowed.is_empty() {
        return Err(ApiError::new(ErrorKind::NotFound, "there is nothing at this path"));
    }
    let allowed = allowed.join(", ");
    let message = format!("this path takes {allowed}");
    Err(ApiError { allow: Some(allowed), ..ApiError::new(ErrorKind::Method, message) })
}

/// Numbers of an output, about.
pub fn size_of(output: &Output) -> usize {
    match output {
        Output::Numbers(numbers) => numbers.len(),
        // Each has a text.
        Output::Fillings(masks) => masks.iter().map(|fillings| 64 * fillings.len()).sum(),
    }
}

/// JSON of a value.
fn to_json(value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(value).map_err(|_| ApiError::internal())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(method: &Method, path: &str) -> Result<(&'static str, Option<String>), ApiError> {
        find(method, path).map(|(route, model)| (route.name, model))
    }

    #[test]
    fn a_path_may_name_the_model_in_front_of_a_route() {
        assert_eq!(name(&Method::POST, "/embed"), Ok(("embed", None)));
        assert_eq!(name(&Method::POST, "/models/small/embed"), Ok(("embed", Some("small".into()))));
        assert_eq!(name(&Method::GET, "/models/small/info"), Ok(("info", Some("small".into()))));
        assert_eq!(name(&Method::GET, "/models/small"), Ok(("info", Some("small".into()))));
        assert_eq!(name(&Method::POST, "/models/small"), Ok(("pipeline", Some("small".into()))));
        assert_eq!(name(&Method::GET, "/v1/models/small"), Ok(("models", Some("small".into()))));
        assert_eq!(name(&Method::HEAD, "/health"), Ok(("health", None)));
    }

    #[test]
    fn other_paths_are_not_found_and_other_methods_are_named() {
        for path in ["/nothing", "/models/small/metrics", "/models/small/", "/v1/models/a/b", "/embed/", "//", ""] {
            assert_eq!(name(&Method::POST, path).unwrap_err().kind, ErrorKind::NotFound, "{path}");
        }
        let error = name(&Method::DELETE, "/").unwrap_err();
        assert_eq!((error.kind, error.allow.as_deref()), (ErrorKind::Method, Some("GET, HEAD, POST")));
        assert_eq!(name(&Method::GET, "/embed").unwrap_err().allow.as_deref(), Some("POST"));
    }
}
