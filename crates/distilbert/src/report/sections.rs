//! Comparisons into sections: which tables and plots there are, in which order, under which words.

use super::compare::{Bucket, Case, Comparison, Confusion, Disagreement, Row};
use super::document::{Align, Block, Cell, Column, Document, Figure, Section, Table, TextExample};
use super::format::{self, NOT_MEASURED, or_not_measured};
use super::plots::{self, Axes, Point, Series};
use super::{ModelReport, ReportInput, Role};
use crate::evaluate::calibration::ConfidenceBin;

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

/// Score against size and latency, latency by length.
fn comparison_plots(input: &ReportInput, comparison: &Comparison) -> Option<Section> {
    let metric = comparison.metric.as_deref().map_or_else(|| "score".to_owned(), format::metric);
    let against = |x: &dyn Fn(&Row) -> Option<f64>| -> Vec<Series> {
        let point = |row: &Row| {
            let (value, interval) = row.score?;
            let interval = interval.map(|interval| (100.0 * interval.low, 100.0 * interval.high));
            Some(Point { x: x(row)?, y: 100.0 * value, interval })
        };
        let rows = comparison.rows.iter().enumerate();
        rows.filter_map(|(index, row)| Some(Series { number: index, points: vec![point(row)?] })).collect()
    };
    let lengths: Vec<Series> = (input.models.iter().enumerate())
        .filter(|(_, model)| !model.latency_by_length.is_empty())
        .map(|(index, model)| Series {
            number: index,
            points: model.latency_by_length.iter().map(|&(tokens, ms)| Point::at(tokens as f64, ms)).collect(),
        })
        .collect();
    let score_axis = format!("{metric} × 100");
    let size = against(&|row| row.size_bytes.map(|bytes| bytes as f64 / 1e6));
    let latency = against(&|row| row.latency_ms_p50);
    let intervals = "Vertical bars are the scores' 95 % intervals.";
    let figures: Vec<Figure> = [
        (
            format!("{metric} against size"),
            intervals,
            plots::scatter(&size, &Axes::new("file size, MB", &score_axis)),
            size,
        ),
        (
            format!("{metric} against latency"),
            intervals,
            plots::scatter(&latency, &Axes::new("median latency at batch 1, ms", &score_axis)),
            latency,
        ),
        (
            "Latency by length".to_owned(),
            "Median over repeated runs of one sequence at a time.",
            plots::lines(&lengths, &Axes::new("input length, tokens", "latency, ms").marked().with_zero()),
            lengths,
        ),
    ]
    .into_iter()
    .filter_map(|(title, caption, svg, series)| {
        Some(Figure { title, caption: caption.to_owned(), svg: svg?, legend: legend(&series, &input.models) })
    })
    .collect();
    let table = lengths_table(&input.models);
    let blocks: Vec<Block> =
        (!figures.is_empty()).then_some(Block::Figures(figures)).into_iter().chain(table).collect();
    (!blocks.is_empty()).then(|| Section { title: "Score, size and speed".to_owned(), blocks })
}

fn legend(series: &[Series], models: &[ModelReport]) -> Vec<(usize, String)> {
    let named = |series: &Series| Some((series.number, models.get(series.number)?.name.clone()));
    series.iter().filter_map(named).collect()
}

fn lengths_table(models: &[ModelReport]) -> Option<Block> {
    let measured: Vec<&ModelReport> = models.iter().filter(|model| !model.latency_by_length.is_empty()).collect();
    let mut lengths: Vec<usize> =
        measured.iter().flat_map(|model| model.latency_by_length.iter().map(|&(tokens, _)| tokens)).collect();
    lengths.sort_unstable();
    lengths.dedup();
    if lengths.is_empty() {
        return None;
    }
    let mut table = Table::new("Median latency at batch 1 by input length in tokens", &[("model", Align::Left)]);
    table.columns.extend(lengths.iter().map(|length| Column { title: length.to_string(), align: Align::Right }));
    for model in measured {
        let latency =
            |length: &usize| model.latency_by_length.iter().find(|(tokens, _)| tokens == length).map(|&(_, ms)| ms);
        let cells = lengths.iter().map(|length| or_not_measured(latency(length), format::milliseconds));
        table.push(std::iter::once(model.name.clone()).chain(cells));
    }
    Some(Block::Table(table))
}

