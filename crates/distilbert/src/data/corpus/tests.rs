use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::progress::Progress;
use crate::tokenizer::Tokenizer;

/// A vocabulary of single letters, so that a word of n letters is n tokens.
fn tokenizer() -> Tokenizer {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let letters = ('a'..='z').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    Tokenizer::from_vocabulary(special.into_iter().chain(letters).collect(), true).expect("complete")
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().expect("temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("in the folder")).expect("folder");
        fs::write(&path, content).expect("write");
        path
    }
}

fn inputs(paths: &[PathBuf]) -> CorpusInputs {
    CorpusInputs { paths: paths.to_vec(), ..CorpusInputs::default() }
}

/// Keeps everything.
fn lenient() -> CorpusConfig {
    CorpusConfig { min_length: 0, max_unknown_share: 1.0, ..CorpusConfig::default() }
}

fn build_all(inputs: &CorpusInputs, config: &CorpusConfig) -> Result<(Vec<String>, CorpusSummary), CorpusError> {
    let folder = Folder::new();
    let output = folder.path("out.tokens");
    let summary = build(inputs, &tokenizer(), config, &output, &())?;
    let corpus = Corpus::open(&output)?;
    corpus.verify()?;
    let tokenizer = tokenizer();
    let mut texts: Vec<String> =
        all(&corpus).iter().map(|ids| tokenizer.decode(&ids[1..ids.len() - 1], false)).collect();
    texts.sort();
    Ok((texts, summary))
}

fn all(corpus: &Corpus) -> Vec<Vec<u32>> {
    [Split::Train, Split::HeldOut]
        .into_iter()
        .flat_map(|split| (0..corpus.split(split).len()).map(move |index| corpus.split(split).get(index)))
        .collect()
}

fn texts_of(inputs: &CorpusInputs) -> Vec<String> {
    build_all(inputs, &lenient()).expect("builds").0
}

fn refusal(inputs: &CorpusInputs, config: &CorpusConfig) -> String {
    build_all(inputs, config).expect_err("refused").to_string()
}

#[test]
fn sequences_begin_with_cls_end_with_sep_and_long_texts_are_cut() {
    let folder = Folder::new();
    let path = folder.file("a.txt", "abcdefghij\nabc\nabcdefgh\n");
    let config = CorpusConfig { max_length: 6, ..lenient() };
    let output = folder.path("out.tokens");
    let summary = build(&inputs(&[path]), &tokenizer(), &config, &output, &()).expect("builds");
    let corpus = Corpus::open(&output).expect("opens");
    let special = tokenizer().special();
    let sequences = all(&corpus);
    for ids in &sequences {
        assert!(ids.len() <= 6 && ids.first() == Some(&special.cls) && ids.last() == Some(&special.sep), "{ids:?}");
    }
    // 4 + 4 + 2, 3, and 4 + 4 of which `abcd` is a duplicate; no empty piece after the last full one.
    let mut lens: Vec<usize> = sequences.iter().map(|ids| ids.len() - 2).collect();
    lens.sort_unstable();
    assert_eq!(lens, [2, 3, 4, 4]);
    assert_eq!((summary.texts, summary.cut_texts, summary.formed), (3, 2, 6));
    assert_eq!(summary.dropped, Dropped { duplicate: 2, ..Dropped::default() });
    assert_eq!(summary.tokens, 4 * 2 + 13);
}

#[test]
fn short_unknown_and_duplicate_sequences_are_dropped_and_counted() {
    let folder = Folder::new();
    let path = folder.file("a.txt", "abcd\n\nabc\nabcd\n??? a b c ?\nabcdé\n漢字漢 a\n");
    let config = CorpusConfig { min_length: 6, max_unknown_share: 0.5, ..CorpusConfig::default() };
    let (texts, summary) = build_all(&inputs(&[path]), &config).expect("builds");
    // 4 of 9 tokens unknown is below one half, 3 of 6 is not.
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert_eq!(summary.dropped, Dropped { short: 1, unknown: 1, duplicate: 1 });
    assert_eq!((summary.blank_lines, summary.texts, summary.unknown_tokens), (1, 6, 4));
    assert_eq!(summary.formed, summary.train + summary.held_out + 3);
}

