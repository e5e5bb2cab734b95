//! Kubernetes' Deployment and ReplicaSet controllers, each as one pure step.
//!
//! Owns how many pods of which template there are to be, and which of them go. Never says where they run.

/// What a Deployment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// So many pods.
    pub replicas: usize,
    /// So many more while it rolls.
    pub max_surge: usize,
    /// So many fewer while it rolls.
    pub max_unavailable: usize,
}

/// A ReplicaSet of a Deployment, as the Deployment's controller sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set {
    /// How many pods it is told to have.
    pub replicas: usize,
    /// How many of them have been Ready for the set's `minReadySeconds`.
    pub available: usize,
}

/// How many replicas the new set and the old ones, oldest first, are told to have next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// The set of the Deployment's template.
    pub new: usize,
    /// The others.
    pub old: Vec<usize>,
}

impl Scale {
    /// As it is: what a paused Deployment's controller does.
    pub fn same(new: Set, old: &[Set]) -> Self {
        Self { new: new.replicas, old: old.iter().map(|set| set.replicas).collect() }
    }
}

/// One step of a rolling update: the new set grows as far as the surge allows; when it has nothing to grow, old pods
/// that don't serve go first, and then as many others as there are more available ones than wanted.
pub fn step(spec: Spec, new: Set, old: &[Set]) -> Scale {
    let mut scale = Scale::same(new, old);
    let total = new.replicas + scale.old.iter().sum::<usize>();
    if new.replicas != spec.replicas {
        let room = (spec.replicas + spec.max_surge).saturating_sub(total);
        let grown = spec.replicas.min(new.replicas + room);
        if new.replicas > spec.replicas || grown > new.replicas {
            scale.new = grown;
            return scale;
        }
    }
    let least = spec.replicas.saturating_sub(spec.max_unavailable);
    let unavailable = new.replicas.saturating_sub(new.available);
    let mut surplus = total.saturating_sub(least + unavailable);
    if surplus == 0 {
        return scale;
    }
    for (replicas, set) in scale.old.iter_mut().zip(old) {
        let broken = set.replicas.saturating_sub(set.available).min(surplus);
        *replicas -= broken;
        surplus -= broken;
    }
    let available = new.available + old.iter().map(|set| set.available).sum::<usize>();
    let mut spare = available.saturating_sub(least);
    for replicas in &mut scale.old {
        let gone = (*replicas).min(spare);
        *replicas -= gone;
        spare -= gone;
    }
    scale
}

/// A ReplicaSet's pod as its controller ranks it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// It has a node.
    pub bound: bool,
    /// It is Ready.
    pub ready: bool,
    /// How many seconds it has been Ready, or there.
    pub age: i64,
}

/// What a ReplicaSet does: how many pods it makes, and which it deletes, by their place in the list. Those that do
/// least go first.
pub fn replicas(wanted: usize, pods: &[Rank]) -> (usize, Vec<usize>) {
    let mut order: Vec<usize> = (0..pods.len()).collect();
    order.sort_by_key(|at| pods[*at]);
    order.truncate(pods.len().saturating_sub(wanted));
    (wanted.saturating_sub(pods.len()), order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_of_two_replicas_that_never_get_fewer() {
        let spec = Spec { replicas: 2, max_surge: 1, max_unavailable: 0 };
        let set = |(replicas, available): (usize, usize)| Set { replicas, available };
        type Case<'a> = (&'a str, (usize, usize), &'a [(usize, usize)], usize, &'a [usize]);
        let cases: [Case<'_>; 12] = [
            ("an installation", (0, 0), &[], 2, &[]),
            ("nothing to do", (2, 2), &[(0, 0)], 2, &[0]),
            ("one more", (0, 0), &[(2, 2)], 1, &[2]),
            ("which isn't available yet", (1, 0), &[(2, 2)], 1, &[2]),
            ("and is", (1, 1), &[(2, 2)], 1, &[1]),
            ("the next", (1, 1), &[(1, 1)], 2, &[1]),
            ("which isn't available yet either", (2, 1), &[(1, 1)], 2, &[1]),
            ("the last old one goes", (2, 2), &[(1, 1)], 2, &[0]),
            ("an old one that doesn't serve makes room", (0, 0), &[(2, 2), (1, 0)], 0, &[2, 0]),
            ("it may not where too few serve", (1, 0), &[(2, 1)], 1, &[2]),
            ("back to the set that was", (2, 2), &[(1, 0)], 2, &[0]),
            ("fewer are wanted", (3, 3), &[], 2, &[]),
        ];
        for (name, new, old, want_new, want_old) in cases {
            let old: Vec<Set> = old.iter().copied().map(set).collect();
            let scale = step(spec, set(new), &old);
            assert_eq!((scale.new, scale.old.as_slice()), (want_new, want_old), "{name}");
        }
    }

    #[test]
    fn the_pods_that_do_least_go_first() {
        let pod = |bound, ready, age| Rank { bound, ready, age };
        let pods = [pod(true, true, 50), pod(true, false, 90), pod(false, false, 10), pod(true, true, 20)];
        assert_eq!(replicas(4, &pods), (0, vec![]));
        assert_eq!(replicas(6, &pods), (2, vec![]));
        assert_eq!(replicas(1, &pods), (0, vec![2, 1, 3]));
    }
}
