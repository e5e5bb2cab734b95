//! Who may do what: one account and one set of rules for each component, and the roles for people.

use kubevirt_types::feature::{
    RBAC_CONTROLLER_PATCH_NODES, RBAC_CONTROLLER_REPLICASETS, RBAC_EDIT_PAUSE, RBAC_HANDLER_LIST_CONFIGMAPS,
    What, exists,
};
use kubevirt_types::{GROUP, Release};
use serde_json::{Value, json};

use crate::config::InstallConfig;

const RBAC: &str = "rbac.authorization.k8s.io";
const READ: &[&str] = &["get", "list", "watch"];

/// The group of console, vnc, start, stop and so on.
const SUBRESOURCES: &str = "subresources.kubevirt.io";

/// One rule.
pub(crate) fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

/// One rule for objects of these names only.
pub(crate) fn named_rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": verbs})
}

/// What a component may do: in the whole cluster, and in the install namespace.
pub(crate) struct Access {
    /// Name of the service account, and of its roles and bindings.
    pub account: &'static str,
    /// Rules for the whole cluster.
    pub cluster: Vec<Value>,
    /// Rules for the install namespace.
    pub namespace: Vec<Value>,
}

/// Account of virt-api.
pub const ACCOUNT_API: &str = "kubevirt-apiserver";
/// Account of virt-controller.
pub const ACCOUNT_CONTROLLER: &str = "kubevirt-controller";
/// Account of virt-handler.
pub const ACCOUNT_HANDLER: &str = "kubevirt-handler";

/// Names of all roles that any release has: those that virt-operator may write.
pub const ROLE_NAMES: [&str; 7] = [
    ACCOUNT_API,
    ACCOUNT_CONTROLLER,
    ACCOUNT_HANDLER,
    "kubevirt.io:admin",
    "kubevirt.io:edit",
    "kubevirt.io:view",
    "kubevirt.io:default",
];

/// Every RBAC object of a release.
pub fn rbac(config: &InstallConfig) -> Vec<Value> {
    let release = &config.release;
    let mut objects = Vec::new();
    for access in [api(release), controller(release), handler(release)] {
        objects.extend(access.objects(&config.namespace));
    }
    objects.push(json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "RoleBinding",
        "metadata": {"name": "kubevirt-apiserver-auth-reader", "namespace": "kube-system"},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "extension-apiserver-authentication-reader"},
        "subjects": [subject(ACCOUNT_API, &config.namespace)],
    }));
    objects.extend(people(release));
    objects
}

fn subject(account: &str, namespace: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": account, "namespace": namespace})
}

impl Access {
    /// The account, its roles and its bindings.
    pub(crate) fn objects(self, namespace: &str) -> Vec<Value> {
        let api_version = format!("{RBAC}/v1");
        let account = self.account;
        vec![
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": account, "namespace": namespace},
            }),
            json!({
                "apiVersion": api_version, "kind": "ClusterRole",
                "metadata": {"name": account},
                "rules": self.cluster,
            }),
            json!({
                "apiVersion": api_version, "kind": "ClusterRoleBinding",
                "metadata": {"name": account},
                "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": account},
                "subjects": [subject(account, namespace)],
            }),
            json!({
                "apiVersion": api_version, "kind": "Role",
                "metadata": {"name": account, "namespace": namespace},
                "rules": self.namespace,
            }),
            json!({
                "apiVersion": api_version, "kind": "RoleBinding",
                "metadata": {"name": account, "namespace": namespace},
                "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": account},
                "subjects": [subject(account, namespace)],
            }),
        ]
    }
}

/// What every component does in its own namespace: its lease, its version report, its configuration.
fn own_namespace() -> Vec<Value> {
    vec![
        rule(&["coordination.k8s.io"], &["leases"], &["get", "list", "watch", "create", "update", "patch"]),
        rule(&[GROUP], &["kubevirts"], READ),
    ]
}

fn api(release: &Release) -> Access {
    let mut namespace = own_namespace();
    namespace.extend([rule(&[""], &["pods"], READ), rule(&["apps"], &["daemonsets"], READ)]);
    let mut cluster = vec![
        rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        rule(&[GROUP], &["virtualmachines", "virtualmachineinstances"], &["get", "list", "watch", "patch"]),
        rule(&[GROUP], &["virtualmachines/status"], &["patch"]),
        rule(&[GROUP], &["virtualmachineinstancemigrations", "kubevirts"], READ),
        // What `virtctl migrate` asks for.
        rule(&[GROUP], &["virtualmachineinstancemigrations"], &["create"]),
        rule(&[""], &["nodes"], READ),
    ];
    if exists(What::VmiSpecField("evictionStrategy"), release) {
        // Whose launcher is evicted, and the mark that its guest is to be moved.
        cluster.extend([
            rule(&[""], &["pods"], &["get"]),
            rule(&[GROUP], &["virtualmachineinstances/status"], &["patch"]),
        ]);
    }
    Access { account: ACCOUNT_API, cluster, namespace }
}

