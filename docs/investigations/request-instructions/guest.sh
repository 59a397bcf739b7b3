#!/bin/bash
# In the VM: see profile.sh. A file in tmpfs on both sides, 4 KiB, 64 requests at a time.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
pattern=$1 options=$2
shift 2

PERIOD=20011 # instructions from one sample to the next
SECONDS_EACH=4
perf=("$here"/ld-linux-x86-64.so.2 --library-path "$here" "$here/perf")

# DEVICE [COMMAND…]: prints how many requests were done; COMMAND records it.
load() {
  local device=$1
  shift
  "$@" fio --name=job --filename="$device" --ioengine=io_uring --direct=1 --rw="$pattern" --bs=4k --iodepth=64 --time_based \
    --runtime=$SECONDS_EACH --output-format=json 2>/dev/null >/tmp/job.json
  node -p 'const { read, write } = JSON.parse(require("node:fs").readFileSync("/tmp/job.json")).jobs[0]; read.total_ios + write.total_ios'
}

# NAME THREAD DEVICE: instructions of each function for a request.
profile() {
  local requests
  requests=$(load "$3" "${perf[@]}" record --quiet -e cpu-clock -c $PERIOD -a -o /tmp/perf.data --)
  echo "$1: $((requests / SECONDS_EACH)) requests a second while samples are taken; instructions for a request:"
  "${perf[@]}" report --kallsyms=/proc/kallsyms -i /tmp/perf.data --stdio -F sample,comm,dso,sym -t '|' 2>/dev/null |
    awk -F'|' -v thread="$2" -v period=$PERIOD -v requests="$requests" '
      BEGIN { each = period / requests }
      $2 ~ thread { space = $3 ~ /kernel/ ? "kernel" : "user"; sum[space] += $1 * each
        if (lines[space]++ < 12) text[space] = text[space] sprintf("  %8.1f %s\n", $1 * each, $4) }
      END { for (space in sum) printf "  %s: %.0f\n%s", space, sum[space], text[space] }'
}

sysctl -qw kernel.perf_event_max_sample_rate=1000000 kernel.perf_cpu_time_max_percent=0
mkdir -p /tmp/files && mount -t tmpfs none /tmp/files
truncate -s 32M /tmp/files/ours /tmp/files/kublk
modprobe ublk_drv
mkfifo /tmp/ours.in /tmp/ours.out
node bench/serve.ts file /tmp/files/ours "$options" </tmp/ours.in >/tmp/ours.out &
exec 8>/tmp/ours.in 9</tmp/ours.out
read -r ours <&9
"$here/kublk" add -t loop -q 1 -d 128 "$@" /tmp/files/kublk >/tmp/kublk
for device in /dev/ublkb[0-9]; do [[ $device = "$ours" ]] || kublk=$device; done
udevadm settle
for device in "$ours" "$kublk"; do fio --name=fill --filename="$device" --direct=1 --rw=write --bs=128k >/dev/null; done
for _ in 1 2 3; do
  echo "without samples: ours $(($(load "$ours") / SECONDS_EACH)), kublk $(($(load "$kublk") / SECONDS_EACH)) requests a second"
done
"${perf[@]}" record --quiet -e cpu-clock -a -o /tmp/perf.data -- true # its pages are in memory from now on
profile ours '^ublk0q0' "$ours"
profile kublk '^kublk' "$kublk"
"$here/kublk" del -a >/tmp/kublk
