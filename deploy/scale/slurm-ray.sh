#!/usr/bin/env bash
# A Ray cluster inside a Slurm job: sbatch deploy/scale/slurm-ray.sh predict MODEL IMAGES --out OUT
# Every node needs the same environment, and MODEL, IMAGES and OUT on shared storage.
#SBATCH --job-name=inception-v3
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
set -euo pipefail

export RAY_USAGE_STATS_ENABLED=0
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$head:6379"
store=$((256 * 1024 * 1024))

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray start --head --node-ip-address="$head" --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" \
  --include-dashboard=false --object-store-memory="$store" --block &
head_step=$!
trap 'kill "$head_step" 2>/dev/null || true' EXIT

if ((SLURM_JOB_NUM_NODES > 1)); then
  sleep 10
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" --overlap \
    ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory="$store" --block &
fi
sleep 20

# With --resume, a job that Slurm has requeued continues.
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap inception-v3 "$@" --resume --ray "$address"
