//! Comparisons into sections: which tables and plots there are, in which order, under which words.

mod differences; // where models disagree and what they confuse
mod figures; // plots, and the tables beside them

use super::compare::{Comparison, Row};
use super::document::{Align, Block, Document, Section, Table};
use super::format::{self, NOT_MEASURED, or_not_measured};
use super::{ReportInput, Role};
use differences::{confusions, disagreements};
use figures::{comparison_plots, loss_plots, reliability};

/// The whole report.
pub(super) fn document(input: &ReportInput, comparison: &Comparison) -> Document {
    let machine = input.machine.iter().map(|machine| format!("Speeds measured on: {machine}"));
    let mut blocks = vec![
        Block::Table(headline(comparison)),
        Block::Text(how_to_read(comparison)),
        Block::Table(against_teacher(comparison)),
        over_seeds(comparison),
    ];
    blocks.extend(language(comparison).map(Block::Table));
    let mut sections = vec![Section { title: "Comparison".to_owned(), blocks }];
    sections.extend(comparison_plots(input, comparison));
    sections.extend(loss_plots(input));
    sections.extend(scores(comparison));
    sections.extend(reliability(input, comparison));
    sections.extend(disagreements(comparison));
    sections.extend(confusions(comparison));
    sections.push(lineage(input));
    Document {
        title: input.title.clone(),
        notes: machine.chain(input.notes.iter().cloned()).collect(),
        lead: lead(comparison),
        sections,
    }
}

/// What a reader wants to know first: what the first student keeps, at which size and speed.
fn lead(comparison: &Comparison) -> Vec<String> {
    let teacher = comparison.reference.and_then(|index| comparison.rows.get(index));
    let student = comparison.rows.iter().find(|row| row.role == Role::Student);
    let (Some(teacher), Some(student), Some(metric)) = (teacher, student, &comparison.metric) else {
        return Vec::new();
    };
    let Some(kept) = student.against.as_ref().and_then(|against| against.kept.as_ref()) else {
        return Vec::new();
    };
    let mut text = format!(
        "“{}” keeps {} of the {} of “{}”",
        student.name,
        format::retention(kept),
        format::metric(metric),
        teacher.name
    );
    let mut terms = Vec::new();
    if let (Some(ours), Some(theirs)) = (student.size_bytes, teacher.size_bytes.filter(|&size| size > 0)) {
        terms.push(format!("{} % of its size", format::score(ours as f64 / theirs as f64)));
    }
    if let (Some(ours), Some(theirs)) = (student.latency_ms_p50.filter(|&ms| ms > 0.0), teacher.latency_ms_p50) {
        terms.push(format!("{:.2} times its speed at batch 1", theirs / ours));
    }
    if !terms.is_empty() {
        text.push_str(&format!(", at {}", terms.join(" and ")));
    }
    vec![text + "."]
}

/// Size, speed and score of each model.
fn headline(comparison: &Comparison) -> Table {
    let score = score_title(comparison);
    let mut table = Table::new(
        "",
        &[
            ("model", Align::Left),
            ("parameters", Align::Right),
            ("file size", Align::Right),
            ("median latency, batch 1", Align::Right),
            ("sequences/s", Align::Right),
            ("tokens/s", Align::Right),
            (&score, Align::Right),
            ("share of teacher's score kept", Align::Right),
        ],
    );
    for (index, row) in comparison.rows.iter().enumerate() {
        table.push([
            row.name.clone(),
            parameters(row),
            size(row),
            latency(row),
            or_not_measured(row.sequences_per_second, format::rate),
            or_not_measured(row.tokens_per_second, format::rate),
            score_cell(row),
            kept(row, comparison.reference == Some(index)),
        ]);
    }
    table
}

