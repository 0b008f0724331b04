//! What waits for the engine, and whose turn it is.
//!
//! Turns are counted in tokens, twice: among clients, and among the requests of a client. Who has had the fewest tokens
//! is next. Whoever comes new begins where a clock stands that advances by each one's fair share of what is done, so that
//! nobody saves turns up and nobody waits for ever behind newcomers. A short request therefore overtakes a long one that
//! came before it, and the long one still advances.
//!
//! # Source
//! Weighted fair queueing with equal weights: Demers, Keshav, Shenker 1989.

use super::{Answer, EngineError, Output, Work};
use crate::model::ServedModel;
use distilbert::data::batch::Batch;
use distilbert::tokenizer::Encoding;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Turns are counted in thousandths of a token, so that shares of one are not lost.
const TURN_PER_TOKEN: u64 = 1000;

/// Who asks: all requests of one client share its turns.
pub type Client = Arc<str>;

/// A request on its way through the engine.
pub struct Job {
    /// Names it among all jobs.
    pub id: u64,
    /// Whose it is.
    pub client: Client,
    /// The model that it asks.
    pub model: Arc<ServedModel>,
    /// What it asks of the model.
    pub work: Work,
    /// What the model reads.
    pub encodings: Arc<[Encoding]>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Answer, EngineError>>,
    /// When it came.
    pub queued: Instant,
    progress: Progress,
}

#[derive(Default)]
struct Progress {
    /// Sequences that went into batches.
    taken: usize,
    /// What it has had, from where it began.
    turn: u64,
    outputs: Vec<Output>,
    /// Time until its first batch, and time in batches.
    waited: Option<Duration>,
    running: Duration,
}

impl Job {
    /// A job that came now.
    pub fn new(
        id: u64,
        client: Client,
        model: Arc<ServedModel>,
        work: Work,
        encodings: Arc<[Encoding]>,
        reply: oneshot::Sender<Result<Answer, EngineError>>,
    ) -> Job {
        Job { id, client, model, work, encodings, reply, queued: Instant::now(), progress: Progress::default() }
    }

    /// Length of the next sequence that no batch has taken.
    fn next_len(&self) -> Option<usize> {
        self.encodings.get(self.progress.taken).map(Encoding::len)
    }

    fn waiting_tokens(&self) -> usize {
        self.encodings[self.progress.taken..].iter().map(Encoding::len).sum()
    }
}

struct ClientQueue {
    client: Client,
    /// What it has had, from where it began.
    turn: u64,
    /// Where its next job begins.
    clock: u64,
    /// With sequences that wait or run.
    jobs: Vec<Job>,
}

/// Sequences of one model that are run together.
pub struct Taken {
    /// The model.
    pub model: Arc<ServedModel>,
    /// The sequences end to end.
    pub batch: Batch,
    /// Of each sequence.
    pub sequences: Vec<TakenSequence>,
}

/// A sequence of a batch.
pub struct TakenSequence {
    /// Its job.
    pub job: u64,
    /// What is asked; of one kind for all sequences of a batch.
    pub work: Work,
    encodings: Arc<[Encoding]>,
    index: usize,
}

impl TakenSequence {
    /// What the model reads.
    pub fn encoding(&self) -> &Encoding {
        &self.encodings[self.index]
    }
}

/// Jobs that wait or run.
#[derive(Default)]
pub struct Queue {
    clients: Vec<ClientQueue>,
    /// Where the next client begins.
    clock: u64,
    waiting_tokens: usize,
}

impl Queue {
    /// Adds a job.
    pub fn push(&mut self, mut job: Job) {
        self.waiting_tokens += job.waiting_tokens();
        let place = self.clients.iter().position(|queue| queue.client == job.client).unwrap_or_else(|| {
            let client = Arc::clone(&job.client);
            self.clients.push(ClientQueue { client, turn: self.clock, clock: 0, jobs: Vec::new() });
            self.clients.len() - 1
        });
        let queue = &mut self.clients[place];
        job.progress.turn = queue.clock;
        queue.jobs.push(job);
    }

    /// Tokens that no batch has taken.
    pub fn waiting_tokens(&self) -> usize {
        self.waiting_tokens
    }

