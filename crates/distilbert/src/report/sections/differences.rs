//! Where models differ: on which examples two disagree, and which class each takes for another.

use super::super::compare::{Bucket, Case, Comparison, Confusion, Disagreement};
use super::super::document::{Align, Block, Cell, Column, Section, Table, TextExample};
use super::super::format;

pub(super) fn disagreements(comparison: &Comparison) -> Option<Section> {
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

pub(super) fn confusions(comparison: &Comparison) -> Option<Section> {
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
