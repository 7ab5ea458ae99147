#!/usr/bin/env bash
# Build the integer kernels together with one C program, for 64-bit ARM unless CC is another compiler.
#
#   tools/arm/build.sh PROGRAM.c OUTPUT [FLAGS...]      FLAGS come last, e.g. -fopenmp or -fsanitize=address
#
# CC names the compiler (default: aarch64-linux-gnu-gcc; Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross).
# The flags per file are those of setup.py; compiler warnings are errors.
set -euo pipefail
program=$(realpath "$1") output=$(realpath -m "$2")
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/../../minquant/_kernels"
read -r -a compile <<<"${CC:-aarch64-linux-gnu-gcc}"
compile+=(-O3 -ffp-contract=off -Wall -Wextra -Wconversion -Wno-sign-conversion -Wno-unknown-pragmas -Werror -I.)
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT

target=$("${compile[@]}" -dumpmachine)
for source in *.c; do
    case $target-$source in
    *-train_*) continue ;;
    aarch64-*_neon_dotprod.c) machine=(-march=armv8.2-a+dotprod) ;;
    aarch64-*_neon_i8mm.c) machine=(-march=armv8.2-a+dotprod+i8mm) ;;
    x86_64-*_avx2.c) machine=(-mavx2 -mfma) ;;
    x86_64-*_avxvnni.c) machine=(-mavx2 -mfma -mavxvnni) ;;
    x86_64-*_avx512vnni.c) machine=(-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni) ;;
    x86_64-*_amx.c) machine=(-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mamx-tile -mamx-int8) ;;
    *) machine=() ;;
    esac
    "${compile[@]}" "${machine[@]}" "$@" -c "$source" -o "$objects/${source%.c}.o"
done
"${compile[@]}" "$@" "$program" "$objects"/*.o -lm -o "$output"
