//! kill -9 of the mount, embedded cluster included: what was closed before is there afterwards.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fdfs_tests::mount::Mount;
use fdfs_tests::need;
use fdfs_tests::tree::Random;

/// Rounds of load and kill; more by `FDFS_CRASH_ROUNDS`.
fn rounds() -> u64 {
    std::env::var("FDFS_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5)
}

/// What a closed file may contain, as seeds and lengths: more than one while a rename over it is not yet durable.
type Closed = Mutex<HashMap<PathBuf, Vec<(u64, usize)>>>;

fn content(seed: u64, len: usize) -> Vec<u8> {
    Random(seed).bytes(len)
}

/// Writes new files, replaces some by rename, removes some, until the mount dies under it.
fn load(dir: &std::path::Path, seed: u64, closed: &Closed, stop: &AtomicBool) {
    let mut random = Random(seed);
    let mut mine: Vec<PathBuf> = Vec::new();
    // Renamed since the last close: made durable by the next one, since the index commits in order.
    let mut renamed: Vec<PathBuf> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let seed = random.next_u64();
        let len = match random.below(20) {
            0 => random.below(4 << 20),
            1 => 0,
            _ => random.below(32 << 10),
        } as usize;
        let path = dir.join(format!("f{seed:016x}"));
        match random.below(10) {
            0 if !mine.is_empty() => {
                // Until the removal is acknowledged the file may be there or not: it is no longer expected.
                let victim = mine.swap_remove(random.below(mine.len() as u64) as usize);
                closed.lock().unwrap().remove(&victim);
                if fs::remove_file(&victim).is_err() {
                    return;
                }
            }
            1 if !mine.is_empty() => {
                // Replaced by rename: afterwards the old or the new content, never a mixture.
                let victim = mine[random.below(mine.len() as u64) as usize].clone();
                let tmp = dir.join("tmp");
                if write_and_close(&tmp, &content(seed, len)).is_err() {
                    return;
                }
                settle(&mut renamed, closed);
                closed.lock().unwrap().entry(victim.clone()).or_default().push((seed, len));
                if fs::rename(&tmp, &victim).is_err() {
                    return;
                }
                renamed.push(victim);
            }
            _ => {
                // fs::write ignores what close reports; a failure of close must not count as closed.
                if write_and_close(&path, &content(seed, len)).is_err() {
                    return;
                }
                settle(&mut renamed, closed);
                closed.lock().unwrap().insert(path.clone(), vec![(seed, len)]);
                mine.push(path);
            }
        }
    }
}

/// What was renamed before a close that has succeeded has only its last content.
fn settle(renamed: &mut Vec<PathBuf>, closed: &Closed) {
    let mut closed = closed.lock().unwrap();
    for path in renamed.drain(..) {
        if let Some(versions) = closed.get_mut(&path) {
            versions.drain(..versions.len() - 1);
        }
    }
}

fn write_and_close(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::fd::IntoRawFd;
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    // SAFETY: the descriptor was just given up by `file` and is closed once.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn everything_closed_before_a_kill_is_there_after_it() {
    if !need::fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (data, point) = (dir.path().join("data"), dir.path().join("mnt"));
    let closed: Closed = Mutex::default();
    let mut random = Random(std::process::id().into());
    eprintln!("seed {}", random.0);
    for round in 0..rounds() {
        let mount = Mount::embedded(&point, &data).unwrap();
        let stop = AtomicBool::new(false);
        let kill_after = Duration::from_millis(50 + random.below(1500));
        std::thread::scope(|s| {
            for worker in 0..3 {
                let dir = mount.path().join(format!("worker{worker}"));
                fs::create_dir_all(&dir).unwrap();
                let (closed, stop, seed) = (&closed, &stop, random.next_u64());
                s.spawn(move || load(&dir, seed, closed, stop));
            }
            // The moment of the kill is the random variable of this test, not a wait for something.
            std::thread::sleep(kill_after);
            mount.kill().unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        check_index(&data);
        let mount = Mount::embedded(&point, &data).unwrap();
        for (path, versions) in closed.lock().unwrap().iter_mut() {
            let found = fs::read(path).unwrap_or_else(|e| panic!("round {round}: {path:?} {versions:?} is lost: {e}"));
            let found = versions.iter().position(|(seed, len)| found == content(*seed, *len));
            let found = found.unwrap_or_else(|| panic!("round {round}: {path:?} is none of {versions:?}"));
            // What this mount has found is committed: it is the only one possible from here on.
            *versions = vec![versions[found]];
        }
        mount.unmount().unwrap();
        check_index(&data);
    }
    eprintln!("{} closed files checked after {} kills", closed.lock().unwrap().len(), rounds());
}

fn check_index(data: &std::path::Path) {
    let report = fdfs_index::fsck(&data.join("index.db"), false).unwrap();
    assert!(report.is_clean(), "{report}");
}