#[test]
fn paragraphs_unwrap_lines_and_joining_stays_within_one_document_and_the_limit() {
    let folder = Folder::new();
    let first = folder.file("1.txt", "ab\ncd\r\n\n \nef\n\nghijkl\n");
    let second = folder.file("2.txt", "mn");
    let by_paragraph = CorpusInputs { by: By::Paragraph, ..inputs(&[first, second]) };
    assert_eq!(texts_of(&by_paragraph), ["ab cd", "ef", "ghijkl", "mn"]);
    let joined = CorpusConfig { join_to: Some(8), ..lenient() };
    assert_eq!(build_all(&by_paragraph, &joined).expect("builds").0, ["ab cd ef", "ghijkl", "mn"]);
    let unjoined = CorpusConfig { join_to: Some(7), ..lenient() };
    assert_eq!(build_all(&by_paragraph, &unjoined).expect("builds").0, ["ab cd", "ef", "ghijkl", "mn"]);
}

#[test]
fn compressed_files_folders_and_patterns_are_read() {
    let folder = Folder::new();
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text.as_bytes()).expect("compresses");
        encoder.finish().expect("compresses")
    };
    let zstd = |text: &str| {
        ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Uncompressed)
    };
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b'x', b'y', b'z'];
    folder.file("in/b.txt.gz", [gzip("one\n"), gzip("two\n")].concat()); // two members
    folder.file("in/deep/c.zst", [zstd("three\n"), skippable.to_vec(), zstd("four\n")].concat()); // two frames
    folder.file("in/deep/d.txt", "\u{feff}five");
    folder.file("in/.hidden", "six");
    folder.file("in/rows.tsv.gz", gzip("label\ttext\n0\tseven \"x\n1\teight\n"));
    let named = CorpusInputs { field: Field::ColumnNamed("text".to_owned()), ..inputs(&[folder.path("in")]) };
    let found =
        texts_of(&CorpusInputs { paths: vec![folder.path("in/deep/d.txt"), folder.path("in/b*")], ..inputs(&[]) });
    assert_eq!(found, ["five", "one", "two"]);
    // `c.zst` says nothing of its content, so it is what the option says: a table, here without that column.
    assert!(refusal(&named, &lenient()).contains("c.zst` line 1: no column `text` in the header, found `three`"));
    fs::rename(folder.path("in/deep/c.zst"), folder.path("in/deep/c.txt.zst")).expect("renames");
    assert_eq!(texts_of(&named), ["eight", "five", "four", "one", "seven [UNK] x", "three", "two"]);
}

#[test]
fn json_lines_give_their_field_and_each_record_is_a_document() {
    let folder = Folder::new();
    let path = folder.file("a.jsonl", "{\"text\": \"ab\\ncd\", \"id\": 1}\n\n{\"text\": \"ef\"}\n");
    let json = CorpusInputs { field: Field::Json("text".to_owned()), ..inputs(&[path]) };
    assert_eq!(texts_of(&json), ["ab", "cd", "ef"]);
    let joined = CorpusConfig { join_to: Some(100), ..lenient() };
    assert_eq!(build_all(&json, &joined).expect("builds").0, ["ab cd", "ef"]);
}

#[test]
fn broken_records_are_refused_with_file_and_line() {
    let folder = Folder::new();
    let refuse = |name: &str, content: &str, field: Field| {
        refusal(&CorpusInputs { field, ..inputs(&[folder.file(name, content)]) }, &lenient())
    };
    let json = || Field::Json("text".to_owned());
    assert!(
        refuse("a.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}\n", json())
            .ends_with("line 2: field `text` must be a string, found a number")
    );
    assert!(refuse("b.jsonl", "{\"body\": \"a\"}\n", json()).ends_with("line 1: no field `text`"));
    assert!(refuse("c.jsonl", "{\"text\": \n", json()).contains("line 1: not JSON"));
    assert!(refuse("d.jsonl", "{}", Field::All).ends_with("say which part is text with `--field`"));
    assert!(refuse("e.tsv", "a\tb", Field::All).ends_with("say which part is text with `--column`"));
    assert!(refuse("f.tsv", "a\tb\nc\n", Field::Column(2)).ends_with("line 2: no column 2 in a row of 1"));
    assert!(refuse("g.tsv", "a\tb\n", Field::Column(0)).contains("no column 0"));
}

