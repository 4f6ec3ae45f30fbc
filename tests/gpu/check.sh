#!/usr/bin/env bash
# Checks Espalier on a machine with a GPU: tests/gpu/check.sh OUT [BIN [PARTS]]
#
# OUT: folder for logs. BIN: folder with the binaries (default: those of bin.tar.xz beside this script, else
# target/debug and target/debug/examples). PARTS: what to run, comma-separated, of train and nccl (default: both).
# Runs every check whose binary is there, goes on after a failure, prints one table last and ends within
# eight minutes. Exit code: 0 all passed, 1 otherwise.
set -uo pipefail

if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
    sed -n '2,/^set/{/^#/s/^# \?//p}' "$0" >&2
    exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="$1"
mkdir -p "$out" || exit 2
out="$(cd "$out" && pwd)"
parts=",${3:-train,nccl},"
bins=("${2:-$here}" "$here/../../target/debug" "$here/../../target/debug/examples")
rm -f "$out/speed.md" "$out/balancers.md" "$out/table.txt"

limit=460 # seconds for everything, inside eight minutes
started=$SECONDS
rows=()
failed=0

# row NAME RESULT NOTE
row() {
    rows+=("$(printf '%-28s %-9s %s' "$1" "$2" "$3")")
    case "$2" in
        pass | measured) ;;
        *) failed=1 ;;
    esac
}

# find_bin NAME: prints its path
find_bin() {
    local dir
    for dir in "${bins[@]}"; do
        if [ -x "$dir/$1" ] && [ ! -d "$dir/$1" ]; then
            echo "$dir/$1"
            return 0
        fi
    done
    return 1
}

# left: seconds until everything must have ended
left() {
    echo $((limit - (SECONDS - started)))
}

# check NAME SECONDS BINARY ARGUMENTS...: runs it with a limit of its own, log in OUT/NAME.log
check() {
    local name="$1" seconds="$2" bin log code took note
    log="$out/${name// /-}.log"
    if ! bin="$(find_bin "$3")"; then
        row "$name" missing "no binary $3 in ${bins[0]}"
        return
    fi
    shift 3
    if [ "$(left)" -le 5 ]; then
        row "$name" skipped "out of time"
        return
    fi
    [ "$seconds" -lt "$(left)" ] || seconds=$(left)
    took=$SECONDS
    timeout --kill-after=5 "$seconds" "$bin" "$@" >"$log" 2>&1 </dev/null
    code=$?
    took=$((SECONDS - took))
    # NCCL says its version last, which is no result.
    note="$(grep -v '^NCCL version' "$log" | tail -n 1 | cut -c 1-160)"
    case $code in
        0) row "$name" pass "${took} s: $note" ;;
        3) row "$name" "no GPU" "$note" ;;
        124 | 137) row "$name" "time out" "after $seconds s: $note" ;;
        *) row "$name" FAIL "exit code $code: $note" ;;
    esac
}

# train SECONDS: runs train.py, which prints one line a check: name, result and note with tabs between
train() {
    local seconds="$1" bin name result note code
    if ! bin="$(find_bin espalier-worker)"; then
        row training missing "no binary espalier-worker in ${bins[0]}"
        return
    fi
    rm -f "$out/train/speed.md" "$out/train/balancers.md"
    # It ends by itself, in order; timeout is for when it does not.
    timeout --kill-after=10 $((seconds + 15)) python3 "$here/train.py" "$out/train" "$(dirname "$bin")" --limit "$seconds" \
        >"$out/train.lines" 2>"$out/train.log" </dev/null
    code=$?
    while IFS=$'\t' read -r name result note; do
        row "$name" "$result" "${note:0:400}"
    done <"$out/train.lines"
    case $code in
        0 | 1 | 3) [ -s "$out/train.lines" ] || row training FAIL "exit code $code: $(tail -n 1 "$out/train.log" | cut -c 1-300)" ;;
        *) row training FAIL "exit code $code: $(tail -n 1 "$out/train.log" | cut -c 1-300)" ;;
    esac
    cp "$out/train/speed.md" "$out/train/balancers.md" "$out" 2>/dev/null
}

# Binaries as carry.py packs them: unpacked into a folder that goes with this script.
if [ -z "${2:-}" ] && [ -f "$here/bin.tar.xz" ]; then
    unpacked="$(mktemp -d)" || exit 2
    trap 'rm -rf "$unpacked"' EXIT
    if python3 -c 'import sys, tarfile
tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$here/bin.tar.xz" "$unpacked"; then
        bins=("$unpacked" "${bins[@]}")
    else
        row unpack FAIL "$here/bin.tar.xz can't be unpacked, see above"
    fi
fi

# The libraries that PyTorch's wheels bring along: CUDA's and NCCL's.
torch=""
if command -v python3 >/dev/null 2>&1; then
    torch="$(python3 -c 'import importlib.util, os
spec = importlib.util.find_spec("torch")
print(os.path.dirname(spec.origin) if spec and spec.origin else "")' 2>/dev/null)"
fi
if [ -n "$torch" ]; then
    path="$torch/lib"
    for lib in "$torch"/../nvidia/*/lib; do
        [ -d "$lib" ] && path="$path:$lib"
    done
    export LD_LIBRARY_PATH="$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"

{
    date -u
    uname -srm
    echo "torch: ${torch:-not found by python3}"
    echo "LD_LIBRARY_PATH: ${LD_LIBRARY_PATH:-}"
    nvidia-smi 2>&1
} >"$out/machine.log"

check "device report" 60 nccl_conformance --report
case "$parts" in *,train,*) train 345 ;; esac
case "$parts" in
    *,nccl,*)
        check "nccl 2 ranks" 150 nccl_conformance --ranks 2
        check "nccl 4 ranks" 200 nccl_conformance --ranks 4
        check "nccl kill 1 of 2" 60 nccl_conformance --ranks 2 --kill
        ;;
esac

for table in "$out/speed.md" "$out/balancers.md"; do
    [ -f "$table" ] && printf '\n' && cat "$table"
done
echo
printf '%-28s %-9s %s\n' check result note
printf '%s\n' "${rows[@]}" | tee "$out/table.txt"
echo "logs: $out; $((SECONDS - started)) s"
exit "$failed"
