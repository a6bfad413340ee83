"""The unchanging parts of a batch script: what a job says, watches, and does when it ends."""

HEAD = """\
#!/usr/bin/env bash
# Usage: sbatch {script}
# One stage of a run, written by `python -m launch submit`, which also queues it.
# It continues where an earlier start of it ended, and requeues itself when it was stopped.
{directives}
set -euo pipefail
stage={stage}
run={run}
"""

WATCH = """
jobs=$run/jobs
job=$SLURM_JOB_ID
if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
    # One task's own id may be that of its whole array.
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
fi
starts=$((${SLURM_RESTART_COUNT:-0} + 1))
echo "== $stage: start $starts of job $job on $SLURM_JOB_NODELIST, $(date '+%F %T')"
rm -f "$jobs/$stage.ended"
# A cancelled job's shell is told to end too; it has to see first how its command ended.
trap : TERM USR1

again() {
    # A cancelled job can be requeued, but its owner wants it to end.
    if [[ $(scontrol show job --oneliner "$job") == *JobState=CANCELLED* ]]; then
        echo "$stage: cancelled; what was saved stays"
        exit 1
    fi
    echo "$stage: $1; requeued"
    if scontrol requeue "$job"; then
        exit 0
    fi
    # Where a node was lost or the job preempted, SLURM has done so already.
    echo "$stage: if it does not wait in the queue, submit again"
    exit 1
}
"""

END = """step=$!
# srun waits for ever for a node that died and was back before SLURM missed it.
patience=30
while kill -0 "$step" 2> /dev/null && [[ $patience -gt 0 ]]; do
    if [[ -e $jobs/$stage.ended ]]; then
        patience=$((patience - 1))
    fi
    sleep 1
done
if [[ $patience -eq 0 ]]; then
    kill -KILL "$step" 2> /dev/null || true
fi
status=0
wait "$step" || status=$?
if [[ $status -ne 0 && -e $jobs/$stage.ended ]]; then
    # Of the rank that failed first: srun tells of those that it ended. Empty on a full disk.
    read -r status _ < "$jobs/$stage.ended" || status=1
fi
case $status in
    0)
        rm -f "$jobs/$stage.failures"
        exit 0
        ;;
    75 | 138) # stopped on request, or by SIGUSR1 before it could listen
        if [[ $starts -le $requeue_limit ]]; then
            again "stopped on request"
        fi
        echo "error: $stage was stopped $starts times; raise cluster.requeue_limit, submit again"
        ;;
    2) ;; # the error line above says what a person has to fix
    *)
        echo "$stage: failed with status $status"
        # On a full disk nothing can be counted, and nothing is tried again.
        if echo "$status" >> "$jobs/$stage.failures" &&
            [[ $(wc -l < "$jobs/$stage.failures") -le $retry_limit ]]; then
            again "may work the next time"
        fi
        echo "error: $stage failed with status $status, and is not tried again; see above"
        ;;
esac
exit "$status"
"""
