#!/bin/bash
# In the VM: rate and context switches of our null and kublk's, in the buffer modes named (zero-copy, copy), beside fio at 64 requests.
#   switches.sh MODE…
# With CHRT=1 both servers run under SCHED_BATCH. kublk lies beside this script.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")

# PID: voluntary and involuntary switches of all its threads so far.
switches() {
  cat /proc/"$1"/task/*/status | awk '/^voluntary/ { v += $2 } /^nonvoluntary/ { n += $2 } END { print v, n }'
}

# NAME DEVICE PID PATTERN
measure() {
  local before after
  before=$(switches "$3")
  fio --name=job --filename="$2" --size=32M --ioengine=io_uring --direct=1 --time_based=1 --runtime=300ms --norandommap=1 --rw="$4" \
    --bs=4k --iodepth=64 --output-format=json >/tmp/job.json
  after=$(switches "$3")
  node -e '
    const [name, pattern, before, after] = process.argv.slice(1)
    const { read, write } = JSON.parse(require("node:fs").readFileSync("/tmp/job.json")).jobs[0]
    const { total_ios: requests, iops } = pattern === "randread" ? read : write
    const [from, to] = [before, after].map((text) => text.split(" ").map(Number))
    const [voluntary, other] = to.map((count, index) => (((count - from[index]) / requests) * 1000).toFixed(1))
    console.log(`${name}, ${pattern}: ${Math.round(iops)} per second; for 1 000 requests ${voluntary} voluntary switches, ${other} others`)
  ' "$1" "$4" "$before" "$after"
}

for mode in "$@"; do
  [[ $mode = zero-copy ]] && flags=(-z) || flags=()
  # The server ends with its standard input.
  rm -f /tmp/ours.in /tmp/ours.out && mkfifo /tmp/ours.in /tmp/ours.out
  node bench/serve.ts null 32MiB "{\"dataPath\":\"$mode\"}" </tmp/ours.in >/tmp/ours.out &
  our_pid=$!
  exec 8>/tmp/ours.in 9</tmp/ours.out
  read -r our_device <&9
  "$here/kublk" add -t null "${flags[@]}" -q 1 -d 128 >/tmp/kublk
  kublk_pid=$(pgrep -n kublk)
  for device in /dev/ublkb[0-9]; do [[ $device = "$our_device" ]] || kublk_device=$device; done
  udevadm settle
  if [[ -n ${CHRT-} ]]; then
    for task in /proc/"$our_pid"/task/* /proc/"$kublk_pid"/task/*; do chrt -b -p 0 "${task##*/}"; done
  fi
  for pattern in randread randwrite randread randwrite; do
    measure "ours, $mode" "$our_device" "$our_pid" $pattern
    measure "kublk, $mode" "$kublk_device" "$kublk_pid" $pattern
  done
  "$here/kublk" del -n "${kublk_device#/dev/ublkb}" >/tmp/kublk
  exec 8>&-
  wait "$our_pid"
done
