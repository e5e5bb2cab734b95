//! A picture of the guest's screen: QEMU packs it into a file, which is read and goes.
//!
//! One at a time and under one name: the pod's memory is counted, and of a QEMU that answers too late there is one
//! file left, which the next picture replaces. Never looks into a picture.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use handler_launcher_com::MAX_SCREENSHOT;
use handler_launcher_com::launcher::DomainPhase;
use serde_json::{Value, json};
use thiserror::Error;

use super::{Guest, GuestError};
use crate::qmp::{Qmp, QmpError};

/// What a guest gets to draw its screen again when its pointer has moved: nothing tells us when it has.
const WAKING: Duration = Duration::from_millis(500);

/// There is no picture.
#[derive(Debug, Error)]
pub enum ScreenshotError {
    /// The guest isn't here, or doesn't run, or QEMU doesn't do it.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// There is nothing to look at.
    #[error("the virtual machine has no screen: autoattachGraphicsDevice is false")]
    NoScreen,
    /// The file can't be made or read.
    #[error("{}: {source}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It can't be sent.
    #[error("the picture has more than {MAX_SCREENSHOT} bytes")]
    TooLarge,
}

impl Guest {
    /// A picture of the screen, as a PNG of at most [`MAX_SCREENSHOT`] bytes. `move_cursor` moves the pointer before.
    pub async fn screenshot(&self, move_cursor: bool) -> Result<Vec<u8>, ScreenshotError> {
        let wish = "shown";
        let turn = self.0.screenshots.clone().lock_owned().await;
        let (phase, elsewhere) = {
            let domain = self.0.domain.borrow();
            (domain.phase(), domain.is_elsewhere())
        };
        if elsewhere {
            return Err(GuestError::Moving { wish }.into());
        }
        if !is_shown(phase) {
            return Err(GuestError::Phase { wish, phase }.into());
        }
        if !self.0.graphics.get().copied().unwrap_or_default() {
            return Err(ScreenshotError::NoScreen);
        }
        let qmp = self.qmp().map_err(GuestError::from)?;
        let path = self.paths().screenshot();
        // A task of its own: a caller that gives up must not leave the file, nor give the turn to the next too early.
        let taken = tokio::spawn(async move {
            let _turn = turn;
            take(&qmp, &path, move_cursor).await
        });
        taken.await.expect("taking a picture doesn't panic, and nobody aborts it")
    }
}

/// Whether QEMU has a guest whose screen there is.
fn is_shown(phase: DomainPhase) -> bool {
    match phase {
        DomainPhase::Running | DomainPhase::Paused | DomainPhase::ShuttingDown => true,
        DomainPhase::Unknown
        | DomainPhase::NotStarted
        | DomainPhase::Starting
        | DomainPhase::Shutoff
        | DomainPhase::Crashed => false,
    }
}

async fn take(qmp: &Qmp, path: &Path, move_cursor: bool) -> Result<Vec<u8>, ScreenshotError> {
    if move_cursor {
        wake(qmp).await.map_err(GuestError::from)?;
    }
    let failed = |source| ScreenshotError::File { path: path.to_owned(), source };
    let mut file = Picture::create(path).map_err(failed)?;
    let arguments = json!({"filename": path.to_string_lossy(), "format": "png"});
    qmp.execute_with("screendump", arguments).await.map_err(GuestError::from)?;
    let read = tokio::task::spawn_blocking(move || file.read(MAX_SCREENSHOT));
    let read = read.await.expect("reading a file doesn't panic, and nobody aborts it");
    read.map_err(failed)?.ok_or(ScreenshotError::TooLarge)
}

/// Moves the pointer there and back: a guest sees only the way between two places. One whose CPUs stand sees nothing,
/// and its screen is looked at as it is.
async fn wake(qmp: &Qmp) -> Result<(), QmpError> {
    for step in [1, -1] {
        match qmp.execute_with("input-send-event", pointer(step)).await {
            Err(QmpError::Refused { refusal, .. }) => {
                tracing::info!(%refusal, "the guest's pointer isn't moved");
                return Ok(());
            }
            moved => drop(moved?),
        }
    }
    tokio::time::sleep(WAKING).await;
    Ok(())
}

