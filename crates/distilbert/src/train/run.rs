//! A run's directory, which survives a kill at any moment:
//!
//! ```text
//! config.toml  metrics.jsonl  events.out.tfevents.*  best -> checkpoints/step-000300
//! checkpoints/step-000300/{model.safetensors,config.json,tokenizer files,optimizer.safetensors,state.json}
//! ```
//!
//! A checkpoint is whole or absent. Metrics and events are appended to; a resumed run first cuts both back to the
//! length they had at its checkpoint.

use super::{TrainError, Workload, events};
use crate::checkpoint::model_folder::{HeadChoice, ModelFolderError};
use crate::checkpoint::write::MadeFolders;
use crate::checkpoint::{
    TensorData, TensorToWrite, Tensors, link_folder, replace_folder, write_atomic, write_safetensors,
};
use crate::model::{Model, Parameter};
use crate::optim::OptimizerState;
use distilbert_kernels::Runtime;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Checkpoints kept beside the best: the last, and the one before, which a run goes on from if the last cannot be read.
const KEPT: usize = 2;

/// What an optimiser remembers, beside a checkpoint's model.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// What the names of parameters begin with that are a training's and not the model's, in `optimizer.safetensors`.
const OF_TRAINING: &str = "parameter.";

/// What decides the numbers of a run; a resumed run must agree.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The resolved configuration.
    pub config: String,
    /// Hash of the data.
    pub data: String,
    /// The instruction set's name.
    pub instruction_set: String,
}

/// Whether a directory that holds a run may be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// A directory that holds a run is refused.
    No,
    /// The run goes on, if nothing that decides its numbers has changed.
    Yes,
    /// The run goes on whatever has changed.
    Force,
}

/// What a checkpoint remembers beside weights and moments.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Steps done.
    pub step: u64,
    /// The greatest of the very first losses, each as four times those before it at most; 0 in a checkpoint that does not
    /// say.
    #[serde(default)]
    pub very_first_loss: f64,
    /// Mean loss of the first steps.
    pub first_loss: f64,
    /// Smoothed loss.
    pub smoothed_loss: f64,
    /// Best held-out score so far.
    pub best_score: Option<f64>,
    /// Its step.
    pub best_step: Option<u64>,
    /// Measurements since without a better one.
    pub without_improvement: u64,
    /// Every held-out score, as (step, score).
    #[serde(default)]
    pub scores: Vec<(u64, f64)>,
    /// Length of `metrics.jsonl`.
    metrics_bytes: u64,
    /// Length of the event file.
    events_bytes: u64,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedState {
    state: RunState,
    identity: Identity,
}

/// An open run directory.
pub struct Run {
    path: PathBuf,
    identity: Identity,
    resume: Resume,
    metrics: File,
    events: File,
    /// Step of the last checkpoint that was read or written.
    last_good: Option<u64>,
    unused: Unused,
    /// Held while the run is open, so that two processes do not write to one directory.
    _lock: File,
}

/// The directory of a run that was made for it and has nothing in it yet that anybody would miss. It goes with a run that
/// fails so early, on a full disk for one, so that the same command can be given again.
struct Unused {
    path: Option<PathBuf>,
    _made: MadeFolders,
}

impl Drop for Unused {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Checks that a run in this directory would not be taken for a part of what is there.
///
/// # Errors
/// If it holds a model or the runs of several seeds, or cannot be read.
pub fn check_use(path: &Path) -> Result<(), TrainError> {
    let refused = |reason: &str| Err(TrainError::Run { path: path.to_owned(), reason: reason.into() });
    if path.join("config.json").exists() {
        return refused("holds a model; choose another directory");
    }
    if !path.is_dir() {
        return Ok(());
    }
    let failed = |source| TrainError::Io { path: path.to_owned(), source };
    for entry in path.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_of_seed = entry.file_name().to_string_lossy().starts_with("seed-");
        if is_of_seed && entry.path().join("config.toml").exists() {
            return refused("holds the runs of several seeds; choose another directory");
        }
    }
    Ok(())
}

