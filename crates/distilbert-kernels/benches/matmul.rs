//! Matrix product against the measured peak.
#![allow(missing_docs)]
fn main() {}
