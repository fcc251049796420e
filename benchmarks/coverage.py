"""Tables of docs/results/coverage.md from the folders of finished studies.

python benchmarks/coverage.py RUN [RUN …] [--tables calibration sets promises …]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.study import decision_tables as tables
from leukoscope.reporting.study_files import load_study

TABLES = (
    "calibration", "further_calibration", "sets", "promises", "parts", "candidates", "selective",
    "operating_point",
)  # fmt: skip


def main() -> None:
    """Print each study's tables on calibration and decisions as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of studies")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    arguments = parser.parse_args()
    for path in arguments.runs:
        study = load_study(RunFolder(Path(path)))
        for name in arguments.tables:
            table = getattr(tables, name)(study)
            if table is None:
                continue
            marks = ["--:" if column.numeric else "---" for column in table.columns]
            print(f"\n**{table.caption}**\n\n| {' | '.join(c.title for c in table.columns)} |")
            print(f"| {' | '.join(marks)} |")
            for row in table.rows:
                print(f"| {' | '.join(row)} |")
            if table.note:
                print(f"\n{table.note}")


if __name__ == "__main__":
    main()
