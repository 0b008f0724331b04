//! Named spans in a row of tags, by the rules of the CoNLL scorer, which read any row of tags, also an ill-formed one.

/// A named span.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entity {
    /// Its type: what stands behind the tag's first letter and hyphen.
    pub kind: String,
    /// Its first word.
    pub start: usize,
    /// Its last word.
    pub end: usize,
}

/// The spans of several rows of tags, as of one row with an `O` behind each; words are counted through all of it, so
/// that the word after the end of a row has a number of its own.
///
/// A tag is a letter and a type: `B-PER`, `I-PER`, `E-PER`, `S-PER`, `O`. A span begins at `B` and `S`, where the type
/// changes, and at `I` and `E` behind `O`, `E` or `S`; it ends before `B`, `S` and `O`, where the type changes, and
/// behind `E` and `S`.
///
/// # Source
/// `conlleval.pl` of the CoNLL-2000 shared task in the form of `get_entities` of the Python package `seqeval` 1.2.2,
/// which the results equal also for tags that mean nothing.
pub fn entities<S: AsRef<str>>(rows: &[Vec<S>]) -> Vec<Entity> {
    let mut found = Vec::new();
    let mut previous = Tag { letter: 'O', kind: "" };
    let mut start = 0;
    let with_ends = rows.iter().flat_map(|row| row.iter().map(AsRef::as_ref).chain(["O"]));
    for (i, tag) in with_ends.enumerate() {
        let tag = Tag::of(tag);
        if previous.ends_before(tag) {
            found.push(Entity { kind: previous.kind.to_owned(), start, end: i.saturating_sub(1) });
        }
        if previous.another_starts_with(tag) {
            start = i;
        }
        previous = tag;
    }
    found
}

/// The spans of one row.
pub fn entities_of<S: AsRef<str> + Clone>(tags: &[S]) -> Vec<Entity> {
    entities(&[tags.to_vec()])
}

/// Tags of `words` words that say the same as the spans, which must not overlap: `B-` at the first word of each, `I-`
/// at the others, `O` elsewhere.
pub fn bio(entities: &[Entity], words: usize) -> Vec<String> {
    let mut tags = vec!["O".to_owned(); words];
    for Entity { kind, start, end } in entities {
        for (i, tag) in tags.iter_mut().enumerate().take(end + 1).skip(*start) {
            *tag = format!("{}-{kind}", if i == *start { 'B' } else { 'I' });
        }
    }
    tags
}

#[derive(Clone, Copy)]
struct Tag<'a> {
    letter: char,
    kind: &'a str,
}

impl<'a> Tag<'a> {
    fn of(tag: &'a str) -> Tag<'a> {
        let mut characters = tag.chars();
        let letter = characters.next().unwrap_or('O');
        let rest = characters.as_str();
        let kind = rest.split_once('-').map_or(rest, |(_, kind)| kind);
        Tag { letter, kind: if kind.is_empty() { "_" } else { kind } }
    }

    fn ends_before(self, next: Tag<'_>) -> bool {
        match (self.letter, next.letter) {
            ('E' | 'S', _) | ('B' | 'I', 'B' | 'S' | 'O') => true,
            ('O' | '.', _) => false,
            _ => self.kind != next.kind,
        }
    }

    fn another_starts_with(self, next: Tag<'_>) -> bool {
        match (self.letter, next.letter) {
            (_, 'B' | 'S') | ('E' | 'S' | 'O', 'E' | 'I') => true,
            (_, 'O' | '.') => false,
            _ => self.kind != next.kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(tags: &str) -> Vec<(String, usize, usize)> {
        let tags: Vec<&str> = tags.split(' ').collect();
        entities_of(&tags).into_iter().map(|entity| (entity.kind, entity.start, entity.end)).collect()
    }

    fn span(kind: &str, start: usize, end: usize) -> (String, usize, usize) {
        (kind.to_owned(), start, end)
    }

    #[test]
    fn the_same_spans_are_read_from_every_scheme() {
        let expected = [span("PER", 0, 1), span("PER", 2, 2), span("LOC", 4, 4)];
        for tags in ["I-PER I-PER B-PER O I-LOC", "B-PER I-PER B-PER O B-LOC", "B-PER E-PER S-PER O S-LOC"] {
            assert_eq!(spans(tags), expected, "{tags}");
        }
    }

    #[test]
    fn spans_written_as_tags_are_read_back() {
        let tags = ["O", "I-A", "I-A", "B-A", "I-B", "O", "S-C", "E-C"];
        let read = entities_of(&tags);
        let written = bio(&read, tags.len());
        assert_eq!(written, ["O", "B-A", "I-A", "B-A", "B-B", "O", "B-C", "B-C"]);
        assert_eq!(entities_of(&written), read);
    }

    #[test]
    fn a_type_may_hold_hyphens_and_a_bare_letter_has_the_type_underscore() {
        assert_eq!(spans("B-a-b I-a-b B"), [span("a-b", 0, 1), span("_", 2, 2)]);
    }
}
