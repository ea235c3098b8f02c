//! Values that several options have in common.

use crate::error::Error;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Longer durations are mistakes, and would overflow the clock.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

pub(super) fn invalid(option: &str, value: &str, why: &str) -> Error {
    Error::Usage(format!("invalid value '{value}' for '{option}': {why}"))
}

/// A length of time; a bare 0 needs no unit.
pub(super) fn duration(option: &str, text: &str) -> Result<Duration, Error> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err(invalid(option, text, "longer than ten years")),
        Err(error) => {
            let why = format!("{} (write 500ms, 30s, 5m or 1h30m)", error.to_string().to_lowercase());
            Err(invalid(option, text, &why))
        }
    }
}

/// A length of time of which 0 means for ever.
///
/// # Errors
/// [`Error::Usage`], naming the option.
pub fn timeout(option: &str, text: &str) -> Result<Option<Duration>, Error> {
    Ok(Some(duration(option, text)?).filter(|duration| !duration.is_zero()))
}

/// How long something took: milliseconds below ten seconds, above that seconds to one decimal.
pub fn duration_text(duration: Duration) -> String {
    let (millis, tenths) = (duration.as_millis(), (duration.as_millis() + 50) / 100);
    match (millis, tenths % 10) {
        (0..10_000, _) => format!("{millis} ms"),
        (_, 0) => format!("{} s", tenths / 10),
        (_, tenth) => format!("{}.{tenth} s", tenths / 10),
    }
}

/// A variable of `--env`.
pub(super) fn variable(pair: &OsStr) -> Result<(OsString, OsString), Error> {
    let bytes = pair.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=').filter(|&at| at > 0);
    let at = at.ok_or_else(|| invalid("--env", &pair.to_string_lossy(), "not of the form K=V"))?;
    Ok((OsStr::from_bytes(&bytes[..at]).into(), OsStr::from_bytes(&bytes[at + 1..]).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_is_cut() {
        for (millis, text) in
            [(0, "0 ms"), (4771, "4771 ms"), (10_000, "10 s"), (12_949, "12.9 s"), (59_960, "60 s")]
        {
            assert_eq!(duration_text(Duration::from_millis(millis)), text);
        }
    }
}
