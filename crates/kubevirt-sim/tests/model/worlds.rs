//! The worlds that were reached, each kept once, and what one event makes of each: computed once, by the real planner and
//! the simulator, and remembered.
//!
//! What is the same world is `kubevirt_sim::small`'s decision. A step that is held is written as if it named the object
//! that lives now; whether it still may is known by who holds it ([`Moved::touched`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use kubevirt_rollout::{Policy, Precondition, Step, check, status};
use kubevirt_sim::promise::Promise;
use kubevirt_sim::small::decisive;
use kubevirt_sim::{Cluster, Fault, Operator, Planner, timeless};
use kubevirt_types::kubevirt::KubeVirtStatus;
use kubevirt_types::{ObjectKey, Release};
use serde_json::Value;

pub type WorldId = u32;
pub type StepId = u32;
pub type LookId = u32;

/// A component that may turn out to be bad in a release.
pub const FRAGILE: [&str; 2] = ["virt-handler", "virt-api"];

/// Every so many times that a world is met again it is compared with the one that is kept.
const COMPARED: usize = 20;

/// What can happen to a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A second passes.
    Second,
    /// A second passes in which no pod gets Ready.
    SlowSecond,
    /// The user asks for a release.
    Ask(usize),
    /// New pods of a component of the release that is asked for never get Ready.
    Break(usize),
    /// An operator writes a step.
    Write(StepId),
    /// An operator writes the status that it found when it looked.
    Status(LookId),
}

/// What an event comes to.
#[derive(Debug, Clone)]
pub struct Moved {
    /// The world after it.
    pub to: WorldId,
    /// The objects that are not as they were.
    pub touched: BTreeSet<ObjectKey>,
}

/// What an operator has in its hands when it has looked and planned.
#[derive(Debug, Clone)]
pub struct Look {
    /// What it will write, in order.
    pub steps: Vec<StepId>,
    /// The status that it will write after that, if anything in it decides.
    pub status: Option<KubeVirtStatus>,
}

/// One world.
pub struct World {
    cluster: Cluster,
    /// What is broken in it.
    pub broken: Vec<String>,
    /// What is wrong with the plan that is made in it.
    pub refused: Option<String>,
    /// What an operator finds to do in it.
    pub look: Option<LookId>,
    /// The release that the user asks for.
    pub asked: Option<usize>,
    /// The target has failed.
    pub failed: bool,
    /// All is as it should be at the end of the road.
    pub arrived: bool,
    next: HashMap<Event, Option<Moved>>,
    ends_well: Option<bool>,
}

/// A step, and the object whose version it names.
pub struct HeldStep {
    pub step: Step,
    pub names: Option<ObjectKey>,
}

/// Who plans, and how it is carried out.
#[derive(Clone)]
pub struct Operators {
    pub planner: Planner,
    pub policy: Policy,
    /// A plan that `check` refuses is not carried out.
    pub checked: bool,
    /// Writes name what was seen.
    pub guarded: bool,
}

/// Each release installed, with nothing left to do.
#[derive(Clone)]
pub struct Beginnings {
    policy: Policy,
    installed: Vec<Cluster>,
}

impl Beginnings {
    /// Installs each release; the manifests of the other one are known too.
    pub fn new(policy: &Policy) -> Self {
        let releases = Release::ALL;
        let installed = releases.iter().map(|release| {
            let mut cluster = Cluster::small(Release::V0_18_0);
            cluster.set_image_tag(Some(&release.to_string()));
            let mut operator = Operator::default();
            operator.policy = policy.clone();
            operator.settle(&mut cluster, 600).expect("an installation comes to its end");
            for other in releases.iter().filter(|other| *other != release) {
                let set = Box::new(kubevirt_sim::small::short(other));
                cluster.write(&Step::StoreStrategy { set }).expect("it is always taken");
            }
            // what has just been made is over before the model begins
            for _ in 0..10 {
                cluster.second();
            }
            cluster
        });
        Self { policy: policy.clone(), installed: installed.collect() }
    }
}

/// All of them.
pub struct Worlds {
    /// The policy that the promise is about.
    policy: Policy,
    pub operators: Operators,
    promise: Promise,
    pub all: Vec<World>,
    by_print: HashMap<u64, WorldId>,
    pub steps: Vec<HeldStep>,
    by_step: HashMap<u64, StepId>,
    pub looks: Vec<Look>,
    by_look: HashMap<u64, LookId>,
    /// The worlds in which a release is installed.
    pub from: Vec<WorldId>,
    /// How often a world was met again.
    met: usize,
    /// What is there when a release has been installed and nothing else ever was.
    ends: Vec<HashMap<ObjectKey, Value>>,
    pub kubevirt: ObjectKey,
}

