"""Build of minquant: the metadata, and the compiled kernels behind one small table.

    pip install .                               with kernels: needs a C compiler and Python's headers
    MINQUANT_NO_EXTENSIONS=1 pip install .      without: every operation runs in NumPy
    python setup.py build_ext --inplace         rebuild the kernels in a source tree (--debug keeps symbols)
"""
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError

KERNELS = Path("minquant/_kernels")

# One row per extension module of minquant._kernels: name -> (Cython wrapper, patterns of its C sources).
INTEGER = ["int_*.c", "gemm*.c", "codebook*.c", "lut*.c", "conv_*.c", "pack_*.c", "ops_*.c", "dispatch.c"]
EXTENSIONS = {
    "train": ("train.pyx", ["train_*.c"]),
    "integer": ("integer.pyx", INTEGER + ["peak*.c"]),
    "executor": ("executor.pyx", INTEGER + ["exec_*.c"]),
}

# Every C file. Without contraction a float32 multiply-add rounds twice on every machine: equal integers.
C_FLAGS = ["-O3", "-ffp-contract=off", "-fvisibility=hidden"]

AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]

# Further flags of single sources, by file name; a later row overrides an earlier one. Flags that the compiler
# refuses (-mavx2 on ARM) are left out, so such a file guards its contents by the compiler's macro (__AVX2__).
SOURCE_FLAGS = [
    ("train_*.c", ["-ffp-contract=fast"]),
    ("*_avx2.c", ["-mavx2", "-mfma"]),
    ("*_avxvnni.c", ["-mavx2", "-mfma", "-mavxvnni"]),
    ("*_avx512vnni.c", AVX512),
    ("*_amx.c", AVX512 + ["-mamx-tile", "-mamx-int8"]),
    ("*_neon_dotprod.c", ["-march=armv8.2-a+dotprod"]),
    ("*_neon_i8mm.c", ["-march=armv8.2-a+dotprod+i8mm"]),
]

# Ways to ask for OpenMP, first that compiles and links wins: (compiler flags, linker flags).
OPENMP_FLAGS = [(["-fopenmp"], ["-fopenmp"])]
if sys.platform == "darwin":  # Apple's clang takes the pragmas but ships no runtime; libomp may be Homebrew's
    OPENMP_FLAGS += [(["-Xpreprocessor", "-fopenmp"], ["-lomp"])] + [
        (["-Xpreprocessor", "-fopenmp", f"-I{prefix}/include"], [f"-L{prefix}/lib", "-lomp"])
        for prefix in ("/opt/homebrew/opt/libomp", "/usr/local/opt/libomp")]

OPENMP_PROBE = """#include <omp.h>
int probe(void) { int n = 0;
#pragma omp parallel reduction(+:n)
n += omp_get_num_threads(); return n; }
"""

WITHOUT_KERNELS = os.environ.get("MINQUANT_NO_EXTENSIONS", "0") not in ("", "0")
# One cp311-abi3 wheel serves CPython 3.11 and later; free-threaded builds have no limited API.
LIMITED_API = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")


def kernel_extensions():
    """One setuptools Extension per row of EXTENSIONS; a pattern without a file is an error."""
    extensions = []
    for name, (wrapper, patterns) in EXTENSIONS.items():
        core = []
        for pattern in patterns:
            found = sorted(path.as_posix() for path in KERNELS.glob(pattern))
            if not found:
                raise PlatformError(f"extension {name!r}: no file matches {KERNELS / pattern}; "
                                    "the source tree is incomplete, unpack or clone it again")
            core += found
        inputs = [KERNELS / wrapper, *KERNELS.glob("*.h"), *KERNELS.glob("*.px[di]")]
        extensions.append(Extension(
            f"minquant._kernels.{name}", sources=core, include_dirs=[KERNELS.as_posix()],
            depends=["setup.py", *sorted(path.as_posix() for path in inputs)], py_limited_api=LIMITED_API,
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED_API else []))
    return extensions


