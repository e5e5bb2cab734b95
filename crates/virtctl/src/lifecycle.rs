//! start, stop, restart, pause, unpause, soft-reboot.

use serde_json::{Value, json};

use crate::cli::{PauseOptions, SoftRebootOptions, StartOptions, StopOptions};
use crate::cluster::{Cluster, words};
use crate::terminal::say;

/// An action that virt-api was asked for and refused, or that can't be asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LifecycleError {
    #[error("Error {doing} {kind} {name}: {}", words(cause))]
    Refused { doing: &'static str, kind: &'static str, name: String, cause: Box<kube::Error> },
    #[error("Must both use --force=true and set --grace-period.")]
    HalfForced,
}

const VM: (&str, &str) = ("virtualmachines", "VirtualMachine");
const VMI: (&str, &str) = ("virtualmachineinstances", "VirtualMachineInstance");

pub(crate) async fn start(cluster: &Cluster, options: &StartOptions) -> Result<(), LifecycleError> {
    let mut body = dry_run(options.dry_run);
    if options.paused {
        body["paused"] = json!(true);
    }
    act(cluster, VM, &options.name, "start", "starting", &body).await?;
    say(&scheduled("VM", &options.name, "start"));
    Ok(())
}

pub(crate) async fn stop(cluster: &Cluster, options: &StopOptions) -> Result<(), LifecycleError> {
    let body = stop_body(options, "gracePeriod")?;
    act(cluster, VM, &options.name, "stop", "stopping", &body).await?;
    say(&scheduled("VM", &options.name, "stop"));
    Ok(())
}

pub(crate) async fn restart(cluster: &Cluster, options: &StopOptions) -> Result<(), LifecycleError> {
    let body = stop_body(options, "gracePeriodSeconds")?;
    act(cluster, VM, &options.name, "restart", "restarting", &body).await?;
    say(&scheduled("VM", &options.name, "restart"));
    Ok(())
}

pub(crate) async fn pause(cluster: &Cluster, options: &PauseOptions) -> Result<(), LifecycleError> {
    freeze(cluster, options, "pause", "pausing").await
}

pub(crate) async fn unpause(cluster: &Cluster, options: &PauseOptions) -> Result<(), LifecycleError> {
    freeze(cluster, options, "unpause", "unpausing").await
}

pub(crate) async fn soft_reboot(
    cluster: &Cluster,
    options: &SoftRebootOptions,
) -> Result<(), LifecycleError> {
    act(cluster, VMI, &options.name, "softreboot", "rebooting", &dry_run(options.dry_run)).await?;
    say(&scheduled("VMI", &options.name, "soft-reboot"));
    Ok(())
}

/// A VM's instance has the VM's name, so whichever kind is named, this is the instance.
async fn freeze(
    cluster: &Cluster,
    options: &PauseOptions,
    action: &str,
    doing: &'static str,
) -> Result<(), LifecycleError> {
    act(cluster, VMI, &options.name, action, doing, &dry_run(options.dry_run)).await?;
    say(&scheduled("VMI", &options.name, action));
    Ok(())
}

async fn act(
    cluster: &Cluster,
    (resource, kind): (&str, &'static str),
    name: &str,
    action: &str,
    doing: &'static str,
    body: &Value,
) -> Result<(), LifecycleError> {
    cluster.put(&cluster.path(resource, name, action), body).await.map_err(|cause| LifecycleError::Refused {
        doing,
        kind,
        name: name.to_owned(),
        cause: Box::new(cause),
    })
}

pub(crate) fn dry_run(dry_run: bool) -> Value {
    if dry_run { json!({"dryRun": ["All"]}) } else { json!({}) }
}

fn stop_body(options: &StopOptions, grace_period: &str) -> Result<Value, LifecycleError> {
    let mut body = dry_run(options.dry_run);
    match (options.force, options.grace_period) {
        (false, None) => (),
        (true, Some(seconds)) => body[grace_period] = json!(seconds),
        (true, None) | (false, Some(_)) => return Err(LifecycleError::HalfForced),
    }
    Ok(body)
}

pub(crate) fn scheduled(kind: &str, name: &str, action: &str) -> String {
    format!("{kind} {name} was scheduled to {action}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn force_and_grace_period_come_together() {
        let options =
            |force, grace_period, dry_run| StopOptions { name: "a".into(), force, grace_period, dry_run };
        let body =
            |options: StopOptions| stop_body(&options, "gracePeriod").map_err(|error| error.to_string());
        let refused = Err("Must both use --force=true and set --grace-period.".to_owned());
        assert_eq!(body(options(false, None, false)), Ok(json!({})));
        assert_eq!(body(options(true, Some(0), true)), Ok(json!({"dryRun": ["All"], "gracePeriod": 0})));
        assert_eq!(body(options(true, None, false)), refused);
        assert_eq!(body(options(false, Some(3), false)), refused);
    }

    #[test]
    fn messages_are_kubevirts() {
        assert_eq!(scheduled("VM", "a", "start"), "VM a was scheduled to start");
        let cause = kube::Error::Api(Box::new(
            kube::core::Status::failure("VM is already running", "Conflict").with_code(409),
        ));
        let error = LifecycleError::Refused {
            doing: "starting",
            kind: "VirtualMachine",
            name: "a".into(),
            cause: Box::new(cause),
        };
        assert_eq!(error.to_string(), "Error starting VirtualMachine a: VM is already running");
    }
}