fn controller(release: &Release) -> Access {
    let mut cluster = vec![
        rule(
            &[GROUP],
            &["virtualmachines", "virtualmachineinstances", "virtualmachineinstancemigrations"],
            &["get", "list", "watch", "create", "update", "patch", "delete"],
        ),
        rule(
            &[GROUP],
            &[
                "virtualmachines/status",
                "virtualmachineinstances/status",
                "virtualmachineinstancemigrations/status",
            ],
            &["get", "update", "patch"],
        ),
        rule(&[GROUP], &["virtualmachines/finalizers", "virtualmachineinstances/finalizers"], &["update"]),
        rule(&[""], &["pods"], &["get", "list", "watch", "create", "patch", "delete"]),
        rule(&[""], &["pods/finalizers"], &["update"]),
        rule(&["", "events.k8s.io"], &["events"], &["create", "patch"]),
        rule(&[""], &["nodes"], READ),
    ];
    if exists(What::Rbac(RBAC_CONTROLLER_PATCH_NODES), release) {
        cluster.push(rule(&[""], &["nodes"], &["patch", "update"]));
    }
    if exists(What::Rbac(RBAC_CONTROLLER_REPLICASETS), release) {
        cluster.extend([
            rule(
                &[GROUP],
                &["virtualmachineinstancereplicasets"],
                &["get", "list", "watch", "update", "patch"],
            ),
            rule(&[GROUP], &["virtualmachineinstancereplicasets/status"], &["get", "update", "patch"]),
            rule(&[GROUP], &["virtualmachineinstancereplicasets/finalizers"], &["update"]),
            rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], READ),
        ]);
    }
    Access { account: ACCOUNT_CONTROLLER, cluster, namespace: own_namespace() }
}

fn handler(release: &Release) -> Access {
    let mut namespace = own_namespace();
    if exists(What::Rbac(RBAC_HANDLER_LIST_CONFIGMAPS), release) {
        namespace.push(rule(&[""], &["configmaps"], READ));
    }
    Access {
        account: ACCOUNT_HANDLER,
        cluster: vec![
            rule(&[GROUP], &["virtualmachineinstances"], READ),
            rule(&[GROUP], &["virtualmachineinstances/status"], &["get", "update", "patch"]),
            rule(&[""], &["nodes"], &["get", "patch"]),
            rule(&[""], &["pods"], READ),
            rule(&["", "events.k8s.io"], &["events"], &["create", "patch"]),
        ],
        namespace,
    }
}

/// The roles that people get, aggregated into Kubernetes' own admin, edit and view.
fn people(release: &Release) -> Vec<Value> {
    let mut kinds = vec!["virtualmachines", "virtualmachineinstances", "virtualmachineinstancemigrations"];
    if exists(What::Kind("virtualmachineinstancereplicasets"), release) {
        kinds.push("virtualmachineinstancereplicasets");
    }
    let mut streams = vec![
        "virtualmachineinstances/console",
        "virtualmachineinstances/vnc",
        "virtualmachineinstances/vnc/screenshot",
    ];
    for (resource, tunnel) in [
        ("virtualmachineinstances", "virtualmachineinstances/portforward"),
        ("virtualmachines", "virtualmachines/portforward"),
    ] {
        if exists(What::Subresource(resource, "portforward"), release) {
            streams.push(tunnel);
        }
    }
    let streams = rule(&[SUBRESOURCES], &streams, &["get"]);
    let mut actions = vec![
        "virtualmachines/start",
        "virtualmachines/stop",
        "virtualmachines/restart",
        "virtualmachines/migrate",
    ];
    if exists(What::Rbac(RBAC_EDIT_PAUSE), release) {
        actions.extend([
            "virtualmachineinstances/pause",
            "virtualmachineinstances/unpause",
            "virtualmachineinstances/softreboot",
        ]);
    }
    let write = ["get", "list", "watch", "create", "update", "patch", "delete"];
    let actions = rule(&[SUBRESOURCES], &actions, &["update"]);
    vec![
        people_role(
            "admin",
            vec![
                rule(&[GROUP], &kinds, &[&write[..], &["deletecollection"]].concat()),
                streams.clone(),
                actions.clone(),
            ],
        ),
        people_role("edit", vec![rule(&[GROUP], &kinds, &write), streams, actions]),
        people_role("view", vec![rule(&[GROUP], &kinds, READ)]),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole",
            "metadata": {"name": "kubevirt.io:default"},
            "rules": [
                rule(&[SUBRESOURCES], &["version", "status"], &["get", "list"]),
                rule(&[GROUP], &["kubevirts"], &["get", "list"]),
            ],
        }),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubevirt.io:default"},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "kubevirt.io:default"},
            "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": "system:authenticated"}],
        }),
    ]
}

fn people_role(role: &str, rules: Vec<Value>) -> Value {
    let aggregate = format!("{RBAC}/aggregate-to-{role}");
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole",
        "metadata": {"name": format!("kubevirt.io:{role}"), "labels": {aggregate: "true"}},
        "rules": rules,
    })
}
