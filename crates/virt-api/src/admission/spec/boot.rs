//! Firmware and direct kernel boot.

use kubevirt_types::vmi::{Firmware, KernelBoot};

use super::{image, plain_word};
use crate::admission::field::{Findings, Path};

/// Checks a firmware.
pub fn validate(firmware: &Firmware, at: &Path, findings: &mut Findings) {
    if let Some(uuid) = &firmware.uuid
        && !is_uuid(uuid)
    {
        let why = "must be a uuid such as 6a1a24a1-4061-4607-8bf4-a3963d0c5895";
        findings.invalid(&at.field("uuid"), uuid, why);
    }
    if let Some(serial) = &firmware.serial {
        plain_word(serial, &at.field("serial"), findings);
    }
    if let Some(boot) = &firmware.kernel_boot {
        validate_kernel_boot(boot, &at.field("kernelBoot"), findings);
    }
}

fn validate_kernel_boot(boot: &KernelBoot, at: &Path, findings: &mut Findings) {
    let container_at = at.field("container");
    let Some(container) = &boot.container else {
        let why = if boot.kernel_args.is_some() {
            "kernelArgs need a kernel: name an image that holds one"
        } else {
            "the image that holds kernel and initrd"
        };
        findings.required(&container_at, why);
        return;
    };
    let (policy, what) = (container.image_pull_policy.as_deref(), "the image that holds kernel and initrd");
    image::validate(&container.image, policy, what, &container_at, findings);
    for (name, path) in [("kernelPath", &container.kernel_path), ("initrdPath", &container.initrd_path)] {
        image::validate_path(path.as_deref(), &container_at.field(name), findings);
    }
    if container.kernel_path.is_none() {
        findings.required(&container_at.field("kernelPath"), "absolute path of the kernel in the image");
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|g| g.bytes().all(|c| c.is_ascii_hexdigit()))
}
