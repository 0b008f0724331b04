//! One file a subcommand.

pub mod bench;
pub mod compress;
pub mod corpus;
pub mod data;
pub mod distil;
pub mod evaluate;
mod evaluate_files;
pub mod finetune;
pub mod inspect;
pub mod predict;
pub mod pretrain;
pub mod pull;
pub mod quickstart;
pub mod report;
mod training;
pub mod verify;
