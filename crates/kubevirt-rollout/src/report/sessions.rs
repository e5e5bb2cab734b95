//! Consoles and screens, as the virt-apis count them, and what became of those whose virt-api is no more.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::{Deserialize, Serialize};

use super::gaps::Gaps;

/// A virt-api that has said nothing for so long before it was told to end didn't drain: its node is lost, or it hangs. Longer
/// than a network that is cut for a moment, and longer than a client waits for a sign of life.
const SILENT: SignedDuration = SignedDuration::from_secs(60);

/// A virt-api's pod, as somebody looked at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiPod {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub made: Timestamp,
    /// It was told to end.
    pub deleting: bool,
    /// Processes of it that are lost: each that ended though nobody told the pod to, and one that failed while it ended.
    pub lost_processes: u64,
    /// What it says; none of one that doesn't answer.
    pub said: Option<ApiStreams>,
}

/// What a virt-api says of its streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiStreams {
    /// Consoles and screens that are open.
    pub open: u64,
    /// Since it started: streams that lost their virt-handler and went on without a byte missing.
    pub resumed: u64,
    /// The same, with bytes missing.
    pub resumed_with_gap: u64,
    /// The same, but they couldn't be resumed.
    pub cut: u64,
    /// Requests that it has answered since it started. It is asked all the time, so fewer than before are another process's.
    #[serde(default)]
    pub requests: u64,
    /// How long those had no virt-handler that went on; nothing from a virt-api that doesn't say.
    #[serde(default, skip_serializing_if = "Gaps::is_empty")]
    pub gaps: Gaps,
}

/// What is known of a virt-api that has said something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Api {
    /// What it said last. One that listens no more has nothing open here: that is in `stopped`.
    #[serde(flatten)]
    pub said: ApiStreams,
    /// How many of its lost processes are counted; none in a report of an operator that didn't count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_processes: Option<u64>,
    /// It was seen that it was told to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told: bool,
    /// It listens no more, and so many streams are left to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<u64>,
    /// Since when it doesn't answer, though it wasn't told to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Timestamp>,
    /// Nobody has looked at it since another led.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unwatched: bool,
}

/// Consoles and screens during an update. Source: the virt-apis' metrics, as long as they listen, and their pods. What becomes
/// of the streams that one carries on after that, until they end or its grace is over, nobody counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sessions {
    /// Open when somebody looked first; none when nobody could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_at_start: Option<u64>,
    /// Open when somebody looked last, on virt-apis that listen.
    pub open: u64,
    /// Times that one lost its virt-handler and went on without a byte missing.
    pub resumed: u64,
    /// The same, with bytes missing.
    pub resumed_with_gap: u64,
    /// Those that lost their virt-handler and couldn't be resumed.
    pub cut: u64,
    /// Open on virt-apis when these stopped to listen as they were told to, who carry them on.
    pub left_to_drain: u64,
    /// Open on virt-apis that were lost: their process ended, or their pod went, and nobody had told it to. Their clients have
    /// to come again, as virtctl does by itself.
    #[serde(default)]
    pub lost: u64,
    /// Open on virt-apis whose pods went while nobody watched: what became of these isn't known.
    #[serde(default)]
    pub unobserved: u64,
    /// What none of those that were resumed had no virt-handler for longer than, as far as virt-apis say.
    #[serde(default)]
    pub longest_gap_milliseconds: u64,
    /// Of so many resumed ones virt-apis say it.
    #[serde(default)]
    pub gaps_known: u64,
    /// Each virt-api; none when all is over.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub apis: BTreeMap<String, Api>,
}

impl ApiPod {
    /// Reads it from the object; nothing was said yet.
    pub fn of(pod: &Pod) -> Option<Self> {
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        Some(Self {
            name: pod.metadata.name.clone()?,
            made: pod.metadata.creation_timestamp.as_ref()?.0,
            deleting,
            lost_processes: containers.into_iter().flatten().map(|one| lost_processes(one, deleting)).sum(),
            said: None,
        })
    }
}

/// Processes of a container that are lost. A restart is counted when the next process begins; the last one may have ended
/// before.
fn lost_processes(container: &ContainerStatus, deleting: bool) -> u64 {
    let state = container.state.as_ref();
    let waits = state.is_some_and(|state| state.waiting.is_some());
    let last = container.last_state.as_ref().filter(|_| waits);
    let ended = [state, last].into_iter().flatten().find_map(|state| state.terminated.as_ref());
    // a pod that was told to end ends with its process, which is as it should be unless that failed
    let lost = ended.is_some_and(|ended| !deleting || ended.exit_code != 0);
    u64::try_from(container.restart_count).unwrap_or(0) + u64::from(lost)
}

impl ApiStreams {
    /// Whether these are another process's numbers than those: a counter never goes back.
    fn began_anew_since(&self, before: &Self) -> bool {
        let counters = |said: &Self| [said.requests, said.resumed, said.resumed_with_gap, said.cut];
        counters(self).iter().zip(counters(before)).any(|(now, before)| *now < before)
    }
}

impl Api {
    /// A virt-api that speaks for the first time. One that was made since the start has counted from zero; of an older one only
    /// counts what is more than now.
    fn first(pod: &ApiPod, said: &ApiStreams, started: Timestamp) -> Self {
        let said = if pod.made < started { said.clone() } else { ApiStreams::default() };
        Self { said, lost_processes: Some(pod.lost_processes), ..Self::default() }
    }

