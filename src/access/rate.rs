//! Rates, as they are written in the configuration.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

/// Maximum number of calls in one period.
const MAX_CALLS: u32 = 1_000_000;

/// A number of calls per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// A number of calls per period, evenly spread.
    PerPeriod {
        /// The calls; 1 to 1,000,000.
        calls: NonZeroU32,
        /// The period: a second, a minute or an hour.
        period: Duration,
    },
    /// No limit.
    Unlimited,
}

impl Rate {
    /// Returns a rate of `calls` calls per second.
    #[must_use]
    pub const fn per_second(calls: NonZeroU32) -> Self {
        Self::PerPeriod { calls, period: Duration::from_secs(1) }
    }

    /// Returns a rate of `calls` calls per minute.
    #[must_use]
    pub const fn per_minute(calls: NonZeroU32) -> Self {
        Self::PerPeriod { calls, period: Duration::from_mins(1) }
    }

    /// Returns whether it allows less than another rate in the long run.
    #[must_use]
    pub fn is_below(self, other: Self) -> bool {
        match (self, other) {
            (Self::Unlimited, _) => false,
            (Self::PerPeriod { .. }, Self::Unlimited) => true,
            (Self::PerPeriod { calls, period }, Self::PerPeriod { calls: others, period: other }) => {
                u128::from(calls.get()) * other.as_nanos() < u128::from(others.get()) * period.as_nanos()
            }
        }
    }
}

/// Reason that a string is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRate {
    /// It has another form.
    #[error("must be a rate such as \"50/s\", \"30/min\" or \"100/h\", or \"unlimited\"")]
    Form,
    /// It is 0 or more than 1,000,000 calls per period.
    #[error("must be 1 to {MAX_CALLS} calls per period")]
    OutOfBounds,
}

impl FromStr for Rate {
    type Err = InvalidRate;

    /// Reads `"50/s"`, `"30/min"`, `"100/h"` or `"unlimited"`, without spaces or a sign.
    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let (calls, unit) = text.split_once('/').ok_or(InvalidRate::Form)?;
        let period = match unit {
            "s" => Duration::from_secs(1),
            "min" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(InvalidRate::Form),
        };
        // Parsing the number accepts a sign, which has no meaning here.
        if calls.is_empty() || !calls.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidRate::Form);
        }
        // Digits that are not a `NonZeroU32` are zero or too many.
        let calls: NonZeroU32 = calls.parse().map_err(|_| InvalidRate::OutOfBounds)?;
        if calls.get() > MAX_CALLS {
            return Err(InvalidRate::OutOfBounds);
        }
        Ok(Self::PerPeriod { calls, period })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerPeriod { calls, period } => match period.as_secs() {
                1 => write!(f, "{calls}/s"),
                60 => write!(f, "{calls}/min"),
                3600 => write!(f, "{calls}/h"),
                seconds => write!(f, "{calls}/{seconds}s"),
            },
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_displayed_as_it_is_written() {
        for text in ["50/s", "30/min", "100/h", "1000000/s", "unlimited"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["", "50", "50/", "/s", "+5/s", " 5/s", "5 /s", "5/day", "-1/h", "Unlimited"] {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate::Form), "{text}");
        }
        for text in ["0/s", "000/min", "1000001/h", "99999999999999999999/s"] {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate::OutOfBounds), "{text}");
        }
    }

    #[test]
    fn rates_are_compared_over_their_periods() {
        let rate = |text: &str| text.parse::<Rate>().unwrap();
        for (less, more) in [("1/min", "1/s"), ("3599/h", "60/min"), ("1000000/s", "unlimited")] {
            assert!(rate(less).is_below(rate(more)) && !rate(more).is_below(rate(less)), "{less} {more}");
        }
        assert!(!rate("60/min").is_below(rate("1/s")) && !rate("1/s").is_below(rate("3600/h")));
        assert!(!rate("unlimited").is_below(rate("unlimited")));
    }
}
