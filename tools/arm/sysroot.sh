#!/usr/bin/env bash
# Unpack what a Python program for 64-bit ARM needs into a folder: Debian's Python with headers, and from the
# Python package index NumPy and what the tests import. Needs no root rights and leaves this machine's packages
# alone: apt works on a private state.
#
#   tools/arm/sysroot.sh FOLDER        about 45 MB to download, 15 s; FOLDER/root and FOLDER/site, 220 MB
#
# PYTHON names the Python that will cross-build (default: python3); the unpacked one has its version, 3.11 from
# Debian bookworm or 3.13 from trixie. Debian: apt-get install python3-pip
set -euo pipefail
fail() { printf 'sysroot.sh: %s\n' "$*" >&2; exit 1; }

[ $# = 1 ] || fail "use: tools/arm/sysroot.sh FOLDER"
folder=$(realpath -m "$1")
[ ! -e "$folder" ] || fail "$folder exists already; remove it or name another folder"
python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
3.11) suite=bookworm ;;
3.13) suite=trixie ;;
*) fail "$python is Python $version, which no Debian release has; PYTHON=python3.11 or PYTHON=python3.13 do" ;;
esac
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keys" ] || fail "$keys is missing; Debian, Ubuntu: apt-get install debian-archive-keyring"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)

state=$folder/.apt
mkdir -p "$folder/root" "$state"/{state/lists,cache/archives}/partial "$state"/etc/{apt.conf.d,preferences.d}
trap 'rm -rf "$state"' EXIT
: >"$state/status"
echo "deb [signed-by=$keys] ${mirror:-http://deb.debian.org/debian/} $suite main" >"$state/etc/sources.list"
apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User= \
        -o APT::Install-Recommends=0 -o Debug::NoLocking=1 -o Acquire::Languages=none -o Dir::Etc="$state/etc" \
        -o Dir::State="$state/state" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" "$@"
}
apt update
apt --yes --download-only install \
    "python$version-minimal" "libpython$version-stdlib" "libpython$version-dev" libstdc++6 libgomp1
for package in "$state"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$folder/root"
done
[ -e "$folder/root/lib" ] || ln -s usr/lib "$folder/root/lib" # from trixie on all is in /usr

"$python" -m pip -qq install --target "$folder/site" --only-binary=:all: --python-version "$version" \
    --implementation cp --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    'numpy>=1.24' pytest hypothesis joblib
