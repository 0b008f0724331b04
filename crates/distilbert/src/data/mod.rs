//! Files in, batches out: corpora, labelled data sets, packed batches.

pub mod batch; // Encodings -> Batch, unpadded
pub mod corpus; // text -> token file
pub mod check; // labelled files -> what is odd about them
pub mod encoded; // labelled examples -> tokens
pub mod records; // a text file -> rows, one at a time
pub mod examples; // TSV, CSV, JSONL -> labelled examples
pub mod masking; // which tokens a masked-LM step hides
pub mod intents; // folders of words, slots and intents -> utterances
pub mod tagging; // CoNLL, CoNLL-U, JSONL -> sentences with a tag a word
pub mod questions; // questions, contexts and answers -> windows of tokens
pub mod recombine; // labelled pairs -> new pairs for a teacher to label
pub mod retrieval; // BEIR collections -> queries, documents, judgements
pub mod synthetic; // the seeded text generator of the quickstart
