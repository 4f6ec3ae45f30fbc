#!/usr/bin/env bash
# Builds the stand-in for CUDA: tests/gpu/stand_in/build.sh LIBRARY [CHECK]
#
# LIBRARY: the shared library to write. CHECK: the program that checks it, if wanted. LIBTORCH must
# name libtorch's CPU build of the version that the tests use.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 LIBRARY [CHECK]" >&2
    exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
flags=(-std=c++17 -O1 -Wall -Wextra -Wno-unused-parameter
    -isystem "${LIBTORCH:?names the folder of libtorch}/include"
    -isystem "$LIBTORCH/include/torch/csrc/api/include")
libraries=(-L"$LIBTORCH/lib" -Wl,-rpath-link,"$LIBTORCH/lib" -ltorch_cpu -lc10 -ltorch)

"${CXX:-g++}" "${flags[@]}" -shared -fPIC "$here/stand_in.cpp" -o "$1" "${libraries[@]}"
if [ $# -eq 2 ]; then
    "${CXX:-g++}" "${flags[@]}" "$here/check.cpp" -o "$2" "${libraries[@]}" -ldl
fi
