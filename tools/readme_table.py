"""Write the table of methods in README.md from the results it names:  python tools/readme_table.py

The table stands between `<!-- results/FOLDER: python tools/readme_table.py -->` and `<!-- end -->`. After new runs, or
with another FOLDER, run this again; tests/test_readme.py fails while the two differ.
"""

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minquant import compare  # noqa: E402  (of this checkout)

PLACE = re.compile(r"(<!-- results/(\w+): python tools/readme_table\.py -->\n).*?(<!-- end -->)", re.DOTALL)


def read_rows(path):
    """The rows of a summary.csv that did not fail, with their numbers as numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{**row, "bits": int(row["bits"]),
                 **{key: float(row[key]) for key in ("accuracy", "float_accuracy", "bytes")}}
                for row in csv.DictReader(file) if not row["error"]]


def comparison(rows):
    """(a sentence, header, rows): test accuracy, or the metric that the rows name, in percent; most bits first."""
    spread = compare.spread(rows)
    start, seeds = 100 * sum(row["float_accuracy"] for row in rows) / len(rows), max(row[7] for row in spread)
    of = f"mean of {seeds} seeds (lowest to highest)" if seeds > 1 else "one seed"
    bits = sorted({row[1] for row in spread}, reverse=True)
    lines = [[f"`{variant}`", *(cell(spread, variant, b) for b in bits)]
             for variant in dict.fromkeys(row[0] for row in spread)]
    metric = next((row["metric"] for row in rows if row.get("metric")), "accuracy")
    return f"Test {metric} in percent, {of}; float {start:.2f}.", ["method", *(f"{b} bits" for b in bits)], lines


def cell(spread, variant, bits):
    """'90.92 (90.82 to 91.01)' of one variant at one bit-width, or nothing."""
    for _, _, mean, low, high, _, _, seeds in (row for row in spread if row[:2] == (variant, bits)):
        return f"{100 * mean:.2f}" + (f" ({100 * low:.2f} to {100 * high:.2f})" if seeds > 1 else "")
    return ""


def updated(text):
    """README text with the table of the folder that it names."""
    def write(match):
        sentence, header, rows = comparison(read_rows(ROOT / "results" / match[2] / "summary.csv"))
        lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
        lines.insert(1, "|---" * len(header) + "|")
        return "\n".join([match[1] + sentence, "", *lines, match[3]])

    return PLACE.sub(write, text)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
