#!/usr/bin/env bash
# Public conformance suites on a mounted tree, as root:  tests/conformance/run.sh [OPERATIONS]
#
# - pjdfstest: every case that ext4 passes must pass, except those named in expected-failures.txt with their cause.
# - fsx: OPERATIONS (default 100000) random reads, writes, truncates, mappings and copies, checked byte by byte.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
operations=${1:-100000}

cargo build --quiet --release --manifest-path "$root/Cargo.toml" --bin fdfs-mount
cargo install --quiet --root "$target/conformance" pjdfstest@0.2.2 fsx@0.3.2

work=$(mktemp -d)
chmod 755 "$work"
mkdir "$work/mnt"
finish() {
  mountpoint -q "$work/mnt" && umount "$work/mnt"
  # The mount process may still be letting go of its files.
  rm -rf "$work" 2>/dev/null || { sync; rm -rf "$work"; }
}
trap finish EXIT
"$target/release/fdfs-mount" --data-dir "$work/data" --allow-other "$work/mnt"

echo "== pjdfstest"
mkdir "$work/mnt/pjd"
chmod 755 "$work/mnt" "$work/mnt/pjd"
"$target/conformance/bin/pjdfstest" -c "$here/pjdfstest.toml" -p "$work/mnt/pjd" > "$work/pjd.log" 2>&1 || true
grep '^Summary' "$work/pjd.log"
awk '$NF == "FAILED" { print $1 }' "$work/pjd.log" | sort > "$work/failed"
awk '!/^#/ { print $1 }' "$here/expected-failures.txt" | sort > "$work/expected"
if unexpected=$(comm -23 "$work/failed" "$work/expected") && [ -n "$unexpected" ]; then
  echo "failed, and not expected to:"
  echo "$unexpected"
  exit 1
fi

echo "== fsx, $operations operations"
mkdir "$work/mnt/fsx" "$work/artifacts"
"$target/conformance/bin/fsx" -q -N "$operations" -S 1 -P "$work/artifacts" "$work/mnt/fsx/file"
echo "clean"
