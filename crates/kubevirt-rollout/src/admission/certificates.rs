//! What durations certificates may have. Says what is wrong in the words of the API; the limits are the planner's.

use jiff::SignedDuration;
use kubevirt_types::KubeVirt;
use kubevirt_types::kubevirt::{CertConfig, SelfSigned};

use super::{FieldError, invalid};
use crate::duration;
use crate::stage::certificates::validity::{
    CA_DURATION, LEAF_DURATION, MAX_DURATION, MIN_DURATION, MIN_MARGIN,
};

/// The durations of one certificate, as far as they can be read.
#[derive(Clone, Copy)]
struct Durations {
    duration: SignedDuration,
    renew_before: Option<SignedDuration>,
}

/// What is wrong with the durations of a KubeVirt object's certificates.
pub(super) fn validate(kubevirt: &KubeVirt) -> Vec<FieldError> {
    let strategy = kubevirt.spec.certificate_rotate_strategy.as_ref();
    let Some(SelfSigned { ca, server }) = strategy.and_then(|strategy| strategy.self_signed.as_ref()) else {
        return vec![];
    };
    let mut errors = Vec::new();
    let ca = durations("ca", ca.as_ref(), CA_DURATION, &mut errors);
    let server = durations("server", server.as_ref(), LEAF_DURATION, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    errors.extend(outside_of_limits("CA", "ca", ca));
    errors.extend(outside_of_limits("Cert", "server", server));
    if server.duration > ca.duration {
        errors.push(invalid(
            &rotation("server", "duration"),
            &duration::format(server.duration),
            format!("Certificate duration cannot exceed CA ({})", duration::format(ca.duration)),
        ));
    }
    errors
}

/// The path of a duration.
fn rotation(certificate: &str, field: &str) -> String {
    format!("spec.certificateRotateStrategy.selfSigned.{certificate}.{field}")
}

/// Reads what is given. What can't be stored with a certificate is refused too: it would never be the one that is wanted.
fn durations(
    name: &str,
    config: Option<&CertConfig>,
    default: SignedDuration,
    errors: &mut Vec<FieldError>,
) -> Durations {
    let mut read = |field: &str, text: Option<&String>| {
        let text = text?;
        let parsed = duration::parse(text).filter(|duration| duration.subsec_nanos() == 0);
        if parsed.is_none() {
            errors.push(invalid(
                &rotation(name, field),
                text,
                "expected a duration of hours, minutes and whole seconds, more than zero, such as 24h0m0s",
            ));
        }
        parsed
    };
    Durations {
        duration: read("duration", config.and_then(|config| config.duration.as_ref())).unwrap_or(default),
        renew_before: read("renewBefore", config.and_then(|config| config.renew_before.as_ref())),
    }
}

/// What is too long, too short, or renewed too late or too often. Where nothing says when it is renewed, it is in time.
fn outside_of_limits(label: &str, name: &str, given: Durations) -> Option<FieldError> {
    let show = duration::format;
    let Durations { duration, renew_before } = given;
    if !(MIN_DURATION..=MAX_DURATION).contains(&duration) {
        let detail = format!(
            "expected between {} and {}: a new certificate takes minutes to be in use everywhere",
            show(MIN_DURATION),
            show(MAX_DURATION)
        );
        return Some(invalid(&rotation(name, "duration"), &show(duration), detail));
    }
    let renew_before = renew_before?;
    let most = duration - MIN_MARGIN;
    let detail = if renew_before > duration {
        format!("{label} RenewBefore cannot exceed Duration ({})", show(duration))
    } else if renew_before < MIN_MARGIN || renew_before > most {
        format!(
            "expected between {} and {} ({} less than the duration): a new certificate takes minutes to be in use everywhere",
            show(MIN_MARGIN),
            show(most),
            show(MIN_MARGIN)
        )
    } else {
        return None;
    };
    Some(invalid(&rotation(name, "renewBefore"), &show(renew_before), detail))
}

#[cfg(test)]
mod tests;
