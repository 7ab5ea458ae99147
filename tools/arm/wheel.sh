#!/usr/bin/env bash
# Cross-build the package's wheel for 64-bit ARM on another machine: one abi3 wheel for CPython 3.11 and later.
#
#   tools/arm/wheel.sh SYSROOT OUTPUT        SYSROOT: what sysroot.sh unpacked; the wheel lands in folder OUTPUT
#
# PYTHON as for sysroot.sh; it needs pip, setuptools and cython, which pip would fetch for the wrong processor.
# Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross
set -euo pipefail
fail() { printf 'wheel.sh: %s\n' "$*" >&2; exit 1; }

[ $# = 2 ] || fail "use: tools/arm/wheel.sh SYSROOT OUTPUT"
root=$(realpath -m "$1/root") output=$(realpath -m "$2")
python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
configuration=_sysconfigdata__aarch64-linux-gnu
[ -e "$root/usr/lib/python$version/$configuration.py" ] ||
    fail "$root has no Python $version; make it with tools/arm/sysroot.sh and the same PYTHON"
command -v aarch64-linux-gnu-gcc >/dev/null ||
    fail "aarch64-linux-gnu-gcc not found; Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
for module in pip setuptools Cython; do
    "$python" -c "import $module" 2>/dev/null || fail "$python has no $module: $python -m pip install $module"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/configuration" "$work/source"
cp "$root/usr/lib/python$version/$configuration.py" "$work/configuration"
# A copy: objects and generated files of a native build in the source tree are not for this target.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tar -c --exclude='*.so' --exclude='*.o' --exclude=_build_info.json --exclude=__pycache__ \
    setup.py pyproject.toml README.md LICENSE MANIFEST.in minquant | tar -x -C "$work/source"
cd "$work/source"
# Debian's own description of its arm64 Python names the cross compiler and its flags.
_PYTHON_HOST_PLATFORM=linux-aarch64 _PYTHON_SYSCONFIGDATA_NAME=$configuration PYTHONPATH=$work/configuration \
    CFLAGS="-I$root/usr/include/python$version -I$root/usr/include" \
    "$python" -m pip -q wheel --no-build-isolation --no-deps --wheel-dir "$output" .
