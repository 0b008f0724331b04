//! What is served is what the library says, bit for bit, whatever it is batched with.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{
    answerer, ask, config, encoder, entailment, get, golden, intents_at, masked, post, reranker, runtime, sentiment,
    start, tagger, tagger_at, texts, tokenizer,
};
use distilbert::data::batch::Batch;
use distilbert::data::questions::{QuestionSet, QuestionWindows};
use distilbert::evaluate::predictions::{sigmoid, softmax};
use distilbert::heads::tokens::starts_then_ends;
use distilbert::model::Model;
use distilbert::model::encoder::Activations;
use distilbert::predict::answers::{Ranking, RankingConfig};
use distilbert::predict::intents::{Meaning, understood};
use distilbert::predict::spans::{Aggregation, spans};
use distilbert::predict::text_windows::TextWindows;
use distilbert::predict::{EmbeddingRunner, LogitsRunner};
use distilbert_serve::{Config, EngineLimits, ServedModel};
use serde_json::{Value, json};

/// Batches so small that most requests are split.
fn small_batches() -> Config {
    Config { engine: EngineLimits { batch_tokens: 24, ..config().engine }, ..config() }
}

fn bits(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("a list");
    list.iter().map(|number| (number.as_f64().expect("a number") as f32).to_bits()).collect()
}

/// The library's own vectors, each text alone, with the folder's own head.
fn vectors(name: &str, texts: &[String], prompt: &str, dimensions: Option<usize>) -> Vec<Vec<u32>> {
    let folder = golden(name);
    let rt = runtime();
    let model = Model::load_for_inference(&folder, &rt, None).unwrap().model;
    let tokenizer = tokenizer(&folder, &model);
    let mut runner = EmbeddingRunner::new(&model, dimensions).unwrap();
    let most = model.config.encoder.max_positions;
    let mut vector = |text: &String| {
        let encoding = tokenizer.encode(&format!("{prompt}{text}"), None, Some(most));
        let batch = Batch::from_sequences([&encoding.input_ids[..]]);
        runner.run(&rt, &batch).unwrap().iter().map(|x| x.to_bits()).collect()
    };
    texts.iter().map(&mut vector).collect()
}

/// The library's own logits of a text or a pair alone.
fn logits(name: &str, inputs: &[(String, Option<String>)]) -> Vec<Vec<f32>> {
    let folder = golden(name);
    let rt = runtime();
    let model = Model::load_for_inference(&folder, &rt, None).unwrap().model;
    let tokenizer = tokenizer(&folder, &model);
    let mut runner = LogitsRunner::new(&model).unwrap();
    let most = model.config.encoder.max_positions;
    let mut run = |(text, pair): &(String, Option<String>)| {
        let encoding = tokenizer.encode(text, pair.as_deref(), Some(most));
        let mut batch = Batch::new();
        batch.push(&encoding.input_ids, Some(&encoding.token_type_ids));
        runner.run(&rt, &batch).unwrap().to_vec()
    };
    inputs.iter().map(&mut run).collect()
}

#[test]
fn vectors_have_the_librarys_bits_for_many_clients_at_once() {
    let server = start(small_batches(), vec![encoder("cls", "sentence-cls"), encoder("dense", "sentence-dense")]);
    let texts = texts(60);
    for (name, folder) in [("cls", "sentence-cls"), ("dense", "sentence-dense")] {
        let settings = distilbert::checkpoint::sentence_folder::SentenceSettings::read(&golden(folder)).unwrap();
        let expected = vectors(folder, &texts, settings.prompt(None).unwrap(), None);
        std::thread::scope(|scope| {
            for client in 0..4 {
                let (server, texts, expected) = (&server, &texts, &expected);
                scope.spawn(move || {
                    let all = ask(server, &format!("/models/{name}/embed"), &json!({"inputs": texts}));
                    for (found, expected) in all.as_array().unwrap().iter().zip(expected) {
                        assert_eq!(&bits(found), expected);
                    }
                    for place in (client..texts.len()).step_by(7) {
                        let one = ask(server, "/embed", &json!({"model": name, "inputs": texts[place]}));
                        assert_eq!(bits(&one[0]), expected[place]);
                    }
                });
            }
        });
    }
}

