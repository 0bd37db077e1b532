#!/usr/bin/env bash
# Training on several nodes: sbatch deploy/scale/slurm-torchrun.sh train DATA --out RUN
# Every node needs the same environment, and DATA and RUN on shared storage.
#SBATCH --job-name=inception-v3-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not take it from sbatch
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # another job may run on the same node
# With --resume, a job that Slurm has requeued continues.
srun torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" --max-restarts=3 \
  --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$head:$port" \
  -m inception_v3 "$@" --resume
