#!/bin/bash
# On the host: samples what a request takes in our server and in kublk's, by function, on the clock that counts instructions.
#   profile.sh PATTERN OPTIONS KUBLK_FLAG…    as: profile.sh write '{"dataPath":"copy","batch":true}' -b
# Needs `perf` (Debian: linux-perf), which goes into the machine with its libraries. OURS_SYMBOLS=1 builds the addon with its symbols first;
# `make build` after a change of the sources brings the usual one back.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
cd "$here/../../.."

(($# >= 2)) || { sed -n '2,5s/^# //p' "$0" && exit 2; }
tools=target/request-instructions
perf=$(type -P perf) || { echo "profile.sh: perf is not installed (Debian: apt-get install linux-perf)" >&2 && exit 1; }
mkdir -p "$tools"
cp -L "$perf" "$(vm/build --kublk)" "$here/guest.sh" "$tools"
ldd "$perf" | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | xargs -I '{}' cp -L '{}' "$tools"
if [[ -n ${OURS_SYMBOLS-} ]]; then
  CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=1 cargo build --quiet --release -p ublk-node --target-dir "$tools-build"
  install -m 755 "$tools-build/release/libublk_node.so" native/ublk.linux-x64-gnu.node
fi
vm/run --icount --kernel 7.2 --with "$tools" -- "$tools/guest.sh" "$@"
