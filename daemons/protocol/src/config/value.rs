//! Values of config keys: yes and no, sizes, durations, times of day, reserved space.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Reads yes or no in any letter case: `true`, `yes`, `on`, `1`; `false`, `no`, `off`, `0`.
pub fn parse_bool(text: &str) -> Option<bool> {
    let is = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["true", "yes", "on", "1"]) {
        Some(true)
    } else if is(["false", "no", "off", "0"]) {
        Some(false)
    } else {
        None
    }
}

/// Splits `256 KB` into 256 and `KB`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Reads a size in bytes: a number and optionally B, K, KB, M, MB, G, GB, T or TB, powers of 1024,
/// in any letter case.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Reads a duration: a number of seconds, or a number with `ms`, `s`, `m`, `h` or `d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let seconds = match unit {
        "" | "s" => 1,
        "ms" => return Some(Duration::from_millis(number)),
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// A time of day such as `02:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimeOfDay {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
}

impl TimeOfDay {
    /// A time of day, if it exists.
    pub const fn new(hour: u8, minute: u8) -> Option<TimeOfDay> {
        if hour < 24 && minute < 60 { Some(TimeOfDay { hour, minute }) } else { None }
    }

    /// Seconds since midnight.
    pub const fn seconds(self) -> u32 {
        self.hour as u32 * 3600 + self.minute as u32 * 60
    }
}

/// The text is not of the form that the type needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(
    /// What is needed.
    pub &'static str,
);

impl FromStr for TimeOfDay {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let parse = || {
            let (hour, minute) = text.split_once(':')?;
            TimeOfDay::new(hour.trim().parse().ok()?, minute.trim().parse().ok()?)
        };
        parse().ok_or(ValueError("needs a time of day such as 02:00"))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

/// Space that uploads must leave free (`reserved_storage_space`): an amount or a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReservedSpace {
    /// So many MiB.
    Megabytes(u64),
    /// This share of the disk, above 0 and below 1.
    Ratio(f64),
}

impl Default for ReservedSpace {
    /// What FastDFS takes when the key is absent.
    fn default() -> Self {
        ReservedSpace::Megabytes(1024)
    }
}

impl ReservedSpace {
    /// Whether a group or storage with this space may take uploads. Without a known size a share
    /// cannot be computed, and the answer is no.
    pub fn allows(&self, free_mb: u64, total_mb: u64) -> bool {
        match *self {
            ReservedSpace::Megabytes(reserved) => free_mb > reserved,
            ReservedSpace::Ratio(ratio) => total_mb > 0 && free_mb as f64 / total_mb as f64 > ratio,
        }
    }

    /// Whether one store path of `path_count` may take uploads: an amount is shared among them.
    pub fn allows_path(&self, free_mb: u64, total_mb: u64, path_count: u64) -> bool {
        match *self {
            ReservedSpace::Megabytes(reserved) => free_mb > reserved / path_count.max(1),
            ReservedSpace::Ratio(_) => self.allows(free_mb, total_mb),
        }
    }

    /// The MiB to keep free on a disk of this size.
    pub fn megabytes_of(&self, total_mb: u64) -> u64 {
        match *self {
            ReservedSpace::Megabytes(reserved) => reserved,
            ReservedSpace::Ratio(ratio) => (total_mb as f64 * ratio) as u64,
        }
    }
}

impl FromStr for ReservedSpace {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        let parsed = match text.strip_suffix('%') {
            // Looked at as a percentage again: a share that rounds to nothing or to all is none.
            Some(percent) => percent
                .trim_end()
                .parse::<f64>()
                .ok()
                .map(|percent| percent / 100.0)
                .filter(|ratio| *ratio * 100.0 > 0.0 && *ratio * 100.0 < 100.0)
                .map(ReservedSpace::Ratio),
            None => parse_size(text).map(|bytes| ReservedSpace::Megabytes(bytes >> 20)),
        };
        parsed.ok_or(ValueError("needs a size such as 1GB or a share such as 20%"))
    }
}

