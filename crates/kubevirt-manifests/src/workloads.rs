//! The Deployments and the DaemonSet of the control plane, their Services and disruption budgets.

use kubevirt_types::labels;
use serde_json::{Value, json};

use crate::config::InstallConfig;
use crate::rbac::{ACCOUNT_API, ACCOUNT_CONTROLLER, ACCOUNT_HANDLER};

/// Name of virt-api's Deployment and Service.
pub const VIRT_API: &str = "virt-api";
/// Name of virt-controller's Deployment.
pub const VIRT_CONTROLLER: &str = "virt-controller";
/// Name of virt-handler's DaemonSet.
pub const VIRT_HANDLER: &str = "virt-handler";
/// Name of the operator's Deployment.
pub const VIRT_OPERATOR: &str = "virt-operator";
/// Name of the Service of the operator's webhooks.
pub const OPERATOR_WEBHOOK: &str = "kubevirt-operator-webhook";

/// The priority class of the control plane.
pub const PRIORITY_CLASS: &str = "kubevirt-cluster-critical";

/// How long a terminating virt-api or virt-handler goes on carrying streams where the KubeVirt object doesn't say: their own
/// default.
const DRAIN_SECONDS: u32 = 3600;
/// What they need besides, before the kubelet kills: 8 s until endpoints have forgotten them, at most 60 s for requests
/// in flight, 5 s to tell clients to come again, and a slow machine.
const DRAIN_MARGIN_SECONDS: i64 = 90;

/// Every workload, Service and disruption budget of a release.
pub fn workloads(config: &InstallConfig) -> Vec<Value> {
    vec![
        service(config, VIRT_API, VIRT_API, 8443),
        service(config, OPERATOR_WEBHOOK, VIRT_OPERATOR, 8444),
        virt_handler(config),
        virt_controller(config),
        disruption_budget(config, VIRT_CONTROLLER),
        virt_api(config),
        disruption_budget(config, VIRT_API),
    ]
}

fn service(config: &InstallConfig, name: &str, app: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": config.namespace, "labels": {labels::APP: app}},
        "spec": {
            "type": "ClusterIP",
            "selector": {labels::APP: app},
            "ports": [{"name": "https", "port": 443, "targetPort": port, "protocol": "TCP"}],
        },
    })
}

/// One replica may be evicted at a time.
pub(crate) fn disruption_budget(config: &InstallConfig, app: &str) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": format!("{app}-pdb"), "namespace": config.namespace, "labels": {labels::APP: app}},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {labels::APP: app}}},
    })
}

/// What differs between the components' pods.
pub(crate) struct Pod<'a> {
    pub app: &'a str,
    pub account: &'a str,
    pub args: Vec<String>,
    pub ports: Vec<(&'a str, u16)>,
    pub env: Vec<Value>,
    pub volumes: Vec<Value>,
    pub mounts: Vec<Value>,
    pub security: Value,
    pub grace_seconds: i64,
    /// Its share of a busy node's processors against the guests there, which ask for 100m for each of theirs.
    pub cpu: &'a str,
}

/// For those through which requests and streams go: as much as a guest, or a few guests that boot let everybody wait for seconds.
const IN_THE_ROAD: &str = "100m";
/// For those that work by themselves.
pub(crate) const BESIDE_THE_ROAD: &str = "50m";

/// A variable from the pod's own fields.
fn field_env(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

/// What a container without any privilege has.
pub fn unprivileged() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "runAsUser": 1001,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// The pod template of a component.
pub(crate) fn pod_template(config: &InstallConfig, pod: Pod<'_>) -> Value {
    let mut env = vec![
        field_env("POD_NAME", "metadata.name"),
        field_env("POD_NAMESPACE", "metadata.namespace"),
        field_env("POD_UID", "metadata.uid"),
        field_env("POD_IP", "status.podIP"),
        field_env("NODE_NAME", "spec.nodeName"),
    ];
    env.extend(pod.env);
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(|(name, port)| json!({"name": name, "containerPort": port, "protocol": "TCP"}))
        .collect();
    let probe = |path: &str, period: i64, failures: i64| {
        json!({
            "httpGet": {"path": path, "port": 8443, "scheme": "HTTPS"},
            "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures,
        })
    };
    json!({
        "metadata": {
            "labels": {
                labels::APP: pod.app,
                labels::REPORT_VERSION: config.release.to_string(),
            },
        },
        "spec": {
            "serviceAccountName": pod.account,
            "priorityClassName": PRIORITY_CLASS,
            "terminationGracePeriodSeconds": pod.grace_seconds,
            "containers": [{
                "name": pod.app,
                "image": config.image(pod.app),
                "imagePullPolicy": config.image_pull_policy,
                "args": pod.args,
                "env": env,
                "ports": ports,
                "volumeMounts": pod.mounts,
                "readinessProbe": probe("/readyz", 2, 3),
                "livenessProbe": probe("/healthz", 15, 6),
                "resources": {"requests": {"cpu": pod.cpu, "memory": "48Mi"}},
                "securityContext": pod.security,
            }],
            "volumes": pod.volumes,
            "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
        },
    })
}

/// A Deployment of two replicas on different nodes of which neither stops before its successor serves.
///
/// That each template's replicas are on different nodes is a condition, and only each template's: with a preference both
/// successors can come to one node, where the cluster has but two, and the ReplicaSet's rule to end the pod that shares its
/// node first would then leave nobody on the other. A node that takes no pods (cordoned, lost) doesn't count, so one node
/// alone has both.
pub(crate) fn deployment(config: &InstallConfig, app: &str, mut template: Value) -> Value {
    let selector = json!({"matchLabels": {labels::APP: app}});
    template["spec"]["affinity"] = json!({
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector},
        }]},
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 1,
            "preference": {"matchExpressions": [
                {"key": "node-role.kubernetes.io/control-plane", "operator": "DoesNotExist"},
            ]},
        }]},
    });
    template["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": "Honor",
        "labelSelector": selector,
        "matchLabelKeys": ["pod-template-hash"],
    }]);
    if let Some(tolerations) = template["spec"]["tolerations"].as_array_mut() {
        tolerations.push(json!({
            "key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule",
        }));
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": app, "namespace": config.namespace, "labels": {labels::APP: app}},
        "spec": {
            "replicas": 2,
            "selector": selector,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": template,
        },
    })
}

