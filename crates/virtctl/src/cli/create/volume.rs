//! A flag whose value has parts: `src:IMAGE,name:NAME,bootorder:NUMBER`.

use super::name;

/// What `--volume-containerdisk` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerDisk {
    /// The container image with the disk's image.
    pub image: String,
    /// Name of the volume; made from the virtual machine's by default.
    pub name: Option<String>,
    /// Its place in the boot order; without any, the first disk boots.
    pub boot_order: Option<u32>,
}

pub(super) fn container_disk(text: &str) -> Result<ContainerDisk, String> {
    let (mut image, mut volume, mut order) = (None, None, None);
    for part in text.split(',') {
        let Some((key, value)) = part.split_once(':') else {
            return Err(format!(
                "{part:?} has no colon: allowed are src:IMAGE, name:NAME and bootorder:NUMBER"
            ));
        };
        let before = match key {
            "src" => image.replace(value),
            "name" => volume.replace(value),
            "bootorder" => order.replace(value),
            _ => return Err(format!("unknown param {key:?}: allowed are src, name and bootorder")),
        };
        if before.is_some() {
            return Err(format!("{key} is given twice"));
        }
    }
    let image = image.filter(|image| !image.trim().is_empty()).ok_or("src must be specified")?;
    Ok(ContainerDisk {
        image: image.to_owned(),
        name: volume.map(name).transpose()?,
        boot_order: order.map(boot_order).transpose()?,
    })
}

fn boot_order(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("bootorder must be greater than 0".to_owned()),
        Ok(order) => Ok(order),
        Err(error) => Err(format!("bootorder {text:?}: {error}")),
    }
}