#[test]
fn openais_numbers_are_the_same_as_text_and_in_base64() {
    let server = start(small_batches(), vec![encoder("cls", "sentence-cls")]);
    let texts = texts(9);
    let settings = distilbert::checkpoint::sentence_folder::SentenceSettings::read(&golden("sentence-cls")).unwrap();
    let prompt = settings.prompt(None).unwrap();
    for dimensions in [None, Some(5)] {
        let expected = vectors("sentence-cls", &texts, prompt, dimensions);
        let mut request = json!({"model": "cls", "input": texts, "user": "someone"});
        if let Some(dimensions) = dimensions {
            request["dimensions"] = dimensions.into();
        }
        let plain = ask(&server, "/v1/embeddings", &request);
        request["encoding_format"] = "base64".into();
        let packed = ask(&server, "/v1/embeddings", &request);
        assert_eq!((&plain["object"], &plain["model"]), (&json!("list"), &json!("cls")));
        assert!(plain["usage"]["prompt_tokens"].as_u64().unwrap() > 18);
        for (index, expected) in expected.iter().enumerate() {
            assert_eq!(plain["data"][index]["index"], index);
            assert_eq!(&bits(&plain["data"][index]["embedding"]), expected);
            let bytes = STANDARD.decode(packed["data"][index]["embedding"].as_str().unwrap()).unwrap();
            let found = bytes.chunks_exact(4).map(|x| u32::from_le_bytes(x.try_into().unwrap()));
            assert_eq!(&found.collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn states_of_all_tokens_are_the_encoders() {
    let served = encoder("cls", "sentence-cls");
    let texts = texts(7);
    let rt = runtime();
    let prompt = match &served.task {
        distilbert_serve::ServedTask::Embed { settings } => settings.prompt(None).unwrap().to_owned(),
        _ => unreachable!("an encoder"),
    };
    let mut activations = Activations::default();
    let mut expected = Vec::new();
    for text in &texts {
        let encoding = served.tokenizer.encode(&format!("{prompt}{text}"), None, Some(served.max_length));
        let batch = Batch::from_sequences([&encoding.input_ids[..]]);
        served.model.encode(&rt, &batch, distilbert::model::Mode::Inference, &mut activations);
        let hidden = served.model.config.encoder.hidden;
        let states = activations.last_hidden_state().chunks_exact(hidden);
        expected.push(states.map(|state| state.iter().map(|x| x.to_bits()).collect()).collect::<Vec<Vec<u32>>>());
    }
    let server = start(small_batches(), vec![served]);
    let found = ask(&server, "/embed_all", &json!({"inputs": texts}));
    let found: Vec<Vec<Vec<u32>>> =
        found.as_array().unwrap().iter().map(|tokens| tokens.as_array().unwrap().iter().map(bits).collect()).collect();
    assert_eq!(found, expected);
}

#[test]
fn similarity_is_the_cosine_of_the_librarys_vectors() {
    let server = start(small_batches(), vec![encoder("cls", "sentence-cls")]);
    let texts = texts(5);
    let settings = distilbert::checkpoint::sentence_folder::SentenceSettings::read(&golden("sentence-cls")).unwrap();
    let of: Vec<Vec<f64>> = vectors("sentence-cls", &texts, settings.prompt(None).unwrap(), None)
        .iter()
        .map(|bits| bits.iter().map(|&x| f64::from(f32::from_bits(x))).collect())
        .collect();
    let request = json!({"inputs": {"source_sentence": texts[0], "sentences": texts[1..]}});
    let found = ask(&server, "/similarity", &request);
    let cosine = |other: &Vec<f64>| of[0].iter().zip(other).map(|(a, b)| a * b).sum::<f64>() as f32;
    assert_eq!(bits(&found), of[1..].iter().map(|other| cosine(other).to_bits()).collect::<Vec<_>>());
    // The same through the path that Hugging Face's client takes.
    assert_eq!(ask(&server, "/models/cls", &request), found);
}

#[test]
fn labels_and_pairs_have_the_librarys_probabilities() {
    let server = start(small_batches(), vec![sentiment()]);
    let single: Vec<(String, Option<String>)> = texts(20).into_iter().map(|text| (text, None)).collect();
    let pairs: Vec<(String, Option<String>)> =
        texts(20).into_iter().rev().map(|text| (text.clone(), Some(format!("{text} w9")))).collect();
    for inputs in [single, pairs] {
        let expected = logits("distilbert-classify", &inputs);
        let lists: Vec<Vec<&String>> =
            inputs.iter().map(|(text, pair)| std::iter::once(text).chain(pair).collect()).collect();
        let found = ask(&server, "/predict", &json!({"inputs": lists}));
        let raw = ask(&server, "/predict", &json!({"inputs": lists, "raw_scores": true}));
        for ((found, raw), expected) in found.as_array().unwrap().iter().zip(raw.as_array().unwrap()).zip(&expected) {
            let scores = softmax(expected);
            for (list, scores) in [(found, &scores), (raw, expected)] {
                let list = list.as_array().unwrap();
                assert_eq!(list.len(), 3);
                assert!(list.windows(2).all(|two| two[0]["score"].as_f64() >= two[1]["score"].as_f64()));
                for (label, score) in ["no", "maybe", "yes"].iter().zip(scores) {
                    let entry = list.iter().find(|entry| entry["label"] == *label).unwrap();
                    assert_eq!((entry["score"].as_f64().unwrap() as f32).to_bits(), score.to_bits());
                }
            }
        }
    }
}

#[test]
fn the_pipelines_shapes_follow_top_k_and_the_kind_of_input() {
    let server = start(config(), vec![sentiment()]);
    let classify = |body: Value| ask(&server, "/classify", &body);
    let one = classify(json!({"inputs": "w5 w6"}));
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert!(one[0]["label"].is_string() && one[0].get("truncated_tokens").is_none());
    let two = classify(json!({"inputs": ["w5 w6", {"text": "w7", "text_pair": "w8"}]}));
    assert_eq!((two.as_array().unwrap().len(), &two[0]), (2, &one[0]));
    // Of an object alone the pipeline gives no list, unless labels are counted.
    let pair = json!({"text": "w7", "text_pair": "w8"});
    assert_eq!(classify(json!({"inputs": pair})), two[1]);
    assert_eq!(classify(json!({"inputs": [pair]})), json!([two[1]]));
    let counted = classify(json!({"inputs": pair, "parameters": {"top_k": 1}}));
    assert_eq!(counted, json!([two[1]]));
    let all = classify(json!({"inputs": "w5 w6", "parameters": {"top_k": null}}));
    assert_eq!((all.as_array().unwrap().len(), &all[0]), (3, &one[0]));
    let lists = classify(json!({"inputs": ["w5 w6", "w7"], "parameters": {"top_k": 2}}));
    assert_eq!((lists[0].as_array().unwrap().len(), &lists[0][0]), (2, &one[0]));
    let none = classify(json!({"inputs": "w5 w6", "parameters": {"function_to_apply": "none", "top_k": 3}}));
    let expected = logits("distilbert-classify", &[("w5 w6".into(), None)]);
    let largest = expected[0].iter().copied().fold(f32::MIN, f32::max);
    assert_eq!(none[0]["score"].as_f64().unwrap() as f32, largest);
    // As Hugging Face's hosted models answer.
    let hosted = ask(&server, "/models/sentiment", &json!({"inputs": "w5 w6"}));
    assert_eq!(hosted, json!([all]));
}

#[test]
fn texts_are_ranked_by_the_sigmoid_of_the_librarys_score() {
    let server = start(small_batches(), vec![reranker()]);
    let texts = texts(12);
    let pairs: Vec<(String, Option<String>)> =
        texts.iter().map(|text| ("w9 w8".to_owned(), Some(text.clone()))).collect();
    let scores: Vec<f32> = logits("distilbert-regress", &pairs).iter().map(|logits| logits[0]).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| sigmoid(scores[b]).total_cmp(&sigmoid(scores[a])).then(a.cmp(&b)));
    let found = ask(&server, "/rerank", &json!({"query": "w9 w8", "texts": texts, "return_text": true}));
    let raw = ask(&server, "/rerank", &json!({"query": "w9 w8", "texts": texts, "raw_scores": true}));
    for ((found, raw), &index) in found.as_array().unwrap().iter().zip(raw.as_array().unwrap()).zip(&order) {
        assert_eq!((&found["index"], &found["text"]), (&json!(index), &json!(texts[index])));
        assert_eq!(found["score"].as_f64().unwrap() as f32, sigmoid(scores[index]));
        assert!(raw.get("text").is_none());
        let of_raw = raw["index"].as_u64().unwrap() as usize;
        assert_eq!(raw["score"].as_f64().unwrap() as f32, scores[of_raw]);
    }
}

#[test]
fn a_temperature_divides_the_logits_of_tags() {
    let server = start(small_batches(), vec![tagger_at(1e6)]);
    let parameters = json!({"aggregation_strategy": "none", "ignore_labels": []});
    let found = ask(&server, "/tag", &json!({"inputs": "wolfgang lives in berlin", "parameters": parameters}));
    let spans = found.as_array().unwrap();
    assert_eq!(spans.len(), 4);
    for span in spans {
        // Divided by that much, the six labels are about equally likely.
        let score = span["score"].as_f64().unwrap();
        assert!((score - 1.0 / 6.0).abs() < 1e-3, "{span}");
    }
}

#[test]
fn tags_of_long_texts_are_those_of_the_reference_and_of_no_window() {
    let server = start(small_batches(), vec![tagger()]);
    let expected: Value =
        serde_json::from_slice(&std::fs::read(golden("tagger").join("expected.json")).unwrap()).unwrap();
    let mut compared = 0;
    for case in expected.as_array().unwrap() {
        for strategy in ["none", "simple", "first", "average", "max"] {
            let parameters = json!({"aggregation_strategy": strategy, "ignore_labels": case["ignored"]});
            let found = ask(&server, "/tag", &json!({"inputs": case["text"], "parameters": parameters}));
            let (found, expected) = (found.as_array().unwrap(), case["spans"][strategy].as_array().unwrap());
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                for (key, value) in found.as_object().unwrap() {
                    match value.as_f64().filter(|_| key == "score") {
                        Some(score) => assert!((score - expected[key].as_f64().unwrap()).abs() < 2e-6),
                        None => assert_eq!(value, &expected[key], "{key}"),
                    }
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 300, "{compared}");
    let both = ask(&server, "/tag", &json!({"inputs": ["wolfgang lives in berlin", "in berlin"]}));
    assert_eq!(both.as_array().unwrap().len(), 2);
}

#[test]
fn windows_of_long_texts_overlap_by_the_stride() {
    let ServedModel { model, tokenizer, max_length, .. } = tagger();
    let rt = runtime();
    let mut runner = LogitsRunner::new(&model).unwrap();
    let labels = model.config.head.labels().to_vec();
    let text = ["wolfgang lives in berlin , york ."; 40].join(" ");
    let mut expected = |stride: Option<usize>| {
        let windows = TextWindows::new(&tokenizer, &text, max_length, stride);
        let sequences = windows.sequences();
        let mut run = |ids: &[u32]| runner.run(&rt, &Batch::from_sequences([ids])).unwrap().to_vec();
        let said: Vec<Vec<f32>> = sequences.iter().map(|sequence| run(&sequence.input_ids)).collect();
        let tokens = windows.tokens(&said, labels.len());
        let found = spans(&text, &tokens, &labels, &tokenizer, Aggregation::Simple, &["O".to_owned()]);
        (sequences.len(), serde_json::from_str::<Value>(&serde_json::to_string(&found).unwrap()).unwrap())
    };
    let server = start(small_batches(), vec![tagger()]);
    let mut counts = Vec::new();
    let mut answers = Vec::new();
    for stride in [None, Some(0), Some(1), Some(max_length)] {
        let (windows, spans) = expected(stride);
        let parameters = json!({"aggregation_strategy": "simple", "stride": stride});
        let found = ask(&server, "/tag", &json!({"inputs": text, "parameters": parameters}));
        assert_eq!(found, spans, "{stride:?}");
        counts.push(windows);
        answers.push(found);
    }
    assert!(counts[1] < counts[0] && counts[0] < counts[3], "{counts:?}");
    assert_ne!(answers[1], answers[3], "what stands around a word counts");
}

#[test]
fn intents_and_slots_are_those_of_the_library_and_of_texts_of_any_length() {
    let ServedModel { model, tokenizer, max_length, .. } = intents_at(2.5);
    let rt = runtime();
    let mut runner = LogitsRunner::new(&model).unwrap();
    let (labels, slots) = (model.config.head.labels().to_vec(), model.config.head.slots().to_vec());
    let meaning = Meaning { intents: &labels, slots: &slots, temperature: 2.5 };
    let mut expected = |text: &String| {
        let windows = TextWindows::new(&tokenizer, text, max_length, None);
        let mut run = |ids: &[u32]| {
            let batch = Batch::from_sequences([ids]);
            let logits = runner.run(&rt, &batch).unwrap();
            model.head.by_sequence(&batch, logits)[0].map(<[f32]>::to_vec)
        };
        let said: Vec<_> = windows.sequences().iter().map(|sequence| run(&sequence.input_ids)).collect();
        let said = understood(text, &windows, &said, meaning, &tokenizer).unwrap();
        // By way of text, as it is sent: a number of 32 bits is shorter there than one of 64.
        serde_json::from_str(&serde_json::to_string(&said).unwrap()).unwrap()
    };
    let mut texts = texts(9);
    texts.push(["w7 w9 w11"; 40].join(" "));
    texts.push(String::new());
    let expected: Vec<Value> = texts.iter().map(&mut expected).collect();
    assert!(expected.iter().any(|said| said["slots"].as_array().unwrap().len() > 10), "{expected:?}");
    let server = start(small_batches(), vec![intents_at(2.5), tagger()]);
    let found = ask(&server, "/intents", &json!({"inputs": texts}));
    assert_eq!(found, json!(expected));
    assert_eq!(ask(&server, "/models/intents", &json!({"inputs": texts[3]})), expected[3]);
    let info = get(&server, "/models/intents/info").json();
    assert_eq!(info["model_type"]["intent_classifier"]["slots"]["id2label"]["1"], "B-a");
}

#[test]
fn masks_and_unseen_labels_are_answered_as_the_reference_pipelines_do() {
    let server = start(small_batches(), vec![masked(), entailment()]);
    let cases: Value = serde_json::from_slice(&std::fs::read(golden("pipelines.json")).unwrap()).unwrap();
    let close = |found: &Value, expected: &Value| (found.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 2e-6;
    let mut compared = 0;
    for case in cases["fill_mask"].as_array().unwrap().iter().filter(|case| case["model"] == "distilbert-mlm") {
        let found = ask(&server, "/fill-mask", &json!({"inputs": case["text"], "parameters": case["arguments"]}));
        let flat = |value: &Value| -> Vec<Value> {
            let list = value.as_array().unwrap();
            list.iter().flat_map(|entry| entry.as_array().cloned().unwrap_or_else(|| vec![entry.clone()])).collect()
        };
        assert_eq!(found[0].is_array(), case["expected"][0].is_array());
        for (found, expected) in flat(&found).iter().zip(flat(&case["expected"])) {
            assert!(close(&found["score"], &expected["score"]), "{found} {expected}");
            assert_eq!((&found["token_str"], &found["sequence"]), (&expected["token_str"], &expected["sequence"]));
            compared += 1;
        }
    }
    assert!(compared > 5, "{compared}");
    let texts = vec!["w5 w6 w7".to_owned(), "w9".to_owned()];
    let labels = ["w20", "w21", "w22"];
    for (multi_label, template) in [(false, "This example is {}."), (true, "w11 {} w12")] {
        let parameters =
            json!({"candidate_labels": labels, "multi_label": multi_label, "hypothesis_template": template});
        let found = ask(&server, "/zero-shot", &json!({"inputs": texts, "parameters": parameters}));
        for (text, found) in texts.iter().zip(found.as_array().unwrap()) {
            let pairs: Vec<_> =
                labels.iter().map(|label| (text.clone(), Some(template.replace("{}", label)))).collect();
            let logits = logits("bert-classify", &pairs);
            let scores: Vec<f32> = match multi_label {
                false => softmax(&logits.iter().map(|logits| logits[0]).collect::<Vec<_>>()),
                true => logits.iter().map(|logits| softmax(&[logits[2], logits[0]])[1]).collect(),
            };
            assert_eq!(found["sequence"], *text);
            for (label, score) in labels.iter().zip(scores) {
                let place = found["labels"].as_array().unwrap().iter().position(|found| found == label).unwrap();
                assert_eq!(found["scores"][place].as_f64().unwrap() as f32, score);
            }
        }
    }
}

#[test]
fn answers_are_those_of_the_library_window_by_window() {
    let served = answerer();
    let context: String = texts(12).join(" ");
    let questions = [("w9 w8", context.as_str()), ("w7", "w6 w5 w30")];
    let (rt, mut expected) = (runtime(), Vec::new());
    let windows = match &served.task {
        distilbert_serve::ServedTask::Answer { windows, .. } => *windows,
        _ => unreachable!("an answerer"),
    };
    let ranking = RankingConfig { top_k: 3, max_answer_length: 15, null_threshold: None };
    let mut runner = LogitsRunner::new(&served.model).unwrap();
    for (question, context) in questions {
        let cut = QuestionWindows::new(&QuestionSet::single(question, context), &served.tokenizer, windows, 1).unwrap();
        let mut found = Ranking::new(context, ranking);
        for (index, window) in cut.windows().iter().enumerate() {
            let logits = starts_then_ends(runner.run(&rt, &cut.batch(&[index])).unwrap());
            let (starts, ends) = logits.split_at(logits.len() / 2);
            found.add(&cut, window, starts, ends).unwrap();
        }
        let found = found.finish();
        let shown: Vec<_> = found.iter().map(|answer| answer.shown(context, 0)).collect();
        expected.push(serde_json::to_value(shown).unwrap());
    }
    drop(runner);
    let server = start(small_batches(), vec![served]);
    let inputs: Vec<Value> =
        questions.iter().map(|(question, context)| json!({"question": question, "context": context})).collect();
    let found = ask(&server, "/answer", &json!({"inputs": inputs, "parameters": {"top_k": 3}}));
    assert_eq!(found, Value::from(expected.clone()));
    let one = ask(&server, "/models/answers", &json!({"inputs": inputs[1]}));
    assert_eq!(one, expected[1][0]);
    assert_eq!(ask(&server, "/answer", &json!({"inputs": [inputs[1]]})), one);
    let heard = json!({"inputs": inputs[1], "parameters": {"max_question_len": 64, "align_to_words": true}});
    assert_eq!(ask(&server, "/answer", &heard), one);
    let refused = json!({"inputs": inputs[1], "parameters": {"align_to_words": false}});
    assert_eq!(common::post(&server, "/answer", &refused).status, 422);
    let text: String = context.chars().collect();
    let first = &found[0][0];
    let (start, end) = (first["start"].as_u64().unwrap() as usize, first["end"].as_u64().unwrap() as usize);
    assert_eq!(first["answer"], text[start..end]);
}

#[test]
fn long_texts_are_the_mean_of_their_windows_by_tokens_where_that_is_asked_for() {
    let long = (0..70).map(|at| format!("w{}", 5 + at * 7 % 40)).collect::<Vec<_>>().join(" ");
    let texts = ["w5 w6", &long];
    let narrow =
        |value: &Value| -> Vec<f32> { value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect() };
    // Windows of the text and the tokens that each answers for; and the mean of rows by these.
    let windows = |model: &ServedModel, prompt: &str| {
        let windows = TextWindows::behind(&model.tokenizer, prompt, &long, model.max_length).unwrap();
        let ids = windows.sequences().into_iter().map(|sequence| sequence.input_ids).collect::<Vec<_>>();
        assert!(ids.len() > 2);
        (ids, windows.own_tokens())
    };
    let mean = |rows: &[Vec<f32>], own: &[usize]| -> Vec<f64> {
        let total = own.iter().sum::<usize>() as f64;
        let of =
            |at: usize| rows.iter().zip(own).map(|(row, &own)| f64::from(row[at]) * own as f64).sum::<f64>() / total;
        (0..rows[0].len()).map(of).collect()
    };
    let assert_close = |found: &[f32], expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
        }
    };

    let model = encoder("dense", "sentence-dense");
    let prompt = match &model.task {
        distilbert_serve::ServedTask::Embed { settings } => settings.prompt(None).unwrap().to_owned(),
        _ => unreachable!("an encoder"),
    };
    let (ids, own) = windows(&model, &prompt);
    let server = start(small_batches(), vec![model, sentiment()]);
    let rows = ask(&server, "/embed", &json!({"inputs": ids, "normalize": false}));
    let rows: Vec<Vec<f32>> = rows.as_array().unwrap().iter().map(narrow).collect();
    let expected = mean(&rows, &own);
    let answer = common::post(&server, "/embed", &json!({"inputs": texts, "normalize": false, "windows": true}));
    assert_close(&narrow(&answer.json()[1]), &expected);
    assert_eq!(answer.header("x-truncated-tokens"), Some("0"));
    assert_eq!(answer.header("x-windows"), Some(&*format!("1:{}", ids.len())));
    let length = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let scaled: Vec<f64> = expected.iter().map(|x| x / length).collect();
    assert_close(&narrow(&ask(&server, "/embed", &json!({"inputs": texts, "windows": true}))[1]), &scaled);
    // A text that is short has its own bits, and without the wish a long one is cut.
    let plain = common::post(&server, "/embed", &json!({"inputs": texts, "normalize": false}));
    assert_eq!(bits(&plain.json()[0]), bits(&answer.json()[0]));
    assert!(plain.header("x-windows").is_none() && plain.header("x-truncated-tokens") != Some("0"));

    let (ids, own) = windows(&sentiment(), "");
    let spelled =
        |ids: &Vec<u32>| ids[1..ids.len() - 1].iter().map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ");
    let parts: Vec<String> = ids.iter().map(spelled).collect();
    let by_label = |path: &str, body: Value| -> Vec<Vec<f32>> {
        let of = |list: &Value, label: &str| {
            let labelled = list.as_array().unwrap().iter().find(|found| found["label"] == label).unwrap();
            labelled["score"].as_f64().unwrap() as f32
        };
        let all = ask(&server, path, &body);
        all.as_array()
            .unwrap()
            .iter()
            .map(|list| ["no", "maybe", "yes"].map(|label| of(list, label)).to_vec())
            .collect()
    };
    let lists: Vec<[&String; 1]> = parts.iter().map(|part| [part]).collect();
    for raw in [true, false] {
        let rows = by_label("/predict", json!({"inputs": lists, "raw_scores": raw}));
        let found = by_label("/predict", json!({"inputs": [[long]], "raw_scores": raw, "windows": true}));
        assert_close(&found[0], &mean(&rows, &own));
    }
    let rows = by_label("/classify", json!({"inputs": parts, "parameters": {"top_k": null}}));
    let found = by_label("/classify", json!({"inputs": [long], "parameters": {"top_k": null, "windows": true}}));
    assert_close(&found[0], &mean(&rows, &own));

    // As the server is told, unless a request says what is to be cut.
    let told = Config { windows: true, ..small_batches() };
    let server = start(told, vec![encoder("dense", "sentence-dense")]);
    let lost = |body: Value| common::post(&server, "/embed", &body).header("x-truncated-tokens").unwrap().to_owned();
    assert_eq!(lost(json!({"inputs": texts})), "0");
    assert_ne!(lost(json!({"inputs": texts, "truncate": true})), "0");
    let openai = common::post(&server, "/v1/embeddings", &json!({"model": "dense", "input": texts}));
    assert!(openai.header("x-windows").is_some());
}

/// More than a text that is read in one go; its last words are others than its first.
fn very_long(words: usize) -> String {
    (0..words).map(|word| format!("w{}", 5 + (word + word / 5000) % 40)).collect::<Vec<_>>().join(" ")
}

#[test]
fn very_long_texts_are_cut_as_if_they_were_read_in_one_go() {
    let tokenizer = {
        let model = sentiment();
        tokenizer(&golden("distilbert-classify"), &model.model)
    };
    let max_length = sentiment().max_length;
    let server = start(config(), vec![sentiment(), entailment()]);
    let (long, longer, short) = (very_long(20_000), very_long(30_001), "w9 w8 w7".to_owned());
    let tokens = |text: &str, pair: Option<&str>, from_left: bool| {
        let mut kept = tokenizer.encode(text, pair, Some(max_length));
        let lost = kept.truncated_tokens;
        if from_left {
            let whole = tokenizer.encode(text, None, None).input_ids;
            kept.input_ids = [&whole[..1], &whole[whole.len() + 1 - max_length..]].concat();
        }
        (kept.input_ids, lost)
    };
    // Ids of a text alone are run as they are, so they must give the same numbers as the text.
    for (text, from_left) in [(&long, false), (&longer, false), (&long, true), (&short, false)] {
        let (ids, lost) = tokens(text, None, from_left);
        let direction = if from_left { "Left" } else { "Right" };
        let body = json!({"inputs": [[text]], "truncation_direction": direction, "raw_scores": true});
        let answer = post(&server, "/models/sentiment/predict", &body);
        assert_eq!(answer.header("x-truncated-tokens"), Some(lost.to_string().as_str()));
        let words: Vec<String> =
            ids[1..ids.len() - 1].iter().map(|&id| tokenizer.token(id).unwrap().to_owned()).collect();
        let of_kept =
            ask(&server, "/models/sentiment/predict", &json!({"inputs": [[words.join(" ")]], "raw_scores": true}));
        assert_eq!(answer.json(), of_kept);
    }
    for (text, pair) in [(&long, &short), (&short, &longer), (&long, &longer), (&longer, &long)] {
        let lost = tokens(text, Some(pair), false).1;
        let answer = post(&server, "/models/sentiment/predict", &json!({"inputs": [[text, pair]]}));
        assert_eq!(answer.header("x-truncated-tokens"), Some(lost.to_string().as_str()));
    }
    let body = json!({"inputs": long, "parameters": {"candidate_labels": ["w9"], "hypothesis_template": "{}"}});
    let answer = post(&server, "/models/nli/zero-shot", &body);
    let lost = tokenizer.encode_keeping_pair(&long, "w9", entailment().max_length).unwrap().truncated_tokens;
    assert_eq!(answer.header("x-truncated-tokens"), Some(lost.to_string().as_str()), "{}", answer.text());
    let refused = post(&server, "/models/sentiment/predict", &json!({"inputs": long, "truncate": false}));
    assert!(refused.text().contains("Given: 20002"), "{}", refused.text());
}
