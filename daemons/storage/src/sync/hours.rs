//! The hours of the day in which changes are pushed (`sync_start_time`, `sync_end_time`). Pure.

use std::time::Duration;

use fdfs_protocol::config::TimeOfDay;

const DAY: u32 = 86_400;

/// A stretch of every day, which may go past midnight; the minute of its end belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    from: u32,
    /// Length in seconds, less than a day.
    length: u32,
}

impl Hours {
    /// From `start` to the end of the minute `end`; `None` when that is the whole day.
    pub fn new(start: TimeOfDay, end: TimeOfDay) -> Option<Hours> {
        let length = (end.seconds() + 60 + DAY - start.seconds()) % DAY;
        (length != 0).then_some(Hours { from: start.seconds(), length })
    }

    /// How long the hours still last at `now`, seconds since midnight; `None` outside them.
    pub fn left(&self, now: u32) -> Option<Duration> {
        let left = self.length.checked_sub(self.since_start(now)).filter(|left| *left > 0)?;
        Some(Duration::from_secs(left.into()))
    }

    /// How long it is until they begin.
    pub fn wait(&self, now: u32) -> Duration {
        Duration::from_secs((DAY - self.since_start(now)).into())
    }

    fn since_start(&self, now: u32) -> u32 {
        (now % DAY + DAY - self.from) % DAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u32 {
        text.parse::<TimeOfDay>().unwrap().seconds()
    }

    fn hours(start: &str, end: &str) -> Option<Hours> {
        Hours::new(start.parse().unwrap(), end.parse().unwrap())
    }

    #[test]
    fn the_whole_day_is_no_restriction() {
        assert_eq!(hours("00:00", "23:59"), None);
        assert_eq!(hours("12:00", "11:59"), None);
        assert!(hours("00:00", "23:58").is_some());
    }

    #[test]
    fn hours_last_and_come_again() {
        let night = hours("22:00", "05:59").unwrap();
        for (now, left) in [("22:00", Some(8 * 3600)), ("23:59", Some(6 * 3600 + 60)), ("05:59", Some(60))] {
            assert_eq!(night.left(at(now)), left.map(Duration::from_secs), "{now}");
        }
        for (now, wait) in [("06:00", 16 * 3600), ("21:59", 60)] {
            assert_eq!((night.left(at(now)), night.wait(at(now))), (None, Duration::from_secs(wait)), "{now}");
        }
        let minute = hours("10:00", "10:00").unwrap();
        assert_eq!((minute.left(at("10:00") + 59).unwrap().as_secs(), minute.left(at("10:01"))), (1, None));
    }

    #[test]
    fn every_second_is_inside_or_waits() {
        for (start, end) in [("00:00", "00:00"), ("23:59", "00:00"), ("08:30", "20:15"), ("20:00", "08:00")] {
            let hours = hours(start, end).unwrap();
            for now in 0..DAY {
                if hours.left(now).is_none() {
                    let begin = (now + hours.wait(now).as_secs() as u32) % DAY;
                    assert_eq!(begin, hours.from);
                }
            }
        }
    }
}
