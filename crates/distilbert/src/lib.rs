//! The whole life of a small text encoder, as a library. The modules stand in the order data meets them.
#![deny(unsafe_code)]

pub mod checkpoint; // parameters <-> Hugging Face folders
pub mod data; // files -> examples, token sequences, packed batches
pub mod evaluate; // predictions -> official metrics, intervals, paired tests
pub mod heads; // hidden states -> logits
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(feature = "train")]
pub mod loss; // logits + targets -> (sum, count) and gradients
pub mod model; // Batch -> hidden states [tokens, hidden]
#[cfg(feature = "train")]
pub mod optim; // gradients -> parameters
pub mod predict; // texts -> logits, in bounded memory
pub mod report; // runs -> Markdown and HTML
pub mod tokenizer; // text -> Encoding
#[cfg(feature = "train")]
pub mod train;
pub mod verify; // a model against reference numbers // steps, runs, resume: pretrain, distil, finetune // model names -> folders

pub mod progress; // how work tells its caller how far it is
pub mod random; // seeded streams
