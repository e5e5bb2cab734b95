//! How long certificates are valid and when they are renewed: what may be asked for, and what is made of the rest.
//!
//! Admission refuses what lies outside of these limits, and what was stored before it did is brought inside here: nothing
//! else in this crate sees a duration that isn't safe.

use jiff::SignedDuration;
use kubevirt_types::kubevirt::CertConfig;

use crate::duration;

/// How long a CA is valid where the spec doesn't say.
pub const CA_DURATION: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How long a leaf is valid where the spec doesn't say.
pub const LEAF_DURATION: SignedDuration = SignedDuration::from_hours(24);

/// The least time between a certificate's renewal and its end, and between two renewals of it.
///
/// A renewed CA signs only when it has spread (`Policy::ca_spread`, 150 s). Then the first leaf of it has to come to its
/// pod: the kubelet looks at Secrets every 60 to 90 s, and the pod looks at its files every 10 s ([`DELIVERY`]). The rest
/// is for the operator, who looks every 10 s. Were a CA renewed later, pods would serve with leaves of a CA that has
/// expired; were it renewed more often, a CA would be replaced before it has spread, and none would ever sign.
pub const MIN_MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// How long a Secret takes to be in use in every pod that mounts it.
#[cfg(test)]
pub const DELIVERY: SignedDuration = SignedDuration::from_secs(100);
/// The shortest validity: one margin to the first renewal, and one from there to the end.
pub const MIN_DURATION: SignedDuration = SignedDuration::from_mins(10);
/// The longest validity: a hundred years. A certificate can't end after the year 9999, so with much more its end would
/// always be near, and it would be renewed for ever.
pub const MAX_DURATION: SignedDuration = SignedDuration::from_hours(100 * 365 * 24);

/// How long a certificate is valid, and how long before its end it is renewed: whole seconds, within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub duration: SignedDuration,
    pub renew_before: SignedDuration,
}

impl Validity {
    /// From the spec; 20 % before the end where it doesn't say when. What was stored before it was refused, or without
    /// our webhook, becomes the nearest that is safe.
    pub fn of(config: Option<&CertConfig>, default: SignedDuration) -> Self {
        let given = |text: Option<&String>| text.and_then(|text| duration::parse(text));
        let duration = given(config.and_then(|c| c.duration.as_ref())).unwrap_or(default);
        let duration = whole(duration).clamp(MIN_DURATION, MAX_DURATION);
        let renew_before = given(config.and_then(|c| c.renew_before.as_ref())).unwrap_or(duration / 5);
        let renew_before = whole(renew_before).clamp(MIN_MARGIN, duration - MIN_MARGIN);
        Self { duration, renew_before }
    }
}

/// Without the part of a second: Secrets say whole seconds, so another duration would never be the one that is stored.
fn whole(duration: SignedDuration) -> SignedDuration {
    SignedDuration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn a_margin_is_enough_for_a_new_ca_and_the_first_leaf_of_it() {
        let looks = SignedDuration::from_secs(3 * 10);
        assert!(Policy::default().ca_spread + DELIVERY + looks <= MIN_MARGIN);
        assert!(MIN_MARGIN * 2 <= MIN_DURATION);
    }

    #[test]
    fn what_is_stored_becomes_the_nearest_that_is_safe() {
        let table = [
            // as it is
            ((None, None), "24h0m0s", "4h48m0s"),
            ((Some("150h0m0s"), None), "150h0m0s", "30h0m0s"),
            ((Some("22h0m0s"), None), "22h0m0s", "4h24m0s"),
            ((Some("2h"), Some("5m")), "2h0m0s", "5m0s"),
            ((Some("2h"), Some("1h55m")), "2h0m0s", "1h55m0s"),
            ((Some("10m"), Some("5m")), "10m0s", "5m0s"),
            ((Some("876000h"), None), "876000h0m0s", "175200h0m0s"),
            // a fifth is less than a margin
            ((Some("12m"), None), "12m0s", "5m0s"),
            // never fresh
            ((Some("2h"), Some("2h")), "2h0m0s", "1h55m0s"),
            ((Some("2h"), Some("3h")), "2h0m0s", "1h55m0s"),
            ((Some("90m500ms"), None), "1h30m0s", "18m0s"),
            ((Some("9223372036854775807ms"), None), "876000h0m0s", "175200h0m0s"),
            // too late, too short, too often
            ((Some("2h"), Some("1s")), "2h0m0s", "5m0s"),
            ((Some("2h"), Some("1h59m")), "2h0m0s", "1h55m0s"),
            ((Some("500ms"), Some("1ms")), "10m0s", "5m0s"),
            // unreadable
            ((Some("1 day"), Some("soon")), "24h0m0s", "4h48m0s"),
        ];
        for ((duration, renew_before), want, want_before) in table {
            let config = CertConfig {
                duration: duration.map(str::to_owned),
                renew_before: renew_before.map(str::to_owned),
            };
            let validity = Validity::of(Some(&config), LEAF_DURATION);
            let got = (duration::format(validity.duration), duration::format(validity.renew_before));
            assert_eq!(got, (want.to_owned(), want_before.to_owned()), "{config:?}");
        }
    }
}
