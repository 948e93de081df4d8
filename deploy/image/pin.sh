#!/bin/sh
# Finds out the digest behind each image that deploy/images.env names by tag, or checks that what is pinned is still it.
#
#   deploy/image/pin.sh            asks the registries and writes deploy/images.lock: NAME=image:tag@sha256:...
#   deploy/image/pin.sh --check    exit code 1 where a tag now means another digest than the lock says
#
# Needs Docker with buildx and the way to the registries; changes nothing on either. A lock is reviewed like code: the
# digest in a diff is what will run. `--check` once a week tells that a base has been rebuilt, say for a security fix.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
names=$here/images.env
lock=$here/images.lock

digest_of() {
    docker buildx imagetools inspect "$1" --format '{{.Manifest.Digest}}'
}

# A line of images.env with its digest, or a stop: half a lock must not look like one.
pinned() {
    found=$(digest_of "${1#*=}")
    case $found in
        sha256:????????????????????????????????????????????????????????????????) echo "$1@$found" ;;
        *) echo "pin.sh: no digest for ${1#*=}: $found" >&2; return 1 ;;
    esac
}

fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
while IFS= read -r line; do
    case $line in
        ''|'#'*) ;;
        *) pinned "$line" >>"$fresh" ;;
    esac
done <"$names"

case ${1:-} in
    --check) diff -u "$lock" "$fresh" ;;
    '') cp "$fresh" "$lock" && cat "$lock" ;;
    *) echo "usage: pin.sh [--check]" >&2; exit 2 ;;
esac
