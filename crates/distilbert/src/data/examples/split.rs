//! The parts of a data set and their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::DataError;

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// For training.
    Train,
    /// For development; MNLI's matched half.
    Dev,
    /// MNLI's mismatched development half.
    DevMismatched,
    /// For the final score, often without labels; MNLI's matched half.
    Test,
    /// MNLI's mismatched test half.
    TestMismatched,
    /// Texts alone: a column of labels, if there is one, is passed over.
    Unlabelled,
}

impl Split {
    /// Those that can be asked for, in the order in which they are used.
    pub const ALL: [Split; 5] = [Split::Train, Split::Dev, Split::DevMismatched, Split::Test, Split::TestMismatched];

    /// The name used in results and options.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Dev => "dev",
            Split::DevMismatched => "dev_mismatched",
            Split::Test => "test",
            Split::TestMismatched => "test_mismatched",
            Split::Unlabelled => "unlabelled",
        }
    }

    /// Whether a file of this split may come without labels.
    pub(super) fn may_lack_labels(self) -> bool {
        matches!(self, Split::Test | Split::TestMismatched | Split::Unlabelled)
    }
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Split {
    type Err = DataError;

    /// Also takes `validation` for `dev`, and `_matched` names.
    fn from_str(text: &str) -> Result<Self, DataError> {
        let name = text.replace('-', "_").replace("validation", "dev");
        let name = name.strip_suffix("_matched").unwrap_or(&name);
        Split::ALL.into_iter().find(|split| split.name() == name).ok_or_else(|| DataError::UnknownSplit {
            what: "data".to_owned(),
            split: text.to_owned(),
            known: Split::ALL.map(Split::name).to_vec(),
        })
    }
}