#[test]
fn lines_that_are_not_utf8_are_refused_or_skipped_by_name() {
    let folder = Folder::new();
    let path = folder.file("a.txt", b"ab\ncd \xff\nef\n");
    let refused = inputs(std::slice::from_ref(&path));
    let message = refusal(&refused, &lenient());
    assert!(message.contains("a.txt` line 2: not UTF-8 at byte 3 of the line"), "{message}");
    let skipping = CorpusInputs { invalid_utf8: InvalidUtf8::Skip, ..refused };
    let (texts, summary) = build_all(&skipping, &lenient()).expect("builds");
    assert_eq!(texts, ["ab", "ef"]);
    assert_eq!((summary.invalid_utf8_lines, summary.invalid_utf8_at), (1, vec![format!("{} line 2", path.display())]));
}

#[test]
fn missing_cut_off_and_empty_inputs_are_refused_and_leave_nothing() {
    let folder = Folder::new();
    let output = folder.path("out.tokens");
    let refuse = |path: PathBuf, config: &CorpusConfig| {
        let error = build(&inputs(&[path]), &tokenizer(), config, &output, &()).expect_err("refused").to_string();
        let left = fs::read_dir(folder.0.path()).expect("list").filter(|entry| {
            let name = entry.as_ref().expect("entry").file_name();
            name == "out.tokens" || name.to_string_lossy().ends_with(".partial")
        });
        assert_eq!(left.count(), 0);
        error
    };
    assert!(refuse(folder.path("nowhere.txt"), &lenient()).contains("no input file at"));
    assert!(refuse(folder.path("*.nothing"), &lenient()).contains("no input file at"));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all("abc def\n".repeat(100).as_bytes()).expect("compresses");
    let whole = encoder.finish().expect("compresses");
    assert!(refuse(folder.file("a.gz", &whole[..whole.len() - 9]), &lenient()).contains("a.gz`: "));
    assert!(refuse(folder.file("b.zst", b"\x28\xb5\x2f\xfd\x04"), &lenient()).contains("b.zst`: "));
    let mut altered = ruzstd::encoding::compress_to_vec(&b"abc"[..], ruzstd::encoding::CompressionLevel::Uncompressed);
    *altered.last_mut().expect("not empty") ^= 1;
    assert!(refuse(folder.file("b.zst", altered), &lenient()).ends_with("checksum of a zstd frame differs"));
    let message = refuse(folder.file("c.txt", "\n \nab\n"), &CorpusConfig::default());
    let expected = "c.txt`: the corpus is empty: 1 texts gave 1 sequences, of which 1 too short";
    assert!(message.contains(expected), "{message}");
    let all_held_out = CorpusConfig { held_out: HeldOut::Sequences(1), ..lenient() };
    assert!(refuse(folder.path("c.txt"), &all_held_out).ends_with("1 to be held out"));
    let impossible = CorpusConfig { max_length: 2, ..lenient() };
    assert!(
        refuse(folder.path("c.txt"), &impossible).contains("expected a longest sequence of at least 3 tokens, found 2")
    );
}

/// `count` different lines.
fn many_lines(count: usize) -> String {
    let letter = |value: usize| char::from(b'a' + (value % 26) as u8);
    (0..count)
        .map(|i| format!("{}{}{} {}\n", letter(i), letter(i / 26), letter(i / 676), "word ".repeat(i % 7)))
        .collect()
}

