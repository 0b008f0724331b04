//! `finetune --search N`: the settings that are best on the slice of the training examples that chooses checkpoints.
//!
//! ```text
//! OUTPUT/search.json   every trial: settings, score, scores on the way
//! OUTPUT/trials/03/    its run; only the best one keeps its checkpoints
//! OUTPUT/config.toml   the best settings
//! OUTPUT/best -> trials/03/best
//! ```

use super::{FinetuneRunConfig, Finetuned, Job, Place, RunArgs, finish};
use crate::config;
use crate::console::Console;
use crate::output::print;
use anyhow::{Context, bail, ensure};
use distilbert::checkpoint::{link_folder, write_atomic};
use distilbert::train::run::{Resume, check_use};
use distilbert::train::search::{Measured, Rivals, SearchSpace, Trial, measured};
use distilbert::train::{End, Outcome};
use distilbert_kernels::Runtime;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// What a search has come to, as it is saved.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    /// The settings around which is searched, TOML.
    config: String,
    /// The hash of the training data.
    data: String,
    instruction_set: String,
    /// Trials in all.
    count: usize,
    /// Those that have ended, in order.
    trials: Vec<Ended>,
}

/// A trial that has ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ended {
    trial: Trial,
    /// Best score on the validation part.
    score: f64,
    /// Steps taken.
    steps: u64,
    /// Those that it was to take.
    total_steps: u64,
    /// Whether it was given up because others were ahead.
    given_up: bool,
    measured: Vec<Measured>,
}

/// Runs the trials that are still to be run, keeps the best one's run and scores it; `None` if the user stopped.
pub fn run(
    job: &dyn Job,
    count: usize,
    args: &RunArgs,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Option<Finetuned>> {
    let base = job.config();
    ensure!(
        base.training.validation_share > 0.0,
        "--search: expected a validation-share above 0, to compare trials by"
    );
    let usual = Trial {
        learning_rate: base.optimizer.learning_rate,
        epochs: base.training.epochs,
        batch_size: base.training.batch_size,
        soft_share: (!base.teacher.is_empty()).then_some(base.training.soft_labels.soft),
    };
    let trials = SearchSpace::around(&usual).trials(&usual, count, base.training.seed);
    let place = SearchPlace { output: &args.output };
    let new = Search {
        config: config::to_text(base)?,
        data: job.data_hash()?,
        instruction_set: rt.isa().name().to_owned(),
        count,
        trials: Vec::new(),
    };
    let mut search = place.open(new, args.resume())?;
    for (index, trial) in trials.iter().enumerate().skip(search.trials.len()) {
        let folder = place.trial(index);
        let earlier = search.trials.iter().map(|ended| ended.measured.clone()).collect();
        let run = Place { output: &folder, resume: args.resume(), rivals: Rivals(earlier) };
        console.say(&format!("trial {} of {count}: {}", index + 1, in_words(trial)));
        let mut config = with(base, trial);
        let outcome = job.fit(&mut config, run, rt, console)?;
        if outcome.end == End::Stopped {
            args.report(&outcome, console)?;
            return Ok(None);
        }
        let Outcome { end, steps, total_steps, best_score, scores, .. } = outcome;
        let score = best_score.context("nothing was measured: too few examples for a validation part")?;
        let (given_up, measured) = (end == End::GivenUp, measured(&scores, total_steps));
        search.trials.push(Ended { trial: trial.clone(), score, steps, total_steps, given_up, measured });
        place.save(&search)?;
        place.drop_checkpoints(&search)?;
    }
    let best = search.best().context("there is no trial")?;
    show(&search, best, args.json)?;
    let outcome = place.take(best, &search.trials[best])?;
    let text = fs::read_to_string(place.output.join(CONFIG)).context("cannot read the best trial's configuration")?;
    let config: FinetuneRunConfig = toml::from_str(&text).context("the best trial's configuration")?;
    Ok(Some(finish(job, &config, count, outcome, place.output, rt, console)?))
}

const SEARCH: &str = "search.json";
const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";

/// The settings of a trial.
fn with(base: &FinetuneRunConfig, trial: &Trial) -> FinetuneRunConfig {
    let mut config = base.clone();
    config.optimizer.learning_rate = trial.learning_rate;
    config.training.epochs = trial.epochs;
    config.training.batch_size = trial.batch_size;
    if let Some(soft) = trial.soft_share {
        (config.training.soft_labels.soft, config.training.soft_labels.hard) = (soft, 1.0 - soft);
    }
    config
}

impl Search {
    /// Place of the best trial, the first of equal ones.
    fn best(&self) -> Option<usize> {
        let better =
            |best: usize, index: usize| if self.trials[index].score > self.trials[best].score { index } else { best };
        (0..self.trials.len()).reduce(better)
    }
}

/// The search's directory.
struct SearchPlace<'a> {
    output: &'a Path,
}

