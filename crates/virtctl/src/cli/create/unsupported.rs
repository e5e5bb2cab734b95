//! Flags of KubeVirt's `create vm` that can't be fulfilled: known, so that they are refused with what can be done.

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};

/// The first of these flags that was given, and what to do instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsupported(pub Option<(&'static str, &'static str)>);

const NO_INSTANCE_TYPES: &str = "there are no instance types and preferences: use --cpu and --memory";
const NO_VOLUMES: &str = "there are container disks (--volume-containerdisk) and cloud-init (--cloud-init); an \
                          emptyDisk can be added to the manifest by hand";
const NO_AGENT: &str =
    "nothing speaks to an agent in the guest: use --ssh-key, or --user and --password-file";

/// The flags, and what to do instead.
const UNSUPPORTED: [(&str, &str); 14] = [
    ("instancetype", NO_INSTANCE_TYPES),
    ("infer-instancetype", NO_INSTANCE_TYPES),
    ("infer-instancetype-from", NO_INSTANCE_TYPES),
    ("preference", NO_INSTANCE_TYPES),
    ("infer-preference", NO_INSTANCE_TYPES),
    ("infer-preference-from", NO_INSTANCE_TYPES),
    ("volume-import", NO_VOLUMES),
    ("volume-pvc", NO_VOLUMES),
    ("volume-datasource", NO_VOLUMES),
    ("volume-clone-pvc", NO_VOLUMES),
    ("volume-blank", NO_VOLUMES),
    ("volume-sysprep", NO_VOLUMES),
    ("ga-manage-ssh", NO_AGENT),
    ("access-cred", NO_AGENT),
];

impl Args for Unsupported {
    fn augment_args(command: clap::Command) -> clap::Command {
        UNSUPPORTED.iter().fold(command, |command, (flag, _)| {
            let arg = Arg::new(*flag).long(*flag).num_args(0..=1).action(ArgAction::Append).hide(true);
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Unsupported {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |flag: &str| matches.value_source(flag).is_some();
        Ok(Self(UNSUPPORTED.into_iter().find(|(flag, _)| given(flag))))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