#[test]
fn bytes_depend_on_the_seed_but_not_on_the_number_of_threads() {
    let folder = Folder::new();
    let path = folder.file("a.txt", many_lines(1000));
    let bytes = |seed, threads| {
        let output = folder.path("out.tokens");
        let config = CorpusConfig { seed, threads, held_out: HeldOut::Share(0.1), ..lenient() };
        build(&inputs(std::slice::from_ref(&path)), &tokenizer(), &config, &output, &()).expect("builds");
        fs::read(output).expect("read")
    };
    let one = bytes(1, 1);
    assert_eq!(one, bytes(1, 3));
    assert_eq!(one, bytes(1, 2000));
    assert_ne!(one, bytes(2, 1));
}

#[test]
fn rounds_of_text_leave_no_seam() {
    let folder = Folder::new();
    // Over two rounds of 4 MiB, most of it spaces.
    let line =
        |i: usize| format!("{}{}ab", many_lines(i + 1).lines().next_back().unwrap_or_default(), " ".repeat(80_000));
    let text: Vec<String> = (0..120).map(line).collect();
    let path = folder.file("a.txt", text.join("\n"));
    let config = CorpusConfig { threads: 3, ..lenient() };
    let (texts, summary) = build_all(&inputs(&[path]), &config).expect("builds");
    assert_eq!((summary.texts, texts.len(), summary.dropped), (120, 120, Dropped::default()));
    let mut expected: Vec<String> =
        text.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    expected.sort();
    assert_eq!(texts, expected);
}

#[test]
fn the_held_out_part_and_the_training_part_are_the_whole_and_counts_cover_training_only() {
    let folder = Folder::new();
    let output = folder.path("out.tokens");
    let path = folder.file("a.txt", many_lines(200));
    let config = CorpusConfig { held_out: HeldOut::Sequences(17), ..lenient() };
    let summary = build(&inputs(&[path]), &tokenizer(), &config, &output, &()).expect("builds");
    let corpus = Corpus::open(&output).expect("opens");
    let (train, held_out) = (corpus.split(Split::Train), corpus.split(Split::HeldOut));
    assert_eq!((train.len(), held_out.len()), (183, 17));
    assert_eq!((summary.train, summary.held_out, summary.samples.len()), (183, 17, 10));
    assert_eq!(train.total_tokens() + held_out.total_tokens(), summary.tokens);
    let mut counts = vec![0; corpus.vocab_size()];
    for index in 0..train.len() {
        assert_eq!(train.token_len(index), train.get(index).len());
        train.get(index).into_iter().for_each(|id| counts[id as usize] += 1);
    }
    assert_eq!(corpus.token_counts(), counts);
    assert_eq!(counts[tokenizer().special().cls as usize], 183);
    let mut sequences = all(&corpus);
    assert!(!sequences.is_sorted());
    sequences.sort();
    sequences.dedup();
    assert_eq!(sequences.len(), 200);
}

#[test]
fn vocabularies_above_65536_tokens_have_ids_of_four_bytes() {
    let folder = Folder::new();
    let output = folder.path("out.tokens");
    let mut tokens: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).into();
    tokens.extend((0..70_000).map(|number| format!("w{number}")));
    let large = Tokenizer::from_vocabulary(tokens, true).expect("complete");
    let path = folder.file("a.txt", "w69999 w1 w65536\n");
    build(&inputs(&[path]), &large, &lenient(), &output, &()).expect("builds");
    let corpus = Corpus::open(&output).expect("opens");
    assert_eq!(corpus.split(Split::Train).get(0), [2, 70_004, 6, 65_541, 3]);
    assert!(corpus.check_vocabulary(&large).is_ok());
    let message = corpus.check_vocabulary(&tokenizer()).expect_err("other").to_string();
    assert!(message.contains("another vocabulary (70005 tokens"), "{message}");
}

fn small_corpus(folder: &Folder) -> (PathBuf, Vec<u8>) {
    let output = folder.path("out.tokens");
    let path = folder.file("a.txt", "abc\ndefg\nhi\n");
    build(&inputs(&[path]), &tokenizer(), &lenient(), &output, &()).expect("builds");
    let bytes = fs::read(&output).expect("read");
    (output, bytes)
}