    /// Those of one client.
    pub fn waiting_tokens_of(&self, client: &Client) -> usize {
        let queue = self.clients.iter().find(|queue| queue.client == *client);
        queue.map_or(0, |queue| queue.jobs.iter().map(Job::waiting_tokens).sum())
    }

    /// Jobs that wait or run.
    pub fn jobs(&self) -> usize {
        self.clients.iter().map(|queue| queue.jobs.len()).sum()
    }

    /// The next batch: sequences in turn, all of the first one's model and kind of work, of at most `budget` tokens
    /// unless the first alone has more. `None` if nothing waits.
    pub fn take(&mut self, budget: usize) -> Option<Taken> {
        let (client, job) = self.next(|_, _| true)?;
        let first = &self.clients[client].jobs[job];
        let (model, work) = (Arc::clone(&first.model), first.work.clone());
        let mut taken = Taken { model, batch: Batch::new(), sequences: Vec::new() };
        self.take_sequence(client, job, &mut taken);
        loop {
            let room = budget.saturating_sub(taken.batch.tokens());
            let fits =
                |job: &Job, len: usize| len <= room && Arc::ptr_eq(&job.model, &taken.model) && job.work.is_like(&work);
            let Some((client, job)) = self.next(fits) else { return Some(taken) };
            self.take_sequence(client, job, &mut taken);
        }
    }

    /// Client and job whose turn it is, of those with a next sequence that `fits`.
    fn next(&self, fits: impl Fn(&Job, usize) -> bool) -> Option<(usize, usize)> {
        let next_job = |queue: &ClientQueue| {
            let waiting =
                queue.jobs.iter().enumerate().filter(|(_, job)| job.next_len().is_some_and(|len| fits(job, len)));
            waiting.min_by_key(|(_, job)| (job.progress.turn, job.id)).map(|(place, job)| (place, job.id))
        };
        let clients = self.clients.iter().enumerate();
        let able = clients.filter_map(|(place, queue)| next_job(queue).map(|(job, id)| (queue.turn, id, place, job)));
        able.min().map(|(_, _, client, job)| (client, job))
    }

    fn take_sequence(&mut self, client: usize, job: usize, into: &mut Taken) {
        let clients = self.clients.len() as u64;
        let queue = &mut self.clients[client];
        let jobs = queue.jobs.len() as u64;
        let job = &mut queue.jobs[job];
        let index = job.progress.taken;
        let encoding = &job.encodings[index];
        let tokens = encoding.len();
        into.batch.push(&encoding.input_ids, Some(&encoding.token_type_ids));
        into.sequences.push(TakenSequence {
            job: job.id,
            work: job.work.clone(),
            encodings: Arc::clone(&job.encodings),
            index,
        });
        job.progress.waited.get_or_insert(job.queued.elapsed());
        job.progress.taken += 1;
        self.waiting_tokens -= tokens;

        let cost = tokens as u64 * TURN_PER_TOKEN;
        job.progress.turn += cost;
        queue.turn += cost;
        let least = |turns: &mut dyn Iterator<Item = u64>| turns.min().unwrap_or(0);
        queue.clock = (queue.clock + cost / jobs).max(least(&mut queue.jobs.iter().map(|job| job.progress.turn)));
        self.clock = (self.clock + cost / clients).max(least(&mut self.clients.iter().map(|queue| queue.turn)));
    }

    /// Gives a batch's outputs to their jobs, in the order of its sequences, and answers those that are complete; jobs
    /// that were given up meanwhile have gone.
    pub fn give(&mut self, taken: &Taken, outputs: Vec<Output>, running: Duration) {
        for (sequence, output) in taken.sequences.iter().zip(outputs) {
            let Some(job) = self.job(sequence.job) else { continue };
            job.progress.outputs.push(output);
        }
        for id in ids(taken) {
            let Some(job) = self.job(id) else { continue };
            job.progress.running += running;
            if job.progress.outputs.len() == job.encodings.len()
                && let Some(job) = self.remove(id)
            {
                let Progress { outputs, waited, running, .. } = job.progress;
                // Who asked may have gone this moment.
                let _ = job.reply.send(Ok(Answer { outputs, waited: waited.unwrap_or_default(), running }));
            }
        }
    }

