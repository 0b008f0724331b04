//! An aligned table for a terminal.

use super::document::{Align, Table};
use super::format::shorten;

/// Longest cell shown; a model's name may be a path.
const WIDEST: usize = 40;

/// Columns two spaces apart, a rule under the titles.
pub(super) fn render(table: &Table) -> String {
    let titles: Vec<String> = table.columns.iter().map(|column| column.title.clone()).collect();
    let rows: Vec<Vec<String>> =
        table.rows.iter().map(|row| row.iter().map(|cell| shorten(&cell.text, WIDEST)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(titles.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .zip(&table.columns)
            .map(|((cell, &width), column)| match column.align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1));
    let mut text = line(&titles) + &rule + "\n";
    rows.iter().for_each(|row| text.push_str(&line(row)));
    text
}
