#!/usr/bin/env bash
# Checks Espalier on a machine with a GPU: tests/gpu/check.sh OUT [BIN]
#
# OUT: folder for logs. BIN: folder with the binaries (default: the folder of this script, else
# target/debug and target/debug/examples). Runs every check whose binary is there, goes on after a
# failure, prints one table last and ends within eight minutes. Exit code: 0 all passed, 1 otherwise.
set -uo pipefail

if [ $# -lt 1 ]; then
    echo "usage: $0 OUT [BIN]" >&2
    exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="$1"
mkdir -p "$out" || exit 2
out="$(cd "$out" && pwd)"
bins=("${2:-$here}" "$here/../../target/debug" "$here/../../target/debug/examples")

limit=460 # seconds for everything, inside eight minutes
started=$SECONDS
rows=()
failed=0

# row NAME RESULT NOTE
row() {
    rows+=("$(printf '%-28s %-9s %s' "$1" "$2" "$3")")
    [ "$2" = pass ] || failed=1
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

# check NAME SECONDS BINARY ARGUMENTS...: runs it with a limit of its own, log in OUT/NAME.log
check() {
    local name="$1" seconds="$2" bin log code left took note
    log="$out/${name// /-}.log"
    if ! bin="$(find_bin "$3")"; then
        row "$name" missing "no binary $3 in ${bins[0]}"
        return
    fi
    shift 3
    left=$((limit - (SECONDS - started)))
    if [ "$left" -le 5 ]; then
        row "$name" skipped "out of time"
        return
    fi
    [ "$seconds" -lt "$left" ] || seconds=$left
    took=$SECONDS
    timeout --kill-after=5 "$seconds" "$bin" "$@" >"$log" 2>&1 </dev/null
    code=$?
    took=$((SECONDS - took))
    note="$(tail -n 1 "$log" | cut -c 1-160)"
    case $code in
        0) row "$name" pass "${took} s: $note" ;;
        3) row "$name" "no GPU" "$note" ;;
        124 | 137) row "$name" "time out" "after $seconds s: $note" ;;
        *) row "$name" FAIL "exit code $code: $note" ;;
    esac
}

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
check "nccl 2 ranks" 150 nccl_conformance --ranks 2
check "nccl 4 ranks" 200 nccl_conformance --ranks 4
check "nccl kill 1 of 2" 60 nccl_conformance --ranks 2 --kill

echo
printf '%-28s %-9s %s\n' check result note
printf '%s\n' "${rows[@]}" | tee "$out/table.txt"
echo "logs: $out; $((SECONDS - started)) s"
exit "$failed"
