# A private apt for the recipes: suites of Debian that the host itself may not use, from the host's own mirror.
# The host's settings for fetching (proxies, certificates) apply; its sources, hooks, lists and installed packages are not touched. Sourced, never run.
# shellcheck shell=bash
# shellcheck source=vm/lib.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../lib.sh"

readonly apt_dir=$vm_cache/apt
readonly apt_lists_max_age_minutes=120
readonly apt_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror that the machine's apt uses for Debian; a machine without one (Ubuntu) names it in UBLK_DEBIAN_MIRROR.
debian_mirror() {
  local uris mirror=${UBLK_DEBIAN_MIRROR-}
  if [[ -z $mirror ]]; then
    # What apt would fetch: known without the package lists, which a fresh machine lacks.
    uris=$(env -u APT_CONFIG apt-get update --print-uris 2>/dev/null || true)
    mirror=$(sed -n "s#^'\([^']*/debian\)/dists/.*#\1#p;T;q" <<<"$uris")
  fi
  [[ -n $mirror ]] || die 1 "this machine's apt has no Debian mirror, and the VM is made of Debian's packages;
  set UBLK_DEBIAN_MIRROR to the URL of one, the directory that has dists/ and pool/ in it, for example:
  export UBLK_DEBIAN_MIRROR=<URL of a Debian mirror>"
  echo "$mirror"
}

# How the host fetches: proxies, certificates, checks. Its hooks and extra indexes stay out.
host_acquire_settings() {
  env -u APT_CONFIG apt-config dump Acquire | grep -vE '^Acquire(::IndexTargets|::Languages| )'
}

# Makes the private apt ready and points every later apt command of this process at it.
apt_open() {
  mkdir -p "$apt_dir"/{state/lists/partial,cache/archives/partial,etc/none}
  exec {apt_lock}>"$apt_dir/lock"
  flock "$apt_lock"
  local mirror suite
  mirror=$(debian_mirror)
  : >"$apt_dir/state/status"
  for suite in bookworm-backports trixie trixie-backports sid; do
    echo "deb [signed-by=$apt_keyring] $mirror $suite main"
  done >"$apt_dir/etc/sources.list"
  host_acquire_settings >"$apt_dir/apt.conf"
  cat >>"$apt_dir/apt.conf" <<CONF
Dir::Etc::main "$apt_dir/etc/none.conf";
Dir::Etc::parts "$apt_dir/etc/none";
Dir::State "$apt_dir/state";
Dir::State::status "$apt_dir/state/status";
Dir::Cache "$apt_dir/cache";
Dir::Etc::sourcelist "$apt_dir/etc/sources.list";
Dir::Etc::sourceparts "$apt_dir/etc/none";
Dir::Etc::preferences "$apt_dir/etc/none";
Dir::Etc::preferencesparts "$apt_dir/etc/none";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
CONF
  export APT_CONFIG=$apt_dir/apt.conf
  if [[ -z $(find "$apt_dir/fresh" -mmin "-$apt_lists_max_age_minutes" 2>/dev/null) ]]; then
    apt-get -qq update >&2 || die 1 "cannot read Debian's package lists from $mirror; is the network up?"
    touch "$apt_dir/fresh"
  fi
  flock -u "$apt_lock"
}

# fetch_packages DIR PACKAGE[=VERSION]…: unpacks the packages into DIR, without installing anything.
fetch_packages() {
  local into=$1 debs deb
  shift
  debs=$(mktemp -d "$PWD/debs.XXXXXX")
  (cd "$debs" && apt-get -qq download "$@" >&2) || die 1 "cannot download $*; the mirror's list may have moved on: remove $apt_dir and try again"
  mkdir -p "$into"
  for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$into"; done
  rm -rf "$debs"
}

# newest_version PACKAGE SERIES: the newest version of PACKAGE that starts with SERIES (7.2); where the mirror has none, the newest of all.
newest_version() {
  local versions version
  versions=$(apt-cache madison "$1" | awk '{print $3}' | sort -V)
  [[ -n $versions ]] || die 1 "the mirror has no package $1"
  version=$(grep -E "^${2//./\\.}[.-]" <<<"$versions" | tail -n 1)
  if [[ -z $version ]]; then
    version=$(tail -n 1 <<<"$versions")
    say "notice: the mirror has no $1 of series $2; using $version"
  fi
  echo "$version"
}
