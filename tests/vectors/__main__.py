"""Write the vectors: ``python -m tests.vectors``."""

from tests.vectors.write import FOLDER, texts

for name, text in texts().items():
    (FOLDER / name).write_text(text, encoding="utf-8")