class build_kernels(build_ext):
    """build_ext with trial compiles, flags per source, and a record of what was used (_build_info.json)."""

    def build_extensions(self):
        self.drop_rpath_of_python()
        self.check_compiler()
        found = (pair for pair in OPENMP_FLAGS if self.refusal(OPENMP_PROBE, *pair) is None)
        self.openmp, self.openmp_link = next(found, ([], []))
        self.path_flags = self.accepted([f"-ffile-prefix-map={os.getcwd()}=."])
        if os.path.isabs(self.build_temp):
            self.path_flags += self.accepted([f"-ffile-prefix-map={self.build_temp}=build"])
        self.flags = C_FLAGS + (["-g", "-UNDEBUG"] if self.debug else ["-g0", "-DNDEBUG"]) + self.openmp
        self.own_flags = {
            source: [flag for pattern, row in SOURCE_FLAGS if fnmatch(Path(source).name, pattern)
                     for flag in self.accepted(row)]
            for ext in self.extensions for source in ext.sources}
        verdict = "yes" if self.openmp else "no (the compiler has none)"
        print(f"minquant kernels: OpenMP {verdict}", flush=True)
        self.build_info = Path(self.build_lib, KERNELS, "_build_info.json")
        record = self.record()
        if not self.build_info.exists() or json.loads(self.build_info.read_text()) != record:
            self.force = True  # objects of another compiler or other flags are not this build's
        self.build_info.unlink(missing_ok=True)
        super().build_extensions()
        self.build_info.write_text(json.dumps(record, indent=1) + "\n")

    def build_extension(self, ext):
        inputs = ext.sources + ext.depends
        flags = self.flags + self.path_flags
        ext.extra_objects = [self.compile_core(source, inputs, flags) for source in ext.sources]
        ext.sources = [self.cython_to_c(ext)]
        ext.depends = inputs
        ext.extra_compile_args = flags
        ext.extra_link_args = self.openmp_link
        super().build_extension(ext)

    def compile_core(self, source, inputs, flags):
        """Object file of one C source, compiled anew where an input is younger than it."""
        [target] = self.compiler.object_filenames([source], output_dir=self.build_temp)
        if self.force or not os.path.exists(target) or any(
                os.path.getmtime(path) > os.path.getmtime(target) for path in inputs):
            self.compiler.compile([source], output_dir=self.build_temp, include_dirs=[KERNELS.as_posix()],
                                  extra_postargs=flags + ["-Wall", "-Wextra"] + self.own_flags[source])
        return target

    def cython_to_c(self, ext):
        """Path of the C file that Cython makes of the wrapper; it lands beside the objects."""
        try:
            from Cython.Build import cythonize
        except ImportError:
            raise PlatformError("Cython is missing: pip install 'cython>=3.1' (pip install . brings its "
                                "own), or set MINQUANT_NO_EXTENSIONS=1 to do without kernels") from None
        wrapper, _ = EXTENSIONS[ext.name.rpartition(".")[2]]
        module = Extension(ext.name, [(KERNELS / wrapper).as_posix()])
        [made] = cythonize([module], build_dir=self.build_temp, language_level=3, force=self.force,
                           quiet=True)
        return made.sources[0]

    def check_compiler(self):
        """One sentence that says what to install, instead of a page of compiler output."""
        alternative = "or set MINQUANT_NO_EXTENSIONS=1 to install the pure-NumPy package"
        if self.compiler.compiler_type != "unix":
            raise PlatformError(f"the kernels need gcc or clang, not {self.compiler.compiler_type!r}: "
                                f"use one of them, {alternative}")
        reason = self.refusal("#include <stdint.h>\nint probe(void) { return 0; }\n")
        if reason is not None:
            raise CompileError(
                f"no working C compiler ({reason}): install one (Debian, Ubuntu: apt install "
                f"build-essential; macOS: xcode-select --install), {alternative}")
        reason = self.refusal("#include <Python.h>\nint probe(void) { return 0; }\n")
        if reason is not None:
            raise CompileError(f"Python's C headers are missing ({reason}): install them (Debian, Ubuntu: "
                               f"apt install python3-dev), {alternative}")

    def refusal(self, code, flags=(), link_flags=()):
        """Why the compiler cannot compile and link `code` with these flags, in a line; None where it can."""
        with tempfile.TemporaryDirectory() as folder:
            source, target, library = (os.path.join(folder, f"probe.{kind}") for kind in ("c", "o", "so"))
            Path(source).write_text(code)
            includes = [f"-I{path}" for path in self.compiler.include_dirs]
            compile_command = [*self.compiler.compiler_so, *includes, *flags, "-c", source, "-o", target]
            link_command = [*self.compiler.linker_so, target, *link_flags, "-o", library]
            for command in (compile_command, link_command):
                try:
                    done = subprocess.run(command, capture_output=True, text=True)
                except OSError as error:
                    return f"{command[0]}: {error.strerror}"
                if done.returncode:
                    lines = [line for line in done.stderr.splitlines() if "error" in line] or ["it failed"]
                    return f"{command[0]}: {lines[0].strip()}"
        return None

    def accepted(self, flags):
        """The flags where the compiler takes them all, else none."""
        return flags if self.refusal("int probe(void) { return 0; }\n", ["-Werror", *flags]) is None else []

    def drop_rpath_of_python(self):
        """Forget the library folder a self-built Python links into extensions: they never use libpython."""
        link_command = sysconfig.get_config_var("LDSHARED") or ""
        of_python = {flag for flag in link_command.split() if "-rpath" in flag}
        if self.compiler.compiler_type == "unix":
            self.compiler.linker_so = [flag for flag in self.compiler.linker_so if flag not in of_python]

    def record(self):
        """What minquant.kernels.info() tells of the build; free of this machine's paths."""
        version = subprocess.run([self.compiler.compiler_so[0], "--version"], capture_output=True, text=True)
        return {
            "compiler": (version.stdout.splitlines() or ["unknown"])[0],
            "platform": sysconfig.get_platform(),
            "limited_api": LIMITED_API,
            "openmp": bool(self.openmp),
            "extensions": sorted(EXTENSIONS),
            "flags": {Path(source).name: self.flags + own for source, own in self.own_flags.items()},
        }

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        self.copy_file(self.build_info, KERNELS / "_build_info.json")


