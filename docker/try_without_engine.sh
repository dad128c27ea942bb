#!/bin/bash
# try_without_engine.sh [FOLDER]      The steps of the Dockerfile without an engine: build the wheel, install it by its
# own pins into an empty environment, and run `tamis doctor` there as another user (if you are root), far from here.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$(mktemp -d)}
python=${PYTHON:-python3.11}
extras=${EXTRAS:-cluster,s3,gcs,azure}
mkdir -p "$work"/{wheels,home,tmp,nowhere}
chmod 755 "$work"
step() { echo "== $*" >&2; }

step "the wheel"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheels" "$here"
wheel=$(ls "$work"/wheels/tamis-*.whl)
"$python" - "$wheel" "$work/constraints.txt" <<'PYTHON'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    [name] = [name for name in wheel.namelist() if name.endswith("/share/tamis/constraints.txt")]
    open(sys.argv[2], "wb").write(wheel.read(name))
PYTHON
cmp "$here/constraints.txt" "$work/constraints.txt"

step "an empty environment with exactly these versions"
"$python" -m venv "$work/venv"
# torch first and by its exact version, so that pip does not choose another build of it
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "$(grep '^torch==' "$work/constraints.txt")"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --constraint "$work/constraints.txt" "${wheel}[$extras]"
"$work/venv/bin/pip" check
"$work/venv/bin/pip" freeze > "$work/installed.txt"
"$python" - "$work/installed.txt" "$work/constraints.txt" <<'PYTHON'
import re, sys
def versions(path):
    pairs = [line.split("==") for line in open(path) if "==" in line]
    return {re.sub("[-_.]+", "-", name).lower(): version.strip().partition("+")[0] for name, version in pairs}
installed, pins = map(versions, sys.argv[1:])
free = {name: version for name, version in installed.items() if pins.get(name) != version}
sys.exit(f"not as pinned: {free}" if free else 0)
PYTHON

as=()
if [[ $(id -u) == 0 ]]; then
    chown -R 10001:10001 "$work/home" "$work/tmp"
    as=(setpriv --reuid 10001 --regid 10001 --clear-groups)
fi
cd "$work/nowhere"
run() {
    "${as[@]}" env -i PATH="$work/venv/bin:/usr/bin:/bin" HOME="$work/home" TMPDIR="$work/tmp" LANG=C.UTF-8 "$@"
}

step "tamis, from there"
run python -c '' || { echo "set PYTHON to an interpreter that other users may run" >&2; exit 1; }
run python -P - "$work/venv" <<'PYTHON'
import sys, tamis.operators, tamis.pipeline
for package in (tamis.operators, tamis.pipeline):
    assert package.__file__.startswith(sys.argv[1]), package.__file__
PYTHON
run tamis --version
run tamis schema > "$work/schema.json"
run ray job submit --help > "$work/job-server.txt"
run tamis doctor
step "done; all of it is in $work"
