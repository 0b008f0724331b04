//! One file a subcommand.

pub mod corpus;
pub mod distil;
pub mod finetune;
pub mod pretrain;
pub mod pull;
mod training;
pub mod verify;
