//! Every label, annotation, finalizer and well-known name, once.
//!
//! The strings are KubeVirt's own where KubeVirt has one.

/// The namespace that the operator's manifests install into.
pub const DEFAULT_NAMESPACE: &str = "kubevirt";

/// Label: which component a pod belongs to (`virt-api`, `virt-launcher`, ...).
pub const APP: &str = "kubevirt.io";
/// Label: who manages an object of the control plane.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`] on everything that virt-operator applies.
pub const MANAGED_BY_OPERATOR: &str = "virt-operator";
/// Label: the part of the product.
pub const APP_COMPONENT: &str = "app.kubernetes.io/component";

/// Annotation: the release whose manifest this object was made from.
pub const INSTALL_VERSION: &str = "kubevirt.io/install-strategy-version";
/// Annotation: the registry of that release's images.
pub const INSTALL_REGISTRY: &str = "kubevirt.io/install-strategy-registry";
/// Annotation: the deployment id of a stored install strategy.
pub const INSTALL_IDENTIFIER: &str = "kubevirt.io/install-strategy-identifier";
/// Label: marks ConfigMaps and Jobs of an install strategy.
pub const INSTALL_STRATEGY: &str = "kubevirt.io/install-strategy";
/// Annotation: how an install strategy's ConfigMap is encoded (`gzip+base64`).
pub const INSTALL_ENCODING: &str = "kubevirt.io/install-strategy-cm-encoding";
/// Annotation: hash of the manifest that was applied, so that a change is seen without a diff.
pub const MANIFEST_HASH: &str = "kubevirt.io/manifest-hash";
/// Annotation: on pod templates and so on pods: hash of the template that the pod was made from.
pub const TEMPLATE_HASH: &str = "kubevirt.io/template-hash";

/// Label on a node: whether virt-handler there is able to run VMs.
pub const SCHEDULABLE: &str = "kubevirt.io/schedulable";
/// Annotation on a node: RFC 3339 time of the last heartbeat of virt-handler.
pub const HEARTBEAT: &str = "kubevirt.io/heartbeat";
/// Annotation on a node: the pod of the virt-handler that holds the node's lock, written with every heartbeat.
pub const HANDLER_POD: &str = "kubevirt.io/handler-pod";
/// Annotation on virt-handler's DaemonSet: the nodes that couldn't run VMs when it was changed last, with commas.
pub const UNABLE_NODES: &str = "kubevirt.io/unable-nodes";
/// Annotation on the KubeVirt object: a new value asks for another try of a target that has failed.
pub const RETRY_UPDATE: &str = "kubevirt.io/retry-update";
/// Label on ConfigMaps: this is an update's report.
pub const UPDATE_REPORT: &str = "kubevirt.io/update-report";
/// Label on VMIs: the node that runs it. Also the selector of virt-handler's watch.
pub const NODE_NAME: &str = "kubevirt.io/nodeName";
/// Label on VMIs: the node that a migration takes it to. virt-handler watches by it too.
pub const MIGRATION_TARGET_NODE: &str = "kubevirt.io/migrationTargetNodeName";
/// Label on launcher pods that a migration made: its uid.
pub const MIGRATION_UID: &str = "kubevirt.io/migrationJobUID";
/// Annotation on launcher pods that a migration made: its name.
pub const MIGRATION_NAME: &str = "kubevirt.io/migrationJobName";
/// Label on migrations: the name of the VMI.
pub const MIGRATION_VMI: &str = "kubevirt.io/vmi-name";
/// Annotation on migrations that a drain has asked for: the node that is being drained.
pub const EVACUATION_MIGRATION: &str = "kubevirt.io/evacuationMigration";
/// Finalizer of migrations: a migration that is deleted is aborted first.
pub const FINALIZER_MIGRATION: &str = "kubevirt.io/migrationJobFinalize";
/// Label on launcher pods: the uid of their VMI.
pub const CREATED_BY: &str = "kubevirt.io/created-by";
/// Annotation on launcher pods: the name of their VMI.
pub const DOMAIN: &str = "kubevirt.io/domain";
/// Label on launcher pods: the name of the VM.
pub const VM_NAME: &str = "vm.kubevirt.io/name";

/// Label on report leases: the component that reports.
pub const REPORT_COMPONENT: &str = "kubevirt.io/component";
/// Label on report leases: the release it runs.
pub const REPORT_VERSION: &str = "kubevirt.io/version";

/// Finalizer of the KubeVirt object.
pub const FINALIZER_KUBEVIRT: &str = "kubevirt.io/foregroundDeleteKubeVirt";
/// Finalizer that virt-controller keeps on a VMI until no launcher pod is left.
pub const FINALIZER_VMI: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// Finalizer that virt-controller keeps on VMs, and on VMIs owned by one.
pub const FINALIZER_VM: &str = "kubevirt.io/virtualMachineControllerFinalize";

/// The extended resource of `/dev/kvm`.
pub const DEVICE_KVM: &str = "devices.kubevirt.io/kvm";
/// The extended resource of `/dev/net/tun`.
pub const DEVICE_TUN: &str = "devices.kubevirt.io/tun";

/// The websocket subprotocol of console, vnc and port-forward.
pub const PLAIN_SUBPROTOCOL: &str = "plain.kubevirt.io";

/// The user and group that virt-launcher and QEMU run as.
pub const LAUNCHER_UID: i64 = 107;
/// TLS port of virt-handler's console server.
pub const HANDLER_CONSOLE_PORT: u16 = 8186;
/// Common name of the client certificate with which virt-api calls virt-handler.
pub const CN_HANDLER_CLIENT: &str = "kubevirt.io:system:client:virt-handler";
/// Common name of virt-handler's server certificate.
pub const CN_HANDLER_SERVER: &str = "kubevirt.io:system:node:virt-handler";

/// Secret with the CA's certificate and key; only the operator may read it.
pub const SECRET_CA: &str = "kubevirt-ca";
/// ConfigMap with the CA bundle that every component trusts, key [`CA_BUNDLE_KEY`].
pub const CONFIGMAP_CA: &str = "kubevirt-ca";
/// Key of the bundle in [`CONFIGMAP_CA`].
pub const CA_BUNDLE_KEY: &str = "ca-bundle";
/// Server certificate of the operator's webhooks.
pub const SECRET_OPERATOR_CERT: &str = "kubevirt-operator-certs";
/// Server certificate of virt-api.
pub const SECRET_API_CERT: &str = "kubevirt-virt-api-certs";
/// Server certificate of virt-controller's metrics and health.
pub const SECRET_CONTROLLER_CERT: &str = "kubevirt-controller-certs";
/// Client certificate with which virt-api calls virt-handler.
pub const SECRET_HANDLER_CLIENT_CERT: &str = "kubevirt-virt-handler-certs";
/// Server certificate of virt-handler.
pub const SECRET_HANDLER_SERVER_CERT: &str = "kubevirt-virt-handler-server-certs";