impl SearchPlace<'_> {
    fn trial(&self, index: usize) -> PathBuf {
        self.output.join("trials").join(format!("{:02}", index + 1))
    }

    /// The search that is there already, if it is to go on, or a new one.
    fn open(&self, new: Search, resume: Resume) -> anyhow::Result<Search> {
        check_use(self.output)?;
        let path = self.output.join(SEARCH);
        let there = path.exists() || self.output.join(CONFIG).exists();
        if resume == Resume::No && there {
            bail!("{}: holds a run; choose another directory, or continue it with --resume", self.output.display());
        }
        if !path.exists() {
            fs::create_dir_all(self.output).with_context(|| format!("cannot create {}", self.output.display()))?;
            self.save(&new)?;
            return Ok(new);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let search: Search = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let changed = [
            ((&search.config, search.count) != (&new.config, new.count), "for other settings"),
            (search.data != new.data, "over other data"),
            (search.instruction_set != new.instruction_set, "on another instruction set"),
        ];
        if let Some((_, what)) = changed.into_iter().find(|(changed, _)| *changed && resume == Resume::Yes) {
            bail!("{}: cannot resume: the search was {what}", path.display());
        }
        Ok(Search { trials: search.trials, ..new })
    }

    fn save(&self, search: &Search) -> anyhow::Result<()> {
        Ok(write_atomic(&self.output.join(SEARCH), serde_json::to_string_pretty(search)?.as_bytes())?)
    }

    /// Removes the checkpoints of all trials but the best, whose metrics stay.
    fn drop_checkpoints(&self, search: &Search) -> anyhow::Result<()> {
        let best = search.best();
        for index in (0..search.trials.len()).filter(|&index| Some(index) != best) {
            let [checkpoints, best] = ["checkpoints", "best"].map(|name| self.trial(index).join(name));
            if checkpoints.exists() {
                fs::remove_dir_all(&checkpoints).with_context(|| format!("cannot remove {}", checkpoints.display()))?;
            }
            if best.is_symlink() {
                fs::remove_file(&best).with_context(|| format!("cannot remove {}", best.display()))?;
            }
        }
        Ok(())
    }

    /// Makes the best trial the result of the whole.
    fn take(&self, index: usize, ended: &Ended) -> anyhow::Result<Outcome> {
        let trial = self.trial(index);
        for file in [CONFIG, METRICS] {
            let from = trial.join(file);
            let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            write_atomic(&self.output.join(file), &bytes)?;
        }
        let best = fs::canonicalize(trial.join("best"))?;
        let relative = best.strip_prefix(fs::canonicalize(self.output)?).unwrap_or(&best);
        link_folder(relative, &self.output.join("best"))?;
        Ok(Outcome {
            end: if ended.given_up { End::GivenUp } else { End::Finished },
            steps: ended.steps,
            total_steps: ended.total_steps,
            last: best.clone(),
            best: self.output.join("best"),
            best_score: Some(ended.score),
            scores: Vec::new(),
        })
    }
}

fn in_words(trial: &Trial) -> String {
    let Trial { learning_rate, epochs, batch_size, soft_share } = trial;
    let soft = soft_share.map_or_else(String::new, |share| format!(", soft share {share}"));
    format!("learning rate {learning_rate:e}, {epochs} epochs, batch {batch_size}{soft}")
}

/// The table of trials, best first.
fn show(search: &Search, best: usize, json: bool) -> anyhow::Result<()> {
    if json {
        let trials: Vec<_> = search.trials.iter().collect();
        return print(&format!("{}\n", serde_json::json!({ "trials": trials, "best": best + 1 })));
    }
    let mut order: Vec<usize> = (0..search.trials.len()).collect();
    order.sort_by(|&a, &b| search.trials[b].score.total_cmp(&search.trials[a].score));
    let mut text = format!(
        "{:>5} {:>9} {:>13} {:>6} {:>5} {:>10} {:>6}\n",
        "trial", "score", "learning rate", "epochs", "batch", "soft share", "steps"
    );
    for index in order {
        let Ended { trial, score, steps, given_up, .. } = &search.trials[index];
        let soft = trial.soft_share.map_or_else(|| "-".to_owned(), |share| share.to_string());
        let rate = format!("{:e}", trial.learning_rate);
        text.push_str(&format!(
            "{:>5} {score:>9.4} {rate:>13} {:>6} {:>5} {soft:>10} {steps:>6}{}\n",
            index + 1,
            trial.epochs,
            trial.batch_size,
            if *given_up { "  given up" } else { "" },
        ));
    }
    print(&text)
}
