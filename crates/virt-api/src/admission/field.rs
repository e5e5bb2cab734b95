//! Where in an object something is wrong, and how that is said: Kubernetes' own wording.

use crate::refusal::Cause;

/// Path of a field, such as `spec.template.spec.volumes[1].name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path from the object's root.
    pub fn root(first: &str) -> Self {
        Self(first.to_owned())
    }

    /// A field below.
    pub fn field(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    /// An item below.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// A value of a map below.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

/// What was found wrong in an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<Cause>);

impl Findings {
    fn push(&mut self, at: &Path, reason: &'static str, message: String) {
        self.0.push(Cause { reason, message, field: at.0.clone() });
    }

    /// A field that must be there isn't.
    pub fn required(&mut self, at: &Path, why: &str) {
        self.push(at, "FieldValueRequired", format!("Required value: {why}"));
    }

    /// A value that can't be.
    pub fn invalid(&mut self, at: &Path, value: impl std::fmt::Debug, why: impl AsRef<str>) {
        self.push(at, "FieldValueInvalid", format!("Invalid value: {value:?}: {}", why.as_ref()));
    }

    /// A value that isn't among the allowed ones.
    pub fn unsupported(&mut self, at: &Path, value: &str, allowed: &[&str]) {
        let allowed: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", allowed.join(", "));
        self.push(at, "FieldValueNotSupported", message);
    }

    /// Something that may not be said here.
    pub fn forbidden(&mut self, at: &Path, why: impl AsRef<str>) {
        self.push(at, "FieldValueForbidden", format!("Forbidden: {}", why.as_ref()));
    }

    /// A name that is taken.
    pub fn duplicate(&mut self, at: &Path, value: &str) {
        self.push(at, "FieldValueDuplicate", format!("Duplicate value: {value:?}"));
    }

    /// A name of something that isn't there.
    pub fn not_found(&mut self, at: &Path, value: &str, why: &str) {
        self.push(at, "FieldValueNotFound", format!("Not found: {value:?}: {why}"));
    }

    /// Everything found.
    pub fn into_causes(self) -> Vec<Cause> {
        self.0
    }
}

#[cfg(test)]
impl Findings {
    /// Every finding as people read it.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }
}
