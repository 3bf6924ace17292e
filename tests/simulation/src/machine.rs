//! The machine under the simulation: its clocks, its randomness, the times and the room of its disks.
//!
//! The functions of the C library that tell them are defined here a second time, and the linker takes these. So neither
//! daemons nor libraries know: `Instant`, `SystemTime`, `HashMap` and `select!` all end up here. Before [`start`] they do
//! what they always do.
//!
//! Time is that of the simulated host's runtime. A file is stamped with it when it is made or written, since what the
//! kernel stamps is the real time.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::random::Random;

/// The wall clock at the beginning, unix seconds.
const EPOCH: i64 = 1_800_000_000;
/// How long the machine has been up by then, in seconds.
const UP: i64 = 100_000;

static ON: AtomicBool = AtomicBool::new(false);
/// Nanoseconds that the simulation has come to.
static NOW: AtomicU64 = AtomicU64::new(0);
static BEGAN: OnceLock<Instant> = OnceLock::new();

thread_local! {
    static RANDOM: Cell<Random> = const { Cell::new(Random::new(0)) };
    static ASKING: Cell<bool> = const { Cell::new(false) };
    /// By how many seconds the wall clock of the host that runs is wrong.
    static WRONG: Cell<i64> = const { Cell::new(0) };
}

/// From now on this process is the simulation of `seed`. It has one thread.
pub fn start(seed: u64) {
    RANDOM.set(Random::new(seed ^ 0x6d61_6368_696e_6500));
    ON.store(true, Ordering::Relaxed);
    let _ = BEGAN.set(Instant::now());
}

/// Moves the time of the simulation, which counts outside of hosts.
pub fn advance(to: Duration) {
    NOW.store(to.as_nanos() as u64, Ordering::Relaxed);
}

/// Sets by how many seconds the wall clock is wrong from now on.
pub fn set_wall_clock_error(seconds: i64) {
    WRONG.set(seconds);
}

/// Virtual time since the beginning: of the host that runs, or of the simulation.
pub fn now() -> Duration {
    let outside = Duration::from_nanos(NOW.load(Ordering::Relaxed));
    let Some(began) = BEGAN.get() else { return outside };
    // Without a host's runtime tokio asks the clock, which is to say this function.
    if ASKING.replace(true) {
        return outside;
    }
    let now = tokio::time::Instant::now().into_std().duration_since(*began);
    ASKING.set(false);
    now
}

fn on() -> bool {
    ON.load(Ordering::Relaxed)
}

fn wall_clock() -> libc::timespec {
    let now = now();
    libc::timespec { tv_sec: EPOCH + now.as_secs() as i64 + WRONG.get(), tv_nsec: i64::from(now.subsec_nanos()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if !on() {
        // SAFETY: the system call that this function is.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as libc::c_int;
    }
    let told = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => wall_clock(),
        _ => {
            let now = now();
            libc::timespec { tv_sec: UP + now.as_secs() as i64, tv_nsec: i64::from(now.subsec_nanos()) }
        }
    };
    // SAFETY: the caller gives a pointer to a `timespec` of its own.
    unsafe { time.write(told) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buf: *mut libc::c_void, len: libc::size_t, flags: libc::c_uint) -> libc::ssize_t {
    if !on() {
        // SAFETY: the system call that this function is.
        return unsafe { libc::syscall(libc::SYS_getrandom, buf, len, flags) as libc::ssize_t };
    }
    let mut random = RANDOM.get();
    for i in 0..len {
        // SAFETY: the caller gives `len` writable bytes.
        unsafe { buf.cast::<u8>().add(i).write(random.next() as u8) };
    }
    RANDOM.set(random);
    len as libc::ssize_t
}

/// A disk of 100 GiB, half full, whatever the real one is.
#[unsafe(no_mangle)]
unsafe extern "C" fn fstatvfs(_fd: libc::c_int, out: *mut libc::statvfs) -> libc::c_int {
    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 100 * 1024 * 1024 * 1024 / BLOCK;
    // SAFETY: the caller gives a pointer to a `statvfs` of its own; it is plain data for which all-zero is valid.
    unsafe {
        let mut st: libc::statvfs = std::mem::zeroed();
        (st.f_bsize, st.f_frsize) = (BLOCK, BLOCK);
        (st.f_blocks, st.f_bfree, st.f_bavail) = (BLOCKS, BLOCKS / 2, BLOCKS / 2);
        out.write(st);
    }
    0
}

/// Stamps a file with the virtual time.
fn stamp(fd: libc::c_int) {
    if on() && fd > 2 {
        let times = [wall_clock(); 2];
        // SAFETY: the array of two times outlives the call. What cannot be stamped is no file.
        unsafe { libc::syscall(libc::SYS_utimensat, fd, std::ptr::null::<libc::c_char>(), times.as_ptr(), 0) };
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: libc::c_int, buf: *const libc::c_void, len: libc::size_t) -> libc::ssize_t {
    // SAFETY: the system call that this function is.
    let written = unsafe { libc::syscall(libc::SYS_write, fd, buf, len) };
    if written > 0 {
        stamp(fd);
    }
    written as libc::ssize_t
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(
    fd: libc::c_int,
    buf: *const libc::c_void,
    len: libc::size_t,
    offset: libc::off64_t,
) -> libc::ssize_t {
    // SAFETY: the system call that this function is.
    let written = unsafe { libc::syscall(libc::SYS_pwrite64, fd, buf, len, offset) };
    if written > 0 {
        stamp(fd);
    }
    written as libc::ssize_t
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(fd: libc::c_int, len: libc::off64_t) -> libc::c_int {
    // SAFETY: the system call that this function is.
    let result = unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) } as libc::c_int;
    if result == 0 {
        stamp(fd);
    }
    result
}

/// The real one is variadic; the fourth argument is where it would be.
#[unsafe(no_mangle)]
unsafe extern "C" fn openat(
    dir: libc::c_int,
    path: *const libc::c_char,
    flags: libc::c_int,
    mode: libc::mode_t,
) -> libc::c_int {
    // SAFETY: the system call that this function is.
    let fd = unsafe { libc::syscall(libc::SYS_openat, dir, path, flags, mode) } as libc::c_int;
    if fd >= 0 && flags & libc::O_CREAT != 0 {
        stamp(fd);
    }
    fd
}
