//! Our finalizer on the KubeVirt object, so that its deletion is an uninstall.

use kubevirt_types::labels::FINALIZER_KUBEVIRT;

use crate::context::{Outcome, View};
use crate::step::Step;

pub(crate) fn add(view: View<'_>) -> Outcome {
    let metadata = &view.kubevirt.metadata;
    if metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER_KUBEVIRT) {
        return Outcome::over();
    }
    let step = Step::AddFinalizer {
        finalizer: FINALIZER_KUBEVIRT.to_owned(),
        uid: view.kubevirt.uid().to_owned(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
    };
    Outcome { steps: vec![step], ..Outcome::default() }
}
