//! Standard error for people: progress bars with time left, warnings, and Ctrl-C that asks the work to stop.

use distilbert::progress::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Work shorter than this shows no bar.
const BAR_AFTER: Duration = Duration::from_millis(500);

/// Where a terminal is missing, a line is printed this often instead of a bar.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Whether lines for people are written as JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on each line of this process is an object with `time` and `message`, for whoever reads them by machine.
pub fn write_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// Writes a line to standard error. That nobody reads it any more, or that its disk is full, is no reason to end the work.
pub fn line(text: &str) {
    if AS_JSON.load(Ordering::Relaxed) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        line_as_is(&json!({"time": time, "message": text}).to_string());
    } else {
        line_as_is(text);
    }
}

/// Writes a line that has its form already.
pub fn line_as_is(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Progress, warnings and the wish to stop.
pub struct Console {
    bars: MultiProgress,
    /// Work in progress, the innermost last.
    stack: Mutex<Vec<Work>>,
    /// What warnings are about, if that must be said.
    about: Mutex<Option<String>>,
    stop: Arc<AtomicBool>,
    quiet: bool,
    terminal: bool,
}

struct Work {
    bar: ProgressBar,
    what: String,
    started: Instant,
    last_line: Instant,
    shown: bool,
}

impl Console {
    /// Takes Ctrl-C over: the first asks the work to stop at the next safe point, the second ends the process.
    pub fn new(quiet: bool) -> anyhow::Result<Console> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicU8::new(0));
        let flag = Arc::clone(&stop);
        ctrlc::set_handler(move || {
            if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                std::process::exit(1);
            }
            flag.store(true, Ordering::SeqCst);
            line("stopping at the next safe point; press Ctrl-C again to stop at once");
        })?;
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal && !quiet { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        Ok(Console { bars, stack: Mutex::default(), about: Mutex::default(), stop, quiet, terminal })
    }

    /// A line on standard error that bars do not overwrite.
    pub fn say(&self, line: &str) {
        self.bars.suspend(|| self::line(line));
    }

    /// A warning.
    pub fn warn(&self, warning: &str) {
        match &*self.about.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(what) => self.say(&format!("warning: {what}: {warning}")),
            None => self.say(&format!("warning: {warning}")),
        }
    }

    /// Does `act`, whose warnings begin with `what` they are about: one of several files, for example.
    pub fn about<T>(&self, what: &str, act: impl FnOnce() -> T) -> T {
        let set = |what| *self.about.lock().unwrap_or_else(PoisonError::into_inner) = what;
        set(Some(what.to_owned()));
        let done = act();
        set(None);
        done
    }

    fn with_innermost(&self, act: impl FnOnce(&mut Work)) {
        if let Some(work) = self.stack.lock().unwrap_or_else(PoisonError::into_inner).last_mut() {
            act(work);
        }
    }
}

impl Progress for Console {
    fn begin(&self, what: &str, total: Option<u64>, unit: &'static str) {
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        let counts = if unit == "bytes" { "{bytes}/{total_bytes}" } else { "{human_pos}/{human_len} {prefix}" };
        let template = format!("{{msg}}\n  {{bar:30}} {counts}, {{elapsed}} gone, {{eta}} left");
        // The template is fixed text, so a mistake in it would show in every run; plain bars are the fallback.
        bar.set_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(unit);
        bar.set_message(what.to_owned());
        let now = Instant::now();
        let work = Work { bar, what: what.to_owned(), started: now, last_line: now, shown: false };
        self.stack.lock().unwrap_or_else(PoisonError::into_inner).push(work);
    }

    fn advance(&self, done: u64) {
        self.with_innermost(|work| {
            if !work.shown && work.started.elapsed() > BAR_AFTER {
                work.bar = self.bars.add(work.bar.clone());
                work.shown = true;
            }
            work.bar.inc(done);
            if !self.terminal && !self.quiet && work.last_line.elapsed() > LINE_EVERY {
                work.last_line = Instant::now();
                let total = work.bar.length().map_or(String::new(), |total| format!("/{total}"));
                let left = indicatif::HumanDuration(work.bar.eta());
                let (what, at, unit) = (work.bar.message(), work.bar.position(), work.bar.prefix());
                line(&format!("{what}: {at}{total} {unit}, {left} left"));
            }
        });
    }

    fn note(&self, note: &str) {
        self.with_innermost(|work| work.bar.set_message(format!("{}: {note}", work.what)));
    }

    fn warn(&self, warning: &str) {
        Console::warn(self, warning);
    }

    fn end(&self) {
        if let Some(work) = self.stack.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            work.bar.finish_and_clear();
            self.bars.remove(&work.bar);
        }
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
