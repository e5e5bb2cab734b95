//! A new version whose pods are no good: found in bounded time, named, and followed by what the spec asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use kubevirt_types::KubeVirt;
use kubevirt_types::condition::{ConditionStatus, is_true};
use kubevirt_types::kubevirt::{KubeVirtStatus, OnFailure};
use serde_json::{Value, json};

use super::Row;
use super::world::{Measure, Measured, NEW, OLD, World};
use crate::cluster::registry;
use crate::coverage::{Seen, first_bad, least, tried_on, uncovered};
use crate::event::{self, Said};
use crate::product::how_it_stands;
use crate::virtctl;
use crate::wait::{self, Look};

/// The longest that anything here may take: three minutes for a pod that never gets ready, after the components that
/// come before it have rolled, and the way back.
const LIMIT: Duration = Duration::from_secs(600);
/// For how long a paused update is watched staying paused: ten rounds of the operator.
const PAUSED: Duration = Duration::from_secs(20);
/// How much later than the policy's deadline a failure may be found: a container's start, a round of the operator, and
/// a loaded machine.
const SLACK: i64 = 30;

/// What is wrong with the new version.
enum Wrong {
    /// A registry of scripts/images.sh whose image of the component is bad.
    Registry(&'static str),
    /// Its settings, by a strategic patch of the component.
    Settings(fn() -> Value),
}

/// A bad version.
pub struct BadVersion {
    component: &'static str,
    wrong: Wrong,
    /// Words that the cause must say.
    words: &'static [&'static str],
    /// Within how many seconds after its first pod was made it must have been found to fail.
    found: i64,
    /// Whether what shows late is looked for: the soak is the default then.
    late: bool,
    pause: bool,
}

/// What most have in common: virt-handler, from a registry, found when it has crashed often enough.
const BASE: BadVersion = BadVersion {
    component: "virt-handler",
    wrong: Wrong::Registry(""),
    words: &[],
    found: 35,
    late: false,
    pause: false,
};

pub const HANDLER_CRASH: BadVersion = BadVersion {
    wrong: Wrong::Registry("handler-crash"),
    words: &["virt-handler", "crashes", "exit code 1"],
    ..BASE
};
pub const HANDLER_CRASH_PAUSE: BadVersion = BadVersion { pause: true, ..HANDLER_CRASH };
pub const HANDLER_IMAGE_MISSING: BadVersion = BadVersion {
    wrong: Wrong::Registry("handler-missing"),
    words: &["ErrImagePull", "handler-missing/virt-handler:v0.18.0"],
    found: 60,
    ..BASE
};
pub const HANDLER_INIT_CRASH: BadVersion = BadVersion {
    wrong: Wrong::Settings(init_that_crashes),
    words: &["container faulty-init crashes", "exit code 2"],
    ..BASE
};
pub const HANDLER_PENDING: BadVersion = BadVersion {
    wrong: Wrong::Settings(more_memory_than_there_is),
    words: &["virt-handler", "Insufficient memory"],
    found: 180,
    ..BASE
};
pub const HANDLER_NEVER_READY: BadVersion = BadVersion {
    wrong: Wrong::Registry("handler-never-ready"),
    words: &["virt-handler", "not Ready for more than"],
    found: 180,
    ..BASE
};
/// It stands by for the soak, then 70 s are its own.
pub const HANDLER_IDLE: BadVersion = BadVersion {
    wrong: Wrong::Registry("handler-idle"),
    words: &["virt-handler", "Ready, but it doesn't take charge of its node"],
    found: 40 + 70,
    late: true,
    ..BASE
};
pub const HANDLER_LATE_CRASH: BadVersion = BadVersion {
    wrong: Wrong::Registry("handler-late-crash"),
    words: &["virt-handler", "crashes", "exit code 1"],
    found: 60,
    late: true,
    ..BASE
};
pub const CONTROLLER_CRASH: BadVersion = BadVersion {
    component: "virt-controller",
    wrong: Wrong::Registry("controller-crash"),
    words: &["virt-controller", "crashes", "exit code 1"],
    ..BASE
};
pub const CONTROLLER_IMAGE_MISSING: BadVersion = BadVersion {
    component: "virt-controller",
    wrong: Wrong::Registry("controller-missing"),
    words: &["ErrImagePull", "controller-missing/virt-controller:v0.18.0"],
    found: 60,
    ..BASE
};
pub const CONTROLLER_LATE_CRASH: BadVersion = BadVersion {
    component: "virt-controller",
    wrong: Wrong::Registry("controller-late-crash"),
    words: &["virt-controller", "crashes", "exit code 1"],
    found: 60,
    late: true,
    ..BASE
};
pub const API_CRASH: BadVersion = BadVersion {
    component: "virt-api",
    wrong: Wrong::Registry("api-crash"),
    words: &["virt-api", "crashes", "exit code 1"],
    ..BASE
};
pub const API_IMAGE_MISSING: BadVersion = BadVersion {
    component: "virt-api",
    wrong: Wrong::Registry("api-missing"),
    words: &["ErrImagePull", "api-missing/virt-api:v0.18.0"],
    found: 60,
    ..BASE
};
pub const API_NEVER_READY: BadVersion = BadVersion {
    component: "virt-api",
    wrong: Wrong::Registry("api-never-ready"),
    words: &["virt-api", "not Ready for more than"],
    found: 180,
    ..BASE
};

