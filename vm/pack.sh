# Packs what the guest sees of the host into read-only images, kept in the cache and reused until something changes. Sourced by vm/run after lib.sh;
# uses its run directory $run and its flag $verbose.
#
#   sources       the checkout without .git, node_modules and target; of target only what `--with` names and the built libraries and programs
#   node_modules  the installed packages, which change seldom and are large
#   peers         what is in the cache's directory peers, seen as /opt/peers
#
# Images are not compressed: unpacking under emulation costs more than the disk.
# shellcheck shell=bash disable=SC2154

declare -A images_kept=([sources]=8 [node_modules]=3 [peers]=3) # the one used longest ago goes first

# pack KIND KEY DIR LIST: prints the image; LIST is a file of NUL-separated paths in DIR.
pack() {
  local kind=$1 key=$2 dir=$3 list=$4 image status=0
  image=$vm_cache/images/$kind-$key.sqfs
  mkdir -p "$vm_cache/images"
  if [[ ! -f $image ]]; then
    [[ -z ${verbose:-} ]] || say "packing $kind"
    # Status 1: a file changed or went while tar read it; on a checkout in use that is no error.
    { tar -C "$dir" --null --no-recursion -T "$list" --ignore-failed-read -cf - 2>/dev/null || status=$? && ((status < 2)); } |
      sqfstar -noI -noD -noF -noX -no-xattrs -all-root -quiet -no-progress "$run/$kind.sqfs" >/dev/null 2>"$run/pack.log" ||
      die 125 "cannot pack $kind of $dir: $(tail -n 1 "$run/pack.log")"
    mv "$run/$kind.sqfs" "$image"
  fi
  touch -c "$image"
  find "$vm_cache/images" -name "$kind-*.sqfs" -printf '%T@ %p\n' | sort -rn | tail -n "+$((images_kept[$kind] + 1))" | cut -d' ' -f2- | xargs -r -d '\n' rm -f
  echo "$image"
}

# pack_sources CHECKOUT PATH…
pack_sources() {
  local dir=$1 path list=$run/sources.list
  shift
  cd "$dir" || return
  for path in "$@"; do
    [[ -e $path ]] || die 2 "--with \"$path\": no such path in $dir"
  done
  {
    find . \( -path ./.git -o -path ./target -o -name node_modules \) -prune -o -print0
    find target/debug target/release -maxdepth 1 -type f \( -name '*.node' -o -name '*.so' -o -perm /111 \) -print0 2>/dev/null || true
    for path in "$@"; do
      find "$(realpath --relative-to=. "$path")" -print0
    done
  } | sort -zu >"$list"
  pack sources "$(xargs -0 stat -c '%n %s %.9Y %a' <"$list" 2>/dev/null | sha256sum | cut -c1-16)" "$dir" "$list"
}

# Prints nothing where nothing is installed. npm rewrites .package-lock.json at every change; a hand's work shows in the directories' times.
pack_node_modules() { # CHECKOUT
  local dir=$1 list=$run/node_modules.list tops key
  cd "$dir" || return
  mapfile -d '' -t tops < <(find . \( -path ./.git -o -path ./target \) -prune -o -name node_modules -prune -print0)
  ((${#tops[@]} > 0)) || return 0
  key=$({
    find "${tops[@]}" -maxdepth 2 -printf '%p %T@ %l\n' | sort
    cat "${tops[@]/%//.package-lock.json}" 2>/dev/null || true
  } | sha256sum | cut -c1-16)
  find "${tops[@]}" -path '*/node_modules/.cache' -prune -o -print0 >"$list"
  pack node_modules "$key" "$dir" "$list"
}

pack_peers() {
  local dir=$vm_cache/peers list=$run/peers.list
  [[ -d $dir ]] || return 0
  cd "$dir" || return
  find . -print0 | sort -z >"$list"
  pack peers "$(xargs -0 stat -c '%n %s %.9Y %a' <"$list" | sha256sum | cut -c1-16)" "$dir" "$list"
}
