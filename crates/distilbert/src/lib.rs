//! The whole life of a small text encoder, as a library. The modules stand in the order data meets them.
#![deny(unsafe_code)]
// Model and heads know how to learn; without training nobody asks them to.
#![cfg_attr(not(feature = "train"), allow(dead_code))]

pub mod tokenizer; // text -> Encoding
pub mod data; // files -> examples, token sequences, packed batches
pub mod model; // Batch -> hidden states [tokens, hidden]
pub mod heads; // hidden states -> logits
pub mod predict; // texts -> logits, in bounded memory
#[cfg(feature = "train")]
pub mod loss; // logits + targets -> (sum, count) and gradients
#[cfg(feature = "train")]
pub mod optim; // gradients -> parameters
#[cfg(feature = "train")]
pub mod train; // steps, runs, resume: masked-LM, distillation, fine-tuning
pub mod checkpoint; // parameters <-> Hugging Face folders
#[cfg(feature = "hub")]
pub mod hub; // model names -> folders
pub mod compress; // a finished model made smaller
pub mod verify; // a model against reference numbers
pub mod evaluate; // predictions -> official metrics, intervals, paired tests
pub mod report; // evaluations -> Markdown and HTML

pub mod progress; // how work tells its caller how far it is
pub mod random; // seeded streams
