//! The manifests of the operator's own release, made once for each configuration: making them takes as long as
//! the rest of a plan for thousands of nodes.

use std::sync::{Arc, Mutex, PoisonError};

use kubevirt_manifests::{InstallConfig, ManifestSet, manifests};

/// The manifests that were made last.
#[derive(Debug, Default)]
pub struct Made(Mutex<Option<Arc<ManifestSet>>>);

impl Made {
    /// The manifests of a configuration.
    pub fn of(&self, config: &InstallConfig) -> Arc<ManifestSet> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(set) if set.config == *config => Arc::clone(set),
            Some(_) | None => {
                let set = Arc::new(manifests(config));
                *last = Some(Arc::clone(&set));
                set
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_types::Release;

    #[test]
    fn only_another_configuration_is_made_anew() {
        let (made, config) = (Made::default(), InstallConfig::of(Release::V0_18_0));
        let first = made.of(&config);
        assert!(Arc::ptr_eq(&first, &made.of(&config)));
        let other = InstallConfig { registry: "other".into(), ..config };
        let second = made.of(&other);
        assert_eq!(*second, manifests(&other));
        assert!(Arc::ptr_eq(&second, &made.of(&other)));
    }
}
