"""Writes the English text of the distillation study as plain files with a blank line between paragraphs.

    python reference/study/text.py DATA OUTPUT

DATA holds the public data sets in their usual layouts: `text-en-novels/*.txt` (18 of the 100 English novels),
`text-brown/*.txt` (the Brown corpus, tokens joined by spaces), `text-abc-news/*.txt` (ABC rural and science news),
`wiki-split/tune.tsv` (first column) and `wikitext-2/wiki.valid.tokens`. Parts that are not there are named and left
out. `distilbert corpus build OUTPUT --by paragraph` reads the result.
"""

import argparse
import re
from pathlib import Path

# What the tokenisers of these corpora did to quotation marks, brackets and punctuation.
QUOTES = re.compile(r"``|''")
BEFORE = re.compile(r" ([.,;:!?%)\]]|'(?:s|t|re|ve|ll|d|m)\b|n't\b)")
AFTER = re.compile(r"([(\[$£]) ")


def detokenise(text: str) -> str:
    """Text as people write it, from tokens joined by spaces."""
    text = text.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".")
    return AFTER.sub(r"\1", BEFORE.sub(r"\1", QUOTES.sub('"', text))).strip()


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def novel(path: Path) -> str:
    """Paragraphs of a book. Some have a blank line between paragraphs; the others indent or have a line each."""
    lines = lines_of(path)
    blank = sum(not line.strip() for line in lines)
    if blank > len(lines) // 50:
        return "\n".join(lines)
    paragraphs = []
    for line in lines:
        if line[:1].isspace() or not paragraphs:
            paragraphs.append(line.strip())
        else:
            paragraphs[-1] += "\n" + line.strip()
    return "\n\n".join(paragraphs)


def sentences(path: Path) -> str:
    """One paragraph for each run of lines; a blank line ends it."""
    return "\n".join(detokenise(line) for line in lines_of(path))


def wiki_split(path: Path) -> str:
    return "\n\n".join(detokenise(line.split("\t")[0]) for line in lines_of(path))


def wikitext(path: Path) -> str:
    """A line is a paragraph; headings (` = Title = `) are left out."""
    return "\n\n".join(detokenise(line) for line in lines_of(path) if not line.startswith(" = "))


SOURCES = [
    ("text-en-novels", "*.txt", novel),
    ("text-brown", "*.txt", sentences),
    ("text-abc-news", "*.txt", sentences),
    ("wiki-split", "tune.tsv", wiki_split),
    ("wikitext-2", "wiki.valid.tokens", wikitext),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for folder, pattern, read in SOURCES:
        files = sorted((arguments.data / folder).glob(pattern))
        if not files:
            print(f"{folder}: no {pattern} there, left out")
        size = 0
        for path in files:
            text = read(path) + "\n"
            size += len(text)
            (arguments.output / f"{folder}-{path.name.removesuffix('.txt')}.txt").write_text(text, encoding="utf-8")
        print(f"{folder}: {len(files)} files, {size:,} characters")


if __name__ == "__main__":
    main()
