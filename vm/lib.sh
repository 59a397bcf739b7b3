# Shared by vm/run, vm/build and the recipes: messages, the cache's place, and the check for host tools. Sourced, never run.
# shellcheck shell=bash disable=SC2034

vm_dir=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
vm_cache=${UBLK_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/ublk-vm}
export UBLK_VM_CACHE=$vm_cache # the recipes see the same place

say() { printf 'vm: %s\n' "$*" >&2; }
die() {
  local status=$1
  shift
  say "$*"
  exit "$status"
}

# need_tools TOOL:PACKAGE…: ends with one line that names everything missing and the command that brings it.
need_tools() {
  local pair missing=()
  for pair in "$@"; do
    [[ -n $(PATH=$PATH:/usr/sbin:/sbin type -P "${pair%%:*}") ]] || missing+=("${pair%%:*} (Debian package ${pair##*:})")
  done
  ((${#missing[@]} == 0)) || die 1 "missing on this machine: $(IFS=,; echo "${missing[*]}"); run \`make setup\` as root to install it"
}
