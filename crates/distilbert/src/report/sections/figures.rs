//! Plots: score against size and speed, losses, reliability; with the tables of what they draw.

use super::super::compare::{Comparison, Row};
use super::super::document::{Align, Block, Column, Figure, Section, Table};
use super::super::format::{self, or_not_measured};
use super::super::plots::{self, Axes, Point, Series};
use super::super::{ModelReport, ReportInput};
use crate::evaluate::calibration::ConfidenceBin;

/// Score against size and latency, latency by length.
pub(super) fn comparison_plots(input: &ReportInput, comparison: &Comparison) -> Option<Section> {
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
pub(super) fn loss_plots(input: &ReportInput) -> Option<Section> {
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

/// Whether the probabilities mean what they say.
pub(super) fn reliability(input: &ReportInput, comparison: &Comparison) -> Option<Section> {
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
