"""Build sdist and wheels in the current folder, and check what they hold and that they install alone.

    python .ci/check_dist.py        in a clean source tree; needs the package `build` and a C compiler
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

SOURCE_SUFFIXES = {".py", ".pyx", ".pxd", ".pxi", ".c", ".h", ".npz", ".csv", ".md", ".toml", ".in", ".ld"}
NOT_SHIPPED = {"build", "dist", ".venv"}


def fail(message):
    sys.exit(f"check_dist: {message}")


def build(target, *arguments, **environment):
    """Run `python -m build` into the folder `target`; the path of the one file it made."""
    done = subprocess.run([sys.executable, "-m", "build", "--outdir", str(target), *arguments], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    if done.returncode:
        fail(f"build {' '.join(arguments)} failed:\n{done.stdout}")
    [made] = target.iterdir()
    return made


def check_sdist(path, sources):
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    if absent := sorted(sources - names):
        fail(f"{path.name} lacks {', '.join(absent)}; name them in MANIFEST.in")
    if products := sorted(name for name in names if name.endswith((".so", ".o", ".pyc", "_build_info.json"))):
        fail(f"{path.name} holds build products: {', '.join(products)}")


def check_wheel(path, sources):
    """A wheel holds every module and data file, and in no file a path of this machine."""
    shipped = {name for name in sources
               if name.startswith("minquant/")
               and name.endswith((".py", ".npz", ".csv", "NOTICE.md", ".c", ".h", ".ld", "Makefile"))}
    own_paths = [str(folder).encode() for folder in {Path.cwd(), Path(tempfile.gettempdir(), ""), Path.home()}
                 if str(folder) != "/"]
    paths = re.compile(b"(?:" + b"|".join(map(re.escape, own_paths)) + rb")/|/(?:home|root|Users)/\w+")
    with zipfile.ZipFile(path) as archive:
        if absent := sorted(shipped - set(archive.namelist())):
            fail(f"{path.name} lacks {', '.join(absent)}; see packages and package_data in setup.py")
        for name in archive.namelist():
            if name.endswith((".so", ".json", "RECORD")) and (found := paths.search(archive.read(name))):
                fail(f"{path.name}: {name} holds the path {found[0].decode()!r}")


def check_install(wheel, compiled):
    """The wheel serves a virtual environment that knows nothing of the source tree."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True, cwd=folder)
        said = subprocess.run([python, "-m", "minquant.kernels", "--json"], check=True, cwd=folder,
                              stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ""})
        facts = json.loads(said.stdout)
    if facts["in_use"] != compiled or set(facts["extensions"].values()) != ({"ready"} if compiled else set()):
        expected = "all ready" if compiled else "none"
        fail(f"{wheel.name}: extensions are {facts['extensions']}, expected {expected}")
    print(f"{wheel.name}: extensions {facts['extensions'] or 'none'}, OpenMP {facts['openmp']}")


def main():
    sources = {path.as_posix() for path in Path(".").glob("**/*") if path.is_file()
               and (path.suffix in SOURCE_SUFFIXES or path.name == "Makefile") and not NOT_SHIPPED & set(path.parts)
               and ".egg-info" not in str(path)}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sdist = build(work / "sdist", "--sdist")
        check_sdist(sdist, sources)
        shutil.unpack_archive(sdist, work / "unpacked")
        [unpacked] = map(str, (work / "unpacked").iterdir())
        wheel = build(work / "wheel", "--wheel", unpacked)
        pure = build(work / "pure", "--wheel", unpacked, MINQUANT_NO_EXTENSIONS="1", CC="/nonexistent/cc")
        if not pure.name.endswith("-py3-none-any.whl"):
            fail(f"without extensions the wheel is {pure.name}, expected py3-none-any")
        for path, compiled in ((wheel, True), (pure, False)):
            check_wheel(path, sources)
            check_install(path, compiled)
        print(f"{sdist.name}: complete, {len(sources)} source files")


if __name__ == "__main__":
    main()
