//! One file a subcommand.

pub mod corpus;
pub mod evaluate;
pub mod inspect;
pub mod predict;
pub mod pull;
pub mod report;
