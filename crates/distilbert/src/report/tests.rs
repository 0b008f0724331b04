use super::*;
use crate::data::examples::{Example, Label, Split, Task};

/// A teacher, a student that is worse on some, and a control of which nothing was measured. Names and texts are
/// hostile.
fn input() -> ReportInput {
    let task = Task::glue("sst2").expect("a task");
    let evaluation = |wrong_every: usize| {
        let mut predictions = Predictions::new(&task, Split::Dev);
        for index in 0..200 {
            let truth = index % 2;
            let example = Example {
                text_a: format!("<script>alert({index})</script> a \"film\" & more"),
                text_b: None,
                label: Label::Class(truth),
                line: index + 2,
            };
            let says = if index % wrong_every == 0 { 1 - truth } else { truth };
            let logits = if says == 1 { [0.0, 1.0 + index as f32 / 100.0] } else { [1.0, 0.0] };
            predictions.push(&example, &logits, 3 + index % 60).expect("two logits");
        }
        let result =
            EvaluationResult::new(&predictions, &task.metrics, &Bootstrap::default(), (0, 4)).expect("labelled");
        vec![Evaluation { result, predictions: Some(KeptPredictions::Labels(predictions)) }]
    };
    let curve = |scale: f64| {
        let points = (1..60).map(|step| (f64::from(step), scale / f64::from(step))).collect();
        vec![LossCurve { name: "loss <b>".to_owned(), points }]
    };
    ReportInput {
        title: "A & B <i>".to_owned(),
        machine: Some("2 cores".to_owned()),
        notes: vec!["seed 1".to_owned()],
        models: vec![
            ModelReport {
                name: "teacher|12".to_owned(),
                role: Role::Teacher,
                parameters: Some(22_713_216),
                size_bytes: Some(90_868_376),
                latency_ms_p50: Some(8.25),
                latency_by_length: vec![(8, 2.0), (128, 21.5)],
                sequences_per_second: Some(251.0),
                tokens_per_second: Some(12_345.6),
                evaluations: evaluation(20),
                loss_curves: curve(7.0),
                seed_scores: vec![0.95, 0.94, 0.96],
                perplexity: Some(2.345),
                teacher_agreement: Some(1.0),
                ..ModelReport::default()
            },
            ModelReport {
                name: "<img src=x onerror=alert(1)>".to_owned(),
                role: Role::Student,
                parameters: Some(11_000_000),
                size_bytes: Some(44_000_000),
                latency_ms_p50: Some(4.125),
                evaluations: evaluation(8),
                loss_curves: curve(9.0),
                lineage: Lineage { teacher: Some("teacher|12".to_owned()), ..Lineage::default() },
                ..ModelReport::default()
            },
            ModelReport { name: "nothing".to_owned(), role: Role::Control, ..ModelReport::default() },
        ],
    }
}

fn report() -> Report {
    Report::new(&input(), &Bootstrap::default())
}

/// The headline cells, as the document holds them.
fn headline_cells(report: &Report) -> Vec<String> {
    report.headline.rows.iter().flatten().map(|cell| cell.text.clone()).collect()
}

#[test]
fn the_numbers_are_the_same_in_every_form() {
    let report = report();
    let (markdown, html, terminal) = (report.markdown(), report.html(), report.terminal_table());
    let cells: Vec<String> = headline_cells(&report)
        .into_iter()
        .filter(|cell| cell.chars().next().is_some_and(|c| c.is_ascii_digit()))
        .collect();
    assert!(cells.len() >= 10, "{cells:?}");
    for cell in ["22.7 M", "90.9 MB", "8.25 ms", "12,346", "95.0 [", "92.1 % [", "2.35", "100.0"] {
        assert!(cells.iter().any(|found| found.starts_with(cell)), "{cell} not in {cells:?}");
    }
    for cell in cells {
        assert!(markdown.contains(&format!("| {cell} |")), "{cell} not in the Markdown");
        assert!(html.contains(&format!(">{cell}</td>")), "{cell} not in the HTML");
        assert!(terminal.contains(&cell), "{cell} not in the terminal table");
    }
    assert_eq!(terminal, terminal_table(&input()));
}

#[test]
fn what_is_missing_is_said_to_be_not_measured() {
    let report = report();
    let line = |text: &str| {
        text.lines().find(|line| line.contains("nothing")).map(str::to_owned).expect("the model without numbers")
    };
    assert_eq!(line(&report.terminal_table()).matches("not measured").count(), 9);
    assert_eq!(line(&report.markdown()).matches("not measured").count(), 7);
    let empty = Report::new(&ReportInput::default(), &Bootstrap::default());
    assert!(empty.html().ends_with("</html>\n") && empty.terminal_table().lines().count() == 2);
}

