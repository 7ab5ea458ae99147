#!/usr/bin/env bash
# Executed instructions per multiply-add of matrix products on 64-bit ARM, counted by QEMU: whole calls, so
# copies, decoding and stores are in. Repeatable to the last digit; says nothing of caches or of how long
# an instruction takes.
#
#   tools/arm/count.sh
#
# Debian: apt-get install gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
set -euo pipefail
tools=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gcc -O2 -shared -fPIC -fvisibility=hidden "$tools/icount.c" -o "$work/icount.so"
"$tools/build.sh" "$tools/product.c" "$work/product"

executed() {
    qemu-aarch64 -cpu max,sve=off -L /usr/aarch64-linux-gnu -plugin "$work/icount.so" -d plugin \
        -D "$work/counts" "$work/product" "$@"
    sed -n 's/ total$//p' "$work/counts"
}

# NAME SHAPE BITS LIMIT: as product.c explains
per_product() {
    local once twice
    once=$(executed "$1" ${2//x/ } "$3" "$4" 1)
    twice=$(executed "$1" ${2//x/ } "$3" "$4" 2)
    awk -v n=$((twice - once)) -v macs=$((${2//x/*})) 'BEGIN { printf " %13.4f", n / macs }'
}

printf '%-13s %-8s' kernel weights
shapes="66x576x64 240x1152x128 1x1024x1024"
printf ' %13s' $shapes
while read -r name bits limit label; do
    printf '\n%-13s %-8s' "$name" "$label"
    for shape in $shapes; do
        case $name-$shape in
        float32-1x*) printf ' %13s' - ;;
        *) per_product "$name" "$shape" "$bits" "$limit" ;;
        esac
    done
done <<'ROWS'
neon 8 128 -128..127
neon 8 127 -127..127
neon 4 8 4-bit
neon 2 2 2-bit
neon_dotprod 8 128 int8
neon_dotprod 4 8 4-bit
neon_dotprod 2 2 2-bit
neon_i8mm 8 128 int8
neon_i8mm 4 8 4-bit
neon_i8mm 2 2 2-bit
generic 8 128 int8
naive 8 128 int8
float32 8 128 float32
ROWS
echo
