//! One file a subcommand.

pub mod corpus;
pub mod evaluate;
pub mod predict;
pub mod pull;
