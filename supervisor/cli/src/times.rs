//! Times as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long something has lasted, in its largest unit: `12 s`, `3 min`, `5 h`, `2 d`.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// For how long it has been since a moment given in milliseconds since the epoch; nothing for a moment nobody gave. A clock that was
/// set back makes it no time at all.
pub(crate) fn since(unix_ms: u64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    age(SystemTime::now().duration_since(moment(unix_ms)).unwrap_or_default())
}

/// A moment, in UTC: `2026-11-20T19:27:37.123Z`.
pub(crate) fn stamp(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(moment(unix_ms)).to_string()
}

/// Now, in milliseconds since the epoch.
pub(crate) fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn moment(unix_ms: u64) -> SystemTime {
    // The formatter knows the years up to 9999; later ones are nonsense.
    UNIX_EPOCH + Duration::from_millis(unix_ms.min(253_402_300_799_000))
}

/// A duration from the command line: `5s`, `250ms`, `2min`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let found = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
        Err(_) => humantime::parse_duration(text).map_err(|_| "write it as `5s`, `250ms` or `2min`".to_owned())?,
    };
    if found.is_zero() { Err("it has to be longer than nothing".into()) } else { Ok(found) }
}

/// A moment from the command line, in milliseconds since the epoch: how long ago it was (`2h`), a day, or a time in UTC.
pub(crate) fn moment_or_ago(text: &str) -> Result<u64, String> {
    let how = "write it as `2h`, `30min`, `2026-11-20` or `2026-11-20T19:27:37Z`, in UTC";
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now_unix_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
    }
    let found =
        humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339_weak(&format!("{text} 00:00:00")));
    let since_epoch = found.map_err(|_| how.to_owned())?.duration_since(UNIX_EPOCH).map_err(|_| how.to_owned())?;
    u64::try_from(since_epoch.as_millis()).map_err(|_| how.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        for (seconds, told) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (200_000, "2 d")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), told);
        }
        assert_eq!(since(0), "");
        assert_eq!(since(u64::MAX), "0 s");
    }

    #[test]
    fn moments_are_told_in_utc() {
        assert_eq!(stamp(1_795_202_857_123), "2026-11-20T19:27:37.123Z");
        assert_eq!(stamp(u64::MAX), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn moments_are_read_as_ages_days_and_times() {
        for (text, unix_ms) in [
            ("2026-11-20T19:27:37.123Z", 1_795_202_857_123),
            ("2026-11-20 19:27:37", 1_795_202_857_000),
            ("2026-11-20", 1_795_132_800_000),
        ] {
            assert_eq!(moment_or_ago(text), Ok(unix_ms), "{text}");
        }
        let before = now_unix_ms();
        let ago = moment_or_ago("2h").unwrap() + 7_200_000;
        assert!((before..=now_unix_ms()).contains(&ago), "{ago}");
        for wrong in ["", "yesterday", "20.11.2026", "2026-13-01", "7", "1960-01-01"] {
            assert!(moment_or_ago(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read_with_and_without_units() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h 30min"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "0", "0s", "-1", "soon", "5 apples", "nan", "inf", "1e300"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
