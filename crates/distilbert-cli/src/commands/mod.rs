//! One file a subcommand.

pub mod corpus;
pub mod pull;
