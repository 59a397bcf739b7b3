#!/bin/bash
# Tests of the harness itself: what vm/run promises, on real boots. One line a check; the last line is "N passed, N failed".
# Run one alone with: vm/test.sh NAME (part of a test function's name).
set -uo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=vm/lib.sh
. "$here/lib.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
readonly boot_limit_seconds=10

check() { # WHAT ACTUAL EXPECTED
  if [[ $2 == "$3" ]]; then
    echo "ok   $1" && passed=$((passed + 1))
  else
    echo "FAIL $1: expected $(printf '%q' "$3"), got $(printf '%q' "$2")" && failed=$((failed + 1))
  fi
}

# vm ARGUMENT…: runs vm/run; leaves its output in $work/out and $work/err and its status in $status.
vm() {
  status=0
  timeout 120 "$here/run" "$@" >"$work/out" 2>"$work/err" || status=$?
}

# count PATTERN FILE: how many lines match.
count() { grep -cE -- "$1" "$2"; }

test_command_line_is_checked_before_anything_boots() {
  vm --kernel seven -- true
  check "a bad --kernel is refused" "$status $(count 'not a kernel series; give' "$work/err")" "2 1"
  vm --smp 0 -- true
  check "a bad --smp is refused" "$status" 2
  vm
  check "a missing command is refused" "$status $(count 'no command given' "$work/err")" "2 1"
  vm --with no/such/path -- true
  check "a missing --with path is named" "$status $(count 'no/such/path' "$work/err")" "2 1"
}

test_output_arguments_and_status_pass_through() {
  local arguments=('two  words' $'two\nlines' "a'b\"c\\d\$e" '' '*') expected
  expected=$(printf '<%s>' "${arguments[@]}")
  # shellcheck disable=SC2016 # for the shell in the guest
  vm -- bash -c 'printf "<%s>" "$@"; echo to-stderr >&2; exit 37' name "${arguments[@]}"
  check "the exit status is the command's" "$status" 37
  check "arguments arrive unchanged" "$(<"$work/out")" "$expected"
  check "stderr is apart, with nothing else in it" "$(<"$work/err")" to-stderr
}

test_reader_that_goes_away() {
  local first
  first=$(timeout 60 "$here/run" -- seq 300000 2>"$work/err" | head -n 1)
  check "a reader that goes away does not stop the guest" "${PIPESTATUS[*]} $first $(<"$work/err")" "0 1 "
}

test_guest_has_what_is_promised() {
  mkdir "$work/files"
  # shellcheck disable=SC2016 # for the shell in the guest
  FROM_HOST='x y' vm --node 22 --out "$work/files" --env FROM_HOST --env SET=1 --strict-dmesg -- bash -ec '
    test -c /dev/ublk-control && echo driver
    pgrep -x systemd-udevd >/dev/null || pgrep -f systemd-udevd >/dev/null && echo udev
    ulimit -l && pwd && echo "$FROM_HOST $SET"
    mountpoint -q /dev/shm && mountpoint -q /tmp && test -d /sys/kernel/debug/block && echo mounts
    # Only an emulated guest is spared the stripping of types.
    node -e "import(\"./scripts/suites.ts\").then(() => process.exit(Number(process.moduleLoadList.join().includes(\"amaro\"))))" ||
      test ! -d /run/vm/stripped && echo types
    echo new >vm/written && rm vm/README.md && cat vm/written
    for m in null_blk brd xfs btrfs dm-mod nvme-tcp nvmet; do modprobe $m; done && echo modules
    truncate -s 64M /tmp/i && mkfs.ext4 -q /tmp/i && mkdir /tmp/m && mount -o loop /tmp/i /tmp/m && echo loop
    mkdir -p /out/sub && echo data >/out/sub/file && seq 200000'
  # What the command wrote, but the bulk of numbers.
  check "driver, udev, limits, mounts, modules, environment, writable checkout" "$(head -n -200000 "$work/out" | paste -sd' ')" \
    "driver udev unlimited ${here%/*} x y 1 mounts types new modules loop"
  check "200 000 lines arrive whole" "$(tail -n 200000 "$work/out" | md5sum)" "$(seq 200000 | md5sum)"
  check "the checkout on the host is untouched" "$([[ -f $here/README.md && ! -e $here/written ]] && echo yes)" yes
  check "files in /out come out" "$(cat "$work/files/sub/file")" data
  check "a quiet kernel passes --strict-dmesg" "$status" 0
}