/// The grace of a pod that carries streams: the process ends them and itself before it is over.
fn drain_grace(config: &InstallConfig) -> i64 {
    i64::from(config.drain_seconds.unwrap_or(DRAIN_SECONDS)) + DRAIN_MARGIN_SECONDS
}

/// The arguments of a component that carries streams.
fn drain_args(config: &InstallConfig, args: &[&str]) -> Vec<String> {
    let limit = config.drain_seconds.map(|seconds| ["--drain-seconds".to_owned(), seconds.to_string()]);
    args.iter().map(|arg| (*arg).to_owned()).chain(limit.into_iter().flatten()).collect()
}

fn secret_volume(name: &str, secret: &str) -> Value {
    json!({"name": name, "secret": {"secretName": secret}})
}

fn host_path(name: &str, path: &str, kind: &str) -> Value {
    json!({"name": name, "hostPath": {"path": path, "type": kind}})
}

fn mount(name: &str, path: &str, read_only: bool) -> Value {
    if read_only {
        json!({"name": name, "mountPath": path, "readOnly": true})
    } else {
        json!({"name": name, "mountPath": path})
    }
}

fn ca_volume() -> Value {
    json!({"name": "kubevirt-ca", "configMap": {"name": labels::CONFIGMAP_CA}})
}

fn virt_api(config: &InstallConfig) -> Value {
    let template = pod_template(
        config,
        Pod {
            app: VIRT_API,
            cpu: IN_THE_ROAD,
            account: ACCOUNT_API,
            args: drain_args(config, &["--port", "8443"]),
            ports: vec![("https", 8443)],
            env: vec![],
            volumes: vec![
                secret_volume("certificates", labels::SECRET_API_CERT),
                secret_volume("handler-client", labels::SECRET_HANDLER_CLIENT_CERT),
                ca_volume(),
            ],
            mounts: vec![
                mount("certificates", "/etc/virt-api/certificates", true),
                mount("handler-client", "/etc/virt-handler/clientcertificates", true),
                mount("kubevirt-ca", "/etc/kubevirt/ca", true),
            ],
            security: unprivileged(),
            grace_seconds: drain_grace(config),
        },
    );
    deployment(config, VIRT_API, template)
}

fn virt_controller(config: &InstallConfig) -> Value {
    let template = pod_template(
        config,
        Pod {
            app: VIRT_CONTROLLER,
            cpu: BESIDE_THE_ROAD,
            account: ACCOUNT_CONTROLLER,
            args: vec![
                "--port".into(),
                "8443".into(),
                "--launcher-image".into(),
                config.image("virt-launcher"),
            ],
            ports: vec![("https", 8443)],
            env: vec![],
            volumes: vec![secret_volume("certificates", labels::SECRET_CONTROLLER_CERT)],
            mounts: vec![mount("certificates", "/etc/virt-controller/certificates", true)],
            security: unprivileged(),
            grace_seconds: 30,
        },
    );
    deployment(config, VIRT_CONTROLLER, template)
}

/// Surges: the successor on a node is ready before its predecessor is stopped. Runs as root, because it
/// opens the sockets of launchers, which belong to another user; has no other capability.
fn virt_handler(config: &InstallConfig) -> Value {
    let template = pod_template(
        config,
        Pod {
            app: VIRT_HANDLER,
            cpu: IN_THE_ROAD,
            account: ACCOUNT_HANDLER,
            args: drain_args(config, &["--port", "8443", "--console-server-port", "8186"]),
            ports: vec![("https", 8443), ("console", labels::HANDLER_CONSOLE_PORT)],
            env: vec![],
            volumes: vec![
                secret_volume("certificates", labels::SECRET_HANDLER_SERVER_CERT),
                ca_volume(),
                host_path("kubelet-pods", "/var/lib/kubelet/pods", "Directory"),
                host_path("device-plugins", "/var/lib/kubelet/device-plugins", "DirectoryOrCreate"),
                host_path("kubevirt-run", "/var/run/kubevirt", "DirectoryOrCreate"),
                host_path("host-dev", "/dev", "Directory"),
            ],
            mounts: vec![
                mount("certificates", "/etc/virt-handler/servercertificates", true),
                mount("kubevirt-ca", "/etc/kubevirt/ca", true),
                json!({"name": "kubelet-pods", "mountPath": "/pods", "mountPropagation": "HostToContainer"}),
                mount("device-plugins", "/var/lib/kubelet/device-plugins", false),
                mount("kubevirt-run", "/var/run/kubevirt", false),
                mount("host-dev", "/host-dev", false),
            ],
            security: json!({
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]},
                "readOnlyRootFilesystem": true,
                "runAsUser": 0,
                "seccompProfile": {"type": "RuntimeDefault"},
            }),
            grace_seconds: drain_grace(config),
        },
    );
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {
            "name": VIRT_HANDLER, "namespace": config.namespace, "labels": {labels::APP: VIRT_HANDLER},
        },
        "spec": {
            "selector": {"matchLabels": {labels::APP: VIRT_HANDLER}},
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": template,
        },
    })
}