/// An init container of the good image with a flag that it doesn't know.
fn init_that_crashes() -> Value {
    json!({"spec": {"template": {"spec": {"initContainers": [{
        "name": "faulty-init",
        "image": format!("{}/virt-handler:{NEW}", registry()),
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/bin/virt-handler", "--no-such-flag"],
    }]}}}})
}

/// A request that no node can meet.
fn more_memory_than_there_is() -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{
        "name": "virt-handler", "resources": {"requests": {"memory": "10Ti"}},
    }]}}}})
}

impl BadVersion {
    /// The patch that starts the update.
    fn spec(&self) -> Value {
        let mut spec = match &self.wrong {
            Wrong::Registry(name) => {
                json!({"imageTag": NEW.to_string(), "imageRegistry": format!("{}-fault-{name}", registry())})
            }
            Wrong::Settings(patch) => {
                json!({"imageTag": NEW.to_string(), "customizeComponents": {"patches": [{
                    "resourceType": "DaemonSet", "resourceName": self.component, "type": "strategic",
                    "patch": patch().to_string(),
                }]}})
            }
        };
        if self.late {
            spec["updateStrategy"]["soakSeconds"] = Value::Null;
        }
        if self.pause {
            spec["updateStrategy"]["onFailure"] = json!("Pause");
        }
        spec
    }

    fn says(&self, text: &str) -> bool {
        self.words.iter().all(|word| text.contains(word))
    }

    /// What the spec asks for when the new version fails.
    fn action(&self) -> OnFailure {
        if self.pause { OnFailure::Pause } else { OnFailure::Rollback }
    }
}

/// What became known, in seconds since the patch.
#[derive(Debug, Default)]
struct Known {
    condition: Option<f64>,
    event: Option<f64>,
    /// `virtctl update explain` in a line.
    explained: Option<String>,
    /// When the operator found that it fails.
    failed_at: Option<Timestamp>,
    /// All is as it was, or paused for good.
    back: Option<f64>,
}

/// Updates to it, and back.
pub async fn run(world: &World, version: &BadVersion) -> anyhow::Result<Row> {
    world.bring_back().await?;
    let templates = world.templates().await?;
    let measure = world.measure().await?;
    let (known, followed) = match world.product.patch_spec(version.spec()).await {
        Ok(()) => follow(world, version, &templates, &measure).await,
        Err(error) => (Known::default(), Err(error)),
    };
    let restored = restore(world, &templates).await;
    let measured = measure.finish(world).await?;
    let mut row = judge(world, version, &templates, &known, measured);
    row.complaints.extend(followed.and(restored).err().map(|error| format!("{error:#}")));
    Ok(row)
}