/// How sure the differences to the teacher are.
fn against_teacher(comparison: &Comparison) -> Table {
    let metric = comparison.metric.as_deref().map_or_else(|| "score".to_owned(), format::metric);
    let difference = format!("{metric} minus teacher's [95 %]");
    let mut columns = vec![
        ("model", Align::Left),
        ("role", Align::Left),
        (difference.as_str(), Align::Right),
        ("p, paired bootstrap", Align::Right),
    ];
    let exact = comparison.metric.as_deref() == Some("accuracy");
    if exact {
        columns.extend([
            ("right alone", Align::Right),
            ("teacher right alone", Align::Right),
            ("p, McNemar exact", Align::Right),
        ]);
    }
    let mut table = Table::new("Against the teacher, on the same examples", &columns);
    for (index, row) in comparison.rows.iter().enumerate() {
        let missing = if comparison.reference == Some(index) { "–" } else { NOT_MEASURED };
        let shown = |text: Option<String>| text.unwrap_or_else(|| missing.to_owned());
        let test = row.against.as_ref().and_then(|against| against.test.as_ref());
        let mcnemar = row.against.as_ref().and_then(|against| against.exact.as_ref());
        let mut cells = vec![
            row.name.clone(),
            role(row.role).to_owned(),
            shown(test.map(|test| format::difference(test.difference, &test.interval))),
            shown(test.map(|test| format::p_value(test.p_value))),
        ];
        if exact {
            cells.push(shown(mcnemar.map(|exact| format::grouped(exact.only_first))));
            cells.push(shown(mcnemar.map(|exact| format::grouped(exact.only_second))));
            cells.push(shown(mcnemar.map(|exact| format::p_value(exact.p_value))));
        }
        table.push(cells);
    }
    table
}

/// How far chance in training moves the score.
fn over_seeds(comparison: &Comparison) -> Block {
    if comparison.rows.iter().all(|row| row.seeds.is_none()) {
        return Block::Text(format!("Spread over training seeds: {NOT_MEASURED}."));
    }
    let mut table = Table::new(
        "Over training seeds, where several were run",
        &[
            ("model", Align::Left),
            ("seeds", Align::Right),
            ("mean", Align::Right),
            ("standard deviation", Align::Right),
            ("median", Align::Right),
            ("least", Align::Right),
            ("most", Align::Right),
        ],
    );
    for row in &comparison.rows {
        let spread = row.seeds.as_ref();
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), format::score);
        table.push([
            row.name.clone(),
            spread.map_or_else(|| NOT_MEASURED.to_owned(), |spread| format::grouped(spread.n as u64)),
            shown(spread.map(|spread| spread.mean)),
            shown(spread.and_then(|spread| spread.sd)),
            shown(spread.map(|spread| spread.median)),
            shown(spread.map(|spread| spread.min)),
            shown(spread.map(|spread| spread.max)),
        ]);
    }
    Block::Table(table)
}

/// What the models say of masked words, if that was measured.
fn language(comparison: &Comparison) -> Option<Table> {
    if comparison.rows.iter().all(|row| row.perplexity.is_none() && row.teacher_agreement.is_none()) {
        return None;
    }
    let mut table = Table::new(
        "Masked words of held-out text, before fine-tuning",
        &[("model", Align::Left), ("perplexity", Align::Right), ("teacher's first guess, % of words", Align::Right)],
    );
    for row in &comparison.rows {
        table.push([row.name.clone(), perplexity(row), agreement(row)]);
    }
    Some(table)
}

/// The headline for a terminal: the columns that fit; those of seeds and of masked words only if they were measured.
pub(super) fn terminal_headline(comparison: &Comparison) -> Table {
    let score = score_title(comparison);
    let mut columns = vec![
        ("model", Align::Left),
        ("parameters", Align::Right),
        ("size", Align::Right),
        ("latency", Align::Right),
        ("tokens/s", Align::Right),
        (score.as_str(), Align::Right),
        ("of teacher kept", Align::Right),
    ];
    let with_seeds = comparison.rows.iter().any(|row| row.seeds.is_some());
    if with_seeds {
        columns.push(("mean of seeds", Align::Right));
    }
    let with_language = language(comparison).is_some();
    if with_language {
        columns.extend([("perplexity", Align::Right), ("agreement", Align::Right)]);
    }
    let mut table = Table::new("", &columns);
    for (index, row) in comparison.rows.iter().enumerate() {
        let mut cells = vec![
            row.name.clone(),
            parameters(row),
            size(row),
            latency(row),
            or_not_measured(row.tokens_per_second, format::rate),
            score_cell(row),
            kept(row, comparison.reference == Some(index)),
        ];
        if with_seeds {
            cells.push(or_not_measured(row.seeds.as_ref().map(|seeds| seeds.mean), format::score));
        }
        if with_language {
            cells.extend([perplexity(row), agreement(row)]);
        }
        table.push(cells);
    }
    table
}

