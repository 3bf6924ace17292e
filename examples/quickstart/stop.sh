#!/usr/bin/env bash
# Ends what start.sh started:  ./stop.sh [DIR] [MOUNTPOINT]
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-/var/lib/fdfs-quickstart} point=${2:-/mnt/fdfs}
bin=$here/../../target/release

mountpoint -q "$point" && umount "$point"
"$bin/fdfs_storaged" "$dir/storage.conf" stop
"$bin/fdfs_trackerd" "$dir/tracker.conf" stop