async fn follow(
    world: &World,
    version: &BadVersion,
    templates: &BTreeMap<String, BTreeSet<String>>,
    measure: &Measure,
) -> (Known, anyhow::Result<()>) {
    let mut known = Known::default();
    let client = &world.cluster.client;
    let followed = wait::until("the failure to be found, named and followed", LIMIT, async || {
        let object = world.product.object().await?.context("there is no KubeVirt object")?;
        let warnings = event::warnings(client, measure.at).await?;
        if learn(version, &object, &warnings, measure.seconds(), &mut known) {
            let said = virtctl::explain().await?;
            known.explained = said.lines().find(|line| version.says(line)).map(str::to_owned);
        }
        let differs = world.differs(templates).await?;
        let missing = unlike(version, &object, differs.as_deref());
        let said = known.condition.is_some() && known.event.is_some() && known.explained.is_some();
        Ok(match missing {
            None if said => {
                known.back = Some(measure.seconds());
                Look::Done(())
            }
            Some(missing) => Look::NotYet(format!("{missing}; {}", how_it_stands(&object))),
            None => Look::NotYet(format!("not said everywhere: {known:?}")),
        })
    })
    .await;
    let paused = followed.is_ok() && version.pause;
    let followed =
        if paused { stays_paused_until_retried(world, version, templates, &known).await } else { followed };
    (known, followed)
}

async fn stays_paused_until_retried(
    world: &World,
    version: &BadVersion,
    old: &BTreeMap<String, BTreeSet<String>>,
    known: &Known,
) -> anyhow::Result<()> {
    stays_paused(world, version, old).await?;
    virtctl::retry().await?;
    wait::until("another try to fail too", LIMIT, async || {
        let object = world.product.object().await?.context("there is no KubeVirt object")?;
        let failed = object.status.as_ref().and_then(|status| status.failed_update.as_ref());
        let again =
            failed.is_some_and(|failed| Some(failed.at) > known.failed_at && version.says(&failed.cause));
        wait::when(again, how_it_stands(&object))
    })
    .await
}

/// Notes what is new. Returns whether the cause is named and nobody has asked virtctl yet.
fn learn(version: &BadVersion, object: &KubeVirt, warnings: &[Said], now: f64, known: &mut Known) -> bool {
    let status = object.status.clone().unwrap_or_default();
    let named = degraded(&status).is_some_and(|message| version.says(&message));
    let warned = warnings.iter().any(|said| version.says(&said.note));
    known.condition = known.condition.or(named.then_some(now));
    known.event = known.event.or(warned.then_some(now));
    let failed = status.failed_update.as_ref().filter(|failed| version.says(&failed.cause));
    known.failed_at = known.failed_at.or(failed.map(|failed| failed.at));
    known.condition.is_some() && known.explained.is_none()
}

fn degraded(status: &KubeVirtStatus) -> Option<String> {
    let degraded = status.conditions.iter().find(|condition| condition.type_ == "Degraded")?;
    (degraded.status == ConditionStatus::True).then(|| degraded.message.clone())?
}

/// What is not yet as it must be once a failure has been dealt with.
fn unlike(version: &BadVersion, object: &KubeVirt, differs: Option<&str>) -> Option<String> {
    let status = &object.status.clone().unwrap_or_default();
    let Some(failed) = status.failed_update.as_ref().filter(|failed| version.says(&failed.cause)) else {
        return Some(format!("no failed update: {:?}", status.failed_update));
    };
    let reason = |type_: &str| {
        let found = status.conditions.iter().find(|condition| condition.type_ == type_);
        found.and_then(|condition| condition.reason.clone()).unwrap_or_default()
    };
    let record = status.history.iter().rev().find(|record| record.failed.is_some());
    let facts = [
        (failed.action == version.action(), "the action"),
        (failed.component == version.component, "the component"),
        (status.observed_kube_virt_version == Some(OLD.to_string()), "the observed version"),
        (
            record.is_some_and(|record| version.says(record.failed.as_deref().unwrap_or_default())),
            "the history",
        ),
        (is_true(&status.conditions, "Available"), "Available"),
        (!is_true(&status.conditions, "Progressing"), "Progressing"),
        (degraded(status).is_some_and(|message| version.says(&message)), "Degraded"),
        (reason("Degraded") == "UpdateFailed", "Degraded's reason"),
        (version.pause || status.target_kube_virt_version == Some(OLD.to_string()), "the target"),
        (object.spec.image_tag == Some(NEW.to_string()), "the spec"),
    ];
    let wrong: Vec<&str> = facts.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what).collect();
    if !wrong.is_empty() {
        return Some(format!("not yet: {}", wrong.join(", ")));
    }
    differs.filter(|_| !version.pause).map(str::to_owned)
}

