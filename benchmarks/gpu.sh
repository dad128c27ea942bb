#!/usr/bin/env bash
# Everything that needs a real GPU, in one go of at most 8 minutes on one H200. Where there is no network, the wheels
# that the environment lacks are brought in a folder. Each step has its own time limit and a failure does not stop the
# next one; the steps stand in the order of their worth, so that what time is short of comes last.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    cat <<'TEXT'
usage: benchmarks/gpu.sh --wheels FOLDER [--python VERSION] [--limit-mb N]
       benchmarks/gpu.sh [--out FOLDER] [--from-wheels FOLDER] [--seconds N] [--cpu] [--only STEP,STEP]

The first form, on a machine with a network, fills a folder with the wheels that the second form installs on one
without. The second form makes an environment over the current python3, whose torch and transformers are used as they
are, and runs the steps:

  environment  GPU, driver and versions
  tests        the tests marked gpu
  budgets      padded, packed, compiled, several token budgets (benchmarks/budgets.py): the best become the defaults
  curate       tamis curate on a local Ray, its capture rate against the bare forward pass (benchmarks/capture.py)
  losses       per-token losses with a vocabulary of 128,256 (benchmarks/forward.py --only-losses)
  forward      the ways that are in use against tamis (benchmarks/forward.py)

  --wheels FOLDER       fill FOLDER (what is in it is replaced)
  --python VERSION      of the wheels (default 3.12)
  --limit-mb N          of all wheels together (default 60); what does not fit is left out and named
  --out FOLDER          where results go: STEP.json, steps.jsonl, and the output of all steps as gpu.log
                        (default $OUT, else benchmarks/results/gpu)
  --from-wheels FOLDER  install from FOLDER without a network (default: install nothing)
  --seconds N           for all of it (default 470); a step for which too little is left is skipped, and says so
  --cpu                 the same commands on a tiny model, to try all but CUDA; by itself where torch sees no GPU
  --only STEP,STEP      these steps alone
  --help                this text

It needs bash, GNU timeout, and a python3 with torch, transformers, numpy, pyarrow, peft, accelerate and pip. It ends with
a table, and with exit code 1 if a step failed. PYTHON names another python.
TEXT
}

OUT=${OUT:-$ROOT/benchmarks/results/gpu}
PYTHON=${PYTHON:-python3}
TOTAL=470 CPU= WHEELS= FROM= ONLY=all VERSION=3.12 LIMIT_MB=60

# The seconds that each step may take. What one leaves over goes to those after it; none takes a later one's share.
STEPS=(environment tests budgets curate losses forward)
declare -A SHARE=([environment]=30 [tests]=70 [budgets]=120 [curate]=90 [losses]=75 [forward]=55)

fail() { echo "gpu.sh: $1; see --help" >&2; exit 2; }

while (($#)); do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --cpu) CPU=yes; shift; continue ;;
        --wheels | --python | --limit-mb | --out | --from-wheels | --seconds | --only) (($# > 1)) || fail "$1 needs a value" ;;
        *) fail "what is $1?" ;;
    esac
    case $1 in
        --wheels) WHEELS=$2 ;;
        --python) VERSION=$2 ;;
        --limit-mb) LIMIT_MB=$2 ;;
        --out) OUT=$2 ;;
        --from-wheels) FROM=$2 ;;
        --seconds) TOTAL=$2 ;;
        --only) ONLY=$2 ;;
    esac
    shift 2
done

if [[ $WHEELS ]]; then
    exec "$PYTHON" "$ROOT/benchmarks/wheels.py" "$WHEELS" --python "$VERSION" --limit-mb "$LIMIT_MB"