/// One plot for each loss that a model has a curve of.
fn loss_plots(input: &ReportInput) -> Option<Section> {
    let mut names: Vec<&str> = Vec::new();
    for curve in input.models.iter().flat_map(|model| &model.loss_curves) {
        if !names.contains(&curve.name.as_str()) {
            names.push(&curve.name);
        }
    }
    let figures: Vec<Figure> = names
        .into_iter()
        .filter_map(|name| {
            let series: Vec<Series> = (input.models.iter().enumerate())
                .flat_map(|(index, model)| model.loss_curves.iter().map(move |curve| (index, curve)))
                .filter(|(_, curve)| curve.name == name)
                .map(|(number, curve)| Series {
                    number,
                    points: curve.points.iter().map(|&(step, loss)| Point::at(step, loss)).collect(),
                })
                .collect();
            let svg = plots::lines(&series, &Axes::new("step", "loss"))?;
            let caption = "Long curves are means over equal spans of steps.".to_owned();
            Some(Figure { title: name.to_owned(), caption, svg, legend: legend(&series, &input.models) })
        })
        .collect();
    (!figures.is_empty()).then(|| Section { title: "Training".to_owned(), blocks: vec![Block::Figures(figures)] })
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

/// Whether the probabilities mean what they say.
fn reliability(input: &ReportInput, comparison: &Comparison) -> Option<Section> {
    let points = |bins: &[ConfidenceBin]| {
        let filled = bins.iter().filter(|bin| bin.n > 0);
        filled.map(|bin| Point::at(bin.confidences / bin.n as f64, bin.right as f64 / bin.n as f64)).collect()
    };
    let mut series: Vec<Series> = (comparison.reliability.iter())
        .map(|(number, bins)| Series { number: *number, points: points(bins) })
        .collect();
    let mut legend = legend(&series, &input.models);
    legend.push((input.models.len(), "as sure as right".to_owned()));
    series.push(Series { number: input.models.len(), points: vec![Point::at(0.0, 0.0), Point::at(1.0, 1.0)] });
    let axes = Axes::new("confidence (mean of the largest probability)", "share right").marked().with_zero();
    let svg = plots::lines(&series, &axes).filter(|_| !comparison.reliability.is_empty())?;
    let mut table = Table::new(
        "Answers (of taggers: words) by confidence, in 15 bins of equal width",
        &[
            ("model", Align::Left),
            ("confidence", Align::Left),
            ("answers", Align::Right),
            ("mean confidence × 100", Align::Right),
            ("right × 100", Align::Right),
        ],
    );
    for (index, bins) in &comparison.reliability {
        let name = input.models.get(*index).map(|model| model.name.clone()).unwrap_or_default();
        let width = 1.0 / bins.len() as f64;
        for (place, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.n > 0) {
            let (low, high) = (place as f64 * width, (place + 1) as f64 * width);
            table.push([
                name.clone(),
                format!("{low:.2} to {high:.2}"),
                format::grouped(bin.n),
                format::score(bin.confidences / bin.n as f64),
                format::score(bin.right as f64 / bin.n as f64),
            ]);
        }
    }
    let caption = "Above the diagonal a model is more often right than it says, below it is too sure.".to_owned();
    let figure = Figure { title: "Reliability".to_owned(), caption, svg, legend };
    let blocks = vec![Block::Figures(vec![figure]), Block::Table(table)];
    Some(Section { title: "Calibration".to_owned(), blocks })
}

fn disagreements(comparison: &Comparison) -> Option<Section> {
    let blocks: Vec<Block> = (comparison.disagreements.iter().enumerate())
        .map(|(index, found)| Block::Part {
            title: format!("“{}” against “{}”", found.model, found.reference),
            // The first pair is the one the report is about.
            open: index == 0,
            blocks: disagreement(found),
        })
        .collect();
    (!blocks.is_empty()).then(|| Section { title: "Where the models disagree".to_owned(), blocks })
}

fn disagreement(found: &Disagreement) -> Vec<Block> {
    let regression = found.by_class.is_empty() && found.by_confidence.is_empty() && found.differing == 0;
    let mut blocks = Vec::new();
    if !regression {
        blocks.push(Block::Text(format!(
            "The two differ on {} of {} examples of {} ({} %).",
            format::grouped(found.differing as u64),
            format::grouped(found.n as u64),
            found.data,
            format::score(found.differing as f64 / found.n.max(1) as f64),
        )));
    }
    for (caption, buckets) in [
        ("By input length in tokens", &found.by_length),
        ("By true class", &found.by_class),
        (&*format!("By confidence of “{}”", found.model), &found.by_confidence),
    ] {
        if !buckets.is_empty() {
            blocks.push(Block::Table(bucket_table(caption, found, buckets, regression)));
        }
    }
    let (better, order) =
        if regression { ("is nearer", "largest gaps first") } else { ("is right", "surest mistakes first") };
    for (who, other, cases) in
        [(&found.reference, &found.model, &found.lost), (&found.model, &found.reference, &found.gained)]
    {
        if !cases.is_empty() {
            let title = format!("“{who}” {better}, “{other}” is not ({order})");
            blocks.push(Block::Examples { title, examples: cases.iter().map(|case| example(found, case)).collect() });
        }
    }
    blocks
}

fn bucket_table(caption: &str, found: &Disagreement, buckets: &[Bucket], regression: bool) -> Table {
    let what = if regression { "mean error" } else { "right, %" };
    let titles = [format!("{}: {what}", found.reference), format!("{}: {what}", found.model)];
    let mut columns =
        vec![("", Align::Left), ("examples", Align::Right), (&titles[0], Align::Right), (&titles[1], Align::Right)];
    if !regression {
        columns.push(("predictions differ, %", Align::Right));
    }
    let mut table = Table::new(caption, &columns);
    for bucket in buckets {
        let n = bucket.n.max(1) as f64;
        let mean = |sum: f64| if regression { format!("{:.3}", -sum / n) } else { format::score(sum / n) };
        let mut cells =
            vec![bucket.name.clone(), format::grouped(bucket.n as u64), mean(bucket.reference), mean(bucket.model)];
        if !regression {
            cells.push(format::score(bucket.differing as f64 / n));
        }
        table.push(cells);
    }
    table
}

fn example(found: &Disagreement, case: &Case) -> TextExample {
    TextExample {
        texts: case.texts.clone(),
        verdicts: vec![
            ("true".to_owned(), case.truth.clone()),
            (found.reference.clone(), case.reference.clone()),
            (found.model.clone(), case.model.clone()),
        ],
    }
}

/// Labels up to which the whole matrix is shown; beyond, the most frequent confusions.
const WHOLE_MATRIX: usize = 12;

fn confusions(comparison: &Comparison) -> Option<Section> {
    let blocks: Vec<Block> = comparison
        .confusions
        .iter()
        .map(|confusion| {
            let small = confusion.labels.len() <= WHOLE_MATRIX;
            Block::Table(if small { matrix(confusion) } else { top_confusions(confusion) })
        })
        .collect();
    (!blocks.is_empty()).then(|| Section { title: "Confusion".to_owned(), blocks })
}

fn matrix(confusion: &Confusion) -> Table {
    let mut table = Table::new(
        format!("{}, {}: rows are true classes, columns predicted ones", confusion.model, confusion.data),
        &[("true", Align::Left)],
    );
    table.columns.extend(confusion.labels.iter().map(|label| Column { title: label.clone(), align: Align::Right }));
    for (label, counts) in confusion.labels.iter().zip(&confusion.matrix) {
        let total: u64 = counts.iter().sum();
        let cell = |&count: &u64| Cell { text: format::grouped(count), shade: count as f64 / total.max(1) as f64 };
        let name = Cell { text: label.clone(), shade: 0.0 };
        table.rows.push(std::iter::once(name).chain(counts.iter().map(cell)).collect());
    }
    table
}

fn top_confusions(confusion: &Confusion) -> Table {
    let mut pairs: Vec<(u64, usize, usize)> = Vec::new();
    for (truth, counts) in confusion.matrix.iter().enumerate() {
        let wrong = counts.iter().enumerate().filter(|&(predicted, &count)| predicted != truth && count > 0);
        pairs.extend(wrong.map(|(predicted, &count)| (count, truth, predicted)));
    }
    pairs.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut table = Table::new(
        format!("{}, {}: most frequent confusions", confusion.model, confusion.data),
        &[("true", Align::Left), ("predicted", Align::Left), ("examples", Align::Right)],
    );
    let name = |class: usize| confusion.labels.get(class).cloned().unwrap_or_default();
    for &(count, truth, predicted) in pairs.iter().take(WHOLE_MATRIX) {
        table.push([name(truth), name(predicted), format::grouped(count)]);
    }
    table
}

fn lineage(input: &ReportInput) -> Section {
    let mut table = Table::new(
        "",
        &[("model", Align::Left), ("teacher", Align::Left), ("corpus (SHA-256)", Align::Left), ("recipe", Align::Left)],
    );
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
    for model in &input.models {
        let lineage = &model.lineage;
        table.push([
            model.name.clone(),
            known(&lineage.teacher),
            known(&lineage.corpus_sha256),
            known(&lineage.recipe),
        ]);
    }
    Section { title: "Lineage".to_owned(), blocks: vec![Block::Table(table)] }
}
