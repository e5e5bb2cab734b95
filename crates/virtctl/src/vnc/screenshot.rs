//! `vnc screenshot`: a picture of the screen, to a file or to whoever reads our output.

use std::io::{IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};

use crate::cli::ScreenshotOptions;
use crate::cluster::{Cluster, words};

/// How every PNG begins.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// There is no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScreenshotError {
    #[error("Can't take a screenshot of VMI {name}: {}", words(source))]
    Refused { name: String, source: Box<kube::Error> },
    #[error("what came as the screenshot of VMI {name} is no PNG: is a proxy in between?")]
    NoPicture { name: String },
    #[error("a picture is nothing for a terminal: name a file, or redirect the output")]
    Terminal,
    #[error("can't write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

pub(crate) async fn take(cluster: &Cluster, options: &ScreenshotOptions) -> Result<(), ScreenshotError> {
    let ScreenshotOptions { name, file, move_cursor } = options;
    let to_stdout = file == Path::new("-");
    if to_stdout && stdout().is_terminal() {
        return Err(ScreenshotError::Terminal);
    }
    let path = format!("vnc/screenshot?moveCursor={move_cursor}");
    let picture = cluster.get(&cluster.path("virtualmachineinstances", name, &path)).await;
    let picture =
        picture.map_err(|error| ScreenshotError::Refused { name: name.clone(), source: Box::new(error) })?;
    if !picture.starts_with(PNG) {
        return Err(ScreenshotError::NoPicture { name: name.clone() });
    }
    let written = match to_stdout {
        true => stdout().write_all(&picture).and_then(|()| stdout().flush()),
        false => std::fs::write(file, &picture),
    };
    written.map_err(|source| ScreenshotError::Write { path: file.clone(), source })
}
