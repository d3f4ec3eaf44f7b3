#!/bin/bash
# A sweep on a Ray cluster over all machines of an allocation. The flags are those of sweep.py:
#     sbatch --nodes=4 docs/slurm/ray.sh train_ppo.py --seeds 1-40 --name many --directory /shared/sweeps
# To go on with it: sbatch --nodes=4 docs/slurm/ray.sh --resume many --directory /shared/sweeps
#SBATCH --job-name=sweep
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=08:00:00
# A minute before the time is up every trial saves a checkpoint.
#SBATCH --signal=B:TERM@60
set -euo pipefail

python="${PYTHON:-.venv/bin/python}"
ray="$(dirname "$python")/ray"
export RAY_USAGE_STATS_ENABLED=0
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
# Two jobs on one machine have ports of their own.
port="${RAY_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 10000))}"
address="$head:$port"
n_cores="${SLURM_CPUS_PER_TASK:-1}"

# One Ray on each machine: the head first, since the others look for it.
srun --nodes=1 --ntasks=1 --cpus-per-task="$n_cores" --nodelist="$head" \
	"$ray" start --head --block --port="$port" --num-cpus="$n_cores" --include-dashboard=false &
head_pid=$!
until "$ray" status --address="$address" >/dev/null 2>&1; do
	kill -0 "$head_pid" 2>/dev/null || { echo "ray.sh: Ray could not be started on $head" >&2; exit 1; }
	sleep 1
done
if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
	srun --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" \
		--cpus-per-task="$n_cores" --exclude="$head" \
		"$ray" start --block --address="$address" --num-cpus="$n_cores" &
fi

"$python" sweep.py "$@" --address "$address" &
sweep=$!
# The script gets the signal, and hands it on.
trap 'kill -TERM "$sweep" 2>/dev/null || true' TERM
code=0
wait "$sweep" || code=$?
# A signal ends the first wait. The sweep is waited for to its end.
while kill -0 "$sweep" 2>/dev/null; do
	code=0
	wait "$sweep" || code=$?
done
kill %1 %2 2>/dev/null || true
exit "$code"
