//! The feature table: what exists since which release, and until which.
//!
//! Manifests, admission, discovery and controllers ask this table and nothing else, so an
//! image stamped with an older release really lacks what came later.

use crate::release::Release;

/// What a feature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A kind, by its plural name.
    Kind(&'static str),
    /// A field, by its path in a VMI's spec. VMs and replica sets have it in their template.
    VmiSpecField(&'static str),
    /// A subresource, by resource and name.
    Subresource(&'static str, &'static str),
    /// Access rules of a component, by a name that says what they allow.
    Rbac(&'static str),
    /// A run strategy of VMs, by its name.
    RunStrategy(&'static str),
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name in messages.
    pub name: &'static str,
    /// What it is.
    pub what: What,
    /// The first release that has it.
    pub since: Release,
    /// The first release that no longer has it.
    pub until: Option<Release>,
}

impl Feature {
    /// Whether a release has this feature.
    pub fn exists_in(&self, release: &Release) -> bool {
        *release >= self.since && self.until.as_ref().is_none_or(|until| release < until)
    }
}

/// Rules that let virt-controller keep replica sets.
pub const RBAC_CONTROLLER_REPLICASETS: &str = "virt-controller/replicasets";
/// Rules that let editors pause, unpause and reboot.
pub const RBAC_EDIT_PAUSE: &str = "edit/pause";
/// Rules with which virt-controller of v0.17 patched nodes; virt-handler does that itself since.
pub const RBAC_CONTROLLER_PATCH_NODES: &str = "virt-controller/patch-nodes";
/// Rules with which virt-handler of v0.17 listed every ConfigMap; it reads two by name since.
pub const RBAC_HANDLER_LIST_CONFIGMAPS: &str = "virt-handler/list-configmaps";

/// The table.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: "VirtualMachineInstanceReplicaSet",
        what: What::Kind("virtualmachineinstancereplicasets"),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: "evictionStrategy",
        what: What::VmiSpecField("evictionStrategy"),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: "startStrategy",
        what: What::VmiSpecField("startStrategy"),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: "pause",
        what: What::Subresource("virtualmachineinstances", "pause"),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: "unpause",
        what: What::Subresource("virtualmachineinstances", "unpause"),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: "softreboot",
        what: What::Subresource("virtualmachineinstances", "softreboot"),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: "port-forward to an instance",
        what: What::Subresource("virtualmachineinstances", "portforward"),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: "port-forward to a virtual machine",
        what: What::Subresource("virtualmachines", "portforward"),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: "runStrategy Once",
        what: What::RunStrategy("Once"),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: RBAC_CONTROLLER_REPLICASETS,
        what: What::Rbac(RBAC_CONTROLLER_REPLICASETS),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: RBAC_EDIT_PAUSE,
        what: What::Rbac(RBAC_EDIT_PAUSE),
        since: Release::V0_18_0,
        until: None,
    },
    Feature {
        name: RBAC_CONTROLLER_PATCH_NODES,
        what: What::Rbac(RBAC_CONTROLLER_PATCH_NODES),
        since: Release::V0_17_0,
        until: Some(Release::V0_18_0),
    },
    Feature {
        name: RBAC_HANDLER_LIST_CONFIGMAPS,
        what: What::Rbac(RBAC_HANDLER_LIST_CONFIGMAPS),
        since: Release::V0_17_0,
        until: Some(Release::V0_18_0),
    },
];

/// The row of a feature; none for what has been there always.
pub fn find(what: What) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.what == what)
}

/// Whether a release has something. What the table doesn't name exists in every release.
pub fn exists(what: What, release: &Release) -> bool {
    find(what).is_none_or(|feature| feature.exists_in(release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_release_lacks_what_came_later_and_a_new_one_what_went() {
        let kind = What::Kind("virtualmachineinstancereplicasets");
        assert!(!exists(kind, &Release::V0_17_0));
        assert!(exists(kind, &Release::V0_18_0));
        assert!(exists(What::Rbac(RBAC_CONTROLLER_PATCH_NODES), &Release::V0_17_0));
        assert!(!exists(What::Rbac(RBAC_CONTROLLER_PATCH_NODES), &Release::V0_18_0));
        assert!(exists(What::Kind("virtualmachines"), &Release::V0_17_0));
    }

    #[test]
    fn rows_are_unique() {
        for (i, feature) in FEATURES.iter().enumerate() {
            assert!(FEATURES[..i].iter().all(|earlier| earlier.what != feature.what), "{}", feature.name);
        }
    }
}
