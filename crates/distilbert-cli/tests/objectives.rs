//! Objectives between layers, on the built program.

mod common;

use common::{config, error, lines, model, run, stdout};
use distilbert::checkpoint::Tensors;
use std::fs;
use std::path::{Path, PathBuf};

/// A teacher of 3 layers, 21 wide with 3 heads, and a corpus in its words.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Workshop {
        let workshop = Workshop(tempfile::tempdir().expect("a folder"));
        model("bert-mlm", &workshop.0.path().join("teacher"));
        fs::write(workshop.0.path().join("text.txt"), common::texts(120).join("\n")).expect("a text");
        let [text, corpus, teacher] = ["text.txt", "a.tokens", "teacher"].map(|name| workshop.path(name));
        stdout(&run(&["corpus", "build", &text, "-o", &corpus, "--model", &teacher, "--min-tokens", "3"]));
        workshop
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn arguments(&self, output: &str, more: &str) -> Vec<String> {
        let mut words = format!("distil --max-steps 3 --batch-tokens 64 --accumulation 2 {more}");
        for (flag, name) in [("--teacher", "teacher"), ("--corpus", "a.tokens"), ("--output", output)] {
            words.push_str(&format!(" {flag} {}", self.path(name)));
        }
        words.split_whitespace().map(str::to_owned).collect()
    }

    /// The folder of the best checkpoint.
    fn distil(&self, output: &str, more: &str) -> PathBuf {
        let arguments = self.arguments(output, more);
        stdout(&run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
        Path::new(&self.path(output)).join("best")
    }

    /// A model of two heads, 16 wide.
    fn pretrain(&self, output: &str, more: &str) -> String {
        let [corpus, tokenizer, output] = ["a.tokens", "teacher", output].map(|name| self.path(name));
        let words = format!(
            "pretrain --hidden 16 --heads 2 --max-steps 1 {more} --corpus {corpus} --tokenizer {tokenizer} -o {output}"
        );
        stdout(&run(&words.split(' ').collect::<Vec<_>>()));
        format!("{output}/best")
    }

    fn refuses(&self, more: &str, parts: &[&str]) {
        let arguments = self.arguments("refused", more);
        let message = error(&run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
        assert!(!Path::new(&self.path("refused")).exists(), "{more}: something was left behind");
    }

    fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("a file");
        self.path(name)
    }
}

/// Names of the measures of a run's training steps.
fn measures(best: &Path) -> Vec<String> {
    let metrics = fs::read_to_string(best.parent().expect("a run").join("metrics.jsonl")).expect("metrics");
    let first = &lines(&metrics)[0];
    let others = ["kind", "step", "loss", "grad_norm", "learning_rate", "tokens_per_second"];
    let names = first.as_object().expect("an object").keys().map(String::as_str);
    names.filter(|name| !others.contains(name)).map(str::to_owned).collect()
}

fn tensor_names(file: PathBuf) -> Vec<String> {
    Tensors::open_file(&file).expect("tensors").names().map(str::to_owned).collect()
}

#[test]
fn every_objective_trains_a_student_that_is_saved_without_what_only_training_needs() {
    let workshop = Workshop::new();
    let narrow = "--random-init --layers 2 --hidden 12";
    for (objective, student, terms, projections) in [
        ("layers", "--layers 2", &["embeddings", "hidden", "attention"][..], 0),
        ("tinybert", narrow, &["embeddings", "hidden", "attention_scores"], 2),
        ("tinybert", "--layers 2", &["embeddings", "hidden", "attention_scores"], 0),
        ("minilm", narrow, &["attention", "values"], 0),
        ("minilm-v2", "--random-init --layers 2 --hidden 14 --heads 2", &["queries", "keys", "values"], 0),
        ("pkd", "--layers 2", &["kl", "mlm", "patient"], 0),
        ("minilm-v2", "--layers 2 --mlm 1", &["mlm", "queries", "keys", "values"], 0),
    ] {
        let name = format!("{objective}{}", student.replace([' ', '-'], ""));
        let best = workshop.distil(&name, &format!("--objective {objective} {student}"));
        assert_eq!(measures(&best), terms, "{name}");
        let of_model = tensor_names(best.join("model.safetensors"));
        assert!(!of_model.iter().any(|tensor| tensor.contains("projection")), "{name}: {of_model:?}");
        let of_training = tensor_names(best.join("optimizer.safetensors"));
        let weights = of_training.iter().filter(|tensor| tensor.starts_with("parameter.projection."));
        assert_eq!(weights.count(), 2 * projections, "{name}: {of_training:?}");
        stdout(&run(&["inspect", best.to_str().expect("UTF-8")]));
    }
    // Of three layers the outputs of the second and the third are learnt.
    let run = |name: &str| fs::read_to_string(Path::new(&workshop.path(name)).join("config.toml")).unwrap();
    assert!(run("layerslayers2").contains("from-layers = [1, 2]"), "{}", run("layerslayers2"));
    assert!(run("tinybertlayers2").contains("from-layers = []"), "{}", run("tinybertlayers2"));
}

