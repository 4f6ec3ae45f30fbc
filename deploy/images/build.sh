#!/usr/bin/env bash
# Builds images: deploy/images/build.sh [--tag TAG] [--prebuilt] [TARGET...]
#
# Targets are coordinator, worker, worker-cuda, operator, cli; without: all but worker-cuda. Uses docker,
# podman or buildah, whichever is there first (BUILDER names one). --prebuilt takes the binaries of target/ and
# the libtorch of .espalier/ ('make build' and 'make setup' bring them) and compiles nothing.
#
# Where no registry can be reached, deploy/images/bases.sh makes the base image out of Debian's packages, for
# buildah and --prebuilt. Where buildah's own way of keeping images does not work, for example inside of another
# container, /etc/containers/storage.conf names another: driver = "vfs".
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
[ -n "$tool" ] || { echo "build.sh: no ${BUILDER:-docker, podman or buildah} here: install one, for example 'apt-get install buildah'" >&2; exit 1; }

# One date for everything: then the same files give the same layers, from whatever commit, and only what has
# changed is pulled. The label says which commit it was. No cache of buildah's and podman's: it hands out labels
# of other commits and layers of other dates, and writes its own names into the image.
case $tool in
buildah)
    # Neither a daemon nor user namespaces are needed.
    export BUILDAH_ISOLATION=chroot
    build=(buildah bud --layers=false --force-rm --timestamp 0) ;;
podman) build=(podman build --layers=false --timestamp 0) ;;
docker) build=(docker build --build-arg SOURCE_DATE_EPOCH=0) ;;
*) echo "build.sh: BUILDER=$tool: docker, podman or buildah" >&2; exit 2 ;;
esac
label=org.opencontainers.image
options=(--label "$label.version=$(sed -n '/^\[workspace.package\]/,/^version/s/^version = "\(.*\)"/\1/p' Cargo.toml)"
    --label "$label.revision=$(git describe --always --abbrev=40 --dirty --match '' 2>/dev/null || echo unknown)")

context=.
if [ -n "$prebuilt" ]; then
    context=$(mktemp -d)
    trap 'rm -rf "$context"' EXIT
    mkdir -p "$context/out/bin" "$context/out/libtorch"
    target=${CARGO_TARGET_DIR:-target}
    libtorch=${LIBTORCH:-.espalier/libtorch}
    profile=debug
    [ -x "$target/release/espalier" ] && [ "$target/release/espalier" -nt "$target/debug/espalier" ] && profile=release
    # Only what the targets hold: libtorch alone is large.
    for wanted in "${targets[@]}"; do
        case $wanted in
        coordinator | operator) name=espalier-$wanted ;;
        cli) name=espalier ;;
        worker*)
            name=espalier-worker
            [ -f "$libtorch/lib/libtorch_cpu.so" ] || { echo "build.sh: no $libtorch/lib/libtorch_cpu.so: run 'make setup' first" >&2; exit 1; }
            cp -rL "$libtorch/lib" "$context/out/libtorch/" ;;
        esac
        if [ "$wanted" = worker-cuda ]; then
            [ -d "$libtorch/cuda" ] || { echo "build.sh: no $libtorch/cuda: run 'deploy/setup/setup.py libtorch --cuda yes' first" >&2; exit 1; }
            cp -r "$libtorch/cuda" "$context/out/"
        fi
        [ -x "$target/$profile/$name" ] || { echo "build.sh: no $target/$profile/$name: run 'make build' first" >&2; exit 1; }
        strip -o "$context/out/bin/$name" "$target/$profile/$name"
    done
    printf 'FROM scratch\nCOPY out /out\n' >"$context/Containerfile"
    "${build[@]}" --file "$context/Containerfile" --tag espalier-binaries "$context"
    binaries=localhost/espalier-binaries
    [ "$tool" = docker ] && binaries=espalier-binaries
    options+=(--build-arg "BINARIES=$binaries" --build-arg "CUDA=$binaries")
fi

for target in "${targets[@]}"; do
    echo "build.sh: espalier-$target:$tag with $tool" >&2
    "${build[@]}" "${options[@]}" --file deploy/images/Containerfile --target "$target" --tag "espalier-$target:$tag" "$context"
done
