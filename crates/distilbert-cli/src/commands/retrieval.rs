//! `distilbert evaluate --retrieval`: how well a sentence encoder finds the documents that were judged relevant, by brute
//! force over the whole collection.

use super::evaluate::{QUERIES_FILE, Scored};
use super::similarity::{Against, show};
use crate::console::Console;
use crate::sentence_encoder::SentenceEncoder;
use anyhow::{Context, bail};
use distilbert::data::retrieval::{Entries, Entry, Judgements, read_judgements};
use distilbert::evaluate::EvaluationResult;
use distilbert::evaluate::retrieval::{DEPTH, QueryScores, Top};
use distilbert::evaluate::statistics::{Bootstrap, Retention, mean_interval, paired_means};
use distilbert::predict::EmbeddingRunner;
use distilbert::progress::Progress;
use distilbert_kernels::matmul::{Epilogue, PackedMatrix, matmul};
use distilbert_kernels::{Precision, Runtime};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Documents that are embedded and compared at a time.
const BLOCK_DOCUMENTS: usize = 256;

/// Queries that are compared at a time: the scores of a block of documents stay below 8 MB.
const BLOCK_QUERIES: usize = 8192;

/// What `evaluate --retrieval` was asked for.
pub struct Request<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The model.
    pub model: &'a SentenceEncoder,
    /// Another one on the same collection, by name.
    pub against: Option<(&'a str, &'a SentenceEncoder)>,
    /// First numbers of an embedding to compare.
    pub dimensions: Option<usize>,
    /// The collection, as results name it.
    pub task: &'a str,
    /// `corpus.jsonl` and `queries.jsonl`.
    pub folder: &'a Path,
    /// The judgements.
    pub qrels: &'a Path,
    /// Print one line of JSON.
    pub json: bool,
    /// Where to write results.
    pub output: Option<&'a Path>,
}

/// Queries with judgements, and what they are judged on.
struct Collection<'a> {
    folder: &'a Path,
    queries: Vec<Entry>,
    judgements: Vec<Judgements>,
    /// Judged documents that are not there.
    missing: usize,
}

/// Scores of every query, and what was counted on the way.
struct Found {
    scores: Vec<[f64; 4]>,
    documents: usize,
    truncated: usize,
}

/// Scores the model, and the one it is compared with, on the collection.
pub fn run(request: &Request<'_>, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let collection = Collection::read(request.folder, request.qrels, console)?;
    let found = collection.search(request.model, request.dimensions, rt, console)?;
    let bootstrap = Bootstrap::default();
    let column =
        |scores: &[[f64; 4]], metric: usize| -> Vec<f64> { scores.iter().map(|scores| scores[metric]).collect() };
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    let names = QueryScores::NAMES.into_iter().enumerate();
    let result = EvaluationResult {
        task: request.task.to_owned(),
        split: request.qrels.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        n: collection.queries.len(),
        metrics: names.clone().map(|(metric, name)| (name, mean(&column(&found.scores, metric)))).collect(),
        intervals: names
            .clone()
            .map(|(metric, name)| (name, mean_interval(&column(&found.scores, metric), &bootstrap)))
            .collect(),
        calibration_error: None,
        by_type: Default::default(),
        null_thresholds: None,
        skipped: collection.missing,
        truncated: found.truncated,
    };
    console.say(&format!("{} queries with judgements, {} documents", collection.queries.len(), found.documents));
    if found.truncated > 0 {
        let (cut, all) = (found.truncated, found.documents + collection.queries.len());
        let most = request.model.max_length;
        console.warn(&format!("{cut} of {all} documents and queries were cut to {most} tokens"));
    }
    let against = match request.against {
        None => None,
        Some((name, other)) => {
            let other = collection.search(other, request.dimensions, rt, console)?;
            let (mut metrics, mut tests, mut kept) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            for (metric, name) in names {
                let (first, second) = (column(&found.scores, metric), column(&other.scores, metric));
                let reference = mean(&second);
                tests.insert(name.to_owned(), paired_means(&first, &second, &bootstrap));
                let share = (reference > 0.0).then(|| Retention { share: mean(&first) / reference, interval: None });
                kept.insert(name.to_owned(), share);
                metrics.insert(name.to_owned(), reference);
            }
            Some(Against { model: name.to_owned(), metrics, tests, kept })
        }
    };
    if let Some(folder) = request.output {
        let lines = collection.queries.iter().zip(&found.scores).map(|(query, scores)| {
            let mut line = serde_json::Map::from_iter([("query".to_owned(), query.id.clone().into())]);
            line.extend(
                QueryScores::NAMES.into_iter().map(str::to_owned).zip(scores.iter().map(|&score| score.into())),
            );
            format!("{}\n", serde_json::Value::Object(line))
        });
        let lines = (QUERIES_FILE.to_owned(), lines.collect::<String>().into_bytes());
        let mut scored = Scored::new(result.clone(), (), request.model.model.precision());
        scored.model = Some(request.name.to_owned());
        scored.evaluations().write(folder, &[lines])?;
    }
    show(&result, against.as_ref(), request.json)
}