fi
[[ $TOTAL =~ ^[0-9]+$ ]] || fail "--seconds $TOTAL is no whole number"
[[ -z $FROM || -d $FROM ]] || fail "--from-wheels $FROM is no folder"
if [[ $ONLY != all ]]; then
    for name in ${ONLY//,/ }; do [[ -v SHARE[$name] ]] || fail "--only $ONLY: there is no step $name"; done
fi

SECONDS=0
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
[[ -z $FROM ]] || FROM=$(cd "$FROM" && pwd)
cd "$ROOT"
LOG=$OUT/gpu.log
: >"$LOG"
: >"$OUT/steps.jsonl"
export RAY_TMPDIR=/tmp PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 TOKENIZERS_PARALLELISM=false
unset RAY_ADDRESS # the Ray of the run is its own

# Gigabytes of weights are written and read again: in memory if there is enough of it.
SHM=$(df --output=avail -B1G /dev/shm 2>/dev/null | tail -1 || echo 0)
((SHM >= 40)) && export TMPDIR=/dev/shm
WORK=$(mktemp -d -t tamis-gpu-XXXXXX)
trap 'rm -rf "$WORK"' EXIT

# A virtual environment over the current Python. Not with --system-site-packages: where that Python is in a virtual
# environment itself, those would be the packages of the one below it. The image's pip installs into it.
make_environment() {
    "$PYTHON" -m venv --without-pip "$WORK/venv"
    local site links=$WORK/links
    site=$("$WORK/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # tamis by links, as `make types` has it: no build, and no setuptools. Before the packages of the image, which may
    # have an installed tamis among them.
    mkdir -p "$links/tamis" "$site/tamis-0.1.0.dist-info"
    ln -sfn "$ROOT/operators" "$links/tamis/operators"
    ln -sfn "$ROOT/pipeline" "$links/tamis/pipeline"
    ln -sfn "$ROOT"/api/*.py "$links/tamis/"
    printf 'Metadata-Version: 2.1\nName: tamis\nVersion: 0.1.0\n' >"$site/tamis-0.1.0.dist-info/METADATA"
    echo "$links" >"$site/a-tamis.pth"
    "$PYTHON" -c 'import site; [print(f"import site; site.addsitedir({folder!r})") for folder in site.getsitepackages()]' \
        >"$site/b-image.pth"
    PY=$WORK/venv/bin/python
    [[ $FROM ]] || return 0
    local install=("$PY" -m pip install --quiet --no-index --find-links "$FROM" --no-compile --disable-pip-version-check)
    # First with everything resolved; where a version of the image is in the way of that, only what the image lacks.
    if ! "${install[@]}" 'ray[data]' pydantic datasets typer rich jinja2 pyyaml fsspec filelock psutil pytest hypothesis; then
        echo "pip could not resolve all of them with what is there; installing what is missing"
        local missing
        mapfile -t missing < <("$PY" benchmarks/wheels.py --missing "$FROM")
        ((${#missing[@]} == 0)) || "${install[@]}" --no-deps "${missing[@]}"
    fi
}

FAILED=0 TABLE=
report() { # step seconds outcome reason
    local reason=${4//\"/\'}
    reason=${reason//\\/}
    printf '{"step": "%s", "seconds": %d, "outcome": "%s", "reason": "%s"}\n' "$1" "$2" "$3" "$reason" >>"$OUT/steps.jsonl"
    TABLE+=$(printf '%-12s %5ds  %-8s %s' "$1" "$2" "$3" "$4")$'\n'
    echo "== $1: $3 after $2 s ${4:+($4)}"
    [[ $3 != failed ]] || FAILED=1
}

wanted() { [[ $ONLY == all || ,$ONLY, == *,$1,* ]]; }

# step NAME COMMAND...
step() {
    local name=$1 began=$SECONDS left=$((TOTAL - SECONDS)) later=0 passed= other code=0
    shift
    wanted "$name" || return 0
    for other in "${STEPS[@]}"; do
        if [[ $passed ]] && wanted "$other"; then later=$((later + SHARE[$other])); fi
        if [[ $other == "$name" ]]; then passed=yes; fi
    done
    local share=${SHARE[$name]} most=$((left - later))
    # where time is short all have less, each in proportion
    ((most >= share)) || most=$((left * share / (share + later)))
    if ((most < share / 3)); then report "$name" 0 skipped "only $most s are left for it"; return 0; fi
    # a step that ends by itself is told when
    set -- "${@/#LIMIT/$((most * 9 / 10))}"
    { echo; echo "===== $name: $*"; } >>"$LOG"
    local from
    from=$(wc -l <"$LOG")
    timeout --kill-after=5 "$most" "$@" >>"$LOG" 2>&1 || code=$?
    local took=$((SECONDS - began))
    case $code in
        0) report "$name" "$took" ok "$(said "$name" "$from")" ;;
        124 | 137) report "$name" "$took" failed "stopped after $most s" ;;
        *) report "$name" "$took" failed "exit $code: $(tail -n +"$((from + 1))" "$LOG" | grep -v '^ *$' | tail -1 | cut -c1-150)" ;;
    esac
}

said() { # the line of a step's output that says most
    local pattern
    case $1 in
        tests) pattern='passed|skipped' ;;
        budgets) pattern='^best: ' ;;
        curate) pattern="^job over bare" ;;
        losses) pattern='^\| tamis' ;;
        forward) pattern='^\| \(d\)' ;;
        *) return 0 ;;
    esac
    tail -n +"$(($2 + 1))" "$LOG" | grep -E "$pattern" | tail -1 | cut -c1-150 || true
}

if make_environment >>"$LOG" 2>&1; then
    report install "$SECONDS" ok "$(grep -m1 'installing what is missing' "$LOG" || true)"
else
    report install "$SECONDS" failed "see gpu.log"
fi
if [[ -z $CPU ]] && ! "$PY" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >>"$LOG" 2>&1; then
    echo "torch sees no CUDA device: the steps are tried on the CPU"
    CPU=yes
fi
if [[ $CPU ]]; then
    # On models this small threads only wait for each other.
    export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1
    SHAPE=tiny ROWS=60 JOB_ROWS=200 REPEATS=1 BUDGETS="512 1024" LOSS_ROWS=8 LONG_ROWS=1 FORWARD_ROWS=16
else
    SHAPE=8b ROWS=1200 JOB_ROWS=3000 REPEATS=1 BUDGETS="4096 8192 16384 32768 65536" LOSS_ROWS=64 LONG_ROWS=8 FORWARD_ROWS=100
fi

# shellcheck disable=SC2086  # BUDGETS are several words
{
    step environment "$PY" benchmarks/machine.py "$OUT/environment.json"
    step tests "$PY" -m pytest -q -m gpu -p no:cacheprovider $(grep -rl 'mark\.gpu$' tests/operators)
    step budgets "$PY" benchmarks/budgets.py --shape $SHAPE --model "$WORK/model" --rows $ROWS --budgets $BUDGETS \
        --seconds LIMIT --json "$OUT/budgets.json"
    if ! wanted curate; then
        :
    elif reason=$("$PY" -c 'import ray.data, pydantic, typer, rich' 2>&1 | tail -1) && [[ -z $reason ]]; then
        step curate "$PY" benchmarks/capture.py --shape $SHAPE --model "$WORK/model" --rows $JOB_ROWS \
            --repeats $REPEATS --json "$OUT/curate.json"
    else
        report curate 0 skipped "what it needs is not installed: $reason"
    fi
    rm -rf "$WORK/model" # room for the next one
    step losses "$PY" benchmarks/forward.py --only-losses --shape $SHAPE --loss-rows $LOSS_ROWS \
        --loss-long-rows $LONG_ROWS --repeats 3 --json "$OUT/losses.json"
    step forward "$PY" benchmarks/forward.py --shape $SHAPE --rows $FORWARD_ROWS --repeats 3 --no-compiled \
        --json "$OUT/forward.json"
}

echo
printf '%s' "$TABLE" | tee -a "$LOG"
echo "$SECONDS s in all; results and gpu.log in $OUT"
exit "$FAILED"
