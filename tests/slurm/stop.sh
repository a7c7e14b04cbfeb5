#!/usr/bin/env bash
# stop.sh DIR: end what start.sh started, and nothing else.
set -uo pipefail
dir=$(realpath "$1")
squeue -h -o %i 2>/dev/null | xargs -r scancel
for _ in $(seq 20); do # a daemon that still ends a job does not stop itself
  [ -n "$(squeue -h 2>/dev/null)" ] || break
  sleep 1
done
for name in slurmd slurmctld munged; do
  pids=$(cat "$dir/$name.pid" 2>/dev/null) || continue
  for pid in $pids; do kill "$pid" 2>/dev/null; done
  for pid in $pids; do
    for _ in $(seq 50); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null
  done
done
for name in slurm.conf gres.conf; do
  if head -1 "/etc/slurm/$name" 2>/dev/null | grep -q '^# frcore tests'; then rm "/etc/slurm/$name"; fi
done
rm -f "$dir"/nvidia?