#[test]
fn text_from_outside_is_never_markup() {
    let report = report();
    let html = report.html();
    for raw in ["<script", "<img", "<i>", "<b>\"", "onerror=alert(1)>"] {
        assert!(!html.contains(raw), "{raw}");
    }
    assert!(html.contains("&lt;script&gt;alert("));
    assert!(html.contains("&lt;img src=x onerror=alert(1)&gt;"));
    let markdown = report.markdown();
    assert!(!markdown.contains("<script") && !markdown.contains("<img"));
    assert!(markdown.contains("teacher\\|12"));
}

#[test]
fn the_html_needs_nothing_from_outside() {
    let html = report().html();
    let mut addresses = html.match_indices("http").map(|(place, _)| &html[place..]);
    assert!(addresses.all(|address| address.starts_with("http://www.w3.org/2000/svg\"")), "only SVG's namespace");
    for needing in ["<link", "src=\"", "url(", "@import", "<iframe"] {
        assert!(!html.contains(needing), "{needing}");
    }
    // Score against size and latency, latency by length, one loss, reliability.
    assert_eq!(html.matches("role=\"img\"").count(), 5);
    assert!(html.contains("prefers-color-scheme: dark"));
}

#[test]
fn the_lead_says_what_the_student_keeps() {
    let markdown = report().markdown();
    assert!(
        markdown
            .contains("of the accuracy of “teacher\\|12”, at 48.4 % of its size and 2.00 times its speed at batch 1."),
        "{markdown}"
    );
}

#[test]
fn every_section_is_there_with_its_tables() {
    let markdown = report().markdown();
    for words in [
        "## Comparison",
        "## Score, size and speed",
        "## Training",
        "## All scores",
        "## Where the models disagree",
        "By input length in tokens:",
        "By true class:",
        "By confidence of ",
        "surest mistakes first",
        "## Confusion",
        "## Lineage",
        "| nothing | control |",
        "Scores are × 100, on 200 examples of sst2 dev.",
        "| student | -7.5 [-12.5, -3.0] | 0.004 | 5 | 20 | 0.004 |",
        "| teacher\\|12 | 3 | 95.0 | 1.0 | 95.0 | 94.0 | 96.0 |",
    ] {
        assert!(markdown.contains(words), "{words} not in\n{markdown}");
    }
    // 200 examples: the student is wrong on 25, the teacher on 10, both on 5.
    assert!(markdown.contains("The two differ on 25 of 200 examples of sst2 dev (12.5 %)."), "{markdown}");
}

#[test]
fn models_scored_on_other_examples_are_not_tested_against_each_other() {
    let mut input = input();
    let student = &mut input.models[1].evaluations[0];
    let Some(KeptPredictions::Labels(kept)) = &mut student.predictions else { panic!("labels") };
    kept.rows.pop();
    let markdown = Report::new(&input, &Bootstrap::default()).markdown();
    assert!(markdown.contains("is not tested against teacher\\|12: expected 199 examples, found 200."), "{markdown}");
    assert!(!markdown.contains("## Where the models disagree"));
}

#[test]
fn regression_is_compared_by_error() {
    let task = Task::glue("stsb").expect("a task");
    let model = |name: &str, role: Role, error: f32| {
        let mut predictions = Predictions::new(&task, Split::Dev);
        for index in 0..30u16 {
            let truth = f32::from(index) / 6.0;
            let example = Example {
                text_a: "a".to_owned(),
                text_b: Some("b".to_owned()),
                label: Label::Score(truth),
                line: usize::from(index),
            };
            let wobble = if index % 2 == 0 { error } else { -error };
            predictions.push(&example, &[truth + wobble], 10).expect("one output");
        }
        let result =
            EvaluationResult::new(&predictions, &task.metrics, &Bootstrap::default(), (0, 0)).expect("labelled");
        let evaluations = vec![Evaluation { result, predictions: Some(KeptPredictions::Labels(predictions)) }];
        ModelReport { name: name.to_owned(), role, evaluations, ..ModelReport::default() }
    };
    let models = vec![model("big", Role::Teacher, 0.25), model("small", Role::Student, 0.5)];
    let input = ReportInput { title: "Similarity".to_owned(), models, ..ReportInput::default() };
    let markdown = Report::new(&input, &Bootstrap::default()).markdown();
    assert!(markdown.contains("| 9 to 16 | 30 | 0.250 | 0.500 |"), "{markdown}");
    assert!(markdown.contains("“big” is nearer, “small” is not (largest gaps first):"), "{markdown}");
    assert!(markdown.contains("Spread over training seeds: not measured."));
    assert!(!markdown.contains("By true class") && !markdown.contains("## Confusion"));
}

#[test]
fn reliability_is_drawn_and_its_bins_are_in_a_table() {
    let report = report();
    // Of the teacher's answers at 73 %, one is wrong: the first.
    assert!(report.markdown().contains("| 0.67 to 0.73 | 92 | 73.1 | 98.9 |"), "{}", report.markdown());
    assert!(report.html().contains("as sure as right") && report.html().contains("Reliability"));
    let none = Report::new(&ReportInput::default(), &Bootstrap::default());
    assert!(!none.markdown().contains("Calibration"));
}
