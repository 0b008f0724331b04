use std::path::PathBuf;

/// What can be wrong with a tokenizer or its files.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The folder has no tokenizer.
    #[error("no tokenizer in `{}`: expected tokenizer.json, vocab.txt, or vocab.json and merges.txt", folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder has its tokenizer in a format that is not read here.
    #[error(
        "`{}` is SentencePiece's own format: expected tokenizer.json, as `AutoTokenizer.from_pretrained(FOLDER)\
         .save_pretrained(FOLDER)` of Python's transformers writes it",
        path.display()
    )]
    SentencePiece {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what its name says.
    #[error("`{}` is malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer of another kind.
    #[error("`{}`: {part} must be {expected}, found {found}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The part of the tokenizer.
        part: &'static str,
        /// The only supported kind.
        expected: &'static str,
        /// The kind found.
        found: String,
    },
    /// A special token is not in the vocabulary.
    #[error("special token `{token}` is missing in a vocabulary of {vocabulary_size} tokens")]
    MissingSpecialToken {
        /// The token.
        token: String,
        /// Number of tokens that are there.
        vocabulary_size: usize,
    },
    /// Two vocabularies that must be equal differ.
    #[error(
        "vocabularies differ: token {id} is {left} in one and {right} in the other ({left_size} and {right_size} tokens)"
    )]
    VocabularyMismatch {
        /// First id that differs.
        id: usize,
        /// Its token in the first vocabulary.
        left: String,
        /// Its token in the second.
        right: String,
        /// Size of the first.
        left_size: usize,
        /// Size of the second.
        right_size: usize,
    },
    /// The `tokenizers` crate refuses.
    #[error("cannot build the tokenizer: {0}")]
    Build(String),
}
