//! All end-to-end tests, in the order in which they disturb each other least.

mod adopt;
mod chaos;
mod endings;
mod ends;
mod faults;
mod guest;
mod hands;
mod install;
mod lifecycle;
mod migration;
mod node_lost;
mod ports;
mod refusals;
mod stored_versions;
mod two_nodes;
mod update;

use crate::suite::{Test, test};

/// Every test.
pub fn all() -> Vec<Test> {
    vec![
        test!("update", core: true, install::from_nothing),
        test!("update", core: true, install::looks_as_a_user_knows_it),
        test!("vm", core: true, lifecycle::run_strategies),
        test!("vm", core: true, lifecycle::what_does_not_work_is_refused),
        test!("vm", core: true, guest::finds_its_devices),
        test!("vm", core: false, guest::of_a_cloud),
        test!("vm", core: false, guest::without_its_image),
        test!("vm", core: false, endings::of_every_kind),
        test!("vm", core: false, endings::none_at_a_reboot),
        test!("vm", core: false, adopt::in_any_state),
        test!("vm", core: false, ends::once),
        test!("vm", core: false, ends::deletes_in_order),
        test!("vm", core: false, ends::flags),
        test!("vm", core: false, ports::forwarded),
        test!("vm", core: false, hands::pause_and_unpause),
        test!("vm", core: false, hands::screenshot),
        test!("vm", core: false, hands::scale),
        test!("vm", core: false, node_lost::silent_then_gone),
        test!("vm", core: false, node_lost::deleted_while_well),
        test!("migration-core", core: true, migration::core),
        test!("migration", core: false, migration::twenty),
        test!("migration", core: false, migration::refused_and_cancelled),
        test!("migration", core: false, migration::drain),
        test!("migration", core: false, migration::queue),
        test!("migration", core: false, migration::from_one_node),
        test!("migration", core: false, migration::backoff),
        test!("migration", core: false, migration::timeout),
        test!("migration", core: false, migration::converge),
        test!("migration", core: false, migration::across),
        test!("migration", core: false, migration::cut),
        test!("migration", core: false, migration::kill_matrix),
        test!("update", core: true, refusals::of_kubevirt_objects),
        test!("update", core: true, refusals::of_an_impossible_tag),
        test!("update", core: true, refusals::of_a_changed_crd_version),
        test!("update", core: true, stored_versions::of_an_early_release),
        test!("faults-core", core: true, faults::core),
        test!("faults", core: false, faults::all),
        test!("update", core: true, update::by_image_tag),
        test!("update", core: true, update::rollback),
        test!("update", core: true, update::back_in_the_middle),
        test!("update", core: true, update::by_operator_manifest),
        test!("update", core: false, two_nodes::there_and_back),
        test!("update-core", core: true, chaos::core),
        test!("update", core: false, chaos::isolated),
        test!("update", core: false, chaos::frozen),
        test!("update", core: false, chaos::resumed_by_virtctl),
        test!("update", core: false, chaos::slow_readers),
        test!("update", core: false, chaos::all),
        test!("update", core: true, install::uninstall),
    ]
}
