"""Write the report of a run:  python -m minquant.report RUN"""

import json
import sys
from pathlib import Path

from .. import runs
from ..config import Parser
from . import describe, gather, html_page, text_page


def main(argv=None):
    """Run the command line; return the exit status."""
    parser = Parser(prog="python -m minquant.report", description=__doc__.splitlines()[0],
                    epilog="Writes report.html, report.txt and details.json into the run folder. What an unfinished or "
                           "damaged run lacks is named on the page, and the rest is drawn.")
    parser.add_argument("run", metavar="RUN", help="folder that python -m minquant.train made")
    parser.add_argument("--checkpoint", metavar="FILE", help="best.npz, last.npz or float.npz (default: the first "
                                                             "of these that can be read)")
    parser.add_argument("--images", type=int, metavar="N",
                        help="validation images for the sensitivity (default: 500, fewer for a large network)")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data set's files are")
    parser.add_argument("--out", metavar="FOLDER", help="where to write (default: the run folder)")
    parser.add_argument("--json", action="store_true", help="print details.json instead of report.txt")
    arguments = parser.parse_args(argv)
    if arguments.images is not None and arguments.images < 1:
        parser.error(f"--images {arguments.images} is no number of images; take 1 or more")
    try:
        folder = Path(arguments.out or arguments.run)
        details, text = write_report(arguments.run, folder, arguments.checkpoint, arguments.images,
                                     arguments.data_root)
    except (runs.RunError, OSError) as error:
        print(f"minquant.report: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(details, indent=2) if arguments.json else
          f"{text}\nfiles   {folder}/  (report.html, report.txt, details.json)")
    return 0


def write_report(run, folder=None, checkpoint=None, images=None, data_root=None):
    """Measure a run folder and write the three files; return (details dict, text).

    folder : where they go, made if absent; None is the run folder itself
    The other arguments are those of `gather` and `describe`. Raises RunError for a folder without anything of a run.
    """
    found = gather(run, checkpoint, data_root)
    details = describe(found, images)
    page, text = html_page(details, found), text_page(details)
    folder = Path(folder or run)
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_text(folder / "report.html", page)
    runs.write_text(folder / "report.txt", text)
    runs.write_json(folder / "details.json", details)
    return details, text


if __name__ == "__main__":
    sys.exit(main())
