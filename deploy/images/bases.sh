#!/usr/bin/env bash
# Makes docker.io/library/debian:bookworm-slim out of Debian's packages, for buildah on a machine that
# reaches Debian's mirror but no image registry: deploy/images/bases.sh [RELEASE]. Needs root, debootstrap
# and buildah. The packages come from the mirror that this machine's apt uses.
set -euo pipefail
release=${1:-bookworm}
image=docker.io/library/debian:$release-slim
for tool in debootstrap buildah; do
    command -v "$tool" >/dev/null || { echo "bases.sh: no $tool here: apt-get install $tool" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "bases.sh: debootstrap needs root" >&2; exit 1; }

sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ ! -f "$file" ] || sources+=("$file")
done
mirror=
[ ${#sources[@]} = 0 ] ||
    mirror=$(sed -nE 's/^(deb( \[[^]]*\])?|URIs:) *(https?:[^ ]*\/debian)\/?( .*)?$/\3/p' "${sources[@]}" | sed -n 1p)
mirror=${mirror:-http://deb.debian.org/debian}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase "$release" "$root" "$mirror"
cat >"$root/etc/apt/sources.list" <<END
deb $mirror $release main
deb $mirror $release-updates main
deb $mirror-security $release-security main
END
# What this machine's apt checks at its mirror holds for apt inside of a build, too.
apt-config dump | grep -E '^Acquire::Check-' >"$root/etc/apt/apt.conf.d/90mirror" || true
# What no program reads, and what differs from one run to the next.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/var/log/* "$root"/tmp/* \
    "$root"/usr/share/{doc,man,locale,info}/*
rm -f "$root"/etc/{passwd,group,shadow,gshadow}- "$root"/etc/{hostname,resolv.conf}
: >"$root/etc/machine-id"
container=$(buildah from scratch)
buildah add --quiet "$container" "$root" /
buildah config --cmd /bin/bash "$container"
buildah commit --quiet --rm "$container" "$image"
echo "bases.sh: made $image, $(du -sm "$root" | cut -f1) MB"
