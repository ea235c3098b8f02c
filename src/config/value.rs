//! Values that several options have in common.

use crate::error::Error;
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
