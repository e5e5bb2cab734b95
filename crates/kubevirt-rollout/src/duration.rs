//! Durations as Go writes them (`24h0m0s`), which is how the KubeVirt object and Secrets carry them.

use jiff::SignedDuration;

/// Reads a Go duration made of hours, minutes, seconds and milliseconds. None when it isn't one, or isn't
/// more than zero.
pub fn parse(text: &str) -> Option<SignedDuration> {
    let mut millis: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let factor = match &rest[..unit_end] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        millis = millis.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[unit_end..];
    }
    (millis > 0).then(|| SignedDuration::from_millis(millis))
}

/// Writes a duration as Go does, down to seconds.
pub fn format(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes_and_refuses_the_rest() {
        let cases = [
            ("24h0m0s", Some(86_400)),
            ("168h", Some(604_800)),
            ("90m", Some(5_400)),
            ("1h30m5s", Some(5_405)),
            ("1s500ms", Some(1)),
            ("2500ms", Some(2)),
            ("", None),
            ("0s", None),
            ("5", None),
            ("h", None),
            ("-1h", None),
            ("1d", None),
            ("99999999999999999999h", None),
            ("9223372036854775807h", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text).map(|d| d.as_secs()), seconds, "{text}");
        }
        for text in ["24h0m0s", "5m0s", "7s", "1h30m5s"] {
            assert_eq!(parse(text).map(format).as_deref(), Some(text));
        }
    }
}
