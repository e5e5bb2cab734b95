//! What a user applies: the operator itself, the KubeVirt CRD, and a KubeVirt object.

use kubevirt_types::{GROUP, Kind, labels};
use serde_json::{Value, json};

use crate::config::InstallConfig;
use crate::crds::crd;
use crate::rbac::{Access, ROLE_NAMES, named_rule, rule};
use crate::workloads::{
    BESIDE_THE_ROAD, PRIORITY_CLASS, Pod, VIRT_OPERATOR, deployment, disruption_budget, pod_template,
    unprivileged,
};

/// Account of virt-operator.
pub const ACCOUNT_OPERATOR: &str = "kubevirt-operator";

/// The instance that virt-operator asks about while it reports an update. It doesn't exist.
pub const PROBE: &str = "kubevirt-update-probe";

const RBAC: &str = "rbac.authorization.k8s.io";
const WRITE: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// `kubevirt-operator.yaml` of a release, in the order in which it is to be applied.
pub fn operator_objects(config: &InstallConfig) -> Vec<Value> {
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": config.namespace,
                "labels": {labels::APP: "", "pod-security.kubernetes.io/enforce": "privileged"},
            },
        }),
        kubevirt_crd(config),
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": PRIORITY_CLASS},
            "value": 1_000_000_000,
            "globalDefault": false,
            "description": "Components that VMs need to be managed.",
        }),
    ];
    objects.extend(access().objects(&config.namespace));
    objects.push(disruption_budget(config, VIRT_OPERATOR));
    objects.push(operator_deployment(config));
    objects
}

/// `kubevirt-cr.yaml`: an installation whose version is locked to the operator's.
pub fn kubevirt_object(config: &InstallConfig) -> Value {
    json!({
        "apiVersion": kubevirt_types::API_VERSION, "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": config.namespace},
        "spec": {
            "imagePullPolicy": config.image_pull_policy,
            "configuration": {"developerConfiguration": {"useEmulation": true}},
        },
    })
}

fn kubevirt_crd(config: &InstallConfig) -> Value {
    let mut crd = crd(Kind::KubeVirt, &config.release);
    crd["metadata"]["labels"] = json!({"operator.kubevirt.io": ""});
    crd
}

fn operator_deployment(config: &InstallConfig) -> Value {
    let template = pod_template(
        config,
        Pod {
            app: VIRT_OPERATOR,
            cpu: BESIDE_THE_ROAD,
            account: ACCOUNT_OPERATOR,
            args: ["--port", "8443", "--webhook-port", "8444"].map(str::to_owned).to_vec(),
            ports: vec![("https", 8443), ("webhooks", 8444)],
            env: vec![json!({"name": "VIRT_OPERATOR_IMAGE", "value": config.image(VIRT_OPERATOR)})],
            volumes: vec![],
            mounts: vec![],
            security: unprivileged(),
            grace_seconds: 30,
        },
    );
    deployment(config, VIRT_OPERATOR, template)
}

/// What virt-operator may do. It writes roles of a few fixed names without holding their rules
/// (`escalate`, `bind`), see docs/design/0003-operator-rbac.md.
fn access() -> Access {
    Access {
        account: ACCOUNT_OPERATOR,
        cluster: vec![
            rule(&[GROUP], &["kubevirts"], &["get", "list", "watch", "patch", "update"]),
            rule(&[GROUP], &["kubevirts/status", "kubevirts/finalizers"], &["get", "patch", "update"]),
            rule(
                &[GROUP],
                &[
                    "virtualmachines",
                    "virtualmachineinstances",
                    "virtualmachineinstancemigrations",
                    "virtualmachineinstancereplicasets",
                ],
                &["list", "deletecollection"],
            ),
            // stored anew when their stored version changes
            rule(
                &[GROUP],
                &[
                    "virtualmachines/status",
                    "virtualmachineinstances/status",
                    "virtualmachineinstancemigrations/status",
                    "virtualmachineinstancereplicasets/status",
                ],
                &["patch"],
            ),
            rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], WRITE),
            rule(&["apiextensions.k8s.io"], &["customresourcedefinitions/status"], &["patch"]),
            rule(
                &["admissionregistration.k8s.io"],
                &[
                    "validatingwebhookconfigurations",
                    "mutatingwebhookconfigurations",
                    "validatingadmissionpolicies",
                    "validatingadmissionpolicybindings",
                ],
                WRITE,
            ),
            rule(&["apiregistration.k8s.io"], &["apiservices"], WRITE),
            rule(&[RBAC], &["clusterroles", "clusterrolebindings"], &["get", "list", "watch", "create"]),
            named_rule(&[RBAC], &["clusterroles"], &ROLE_NAMES, &["patch", "delete", "escalate", "bind"]),
            named_rule(&[RBAC], &["clusterrolebindings"], &ROLE_NAMES, &["patch", "delete"]),
            rule(&[RBAC], &["roles", "rolebindings"], &["get", "list", "watch", "create"]),
            named_rule(&[RBAC], &["roles"], &ROLE_NAMES, &["patch", "delete", "escalate", "bind"]),
            named_rule(&[RBAC], &["roles"], &["extension-apiserver-authentication-reader"], &["bind"]),
            named_rule(
                &[RBAC],
                &["rolebindings"],
                &[&ROLE_NAMES[..], &["kubevirt-apiserver-auth-reader"]].concat(),
                &["patch", "delete"],
            ),
            rule(&[""], &["nodes"], &["get", "list", "watch", "patch"]),
            rule(&["", "events.k8s.io"], &["events"], &["create", "patch"]),
            rule(&[""], &["serviceaccounts", "services", "configmaps"], &["get", "list", "watch"]),
            rule(
                &["apps"],
                &["deployments", "daemonsets", "replicasets", "controllerrevisions"],
                &["get", "list", "watch"],
            ),
            rule(&["policy"], &["poddisruptionbudgets"], &["get", "list", "watch"]),
            rule(&["coordination.k8s.io"], &["leases"], &["get", "list", "watch"]),
        ],
        namespace: vec![
            rule(&["apps"], &["deployments", "daemonsets"], WRITE),
            rule(&["apps"], &["replicasets", "controllerrevisions"], &["get", "list", "watch"]),
            rule(&["batch"], &["jobs"], WRITE),
            rule(&["policy"], &["poddisruptionbudgets"], WRITE),
            rule(&[""], &["pods"], &["get", "list", "watch"]),
            rule(&[""], &["serviceaccounts", "services", "configmaps", "secrets"], WRITE),
            // what it asks all along an update, see docs/design/0013-update-report.md: dry runs, and what doesn't exist
            rule(&[GROUP], &["virtualmachineinstances"], &["create"]),
            named_rule(
                &["subresources.kubevirt.io"],
                &["virtualmachineinstances/vnc", "virtualmachineinstances/vnc/screenshot"],
                &[PROBE],
                &["get"],
            ),
            rule(
                &["coordination.k8s.io"],
                &["leases"],
                &["get", "list", "watch", "create", "update", "patch"],
            ),
        ],
    }
}