impl Run {
    /// Creates a run directory, or opens one that holds a run to continue it.
    ///
    /// # Errors
    /// If the directory holds a run and `resume` is [`Resume::No`], holds a model or the runs of several seeds, is in
    /// use, or cannot be written.
    pub fn open(path: &Path, rt: &Runtime, config: String, data: String, resume: Resume) -> Result<Run, TrainError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| TrainError::Io { path, source }
        };
        check_use(path)?;
        let is_new = !path.exists();
        let made = MadeFolders::make(path).map_err(io(path))?;
        let lock_path = path.join(".lock");
        let lock = OpenOptions::new().create(true).append(true).open(&lock_path).map_err(io(&lock_path))?;
        if lock.try_lock().is_err() {
            return Err(TrainError::Run {
                path: path.to_owned(),
                reason: "another process is writing this run".into(),
            });
        }
        let config_path = path.join("config.toml");
        if resume == Resume::No && config_path.exists() {
            let reason = "holds a run; choose another directory, or continue it with --resume".into();
            return Err(TrainError::Run { path: path.to_owned(), reason });
        }
        // Only now, with the lock: another process may have begun a run there meanwhile.
        let is_unused = is_new && !config_path.exists();
        let unused = Unused { path: is_unused.then(|| path.to_owned()), _made: made };
        if resume != Resume::Yes || !config_path.exists() {
            write_atomic(&config_path, config.as_bytes())?;
        }
        let append = |path: &Path| OpenOptions::new().create(true).append(true).open(path).map_err(io(path));
        let metrics = append(&path.join("metrics.jsonl"))?;
        let events = append(&events_path(path).map_err(io(path))?)?;
        let identity = Identity { config, data, instruction_set: rt.isa().name().to_owned() };
        Ok(Run { path: path.to_owned(), identity, resume, metrics, events, last_good: None, unused, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the checkpoint of one step.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join("checkpoints").join(format!("step-{step:06}"))
    }

    /// The last checkpoint that was read or written.
    pub fn last_checkpoint(&self) -> Option<PathBuf> {
        self.last_good.map(|step| self.checkpoint(step))
    }

    /// Loads the last checkpoint that can be read into model and optimiser, and cuts metrics and events back to it;
    /// `None`, and both files empty, if there is none. `warn` hears of a checkpoint that was passed over.
    ///
    /// # Errors
    /// If there are checkpoints and none can be read, or the run differs from what wrote it and is not forced.
    pub fn restore(
        &mut self,
        model: &mut Model,
        optimizer: &mut OptimizerState,
        warn: impl Fn(&str),
    ) -> Result<Option<RunState>, TrainError> {
        let steps = self.steps();
        if steps.is_empty() {
            if self.resume == Resume::Yes {
                let before = fs::read_to_string(self.path.join("config.toml")).map_err(self.io_error("config.toml"))?;
                self.check_config(&before)?;
            }
            self.cut(0, 0)?;
            let version = events::file_version(wall_time());
            self.append_events(&version)?;
            return Ok(None);
        }
        let mut unreadable: Vec<(u64, TrainError)> = Vec::new();
        for &step in steps.iter().rev() {
            let state = match self.load(step, model, optimizer) {
                Ok(state) => state,
                // Older checkpoints are of the same run.
                Err(changed @ TrainError::Changed { .. }) => return Err(changed),
                Err(error) => {
                    unreadable.push((step, error));
                    continue;
                }
            };
            for (bad, error) in &unreadable {
                let (bad, good) = (self.checkpoint(*bad), self.checkpoint(step));
                warn(&format!("{} cannot be read ({error}); going on from {}", bad.display(), good.display()));
            }
            self.cut(state.metrics_bytes, state.events_bytes)?;
            // A checkpoint's folder appears before the link that names it the best.
            self.link_best(state.best_step.unwrap_or(step))?;
            // One that was to go when the process died.
            if unreadable.is_empty() {
                self.remove_old(step)?;
            }
            self.last_good = Some(step);
            return Ok(Some(state));
        }
        let reasons: Vec<String> = unreadable.iter().map(|(_, error)| error.to_string()).collect();
        let reason = format!("no checkpoint can be read: {}", reasons.join("; "));
        Err(TrainError::Run { path: self.path.join("checkpoints"), reason })
    }

    /// Loads the checkpoint of one step into model and optimiser.
    fn load(&self, step: u64, model: &mut Model, optimizer: &mut OptimizerState) -> Result<RunState, TrainError> {
        let folder = self.checkpoint(step);
        let saved = read_state(&folder)?;
        if self.resume != Resume::Force {
            self.check_identity(&saved.identity)?;
        }
        let loaded = Model::load(&folder, HeadChoice::AsSaved).map_err(|error| match error {
            ModelFolderError::Checkpoint(error) => TrainError::Checkpoint(error),
            other => TrainError::Run { path: folder.clone(), reason: other.to_string() },
        })?;
        if loaded.model.parameters.len() != model.parameters.of_model().iter().map(Parameter::count).sum::<usize>() {
            let reason = "the checkpoint is of a model of another shape".to_owned();
            return Err(TrainError::Run { path: folder, reason });
        }
        let moments = Tensors::open_file(&folder.join(OPTIMIZER_FILE))?;
        let mut of_training = Vec::new();
        for parameter in model.parameters.of_training() {
            let name = format!("{OF_TRAINING}{}", parameter.name);
            let values = moments.read_f32(&name)?;
            if values.len() != parameter.range.len() {
                let reason = format!("`{name}` has another size than the parameter");
                return Err(TrainError::Run { path: folder, reason });
            }
            of_training.extend(values);
        }
        let weights = model.parameters.weights_mut().values;
        let (of_model, behind) = weights.split_at_mut(loaded.model.parameters.len());
        of_model.copy_from_slice(loaded.model.parameters.weights());
        behind.copy_from_slice(&of_training);
        for (prefix, arena) in
            [("first_moment.", &mut optimizer.first_moment), ("second_moment.", &mut optimizer.second_moment)]
        {
            for parameter in model.parameters.table().iter().filter(|parameter| parameter.trainable) {
                let values = moments.read_f32(&format!("{prefix}{}", parameter.name))?;
                if values.len() != parameter.range.len() {
                    let reason = format!("`{prefix}{}` has another size than the parameter", parameter.name);
                    return Err(TrainError::Run { path: folder, reason });
                }
                arena[parameter.range.clone()].copy_from_slice(&values);
            }
        }
        optimizer.step = saved.state.step;
        Ok(saved.state)
    }

    /// Appends one line of metrics and the same as TensorBoard scalars.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn log(&mut self, kind: &str, step: u64, values: &[(&'static str, f64)]) -> Result<(), TrainError> {
        let mut line = serde_json::Map::new();
        line.insert("kind".into(), kind.into());
        line.insert("step".into(), step.into());
        line.extend(values.iter().map(|&(name, value)| (name.to_owned(), value.into())));
        let mut line = serde_json::Value::Object(line).to_string();
        line.push('\n');
        self.metrics.write_all(line.as_bytes()).map_err(self.io_error("metrics.jsonl"))?;
        self.unused.path = None;
        let scalars: Vec<(String, f64)> =
            values.iter().map(|&(name, value)| (format!("{kind}/{name}"), value)).collect();
        self.append_events(&events::scalars(wall_time(), step, &scalars))
    }

    /// Writes a checkpoint of this step, points `best` to the best one, or if nothing was measured to this one, and removes
    /// old ones.
    pub(super) fn save(
        &mut self,
        workload: &dyn Workload,
        optimizer: &OptimizerState,
        state: &RunState,
    ) -> Result<(), TrainError> {
        let mut state = state.clone();
        for (file, bytes, name) in [
            (&self.metrics, &mut state.metrics_bytes, "metrics.jsonl"),
            (&self.events, &mut state.events_bytes, "events"),
        ] {
            file.sync_all().map_err(self.io_error(name))?;
            *bytes = file.metadata().map_err(self.io_error(name))?.len();
        }
        let step = state.step;
        let best_step = state.best_step;
        let saved = SavedState { state, identity: self.identity.clone() };
        replace_folder(&self.checkpoint(step), |folder| {
            let model = workload.model();
            model.save(folder)?;
            workload.save_companions(folder)?;
            let moments = [("first_moment.", &optimizer.first_moment), ("second_moment.", &optimizer.second_moment)];
            let parameters = &model.parameters;
            let of_training = parameters.of_training().iter();
            let of_training = of_training.map(|parameter| tensor(OF_TRAINING, parameters.weights(), parameter));
            let moments = moments.iter().flat_map(|(prefix, arena)| {
                let trainable = parameters.table().iter().filter(|parameter| parameter.trainable);
                trainable.map(|parameter| tensor(prefix, arena, parameter))
            });
            let tensors = moments.chain(of_training);
            write_safetensors(&folder.join(OPTIMIZER_FILE), tensors, &BTreeMap::new())?;
            let text = serde_json::to_string_pretty(&saved).expect("a run's state is plain data");
            write_atomic(&folder.join("state.json"), text.as_bytes())?;
            Ok::<(), TrainError>(())
        })?;
        self.unused.path = None;
        self.link_best(best_step.unwrap_or(step))?;
        self.last_good = Some(step);
        self.remove_old(step)
    }

    /// Removes all checkpoints but the last ones up to `step` and those that these name the best, so that a run which
    /// has to fall back finds everything as it was. Beyond `step` there are only unreadable ones.
    fn remove_old(&self, step: u64) -> Result<(), TrainError> {
        let steps = self.steps();
        let mut kept: Vec<u64> = steps.iter().copied().filter(|&other| other <= step).rev().take(KEPT).collect();
        let best = kept.iter().filter_map(|&step| read_state(&self.checkpoint(step)).ok()?.state.best_step);
        kept.extend(best.collect::<Vec<_>>());
        for old in steps.into_iter().filter(|step| !kept.contains(step)) {
            let folder = self.checkpoint(old);
            fs::remove_dir_all(&folder).map_err(|source| TrainError::Io { path: folder, source })?;
        }
        Ok(())
    }

    /// Steps that have a checkpoint, ascending.
    fn steps(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.path.join("checkpoints")).into_iter().flatten().flatten();
        let mut steps: Vec<u64> =
            entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).collect();
        steps.sort_unstable();
        steps
    }

    fn check_identity(&self, before: &Identity) -> Result<(), TrainError> {
        let now = &self.identity;
        self.check_config(&before.config)?;
        if before.data != now.data {
            return Err(self.changed("the data's hash", &before.data, &now.data));
        }
        if before.instruction_set != now.instruction_set {
            return Err(self.changed("the instruction set", &before.instruction_set, &now.instruction_set));
        }
        Ok(())
    }

    fn check_config(&self, before: &str) -> Result<(), TrainError> {
        let now = &self.identity.config;
        if before == now {
            return Ok(());
        }
        // The first line that differs says it best.
        let (old, new) = (before.lines(), now.lines());
        let lines = old.clone().count().max(new.clone().count());
        let mut pairs = old.chain(std::iter::repeat("")).zip(new.chain(std::iter::repeat("")));
        let (old, new) = pairs.by_ref().take(lines).find(|(old, new)| old != new).unwrap_or(("", ""));
        Err(self.changed("the configuration", old, new))
    }

    fn changed(&self, what: &'static str, before: &str, now: &str) -> TrainError {
        TrainError::Changed { path: self.path.clone(), what, before: before.to_owned(), now: now.to_owned() }
    }

    fn cut(&mut self, metrics_bytes: u64, events_bytes: u64) -> Result<(), TrainError> {
        self.metrics.set_len(metrics_bytes).map_err(self.io_error("metrics.jsonl"))?;
        self.events.set_len(events_bytes).map_err(self.io_error("events"))
    }

    fn append_events(&mut self, record: &[u8]) -> Result<(), TrainError> {
        self.events.write_all(record).map_err(self.io_error("events"))
    }

    /// Points `best` to a checkpoint, by a link that appears in one step.
    fn link_best(&self, step: u64) -> Result<(), TrainError> {
        let target = Path::new("checkpoints").join(format!("step-{step:06}"));
        Ok(link_folder(&target, &self.path.join("best"))?)
    }

    fn io_error(&self, name: &'static str) -> impl FnOnce(std::io::Error) -> TrainError + use<> {
        let path = self.path.join(name);
        move |source| TrainError::Io { path, source }
    }
}

fn read_state(folder: &Path) -> Result<SavedState, TrainError> {
    let path = folder.join("state.json");
    let text = fs::read_to_string(&path).map_err(|source| TrainError::Io { path: path.clone(), source })?;
    serde_json::from_str(&text).map_err(|error| TrainError::Run { path, reason: format!("not a run's state: {error}") })
}

/// One parameter's part of an arena, under a prefix.
fn tensor<'a>(prefix: &str, arena: &'a [f32], parameter: &Parameter) -> TensorToWrite<'a> {
    TensorToWrite {
        name: format!("{prefix}{}", parameter.name).into(),
        shape: parameter.shape.clone(),
        data: TensorData::F32(&arena[parameter.range.clone()]),
    }
}

/// The run's one event file: the one that is there, or a new one named after the time.
fn events_path(run: &Path) -> std::io::Result<PathBuf> {
    const PREFIX: &str = "events.out.tfevents.";
    let mut found: Vec<PathBuf> = fs::read_dir(run)?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found.into_iter().next().unwrap_or_else(|| run.join(format!("{PREFIX}{}.distilbert", wall_time() as u64))))
}

/// Seconds since 1970, for TensorBoard's time axis only.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}
