#!/usr/bin/env bash
# stop.sh DIR: end what start.sh started, and nothing else.
set -uo pipefail
dir=$(realpath "$1")
squeue -h -o %i 2>/dev/null | xargs -r scancel
sleep 1
for name in slurmd slurmctld munged; do
  if [ -s "$dir/$name.pid" ]; then kill "$(cat "$dir/$name.pid")" 2>/dev/null; fi
done
for name in slurm.conf gres.conf; do
  if head -1 "/etc/slurm/$name" 2>/dev/null | grep -q '^# frcore tests'; then rm "/etc/slurm/$name"; fi
done
rm -f "$dir"/nvidia?
