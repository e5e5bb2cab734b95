//! Whether an instance with this spec would work in this release. What would not is named,
//! with what is allowed instead.
//!
//! Pure. The structure was already checked by the API server against the CRD's schema.

mod boot;
mod cloud_init;
mod compute;
mod image;
mod network;
mod storage;

use kubevirt_types::Release;
use kubevirt_types::vmi::{MAX_GRACE_SECONDS, VirtualMachineInstanceSpec};

use super::field::{Findings, Path};

/// Checks all of a spec that stands at `at`.
pub fn validate(spec: &VirtualMachineInstanceSpec, at: &Path, own: &Release, findings: &mut Findings) {
    let domain = at.field("domain");
    compute::validate(&spec.domain, &domain, findings);
    if let Some(firmware) = &spec.domain.firmware {
        boot::validate(firmware, &domain.field("firmware"), findings);
    }
    storage::validate(spec, at, own, findings);
    network::validate(spec, at, own, findings);
    if let Some(seconds) = spec.termination_grace_period_seconds
        && !(0..=MAX_GRACE_SECONDS).contains(&seconds)
    {
        let at = at.field("terminationGracePeriodSeconds");
        let allowed = format!("must be greater than or equal to 0, and at most {MAX_GRACE_SECONDS}");
        findings.invalid(&at, seconds, allowed);
    }
    if let Some(hostname) = &spec.hostname {
        dns_label(hostname, &at.field("hostname"), findings);
    }
}

/// A name as DNS has it: it becomes a part of device ids, file names and host names.
fn dns_label(name: &str, at: &Path, findings: &mut Findings) {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !fits {
        let why =
            "must be at most 63 lower case letters, digits and '-', and start and end with a letter or digit";
        findings.invalid(at, name, why);
    }
}

/// A text that goes to QEMU inside an option, where a comma or blank would start another one.
fn plain_word(text: &str, at: &Path, findings: &mut Findings) {
    let fits = (1..=64).contains(&text.len())
        && !text.starts_with(['-', '.'])
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    if !fits {
        let why = "must be at most 64 letters, digits, '-', '_' and '.', and start with none of '-' and '.'";
        findings.invalid(at, text, why);
    }
}

/// Names the keys of a list's item that this release doesn't know.
fn refuse_others<'a>(
    keys: impl Iterator<Item = &'a String>,
    at: &Path,
    what: &str,
    (own, allowed): (&Release, &[&str]),
    findings: &mut Findings,
) {
    for key in keys {
        let why = format!("{what} not supported by {own}: allowed are {}", allowed.join(", "));
        findings.forbidden(&at.field(key), why);
    }
}

#[cfg(test)]
mod tests;
