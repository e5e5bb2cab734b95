//! What cloud-init is told. What it says is never repeated: it may hold passwords.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubevirt_types::vmi::{CLOUD_INIT_INLINE_LIMIT, CloudInitNoCloudSource, LocalObjectReference};

use crate::admission::field::{Findings, Path};

/// The forms in which one document may be given.
struct Forms<'a> {
    what: &'static str,
    inline: (&'static str, Option<&'a String>),
    base64: (&'static str, Option<&'a String>),
    secret: (&'static str, Option<&'a LocalObjectReference>),
}

/// Checks a source that stands at `at`.
pub fn validate(source: &CloudInitNoCloudSource, at: &Path, findings: &mut Findings) {
    let user = Forms {
        what: "user data",
        inline: ("userData", source.user_data.as_ref()),
        base64: ("userDataBase64", source.user_data_base64.as_ref()),
        secret: ("secretRef", source.secret_ref.as_ref()),
    };
    if user.check(at, findings) == 0 {
        findings.required(at, "user data: one of userData, userDataBase64, secretRef");
    }
    let network = Forms {
        what: "network data",
        inline: ("networkData", source.network_data.as_ref()),
        base64: ("networkDataBase64", source.network_data_base64.as_ref()),
        secret: ("networkDataSecretRef", source.network_data_secret_ref.as_ref()),
    };
    network.check(at, findings);
}

impl Forms<'_> {
    /// Checks each form, and that there is one at most. How many there are.
    fn check(&self, at: &Path, findings: &mut Findings) -> usize {
        let (inline, base64, secret) = (self.inline.1, self.base64.1, self.secret.1);
        let forms = [
            (self.inline.0, inline.is_some()),
            (self.base64.0, base64.is_some()),
            (self.secret.0, secret.is_some()),
        ];
        let given: Vec<&str> = forms.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
        for second in given.iter().skip(1) {
            let why = format!("{} is given already, as {}", self.what, given[0]);
            findings.forbidden(&at.field(second), why);
        }
        if let Some(text) = inline {
            self.fits(text.len(), &at.field(self.inline.0), findings);
        }
        if let Some(text) = base64 {
            let at = at.field(self.base64.0);
            // Wrapped lines are what `base64` writes, and what KubeVirt takes.
            match STANDARD.decode(text.replace(['\r', '\n'], "")) {
                Ok(bytes) => self.fits(bytes.len(), &at, findings),
                Err(_) => findings.invalid(&at, format_args!("(not shown)"), "is not base64"),
            }
        }
        if secret.is_some_and(|secret| secret.name.is_empty()) {
            findings.required(&at.field(self.secret.0).field("name"), "the name of a Secret");
        }
        given.len()
    }

    fn fits(&self, length: usize, at: &Path, findings: &mut Findings) {
        if length > CLOUD_INIT_INLINE_LIMIT {
            let why = format!(
                "{} exceeds {CLOUD_INIT_INLINE_LIMIT} byte limit: put it into a Secret and name that as {}",
                self.what, self.secret.0
            );
            findings.invalid(at, format_args!("{length} bytes"), why);
        }
    }
}
