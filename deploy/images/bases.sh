#!/usr/bin/env bash
# Makes docker.io/library/debian:bookworm-slim out of Debian's packages, for buildah on a machine that
# reaches Debian's mirror but no image registry: deploy/images/bases.sh. Needs root, debootstrap and buildah.
set -euo pipefail
release=${1:-bookworm}
image=docker.io/library/debian:$release-slim
for tool in debootstrap buildah; do
    command -v "$tool" >/dev/null || { echo "bases.sh: no $tool here: apt-get install $tool" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "bases.sh: debootstrap needs root" >&2; exit 1; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mirror=$(sed -nE 's/^(deb( \[[^]]*\])?|URIs:) *(https?:[^ ]+).*/\3/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1)
debootstrap --variant=minbase "$release" "$root" "${mirror:-http://deb.debian.org/debian}"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/usr/share/{doc,man,locale}/* "$root"/var/log/*
# What apt inside of an image is to trust is what this machine trusts.
cp -f /etc/apt/sources.list "$root/etc/apt/" 2>/dev/null || true
cp -rf /etc/apt/sources.list.d/. "$root/etc/apt/sources.list.d/" 2>/dev/null || true
cp -rf /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
container=$(buildah --storage-driver vfs from scratch)
buildah --storage-driver vfs add "$container" "$root" / >/dev/null
buildah --storage-driver vfs config --cmd /bin/bash "$container"
buildah --storage-driver vfs commit --rm "$container" "$image"
echo "bases.sh: made $image"
