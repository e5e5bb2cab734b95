//! Keeps the report of the update that goes on: has it watched, stores it, and puts it in short into the status.
//!
//! Nothing here has a part in the update: what goes wrong is logged and tried again in the next round. What a report is
//! due of, and what is in it, is decided in `kubevirt_rollout::report`.

mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kubevirt_rollout::report::{Observation, Subject, UpdateReport, ending, name_of, subject};
use kubevirt_rollout::{Observed, Plan, Stage};
use kubevirt_types::KubeVirt;
use kubevirt_types::kubevirt::{KubeVirtStatus, ReportSummary, UpdateRecord};
use tokio::time::{Instant, timeout};

use crate::cache::Cache;
use crate::prober::{Prober, TermLog};
use store::{Entry, Store};

pub use store::StoreError;

/// A report is stored at each new stage, and after so long: what a crash makes unknown.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Another waits for our lease.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// Keeps reports.
pub struct Reporter {
    client: Client,
    cache: Cache,
    namespace: String,
    terms: TermLog,
    store: Store,
    /// Reports that were stored before we led and aren't ended; none before they were read.
    before: Option<BTreeMap<String, Entry>>,
    /// The report of the update that goes on.
    open: Option<Open>,
    /// Reports of updates that are over, and aren't stored so.
    closing: Vec<Entry>,
    /// What is stored, in short.
    summaries: BTreeMap<String, ReportSummary>,
}

/// A report that is being written.
struct Open {
    entry: Entry,
    owner: KubeVirt,
    prober: Prober,
    /// When, and at which stage it was stored last.
    saved: Option<(Instant, Stage)>,
}

impl Open {
    fn fold(&mut self, terms: &TermLog) {
        self.prober.fold_into(&mut self.entry.report);
        terms.fold_into(&mut self.entry.report, Timestamp::now());
    }
}

impl Reporter {
    /// A reporter that knows nothing yet of reports.
    pub fn new(client: Client, cache: Cache, namespace: &str, terms: TermLog) -> Self {
        Self {
            store: Store::new(client.clone(), namespace),
            client,
            cache,
            namespace: namespace.to_owned(),
            terms,
            before: None,
            open: None,
            closing: vec![],
            summaries: BTreeMap::new(),
        }
    }

    /// One round: from what was observed and planned. Puts what is stored in short into the history of the status that
    /// is about to be written.
    pub async fn round(
        &mut self,
        observed: &Observed,
        plan: &Plan,
        status: &mut KubeVirtStatus,
        now: Timestamp,
    ) {
        let Some(kubevirt) = observed.kubevirt.as_ref().filter(|kubevirt| !kubevirt.is_deleting()) else {
            self.open = None;
            return;
        };
        if let Err(error) = self.follow(kubevirt, observed, plan, now).await {
            tracing::warn!(error = %crate::chain(&error), "the update's report can't be kept, trying again");
        }
        attach(&mut status.history, &self.summaries);
    }

    /// Stores what is known, for the next who leads.
    pub async fn leave(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.fold(&self.terms);
        let left = timeout(LEAVE_LIMIT, self.store.save_unchanged(&mut open.entry, &open.owner)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::warn!(name = open.entry.name, "the update's report isn't left as it is");
        }
    }

    async fn follow(
        &mut self,
        kubevirt: &KubeVirt,
        observed: &Observed,
        plan: &Plan,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let stored = kubevirt.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
        let due = subject(stored, plan).map(|subject| (name_of(subject.started), subject));
        let due_name = due.as_ref().map(|(name, _)| name.as_str());
        let mut before = match self.before.take() {
            Some(before) => before,
            None => self.read().await?,
        };
        if let Some(mut open) = self.open.take_if(|open| Some(open.entry.name.as_str()) != due_name) {
            open.prober.look_again().await;
            open.fold(&self.terms);
            self.closing.push(open.entry);
        }
        let left = before.extract_if(.., |name, _| Some(name.as_str()) != due_name);
        self.closing.extend(left.map(|(_, mut entry)| {
            entry.report.resume(now);
            entry
        }));
        if let (None, Some((name, subject))) = (&self.open, &due) {
            self.open = self.begin(subject, kubevirt, plan, before.remove(name), now);
        }
        self.before = Some(before);
        self.close(kubevirt, plan, now).await?;
        self.keep(observed, plan, now).await
    }

    /// Every report that was stored before.
    async fn read(&mut self) -> Result<BTreeMap<String, Entry>, StoreError> {
        let all = self.store.all().await?;
        self.summaries =
            all.iter().map(|entry| (entry.name.clone(), entry.report.summary(&entry.name))).collect();
        let unfinished = all.into_iter().filter(|entry| entry.report.ended.is_none());
        Ok(unfinished.map(|entry| (entry.name.clone(), entry)).collect())
    }

    /// Begins the report that is due, or goes on with the one that was left; none when that is done already.
    fn begin(
        &self,
        subject: &Subject,
        owner: &KubeVirt,
        plan: &Plan,
        left: Option<Entry>,
        now: Timestamp,
    ) -> Option<Open> {
        let name = name_of(subject.started);
        let entry = match left {
            Some(mut entry) => {
                entry.report.resume(now);
                entry
            }
            // it has ended
            None if self.summaries.contains_key(&name) => return None,
            None => {
                let report = UpdateReport::begin(subject, &format!("{:?}", plan.direction), now);
                Entry { name, report, resource_version: None }
            }
        };
        tracing::info!(name = entry.name, from = subject.from, to = subject.to, "reporting the update");
        let prober = Prober::start(self.client.clone(), self.cache.clone(), &self.namespace);
        Some(Open { entry, owner: owner.clone(), prober, saved: None })
    }

    /// Ends what is over. What can't be stored stays for the next round.
    async fn close(&mut self, owner: &KubeVirt, plan: &Plan, now: Timestamp) -> Result<(), StoreError> {
        let history = owner.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
        while let Some(entry) = self.closing.last_mut() {
            if entry.report.ended.is_none() {
                let Some((ended, outcome)) = ending(&entry.report, history, plan, now) else {
                    self.closing.pop();
                    continue;
                };
                entry.report.end(ended, outcome);
            }
            self.store.save(entry, owner).await?;
            self.summaries.insert(entry.name.clone(), entry.report.summary(&entry.name));
            tracing::info!(name = entry.name, "the update's report is complete");
            self.closing.pop();
        }
        Ok(())
    }

    /// Takes in what was seen, and stores it now and then.
    async fn keep(&mut self, observed: &Observed, plan: &Plan, now: Timestamp) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.entry.report.fold(&Observation::World(observed, plan), now);
        open.fold(&self.terms);
        let fresh = |(at, stage): (Instant, Stage)| at.elapsed() < SAVE_EVERY && stage == plan.stage;
        if open.saved.is_some_and(fresh) {
            return Ok(());
        }
        let created = open.entry.resource_version.is_none();
        self.store.save(&mut open.entry, &open.owner).await?;
        open.saved = Some((Instant::now(), plan.stage));
        self.summaries.insert(open.entry.name.clone(), open.entry.report.summary(&open.entry.name));
        if created { self.store.prune().await } else { Ok(()) }
    }
}

/// Puts what is stored into the records that it is of.
fn attach(history: &mut [UpdateRecord], summaries: &BTreeMap<String, ReportSummary>) {
    for record in history {
        if let Some(summary) = summaries.get(&name_of(record.started)) {
            record.report = Some(summary.clone());
        }
    }
}
