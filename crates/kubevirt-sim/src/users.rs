//! What people do: they change the KubeVirt object, apply another operator, make and delete objects of our kinds, add
//! nodes and cordon them.

use jiff::SignedDuration;
use kubevirt_manifests::ManifestSet;
use kubevirt_types::kubevirt::{CustomizeComponents, KubeVirtConfiguration, KubeVirtSpec, OnFailure};
use kubevirt_types::{Release, labels};
use serde_json::json;

use crate::cluster::Cluster;
use crate::pods::SimNode;

impl Cluster {
    fn touch(&mut self) {
        self.meddle();
        let version = self.bump();
        if let Some(kubevirt) = &mut self.kubevirt {
            kubevirt.metadata.resource_version = Some(version);
        }
    }

    /// A user changes the KubeVirt object's spec.
    pub fn change_spec(&mut self, change: impl FnOnce(&mut KubeVirtSpec)) {
        self.touch();
        if let Some(kubevirt) = &mut self.kubevirt {
            change(&mut kubevirt.spec);
            *kubevirt.metadata.generation.get_or_insert(0) += 1;
        }
    }

    /// A user sets `spec.imageTag`.
    pub fn set_image_tag(&mut self, tag: Option<&str>) {
        self.change_spec(|spec| spec.image_tag = tag.map(str::to_owned));
    }

    /// A user changes something that touches no pod template.
    pub fn set_log_verbosity(&mut self) {
        self.change_spec(|spec| spec.configuration = Some(KubeVirtConfiguration::default()));
    }

    /// A user sets `spec.imageRegistry`.
    pub fn set_registry(&mut self, registry: &str) {
        self.change_spec(|spec| spec.image_registry = Some(registry.to_owned()));
    }

    /// A user says what is to happen when an update fails.
    pub fn set_on_failure(&mut self, on_failure: OnFailure) {
        self.change_spec(|spec| spec.update_strategy.get_or_insert_default().on_failure = Some(on_failure));
    }

    /// A user says for how long a new pod is watched before the next follows.
    pub fn set_soak(&mut self, seconds: u32) {
        self.change_spec(|spec| spec.update_strategy.get_or_insert_default().soak_seconds = Some(seconds));
    }

    /// A user changes the components' own workloads.
    pub fn customize(&mut self, customize: Option<CustomizeComponents>) {
        self.change_spec(|spec| spec.customize_components = customize);
    }

    /// A user asks for another try (`virtctl update retry`).
    pub fn retry_update(&mut self) {
        self.touch();
        let value = self.now.to_string();
        if let Some(kubevirt) = &mut self.kubevirt {
            let annotations = kubevirt.metadata.annotations.get_or_insert_default();
            annotations.insert(labels::RETRY_UPDATE.to_owned(), value);
        }
    }

    /// A user applies the operator's manifest of another release.
    pub fn set_operator(&mut self, release: Release) {
        self.meddle();
        self.operator.release = release;
    }

    /// A user deletes the KubeVirt object.
    pub fn delete_kubevirt(&mut self) {
        self.touch();
        let now = self.now;
        if let Some(kubevirt) = &mut self.kubevirt {
            kubevirt.metadata.deletion_timestamp =
                serde_json::from_value(json!(now.to_string())).expect("a time is a deletion timestamp");
        }
    }

    /// A user makes an object of one of our kinds. Refused while the guard is enforced and guards it.
    ///
    /// # Errors
    /// The guard's message, or that the kind doesn't exist.
    pub fn create_instance(&mut self, plural: &str, name: &str) -> Result<(), String> {
        let crd = format!("{plural}.kubevirt.io");
        let exists = self.objects.iter().any(|(key, live)| {
            key.kind == "CustomResourceDefinition"
                && key.name == crd
                && live.pointer("/metadata/deletionTimestamp").is_none()
        });
        if !exists {
            return Err(format!("{plural} is not a kind"));
        }
        if let Some(message) = self.guard_refuses(plural) {
            return Err(message);
        }
        self.meddle();
        self.instances.entry(plural.to_owned()).or_default().push((format!("default/{name}"), false));
        Ok(())
    }

    /// A user deletes one.
    pub fn delete_instance(&mut self, plural: &str, name: &str) {
        self.meddle();
        for (other, deleting) in self.instances.entry(plural.to_owned()).or_default() {
            if *other == format!("default/{name}") {
                *deleting = true;
            }
        }
    }

    /// Every object of a kind, by name.
    pub fn instances(&self, plural: &str) -> usize {
        self.instances.get(plural).map_or(0, Vec::len)
    }

    /// A release's images can be pulled from now on.
    pub fn publish_images(&mut self, release: Release) {
        self.meddle();
        self.images.insert(release);
    }

    /// A release's operator image makes these manifests from now on.
    pub fn publish_manifests(&mut self, set: ManifestSet) {
        self.publish_images(set.config.release.clone());
        self.generated.borrow_mut().insert(set.config.id(), std::sync::Arc::new(set));
    }

    /// Deleted pods go on carrying streams for so long.
    pub fn set_drain(&mut self, drain: SignedDuration) {
        self.drain = drain;
    }

    /// Another operator has written something, which an operator must be free to write again.
    pub fn meddled_by_another(&mut self) {
        self.meddle();
    }

    /// A node joins.
    pub fn add_node(&mut self, name: &str) {
        self.meddle();
        self.nodes.push(SimNode::new(name.to_owned()));
    }

    /// Somebody cordons a node, or takes that back: a DaemonSet's pods come all the same.
    pub fn cordon(&mut self, name: &str, cordoned: bool) {
        self.meddle();
        for node in self.nodes.iter_mut().filter(|node| node.name == name) {
            node.cordoned = cordoned;
        }
    }
}