    /// Whether the process that spoke last is lost. The pod's status may say so later than the next process speaks, and the
    /// other way round: each is counted once.
    fn lost_its_process(&mut self, pod: &ApiPod) -> bool {
        let counted = self.lost_processes.unwrap_or(pod.lost_processes);
        let told_by_status = pod.lost_processes > counted;
        let told_by_itself = pod.said.as_ref().is_some_and(|said| said.began_anew_since(&self.said));
        let ahead = u64::from(told_by_itself && !told_by_status);
        self.lost_processes = Some(counted.max(pod.lost_processes) + ahead);
        told_by_status || told_by_itself
    }

    fn was_silent_for_long(&self, now: Timestamp) -> bool {
        self.silent_since.is_some_and(|since| now.duration_since(since) >= SILENT)
    }
}

impl Sessions {
    /// Takes in how every virt-api is.
    pub(super) fn fold(&mut self, pods: &[ApiPod], started: Timestamp, now: Timestamp) {
        if self.open_at_start.is_none() && pods.iter().all(|pod| pod.said.is_none()) {
            return;
        }
        let gone = self.apis.extract_if(.., |name, _| !pods.iter().any(|pod| pod.name == *name));
        for (_, api) in gone.collect::<Vec<_>>() {
            self.vanish(&api);
        }
        for pod in pods {
            let known = self.apis.remove(&pod.name);
            let first = || pod.said.as_ref().map(|said| Api::first(pod, said, started));
            if let Some(mut api) = known.or_else(first) {
                self.look(&mut api, pod, now);
                self.apis.insert(pod.name.clone(), api);
            }
        }
        self.open = self.apis.values().map(|api| api.said.open).sum();
        self.open_at_start.get_or_insert(self.open);
    }

    /// A pod that isn't there any more. Who was told to end and still listened when somebody looked last, ended in between.
    fn vanish(&mut self, api: &Api) {
        let open = api.said.open;
        match api {
            Api { stopped: Some(_), .. } => {}
            Api { told: true, .. } => self.left_to_drain += open,
            Api { unwatched: true, .. } => self.unobserved += open,
            _ => self.lost += open,
        }
    }

    /// A pod that is there.
    fn look(&mut self, api: &mut Api, pod: &ApiPod, now: Timestamp) {
        if api.lost_its_process(pod) {
            let left = api.stopped.as_mut().map(std::mem::take).unwrap_or_default();
            self.left_to_drain = self.left_to_drain.saturating_sub(left);
            self.lost += left + api.said.open;
            api.said = ApiStreams::default();
        }
        match &pod.said {
            Some(said) => {
                // it was only slow: it listens
                let left = api.stopped.take().unwrap_or_default();
                self.left_to_drain = self.left_to_drain.saturating_sub(left);
                self.count(&api.said, said);
                api.said = said.clone();
                api.silent_since = None;
            }
            None if pod.deleting && api.stopped.is_none() => {
                let open = std::mem::take(&mut api.said.open);
                if api.was_silent_for_long(now) {
                    self.lost += open;
                    api.stopped = Some(0);
                } else {
                    self.left_to_drain += open;
                    api.stopped = Some(open);
                }
            }
            None if !pod.deleting => {
                api.silent_since.get_or_insert(now);
            }
            None => {}
        }
        api.told |= pod.deleting;
        api.unwatched = false;
    }

    fn count(&mut self, before: &ApiStreams, said: &ApiStreams) {
        self.resumed += said.resumed.saturating_sub(before.resumed);
        self.resumed_with_gap += said.resumed_with_gap.saturating_sub(before.resumed_with_gap);
        self.cut += said.cut.saturating_sub(before.cut);
        self.gaps_known += said.gaps.more_than(&before.gaps);
        let longest = said.gaps.longest_since(&before.gaps);
        self.longest_gap_milliseconds = self.longest_gap_milliseconds.max(longest);
    }

    /// Times that a session was carried over the end of a virt-handler or a virt-api.
    pub fn carried(&self) -> u64 {
        self.resumed + self.resumed_with_gap + self.left_to_drain
    }

    /// What no session that went on had no virt-handler for longer than: nothing, where none lost it. None where no virt-api
    /// says.
    pub fn longest_gap(&self) -> Option<u64> {
        (self.gaps_known > 0 || self.gaps_unknown() == 0).then_some(self.longest_gap_milliseconds)
    }

    /// Of so many resumed ones no virt-api says how long that took.
    pub fn gaps_unknown(&self) -> u64 {
        (self.resumed + self.resumed_with_gap).saturating_sub(self.gaps_known)
    }

    /// Nobody looks for a time.
    pub(super) fn pause(&mut self) {
        for api in self.apis.values_mut() {
            api.unwatched = true;
            api.silent_since = None;
        }
    }

    /// Nobody counts any more. Who doesn't answer for long when all is over, is lost, whatever its pod says.
    pub(super) fn end(&mut self, ended: Timestamp) {
        for api in std::mem::take(&mut self.apis).into_values() {
            if api.was_silent_for_long(ended) {
                self.lost += api.said.open;
                self.open = self.open.saturating_sub(api.said.open);
            }
        }
    }
}