def version():
    """__version__ of minquant/__init__.py, read without importing the package and its requirements."""
    return re.search(r'^__version__ = "(.+)"$', Path("minquant/__init__.py").read_text(), re.M)[1]


EXPORT = ["onnx>=1.20", "onnxruntime>=1.23"]  # 2-bit integers since onnx 1.20
SWEEP = ["joblib", "dask", "distributed"]
LITERT = ["ai-edge-litert>=2.0"]
EXTRAS = {
    "test": ["pytest>=7.4", "hypothesis", *SWEEP, "pycocotools", "setuptools>=70.1", "cython>=3.1", *EXPORT,
             *(f"{name}; platform_system == 'Linux'" for name in LITERT)],
    "sweep": SWEEP,
    "export": EXPORT,
    "bench": [*EXPORT, *LITERT, "openvino", "torch"],
    "docs": ["sphinx", "myst-parser", "furo"],
}
EXTRAS["all"] = sorted({requirement for group in EXTRAS.values() for requirement in group})

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent)
    setup(
        name="minquant",
        version=version(),
        description="Low-bit neural networks in NumPy: five papers, from training to packed integers in C",
        long_description=Path("README.md").read_text(encoding="utf-8"),
        long_description_content_type="text/markdown",
        license="MIT",
        python_requires=">=3.11",
        packages=find_packages(include=["minquant", "minquant.*"]),
        package_data={"minquant": ["papers.csv"], "minquant.data": ["*.npz", "NOTICE.md"],
                      "minquant.deploy": ["board/*"], "minquant._kernels": ["*.c", "*.h"]},
        include_package_data=False,
        install_requires=["numpy>=1.24", "matplotlib"],
        extras_require=EXTRAS,
        ext_modules=[] if WITHOUT_KERNELS else kernel_extensions(),
        cmdclass={"build_ext": build_kernels},
        options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API and not WITHOUT_KERNELS else {},
    )
