//! A wall clock that a test can step, for one process.
//!
//! Namespaces share the machine's wall clock. A process that is started with this library in `LD_PRELOAD` has its own: the
//! machine's, and as many seconds more as the file named in [`FILE`] says, eight bytes of this machine's order, at any
//! time. Only the wall clock is changed; the kernel goes on to stamp files with its own.

use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

/// The environment variable with the path of the file.
const FILE: &CStr = c"FDFS_TEST_CLOCK";

/// `clock_gettime(2)`, in place of the C library's.
///
/// # Safety
/// As for the original: `time` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    // SAFETY: the arguments are the caller's; the kernel checks them.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if result == 0
        && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE)
        // SAFETY: the kernel has just written to it.
        && let Some(time) = unsafe { time.as_mut() }
    {
        time.tv_sec += offset();
    }
    result as c_int
}

fn offset() -> i64 {
    static OFFSET: OnceLock<Option<&AtomicI64>> = OnceLock::new();
    OFFSET.get_or_init(map).map_or(0, |offset| offset.load(Ordering::Relaxed))
}

/// Maps the file, for as long as the process lives. Nothing in here may ask for the time.
fn map() -> Option<&'static AtomicI64> {
    // SAFETY: the name is a C string; what is returned is one too, and read before anybody changes the environment. The
    // mapping is checked, aligned to a page, as long as the value, and never ended.
    unsafe {
        let path = libc::getenv(FILE.as_ptr());
        if path.is_null() {
            return None;
        }
        let file = libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let map = libc::mmap(ptr::null_mut(), size_of::<i64>(), libc::PROT_READ, libc::MAP_SHARED, file, 0);
        libc::close(file);
        (map != libc::MAP_FAILED).then(|| &*map.cast::<AtomicI64>())
    }
}
