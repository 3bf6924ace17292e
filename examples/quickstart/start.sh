#!/usr/bin/env bash
# Tracker, storage and a mount on this machine:  ./start.sh [DIR] [MOUNTPOINT]
# Stop them with ./stop.sh and the same arguments. Data stays in DIR.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-/var/lib/fdfs-quickstart} point=${2:-/mnt/fdfs}

cargo build --release --manifest-path "$here/../../Cargo.toml" --bins
bin=${CARGO_TARGET_DIR:-$here/../../target}/release

mkdir -p "$dir"/{tracker,storage,client,mount} "$point"
dir=$(cd "$dir" && pwd)
for conf in tracker storage client; do
  sed "s|@DIR@|$dir|" "$here/$conf.conf" > "$dir/$conf.conf"
done

"$bin/fdfs_trackerd" "$dir/tracker.conf" start
"$bin/fdfs_storaged" "$dir/storage.conf" start
"$bin/fdfs-mount" -c "$dir/client.conf" --data-dir "$dir/mount" "$point"
echo "mounted on $point; logs in $dir/{tracker,storage}/logs; client configuration: $dir/client.conf"
