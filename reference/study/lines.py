"""Writes one text a line for the distillation of a sentence encoder: of every second paragraph its sentences, of the
others the whole, so that the student sees texts as short as a question and as long as a passage.

    python reference/study/lines.py WORK/text WORK/lines.txt

The input is what `text.py` wrote: paragraphs between blank lines.
"""

import re
import sys
from pathlib import Path

# Behind a full stop, question or exclamation mark, closing quotes included, where a capital or a quote follows.
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’]*\s+(?=[\"'“‘]?[A-Z])")


def main() -> None:
    source, output = Path(sys.argv[1]), Path(sys.argv[2])
    sentences = passages = 0
    with output.open("w", encoding="utf-8") as file:
        for path in sorted(source.glob("*.txt")):
            for index, paragraph in enumerate(re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))):
                text = " ".join(paragraph.split())
                if not text:
                    continue
                parts = SENTENCE_END.split(text) if index % 2 == 0 else [text]
                sentences += len(parts) if index % 2 == 0 else 0
                passages += index % 2
                file.writelines(f"{part}\n" for part in parts)
    print(f"{output}: {sentences} sentences, {passages} passages")


if __name__ == "__main__":
    main()
