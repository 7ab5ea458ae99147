"""Equation -> line -> test: what of each paper is implemented where, and which test holds it.

    python -m minquant.papers [PAPER]

The table is `papers.csv` beside this file: one row per equation or formula, with the paper's own number where it has
one and its text was at hand, the function that computes it, the test that fails if it is wrong, and, for the few that
no test covers, the reason.
"""

import csv
import sys
from dataclasses import dataclass
from importlib import resources

from .config import Parser, nearest
from .summary import table

TITLES = {
    "dgms": "Finding the Task-Optimal Low-Bit Sub-Distribution in Deep Neural Networks (ICML 2022)",
    "gdrq": "Group-based Distribution Reshaping for Quantization (2019)",
    "cpq": "Cluster-Promoting Quantization with Bit-Drop (ICCV 2021) and Relaxed Quantization (ICLR 2019)",
    "qnet": "Quantization Networks (CVPR 2019)",
    "dq": "Mixed Precision DNNs: All you need is a good parametrization (ICLR 2020)",
    "baselines": "Min-max, LSQ, DoReFa, PACT, TWN, XNOR-Net, APoT and post-training calibration",
}


@dataclass(frozen=True)
class Equation:
    """One row. `where` is file:qualified name, `test` is file::test, `excuse` says why there is no test."""

    paper: str
    item: int
    number: str
    says: str
    where: str
    test: str
    excuse: str


def equations():
    """Every Equation, in the order of the papers."""
    with resources.files(__package__).joinpath("papers.csv").open(encoding="utf-8", newline="") as file:
        return [Equation(**{**row, "item": int(row["item"])}) for row in csv.DictReader(file)]


def main(argv=None):
    """Print the table of one paper or of all; return the exit status."""
    parser = Parser(prog="python -m minquant.papers", description=__doc__.splitlines()[0])
    parser.add_argument("paper", nargs="?", metavar="PAPER", help=", ".join(TITLES))
    paper = parser.parse_args(argv).paper
    if paper is not None and paper not in TITLES:
        print(f"minquant.papers: error: there is no paper '{paper}'; nearest: {nearest(paper, TITLES)}",
              file=sys.stderr)
        return 2
    for name, title in TITLES.items():
        rows = [e for e in equations() if e.paper == name]
        covered = sum(bool(e.test) for e in rows)
        print(f"{name}: {title}\n{covered} of {len(rows)} formulas are held by a test, "
              f"{len(rows) - covered} are excused\n")
        if name == paper:
            print(table(("item", "number", "what it says", "where", "test or excuse"),
                        [(e.item, e.number, e.says, e.where.removeprefix("minquant/"),
                          e.test.split("::")[-1] or e.excuse) for e in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
