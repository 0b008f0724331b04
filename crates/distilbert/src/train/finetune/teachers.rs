//! Several teachers as one: logits whose probabilities are the mean of theirs. What a student learns of these is the mean
//! of what it would learn of each, for the divergence's gradient is the same.

use crate::data::examples::match_labels;
use crate::heads::tokens::starts_then_ends;
use crate::model::HeadKind;
use crate::model::Problem;
use crate::predict::Logits;

/// A teacher that does not say of what the student is asked.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct OtherLabels {
    /// The student's labels.
    pub expected: String,
    /// The teacher's.
    pub found: String,
}

/// What a teacher with the head `teacher` said, with its outputs in the order of the head `student`, by the names of their
/// labels.
///
/// # Errors
/// [`OtherLabels`] if the heads differ in kind or labels.
pub fn in_order(logits: Logits, teacher: &HeadKind, student: &HeadKind) -> Result<Logits, OtherLabels> {
    let differ = |expected: String, found: String| OtherLabels { expected, found };
    let problem = |head: &HeadKind| match head {
        HeadKind::Classification { problem, .. } => Some(*problem),
        _ => None,
    };
    if teacher.class_suffix() != student.class_suffix() || problem(teacher) != problem(student) {
        let what = |head: &HeadKind| match problem(head) {
            Some(problem) => format!("a model {} ({problem:?})", head.class_suffix()),
            None => format!("a model {}", head.class_suffix()),
        };
        return Err(differ(what(student), what(teacher)));
    }
    if teacher.outputs() != student.outputs() || teacher.slots().len() != student.slots().len() {
        let outputs = |head: &HeadKind| format!("{} outputs", head.outputs() + head.slots().len());
        return Err(differ(outputs(student), outputs(teacher)));
    }
    if problem(student) == Some(Problem::Regression) || matches!(student, HeadKind::QuestionAnswering) {
        return Ok(logits);
    }
    let places = |wanted: &[String], found: &[String]| {
        let labels = |labels: &[String]| format!("the labels {}", labels.join(", "));
        match_labels(wanted, found).ok_or_else(|| differ(labels(wanted), labels(found)))
    };
    let (of_first, of_second) =
        (places(student.labels(), teacher.labels())?, places(student.slots(), teacher.slots())?);
    if of_first.is_sorted() && of_second.is_sorted() {
        return Ok(logits);
    }
    // Of two heads the first has one row for the text; else every row is of the only head.
    let two = !of_second.is_empty();
    let mut ordered = Logits::default();
    for text in 0..logits.texts() {
        let said = logits.of(text);
        let (first, second) = said.split_at(if two { of_first.len() } else { said.len() });
        let rows = |said: &[f32], places: &[usize]| -> Vec<f32> {
            let rows = said.chunks_exact(places.len().max(1));
            rows.flat_map(|row| places.iter().map(|&place| row[place])).collect()
        };
        ordered.push(&[&rows(first, &of_first), &rows(second, &of_second)]);
    }
    Ok(ordered)
}

/// The mean of what teachers say of the same texts, softened by `temperature`.
///
/// # Panics
/// If there are no teachers, or they answered other texts.
pub fn mean_of(teachers: &[Logits], head: &HeadKind, temperature: f64) -> Logits {
    let mut mean = Logits::default();
    for text in 0..teachers[0].texts() {
        let said: Vec<&[f32]> = teachers.iter().map(|teacher| teacher.of(text)).collect();
        let rows = |said: &[&[f32]], width: usize, temperature: f64| -> Vec<f32> {
            let row = |row: usize| -> Vec<&[f32]> { said.iter().map(|said| &said[row * width..][..width]).collect() };
            (0..said[0].len() / width.max(1)).flat_map(|index| of_distributions(&row(index), temperature)).collect()
        };
        let of_text = match head {
            HeadKind::Classification { problem: Problem::MultiLabel, .. } => of_each(&said, of_sigmoids),
            HeadKind::Classification { problem: Problem::Regression, .. } => of_each(&said, of_numbers),
            HeadKind::QuestionAnswering => {
                // A distribution over the tokens for the start, and one for the end.
                let columns: Vec<Vec<f32>> = said.iter().map(|said| starts_then_ends(said)).collect();
                let columns: Vec<&[f32]> = columns.iter().map(Vec::as_slice).collect();
                let columns = rows(&columns, said[0].len() / 2, temperature);
                let (starts, ends) = columns.split_at(columns.len() / 2);
                starts.iter().zip(ends).flat_map(|(&start, &end)| [start, end]).collect()
            }
            HeadKind::IntentsAndSlots { intents, slots } => {
                let parts: Vec<_> = said.iter().map(|said| said.split_at(intents.len())).collect();
                let [texts, tokens]: [Vec<&[f32]>; 2] =
                    [parts.iter().map(|part| part.0).collect(), parts.iter().map(|part| part.1).collect()];
                [rows(&texts, intents.len(), temperature), rows(&tokens, slots.len(), temperature)].concat()
            }
            head => rows(&said, head.outputs(), temperature),
        };
        mean.push(&[&of_text, &[]]);
    }
    mean
}