impl fmt::Display for ReservedSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReservedSpace::Megabytes(megabytes) => write!(f, "{megabytes}MB"),
            // Two digits, as FastDFS writes it, unless they would say nothing or all.
            ReservedSpace::Ratio(ratio) => match ratio * 100.0 {
                percent @ 0.005..99.995 => write!(f, "{percent:.2}%"),
                percent => write!(f, "{percent}%"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn booleans() {
        for text in ["true", "Yes", "ON", "1"] {
            assert_eq!(parse_bool(text), Some(true));
        }
        for text in ["false", "No", "off", "0"] {
            assert_eq!(parse_bool(text), Some(false));
        }
        assert_eq!(parse_bool("perhaps"), None);
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", Some(0)),
            ("100", Some(100)),
            ("10B", Some(10)),
            ("256KB", Some(256 << 10)),
            ("256 kb", Some(256 << 10)),
            ("4M", Some(4 << 20)),
            ("20G", Some(20 << 30)),
            ("1T", Some(1 << 40)),
            ("99999999999T", None),
            ("-1", None),
            ("1.5M", None),
            ("MB", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text), size, "{text}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("30"), Some(Duration::from_secs(30)));
        assert_eq!(parse_duration("5 m"), Some(Duration::from_secs(300)));
        assert_eq!(parse_duration("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_duration("1d"), Some(Duration::from_secs(86400)));
        assert_eq!(parse_duration("15ms"), Some(Duration::from_millis(15)));
        assert_eq!(parse_duration("soon"), None);
        assert_eq!(parse_duration("99999999999999999d"), None);
    }

    #[test]
    fn times_of_day() {
        let time: TimeOfDay = "02:30".parse().unwrap();
        assert_eq!((time.to_string().as_str(), time.seconds()), ("02:30", 9000));
        for text in ["24:00", "12:60", "12", "", "a:b"] {
            assert!(text.parse::<TimeOfDay>().is_err(), "{text}");
        }
    }

    #[test]
    fn reserved_space() {
        let share: ReservedSpace = "20%".parse().unwrap();
        assert_eq!(share.to_string(), "20.00%");
        assert!(share.allows(21, 100) && !share.allows(20, 100) && !share.allows(5, 0));
        assert!(share.allows_path(21, 100, 3));
        assert_eq!(share.megabytes_of(1000), 200);
        let amount: ReservedSpace = "1 GB".parse().unwrap();
        assert_eq!(amount, ReservedSpace::default());
        assert_eq!(amount.to_string(), "1024MB");
        assert!(amount.allows(1025, 0) && !amount.allows(1024, 9999));
        assert!(amount.allows_path(513, 0, 2) && !amount.allows_path(512, 0, 2));
        assert_eq!(amount.megabytes_of(5), 1024);
        for text in ["0%", "100%", "NaN%", "inf%", "-5%", "many"] {
            assert!(text.parse::<ReservedSpace>().is_err(), "{text}");
        }
        for text in ["0.001%", "99.999%"] {
            assert_eq!(text.parse::<ReservedSpace>().unwrap().to_string().parse(), text.parse::<ReservedSpace>());
        }
        assert!("1e-323%".parse::<ReservedSpace>().is_err());
        // The number alone counts bytes.
        assert_eq!("1048576".parse(), Ok(ReservedSpace::Megabytes(1)));
    }

    proptest! {
        #[test]
        fn any_text(text in "\\PC{0,20}") {
            let _ = (parse_bool(&text), parse_size(&text), parse_duration(&text));
            let _ = text.parse::<TimeOfDay>();
            if let Ok(reserved) = text.parse::<ReservedSpace>() {
                prop_assert!(reserved.to_string().parse::<ReservedSpace>().is_ok());
            }
        }

        #[test]
        fn sizes_add_up(number in 0u64..1 << 20, unit in 0usize..5) {
            let text = format!("{number}{}", ["B", "KB", "MB", "GB", "TB"][unit]);
            prop_assert_eq!(parse_size(&text), Some(number << (10 * unit)));
        }
    }
}