/// The pointer, moved by so much: every machine has a mouse, which knows no places.
fn pointer(step: i32) -> Value {
    let moved = |axis| json!({"type": "rel", "data": {"axis": axis, "value": step}});
    json!({"events": [moved("x"), moved("y")]})
}

/// A file for QEMU to write; goes when dropped.
struct Picture {
    path: PathBuf,
    /// What is read is what was made here, whatever has got its name meanwhile.
    file: File,
}

impl Picture {
    fn create(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            Ok(()) | Err(_) => {}
        }
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// What was written, unless it is more than `limit` bytes.
    fn read(&mut self, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let length = self.file.metadata()?.len();
        if length > limit as u64 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        (&self.file).take(length).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %err, "a picture of the screen stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    /// A QEMU that notes commands and writes these bytes, or refuses.
    async fn qemu(picture: Option<&'static [u8]>) -> (Qmp, tokio::sync::mpsc::UnboundedReceiver<Value>) {
        let (near, far) = tokio::io::duplex(4096);
        let (note, noted) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (read, mut write) = tokio::io::split(far);
            write.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let command: Value = serde_json::from_str(&line).unwrap();
                let filename = command["arguments"]["filename"].as_str();
                let mut answer = match (filename, picture) {
                    (Some(path), Some(bytes)) => {
                        std::fs::write(path, bytes).unwrap();
                        json!({"return": {}})
                    }
                    (Some(_), None) => {
                        let desc = "Enable PNG support with libpng for screendump";
                        json!({"error": {"class": "GenericError", "desc": desc}})
                    }
                    (None, _) => json!({"return": {}}),
                };
                answer["id"] = command["id"].clone();
                note.send(command).unwrap();
                write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
            }
        });
        (Qmp::open(near).await.unwrap().0, noted)
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("virt-launcher-screen-{name}-{}", std::process::id()))
    }

    #[tokio::test]
    async fn the_file_is_read_and_goes_whatever_was_there_before() {
        let path = scratch("good");
        std::fs::write(&path, "of a QEMU that was too late").unwrap();
        let (qmp, mut noted) = qemu(Some(b"PNG")).await;
        assert_eq!(take(&qmp, &path, true).await.unwrap(), b"PNG");
        assert!(!path.exists());
        let mut commands = Vec::new();
        while let Ok(command) = noted.try_recv() {
            commands.push(command);
        }
        let names: Vec<_> = commands.iter().map(|c| c["execute"].as_str().unwrap()).collect();
        assert_eq!(names, ["qmp_capabilities", "input-send-event", "input-send-event", "screendump"]);
        let steps: Vec<_> = (1..3).map(|i| commands[i]["arguments"]["events"][1]["data"].clone()).collect();
        assert_eq!(steps, [json!({"axis": "y", "value": 1}), json!({"axis": "y", "value": -1})]);
    }

    #[tokio::test]
    async fn of_a_refusal_no_file_stays_and_its_words_do() {
        let path = scratch("refused");
        let (qmp, _noted) = qemu(None).await;
        let error = take(&qmp, &path, false).await.unwrap_err();
        assert!(
            matches!(error, ScreenshotError::Guest(GuestError::Qmp(QmpError::Refused { .. }))),
            "{error}"
        );
        assert!(error.to_string().contains("Enable PNG support"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn more_than_can_be_sent_is_not_read_and_a_link_is_not_followed() {
        let (path, other) = (scratch("large"), scratch("other"));
        std::fs::write(&other, "another's").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let mut picture = Picture::create(&path).unwrap();
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(picture.read(3).unwrap(), None);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(picture.read(4).unwrap().unwrap(), b"1234");
        drop(picture);
        assert!(!path.exists());
        assert_eq!(std::fs::read(&other).unwrap(), b"another's");
        std::fs::remove_file(other).unwrap();
    }
}