/// A paused update does nothing more by itself, and says so. What stood by when it failed goes first.
async fn stays_paused(
    world: &World,
    version: &BadVersion,
    old: &BTreeMap<String, BTreeSet<String>>,
) -> anyhow::Result<()> {
    wait::until("what stood by to go", Duration::from_secs(60), async || {
        let differs = world.differs(old).await?;
        wait::when(differs.is_none(), differs.unwrap_or_default())
    })
    .await?;
    let templates = world.templates().await?;
    let until = std::time::Instant::now() + PAUSED;
    while std::time::Instant::now() < until {
        let object = world.product.object().await?.context("there is no KubeVirt object")?;
        if let Some(changed) = unlike(version, &object, None) {
            anyhow::bail!("a paused update moved: {changed}");
        }
        let now = world.templates().await?;
        anyhow::ensure!(now == templates, "a paused update replaced pods: {templates:?}, then {now:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// The spec as it was before: all is as it was, and the failure is forgotten.
async fn restore(world: &World, templates: &BTreeMap<String, BTreeSet<String>>) -> anyhow::Result<()> {
    world.product.unset_all().await?;
    world.product.wait_for(&OLD).await?;
    wait::until("only old pods", Duration::from_secs(120), async || {
        let differs = world.differs(templates).await?;
        let object = world.product.object().await?;
        let failed = object.and_then(|object| object.status?.failed_update);
        wait::when(differs.is_none() && failed.is_none(), format!("{differs:?}, {failed:?}"))
    })
    .await
}

fn judge(
    world: &World,
    version: &BadVersion,
    templates: &BTreeMap<String, BTreeSet<String>>,
    known: &Known,
    measured: Measured,
) -> Row {
    let bad = |seen: &Seen| {
        seen.component == version.component
            && templates.get(version.component).is_some_and(|good| !good.contains(&seen.template))
    };
    let changes = &measured.changes;
    let nodes = uncovered(changes, &world.node_names(), bad);
    let mut complaints = measured.complaints(&nodes);
    let lost = |component: &str| 2_usize.saturating_sub(least(changes, component, bad));
    let affected = match version.component {
        "virt-handler" => nodes.len(),
        component => nodes.len() + lost(component),
    };
    let tried = tried_on(changes, bad);
    if affected > 1 {
        complaints.push(format!("{affected} affected: nodes {nodes:?}, tried on {tried:?}"));
    }
    // what fails after the first soak stands by on a second node then, where the old one is in charge
    let seen_at_once = version.component == "virt-handler" && !version.late;
    // another try may begin on another node
    let tries = if version.pause { 2 } else { 1 };
    if seen_at_once && tried.len() > tries {
        complaints.push(format!("tried on more than one node at a try: {tried:?}"));
    }
    for component in ["virt-controller", "virt-api"].into_iter().filter(|other| *other != version.component) {
        if lost(component) > 0 {
            complaints.push(format!("{component}: {} replicas at some time", 2 - lost(component)));
        }
    }
    match (first_bad(changes, bad), known.failed_at) {
        (Some(made), Some(failed)) => {
            let took = (failed - made).total(jiff::Unit::Second).unwrap_or_default();
            if took > (version.found + SLACK) as f64 {
                complaints
                    .push(format!("found {took:.0} s after the first bad pod, not {} s", version.found));
            }
        }
        (made, failed) => complaints.push(format!("first bad pod {made:?}, found to fail {failed:?}")),
    }
    if known.explained.is_none() {
        complaints.push("virtctl update explain never named the cause".to_owned());
    }
    let named = known.condition.zip(known.event).map(|(condition, event)| condition.max(event));
    let said = known.explained.clone().unwrap_or_default();
    Row { affected, named, back: known.back, detail: format!("{said} ({})", measured.summary), complaints }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registry_of_a_fault_is_made_by_the_images_script() {
        let made = include_str!("../../../../images/faulty/faults");
        let names: BTreeSet<&str> = made.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let all = [
            HANDLER_CRASH,
            HANDLER_IMAGE_MISSING,
            HANDLER_NEVER_READY,
            HANDLER_IDLE,
            HANDLER_LATE_CRASH,
            CONTROLLER_CRASH,
            CONTROLLER_IMAGE_MISSING,
            CONTROLLER_LATE_CRASH,
            API_CRASH,
            API_IMAGE_MISSING,
            API_NEVER_READY,
        ];
        for version in all {
            let Wrong::Registry(name) = version.wrong else { panic!("{}", version.component) };
            assert!(names.contains(name), "{name}");
        }
    }
}
