#!/usr/bin/env bash
# The Python package on 64-bit ARM: cross-build its wheel, install it beside an unpacked Python, and run the tests
# of the kernels and of small integer programs on emulated processors of three kinds, as test.sh does for C.
#
#   tools/arm/test_wheel.sh            minutes; a test that is skipped is a failure
#   tools/arm/test_wheel.sh FOLDER     keep sysroot and wheel in FOLDER, and use what is there already
#
# PYTHON as for wheel.sh. Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
set -euo pipefail
fail() { printf 'test_wheel.sh: %s\n' "$*" >&2; exit 1; }

# What takes a minute under emulation: no training, and no process of its own, which would not be emulated.
files=(tests/test_{int_pack,int_products,int_conv,int_loops,deploy_ops}.py
    tests/test_executor.py::test_any_program_gives_the_oracles_integers_on_every_instruction_set)

tools=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
command -v qemu-aarch64 >/dev/null || fail "qemu-aarch64 not found; Debian: apt-get install qemu-user"
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
kept=$(realpath -m "${1:-$work/kept}")
[ -e "$kept/sysroot" ] || "$tools/sysroot.sh" "$kept/sysroot"
rm -rf "$kept/wheel"
"$tools/wheel.sh" "$kept/sysroot" "$kept/wheel"
root=$kept/sysroot/root
interpreter=$(ls "$root"/usr/bin/python3.* | head -n 1)
"$python" -m pip -q install --target "$work/installed" --no-deps --only-binary=:all: --platform linux_aarch64 \
    --python-version "${interpreter##*python}" "$kept"/wheel/*.whl
mkdir "$work/checks"
cp -r "$tools/../../tests" "$tools/../../pyproject.toml" "$work/checks"
cd "$work/checks"

emulated() {
    local cpu=$1
    shift
    qemu-aarch64 -cpu "$cpu" -L "$root" -E OMP_WAIT_POLICY=passive -E PYTHONDONTWRITEBYTECODE=1 \
        -E PYTHONPATH="$work/installed:$kept/sysroot/site" "$interpreter" "$@"
}

check() {
    local cpu=$1 best=$2 log=$work/log.$1 said
    said=$(emulated "$cpu" -c 'import minquant.kernels; print(minquant.kernels.isa())')
    [ "$said" = "$best" ] || fail "$cpu computes with $said, not with $best"
    emulated "$cpu" -m pytest -q -rs -p no:cacheprovider "${files[@]}" &>"$log" || { cat "$log"; exit 1; }
    tail -n 1 "$log" | grep -qx '[0-9]* passed in .*' || { cat "$log"; fail "$cpu: tests that must run did not"; }
    printf '%-12s %-13s %s\n' "$cpu" "$best" "$(tail -n 1 "$log")"
}

check cortex-a53 neon &
first=$!
check cortex-a76 neon_dotprod
check max,sve=off neon_i8mm
wait "$first"