fn digest(value: &impl Hash) -> u64 {
    let mut into = DefaultHasher::new();
    value.hash(&mut into);
    into.finish()
}

fn id(count: usize) -> u32 {
    u32::try_from(count).expect("there are fewer")
}

impl Worlds {
    pub fn new(beginnings: &Beginnings, operators: Operators) -> Self {
        let Beginnings { policy, installed } = beginnings.clone();
        let mut promise = Promise::default();
        let broken = promise.broken(&installed[0], &policy);
        assert!(broken.is_empty(), "{broken:?}");
        let mut worlds = Self {
            policy,
            operators,
            promise,
            all: vec![],
            by_print: HashMap::new(),
            steps: vec![],
            by_step: HashMap::new(),
            looks: vec![],
            by_look: HashMap::new(),
            from: vec![],
            met: 0,
            ends: installed.iter().map(contents).collect(),
            kubevirt: installed[0].kubevirt_key(),
        };
        worlds.from = installed.into_iter().map(|cluster| worlds.know(cluster)).collect();
        worlds
    }

    pub fn world(&self, world: WorldId) -> &World {
        &self.all[world as usize]
    }

    pub fn plan(&self, look: LookId) -> &Look {
        &self.looks[look as usize]
    }

    /// The world that this cluster is.
    fn know(&mut self, cluster: Cluster) -> WorldId {
        let print = cluster.print(&self.policy);
        if let Some(id) = self.by_print.get(&print).copied() {
            self.met += 1;
            if self.met.is_multiple_of(COMPARED) {
                self.compare(id, cluster);
            }
            return id;
        }
        let id = id(self.all.len());
        self.by_print.insert(print, id);
        let mut broken = self.promise.clone().broken(&cluster, &self.policy);
        broken.extend(cluster.lacking());
        let (look, refused) = self.look(&cluster);
        let asked = asked(&cluster);
        let failed = has_failed(&cluster);
        let goal = asked.map(|asked| if failed { 1 - asked } else { asked });
        let arrived = goal.is_some_and(|goal| self.is_at(&cluster, goal));
        let next = HashMap::new();
        self.all.push(World {
            cluster,
            broken,
            refused,
            look,
            asked,
            failed,
            arrived,
            next,
            ends_well: None,
        });
        id
    }

    /// What the print leaves out decides nothing: a cluster that is met again gives the same plan and the same next
    /// second as the one that was kept.
    fn compare(&mut self, id: WorldId, mut cluster: Cluster) {
        assert_eq!(self.look(&cluster).0, self.world(id).look, "the plan of world {id}");
        cluster.second();
        let next =
            self.after(id, Event::Second).map(|moved| self.world(moved.to).cluster.print(&self.policy));
        assert_eq!(Some(cluster.print(&self.policy)), next, "the next second of world {id}");
    }

