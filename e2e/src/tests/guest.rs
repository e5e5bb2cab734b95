//! Guests with everything that a guest is given: disks out of container images, empty disks, cloud-init, random numbers,
//! a network that other pods reach.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, LogParams, Patch, PatchParams, PostParams};
use kubevirt_types::vm::PrintableStatus;
use kubevirt_types::{Release, VirtualMachine};
use serde_json::{Value, json};

use crate::cluster::registry;
use crate::suite::Context;
use crate::vm::{Vms, schedulable_nodes};
use crate::wait::{self, Look};
use crate::{console, virtctl};

/// A whole system starts within about a minute of an idle processor, emulated; a machine under load takes longer.
const BOOT_LIMIT: Duration = Duration::from_secs(420);
const LIMIT: Duration = Duration::from_secs(180);
/// One look at a console: longer than it takes to bring all that it has said.
const LISTEN: Duration = Duration::from_secs(15);

/// The VM as its owner writes it. The same image brings the kernel and a disk.
const EQUIPPED: &str = r##"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: equipped
spec:
  runStrategy: Always
  template:
    metadata:
      labels: {app: equipped}
    spec:
      terminationGracePeriodSeconds: 5
      domain:
        memory: {guest: 96Mi}
        firmware:
          kernelBoot:
            kernelArgs: console=ttyS0 quiet
            container:
              image: REGISTRY/tick-guest:v0.17.0
              kernelPath: /boot/vmlinuz
              initrdPath: /boot/initramfs.img
        devices:
          disks:
          - {name: image, disk: {bus: virtio}}
          - {name: scratch, disk: {bus: virtio}}
          - {name: told, disk: {bus: virtio}}
          interfaces:
          - {name: default, masquerade: {}, ports: [{name: http, port: 80}]}
          rng: {}
      networks:
      - {name: default, pod: {}}
      volumes:
      - name: image
        containerDisk: {image: "REGISTRY/tick-guest:v0.17.0"}
      - name: scratch
        emptyDisk: {capacity: 10Mi}
      - name: told
        cloudInitNoCloud: {userData: "#cloud-config\n"}
"##;

fn equipped() -> anyhow::Result<VirtualMachine> {
    Ok(serde_saphyr::from_str(&EQUIPPED.replace("REGISTRY", &registry()))?)
}

/// A small guest names its disks and its random numbers, and answers a pod of another node; what keeps it from
/// being moved is said.
pub async fn finds_its_devices(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_17_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    vms.vms.create(&PostParams::default(), &equipped()?).await?;
    vms.wait_running("equipped").await?;
    let heard = hears(&context, "equipped", LIMIT, |heard| heard.contains("\nnetwork ")).await?;
    let line = |begin: &str| heard.lines().map(str::trim_end).find(|line| line.starts_with(begin));
    ensure!(line("disk vda 2048 ") == Some("disk vda 2048 the tick guest's disk"), "{heard}");
    ensure!(line("disk vdb ").map(str::trim_end) == Some("disk vdb 20480"), "{heard}");
    ensure!(line("disk vdc ").is_some_and(|line| line.to_lowercase().contains("cidata")), "{heard}");
    ensure!(line("rng").is_some(), "{heard}");

    let answer = answers_pods(&context, &vms, "equipped").await?;
    ensure!(answer == "tick guest", "port 80 says {answer:?}");

    let status = vms.vmis.get("equipped").await?.status.unwrap_or_default();
    let movable = status.conditions.iter().find(|condition| condition.type_ == "LiveMigratable");
    let movable = movable.context("no condition LiveMigratable")?;
    let message = movable.message.as_deref().unwrap_or_default();
    ensure!(movable.reason.as_deref() == Some("DisksNotLiveMigratable"), "{movable:?}");
    ensure!(message.contains("\"image\"") && message.contains("containerDisk"), "{movable:?}");
    vms.delete("equipped").await
}

