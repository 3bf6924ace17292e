#!/usr/bin/env bash
# Ends what start.sh started:  ./stop.sh [DIR] [MOUNTPOINT]
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-/var/lib/fdfs-quickstart} point=${2:-/mnt/fdfs}
bin=${CARGO_TARGET_DIR:-$here/../../target}/release

# Without its cluster a mount is of no use: while it is busy, nothing is stopped.
! mountpoint -q "$point" || umount "$point" || exit
"$bin/fdfs_storaged" "$dir/storage.conf" stop
"$bin/fdfs_trackerd" "$dir/tracker.conf" stop
