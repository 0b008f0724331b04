//! The report as Markdown.

use super::document::{Align, Block, Document, Table};

pub(super) fn render(document: &Document) -> String {
    let mut text = format!("# {}\n\n", escape(&document.title));
    for line in document.lead.iter().chain(&document.notes) {
        text.push_str(&format!("{}\n\n", escape(line)));
    }
    for section in &document.sections {
        text.push_str(&format!("## {}\n\n", escape(&section.title)));
        blocks(&section.blocks, &mut text);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn blocks(blocks: &[Block], text: &mut String) {
    for block in blocks {
        match block {
            Block::Text(words) => text.push_str(&format!("{}\n\n", escape(words))),
            Block::Table(table) => render_table(table, text),
            Block::Figures(figures) => {
                let titles: Vec<String> = figures.iter().map(|figure| escape(&figure.title)).collect();
                text.push_str(&format!("Plots in the HTML form of this report: {}.\n\n", titles.join("; ")));
            }
            Block::Examples { title, examples } => {
                text.push_str(&format!("{}:\n\n", escape(title)));
                for example in examples {
                    let texts: Vec<String> = example.texts.iter().map(|text| escape(text)).collect();
                    let verdicts: Vec<String> = example
                        .verdicts
                        .iter()
                        .map(|(who, what)| format!("{}: {}", escape(who), escape(what)))
                        .collect();
                    text.push_str(&format!("- {}\n  ({})\n", texts.join(" / "), verdicts.join("; ")));
                }
                text.push('\n');
            }
            Block::Part { title, blocks: inner, .. } => {
                text.push_str(&format!("### {}\n\n", escape(title)));
                self::blocks(inner, text);
            }
        }
    }
}

fn render_table(table: &Table, text: &mut String) {
    if !table.caption.is_empty() {
        text.push_str(&format!("{}:\n\n", escape(&table.caption)));
    }
    let titles: Vec<String> = table.columns.iter().map(|column| escape(&column.title)).collect();
    let rules: Vec<&str> =
        table.columns.iter().map(|column| if column.align == Align::Right { "--:" } else { ":--" }).collect();
    text.push_str(&format!("| {} |\n|{}|\n", titles.join(" | "), rules.join("|")));
    for row in &table.rows {
        let cells: Vec<String> = row.iter().map(|cell| escape(&cell.text)).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text.push('\n');
}

/// One line in which no character means anything to Markdown or HTML. Brackets stay: an interval is no link, because
/// no text can put `(` behind `]` unescaped.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (index, c) in text.char_indices() {
        match c {
            '\\' | '`' | '*' | '_' | '|' | '#' | '~' | '!' => escaped.extend(['\\', c]),
            '(' if text[..index].ends_with(']') => escaped.push_str("\\("),
            ':' if text[..index].ends_with(']') => escaped.push_str("\\:"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_makes_no_markup() {
        assert_eq!(escape("a|b\n<img src=x> [x](y) *z*"), "a\\|b &lt;img src=x&gt; [x]\\(y) \\*z\\*");
    }
}