    /// Answers all jobs of a batch with an error.
    pub fn fail(&mut self, taken: &Taken, error: &EngineError) {
        for id in ids(taken) {
            if let Some(job) = self.remove(id) {
                let _ = job.reply.send(Err(error.clone()));
            }
        }
    }

    fn job(&mut self, id: u64) -> Option<&mut Job> {
        self.clients.iter_mut().flat_map(|queue| &mut queue.jobs).find(|job| job.id == id)
    }

    /// Takes a job out, if it is still there.
    pub fn remove(&mut self, id: u64) -> Option<Job> {
        let client = self.clients.iter().position(|queue| queue.jobs.iter().any(|job| job.id == id))?;
        let queue = &mut self.clients[client];
        let place = queue.jobs.iter().position(|job| job.id == id)?;
        let job = queue.jobs.swap_remove(place);
        if queue.jobs.is_empty() {
            self.clients.swap_remove(client);
        }
        self.waiting_tokens -= job.waiting_tokens();
        Some(job)
    }
}

/// The jobs of a batch, each once.
fn ids(taken: &Taken) -> Vec<u64> {
    let mut ids: Vec<u64> = taken.sequences.iter().map(|sequence| sequence.job).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Share;
    use crate::model::ServedTask;
    use distilbert::model::{Model, ModelConfig, Problem};
    use distilbert::tokenizer::Tokenizer;
    use tokio::sync::oneshot::Receiver;

    fn model() -> Arc<ServedModel> {
        let config = r#"{"model_type": "distilbert", "dim": 4, "n_heads": 1, "n_layers": 1, "hidden_dim": 4,
                         "vocab_size": 50, "max_position_embeddings": 512}"#;
        let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
        let labels = vec!["a".to_owned()];
        Arc::new(ServedModel {
            name: "m".into(),
            source: String::new(),
            model: Model::random(ModelConfig::from_json(config).unwrap(), 1),
            tokenizer: Tokenizer::from_vocabulary(tokens, true).unwrap(),
            task: ServedTask::Classify { problem: Problem::Regression, labels, temperature: 1.0, trained_on: None },
            max_length: 512,
            parity: None,
            share: Share::default(),
        })
    }

    struct Test {
        queue: Queue,
        model: Arc<ServedModel>,
        next: u64,
    }

    impl Test {
        fn new() -> Test {
            Test { queue: Queue::default(), model: model(), next: 0 }
        }

        /// Queues sequences of these lengths; the job's number and where its answer comes.
        fn push(&mut self, client: &str, lengths: &[usize]) -> (u64, Receiver<Result<Answer, EngineError>>) {
            self.push_to(&Arc::clone(&self.model), Work::Logits, client, lengths)
        }

        fn push_to(
            &mut self,
            model: &Arc<ServedModel>,
            work: Work,
            client: &str,
            lengths: &[usize],
        ) -> (u64, Receiver<Result<Answer, EngineError>>) {
            let (reply, receiver) = oneshot::channel();
            let encoding = |&length: &usize| Encoding {
                input_ids: vec![2; length],
                token_type_ids: vec![0; length],
                ..Encoding::default()
            };
            let encodings: Arc<[Encoding]> = lengths.iter().map(encoding).collect();
            let id = self.next;
            self.next += 1;
            self.queue.push(Job::new(id, client.into(), Arc::clone(model), work, encodings, reply));
            (id, receiver)
        }

        /// The jobs of the next batch's sequences.
        fn take(&mut self, budget: usize) -> Vec<u64> {
            let taken = self.queue.take(budget).expect("a batch");
            let outputs = taken.sequences.iter().map(|_| Output::Numbers(vec![taken.batch.tokens() as f32]));
            self.queue.give(&taken, outputs.collect(), Duration::from_millis(1));
            taken.sequences.iter().map(|sequence| sequence.job).collect()
        }
    }

    #[test]
    fn batches_fill_the_budget_and_a_longer_sequence_runs_alone() {
        let mut test = Test::new();
        test.push("a", &[600, 3, 3, 3]);
        assert_eq!(test.take(10).len(), 1);
        assert_eq!(test.take(10).len(), 3);
        assert!(test.queue.take(10).is_none());
        assert_eq!((test.queue.jobs(), test.queue.waiting_tokens()), (0, 0));
    }

    #[test]
    fn a_request_is_answered_in_the_order_of_its_sequences_over_several_batches() {
        let mut test = Test::new();
        let (_, mut answer) = test.push("a", &[4, 5, 6]);
        test.take(4);
        assert!(answer.try_recv().is_err());
        test.take(5);
        test.take(6);
        let outputs = answer.try_recv().unwrap().unwrap().outputs;
        assert_eq!(outputs, [4.0, 5.0, 6.0].map(|x| Output::Numbers(vec![x])));
    }

    #[test]
    fn a_batch_is_of_one_model_and_one_kind_of_work() {
        let mut test = Test::new();
        let other = model();
        let (a, _keep) = test.push("a", &[3, 3]);
        let (b, _keep) = test.push_to(&other, Work::Logits, "b", &[3, 3]);
        let (c, _keep) = test.push_to(&test.model.clone(), Work::States, "c", &[3, 3]);
        let batches = [test.take(100), test.take(100), test.take(100)];
        assert_eq!(batches, [[a, a], [b, b], [c, c]]);
    }

    #[test]
    fn clients_share_the_tokens_whatever_the_number_of_their_requests() {
        let mut test = Test::new();
        let many: Vec<_> = (0..50).map(|_| test.push("greedy", &[10; 10])).collect();
        let (modest, _keep) = test.push("modest", &[10; 20]);
        let mut of_modest = 0;
        for _ in 0..10 {
            of_modest += test.take(40).into_iter().filter(|&job| job == modest).count();
        }
        assert_eq!(of_modest, 20, "half of 40 sequences, since {} others belong to one client", many.len());
    }

    #[test]
    fn a_short_request_passes_a_long_one_of_its_own_client() {
        let mut test = Test::new();
        let (long, _keep) = test.push("a", &[10; 100]);
        test.take(40);
        let (short, mut answer) = test.push("a", &[5]);
        let batch = test.take(40);
        assert!(batch.contains(&short) && batch.contains(&long), "{batch:?}");
        assert!(answer.try_recv().is_ok());
    }

    #[test]
    fn a_long_request_is_not_starved_by_newcomers() {
        for same_client in [true, false] {
            let mut test = Test::new();
            let (long, mut answer) = test.push("long", &[100; 5]);
            let mut batches = 0;
            let mut receivers = Vec::new();
            while answer.try_recv().is_err() {
                for newcomer in 0..2 {
                    let client = if same_client { "long".to_owned() } else { format!("{batches} {newcomer}") };
                    receivers.push(test.push(&client, &[50]));
                }
                // What newcomers bring is all that a batch holds.
                test.take(100);
                batches += 1;
                assert!(batches < 200, "job {long} starves");
            }
        }
    }

    #[test]
    fn a_job_that_is_given_up_frees_its_tokens_also_while_it_runs() {
        let mut test = Test::new();
        let (first, _keep) = test.push("a", &[3, 3, 3]);
        let (second, mut answer) = test.push("a", &[3]);
        let taken = test.queue.take(6).unwrap();
        assert!(test.queue.remove(first).is_some());
        assert!(test.queue.remove(first).is_none());
        test.queue.give(&taken, vec![Output::Numbers(vec![1.0]); 2], Duration::ZERO);
        assert!(answer.try_recv().is_ok(), "{second}");
        assert_eq!((test.queue.jobs(), test.queue.waiting_tokens()), (0, 0));
    }

    #[test]
    fn a_batch_that_fails_fails_its_jobs_and_no_other() {
        let mut test = Test::new();
        let (_, mut first) = test.push("a", &[6, 6]);
        let taken = test.queue.take(6).unwrap();
        let (_, mut second) = test.push("b", &[6]);
        test.queue.fail(&taken, &EngineError::Panicked);
        assert_eq!(first.try_recv().unwrap().unwrap_err(), EngineError::Panicked);
        test.take(6);
        assert!(second.try_recv().unwrap().is_ok());
        assert_eq!(test.queue.jobs(), 0);
    }
}
