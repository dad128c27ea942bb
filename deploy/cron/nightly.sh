#!/bin/bash
# nightly.sh JOB.yaml [FLAGS of tamis curate]      One run from cron: alone, with retries, and a word to a person.
#
# TAMIS_NIGHT           the night, as 2026-11-29 (default: today, UTC); empty for a job without schedule:
# TAMIS_PAGE            command that gets one line as its last argument when a person must look (default: print it)
# TAMIS_RETRIES         how often exit codes 4 and 5 are tried again (3), TAMIS_RETRY_SECONDS apart (900)
# TAMIS_LOCK            a file of this schedule; a run that still goes on is left alone (default: beside the job)
set -uo pipefail

job=${1:?usage: nightly.sh JOB.yaml [FLAGS]}
retries=${TAMIS_RETRIES:-3}
exec 9> "${TAMIS_LOCK:-$job.lock}" || exit 2
if ! flock --nonblock 9; then
    echo "the run before still goes on; this one is left out"
    exit 0
fi

page() {
    ${TAMIS_PAGE:-echo} "tamis: $job: $1"
}

night=${TAMIS_NIGHT-$(date -u +%F)}
for ((try = 0; ; try++)); do
    tamis curate "$@" ${night:+--date "$night"} 9>&-
    code=$?
    case $code in
        0) exit 0 ;;
        2) page "exit code 2: the job is wrong; see the log" ;;
        3) page "exit code 3: the input is wrong; see the log" ;;
        4 | 5)
            if ((try < retries)); then
                sleep "${TAMIS_RETRY_SECONDS:-900}"
                continue
            fi
            page "exit code $code after $((try + 1)) tries; run the same command to go on"
            ;;
        6) page "exit code 6: done, but the data has drifted from the artifact; see the report of the output" ;;
        *) page "exit code $code; see the log" ;;
    esac
    exit "$code"
done