    /// Looks and plans. None when there is nothing to do.
    fn look(&mut self, cluster: &Cluster) -> (Option<LookId>, Option<String>) {
        let observed = cluster.observe();
        let now = cluster.now();
        let Operators { planner, policy, checked, .. } = self.operators.clone();
        let plan = planner(&observed, &policy, now, &|config| cluster.manifests(config));
        let refused = check(&plan, &observed, &self.policy, now)
            .err()
            .map(|violations| violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        let had = cluster.kubevirt().and_then(|kubevirt| kubevirt.status.clone()).unwrap_or_default();
        let status = status(&observed, &plan, now);
        let changes = decisive(&had) != decisive(&status);
        let held = if checked && refused.is_some() { &[] } else { &plan.steps[..] };
        let steps: Vec<StepId> = held.iter().map(|step| self.step(cluster, step)).collect();
        if steps.is_empty() && !changes {
            return (None, refused);
        }
        let key = digest(&(&steps, changes.then(|| decisive(&status))));
        let next = id(self.looks.len());
        let look = *self.by_look.entry(key).or_insert(next);
        if look == next {
            self.looks.push(Look { steps, status: changes.then_some(status) });
        }
        (Some(look), refused)
    }

    fn step(&mut self, cluster: &Cluster, step: &Step) -> StepId {
        let body = match step {
            Step::Apply { manifest, precondition } => Some((
                timeless(manifest.body.clone()).to_string(),
                matches!(precondition, Precondition::Absent),
            )),
            _ => None,
        };
        let next = id(self.steps.len());
        let known = *self.by_step.entry(digest(&(step.to_string(), body))).or_insert(next);
        if known == next {
            self.steps.push(HeldStep { step: step.clone(), names: cluster.named_by(step) });
        }
        known
    }

    /// What an event makes of a world; none when it can't happen, or is refused.
    pub fn after(&mut self, world: WorldId, event: Event) -> Option<Moved> {
        let known = self.world(world);
        if let Some(moved) = known.next.get(&event) {
            return moved.clone();
        }
        let mut cluster = known.cluster.clone();
        let happens = self.happens(&mut cluster, known.asked, event);
        let moved = happens.then(|| {
            let touched = self.world(world).cluster.touched(&cluster);
            Moved { to: self.know(cluster), touched }
        });
        self.all[world as usize].next.insert(event, moved.clone());
        moved
    }

    fn happens(&self, cluster: &mut Cluster, asked: Option<usize>, event: Event) -> bool {
        match event {
            Event::Second => {
                cluster.second();
                true
            }
            Event::SlowSecond => cluster.slow_second(),
            Event::Ask(release) => {
                cluster.set_image_tag(Some(&Release::ALL[release].to_string()));
                true
            }
            Event::Break(component) => {
                let Some(release) = asked.map(|asked| Release::ALL[asked].clone()) else { return false };
                // what runs already is good
                let runs = cluster.observe().pods.iter().any(|pod| pod.release.as_ref() == Some(&release));
                if !runs {
                    cluster.inject(FRAGILE[component], release, Fault::NeverReady);
                }
                !runs
            }
            Event::Write(step) => {
                let step = &self.steps[step as usize].step;
                let step = if self.operators.guarded { cluster.renamed(step) } else { cluster.forced(step) };
                cluster.write(&step).is_ok()
            }
            Event::Status(look) => {
                self.plan(look).status.clone().map(|status| cluster.write_status(status)).is_some()
            }
        }
    }

    /// Whether one operator alone, that nobody disturbs any more, comes to the end of the road from here (I11). The
    /// road of one alone has no forks, so a world that it comes to twice is where it ends.
    pub fn ends_well(&mut self, world: WorldId) -> bool {
        let mut road = vec![];
        let mut seen = HashSet::new();
        let mut at = world;
        let well = loop {
            if let Some(known) = self.world(at).ends_well {
                break known;
            }
            if !seen.insert(at) {
                break self.world(at).arrived && self.world(at).look.is_none();
            }
            road.push(at);
            at = self.alone(at);
        };
        for world in road {
            self.all[world as usize].ends_well = Some(well);
        }
        well
    }

    /// A run of the loop by an operator alone, and the second after it.
    fn alone(&mut self, mut at: WorldId) -> WorldId {
        if let Some(look) = self.world(at).look {
            for step in self.plan(look).steps.clone() {
                let Some(moved) = self.after(at, Event::Write(step)) else { break };
                at = moved.to;
            }
            if self.plan(look).status.is_some()
                && let Some(moved) = self.after(at, Event::Status(look))
            {
                at = moved.to;
            }
        }
        self.after(at, Event::Second).map_or(at, |moved| moved.to)
    }

    fn is_at(&self, cluster: &Cluster, release: usize) -> bool {
        let version = Release::ALL[release].to_string();
        let status = cluster.kubevirt().and_then(|kubevirt| kubevirt.status.as_ref());
        status.is_some_and(|status| status.observed_kube_virt_version.as_ref() == Some(&version))
            && ["virt-api", "virt-controller", "virt-handler"]
                .iter()
                .all(|component| cluster.serving(component, &Release::ALL[release]) == 2)
            && contents(cluster) == self.ends[release]
    }
}

/// The release that the user asks for.
fn asked(cluster: &Cluster) -> Option<usize> {
    let tag = cluster.kubevirt()?.spec.image_tag.as_deref()?;
    Release::ALL.iter().position(|release| release.to_string() == tag)
}

/// What is asked for has failed.
fn has_failed(cluster: &Cluster) -> bool {
    let Some(kubevirt) = cluster.kubevirt() else { return false };
    let failed = kubevirt.status.as_ref().and_then(|status| status.failed_update.as_ref());
    failed.is_some_and(|failed| kubevirt.spec.image_tag.as_ref() == Some(&failed.version))
}

/// Every object but for what is a cluster's own, its CA, and for hashes of what holds it.
fn contents(cluster: &Cluster) -> HashMap<ObjectKey, Value> {
    let mut all: HashMap<ObjectKey, Value> = cluster.contents().into_iter().collect();
    all.retain(|key, _| key.kind != "ConfigMap");
    for live in all.values_mut() {
        for webhook in live.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
            webhook["clientConfig"]["caBundle"] = Value::Null;
        }
        if let Some(annotations) = live["metadata"]["annotations"].as_object_mut() {
            annotations.retain(|name, _| name != "kubevirt.io/manifest-hash");
        }
    }
    all
}
