"""python -m minquant.data: which data sets are found, and where."""

import argparse
import sys

from .dataset import DataError
from .loading import load
from .locate import check_root, locate
from .sources import SOURCES, source_of


def _status(source, root, verify):
    """(found, where or why not) of one data set."""
    if source.items:
        found, where = _status(source_of(source.items), root, verify)
        return found, f"composed of {source.items}: {where}"
    if source.name == "voc":
        return "-", "any folder in the layout of PASCAL VOC, by --data-root"
    if not source.layouts:
        return ("verified" if verify else "yes"), load(source.name).source
    layout, paths = locate(source, root)
    where = f"{paths[0].parent} ({layout.kind})"
    if not verify:
        return "yes", where
    load(source.name, root, verify=bool(layout.checksums))
    return ("verified" if layout.checksums else "readable"), where


def table(root=None, verify=False):
    """(lines of the table, whether every set found was sound)."""
    rows, details, sound = [("data set", "image", "classes", "found", "where")], [], True
    for source in SOURCES.values():
        try:
            found, where = _status(source, root, verify)
        except FileNotFoundError as error:
            found, where = "no", "see below"
            details.append(str(error))
        except DataError as error:
            found, where, sound = "damaged", str(error), False
        shape = "x".join(map(str, source.item_shape))
        rows.append((source.name, shape, str(len(source.classes)), found, where))
    widths = [max(map(len, column)) for column in zip(*rows)][:-1]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]) for row in rows]
    return lines + [line for detail in details for line in ("", detail)], sound


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m minquant.data", allow_abbrev=False,
                                     description="List the data sets and where their files are found.")
    parser.add_argument("--data-root", help="folder to search first")
    parser.add_argument("--verify", action="store_true",
                        help="read the sets found and compare the published checksums")
    arguments = parser.parse_args(argv)
    try:
        check_root(arguments.data_root)
    except DataError as error:
        parser.error(str(error))
    lines, sound = table(arguments.data_root, arguments.verify)
    print("\n".join(lines))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
