//! What the components' service accounts may do while an update goes on: asked again and again with SubjectAccessReviews.
//!
//! Which rights change is read from the manifests of both releases, so a new rule is checked without being named here.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use kubevirt_manifests::{InstallConfig, manifests};
use kubevirt_types::Release;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::product::{NAMESPACE, Product, is_of};
use crate::wait;

/// Components and their accounts.
const ACCOUNTS: [(&str, &str); 3] = [
    ("virt-handler", "kubevirt-handler"),
    ("virt-controller", "kubevirt-controller"),
    ("virt-api", "kubevirt-apiserver"),
];
/// Rights that both releases have are asked for by turns, so many a round.
const SAMPLE: usize = 5;
/// Between two rounds.
const PERIOD: Duration = Duration::from_millis(200);

/// One thing that an account may do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    /// None in the whole cluster.
    namespace: Option<String>,
    group: String,
    resource: String,
    verb: String,
    /// None for every object.
    name: Option<String>,
}

/// The rights of an account in one release.
fn rights(release: &Release, account: &str) -> BTreeSet<Right> {
    let config = InstallConfig { registry: crate::cluster::registry(), ..InstallConfig::of(release.clone()) };
    let set = manifests(&config);
    let roles = set.of_kind("ClusterRole").chain(set.of_kind("Role")).filter(|role| role.key.name == account);
    let mut all = BTreeSet::new();
    for role in roles {
        for rule in role.body["rules"].as_array().into_iter().flatten() {
            all.extend(expand(rule, role.key.namespace.as_deref()));
        }
    }
    all
}

/// A rule with lists as single rights.
fn expand(rule: &Value, namespace: Option<&str>) -> Vec<Right> {
    let list = |field: &str| -> Vec<String> {
        let all = rule[field].as_array().into_iter().flatten();
        all.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    let names: Vec<Option<String>> = match list("resourceNames") {
        names if names.is_empty() => vec![None],
        names => names.into_iter().map(Some).collect(),
    };
    let mut all = Vec::new();
    for group in list("apiGroups") {
        for resource in list("resources") {
            for verb in list("verbs") {
                all.extend(names.iter().map(|name| Right {
                    namespace: namespace.map(str::to_owned),
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                    name: name.clone(),
                }));
            }
        }
    }
    all
}

/// The rights of one component in an update.
struct Changing {
    component: &'static str,
    account: &'static str,
    old_only: Vec<Right>,
    new_only: Vec<Right>,
    both: Vec<Right>,
}

fn changing(from: &Release, to: &Release) -> Vec<Changing> {
    let of = |(component, account): (&'static str, &'static str)| {
        let (old, new) = (rights(from, account), rights(to, account));
        Changing {
            component,
            account,
            old_only: old.difference(&new).cloned().collect(),
            new_only: new.difference(&old).cloned().collect(),
            both: old.intersection(&new).cloned().collect(),
        }
    };
    ACCOUNTS.into_iter().map(of).collect()
}

/// What was asked, and what should not have been answered so.
#[derive(Debug, Default)]
pub struct Answers {
    pub asked: usize,
    pub complaints: Vec<String>,
}

/// Asks until it is stopped.
pub struct Prober {
    product: Product,
    from: Release,
    to: Release,
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<Answers>>,
}

impl Prober {
    /// Starts to ask, for an update between two releases.
    pub fn start(product: &Product, from: Release, to: Release) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(ask_on(product.clone(), from.clone(), to.clone(), stopped));
        Self { product: product.clone(), from, to, stop, task }
    }

    /// Ends it after the update: nothing may have been refused while somebody needed it, and what only the old release
    /// had must be gone.
    pub async fn finish(self) -> anyhow::Result<usize> {
        self.stop.send_replace(true);
        let answers = self.task.await??;
        ensure!(answers.complaints.is_empty(), "{}", answers.complaints.join("; "));
        let changing = changing(&self.from, &self.to);
        let old_only: usize = changing.iter().map(|part| part.old_only.len()).sum();
        let new_only: usize = changing.iter().map(|part| part.new_only.len()).sum();
        ensure!(old_only > 0 && new_only > 0, "{old_only} rights go and {new_only} come: nothing was proved");
        wait::until("the old rights to be gone", Duration::from_secs(10), async || {
            let mut wrong = Vec::new();
            for part in &changing {
                for (right, wanted) in
                    part.old_only.iter().map(|r| (r, false)).chain(part.new_only.iter().map(|r| (r, true)))
                {
                    if may(&self.product, part.account, right).await? != wanted {
                        wrong.push(format!("{} {right:?}: not {wanted}", part.account));
                    }
                }
            }
            wait::when(wrong.is_empty(), wrong.join("; "))
        })
        .await?;
        Ok(answers.asked)
    }
}