/// A whole Debian out of a container image: it takes its cloud-init from a Secret, serves HTTP to other pods, is rebooted
/// from inside, and forgets what it wrote when it is restarted, then with its cloud-init inline.
pub async fn of_a_cloud(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_18_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    let told = apply_cloud(&context).await?;
    vms.wait_running("vm-cloud").await?;
    let heard = hears(&context, "vm-cloud", BOOT_LIMIT, |heard| heard.contains("runcmd says hello")).await?;
    ensure!(heard.contains("runcmd says hello from from-a-secret"), "{heard}");
    ensure!(marks(&heard) == [false], "it started from an image that was written to: {heard}");
    let answer = answers_pods(&context, &vms, "vm-cloud").await?;
    ensure!(answer == "served by from-a-secret", "port 80 says {answer:?}");

    let before = vms.incarnation("vm-cloud").await?;
    reboot_from_inside(&context).await?;
    let heard = hears(&context, "vm-cloud", BOOT_LIMIT, |heard| marks(heard).len() > 1).await?;
    ensure!(marks(&heard) == [false, true], "a reboot lost what was written: {heard}");
    let answer = answers_pods(&context, &vms, "vm-cloud").await?;
    ensure!(answer == "served by from-a-secret", "after its reboot port 80 says {answer:?}");
    let after = vms.incarnation("vm-cloud").await?;
    ensure!(after.pod_uid == before.pod_uid && after.vmi_uid == before.vmi_uid, "{before:?}, then {after:?}");

    let inline = told.replace("from-a-secret", "from-its-spec");
    patch_cloud(&vms, "cloudInitNoCloud", &json!({"userData": inline})).await?;
    virtctl::said(&["restart", "vm-cloud", "-n", &context.namespace]).await?;
    another_instance(&vms, &before.vmi_uid).await?;
    vms.wait_running("vm-cloud").await?;
    let heard = hears(&context, "vm-cloud", BOOT_LIMIT, |heard| heard.contains("runcmd says hello")).await?;
    ensure!(heard.contains("runcmd says hello from from-its-spec"), "{heard}");
    ensure!(marks(&heard) == [false], "a restart kept what was written, or the image has it: {heard}");
    let answer = answers_pods(&context, &vms, "vm-cloud").await?;
    ensure!(answer == "served by from-its-spec", "port 80 says {answer:?}");
    vms.delete("vm-cloud").await
}

