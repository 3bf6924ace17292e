//! Times and sizes as FastDFS tools print them.

use std::mem::MaybeUninit;

/// A unix time as local `YYYY-MM-DD hh:mm:ss`.
pub fn local_time(unix: i64) -> String {
    let Ok(time) = libc::time_t::try_from(unix);
    let mut fields = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are to live variables of the right types; `localtime_r` writes all of `fields` unless it
    // returns null, and keeps no pointer.
    let fields = unsafe {
        if libc::localtime_r(&time, fields.as_mut_ptr()).is_null() {
            return unix.to_string();
        }
        fields.assume_init()
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        i64::from(fields.tm_year) + 1900,
        fields.tm_mon + 1,
        fields.tm_mday,
        fields.tm_hour,
        fields.tm_min,
        fields.tm_sec
    )
}

/// A size given in MiB, with a unit and about three significant characters: `252 GB`, `2.5 GB`, `0  B`.
pub fn megabytes(mb: u64) -> String {
    let (unit, shift) = match mb {
        0 => return "0  B".to_owned(),
        1..0x400 => ("MB", 0),
        0x400..0x10_0000 => ("GB", 10),
        0x10_0000..0x4000_0000 => ("TB", 20),
        _ => ("PB", 30),
    };
    let one = 1u128 << shift;
    let rounded = |parts: u128| (u128::from(mb) * parts + one / 2) >> shift;
    let tenths = rounded(10);
    if tenths < 100 { format!("{}.{} {unit}", tenths / 10, tenths % 10) } else { format!("{} {unit}", rounded(1)) }
}

/// A span of time: `2 seconds`, `1 hour 5 minutes`; parts that are zero are left out.
pub fn seconds(total: i64) -> String {
    let total = u64::try_from(total).unwrap_or(0);
    let parts =
        [("day", total / 86_400), ("hour", total / 3600 % 24), ("minute", total / 60 % 60), ("second", total % 60)];
    let words: Vec<_> = parts
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(unit, n)| format!("{n} {unit}{}", if *n == 1 { "" } else { "s" }))
        .collect();
    if words.is_empty() { "0 second".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (mb, text) in [
            (0, "0  B"),
            (1, "1.0 MB"),
            (3, "3.0 MB"),
            (500, "500 MB"),
            (1023, "1023 MB"),
            (2560, "2.5 GB"),
            (10_189, "10 GB"),
            (10_188, "9.9 GB"),
            (252 * 1024 + 300, "252 GB"),
            (252 * 1024 + 512, "253 GB"),
            (10 * 1024, "10 GB"),
            (5 << 20, "5.0 TB"),
            (3 << 30, "3.0 PB"),
            (u64::MAX, "17179869184 PB"),
        ] {
            assert_eq!(megabytes(mb), text);
        }
    }

    #[test]
    fn spans() {
        assert_eq!(seconds(0), "0 second");
        assert_eq!(seconds(-2), "0 second");
        assert_eq!(seconds(1), "1 second");
        assert_eq!(seconds(62), "1 minute 2 seconds");
        assert_eq!(seconds(7200), "2 hours");
        assert_eq!(seconds(90_061), "1 day 1 hour 1 minute 1 second");
    }

    #[test]
    fn times_have_their_form() {
        let text = local_time(1_795_222_402);
        assert_eq!(text.len(), 19);
        assert!(text.starts_with("2026-11-2"), "{text}");
        assert_eq!(local_time(0).len(), 19);
    }
}
