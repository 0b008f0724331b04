//! Predictions in, official metrics out, with intervals and paired tests. Knows no model and no file: whoever runs the
//! model hands in [`Predictions`], and readers and writers are passed in.

pub mod answer_predictions; // what a model answered, question by question
pub mod answers; // answer and gold answers -> exact match, F1, threshold
pub mod calibration; // probabilities -> are they honest, and the temperature that makes them so
pub mod metrics; // truth and prediction -> number
pub mod intent_predictions; // what a model said of utterances: intents and slots
mod kept; // predictions of any kind
mod normalise; // an answer -> the words that count
mod ordered; // maps that keep their order
pub mod predictions; // what a model said, example by example
pub mod retrieval; // rankings and judgements -> nDCG, recall, MRR, MAP
mod result; // one model on one split
pub mod slices; // scores by length and by what the data says
pub mod statistics; // intervals, paired tests, seed spread, retention
mod submission; // files for the GLUE server

pub use answer_predictions::AnswerPredictions;
pub use calibration::Calibration;
pub use intent_predictions::IntentPredictions;
pub use kept::KeptPredictions;
pub use metrics::{MetricError, Outcomes};
pub use ordered::OrderedMap;
pub use predictions::{Prediction, PredictionRow, Predictions, PredictionsError};
pub use result::{EvaluationResult, Metrics, NullThresholds};
pub use submission::{SubmissionError, check_submission, submission};