/// A path that the image doesn't have is named where people look, and the VM can be deleted.
pub async fn without_its_image(context: Context) -> anyhow::Result<()> {
    if context.product.settled().await?.is_none() {
        context.product.bring_to(&Release::V0_18_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    let mut vm = equipped()?;
    let disk = vm.spec.template.spec.volumes.first_mut().and_then(|volume| volume.container_disk.as_mut());
    disk.context("the first volume is a containerDisk")?.path = Some("/disk/nowhere.img".into());
    vms.vms.create(&PostParams::default(), &vm).await?;
    vms.wait_printable("equipped", PrintableStatus::CrashLoopBackOff).await?;
    let said = wait::until("the VM to say why", LIMIT, async || {
        let conditions = vms.vms.get("equipped").await?.status.unwrap_or_default().conditions;
        let failure = conditions.iter().find(|condition| condition.type_ == "Failure");
        Ok(match failure.and_then(|failure| failure.message.clone()) {
            Some(message) => Look::Done(message),
            None => Look::NotYet(format!("{conditions:?}")),
        })
    })
    .await?;
    ensure!(said.contains("the image has no file /disk/nowhere.img"), "{said}");
    vms.delete("equipped").await
}

/// Applies the example, with the image from the registry under test; returns what cloud-init is told.
async fn apply_cloud(context: &Context) -> anyhow::Result<String> {
    let mut told = None;
    for mut object in context.cluster.objects("examples/vm-cloud.yaml")? {
        object["metadata"]["namespace"] = json!(context.namespace);
        if let Some(data) = object.pointer("/stringData/userdata") {
            told = data.as_str().map(str::to_owned);
        } else {
            let image = object.pointer_mut("/spec/template/spec/volumes/0/containerDisk/image");
            *image.context("the example's first volume is a containerDisk")? = json!(cloud_image());
        }
        context.cluster.apply(&object).await?;
    }
    told.context("the example's Secret has userdata")
}

/// Made by `scripts/images.sh cloud-guest`, which `make e2e SUITE=vm` calls.
fn cloud_image() -> String {
    format!("{}/cloud-guest:v0.18.0", registry())
}

/// Puts another source behind the second volume.
async fn patch_cloud(vms: &Vms, kind: &str, source: &Value) -> anyhow::Result<()> {
    let volumes = json!([
        {"name": "root", "containerDisk": {"image": cloud_image()}},
        {"name": "cloud-init", kind: source},
    ]);
    let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"volumes": volumes}}}}));
    vms.vms.patch("vm-cloud", &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn another_instance(vms: &Vms, before: &str) -> anyhow::Result<()> {
    wait::until("another instance", LIMIT, async || {
        let vmi = vms.vmis.get_opt("vm-cloud").await?;
        let uid = vmi.map(|vmi| vmi.uid().to_owned()).unwrap_or_default();
        wait::when(!uid.is_empty() && uid != before, uid)
    })
    .await
}

/// Whether the guest found its own mark, at each of its starts.
fn marks(heard: &str) -> Vec<bool> {
    let lines = heard.lines().map(str::trim_end);
    lines
        .filter_map(|line| match line {
            line if line.ends_with("mark is there") => Some(true),
            line if line.ends_with("mark is not there") => Some(false),
            _ => None,
        })
        .collect()
}

/// What a guest has said since it was started, once that is enough.
async fn hears(
    context: &Context,
    vmi: &str,
    limit: Duration,
    enough: impl Fn(&str) -> bool,
) -> anyhow::Result<String> {
    let path = format!(
        "/apis/subresources.kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{vmi}/console?resumeFrom=0",
        context.namespace
    );
    let client = &context.cluster.client;
    wait::until(format!("the console of {vmi}"), limit, async || {
        let mut socket = console::open(client, &path, kubevirt_types::labels::PLAIN_SUBPROTOCOL).await?;
        let heard = console::while_heard(&mut socket, LISTEN, |heard| !enough(heard)).await?;
        Ok(if enough(&heard) { Look::Done(heard) } else { Look::NotYet(last_lines(&heard)) })
    })
    .await
}

fn last_lines(heard: &str) -> String {
    let mut lines: Vec<&str> = heard.lines().rev().take(3).collect();
    lines.reverse();
    format!("{:?}", lines.join("\n"))
}

/// Logs in on the console as the user whom cloud-init gave a password, and reboots.
async fn reboot_from_inside(context: &Context) -> anyhow::Result<()> {
    let mut socket = console::attach(&context.cluster.client, &context.namespace, "vm-cloud").await?;
    console::type_line(&mut socket, "").await?;
    for (asked, answer) in [("login: ", "debian"), ("Password: ", "debian"), ("$ ", "sudo systemctl reboot")]
    {
        console::until(&mut socket, asked, LIMIT).await?;
        console::type_line(&mut socket, answer).await?;
    }
    Ok(())
}

/// The last line of what a guest's port 80 says to a pod, on another node if there is one, at the address in its status.
async fn answers_pods(context: &Context, vms: &Vms, name: &str) -> anyhow::Result<String> {
    let status = vms.vmis.get(name).await?.status.unwrap_or_default();
    let address = status.interfaces.first().and_then(|interface| interface.ip_address.clone());
    let address = address.with_context(|| format!("no address: {:?}", status.interfaces))?;
    let nodes = schedulable_nodes(&context.cluster).await?;
    let other = nodes.iter().find(|node| Some(*node) != status.node_name.as_ref());
    // Not wget: a static one looks up "http" in a file of services, and dies where there is none.
    let script = format!(
        "until busybox printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {address} 80 | busybox grep .; \
         do busybox sleep 1; done"
    );
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"generateName": "asks-"},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIMIT.as_secs(),
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": other.map(|node| json!({"kubernetes.io/hostname": node})),
            "containers": [{
                "name": "asks",
                "image": format!("{}/tick-guest:v0.17.0", registry()),
                "command": ["/bin/busybox", "sh", "-c", script],
                "env": [{"name": "PATH", "value": "/bin"}],
            }],
        },
    }))?;
    let api: Api<Pod> = Api::namespaced(context.cluster.client.clone(), &context.namespace);
    let pod = api.create(&PostParams::default(), &pod).await?.name_any();
    let ended = wait::until(format!("an answer of {name} at {address}"), LIMIT, async || {
        let status = api.get(&pod).await?.status.unwrap_or_default();
        Ok(match status.phase.as_deref() {
            Some("Succeeded") => Look::Done(()),
            phase => Look::NotYet(format!("pod {pod} on {other:?} is {phase:?}")),
        })
    });
    ended.await?;
    let said = api.logs(&pod, &LogParams::default()).await?;
    api.delete(&pod, &DeleteParams::default()).await?;
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_mark_is_told_from_none() {
        let heard =
            "[    1.0] mark is not there\r\nlogin: mark is there\r\nthe mark is therefore nothing\r\n";
        assert_eq!(marks(heard), [false, true]);
    }

    #[test]
    fn nothing_of_the_vm_is_lost_in_the_types() {
        let vm = equipped().unwrap();
        let spec = &vm.spec.template.spec;
        assert!(spec.volumes.iter().all(|volume| volume.other.is_empty()), "{:?}", spec.volumes);
        assert_eq!(spec.domain.devices.interfaces[0].ports[0].port, 80);
        let again: Value = serde_json::to_value(&vm).unwrap();
        let written: Value = serde_saphyr::from_str(&EQUIPPED.replace("REGISTRY", &registry())).unwrap();
        assert_eq!(again["spec"], written["spec"]);
    }
}
