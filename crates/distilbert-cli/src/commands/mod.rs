//! One file a subcommand.

pub mod bench;
pub mod compress;
pub mod corpus;
pub mod data;
pub mod distil;
mod distil_embedding;
pub mod evaluate;
mod evaluate_files;
pub mod finetune;
mod finetune_embedding;
pub mod inspect;
pub mod predict;
pub mod pretrain;
pub mod pull;
pub mod quickstart;
pub mod report;
mod retrieval;
pub mod serve;
mod similarity;
mod training;
pub mod verify;