/// Logits whose softened distribution is the mean of the softened distributions of these.
fn of_distributions(rows: &[&[f32]], temperature: f64) -> Vec<f32> {
    let mut mean = vec![0.0; rows[0].len()];
    for row in rows {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> =
            row.iter().map(|&logit| ((f64::from(logit) - f64::from(largest)) / temperature).exp()).collect();
        let sum: f64 = powers.iter().sum();
        mean.iter_mut().zip(&powers).for_each(|(mean, power)| *mean += power / sum / rows.len() as f64);
    }
    // A probability of nothing stays a finite logit.
    mean.into_iter().map(|p: f64| (temperature * p.max(f64::MIN_POSITIVE).ln()) as f32).collect()
}

fn of_each(said: &[&[f32]], mean: fn(&mut dyn Iterator<Item = f64>, f64) -> f64) -> Vec<f32> {
    let of = |output: usize| mean(&mut said.iter().map(|said| f64::from(said[output])), said.len() as f64) as f32;
    (0..said[0].len()).map(of).collect()
}

fn of_numbers(numbers: &mut dyn Iterator<Item = f64>, count: f64) -> f64 {
    numbers.sum::<f64>() / count
}

fn of_sigmoids(logits: &mut dyn Iterator<Item = f64>, count: f64) -> f64 {
    // log(Σ p) - log(Σ (1 - p)), each as exact as it is small.
    let (yes, no) = logits.fold((0.0, 0.0), |(yes, no), logit| {
        (yes + 1.0 / (1.0 + (-logit).exp()) / count, no + 1.0 / (1.0 + logit.exp()) / count)
    });
    f64::max(yes, f64::MIN_POSITIVE).ln() - f64::max(no, f64::MIN_POSITIVE).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(rows: &[&[f32]]) -> Logits {
        let mut logits = Logits::default();
        rows.iter().for_each(|row| logits.push(&[row, &[]]));
        logits
    }

    fn softmax(row: &[f32], temperature: f64) -> Vec<f64> {
        let powers: Vec<f64> = row.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
        powers.iter().map(|power| power / powers.iter().sum::<f64>()).collect()
    }

    fn classes(problem: Problem) -> HeadKind {
        HeadKind::Classification { problem, labels: ["a", "b", "c"].map(str::to_owned).to_vec() }
    }

    #[test]
    fn probabilities_are_the_mean_of_the_teachers() {
        let teachers =
            [logits(&[&[1.0, -2.0, 0.5], &[0.0, 0.0, 300.0]]), logits(&[&[-1.0, 2.0, 0.0], &[0.0, 0.0, 300.0]])];
        for temperature in [1.0, 3.0] {
            let mean = mean_of(&teachers, &classes(Problem::Classification), temperature);
            let found = softmax(mean.of(0), temperature);
            let each = teachers.each_ref().map(|teacher| softmax(teacher.of(0), temperature));
            for (found, (a, b)) in found.iter().zip(each[0].iter().zip(&each[1])) {
                assert!((found - (a + b) / 2.0).abs() < 1e-6, "{found} {a} {b}");
            }
            assert!(mean.of(1).iter().all(|logit| logit.is_finite()));
        }
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let mean = mean_of(&teachers, &classes(Problem::MultiLabel), 1.0);
        assert!((sigmoid(mean.of(0)[1]) - (sigmoid(-2.0) + sigmoid(2.0)) / 2.0).abs() < 1e-6);
        assert_eq!(mean_of(&teachers, &classes(Problem::Regression), 1.0).of(0), [0.0, 0.0, 0.25]);
    }

    #[test]
    fn a_teachers_outputs_come_in_the_students_order() {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let tokens = |labels: &str| HeadKind::TokenClassification { labels: names(labels) };
        let said = || logits(&[&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]);
        let ordered = in_order(said(), &tokens("O B-x I-x"), &tokens("B-x I-x O")).unwrap();
        assert_eq!(ordered.of(0), [2.0, 3.0, 1.0, 5.0, 6.0, 4.0]);
        assert_eq!(in_order(said(), &tokens("LABEL_0 LABEL_1 LABEL_2"), &tokens("B-x I-x O")).unwrap(), said());
        let both =
            |intents: &str, slots: &str| HeadKind::IntentsAndSlots { intents: names(intents), slots: names(slots) };
        let ordered = in_order(said(), &both("a b", "O B-x"), &both("b a", "B-x O")).unwrap();
        assert_eq!(ordered.of(0), [2.0, 1.0, 4.0, 3.0, 6.0, 5.0]);
        let refused =
            |teacher: HeadKind, student: HeadKind| in_order(said(), &teacher, &student).unwrap_err().to_string();
        assert_eq!(
            refused(tokens("O B-x I-x"), tokens("O B-y I-y")),
            "expected the labels O, B-y, I-y, found the labels O, B-x, I-x"
        );
        assert_eq!(refused(tokens("O B-x"), tokens("O B-x I-x")), "expected 3 outputs, found 2 outputs");
        assert_eq!(
            refused(classes(Problem::MultiLabel), classes(Problem::Classification)),
            "expected a model ForSequenceClassification (Classification), found a model ForSequenceClassification \
             (MultiLabel)"
        );
        let regression = || classes(Problem::Regression);
        assert_eq!(in_order(said(), &regression(), &regression()).unwrap(), said());
    }

    #[test]
    fn tokens_answers_and_both_heads_have_their_own_distributions() {
        let one = [0.5f32, -1.0, 2.0, 0.0, 1.0, -0.5, 0.25, 3.0];
        let two = [1.5f32, 0.0, -2.0, 1.0, 0.5, 0.5, -0.25, 1.0];
        let teachers = [logits(&[&one]), logits(&[&two])];
        let expect = |found: &[f32], places: &[usize]| {
            let pick = |row: &[f32]| places.iter().map(|&place| row[place]).collect::<Vec<f32>>();
            let [found, a, b] = [found, &one, &two].map(|row| softmax(&pick(row), 2.0));
            for (found, (a, b)) in found.iter().zip(a.iter().zip(&b)) {
                assert!((found - (a + b) / 2.0).abs() < 1e-6, "{places:?}");
            }
        };
        let names = |count: usize| (0..count).map(|name| name.to_string()).collect::<Vec<_>>();
        let tokens = mean_of(&teachers, &HeadKind::TokenClassification { labels: names(4) }, 2.0);
        expect(tokens.of(0), &[0, 1, 2, 3]);
        expect(tokens.of(0), &[4, 5, 6, 7]);
        let answers = mean_of(&teachers, &HeadKind::QuestionAnswering, 2.0);
        expect(answers.of(0), &[0, 2, 4, 6]);
        expect(answers.of(0), &[1, 3, 5, 7]);
        let both = mean_of(&teachers, &HeadKind::IntentsAndSlots { intents: names(2), slots: names(3) }, 2.0);
        expect(both.of(0), &[0, 1]);
        expect(both.of(0), &[2, 3, 4]);
        expect(both.of(0), &[5, 6, 7]);
    }
}
