//! Pictures of a guest's screen, as QEMU packs them.

use std::time::Duration;

use handler_launcher_com::launcher::{DomainPhase, PauseVirtualMachineRequest, ScreenshotRequest};
use serde_json::json;
use tonic::{Code, Status};

use crate::launcher::{Launcher, tick};

/// For SeaBIOS on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(60);

/// Text as a VGA card begins with it, in pixels.
const TEXT: (u32, u32) = (720, 400);

async fn screenshot(launcher: &mut Launcher, move_cursor: bool) -> Result<Vec<u8>, Status> {
    let asked = launcher.rpc().client.screenshot(ScreenshotRequest { move_cursor }).await;
    assert!(!launcher.dir.join("private/screen.png").exists(), "a picture stays");
    Ok(asked?.into_inner().png)
}

/// Width, height, and whether there is more than one colour.
fn seen(picture: &[u8]) -> (u32, u32, bool) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    let first = &pixels[..frame.color_type.samples()];
    let colourful = pixels[..frame.buffer_size()].chunks_exact(first.len()).any(|pixel| pixel != first);
    (frame.width, frame.height, colourful)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn there_is_a_picture_while_there_is_a_guest() {
    let mut at = Launcher::start("s0").await;
    let refused = screenshot(&mut at, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "the virtual machine can't be shown: it is NotStarted");
    at.boot().await;
    let drawn = async {
        loop {
            let picture = screenshot(&mut at, false).await.unwrap();
            let (width, height, colourful) = seen(&picture);
            if (width, height) == TEXT && colourful {
                eprintln!("    {width} x {height} pixels in {} bytes", picture.len());
                return;
            }
            // QEMU's own words, that there is nothing yet, or nothing in fact.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, drawn).await.expect("SeaBIOS writes its name");
    at.rpc().client.pause_virtual_machine(PauseVirtualMachineRequest {}).await.unwrap();
    at.until(|state| state.phase() == DomainPhase::Paused).await;
    assert_eq!(seen(&screenshot(&mut at, true).await.unwrap()), (TEXT.0, TEXT.1, true), "its screen stands");
    at.kill().await;
    let refused = screenshot(&mut at, false).await.unwrap_err();
    assert_eq!(refused.message(), "the virtual machine can't be shown: it is Shutoff");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn a_guest_without_a_screen_is_not_shown() {
    let mut at =
        Launcher::start_for("s1", &tick(json!({"autoattachGraphicsDevice": false}), json!([]))).await;
    at.boot().await;
    let refused = screenshot(&mut at, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "the virtual machine has no screen: autoattachGraphicsDevice is false");
    at.kill().await;
}
