#!/usr/bin/env bash
# Predict without Ray, one shard in each task of a job array:
# sbatch --array=1-64 deploy/scale/slurm-array.sh MODEL IMAGES OUT.parquet
#SBATCH --job-name=inception-v3
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
set -euo pipefail

inception-v3 predict "$1" "$2" --out "$3" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --resume