fn perplexity(row: &Row) -> String {
    or_not_measured(row.perplexity, format::rate)
}

fn agreement(row: &Row) -> String {
    or_not_measured(row.teacher_agreement, format::score)
}

fn score_title(comparison: &Comparison) -> String {
    let metric = comparison.metric.as_deref().map_or_else(|| "score".to_owned(), format::metric);
    format!("{metric} [95 %]")
}

fn parameters(row: &Row) -> String {
    row.parameters.map_or_else(|| NOT_MEASURED.to_owned(), format::parameters)
}

fn size(row: &Row) -> String {
    row.size_bytes.map_or_else(|| NOT_MEASURED.to_owned(), format::size)
}

fn latency(row: &Row) -> String {
    or_not_measured(row.latency_ms_p50, format::milliseconds)
}

fn score_cell(row: &Row) -> String {
    let (value, interval) = row.score.unzip();
    or_not_measured(value, |value| format::score_with_interval(value, interval.flatten().as_ref()))
}

fn kept(row: &Row, is_reference: bool) -> String {
    let kept = row.against.as_ref().and_then(|against| against.kept.as_ref());
    match kept {
        _ if is_reference => "100 %".to_owned(),
        Some(kept) => format::retention(kept),
        None => NOT_MEASURED.to_owned(),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Teacher => "teacher",
        Role::Student => "student",
        Role::Control => "control",
        Role::Other => "",
    }
}

fn how_to_read(comparison: &Comparison) -> String {
    let mut text = match &comparison.data {
        Some((task, split, n)) => {
            format!("Scores are × 100, on {} examples of {task} {split}. ", format::grouped(*n as u64))
        }
        None => String::new(),
    };
    text.push_str(
        "Brackets hold 95 % percentile bootstrap intervals over the examples; the share kept, the difference and its \
         two-sided p-value come from resamples shared with the teacher.",
    );
    for remark in &comparison.remarks {
        text.push_str(&format!(" {remark}."));
    }
    text
}

/// Every metric of every model on every split.
fn scores(comparison: &Comparison) -> Option<Section> {
    let mut table = Table::new(
        "",
        &[
            ("model", Align::Left),
            ("data", Align::Left),
            ("metric", Align::Left),
            ("score [95 %]", Align::Right),
            ("examples", Align::Right),
            ("rows skipped", Align::Right),
            ("inputs truncated", Align::Right),
            ("calibration error", Align::Right),
        ],
    );
    for row in &comparison.scores {
        table.push([
            row.model.clone(),
            row.data.clone(),
            format::metric(&row.metric),
            or_not_measured(Some(row.value), |value| format::score_with_interval(value, row.interval.as_ref())),
            format::grouped(row.n as u64),
            format::grouped(row.skipped as u64),
            format::grouped(row.truncated as u64),
            row.calibration_error.map_or_else(|| "–".to_owned(), format::score),
        ]);
    }
    (!table.rows.is_empty()).then(|| Section { title: "All scores".to_owned(), blocks: vec![Block::Table(table)] })
}

fn lineage(input: &ReportInput) -> Section {
    let mut table = Table::new(
        "",
        &[
            ("model", Align::Left),
            ("teacher", Align::Left),
            ("corpus (SHA-256)", Align::Left),
            ("recipe", Align::Left),
            ("before that", Align::Left),
        ],
    );
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
    for model in &input.models {
        let lineage = &model.lineage;
        table.push([
            model.name.clone(),
            known(&lineage.teacher),
            known(&lineage.corpus_sha256),
            known(&lineage.recipe),
            match lineage.history() {
                nothing if nothing.is_empty() => "–".to_owned(),
                history => history.join("; "),
            },
        ]);
    }
    Section { title: "Lineage".to_owned(), blocks: vec![Block::Table(table)] }
}
