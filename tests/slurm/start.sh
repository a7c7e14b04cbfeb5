#!/usr/bin/env bash
# start.sh DIR: a Slurm of one node on this machine, its files in DIR. Needs root, slurm-wlm, munge.
# The configuration must be in /etc/slurm: the executor's job step drops SLURM_CONF.
set -euo pipefail
dir=$(realpath "$1")
here=$(realpath "$(dirname "$0")")
if [ -e /etc/slurm/slurm.conf ] && ! head -1 /etc/slurm/slurm.conf | grep -q '^# frcore tests'; then
  echo "this machine has a Slurm of its own (/etc/slurm/slurm.conf)" >&2
  exit 3
fi
if ! pgrep -x munged >/dev/null; then
  install -d -o munge -g munge -m 755 /run/munge
  [ -s /etc/munge/munge.key ] || runuser -u munge -- /usr/sbin/mungekey
  runuser -u munge -- /usr/sbin/munged
  pgrep -x munged >"$dir/munged.pid"
fi
mkdir -p "$dir/state" "$dir/spool" /etc/slurm
for i in 0 1; do [ -e "$dir/nvidia$i" ] || mknod "$dir/nvidia$i" c 1 3; done
for name in slurm.conf gres.conf; do sed "s|@DIR@|$dir|" "$here/$name" >"/etc/slurm/$name"; done
slurmctld -c
slurmd -N localhost
for _ in $(seq 30); do
  if sinfo -h -o %T 2>/dev/null | grep -q idle; then exit 0; fi
  sleep 1
done
echo "the node did not come up:" >&2
tail -5 "$dir"/slurm*.log >&2
exit 1
