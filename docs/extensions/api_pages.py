"""Writes docs/api/: a page for every public module, so that a new module is in the documentation by itself."""

import ast
import importlib.util
import pkgutil
import re
from pathlib import Path

import minquant
from docstrings import marked_up

GROUPS = {
    "minquant": "Models, training, runs: the modules beside the packages",
    "minquant.nn": "Layers, losses, initialisers",
    "minquant.quantizers": "The methods, one module per paper",
    "minquant.estimators": "Gradients that papers share",
    "minquant.deploy": "From a trained network to integers",
    "minquant.report": "The report of a run",
    "minquant.data": "Data sets",
    "minquant.detection": "Object detection",
    "minquant.bench": "Measurements",
}


def modules():
    """Names of all public modules, packages included."""
    found = ["minquant"] + [module.name for module in pkgutil.walk_packages(minquant.__path__, "minquant.")]
    return [name for name in found if not any(part.startswith("_") or part.startswith("peer_")
                                              for part in name.split("."))]


def write_pages(app):
    """One page per module and an index per package; unchanged files keep their time, so that a rebuild is short."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    packages = {package: [] for package in GROUPS}
    for name in modules():
        packages[max((p for p in GROUPS if f"{name}.".startswith(f"{p}.")), key=len)].append(name)
    for name in modules():
        write(folder / f"{name}.rst", page(name, packages.get(name) if name != "minquant" else None))
    write(folder / "index.rst", index(packages))


def page(name, members):
    """The page of a module; that of a package lists its modules first."""
    title = f"``{name}``"
    lines = [title, "=" * len(title), ""]
    if members:
        lines += [".. toctree::", "   :maxdepth: 1", "", *(f"   {member}" for member in members if member != name), ""]
    lines.append(f".. automodule:: {name}")
    if members is not None or name == "minquant":  # what a package only hands on is on the page of its own module
        lines.append("   :ignore-module-all:")
    return "\n".join([*lines, ""])


def index(packages):
    """The page of all packages."""
    lines = ["API", "===", "", "Made from the docstrings; the examples in them are run by the tests.", ""]
    for package, members in packages.items():
        heading = GROUPS[package]
        lines += [heading, "-" * len(heading), ""]
        for member in members:
            lines += [f":doc:`{member}`", f"    {marked_up(purpose(member))}", ""]
        listed = [package] if package != "minquant" else members
        lines += [".. toctree::", "   :hidden:", "", *(f"   {member}" for member in listed), ""]
    return "\n".join(lines)


def purpose(name):
    """The first sentence of a module's docstring; read, not imported, for an import may need an extra."""
    source = Path(importlib.util.find_spec(name).origin).read_text(encoding="utf-8")
    first = ast.get_docstring(ast.parse(source)).split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[.:])\s", first)[0].rstrip(":")


def write(path, text):
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app):
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
