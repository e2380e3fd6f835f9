"""Write the vectors, and the tables of moves: ``python -m tests.vectors``."""

from tests.vectors import tables
from tests.vectors.write import FOLDER, texts

for name, text in texts().items():
    (FOLDER / name).write_text(text, encoding="utf-8")
for file, with_table in (
    (tables.LEDGER, tables.with_table),
    (tables.DOCUMENTED, tables.with_told_table),
):
    file.write_text(with_table(file.read_text(encoding="utf-8")), encoding="utf-8")
