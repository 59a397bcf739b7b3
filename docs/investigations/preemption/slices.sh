#!/bin/bash
# In the VM: rate of our null and kublk's (copy, 64 requests), and of ours beside a program that computes, with the threads of both servers
# given slices of their own (sched_setattr), and under SCHED_BATCH. kublk lies beside this script.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")

# NANOSECONDS POLICY (0 SCHED_OTHER, 3 SCHED_BATCH); 0 ns is the kernel's own slice.
give_slice() {
  local task
  for task in /proc/"$our_pid"/task/* /proc/"$kublk_pid"/task/*; do
    perl -e '
      my ($task, $slice, $policy) = @ARGV;
      my $attributes = pack("LLQlLQQQLL", 56, $policy, 0, 0, 0, $slice, 0, 0, 0, 0);
      syscall(314, $task + 0, $attributes, 0) == 0 or die "sched_setattr: $!"
    ' "${task##*/}" "$1" "$2"
  done
}

# NAME DEVICE PATTERN DEPTH
measure() {
  fio --name=job --filename="$2" --size=32M --ioengine=io_uring --direct=1 --time_based=1 --runtime=200ms --norandommap=1 --rw="$3" \
    --bs=4k --iodepth="$4" --output-format=json >/tmp/job.json
  node -e '
    const [name, pattern, depth] = process.argv.slice(1)
    const { read, write } = JSON.parse(require("node:fs").readFileSync("/tmp/job.json")).jobs[0]
    const { iops, clat_ns: latency } = pattern === "randread" ? read : write
    const microseconds = (nanoseconds) => Math.round(nanoseconds / 1000)
    const [mean, p99] = [latency.mean, latency.percentile["99.000000"]].map(microseconds)
    console.log(`${name}, ${pattern} of ${depth}: ${Math.round(iops)} per second, mean ${mean} µs, 99 % within ${p99} µs`)
  ' "$1" "$3" "$4"
}

# The server ends with its standard input.
mkfifo /tmp/ours.in /tmp/ours.out
node bench/serve.ts null 32MiB '{"dataPath":"copy"}' </tmp/ours.in >/tmp/ours.out &
our_pid=$!
exec 8>/tmp/ours.in 9</tmp/ours.out
read -r our_device <&9
"$here/kublk" add -t null -q 1 -d 128 >/tmp/kublk
kublk_pid=$(pgrep -n kublk)
for device in /dev/ublkb[0-9]; do [[ $device = "$our_device" ]] || kublk_device=$device; done
udevadm settle
for slice in '0 0' '100000 0' '1500000 0' '6000000 0' '20000000 0' '100000000 0' '0 3'; do
  read -r nanoseconds policy <<<"$slice"
  give_slice "$nanoseconds" "$policy"
  what="slice $nanoseconds ns, policy $policy"
  for pattern in randread randwrite; do
    measure "$what, ours" "$our_device" $pattern 64
    measure "$what, kublk" "$kublk_device" $pattern 64
  done
  perl -e '1 while 1' &
  hog=$!
  measure "$what, beside a program, ours" "$our_device" randread 1
  measure "$what, beside a program, ours" "$our_device" randread 64
  kill $hog
  wait $hog || true
done
"$here/kublk" del -n "${kublk_device#/dev/ublkb}" >/tmp/kublk
exec 8>&-
wait "$our_pid"
