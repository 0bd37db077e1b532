#!/usr/bin/env bash
# A Ray cluster inside a Slurm job: sbatch deploy/scale/slurm-ray.sh predict MODEL IMAGES --out OUT
# Every node needs the same environment, and MODEL and IMAGES at the same path. OUT is written on the first node.
#SBATCH --job-name=inception-v3
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not take it from sbatch
export RAY_USAGE_STATS_ENABLED=0
# Without a token, whoever reaches a port of the cluster can run programs on it.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # another job may run on the same node
address="$head:$port"
start=(ray start --num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory=268435456 --block)

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  "${start[@]}" --head --node-ip-address="$head" --port="$port" --include-dashboard=false &
steps=($!)
trap 'kill "${steps[@]}" 2>/dev/null || true' EXIT
# shellcheck disable=SC2016 # the inner shell expands $0
timeout 120 bash -c 'until ray health-check --address "$0" 2>/dev/null; do sleep 1; done' "$address"

others=$((SLURM_JOB_NUM_NODES - 1))
if ((others > 0)); then
  srun --nodes="$others" --ntasks="$others" --exclude="$head" --overlap "${start[@]}" --address="$address" &
  steps+=($!)
fi
timeout 120 python - "$address" "$SLURM_JOB_NUM_NODES" <<'WAIT'
import sys, time, ray
ray.init(sys.argv[1], logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(1)
WAIT

# With --resume, a job that Slurm has requeued continues.
inception-v3 "$@" --resume --ray "$address"