async fn ask_on(
    product: Product,
    from: Release,
    to: Release,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<Answers> {
    let changing = changing(&from, &to);
    let mut answers = Answers::default();
    let mut round = 0;
    while !*stopped.borrow() {
        for part in &changing {
            let complaints = ask(&product, part, (&from, &to), round, &mut answers.asked).await?;
            answers.complaints.extend(complaints);
        }
        round += 1;
        tokio::time::sleep(PERIOD).await;
    }
    Ok(answers)
}

/// One round for one component. Pods of the new release are looked for before the question and pods of the old one after
/// it, so that each was there when the answer was given.
async fn ask(
    product: &Product,
    part: &Changing,
    (from, to): (&Release, &Release),
    round: usize,
    asked: &mut usize,
) -> anyhow::Result<Vec<String>> {
    let before = product.pods(part.component).await?;
    let is_new = before.iter().find(|pod| is_of(pod, to)).map(ResourceExt::name_any);
    let mut refused_new = Vec::new();
    let mut refused_old = Vec::new();
    let turn = part.both.iter().cycle().skip(round * SAMPLE).take(SAMPLE.min(part.both.len()));
    for right in turn.chain(part.new_only.iter().filter(|_| is_new.is_some())) {
        *asked += 1;
        if !may(product, part.account, right).await? {
            refused_new.push(right);
        }
    }
    for right in &part.old_only {
        *asked += 1;
        if !may(product, part.account, right).await? {
            refused_old.push(right);
        }
    }
    let mut complaints: Vec<String> = refused_new
        .into_iter()
        .map(|right| format!("{} may not {right:?}, with new pod {is_new:?}", part.account))
        .collect();
    if !refused_old.is_empty() {
        let after = product.pods(part.component).await?;
        let lives = |pod: &&k8s_openapi::api::core::v1::Pod| pod.metadata.deletion_timestamp.is_none();
        if let Some(old) = after.iter().filter(lives).find(|pod| is_of(pod, from)) {
            complaints.push(format!("{} may not {refused_old:?}, with {}", part.account, old.name_any()));
        }
    }
    Ok(complaints)
}

async fn may(product: &Product, account: &str, right: &Right) -> anyhow::Result<bool> {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, sub)) => (resource, Some(sub.to_owned())),
        None => (right.resource.as_str(), None),
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{NAMESPACE}:{account}")),
            resource_attributes: Some(ResourceAttributes {
                group: Some(right.group.clone()),
                resource: Some(resource.to_owned()),
                subresource,
                verb: Some(right.verb.clone()),
                namespace: right.namespace.clone(),
                name: right.name.clone(),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(product.cluster.client.clone());
    let answer = api.create(&PostParams::default(), &review).await.context("asking who may do what")?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_releases_have_rights_that_the_other_lacks() {
        let changing = changing(&Release::V0_17_0, &Release::V0_18_0);
        let of = |component: &str| changing.iter().find(|part| part.component == component).unwrap();
        let controller = of("virt-controller");
        let is = |right: &Right, resource: &str, verb: &str| right.resource == resource && right.verb == verb;
        assert!(controller.old_only.iter().any(|right| is(right, "nodes", "patch")));
        assert!(controller.new_only.iter().any(|r| is(r, "virtualmachineinstancereplicasets", "list")));
        assert!(controller.both.iter().any(|right| is(right, "pods", "create")));
        let handler = of("virt-handler");
        let maps = handler.old_only.iter().find(|right| is(right, "configmaps", "list")).unwrap();
        assert_eq!(maps.namespace.as_deref(), Some(NAMESPACE));
    }
}
