#!/usr/bin/env bash
# Check the C core on this machine: its format; no warning of gcc or clang; the kernel test with the address and
# undefined-behaviour sanitizers.
#
#   tools/check_c.sh            all of these
#   tools/check_c.sh --threads  the kernel test under the thread sanitizer instead (clang with LLVM's OpenMP, which
#                               tells the sanitizer what its barriers order; GNU's reports races that are none)
#   tools/check_c.sh --python   Python's tests of the kernels and of the executor, on extensions built in a copy with
#                               the address and undefined-behaviour sanitizers (some minutes). PYTHON names the
#                               interpreter (default: python3); it needs what setup.py and the tests need
#
# -Wsign-conversion, part of -Wconversion in clang alone, is left out: it names every int that counts elements.
# Debian: apt-get install clang clang-format; for --threads also libomp-dev libclang-rt-14-dev
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build=tools/arm/build.sh

if [ "${1:-}" = --threads ]; then
    # The runtime itself is not instrumented: archer, its plugin, annotates what it orders.
    archer=$(find /usr/lib/llvm-*/lib -name 'libarcher.so' | sort | tail -n 1)
    [ -n "$archer" ] || { echo "check_c.sh: libarcher.so not found; Debian: apt-get install libomp-dev" >&2; exit 1; }
    CC=clang $build tests/c/test_int.c "$work/test_int" -O1 -g -fopenmp -fsanitize=thread
    OMP_TOOL_LIBRARIES=$archer TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1" "$work/test_int"
    exit
fi

if [ "${1:-}" = --python ]; then
    git ls-files -z minquant tests tools setup.py pyproject.toml README.md | xargs -0 cp --parents -t "$work"
    cd "$work"
    # A compiler, for flags behind those of setup.py: with -O3 the sanitizers take far longer to compile.
    printf '#!/bin/sh\nexec gcc "$@" -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all\n' >sanitizing-gcc
    chmod +x sanitizing-gcc
    CC=$work/sanitizing-gcc "${PYTHON:-python3}" setup.py -q build_ext --inplace
    tests=(tests/test_codebook.py tests/test_executor.py)
    for name in conv lookup loops pack products; do
        tests+=("tests/test_int_$name.py")
    done
    # Without leak detection: the interpreter keeps memory until its end. Its own allocator would hide overflows.
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" PYTHONPATH=$work \
        PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
        "${PYTHON:-python3}" -m pytest -q -x -p no:cacheprovider --capture=sys "${tests[@]}"
    exit
fi

echo "format"
clang-format --dry-run -Werror minquant/_kernels/*.[ch] tests/c/*.[ch] tools/arm/*.[ch]
echo "gcc and clang, with warnings as errors; gcc with OpenMP and the address and undefined-behaviour sanitizers"
builds=()
for compiler in gcc clang; do
    CC=$compiler $build tests/c/test_int.c "$work/$compiler" -O1 &
    builds+=($!)
done
CC=gcc $build tests/c/test_int.c "$work/sanitized" -O1 -g -fopenmp -fsanitize=address,undefined \
    -fno-sanitize-recover=all &
builds+=($!)
for job in "${builds[@]}"; do
    wait "$job"
done
"$work/sanitized"
