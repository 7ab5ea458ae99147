"""Where the files of a data set lie on this machine."""

import os
from pathlib import Path

from .dataset import DataError, DataNotFoundError
from .sources import source_of

SYSTEM = Path("/usr/share/datasets")  # where Debian's dataset-* packages install


def _bases(root):
    """(folder, named by the user) in the order of the search."""
    bases = []
    if root is not None:
        bases.append((Path(root).expanduser(), True))
    if os.environ.get("MINQUANT_DATA"):
        bases.append((Path(os.environ["MINQUANT_DATA"]).expanduser(), True))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    bases += [(folder, False) for folder in (
        Path("data"), Path(cache) / "minquant", Path(os.path.expanduser("~/.keras/datasets")), SYSTEM)]
    return [(base.absolute(), named) for base, named in bases]


def _candidates(source, root):
    """(folder, layout) in the order of the search."""
    return [(base / layout.folder, layout) for base, named in _bases(root) for layout in source.layouts
            if named or not layout.shared_names]


def search_path(name, root=None):
    """The folders in which `load(name, root)` looks for files, in order, absolute.

    `root`, then $MINQUANT_DATA, ./data, ${XDG_CACHE_HOME:-~/.cache}/minquant, ~/.keras/datasets and
    /usr/share/datasets, each with the set's sub-folders (such as FashionMNIST/raw of torchvision). Files
    lying directly in a folder are taken from `root` and $MINQUANT_DATA only, as other sets use the same
    file names. Empty for the embedded digits.
    """
    folders = [folder for folder, _ in _candidates(source_of(name), root)]
    return list(dict.fromkeys(folders))


def _present(folder, layout):
    """Per file of the layout: its path (plain before .gz), or None."""
    endings = ("", ".gz") if layout.kind == "idx" else ("",)
    paths = []
    for file in layout.files:
        found = [path for path in (folder / (file + ending) for ending in endings) if os.path.isfile(path)]
        paths.append(found[0] if found else None)
    return paths


def _miss(source, root):
    """The error of a search without success."""
    partly = {}
    for folder, layout in _candidates(source, root):
        paths = _present(folder, layout)
        if any(paths):
            missing = ", ".join(file for file, path in zip(layout.files, paths) if not path)
            partly[folder] = f"   (incomplete, missing: {missing})"
    sets = dict.fromkeys(", ".join(layout.files) + (" (each also as .gz)" if layout.kind == "idx" else "")
                         for layout in source.layouts)
    lines = [f"{source.name}: no complete set of files found. Looked for {' or for '.join(sets)} in:"]
    lines += [f"  {folder}{partly.get(folder, '')}" for folder in search_path(source.name, root)]
    lines += ["To get the files, one of:", *(f"  - {way}" for way in source.obtain),
              "  - if they are elsewhere: name their folder by --data-root (root=) or $MINQUANT_DATA",
              "  - use the embedded data set: digits"]
    return DataNotFoundError("\n".join(lines))


def check_root(root):
    """Raise DataError when a folder is named that does not exist: a slip must not end in another folder."""
    if root is not None and not Path(root).expanduser().is_dir():
        raise DataError(f"data root {str(root)!r} is not a folder; name an existing one or leave it out")


def locate(source, root=None):
    """(layout, paths): the first complete set of files on the search path.

    Raises DataError when `root` is no folder, DataNotFoundError when no folder holds the set.
    """
    check_root(root)
    for folder, layout in _candidates(source, root):
        paths = _present(folder, layout)
        if all(paths):
            return layout, paths
    raise _miss(source, root)