test_other_kernels() {
  local started=$SECONDS
  vm --verbose --kernel 6.12 -- uname -r
  check "6.12 boots" "$(cut -d. -f1,2 "$work/out")" 6.12
  check "boots, runs and ends in less than $boot_limit_seconds s (took $((SECONDS - started)) s)" "$((SECONDS - started < boot_limit_seconds))" 1
  vm --icount -- bash -c 'uname -r; nproc'
  check "--icount gives the default kernel and one CPU" "$(sed 's/^\([0-9]*\.[0-9]*\).*/\1/' "$work/out" | paste -sd' ')" "7.2 1"
}

# Reads per second of a device of the kernel's own, in a boot of its own.
counted_rate() {
  # shellcheck disable=SC2016 # for the shell in the guest
  vm --icount -- bash -ec 'modprobe null_blk && cat "$(type -P fio)" >/dev/null
    fio --name=r --filename=/dev/nullb0 --rw=randread --bs=4k --iodepth=32 --ioengine=io_uring --direct=1 \
      --time_based --runtime=300ms --ramp_time=100ms --output-format=json --output=/tmp/fio.json
    node -p "Math.round(JSON.parse(fs.readFileSync(\"/tmp/fio.json\")).jobs[0].read.iops)"'
  cat "$work/out"
}

test_counted_rates_repeat() {
  local first second difference
  first=$(counted_rate)
  # The second boot on a machine that is busy with something else: that is what counting is for.
  timeout 120 bash -c 'while :; do :; done' &
  pid=$!
  second=$(counted_rate)
  kill "$pid"
  wait "$pid" 2>/dev/null
  difference=$(awk -v a="$first" -v b="$second" 'BEGIN { d = (a - b) / a; printf "%.2f", 100 * (d < 0 ? -d : d) }')
  check "--icount repeats within 3 % in another boot, beside a busy process ($first and $second, $difference %)" \
    "$((first > 1000)) $(awk -v d="$difference" 'BEGIN { print d < 3 }')" "1 1"
}

test_time_out() {
  vm --timeout 7 -- sleep 60
  check "a time-out ends with 124 and says so" "$status $(count 'time-out: .* 7 s' "$work/err") $(count 'the command starts' "$work/err")" "124 1 1"
}

test_kernel_complaints_are_shown() {
  vm --strict-dmesg -- bash -c 'echo "WARNING: made by the test" >/dev/kmsg; echo kept; exit 3'
  check "--strict-dmesg ends with 99 and shows the line" "$status $(count '^vm: kernel: .*WARNING: made by the test' "$work/err") $(<"$work/out")" "99 1 kept"
}

test_panic() {
  vm -- bash -c 'echo c >/proc/sysrq-trigger; sleep 9'
  check "a panic ends with 125, its reason and the console" "$status $(count '^vm: kernel panic: .*sysrq triggered crash' "$work/err") $(count 'Call Trace' "$work/err")" "125 1 1"
}

test_guest_that_cannot_boot() {
  vm --mem 64M -- true
  check "a guest that cannot boot is tried twice and ends with 125" "$status $(count 'trying once more' "$work/err") $(count 'without a word while booting' "$work/err")" "125 1 1"
}

# Starts a command that never ends; sets $pid, and $run to the directory of that run.
start_endless() {
  # A background job of a script ignores SIGINT unless told otherwise.
  env --default-signal=INT "$here/run" -- bash -c 'echo up; sleep 300' >"$work/out" 2>"$work/err" &
  pid=$!
  for _ in {1..200}; do
    grep -q up "$work/out" && break
    sleep 0.2
  done
  run=$(echo "$vm_cache/run/$pid".*)
}

processes() { pgrep -fc "$run/"; }

interrupt() { # SIGNAL STATUS
  start_endless
  check "SIG$1: there is a machine to stop" "$(($(processes) > 1))" 1
  kill "-$1" "$pid"
  status=0
  wait "$pid" || status=$?
  check "SIG$1 ends vm/run with $2, and leaves no process and no file" "$status $(processes) $([[ -e $run ]] && echo left)" "$2 0 "
}
test_interrupt() { interrupt INT 130; }
test_terminate() { interrupt TERM 143; }

test_kill_leaves_nothing_for_long() {
  start_endless
  kill -KILL "$pid"
  wait "$pid" 2>/dev/null
  for _ in {1..50}; do
    (($(processes) > 0)) || break
    sleep 0.2
  done
  check "kill -9 of vm/run: the machine goes too" "$(processes)" 0
  vm --with no/such/path -- true
  check "kill -9 of vm/run: the next run removes its files" "$([[ -e $run ]] && echo left)" ""
}

for name in $(declare -F | awk '{print $3}' | grep '^test_'); do
  [[ $name == *"${1:-}"* ]] || continue
  "$name"
done
echo "$passed passed, $failed failed"
((failed == 0))