impl<'a> Collection<'a> {
    /// Reads judgements and the queries that have some. The documents are read when they are searched; here they are
    /// looked through, so that what is wrong with them is told before hours of work.
    fn read(folder: &'a Path, qrels: &Path, console: &Console) -> anyhow::Result<Collection<'a>> {
        let mut judged = read_judgements(qrels)?;
        let mut missing: BTreeSet<String> = judged.values().flat_map(|of_query| of_query.keys().cloned()).collect();
        let (mut queries, mut judgements) = (Vec::new(), Vec::new());
        for query in Entries::open(&folder.join("queries.jsonl"))? {
            let query = query?;
            if let Some(of_query) = judged.remove(&query.id) {
                queries.push(query);
                judgements.push(of_query);
            }
        }
        if let Some(missing) = judged.keys().next() {
            bail!(
                "{}: expected every judged query, found none with the id `{missing}`",
                folder.join("queries.jsonl").display()
            );
        }
        console.begin("looking through documents", None, "documents");
        for document in Entries::open(&folder.join("corpus.jsonl"))? {
            if console.stop_requested() {
                bail!("stopped");
            }
            missing.remove(&document?.id);
            console.advance(1);
        }
        console.end();
        if let Some(first) = missing.first() {
            let (path, count) = (qrels.display(), missing.len());
            console.warn(&format!(
                "{path}: {count} judged documents are not in corpus.jsonl and count as not found; the first: `{first}`"
            ));
        }
        Ok(Collection { folder, queries, judgements, missing: missing.len() })
    }

    /// Compares every query with every document. Memory holds the queries' embeddings and best documents, the ids of all
    /// documents, and one block of documents.
    fn search(
        &self,
        encoder: &SentenceEncoder,
        dimensions: Option<usize>,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Found> {
        let mut runner = EmbeddingRunner::new(&encoder.model, dimensions)?;
        let width = runner.dimensions();
        let prompt = |name| encoder.settings.prompts.get(name).map_or("", String::as_str);
        let texts: Vec<&str> = self.queries.iter().map(|query| query.text.as_str()).collect();
        let queries = encoder.vectors(&mut runner, prompt("query"), &texts, "embedding queries", rt, console)?;
        let mut truncated = queries.truncated.len();
        let mut tops = vec![Top::new(DEPTH); self.queries.len()];
        let mut ids: Vec<String> = Vec::new();
        let mut scores = Vec::new();

        let path = self.folder.join("corpus.jsonl");
        let mut entries = Entries::open(&path)?.peekable();
        console.begin("embedding and comparing documents", None, "documents");
        while entries.peek().is_some() {
            if console.stop_requested() {
                bail!("stopped");
            }
            let block: Vec<Entry> = entries.by_ref().take(BLOCK_DOCUMENTS).collect::<Result<_, _>>()?;
            let texts: Vec<&str> = block.iter().map(|entry| entry.text.as_str()).collect();
            let documents = encoder.vectors(&mut runner, prompt("document"), &texts, "", rt, &())?;
            truncated += documents.truncated.len();
            let packed = PackedMatrix::from_nk(rt, Precision::F32, &documents.vectors, block.len(), width);
            let first = u32::try_from(ids.len()).context("more documents than can be numbered")?;
            ids.extend(block.into_iter().map(|entry| entry.id));
            let of_queries = queries.vectors.chunks(BLOCK_QUERIES * width);
            for (block, (of_queries, tops)) in of_queries.zip(tops.chunks_mut(BLOCK_QUERIES)).enumerate() {
                let documents = ids.len() - first as usize;
                scores.resize(tops.len() * documents, 0.0);
                matmul(rt, of_queries, &packed, &mut scores, Epilogue::None); // [queries, documents]
                let names = &self.queries[block * BLOCK_QUERIES..];
                rt.parallel_chunks_mut(tops, 16, |task, tops| {
                    for (index, top) in tops.iter_mut().enumerate() {
                        let query = task * 16 + index;
                        for (score, at) in scores[query * documents..][..documents].iter().zip(first..) {
                            // As in BEIR: a document of the query's own id is the query itself.
                            if ids[at as usize] != names[query].id {
                                top.push(*score, at, &ids);
                            }
                        }
                    }
                });
            }
            console.advance(documents.tokens.len() as u64);
        }
        console.end();
        if ids.is_empty() {
            bail!("{}: expected documents, found none", path.display());
        }
        let scores = tops.into_iter().zip(&self.judgements);
        let scores = scores.map(|(top, judgements)| QueryScores::of(judgements, top.ranking(&ids)).values()).collect();
        Ok(Found { scores, documents: ids.len(), truncated })
    }
}
