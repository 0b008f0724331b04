//! How long work tells its caller how far it is, and how the caller tells it to stop. The library itself never prints.

/// Receives the progress of one piece of work; the command line draws it as a bar, a test ignores it with `&()`.
pub trait Progress: Sync {
    /// Work begins; `total` in `unit`s, if it is known.
    fn begin(&self, what: &str, total: Option<u64>, unit: &'static str);
    /// `done` more units are done.
    fn advance(&self, done: u64);
    /// A few words on the state of the work, such as a loss.
    fn note(&self, _note: &str) {}
    /// Something the user should know, though the work goes on.
    fn warn(&self, _warning: &str) {}
    /// The work begun last has ended.
    fn end(&self);
    /// True once the user asked to stop; work then ends at the next safe point.
    fn stop_requested(&self) -> bool {
        false
    }
}

/// Ignores all progress.
impl Progress for () {
    fn begin(&self, _what: &str, _total: Option<u64>, _unit: &'static str) {}
    fn advance(&self, _done: u64) {}
    fn end(&self) {}
}
