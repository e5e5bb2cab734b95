//! One look at the cluster with the operator's eyes, and the plan that the operator would make of it. Read-only.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use kube::Client;
use kubevirt_manifests::{InstallConfig, ManifestSet, manifests};
use kubevirt_observe::image::{ImageError, operator};
use kubevirt_observe::kinds::{ADMISSION_POLICY, KUBEVIRT, SECRET, never_labelled};
use kubevirt_observe::listed::ListError;
use kubevirt_observe::strategy::Strategies;
use kubevirt_observe::world::kubevirts;
use kubevirt_observe::{Asked, Listed, ObserveError, Source, ask, world};
use kubevirt_rollout::observed::Operator;
use kubevirt_rollout::{GUARD, Observed, Plan, Policy, Precondition, Step, plan_with};
use kubevirt_types::{KubeVirt, ObjectKey, Release};
use serde_json::Value;

/// A plan shows objects that nobody labelled as ours; one that still does after so many looks is shown as it is.
const LOOKS: usize = 3;
/// The operator's Deployment.
const OPERATOR: &str = "virt-operator";
/// What may not be done is answered so.
const FORBIDDEN: u16 = 403;

/// What was seen, and the plan that follows.
pub(super) struct Look {
    /// The KubeVirt object as it is stored, whatever was planned for.
    pub(super) stored: KubeVirt,
    pub(super) observed: Observed,
    pub(super) plan: Plan,
    pub(super) policy: Policy,
    pub(super) now: Timestamp,
    /// What the plan doesn't know, and why.
    pub(super) notes: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error("there is no KubeVirt object in this cluster")]
    NotInstalled,
    #[error(
        "there is no {OPERATOR} in namespace {namespace}: a KubeVirt object has to be created where it runs"
    )]
    NoOperator { namespace: String },
    #[error("{OPERATOR} in namespace {namespace}")]
    Operator {
        namespace: String,
        #[source]
        source: ImageError,
    },
    #[error(transparent)]
    List(#[from] ListError),
    #[error(transparent)]
    Ask(#[from] ObserveError),
}

/// Looks once. With a tag the plan is made as if `spec.imageTag` were that.
pub(super) async fn look(client: &Client, image_tag: Option<&str>) -> Result<Look, LookError> {
    let namespace = namespace(client).await?;
    let key = ObjectKey::namespaced("apps/v1", "Deployment", &namespace, OPERATOR);
    let (deployment, listed) = futures::join!(ask::get(client, &key), Listed::list(client, &namespace));
    let deployment = deployment?.ok_or_else(|| LookError::NoOperator { namespace: namespace.clone() })?;
    let listed = listed?;
    let mut notes = Vec::new();
    let asked = asked(client, &listed, &namespace, &mut notes).await?;
    let (stored, _) = kubevirts(&listed.of_kind(KUBEVIRT), &namespace);
    let stored = stored.ok_or(LookError::NotInstalled)?;
    let reported = stored.status.as_ref().and_then(|status| status.operator_version.clone());
    let operator = operator(&deployment, reported.as_deref())
        .map_err(|source| LookError::Operator { namespace: namespace.clone(), source })?;
    notes.extend(unlike(&operator, reported.as_deref()));
    if !listed.may_read(SECRET) {
        notes.push(format!(
            "you may not list secrets in namespace {namespace}: certificates are left out of the plan"
        ));
    }
    let policy = Policy::default();
    let mut strategies = Strategies::default();
    let mut found = unlabelled(client, &never_labelled()).await;
    for left in (0..LOOKS).rev() {
        let now = Timestamp::now();
        let seen = world(&listed, &operator, asked.clone(), found.clone(), &mut strategies, now);
        let observed = as_if(seen, image_tag);
        let plan = plan_with(&observed, &policy, now, &|config| made(&observed, config));
        let more = unlabelled(client, &to_be_created(&plan)).await;
        if more.is_empty() || left == 0 {
            return Ok(Look { stored, observed, plan, policy, now, notes });
        }
        found.extend(more);
    }
    unreachable!("the last look is returned")
}

/// Where the oldest KubeVirt object is, and with it the operator.
async fn namespace(client: &Client) -> Result<String, LookError> {
    let all = match ask::kubevirts(client).await {
        // the kind itself isn't there
        Err(error) if error.code() == Some(404) => vec![],
        other => other?,
    };
    let text = |object: &Value, field: &str| object["metadata"][field].as_str().map(str::to_owned);
    let oldest = all.iter().min_by_key(|object| text(object, "creationTimestamp"));
    oldest.and_then(|object| text(object, "namespace")).ok_or(LookError::NotInstalled)
}

/// What lists don't tell. Who may not try a ConfigMap takes a guard that is there for one that is enforced.
async fn asked(
    client: &Client,
    listed: &Listed,
    namespace: &str,
    notes: &mut Vec<String>,
) -> Result<Asked, ObserveError> {
    let (guard, instances) =
        futures::join!(ask::guarded(client, listed, namespace), ask::counted(client, listed, namespace));
    let guard_active = match guard {
        Err(error) if error.code() == Some(FORBIDDEN) => {
            notes.push(format!(
                "you may not create configmaps in namespace {namespace}, not even as a dry run: the guard against new \
                 kinds is taken to be enforced because it exists"
            ));
            listed.of_kind(ADMISSION_POLICY).iter().any(|policy| policy["metadata"]["name"] == GUARD)
        }
        other => other?,
    };
    Ok(Asked { guard_active, instances: instances? })
}

/// Where another release than this one's plans, or will.
fn unlike(operator: &Operator, reported: Option<&str>) -> Vec<String> {
    let own: Option<Release> = concat!("v", env!("CARGO_PKG_VERSION")).parse().ok();
    let writer: Option<Release> = reported.and_then(|reported| reported.parse().ok());
    let mut notes = Vec::new();
    if let Some(writer) = writer.filter(|writer| *writer != operator.release) {
        notes.push(format!("{OPERATOR} {} takes over from {writer}; this is its plan", operator.release));
    }
    if let Some(own) = own.filter(|own| *own < operator.release) {
        let newer = &operator.release;
        notes.push(format!("this virtctl is {own}: {OPERATOR} {newer} is newer and may plan otherwise"));
    }
    notes
}

fn as_if(mut observed: Observed, image_tag: Option<&str>) -> Observed {
    if let (Some(tag), Some(kubevirt)) = (image_tag, observed.kubevirt.as_mut()) {
        kubevirt.spec.image_tag = Some(tag.to_owned());
    }
    observed
}

/// The operator's own manifests: as it has stored them, or as this program would make them.
fn made(observed: &Observed, config: &InstallConfig) -> Arc<ManifestSet> {
    let stored = observed.strategies.get(&config.id());
    stored.map_or_else(|| Arc::new(manifests(config)), |stored| Arc::clone(&stored.set))
}

fn to_be_created(plan: &Plan) -> Vec<ObjectKey> {
    let created = |step: &Step| match step {
        Step::Apply { manifest, precondition: Precondition::Absent } => Some(manifest.key.clone()),
        _ => None,
    };
    plan.steps.iter().filter_map(created).collect()
}

/// Those of these objects that exist: nobody has labelled them as ours, so that no list shows them. What may not be
/// read is taken to be absent, as the plan has it.
async fn unlabelled(client: &Client, keys: &[ObjectKey]) -> BTreeMap<ObjectKey, Value> {
    let asked = join_all(keys.iter().map(|key| ask::get(client, key))).await;
    let found = keys.iter().zip(asked).filter_map(|(key, object)| Some((key.clone(), object.ok()??)));
    found.collect()
}

#[cfg(test)]
mod tests;
