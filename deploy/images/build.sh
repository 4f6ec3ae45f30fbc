#!/usr/bin/env bash
# Builds images: deploy/images/build.sh [--tag TAG] [--prebuilt] [TARGET...]
#
# Targets are coordinator, worker, worker-cuda, operator, cli; without: all but worker-cuda. Uses docker,
# podman or buildah, whichever is there first. --prebuilt takes the binaries of target/ and the libtorch of
# .espalier/ ('make build' and 'make setup' bring them) and compiles nothing.
#
# Where no registry can be reached, deploy/images/bases.sh makes the base images out of Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/../.."

tag=local prebuilt= targets=()
while [ $# -gt 0 ]; do
    case $1 in
    --tag) tag=${2:?--tag needs a value}; shift 2 ;;
    --prebuilt) prebuilt=yes; shift ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    coordinator | worker | worker-cuda | operator | cli) targets+=("$1"); shift ;;
    *) echo "build.sh: $1 is no target: coordinator, worker, worker-cuda, operator or cli" >&2; exit 2 ;;
    esac
done
[ ${#targets[@]} -gt 0 ] || targets=(coordinator worker operator cli)

for tool in ${BUILDER:-docker podman buildah}; do
    # A docker client without its engine builds nothing.
    if command -v "$tool" >/dev/null && { [ "$tool" != docker ] || docker info >/dev/null 2>&1; }; then break; fi
    tool=
done
[ -n "$tool" ] || { echo "build.sh: no docker, podman or buildah here: install one, for example 'apt-get install buildah'" >&2; exit 1; }
options=(--file deploy/images/Containerfile)
if [ "$tool" = buildah ]; then
    # No daemon, no user namespaces needed; the date of the commit, so that the same commit gives the same image.
    options=(bud --isolation chroot --storage-driver vfs --layers --timestamp "$(git log -1 --format=%ct)" "${options[@]}")
else
    options=(build "${options[@]}")
fi

context=.
if [ -n "$prebuilt" ]; then
    context=$(mktemp -d)
    trap 'rm -rf "$context"' EXIT
    mkdir -p "$context/out/bin" "$context/out/libtorch" "$context/out/cuda"
    target=${CARGO_TARGET_DIR:-target}
    profile=debug
    [ -x "$target/release/espalier" ] && [ "$target/release/espalier" -nt "$target/debug/espalier" ] && profile=release
    for name in espalier espalier-coordinator espalier-worker espalier-operator; do
        [ -x "$target/$profile/$name" ] || { echo "build.sh: no $target/$profile/$name: run 'make build' first" >&2; exit 1; }
        strip -o "$context/out/bin/$name" "$target/$profile/$name"
    done
    cp -rL "${LIBTORCH:-.espalier/libtorch}/lib" "$context/out/libtorch/lib"
    printf 'FROM scratch\nCOPY out /out\n' >"$context/Containerfile"
    if [ "$tool" = buildah ]; then
        buildah bud --isolation chroot --storage-driver vfs --file "$context/Containerfile" --tag espalier-binaries "$context"
    else
        "$tool" build --file "$context/Containerfile" --tag espalier-binaries "$context"
    fi
    options+=(--build-arg BINARIES=localhost/espalier-binaries)
    [ "$tool" = docker ] && options+=(--build-arg BINARIES=espalier-binaries)
fi

for target in "${targets[@]}"; do
    echo "build.sh: espalier-$target:$tag with $tool" >&2
    "$tool" "${options[@]}" --target "$target" --tag "espalier-$target:$tag" "$context"
done
