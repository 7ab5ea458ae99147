#!/usr/bin/env bash
# Build tests/c/test_int.c for 64-bit ARM and run it on emulated processors of three kinds: with plain NEON
# (Raspberry Pi 3 and 4), with the dot product (Pi 5), and with the 8-bit matrix multiply. Then for 32-bit ARM, whose
# NEON runs the plain C that the compiler vectorises (Raspberry Pi 2).
#
#   tools/arm/test.sh [FLAGS...]      e.g. -fsanitize=address,undefined -fno-sanitize-recover -g
#
# Prints a line per processor and instruction set; leaves with an error where one of them is wrong or missing.
# Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross \
#         qemu-user
set -euo pipefail
tools=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$tools/build.sh" "$tools/../../tests/c/test_int.c" "$work/test_int" -fopenmp "$@"

while read -r cpu best; do
    # Without leak detection: its tracer cannot stop the threads of an emulated process.
    ASAN_OPTIONS=detect_leaks=0 qemu-aarch64 -cpu "$cpu" -L /usr/aarch64-linux-gnu "$work/test_int" \
        >"$work/lines"
    sed "s/^/$cpu  /" "$work/lines"
    read -r first _ <"$work/lines"
    [ "$first" = "$best" ] || { echo "test.sh: $cpu chose $first, not $best" >&2; exit 1; }
done <<'CPUS'
cortex-a53 neon
cortex-a76 neon_dotprod
max,sve=off neon_i8mm
CPUS

CC=arm-linux-gnueabihf-gcc "$tools/build.sh" "$tools/../../tests/c/test_int.c" "$work/test_int" -march=armv7-a \
    -mfpu=neon-vfpv4 -mfloat-abi=hard -fopenmp "$@"
ASAN_OPTIONS=detect_leaks=0 qemu-arm -cpu cortex-a7 -L /usr/arm-linux-gnueabihf "$work/test_int" | sed "s/^/cortex-a7  /"
