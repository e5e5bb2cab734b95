//! Kubernetes' DaemonSet controller with surge, as one pure step.
//!
//! Owns which pods it makes and deletes. Never says where time comes from, nor what becomes of a pod.

/// How many pods more than nodes there may be, as a DaemonSet's `maxSurge` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxSurge {
    /// So many.
    Number(usize),
    /// So many of a hundred nodes, rounded up.
    Percent(usize),
}

impl MaxSurge {
    /// How many that is.
    pub fn of(self, nodes: usize) -> usize {
        match self {
            Self::Number(number) => number,
            Self::Percent(percent) => (nodes * percent).div_ceil(100),
        }
    }
}

/// A DaemonSet's pod as its controller sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DaemonPod {
    /// Its uid.
    pub uid: String,
    /// It is of the DaemonSet's template.
    pub new: bool,
    /// It is Ready.
    pub ready: bool,
    /// It has been Ready for `minReadySeconds`.
    pub available: bool,
    /// Its deletion was asked for.
    pub deleting: bool,
}

/// What the controller does in one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actions {
    /// Nodes that get a pod of the template.
    pub create: Vec<String>,
    /// Pods that are deleted, by uid.
    pub delete: Vec<String>,
}

impl Actions {
    fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

/// One step: nodes that need a pod or have too many first, and when there are none the rolling update, unless the
/// strategy is OnDelete: then there is no surge. The pods of a node are in the order of their making; the nodes in no
/// order that anybody may count on.
pub fn step(max_surge: Option<MaxSurge>, nodes: &[(String, Vec<DaemonPod>)]) -> Actions {
    let managed = manage(max_surge.is_some(), nodes);
    match max_surge {
        Some(max_surge) if managed.is_empty() => roll(max_surge.of(nodes.len()), nodes),
        Some(_) | None => managed,
    }
}

/// One pod on every node, and two only while a new one becomes available beside an old one that is Ready. Where the
/// only pod is ending, none is made until it is gone. Without surge the oldest stays.
fn manage(surges: bool, nodes: &[(String, Vec<DaemonPod>)]) -> Actions {
    let mut actions = Actions::default();
    for (node, pods) in nodes {
        if pods.is_empty() {
            actions.create.push(node.clone());
        }
        let running = || pods.iter().filter(|pod| !pod.deleting);
        if running().count() < 2 {
            continue;
        }
        if !surges {
            actions.delete.extend(running().skip(1).map(|pod| pod.uid.clone()));
            continue;
        }
        let new = running().find(|pod| pod.new);
        let old = running().find(|pod| !pod.new);
        let surplus = running().filter(|pod| Some(*pod) != new && Some(*pod) != old);
        actions.delete.extend(surplus.map(|pod| pod.uid.clone()));
        if let (Some(new), Some(old)) = (new, old)
            && (!old.ready || new.available)
        {
            actions.delete.push(old.uid.clone());
        }
    }
    actions
}

/// A new pod beside each old one: at once where the old one isn't available, and elsewhere no more of them than the
/// surge allows while they aren't available themselves.
fn roll(max_surge: usize, nodes: &[(String, Vec<DaemonPod>)]) -> Actions {
    let mut actions = Actions::default();
    let mut surging = 0;
    let mut candidates = Vec::new();
    for (node, pods) in nodes {
        let of = |new: bool| pods.iter().find(move |pod| !pod.deleting && pod.new == new);
        match (of(true), of(false)) {
            (_, None) => {}
            (None, Some(old)) if old.available => candidates.push(node.clone()),
            (None, Some(_)) => actions.create.push(node.clone()),
            (Some(new), Some(old)) if new.available => actions.delete.push(old.uid.clone()),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    actions.create.extend(candidates.into_iter().take(max_surge.saturating_sub(surging)));
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod by its letters: `n`ew or `o`ld, then `a`vailable, `r`eady, `d`eleting.
    fn pod(letters: &str) -> DaemonPod {
        let has = |letter| letters.contains(letter);
        DaemonPod {
            uid: letters.to_owned(),
            new: has('n'),
            ready: has('r') || has('a'),
            available: has('a'),
            deleting: has('d'),
        }
    }

    fn told(max_surge: Option<MaxSurge>, nodes: &[&[&str]]) -> String {
        let nodes: Vec<_> = nodes
            .iter()
            .enumerate()
            .map(|(at, pods)| (at.to_string(), pods.iter().map(|letters| pod(letters)).collect()))
            .collect();
        let actions = step(max_surge, &nodes);
        format!("+{} -{}", actions.create.join(","), actions.delete.join(","))
    }

    #[test]
    fn one_step() {
        let one = Some(MaxSurge::Number(1));
        type Case<'a> = (&'a str, Option<MaxSurge>, &'a [&'a [&'a str]], &'a str);
        let cases: [Case<'_>; 20] = [
            ("nothing anywhere", one, &[&[], &[]], "+0,1 -"),
            ("all is new", one, &[&["na"], &["n"]], "+ -"),
            ("one node at a time", one, &[&["oa"], &["oa"]], "+0 -"),
            ("and no more while it isn't Ready", one, &[&["oa", "n"], &["oa"]], "+ -"),
            ("nor while it isn't available", one, &[&["oa", "nr"], &["oa"]], "+ -"),
            ("available: the old one goes", one, &[&["oa", "na"], &["oa"]], "+ -oa"),
            ("an ending one doesn't count", one, &[&["oad", "na"], &["oa"]], "+1 -"),
            ("two at a time", Some(MaxSurge::Number(2)), &[&["oa"], &["oa"], &["oa"]], "+0,1 -"),
            ("a tenth, rounded up", Some(MaxSurge::Percent(10)), &[&["oa"], &["oa"], &["oa"]], "+0 -"),
            ("two thirds, rounded up", Some(MaxSurge::Percent(67)), &[&["oa"], &["oa"], &["oa"]], "+0,1,2 -"),
            ("no surge at all", Some(MaxSurge::Number(0)), &[&["oa"]], "+ -"),
            ("an old one that isn't Ready is outside the budget", one, &[&["o"], &["oa"], &["oa"]], "+0,1 -"),
            ("so is one that is Ready and not available", one, &[&["or"], &["or"], &["oa"]], "+0,1,2 -"),
            ("but then it counts", one, &[&["or", "n"], &["oa"]], "+ -"),
            ("an old one that isn't Ready goes as soon as a new one is made", one, &[&["o", "n"]], "+ -o"),
            ("of two old ones the older stays", one, &[&["oa", "or"], &["oa"]], "+ -or"),
            ("of two new ones too", one, &[&["oa", "nr", "n"]], "+ -n"),
            ("OnDelete: nothing old is replaced", None, &[&["oa"], &[]], "+1 -"),
            ("OnDelete: the oldest stays, whatever it is", None, &[&["o", "na"]], "+ -na"),
            ("where the only one is ending nobody comes", one, &[&["oad"], &["oa"]], "+1 -"),
        ];
        for (name, surge, nodes, expected) in cases {
            assert_eq!(told(surge, nodes), expected, "{name}");
        }
    }
}
