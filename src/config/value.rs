//! Values that several options have in common.

use crate::core::event::Weight;
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

/// A part of the new connections, in percent: `10`, `10%`, `0.25%`.
///
/// # Errors
/// What is wrong with it.
pub fn weight(text: &str) -> Result<Weight, &'static str> {
    let wrong = "not a percentage from 0 to 100 with at most two decimals (write 10% or 0.25%)";
    let number = text.strip_suffix('%').unwrap_or(text);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || whole.len() > 3 || decimals.len() > 2 {
        return Err(wrong);
    }
    let hundredths: u16 = format!("{decimals:0<2}").parse().map_err(|_| wrong)?;
    let whole: u16 = whole.parse().map_err(|_| wrong)?;
    Weight::new(whole * 100 + hundredths).ok_or(wrong)
}

/// A part of the new connections as people read it.
pub fn weight_text(weight: Weight) -> String {
    let (whole, decimals) = (weight.parts() / 100, weight.parts() % 100);
    match (decimals, decimals % 10) {
        (0, _) => format!("{whole} %"),
        (_, 0) => format!("{whole}.{} %", decimals / 10),
        _ => format!("{whole}.{decimals:02} %"),
    }
}

/// How many slots are replaced at a time; None: all.
pub(super) fn surge(text: &str) -> Result<Option<u32>, Error> {
    match text.parse() {
        Ok(slots) if slots > 0 => Ok(Some(slots)),
        _ if text == "all" => Ok(None),
        _ => Err(invalid("--surge", text, "not a number of slots from 1 on, nor 'all'")),
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
    fn a_weight_is_exact() {
        for (text, parts, shown) in [
            ("0", 0, "0 %"),
            ("10%", 1000, "10 %"),
            ("12.5", 1250, "12.5 %"),
            ("0.01%", 1, "0.01 %"),
            ("100.00%", 10_000, "100 %"),
        ] {
            let weight = weight(text).unwrap();
            assert_eq!((weight.parts(), weight_text(weight).as_str()), (parts, shown), "{text}");
        }
        for wrong in ["", "%", "-1", "+1", "100.01", "101%", "1.", ".5", "1.234", "1e1", "10%%", "4294967296"]
        {
            assert!(weight(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_duration_is_cut() {
        for (millis, text) in
            [(0, "0 ms"), (4771, "4771 ms"), (10_000, "10 s"), (12_949, "12.9 s"), (59_960, "60 s")]
        {
            assert_eq!(duration_text(Duration::from_millis(millis)), text);
        }
    }
}