#[test]
fn a_torn_or_altered_token_file_is_refused_by_name() {
    let folder = Folder::new();
    let (_, bytes) = small_corpus(&folder);
    let open = |bytes: &[u8]| Corpus::open(&folder.file("bad.tokens", bytes));
    for len in (0..bytes.len()).step_by(9) {
        let message = open(&bytes[..len]).expect_err("torn").to_string();
        assert!(message.contains("bad.tokens` is not a whole token file"), "{message}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(open(&longer).is_err());
    for byte in (0..120).chain((120..bytes.len()).step_by(5)) {
        let mut altered = bytes.clone();
        altered[byte] ^= 0x41;
        let noticed = open(&altered).and_then(|corpus| {
            // Whatever the damage, reading what `open` let through does not panic.
            all(&corpus);
            corpus.verify()
        });
        assert!(noticed.is_err(), "byte {byte}");
    }
    let huge = [&bytes[..16], &[0xff; 32], &bytes[48..]].concat();
    assert!(open(&huge).is_err());
}

#[test]
fn the_content_hash_names_the_content() {
    let folder = Folder::new();
    let (output, bytes) = small_corpus(&folder);
    let corpus = Corpus::open(&output).expect("opens");
    assert_eq!(corpus.content_hash(), hex(&bytes[80..112]));
    let (again, _) = small_corpus(&folder); // over the old one, which is not an input although it lies in the folder
    assert_eq!(Corpus::open(&again).expect("opens").content_hash(), corpus.content_hash());
    let other = folder.file("b.txt", "abc\ndefg\nhj\n");
    let summary = build(&inputs(&[other]), &tokenizer(), &lenient(), &output, &()).expect("builds");
    assert_ne!(summary.content_hash, corpus.content_hash());
}

#[test]
fn an_earlier_output_in_the_input_folder_is_not_read() {
    let folder = Folder::new();
    small_corpus(&folder);
    let output = folder.path("out.tokens");
    let config = lenient();
    let summary = build(&inputs(&[folder.0.path().to_owned()]), &tokenizer(), &config, &output, &()).expect("builds");
    assert_eq!((summary.files, summary.train), (1, 3));
}

#[test]
fn a_vocabulary_is_trained_from_the_same_inputs() {
    let folder = Folder::new();
    let path = folder.file("a.jsonl", "{\"text\": \"abab abab\"}\n{\"text\": \"abab\"}\n");
    let inputs = CorpusInputs { field: Field::Json("text".to_owned()), ..inputs(&[path]) };
    let config = crate::tokenizer::vocabulary::VocabularyConfig { size: 11, ..Default::default() };
    let tokens = train_vocabulary(&inputs, Path::new("none.tokens"), &config, &()).expect("trains");
    assert_eq!(tokens[5..], ["a", "##a", "##b", "ab", "##ab", "abab"].map(str::to_owned)[..tokens.len() - 5]);
    let standard_input = CorpusInputs { paths: vec!["-".into()], ..inputs };
    assert!(matches!(
        train_vocabulary(&standard_input, Path::new("none.tokens"), &config, &()),
        Err(CorpusError::StandardInputTwice)
    ));
}

/// Asks to stop at once, and adds up what it is told.
#[derive(Default)]
struct Impatient(AtomicU64);

impl Progress for Impatient {
    fn begin(&self, _what: &str, _total: Option<u64>, _unit: &'static str) {}
    fn advance(&self, done: u64) {
        self.0.fetch_add(done, Ordering::Relaxed);
    }
    fn end(&self) {}
    fn stop_requested(&self) -> bool {
        true
    }
}

#[test]
fn a_stopped_build_leaves_nothing_and_progress_counts_bytes() {
    let folder = Folder::new();
    let text = many_lines(50);
    let path = folder.file("in/a.txt", &text);
    let output = folder.path("out.tokens");
    let progress = Impatient::default();
    let result = build(&inputs(&[path]), &tokenizer(), &lenient(), &output, &progress);
    assert!(matches!(result, Err(CorpusError::Stopped)), "{result:?}");
    assert_eq!(progress.0.load(Ordering::Relaxed), text.len() as u64);
    let left: Vec<_> = fs::read_dir(Path::new(folder.0.path()))
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(left, ["in"]);
}
