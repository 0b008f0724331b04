//! The report as one HTML file: styles and plots inside, no script, nothing fetched.

use std::fmt::Write;

use super::document::{Align, Block, Document, Figure, Table, TextExample};
use super::plots::{self, AXIS, GRID, Ink, SERIES, TEXT};

pub(super) fn render(document: &Document) -> String {
    let mut page = String::new();
    let title = escape(&document.title);
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n",
        dark_plots()
    );
    for line in &document.lead {
        let _ = writeln!(page, "<p class=\"lead\">{}</p>", escape(line));
    }
    for line in &document.notes {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(line));
    }
    page.push_str("</header>\n");
    for section in &document.sections {
        let _ = writeln!(page, "<section>\n<h2>{}</h2>", escape(&section.title));
        blocks(&section.blocks, &mut page);
        page.push_str("</section>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

// Writing to a string cannot fail, so the results of `write!` are dropped throughout.
fn blocks(blocks: &[Block], page: &mut String) {
    for block in blocks {
        match block {
            Block::Text(words) => drop(writeln!(page, "<p>{}</p>", escape(words))),
            Block::Table(table) => render_table(table, page),
            Block::Figures(figures) => {
                page.push_str("<div class=\"figures\">\n");
                figures.iter().for_each(|figure| render_figure(figure, page));
                page.push_str("</div>\n");
            }
            Block::Examples { title, examples } => {
                let _ = writeln!(page, "<h3>{}</h3>\n<ul class=\"examples\">", escape(title));
                examples.iter().for_each(|example| render_example(example, page));
                page.push_str("</ul>\n");
            }
            Block::Part { title, open, blocks: inner } => {
                let open = if *open { " open" } else { "" };
                let _ = writeln!(page, "<details{open}>\n<summary>{}</summary>", escape(title));
                self::blocks(inner, page);
                page.push_str("</details>\n");
            }
        }
    }
}

fn render_table(table: &Table, page: &mut String) {
    page.push_str("<div class=\"scroll\">\n<table>\n");
    if !table.caption.is_empty() {
        let _ = writeln!(page, "<caption>{}</caption>", escape(&table.caption));
    }
    let class = |align: Align| if align == Align::Right { " class=\"number\"" } else { "" };
    page.push_str("<thead><tr>");
    for column in &table.columns {
        let _ = write!(page, "<th scope=\"col\"{}>{}</th>", class(column.align), escape(&column.title));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        page.push_str("<tr>");
        for (index, (cell, column)) in row.iter().zip(&table.columns).enumerate() {
            let text = escape(&cell.text);
            if index == 0 {
                let _ = write!(page, "<th scope=\"row\">{text}</th>");
            } else if cell.shade > 0.0 {
                // At most half covered, so that the number stays readable.
                let cover = 0.5 * cell.shade.min(1.0);
                let _ =
                    write!(page, "<td class=\"number\" style=\"background:rgba(45,120,200,{cover:.2})\">{text}</td>");
            } else {
                let _ = write!(page, "<td{}>{text}</td>", class(column.align));
            }
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
}

fn render_figure(figure: &Figure, page: &mut String) {
    let _ = write!(page, "<figure>\n<h3>{}</h3>\n<ul class=\"legend\">", escape(&figure.title));
    for (number, name) in &figure.legend {
        let _ = write!(page, "<li>{}{}</li>", plots::legend_mark(*number), escape(name));
    }
    // The plot repeats the tables, so a screen reader needs its name only.
    let svg = figure.svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escape(&figure.title)), 1);
    let _ = writeln!(page, "</ul>\n{svg}<figcaption>{}</figcaption>\n</figure>", escape(&figure.caption));
}

fn render_example(example: &TextExample, page: &mut String) {
    page.push_str("<li>");
    for text in &example.texts {
        let _ = write!(page, "<blockquote>{}</blockquote>", escape(text));
    }
    page.push_str("<p>");
    for (who, what) in &example.verdicts {
        let _ = write!(page, "<span>{} <b>{}</b></span> ", escape(who), escape(what));
    }
    page.push_str("</p></li>\n");
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // No control character is allowed in HTML; a line end would only be a space.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Plots carry their light colours as attributes; on a dark page these rules replace them.
fn dark_plots() -> String {
    let mut rules = String::from("@media (prefers-color-scheme: dark) {\n");
    for Ink { light, dark } in SERIES.iter().chain([&TEXT, &AXIS, &GRID]) {
        let light = format!("#{:02X}{:02X}{:02X}", light.0, light.1, light.2);
        let _ =
            writeln!(rules, "svg [fill=\"{light}\"] {{ fill: {dark} }} svg [stroke=\"{light}\"] {{ stroke: {dark} }}");
    }
    rules.push_str("}\n");
    rules
}

const STYLE: &str = "\
:root { --ink: #1c2127; --soft: #5d6672; --line: #dfe3e8; --faint: #f4f6f8; --page: #ffffff; --accent: #1d5fa8 }
@media (prefers-color-scheme: dark) {
:root { --ink: #e3e7ec; --soft: #9aa4b0; --line: #30363e; --faint: #1d2228; --page: #14181d; --accent: #6cb2f5 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', \
Roboto, 'Helvetica Neue', Arial, sans-serif; -webkit-text-size-adjust: 100% }
main { max-width: 76rem; margin: 0 auto; padding: 3rem 1.5rem 5rem }
h1 { margin: 0 0 .75rem; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em }
h2 { margin: 3.2rem 0 1rem; padding-bottom: .4rem; border-bottom: 1px solid var(--line); font-size: 1.25rem }
h3 { margin: 1.6rem 0 .5rem; font-size: 1rem }
p { max-width: 50rem; margin: .6rem 0 }
section > p, details > p { color: var(--soft); font-size: .92rem }
.lead { font-size: 1.15rem }
.note { margin: .15rem 0; color: var(--soft); font-size: .92rem; overflow-wrap: anywhere }
.scroll { overflow-x: auto; margin: 1rem 0 1.4rem }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
caption { padding: .2rem 0 .5rem; text-align: left; color: var(--soft) }
th, td { padding: .5rem .9rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 500; line-height: 1.3; border-bottom-color: var(--soft) }
tbody th { position: sticky; left: 0; background: var(--page); font-weight: 600; min-width: 11rem; max-width: 18rem; overflow-wrap: break-word }
th:first-child { padding-left: 0 }
td { min-width: 4.5rem }
.number { text-align: right; white-space: nowrap }
thead .number { white-space: normal }
tbody tr:hover > * { background: var(--faint) }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 2rem }
figure { margin: 0 }
figure h3 { margin: 0 0 .3rem }
figure h3::first-letter { text-transform: uppercase }
figure > svg { display: block; width: 100%; height: auto }
svg text { font-family: inherit }
figcaption { color: var(--soft); font-size: .85rem }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: 0 0 .4rem; padding: 0; list-style: none; font-size: .85rem; \
color: var(--soft) }
.mark { width: .7em; height: .7em; margin-right: .45em }
details { margin: .8rem 0; padding: .2rem 1.2rem; border: 1px solid var(--line); border-radius: 6px }
summary { padding: .6rem 0; font-weight: 600; cursor: pointer }
.examples { margin: .4rem 0 1.4rem; padding: 0; list-style: none }
.examples li { margin: .9rem 0; padding-left: .9rem; border-left: 3px solid var(--line) }
.examples p { margin: .2rem 0; font-size: .88rem; color: var(--soft) }
.examples span { display: inline-block; margin-right: 1.2rem }
.examples b { color: var(--ink); font-weight: 600 }
blockquote { margin: 0; overflow-wrap: anywhere }
@media (max-width: 40rem) {
main { padding: 1.6rem 1rem 3rem }
h1 { font-size: 1.5rem }
h2 { margin-top: 2.4rem }
th, td { padding: .45rem .6rem }
tbody th { max-width: 9rem; min-width: 6.5rem }
details { padding: .2rem .8rem }
}
@media print { details, .scroll { overflow: visible } }
";
