#!/bin/bash
# A job array over the trials of a sweep, without Ray. First write the plan, then start as many jobs as it has trials:
#     python sweep.py train_ppo.py --seeds 1-10 --name many --directory /shared/sweeps --plan-only --cores 4
#     sbatch --array=1-10 docs/slurm/array.sh many /shared/sweeps
#SBATCH --job-name=sweep
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=08:00:00
# A minute before the time is up the trial saves a checkpoint. Submitted again, the same command goes on there.
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
set -euo pipefail

name="$1" directory="$2"
# exec: the signal reaches the sweep itself.
exec "${PYTHON:-.venv/bin/python}" sweep.py --resume "$name" --directory "$directory" \
	--only "$SLURM_ARRAY_TASK_ID"