#[test]
fn a_teacher_needs_no_head_that_no_term_looks_at() {
    let workshop = Workshop::new();
    model("bert-classify", &workshop.0.path().join("classifier"));
    let distil = |output: &str, more: &str| {
        let arguments = workshop.arguments(output, more);
        let (teacher, classifier) = (workshop.path("teacher"), workshop.path("classifier"));
        let of_classifier =
            |argument: &String| if *argument == teacher { classifier.clone() } else { argument.clone() };
        let arguments: Vec<String> = arguments.iter().map(of_classifier).collect();
        run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (classifier, first) = (workshop.path("classifier"), workshop.path("first"));
    stdout(&run(&["distil", "--teacher", &classifier, "--layers", "2", "--init-only", "--output", &first]));
    for (output, more) in [("minilm", "--objective minilm-v2"), ("cosine", "--kl 0 --mlm 0"), ("first", "")] {
        let folder = match output {
            "first" => PathBuf::from(&first),
            output => {
                stdout(&distil(output, &format!("--layers 2 {more}")));
                Path::new(&workshop.path(output)).join("best")
            }
        };
        assert_eq!(config(&folder)["architectures"][0], "DistilBertModel", "{output}");
        let names = tensor_names(folder.join("model.safetensors"));
        assert!(!names.iter().any(|name| name.contains("classifier") || name.contains("vocab")), "{names:?}");
    }
    stdout(&distil("kept", "--layers 2 --kl 0 --mlm 0 --teacher-top-k 4"));
    let refused = error(&distil("refused", "--layers 2"));
    assert!(refused.contains("expected a masked-LM head, found ForSequenceClassification"), "{refused}");
    assert!(!Path::new(&workshop.path("refused")).exists());
}

#[test]
fn flags_of_terms_that_the_loss_has_not_are_refused() {
    let workshop = Workshop::new();
    let refuses = |more: &str, part: &str| workshop.refuses(&format!("--layers 2 {more}"), &[part]);
    refuses("--objective tinybert --temperature 3", "--temperature: expected a weight of --kl above 0");
    refuses("--objective tinybert --kl-positions masked", "--kl-positions: expected a weight of --kl or --mse above 0");
    refuses("--kl 0 --temperature 3", "--temperature: expected a weight of --kl above 0");
    workshop.distil("run", "--layers 2 --objective tinybert --kl 1 --temperature 3 --kl-positions masked");
    let twice = "expected each of the teacher's layers once at most, found 0 more than once";
    workshop.refuses("--from-layers 0,0,1", &[twice]);
}

#[test]
fn a_student_may_start_from_a_model_of_its_own() {
    let workshop = Workshop::new();
    let own = format!("--student {}", workshop.pretrain("own", "--family electra --layers 1"));
    workshop.refuses(&own, &["student: expected the teacher's width 21 for the cosine loss, found width 16"]);
    let best = workshop.distil("run", &format!("{own} --cosine 0"));
    let config = config(&best);
    assert_eq!((&config["model_type"], &config["architectures"][0]), (&"electra".into(), &"ElectraForMaskedLM".into()));
}

#[test]
fn a_student_of_several_teachers_learns_from_each() {
    let workshop = Workshop::new();
    // It comes first, so that the student is as wide.
    let narrow = format!("--teacher {}", workshop.pretrain("narrow", "--layers 2"));
    let terms = workshop.file("terms.toml", "[[training.layer-terms]]\ncompare = \"hidden\"\n");
    let best = workshop.distil("run", &format!("{narrow} --layers 2 --cosine 0 --config {terms}"));
    assert_eq!(measures(&best), ["kl", "mlm", "hidden"]);
    let names = tensor_names(best.join("optimizer.safetensors"));
    let of_training: Vec<&String> = names.iter().filter(|name| name.starts_with("parameter.")).collect();
    assert_eq!(of_training, ["parameter.projection.0.teacher.1.bias", "parameter.projection.0.teacher.1.weight"]);
    // Twice the same teacher is that teacher.
    let metrics = |output: &str, more: &str| {
        let best = workshop.distil(output, &format!("--layers 2 --mse 0.1 --objective pkd {more}"));
        let text = fs::read_to_string(best.parent().expect("a run").join("metrics.jsonl")).expect("metrics");
        lines(&text)
    };
    let again = format!("--teacher {}", workshop.path("teacher"));
    let (once, twice) = (metrics("once", ""), metrics("twice", &again));
    for (once, twice) in once.iter().zip(&twice) {
        for name in ["loss", "kl", "mlm", "mse", "patient", "teacher_agreement"] {
            let [once, twice] = [once, twice].map(|line| line[name].as_f64().unwrap_or(0.0));
            assert!((once - twice).abs() <= 1e-4 * once.abs(), "{name}: {once} {twice}");
        }
    }

    workshop.refuses(&narrow, &["student: expected the teacher's width 21 for the cosine loss, found width 16"]);
    let cached = format!("{narrow} --cosine 0 --teacher-top-k 4");
    workshop.refuses(&cached, &["teacher-top-k: expected one teacher, found 2"]);
    workshop.refuses(&format!("{narrow} --objective minilm"), &["`attention`", "the teacher's 3 attention heads"]);
    workshop.refuses(&format!("{narrow} --objective embedding"), &["expected one --teacher, found 2"]);
}

#[test]
fn terms_of_a_configuration_replace_those_of_the_objective() {
    let workshop = Workshop::new();
    let terms = "[[training.layer-terms]]\ncompare = \"hidden\"\nlayers = [[0, 0], [2, 1]]\nweight = 0.5\n\
                 [[training.layer-terms]]\ncompare = \"keys\"\nheads = 7\n";
    let file = workshop.file("terms.toml", terms);
    let best = workshop.distil("run", &format!("--objective minilm --layers 2 --config {file}"));
    assert_eq!(measures(&best), ["hidden", "keys"]);
    let saved = fs::read_to_string(best.parent().expect("a run").join("config.toml")).expect("a configuration");
    assert!(saved.contains("layers = [[0, 0], [2, 1]]") && saved.contains("heads = 7"), "{saved}");
}

#[test]
fn terms_that_do_not_fit_are_refused_by_name() {
    let workshop = Workshop::new();
    let narrow = "--random-init --layers 2 --hidden 12";
    let two_heads = "--random-init --layers 2 --hidden 12 --heads 2";
    let refuses = |terms: &str, student: &str, parts: &[&str]| {
        let file = workshop.file("terms.toml", &format!("[[training.layer-terms]]\n{terms}\n"));
        workshop.refuses(&format!("{student} --cosine 0 --config {file}"), parts);
    };
    refuses(
        "compare = \"patient\"",
        narrow,
        &["term 1 (`patient`)", "a student of the teacher's width 21", "found 12"],
    );
    refuses(
        "compare = \"attention\"",
        two_heads,
        &["term 1 (`attention`)", "the teacher's 3 attention heads", "found 2"],
    );
    refuses("compare = \"values\"\nheads = 0", two_heads, &["the teacher's 3 attention heads", "found 2"]);
    refuses("compare = \"values\"\nheads = 5", narrow, &["heads that cut the widths 12 and 21", "found 5"]);
    refuses("compare = \"hidden\"\nheads = 3", narrow, &["no `heads`", "found 3"]);
    refuses("compare = \"hidden\"\ntokens = \"all\"", narrow, &["no `tokens`, which goes with `patient`"]);
    refuses("compare = \"hidden\"\nlayers = [[3, 1]]", narrow, &["the student's layers 0 to 2", "[[3, 1]]"]);
    refuses("compare = \"hidden\"\nlayers = [[1, 4]]", narrow, &["the teacher's 0 to 3", "[[1, 4]]"]);
    refuses("compare = \"keys\"\nlayers = \"embeddings\"", narrow, &["the student's layers 1 to 2", "[[0, 0]]"]);
    refuses("compare = \"hidden\"\nlayers = \"odd\"", narrow, &["expected `embeddings`, `even`"]);
    refuses("compare = \"hidden\"\nweight = -1.0", narrow, &["a weight of 0 or more", "found -1"]);
    workshop.refuses("--objective minilm --teacher-top-k 4", &["no `layer-terms` beside `teacher-top-k`"]);
    workshop.refuses("--random-init --hidden 13", &["student", "13"]);
    let wide = workshop.file("wide.toml", "[student]\nhidden = 12\n");
    workshop.refuses(&format!("--config {wide}"), &["expected `random = true` for a width or heads of its own"]);
    let own = format!("--student {} --config {wide}", workshop.path("teacher"));
    workshop.refuses(&own, &["student: expected either a model to start from or layers of the teacher"]);
}

#[test]
fn fine_tuning_learns_the_layers_of_a_teacher_beside_its_answers_or_alone() {
    let workshop = Workshop::new();
    model("distilbert-nohead", Path::new(&workshop.path("student")));
    model("distilbert-classify", Path::new(&workshop.path("classifier")));
    let row = |row: usize| format!("w{} w{}\t{}\n", 5 + row, 9 + row, ["a", "b", "c"][row % 3]);
    let data = workshop.file("data.tsv", &format!("text\tlabel\n{}", (0..30).map(row).collect::<String>()));
    let [student, teacher] = ["student", "classifier"].map(|name| workshop.path(name));
    let terms = "[[training.layer-terms]]\ncompare = \"patient\"\n\
                 [[training.layer-terms]]\ncompare = \"attention\"\nlayers = [[1, 2]]\n";
    let finetune = |output: &str, more: &str| {
        let words = format!(
            "finetune --task own --text-column text --label-column label --epochs 1 --batch-size 8 --model {student} \
             --data {data} --output {} {more}",
            workshop.path(output)
        );
        run(&words.split_whitespace().collect::<Vec<_>>())
    };
    let beside = workshop.file("beside.toml", terms);
    stdout(&finetune("beside", &format!("--teacher {teacher} --config {beside}")));
    let best = Path::new(&workshop.path("beside")).join("best");
    assert_eq!(measures(&best), ["hard", "soft", "patient", "attention"]);
    let moments = |best: PathBuf| {
        let names = tensor_names(best.join("optimizer.safetensors"));
        names.into_iter().filter(|name| name.starts_with("first_moment.")).collect::<Vec<_>>()
    };
    assert!(moments(best).contains(&"first_moment.classifier.weight".to_owned()));

    // Of several teachers it is the mean: twice the same one is that one.
    stdout(&finetune("twice", &format!("--teacher {teacher} --teacher {teacher} --config {beside}")));
    let first_step = |run: &str| {
        let metrics = fs::read_to_string(Path::new(&workshop.path(run)).join("metrics.jsonl")).unwrap();
        common::lines(&metrics).into_iter().find(|line| line["kind"] == "train").unwrap()
    };
    let (once, twice) = (first_step("beside"), first_step("twice"));
    for name in ["loss", "soft", "patient", "attention"] {
        let [once, twice] = [&once, &twice].map(|line| line[name].as_f64().unwrap());
        // The mean's logits are logarithms of probabilities, rounded anew: measured 7e-8 of a divergence of 0.005.
        assert!((once - twice).abs() <= 1e-5 * once + 5e-7 && once > 0.0, "{name}: {once} {twice}");
    }

    // No term reaches what lies behind the first layer.
    let alone = workshop.file("alone.toml", &format!("[training.soft-labels]\nhard = 0.0\nsoft = 0.0\n{terms}"));
    let output = finetune("alone", &format!("--teacher {teacher} --config {alone}"));
    stdout(&output);
    assert!(common::stderr(&output).contains("layers alone were learnt"), "{}", common::stderr(&output));
    let run_folder = PathBuf::from(workshop.path("alone"));
    let metrics = fs::read_to_string(run_folder.join("metrics.jsonl")).unwrap();
    assert!(!metrics.contains("held_out"), "a head that learns nothing is not measured: {metrics}");
    let last = fs::read_dir(run_folder.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name()).max();
    assert_eq!(fs::canonicalize(run_folder.join("best")).unwrap().file_name().unwrap(), last.unwrap());
    let trained = moments(run_folder.join("best"));
    assert!(trained.iter().all(|name| !name.contains("classifier") && !name.contains("layer.1.")), "{trained:?}");
    assert!(trained.iter().any(|name| name.contains("layer.0.output_layer_norm")), "{trained:?}");

    // The recipes that come with the program.
    for (recipe, terms) in [
        ("finetune-pkd", &["hard", "soft", "patient"][..]),
        ("finetune-tinybert", &["hard", "soft", "embeddings", "hidden", "attention_scores"]),
        ("finetune-layers", &["hard", "soft", "embeddings", "hidden", "attention"]),
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../configs/{recipe}.toml"));
        stdout(&finetune(recipe, &format!("--teacher {teacher} --config {}", file.display())));
        assert_eq!(measures(&Path::new(&workshop.path(recipe)).join("best")), terms, "{recipe}");
    }

    let refused = error(&finetune("refused", &format!("--config {beside}")));
    assert!(refused.contains("layer-terms: expected a teacher to compare layers with"), "{refused}");
}
