//! The wall clock as FastDFS uses it: whole seconds.

/// Unix seconds, read from the clock that the kernel stamps files with, so that a file's time and its name agree.
pub fn now() -> i64 {
    // SAFETY: `ts` is plain data for which all-zero is valid; the call writes only to it and cannot fail for this clock.
    unsafe {
        let mut ts: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut ts);
        ts.tv_sec
    }
}

/// A time as records and names have it.
pub fn seconds(time: i64) -> u32 {
    time.clamp(0, i64::from(u32::MAX)) as u32
}

/// A moment in local time, for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Year, month, day.
    pub date: (i32, i32, i32),
    /// Hour, minute, second.
    pub time: (i32, i32, i32),
}

impl Local {
    /// Seconds since midnight.
    pub fn second_of_day(&self) -> u32 {
        let (h, m, s) = self.time;
        (h * 3600 + m * 60 + s).unsigned_abs()
    }
}

/// Unix seconds as local time.
pub fn local(secs: i64) -> Local {
    // SAFETY: `tm` is plain data for which all-zero is valid; `localtime_r` writes only to it.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&secs, &mut tm);
        tm
    };
    Local { date: (tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday), time: (tm.tm_hour, tm.tm_min, tm.tm_sec) }
}
