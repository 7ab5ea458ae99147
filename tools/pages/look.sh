#!/usr/bin/env bash
# Opens a page in headless Chromium as a reader would: a desktop, a phone, print. Fails on any console message.
#   tools/pages/look.sh PAGE.html FOLDER      leaves FOLDER/{desktop,phone}.png and FOLDER/print.pdf to look at
set -euo pipefail
[ $# = 2 ] || { sed -n '2,3s/^# *//p' "$0" >&2; exit 2; }
page=$(realpath "$1") && mkdir -p "$2" && out=$(realpath "$2")
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
    { echo "no Chromium here; Debian, Ubuntu: apt install chromium" >&2; exit 2; }
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT

open() {
    if "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" \
        --enable-logging=stderr "$@" "file://$page" 2>&1 | grep CONSOLE; then
        echo "$page: the browser complains" >&2
        exit 1
    fi
}

open --window-size=1280,6000 --screenshot="$out/desktop.png"
open --window-size=390,9000 --screenshot="$out/phone.png"
open --no-pdf-header-footer --print-to-pdf="$out/print.pdf"
for made in desktop.png phone.png print.pdf; do
    [ -s "$out/$made" ] || { echo "$page: the browser made no $made" >&2; exit 1; }
done
echo "$out: desktop.png phone.png print.pdf; no complaint"
